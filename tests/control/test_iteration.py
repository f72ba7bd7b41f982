"""Solvers of decision processes: bounds that hold at every cap, published and closed-form values, learning from samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from learnlag_jax import InputError, Status
from learnlag_jax.control import (
    backward_induction,
    bellman,
    greedy,
    mdp_dense,
    mdp_from_gymnasium,
    mdp_sparse,
    q_learning,
    solve_mdp,
)
from learnlag_jax.control.iteration import METHODS
from learnlag_jax.testing import assert_close
from tests.control.systems import dense_arrays, exact_values, forest, garnet

S, A, K = 12, 3, 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mass", [1.0, 0.6])
def test_bounds_contain_the_optimum_at_any_cap(dtype, method, mass):
    P, R = dense_arrays(S, A, K, 5, mass)
    mdp = garnet(S, A, K, 0.95, dtype, 5, mass)
    exact = exact_values(P, R, 0.95)
    # the oracle solves the float64 problem; the data were rounded to `dtype` first
    blur = 8 * float(jnp.finfo(dtype).eps) * (np.abs(R).max() + np.abs(exact).max()) / (1 - 0.95)
    for cap in (1, 2, 5):
        got = solve_mdp(mdp, method=method, max_steps=cap, tol=1e-300 if dtype == "float64" else 1e-30)
        assert int(got.status) in (Status.max_steps, Status.acceptable)
        assert np.all(np.asarray(got.lower, float) <= exact + blur)
        assert np.all(exact - blur <= np.asarray(got.upper, float))
        policy = np.asarray(got.policy)
        rows = np.arange(S)
        own = np.linalg.solve(np.eye(S) - 0.95 * P[rows, policy], R[rows, policy])
        assert np.all(own >= np.asarray(got.lower, float) - blur)
    first = solve_mdp(mdp, method=method, max_steps=1)
    assert float(jnp.max(first.upper - first.lower)) > 100 * blur


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_reach_the_exact_values(float64, method):
    for process, arrays in (
        (garnet(S, A, K, 0.99, float64, 1), dense_arrays(S, A, K, 1)),
        (garnet(S, A, K, 0.99, float64, 2, 0.5), dense_arrays(S, A, K, 2, 0.5)),
    ):
        got = solve_mdp(process, method=method, tol=1e-8)
        exact = exact_values(*arrays, 0.99)
        assert int(got.status) == 0
        assert float(jnp.max(got.upper - got.lower)) <= 1e-8
        assert float(np.abs(got.value - exact).max()) <= 1e-8
        assert float(got.residual) <= 1e-8
        assert got.policy.tolist() == greedy(process, jnp.asarray(exact)).tolist()
        wrong = exact_values(*arrays, 0.98)
        assert np.abs(got.value - wrong).max() > 0.1


@pytest.mark.parametrize("mass", [1.0, 0.7])
def test_values_are_the_optimum_of_the_linear_programme(float64, mass):
    """Least sum of v with v >= r + discount P v: a solver that iterates nothing (HiGHS); its prices name the actions."""
    P, R = dense_arrays(S, A, K, 3, mass)

    def programme(discount):
        rows = np.eye(S)[:, None, :] - discount * P
        return linprog(np.ones(S), -rows.reshape(S * A, S), -R.reshape(-1), bounds=(None, None))

    got = solve_mdp(garnet(S, A, K, 0.9, float64, 3, mass), tol=1e-9)
    least = programme(0.9)
    assert least.status == 0
    assert np.abs(least.x - got.value).max() < 1e-7
    assert np.array_equal(np.argmin(least.ineqlin.marginals.reshape(S, A), 1), got.policy)
    assert np.abs(programme(0.89).x - got.value).max() > 0.01


def test_gauss_seidel_carries_news_along_a_chain_in_one_sweep(float64):
    """A corridor that ends at its last state: value iteration moves the prize one state a sweep, there and back at once."""
    length = 64
    after = np.minimum(np.arange(length) + 1, length - 1)[:, None, None]
    chance = np.where(np.arange(length) < length - 1, 1.0, 0.0)[:, None, None]
    prize = np.where(np.arange(length) < length - 1, 0.0, 1.0)[:, None]

    def sweeps(method, order):
        place = np.argsort(order)
        rows = [jnp.asarray(x[order]) for x in (place[after], chance, prize)]
        got = solve_mdp(mdp_sparse(*rows, 0.99, ends=True), method=method, tol=1e-9)
        assert int(got.status) == 0
        expected = 0.99 ** (length - 1 - order)
        assert np.abs(got.value - expected).max() < 1e-9
        return int(got.steps)

    straight, shuffled = np.arange(length), np.random.default_rng(0).permutation(length)
    assert sweeps("gauss_seidel", straight) <= 8
    assert sweeps("value_iteration", straight) > 60
    assert sweeps("gauss_seidel", shuffled) > 16


def test_forest_has_the_published_values(float64):
    got = solve_mdp(forest(3, 0.9, float64), tol=1e-9)
    exact = [26.244, 29.484, 33.484]
    assert np.abs(np.asarray(got.value) - exact).max() < 1e-9
    assert got.policy.tolist() == [0, 0, 0]


def test_midrange_correction_saves_most_sweeps_of_value_iteration(float64):
    mdp = garnet(60, 4, 5, 0.999, float64)
    got = solve_mdp(mdp, method="value_iteration", tol=1e-6)
    assert int(got.status) == 0
    plain = int(np.log(1e-6 / float(jnp.max(jnp.abs(got.value)))) / np.log(0.999))
    assert int(got.steps) * 20 < plain


def test_the_first_sweep_from_nothing_is_that_of_zero_values(dtype):
    mdp = garnet(S, A, K, 0.9, dtype, 6)
    free, paid = (solve_mdp(mdp, v0=v0, max_steps=1) for v0 in (None, jnp.zeros(S, dtype)))
    for name in ("value", "lower", "upper", "policy", "steps"):
        assert jnp.array_equal(getattr(free, name), getattr(paid, name)), name
    assert not jnp.array_equal(solve_mdp(mdp, v0=jnp.arange(S, dtype=dtype), max_steps=1).value, free.value)


@pytest.mark.parametrize("method", ["auto", "modified_policy_iteration"])
def test_a_constant_in_the_rewards_costs_no_sweeps(float64, method):
    """Sweeps of T_pi run in float32, where a million would leave no digit of a hundredth."""
    P, R = dense_arrays(S, A, K, 7)
    low, high = (solve_mdp(mdp_dense(P, R + c, 0.95), method=method, tol=1e-5) for c in (0.0, 1e6))
    assert int(high.status) == 0
    assert (int(high.steps), int(high.sweeps)) == (int(low.steps), int(low.sweeps))
    assert np.abs(high.value - 1e6 / (1 - 0.95) - low.value).max() < 1e-5


def test_auto_turns_to_krylov_only_where_a_settled_policy_mixes_slowly(float64):
    """A walk around a ring forgets where it started after some 60^2 steps; a random process at once."""
    place = np.arange(60)
    around = np.stack([(place + 1) % 60, (place - 1) % 60], -1)[:, None]
    ring = mdp_sparse(around, np.full((60, 1, 2), 0.5), np.cos(2 * np.pi * place / 60)[:, None], 0.9999)
    auto, sweeping = (solve_mdp(ring, method=m, tol=1e-8) for m in ("auto", "modified_policy_iteration"))
    assert int(auto.status) == int(sweeping.status) == 0
    # the wave that the walk damps by cos(2 pi / 60) a step
    assert np.abs(auto.value - ring.reward[:, 0] / (1 - 0.9999 * np.cos(2 * np.pi / 60))).max() < 1e-7
    assert 4 * int(auto.sweeps) < int(sweeping.sweeps)
    quick = garnet(60, 4, 5, 0.999, float64)
    assert int(solve_mdp(quick).sweeps) == int(solve_mdp(quick, method="modified_policy_iteration").sweeps)


def test_zero_rewards_one_state_and_zero_discount(dtype):
    P, R = dense_arrays(S, A, K)
    nothing = solve_mdp(mdp_dense(jnp.asarray(P, dtype), jnp.zeros((S, A), dtype), 0.9))
    assert int(nothing.status) == 0
    assert not np.any(nothing.value)
    R = jnp.asarray(R, dtype)
    myopic = solve_mdp(mdp_dense(jnp.asarray(P, dtype), R, 0.0), tol=1e-4)
    assert_close(myopic.value, jnp.max(R, 1), ulps=16, scale=8.0)


def test_float32_says_acceptable_when_only_rounding_is_left():
    got = solve_mdp(garnet(S, A, K, 0.999, jnp.float32), tol=1e-9)
    assert int(got.status) == Status.acceptable
    assert jnp.max(got.upper - got.lower) > 1e-9


@pytest.mark.parametrize("method", ["auto", "value_iteration", "gauss_seidel"])
def test_one_nan_among_many_states_is_not_lost(method, dtype):
    """Long maxima drop NaN on CPU (see `extrema`): the residual would be 0."""
    draw = np.random.default_rng(0)
    successor = draw.integers(0, 5000, (5000, 3, 2)).astype(np.int32)
    half, R = jnp.full((5000, 3, 2), 0.5, dtype), jnp.asarray(draw.normal(size=(5000, 3)), dtype)
    solved = jax.jit(lambda R: solve_mdp(mdp_sparse(successor, half, R, 0.9), method=method))
    got = solved(R.at[4000, 2].set(jnp.nan))
    assert int(got.status) == Status.nonfinite_input
    assert bool(jnp.isnan(got.residual))
    assert not bool(jnp.isnan(solved(R).residual))


def test_nan_under_jit_and_bad_arguments():
    P, R = (jnp.asarray(x, jnp.float32) for x in dense_arrays(S, A, K))
    got = jax.jit(lambda R: solve_mdp(mdp_dense(P, R, 0.9)))(R.at[0, 0].set(jnp.nan))
    assert int(got.status) == Status.nonfinite_input
    mdp = mdp_dense(P, R, 0.9)
    for arguments in ({"method": "magic"}, {"tol": 0.0}, {"max_steps": 0}, {"v0": jnp.zeros(3)}):
        with pytest.raises(InputError):
            solve_mdp(mdp, **arguments)
    with pytest.raises(InputError, match="horizon"):
        backward_induction(mdp, 0)
    with pytest.raises(InputError, match="explore"):
        q_learning(jax.random.key(0), mdp, steps=3, explore=1.5)


def test_batches_of_processes_and_warm_starts(float64):
    mdps = [garnet(S, A, K, 0.9, float64, seed) for seed in (1, 2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *mdps)
    together = jax.vmap(solve_mdp)(stacked)
    alone = solve_mdp(mdps[1])
    assert float(jnp.max(jnp.abs(together.value[1] - alone.value))) <= 1e-6
    again = solve_mdp(mdps[1], v0=alone.value)
    assert int(again.steps) == 1


def test_backward_induction_is_the_finite_sum_and_grows_into_the_infinite_one(float64):
    P, R = dense_arrays(S, A, K, 4)
    mdp = mdp_dense(jnp.asarray(P), jnp.asarray(R), 0.8)
    plan = backward_induction(mdp, 120)
    assert_close(plan.value[-2], jnp.max(jnp.asarray(R), 1))
    assert float(plan.residual) < 1e-14
    bound = 0.8**120 * np.abs(R).max() / 0.2
    assert np.abs(plan.value[0] - exact_values(P, R, 0.8)).max() <= bound + 1e-12
    last = jnp.arange(12.0)
    assert_close(backward_induction(mdp, 1, last).value[0], bellman(mdp)(last))


def test_q_learning_is_exact_for_deterministic_transitions(float64):
    chain = {s: {a: [(1.0, max(0, min(4, s + 2 * a - 1)), float(s == 4), False)] for a in (0, 1)} for s in range(5)}
    mdp = mdp_from_gymnasium(chain, 0.8, dtype="float64")
    best = solve_mdp(mdp, tol=1e-11)
    learn = jax.jit(lambda key, mdp: q_learning(key, mdp, steps=5000, rate=0.0, explore=1.0, tol=1e-9))
    got = learn(jax.random.key(1), mdp)
    assert int(got.status) == 0
    assert float(jnp.max(jnp.abs(jnp.max(got.value, 1) - best.value))) < 1e-10
    assert got.residual < 1e-10
    few = q_learning(jax.random.key(1), mdp, steps=5, rate=0.0)
    assert int(few.status) == Status.max_steps
    # V* lies between both pairs of bounds; the midpoint of the tight ones may be off by their width, 1e-11
    assert np.all(np.asarray(few.lower) <= best.upper)
    assert np.all(best.lower <= np.asarray(few.upper))


def test_q_learning_error_falls_with_samples_in_a_random_process(float64):
    mdp = garnet(S, A, K, 0.8, float64, 3, 0.7)
    best = solve_mdp(mdp, tol=1e-9).value
    error = lambda steps: jnp.mean(
        jax.vmap(
            lambda key: jnp.max(
                jnp.abs(jnp.max(q_learning(key, mdp, steps=steps, rate=0.3, explore=1.0).value, 1) - best)
            )
        )(jax.random.split(jax.random.key(0), 8))
    )
    few, many = error(2_000), error(32_000)
    assert many < few / 2.5, (few, many)
    assert few < 2.0
