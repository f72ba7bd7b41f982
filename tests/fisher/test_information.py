"""Estimators x structures: definitions, the identities between them, powers, and what must not hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, trees
from learnlag_jax.fisher import fisher_information, scores
from learnlag_jax.testing import assert_close, assert_within_se
from tests.fisher.models import network_problem, softmax_problem

STRUCTURES = ("full", "diagonal", "kronecker", "matrix_free")


def vector(params, seed=7):
    flat, fold = trees.ravel(params)
    return fold(jax.random.normal(jax.random.key(seed), flat.shape, flat.dtype))


def matrix(s):
    return jax.vmap(lambda tree: trees.ravel(tree)[0])(s)


def test_scores_are_the_rows_of_the_jacobian(dtype):
    log_prob, params, batch, _ = softmax_problem(dtype)
    flat, fold = trees.ravel(params)
    jacobian = jax.jacrev(lambda t: jax.vmap(log_prob, (None, 0))(fold(t), batch))(flat)
    assert_close(matrix(scores(log_prob, params, batch)), jacobian)


def test_empirical_full_is_the_mean_outer_product_and_not_the_outer_product_of_means(dtype):
    log_prob, params, batch, _ = softmax_problem(dtype)
    s = np.asarray(matrix(scores(log_prob, params, batch)), np.float64)
    F = fisher_information(log_prob, params, batch).dense()
    assert_close(F, jnp.asarray(s.T @ s / len(s), dtype), scale=1.0)
    batch_F = fisher_information(log_prob, params, batch, estimator="batch").dense()
    assert_close(batch_F, jnp.asarray(np.outer(s.mean(0), s.mean(0)), dtype), scale=1.0)
    assert float(jnp.max(jnp.abs(F - batch_F))) > 0.05


def test_exact_is_minus_the_hessian_in_a_canonical_model_whatever_the_labels(dtype):
    log_prob, params, batch, outcomes = softmax_problem(dtype)
    flat, fold = trees.ravel(params)
    F = fisher_information(log_prob, params, batch, estimator="exact", outcomes=outcomes).dense()
    hessian = jax.hessian(lambda t: jnp.mean(jax.vmap(log_prob, (None, 0))(fold(t), batch)))(flat)
    assert_close(F, -hessian, scale=1.0)


def test_exact_is_not_minus_the_hessian_in_a_network(dtype):
    log_prob, params, batch, outcomes = network_problem(dtype)
    flat, fold = trees.ravel(params)
    F = fisher_information(log_prob, params, batch, estimator="exact", outcomes=outcomes).dense()
    hessian = jax.hessian(lambda t: jnp.mean(jax.vmap(log_prob, (None, 0))(fold(t), batch)))(flat)
    assert float(jnp.max(jnp.abs(F + hessian))) > 1e-2


def test_sampled_labels_are_unbiased_for_the_exact_fisher_and_seen_labels_are_not():
    log_prob, params, batch, outcomes = network_problem(jnp.dtype("float32"), n=6)
    exact = fisher_information(log_prob, params, batch, estimator="exact", outcomes=outcomes, structure="diagonal")

    def draw(key):
        options = {"estimator": "sampled", "structure": "diagonal", "outcomes": outcomes, "key": key}
        return trees.ravel(fisher_information(log_prob, params, batch, **options).values)[0]

    draws = jax.vmap(draw)(jax.random.split(jax.random.key(1), 2000))
    expected = trees.ravel(exact.values)[0]
    assert_within_se(draws, expected)
    seen = trees.ravel(fisher_information(log_prob, params, batch, structure="diagonal").values)[0]
    with pytest.raises(AssertionError):
        assert_within_se(draws, seen)


def test_batch_estimator_falls_as_one_over_the_batch_size_when_noise_dominates(float64):
    x = jax.random.normal(jax.random.key(0), (4096,), float64)
    log_prob = lambda t, x: -((x - t) ** 2) / 2

    def trace(size):
        return float(
            fisher_information(log_prob, jnp.zeros((), float64), x, estimator="batch", batch_size=size).trace()
        )

    per_example = float(fisher_information(log_prob, jnp.zeros((), float64), x).trace())
    assert abs(trace(1) - per_example) < 1e-12
    # the mean of 4096/16 squares of N(0, 1/16): relative standard error sqrt(2 * 16 / 4096)
    assert abs(16 * trace(16) / per_example - 1) < 4.5 * (2 * 16 / 4096) ** 0.5


@pytest.mark.parametrize("estimator", ["exact", "sampled", "empirical", "batch"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_estimator_and_structure_is_a_positive_operator(estimator, structure):
    log_prob, params, batch, outcomes = softmax_problem(jnp.dtype("float64"))
    options = {"outcomes": outcomes, "key": jax.random.key(3), "batch_size": 3, "damping": 0.1}
    F = fisher_information(log_prob, params, batch, estimator=estimator, structure=structure, **options)
    dense, v = F.dense(), vector(params)
    flat = trees.ravel(v)[0]
    assert_close(dense, dense.T, scale=1.0)
    assert float(jnp.linalg.eigvalsh(dense)[0]) > 0
    assert_close(F.trace(), jnp.trace(dense))
    assert_close(trees.ravel(F(v))[0], dense @ flat, scale=10.0)
    assert_close(trees.ravel(F.mv(F.solve(v)))[0], flat, ulps=1e4, scale=10.0)
    w, q = np.linalg.eigh(np.asarray(dense))
    expected = q @ (w**-0.5 * (q.T @ np.asarray(flat)))
    assert_close(trees.ravel(F.power(-0.5).mv(v))[0], jnp.asarray(expected), ulps=1e4, scale=10.0)


def test_structures_agree_where_they_must():
    log_prob, params, batch, _ = softmax_problem(jnp.dtype("float64"))
    full = fisher_information(log_prob, params, batch)
    diagonal = fisher_information(log_prob, params, batch, structure="diagonal")
    kronecker = fisher_information(log_prob, params, batch, structure="kronecker")
    assert_close(jnp.diag(diagonal.dense()), jnp.diag(full.dense()))
    assert_close(kronecker.dense()[:3, :3], full.dense()[:3, :3])  # the bias leaf: its full block
    assert_close(kronecker.trace(), full.trace())
    assert float(jnp.max(jnp.abs(kronecker.dense() - full.dense()))) > 1e-2


def test_one_example_makes_the_kronecker_block_of_a_dense_layer_exact():
    log_prob, params, batch, _ = softmax_problem(jnp.dtype("float64"), n=1)
    full = fisher_information(log_prob, params, batch).dense()
    kronecker = fisher_information(log_prob, params, batch, structure="kronecker").dense()
    assert_close(kronecker[3:, 3:], full[3:, 3:], scale=1.0)


def test_powers_compose_and_exponent_zero_is_the_identity(dtype):
    log_prob, params, batch, _ = softmax_problem(dtype)
    v = vector(params)
    for structure in STRUCTURES[:3]:
        F = fisher_information(log_prob, params, batch, structure=structure, damping=0.1)
        twice = F.power(-0.5).mv(F.power(-0.5).mv(v))
        assert_close(twice, F.solve(v), ulps=1e3, scale=float(trees.max_abs(F.solve(v))))
        assert_close(F.power(0.0).mv(v), v, ulps=256, scale=float(trees.max_abs(v)))


def test_a_singular_fisher_gives_the_pseudo_inverse_not_rounding_noise(dtype):
    log_prob, params, batch, _ = softmax_problem(dtype, n=2)
    F = fisher_information(log_prob, params, batch)  # 9 parameters, 2 examples
    v = vector(params)
    assert float(trees.max_abs(F.solve(v))) < 1e3 * float(trees.max_abs(v))
    projected = F.mv(F.solve(F.mv(v)))
    assert_close(projected, F.mv(v), ulps=1e3, scale=10.0)


def test_reparameterisation_fisher_is_a_form(float64):
    """F_A = A^-T F A^-1 for theta' = A theta: the kinetic energy is invariant, the steps are only covariant at -1."""
    log_prob, params, batch, _ = softmax_problem(float64, n=40)
    params = {"w": params["w"]}
    plain = lambda p, example: log_prob({"w": p["w"], "b": jnp.zeros(3)}, example)
    flat, fold = trees.ravel(params)
    A = jnp.eye(6) + 0.4 * jax.random.normal(jax.random.key(5), (6, 6))
    inverse = jnp.linalg.inv(A)
    moved = lambda p, example: plain(fold(inverse @ p), example)

    F, F_A = (fisher_information(f, p, batch, damping=0.0) for f, p in ((plain, params), (moved, A @ flat)))
    assert_close(F_A.dense(), inverse.T @ F.dense() @ inverse, scale=10.0)
    # softmax logits have a gauge freedom: two null directions, so compare on the range, with the pseudo-inverse's gauge fixed
    g = jnp.mean(matrix(scores(plain, params, batch)), 0)
    g_A = inverse.T @ g
    energy = g @ trees.ravel(F.solve(fold(g)))[0]
    energy_A = g_A @ F_A.solve(g_A)
    assert_close(energy_A, energy, ulps=1e5)


def test_works_under_jit_vmap_and_grad(dtype):
    log_prob, params, batch, _ = softmax_problem(dtype)
    v = vector(params)

    def energy(p):
        F = fisher_information(log_prob, p, batch, structure="diagonal", damping=0.1)
        return trees.dot(v, F.power(-0.5).mv(v))

    value, slope = jax.jit(jax.value_and_grad(energy))(params)
    assert_close(value, energy(params), ulps=256)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    assert_close(jax.vmap(energy)(stacked)[1], value, ulps=256)
    assert bool(trees.all_finite(slope))


def test_bad_input_is_named():
    log_prob, params, batch, _ = softmax_problem(jnp.dtype("float32"))
    with pytest.raises(InputError, match="estimator"):
        fisher_information(log_prob, params, batch, estimator="kfac")
    with pytest.raises(InputError, match="structure"):
        fisher_information(log_prob, params, batch, structure="block")
    with pytest.raises(InputError, match="outcomes"):
        fisher_information(log_prob, params, batch, estimator="exact")
    with pytest.raises(InputError, match="sample"):
        fisher_information(log_prob, params, batch, estimator="sampled")
    with pytest.raises(InputError, match="batch_size"):
        fisher_information(log_prob, params, batch, estimator="batch", batch_size=5)
    with pytest.raises(InputError, match="log_prob"):
        scores(lambda p, x: p, jnp.ones(2), jnp.ones((3, 2)))
    with pytest.raises(InputError, match="leading"):
        scores(lambda p, x: jnp.sum(p), jnp.ones(2), (jnp.ones((3, 2)), jnp.ones(2)))
