"""Buying labels: batches against brute force, replanning, rows of a softmax layer against its exact information, refusals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status
from learnlag_jax.fermat import active_learning, criterion, information_matrix, label_batch, softmax_rows


def _pool(N=12, p=3, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(N, p)))


@pytest.mark.parametrize("kind", ["A", "I"])
def test_a_batch_is_the_best_of_all_batches_of_a_small_pool(kind, float64):
    for seed in range(3):
        F, labelled = _pool(seed=seed).at[jnp.array([1, 4])].multiply(3), [1, 4]
        phi = criterion("I", region=F) if kind == "I" else criterion(kind)
        base = information_matrix(F[jnp.array(labelled)], prior=0.1 * jnp.eye(3))
        free = [i for i in range(12) if i not in labelled]
        sets = np.array(list(itertools.combinations(free, 3)))
        values = np.asarray(
            jax.vmap(lambda rows, F=F, phi=phi, base=base: phi(base + F[rows].T @ F[rows]))(jnp.asarray(sets))
        )
        batch = label_batch(F, 3, kind if kind == "A" else phi, labelled=labelled, prior=0.1 * jnp.eye(3))
        assert float(batch.value) == pytest.approx(values.min(), rel=1e-9)
        assert batch.rows.tolist() == sets[values.argmin()].tolist()
        forgetful = np.asarray(
            jax.vmap(lambda rows, F=F, phi=phi: phi(0.1 * jnp.eye(3) + F[rows].T @ F[rows]))(jnp.asarray(sets))
        )
        assert values[forgetful.argmin()] > values.min() * 1.001  # the control: the batch that forgets what is known


def test_labelled_rows_are_never_bought_again(dtype):
    F = _pool(30, 4).astype(dtype)
    first = label_batch(F, 10)
    second = label_batch(F, 20, labelled=first.rows)
    assert sorted([*first.rows.tolist(), *second.rows.tolist()]) == list(range(30))
    np.testing.assert_allclose(second.value, criterion("A")(information_matrix(F)), rtol=1e3 * jnp.finfo(dtype).eps)


def test_greed_alone_starts_from_what_is_labelled(dtype):
    """The pool measures the second coordinate more, its label the first: what is not yet known is worth more."""
    e1, e2 = jnp.eye(2, dtype=dtype)
    F = jnp.stack([e1, e1, 2 * e2, 2 * e2, 2 * e2])
    for prior, known in ((None, 0.0), (0.125 * jnp.eye(2, dtype=dtype), 0.125)):
        batch = label_batch(F, 1, labelled=[0], prior=prior, max_sweeps=0)
        assert batch.rows[0] in (2, 3, 4)
        expected = 1 / (1 + known) + 1 / (4 + known)
        assert float(batch.value) == pytest.approx(expected, rel=16 * float(jnp.finfo(dtype).eps))
    unlabelled = label_batch(F, 1, prior=jnp.diag(jnp.asarray([0.125, 8], dtype)), max_sweeps=0)
    assert unlabelled.rows[0] in (0, 1)  # the control: the second known beforehand, the first is bought


def test_v_optimal_batches_spend_nothing_on_what_nobody_asks(float64):
    """Row 0 alone has a third coordinate: A buys it to know every parameter, V for the others' predictions does not."""
    F = _pool(40, 3, seed=2).at[:, 2].set(0.0).at[0].set(jnp.array([0.0, 0.0, 3.0]))
    phi, prior = criterion("I", region=F[1:]), 0.1 * jnp.eye(3)
    by_all, by_crowd = (label_batch(F, 4, kind, prior=prior).rows for kind in ("A", phi))
    assert 0 in by_all.tolist()
    assert 0 not in by_crowd.tolist()
    variance = lambda rows: float(phi(information_matrix(F[rows], prior=prior)))
    assert variance(by_crowd) < variance(by_all) * 0.9


def test_a_batch_that_leaves_a_parameter_unknown_is_named(dtype):
    flat = jnp.ones((8, 2), dtype)
    batch = label_batch(flat, 4)
    assert int(batch.status) == Status.rank_deficient
    assert batch.rows.tolist() == [-1] * 4
    assert float(batch.value) == np.inf


def test_rows_of_a_softmax_layer_are_the_class_average_of_its_exact_information(dtype):
    K, p = 4, 3
    rng = np.random.default_rng(1)
    W, X = jnp.asarray(rng.normal(size=(K, p)), dtype), jnp.asarray(rng.normal(size=(6, p)), dtype)
    log_prob = lambda W, x, k: jax.nn.log_softmax(W @ x)[k]

    def exact(x):  # sum over labels of probability times score outer product
        scores = jax.vmap(lambda k: jax.grad(log_prob)(W, x, k))(jnp.arange(K))
        return jnp.einsum("k,kia,kjb->iajb", jax.nn.softmax(W @ x), scores, scores)

    blocks = jax.vmap(lambda x: jnp.einsum("iaib->ab", exact(x)) / K)(X)
    rows = softmax_rows(X @ W.T, X)
    np.testing.assert_allclose(rows[:, :, None] * rows[:, None, :], blocks, atol=50 * float(jnp.finfo(dtype).eps))
    assert not np.allclose(softmax_rows(2 * X @ W.T, X)[:, :, None] * rows[:, None, :], blocks, atol=1e-3)


def test_replanning_follows_what_was_learnt(float64):
    """A logistic model on a line: once the boundary is known, the next labels are bought on both sides of it."""
    x = jnp.linspace(-10.0, 10.0, 401)
    y = np.asarray(x > 4)
    F = jnp.stack([jnp.ones_like(x), x], 1)

    def fit(rows):
        A, b = np.asarray(F)[rows], y[rows]
        w = np.zeros(2)
        for _ in range(50):  # Newton with a unit penalty
            q = 1 / (1 + np.exp(-A @ w))
            w = w - np.linalg.solve(A.T @ (A * (q * (1 - q))[:, None]) + np.eye(2), A.T @ (q - b) + w)
        return w

    def choose(w, rows):
        q = jax.nn.sigmoid(F @ jnp.asarray(w))
        bernoulli = jnp.sqrt(q * (1 - q))[:, None] * F
        return label_batch(bernoulli, 2, criterion("I", region=bernoulli), labelled=rows, prior=jnp.eye(2)).rows

    path = active_learning(fit, choose, [0, 100, 200, 300, 400], rounds=6)
    assert path.counts.tolist() == [5, 7, 9, 11, 13, 15, 17]
    bought = np.asarray(x)[path.rows[5:]]
    assert np.median(np.abs(bought - 4)) < 2  # near the boundary, though never told where it is
    unplanned = label_batch(F, 12, criterion("I", region=F), labelled=[0, 100, 200, 300, 400]).rows
    assert np.median(np.abs(np.asarray(x)[unplanned] - 4)) > 5  # the control: the linear plan goes to the ends


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda F: label_batch(F, 13), "1 to 12, the unlabelled"),
        (lambda F: label_batch(F, 4.0), "n: got 4.0"),
        (lambda F: label_batch(F, 0), "n: got 0"),
        (lambda F: label_batch(F, 3, prior=-0.1 * jnp.eye(3)), "prior: .*eigenvalue"),
        (lambda F: label_batch(F, 3, prior=jnp.nan * jnp.eye(3)), "prior: .*nan"),
        (lambda F: label_batch(F, 3, prior=jnp.triu(jnp.ones((3, 3)))), "prior: .*symmetric"),
        (lambda F: label_batch(F, 3, prior=1.0), "prior: .*shape"),
        (lambda F: label_batch(F, 11, labelled=[0, 0, 1]), "1 to 10"),
        (lambda F: label_batch(F, 1, labelled=[0]), "pass a prior"),
        (lambda F: label_batch(F, 3, labelled=[12]), "indices 0 .. 11"),
        (lambda F: label_batch(F, 3, labelled=np.arange(12) < 2), "labelled.*flatnonzero"),
        (lambda F: label_batch(F.at[3, 1].set(jnp.nan), 3), "F.*nan"),
        (lambda F: softmax_rows(F, F[:4]), "features"),
        (lambda F: active_learning(lambda rows: None, lambda model, rows: [0], [0], 1), "labelled already"),
        (
            lambda F: active_learning(lambda rows: None, lambda model, rows: [-1], [0], 1),
            "choose: .*-1.*rank_deficient",
        ),
        (lambda F: active_learning(lambda rows: None, lambda model, rows: [1.9], [0], 1), "choose: .*float.*integer"),
        (lambda F: active_learning(lambda rows: None, lambda model, rows: [1], [-1], 1), "first: .*-1"),
        (lambda F: active_learning(lambda rows: None, lambda model, rows: [1], np.arange(3) < 1, 1), "first: .*bool"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call(_pool())


def test_a_failed_batch_buys_nothing():
    """Copies of one row in two dimensions: no further label is any use, and the last row of the pool is not to be bought."""
    F, bought = jnp.ones((4, 2)), []

    def fit(rows):
        bought.append(rows.tolist())

    with pytest.raises(InputError, match="rank_deficient"):
        active_learning(fit, lambda model, rows: label_batch(F, 1, labelled=rows).rows, [0], 1)
    assert bought == [[0]]


def _far(at, N=20):
    """1, x, x^2 near x = `at`, and the same functions' span from u = x - at: F = U T', with T of determinant 1."""
    u = np.sort(np.random.default_rng(0).uniform(size=N)).round(6)  # at + u is exact to a dozen digits
    powers = lambda x: np.stack([x**0, x, x**2], 1)
    T = np.array([[1.0, 0, 0], [at, 1, 0], [at**2, 2 * at, 1]])
    return jnp.asarray(powers(at + u)), powers(u), T


@pytest.mark.parametrize("labelled", [(), (0, 7)])
def test_batches_do_not_depend_on_where_the_axis_has_its_zero(labelled, float64):
    """D is the same in both, at the optimum of all batches; I over the pool too. In raw columns M^-1 keeps no digit at 300."""
    F, U, _ = _far(300.0)
    free = [i for i in range(20) if i not in labelled]
    sets = np.array([[*labelled, *rows] for rows in itertools.combinations(free, 5 - len(labelled))])
    M = np.swapaxes(U[sets], 1, 2) @ U[sets]
    best = {"D": np.linalg.det(M) ** (-1 / 3), "I": np.einsum("sij,ki,kj->s", np.linalg.inv(M), U, U) / 20}
    for kind, values in best.items():
        batch = label_batch(F, 5 - len(labelled), criterion("I", region=F) if kind == "I" else kind, labelled=labelled)
        assert int(batch.status) == 0
        assert float(batch.value) == pytest.approx(values.min(), rel=1e-8)
        assert sorted([*labelled, *batch.rows.tolist()]) == sorted(sets[values.argmin()].tolist())


def test_values_are_reported_in_the_coordinates_of_the_pool(float64):
    """A and c belong to the parameters as they are given, with a prior on them."""
    F, U, T = _far(30.0)
    before = np.diag([2.0, 1.0, 3.0])
    prior = T @ before @ T.T
    for phi, C in (("A", np.eye(3)), (criterion("c", jnp.array([1.0, 2.0, -1.0])), np.outer([1, 2, -1], [1, 2, -1]))):
        batch = label_batch(F, 4, phi, prior=jnp.asarray(prior))
        half = np.linalg.solve(np.linalg.cholesky(U[batch.rows].T @ U[batch.rows] + before), np.eye(3))
        half = half @ np.linalg.inv(T)  # M^-1 = half' half
        assert float(batch.value) == pytest.approx(np.sum((half @ C) * half), rel=1e-8)
