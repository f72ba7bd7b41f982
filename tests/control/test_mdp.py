"""Processes: what is refused, by state and action; what the Bellman operator does; bounds that hold at any v."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError
from learnlag_jax.control import bellman, bounds, greedy, mdp_dense, mdp_from_gymnasium, mdp_sparse
from learnlag_jax.testing import assert_close
from tests.control.systems import dense_arrays, exact_values, garnet, garnet_arrays

S, A, K = 7, 3, 2


def both(discount, dtype, seed=0, mass=1.0):
    P, R = (jnp.asarray(x, dtype) for x in dense_arrays(S, A, K, seed, mass))
    return mdp_dense(P, R, discount, ends=mass < 1), garnet(S, A, K, discount, dtype, seed, mass)


@pytest.mark.parametrize("mass", [1.0, 0.5])
def test_dense_and_sparse_are_the_same_process(dtype, mass):
    dense, sparse = both(0.9, dtype, mass=mass)
    v = jnp.asarray(np.random.default_rng(1).normal(size=S), dtype)
    assert_close(bellman(sparse)(v), bellman(dense)(v), ulps=32, scale=4.0)
    assert greedy(sparse, v).tolist() == greedy(dense, v).tolist()
    other = both(0.9, dtype, seed=1, mass=mass)[1]
    assert jnp.max(jnp.abs(bellman(other)(v) - bellman(dense)(v))) > 0.1


@hypothesis.given(st.integers(0, 50), st.sampled_from([1.0, 0.3]), st.floats(0.0, 0.95))
def test_bounds_contain_the_optimum_from_any_guess(seed, mass, discount):
    P, R = dense_arrays(S, A, K, seed, mass)
    exact = exact_values(P, R, discount)
    mdp = mdp_dense(jnp.asarray(P), jnp.asarray(R), discount, ends=mass < 1)
    v = jnp.asarray(10 * np.random.default_rng(seed).normal(size=S))
    for guess in (v, jnp.abs(v), -jnp.abs(v) - 30, jnp.asarray(exact)):
        low, high = bounds(mdp, guess)
        assert np.all(low <= exact)
        assert np.all(exact <= high)


def test_bounds_that_ignore_termination_would_fail(float64):
    P, R = dense_arrays(S, A, K, 3, 0.3)
    exact = exact_values(P, R, 0.9)
    mdp = mdp_dense(jnp.asarray(P), jnp.asarray(R), 0.9, ends=True)
    v = jnp.zeros(S)
    Tv = bellman(mdp)(v)
    naive = Tv + 0.9 / (1 - 0.9) * jnp.min(Tv - v)
    assert np.any(np.asarray(naive) > exact) or np.any(np.asarray(Tv + 9 * jnp.max(Tv - v)) < exact) or _strict(mdp, v)
    assert np.all(np.asarray(bounds(mdp, v).lower) <= exact)


def _strict(mdp, v):
    """From a guess above V* everywhere, min d > 0 never helps: the naive lower bound moves up past the truth."""
    high = jnp.full_like(v, -100.0)
    d = bellman(mdp)(high) - high
    naive = bellman(mdp)(high) + 9 * jnp.min(d)
    return bool(jnp.any(naive > bounds(mdp, high).upper))


@hypothesis.given(st.integers(0, 30))
def test_the_operator_contracts_and_shifts(seed):
    mdp = both(0.9, jnp.float32, seed)[1]
    rng = np.random.default_rng(seed)
    u, v = (jnp.asarray(rng.normal(size=S), jnp.float32) for _ in range(2))
    T = bellman(mdp)
    eps = jnp.finfo(jnp.float32).eps
    assert jnp.max(jnp.abs(T(u) - T(v))) <= 0.9 * jnp.max(jnp.abs(u - v)) + 32 * eps
    assert_close(T(u + 2), T(u) + 1.8, ulps=32, scale=4.0)
    order = rng.permutation(S)
    P, R = dense_arrays(S, A, K, seed)
    permuted = mdp_dense(jnp.asarray(P[order][:, :, order], jnp.float32), jnp.asarray(R[order], jnp.float32), 0.9)
    assert_close(bellman(permuted)(u[order]), T(u)[order], ulps=32, scale=4.0)


def test_unavailable_actions_are_never_taken(dtype):
    P, R = dense_arrays(S, A, K)
    R[:, 1] = -np.inf
    R[2, 0] = -np.inf
    mdp = mdp_dense(jnp.asarray(P, dtype), jnp.asarray(R, dtype), 0.9)
    policy = greedy(mdp, jnp.zeros(S, dtype))
    assert not np.any(np.asarray(policy) == 1)
    assert int(policy[2]) == 2
    assert jnp.isfinite(bellman(mdp)(jnp.ones(S, dtype))).all()


def spoilt(what):
    P, R = dense_arrays(S, A, K)
    match what:
        case "negative that cancels":
            P[4, 1] = 0.0
            P[4, 1, :3] = [0.7, 0.8, -0.5]
        case "nan":
            P[4, 1, 0] = np.nan
        case "inf that cancels":
            P[4, 1, :2] = [np.inf, -np.inf]
        case "short row":
            P[4, 1] *= 0.9
        case "long row":
            P[4, 1] *= 1.1
        case "reward nan":
            R[4, 1] = np.nan
        case "reward inf":
            R[4, 1] = np.inf
        case "no action":
            R[4] = -np.inf
        case "no action at all":
            R[:] = -np.inf
    return P, R


@pytest.mark.parametrize(
    "what, words",
    [
        ("negative that cancels", "P: got -0.5 at state 4, action 1"),
        ("nan", "P: got nan at state 4, action 1"),
        ("inf that cancels", "P: got inf at state 4, action 1"),
        ("short row", "P: got (0.9|0.8999).* at state 4, action 1"),
        ("long row", "P: got 1.1.* at state 4, action 1"),
        ("reward nan", "R: got nan at state 4, action 1"),
        ("reward inf", "R: got inf at state 4, action 1"),
        ("no action", "R: got no available action at state 4"),
        ("no action at all", "R: got -inf for every state"),
    ],
)
def test_bad_numbers_are_named_by_state_and_action(what, words):
    P, R = spoilt(what)
    with pytest.raises(InputError, match=words):
        mdp_dense(P, R, 0.9)
    if "row" not in what or "long" in what:
        with pytest.raises(InputError, match=words):
            mdp_dense(P, R, 0.9, ends=True)


@pytest.mark.parametrize("discount", [1.0, 1.1, -0.1, float("nan")])
def test_discounts_outside_their_range_are_refused(discount):
    P, R = dense_arrays(S, A, K)
    with pytest.raises(InputError, match="discount"):
        mdp_dense(P, R, discount)


def test_undiscounted_is_fine_where_every_row_ends(float64):
    P, R = dense_arrays(S, A, K, mass=0.9)
    P = 0.95 * P
    mdp = mdp_dense(jnp.asarray(P), jnp.asarray(R), 1.0, ends=True)
    low, high = bounds(mdp, jnp.asarray(exact_values(P, R, 1.0)))
    assert jnp.max(high - low) < 1e-9


@hypothesis.given(st.integers(0, 10**6))
def test_equal_successors_are_merged_and_the_process_is_the_same(seed):
    draw = np.random.default_rng(seed)
    S, A, K = draw.integers(1, 5), draw.integers(1, 4), draw.integers(1, 9)
    successor = draw.integers(0, S, (S, A, K))
    probability = draw.dirichlet(np.ones(K), (S, A)) * (draw.random((S, A, K)) < 0.7)
    probability[..., 0] += 1 - probability.sum(-1)
    held = mdp_sparse(successor, probability, np.zeros((S, A)), 0.9).transition
    matrix = lambda successor, probability: np.stack(
        [
            [np.bincount(s, p, S) for s, p in zip(*rows, strict=True)]
            for rows in zip(successor, probability, strict=True)
        ]
    )
    wanted = matrix(successor, probability)
    np.testing.assert_allclose(matrix(np.asarray(held.successor), np.asarray(held.probability)), wanted, atol=1e-15)
    assert held.successor.shape[-1] == max(1, int((wanted > 0).sum(-1).max()))
    assert set(np.unique(held.successor)) <= set(range(S))


def test_lists_that_cannot_be_shorter_are_kept_as_given(float64):
    successor = np.array([[[1, 0, 0]], [[1, 0, 2]], [[2, 2, 1]]])
    probability = np.array([[[0.5, 0.5, 0.0]], [[0.2, 0.3, 0.5]], [[0.2, 0.2, 0.6]]])
    held = mdp_sparse(successor, probability, np.zeros((3, 1)), 0.9).transition
    np.testing.assert_array_equal(held.successor, successor)
    np.testing.assert_array_equal(held.probability, probability)
    traced = jax.jit(lambda p: mdp_sparse(successor[:1] * 0, p, jnp.zeros((1, 1)), 0.9).transition.probability)
    assert traced(jnp.full((1, 1, 3), 1 / 3)).shape == (1, 1, 3)  # a shape cannot depend on values that are traced


def test_successors_and_shapes_are_checked():
    successor, probability, R = garnet_arrays(S, A, K)
    wrong = successor.copy()
    wrong[3, 2, 1] = S
    for arguments, word in (
        ((wrong, probability, R), "successor: got 7 at .* \\(3, 2, 1\\)"),
        ((successor.astype(float), probability, R), "successor"),
        ((successor[:2], probability, R), "successor"),
        ((successor, probability, R[:, :2]), "R"),
    ):
        with pytest.raises((InputError, TypeError), match=word):
            mdp_sparse(*arguments, 0.9)
    with pytest.raises(InputError, match="P"):
        mdp_dense(np.ones((2, 3)), np.ones((2, 3)), 0.9)
    with pytest.raises(InputError, match="v"):
        bellman(garnet(S, A, K, 0.9, jnp.float32))(jnp.zeros(S + 1, jnp.float32))


def test_terminal_transitions_do_not_bootstrap(float64):
    table = {0: {0: [(1.0, 1, 1.0, True)], 1: [(1.0, 1, 1.0, False)]}, 1: {0: [(1.0, 1, 5.0, False)]}}
    mdp = mdp_from_gymnasium(table, 0.5, dtype="float64")
    v = jnp.array([0.0, 10.0])
    assert (mdp.reward + mdp.discount * 0)[1, 1] == -jnp.inf
    assert bellman(mdp)(v).tolist() == [6.0, 10.0]
    table[0][1] = [(1.0, 1, 1.0, True)]
    assert bellman(mdp_from_gymnasium(table, 0.5, dtype="float64"))(v).tolist() == [1.0, 10.0]
    with pytest.raises(InputError, match="P: got 0.9 at state 1, action 0"):
        mdp_from_gymnasium({**table, 1: {0: [(0.9, 1, 5.0, True)]}}, 0.5)
    with pytest.raises(InputError, match="environment"):
        mdp_from_gymnasium(3, 0.5)


def test_a_process_is_a_pytree(dtype):
    mdps = [garnet(S, A, K, g, dtype) for g in (0.5, 0.9)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *mdps)
    v = jnp.ones(S, dtype)
    both_at_once = jax.jit(jax.vmap(lambda m: bellman(m)(v)))(stacked)
    assert_close(both_at_once[1], bellman(mdps[1])(v), ulps=8)
