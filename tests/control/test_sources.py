"""Processes from functions and from a control problem on a grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError
from learnlag_jax.control import (
    Problem,
    bellman,
    mdp_from_gymnasium,
    mdp_from_problem,
    mdp_functions,
    mdp_sparse,
    q_learning,
    solve_mdp,
)
from learnlag_jax.control.iteration import METHODS
from learnlag_jax.testing import assert_close
from tests.control.systems import garnet_arrays

S, A, K = 11, 2, 3


def pair(dtype, mass=1.0):
    """The same process from functions (in chunks that do not divide S) and from lists."""
    successor, probability, R = garnet_arrays(S, A, K, 7, mass)
    theta = jnp.asarray(successor, jnp.int32), jnp.asarray(probability, dtype), jnp.asarray(R, dtype)
    functions = mdp_functions(
        lambda s, a, theta: theta[2][s, a],
        lambda s, a, j, theta: (theta[0][s, a, j], theta[1][s, a, j]),
        0.9,
        states=S,
        actions=A,
        outcomes=K,
        theta=theta,
        ends=mass < 1,
        chunk=4,
        dtype=dtype,
    )
    return functions, mdp_sparse(*theta, 0.9, ends=mass < 1)


@pytest.mark.parametrize("method", METHODS)
def test_functions_and_lists_give_the_same_answers(float64, method):
    functions, lists = pair(float64, 0.8)
    got, expected = (solve_mdp(m, method=method, tol=1e-9) for m in (functions, lists))
    assert int(got.status) == 0
    assert float(jnp.max(jnp.abs(got.value - expected.value))) <= 1e-9
    other = solve_mdp(pair(float64)[0], method=method, tol=1e-9)
    assert float(jnp.max(jnp.abs(other.value - expected.value))) > 0.1


def test_operator_and_samples_are_those_of_the_lists(dtype):
    functions, lists = pair(dtype)
    v = jnp.asarray(np.random.default_rng(0).normal(size=S), dtype)
    assert_close(bellman(functions)(v), bellman(lists)(v), ulps=16, scale=4.0)
    key = jax.random.key(0)
    learned = [q_learning(jax.random.clone(key), m, steps=300).value for m in (functions, lists)]
    assert_close(learned[0], learned[1], ulps=64, scale=10.0)


def test_many_states_by_chunks_that_do_not_divide_them():
    """A random walk with a known answer: value of the right end, discount per step, moving right for certain."""
    S = 200_003
    walk = mdp_functions(
        lambda s, a, theta: jnp.where(s == S - 1, 1.0, 0.0).astype(jnp.float32),
        lambda s, a, j, theta: (jnp.minimum(s + a, S - 1), 1.0),
        0.5,
        states=S,
        actions=2,
        chunk=65_536,
        dtype="float32",
    )
    got = solve_mdp(walk, tol=1e-3)
    assert int(got.status) == 0
    assert abs(float(got.value[-2]) - 1.0) < 1e-3
    assert abs(float(got.value[-3]) - 0.5) < 1e-3


@pytest.mark.parametrize(
    "outcome, word",
    [
        (lambda s, a, j, th: (s, jnp.where(j == 0, 1.5, -0.5)), "outcome: got -0.5 at state 0, action 0"),
        (lambda s, a, j, th: (s + 1, 0.5), "outcome: got a successor outside the states at state 2, action 0"),
        (lambda s, a, j, th: (s, jnp.where(s == 1, 0.4, 0.5)), "P: got 0.8.* at state 1, action 0"),
        (lambda s, a, j, th: (s, jnp.where(s == 1, jnp.nan, 0.5)), "nan at state 1, action 0"),
    ],
)
def test_bad_functions_are_refused_by_state_and_action(outcome, word):
    with pytest.raises(InputError, match=word):
        mdp_functions(lambda s, a, th: 0.0, outcome, 0.9, states=3, actions=1, outcomes=2)


def regulator(h: float):
    """s' = s + a + noise on a grid of spacing h, cost s^2 + a^2, discount 0.9: V = -(P s^2 + const)."""
    axis = jnp.linspace(-2, 2, round(4 / h) + 1)
    problem = Problem(lambda s, a, k, th: -(s[0] ** 2) - a[0] ** 2, lambda s, a, k, th: s + a)
    actions = jnp.linspace(-1.5, 1.5, round(3 / h) + 1)[:, None]
    noise = jnp.array([[-0.1], [0.1]]), jnp.array([0.5, 0.5])
    return axis, mdp_from_problem(problem, [axis], actions, 0.9, noise=noise)


def test_grid_values_approach_the_regulator_with_noise(float64):
    g = 0.9
    P = (g * 2 - 1 + np.sqrt((2 * g - 1) ** 2 + 4 * g)) / (2 * g)
    exact = lambda s: -(P * s**2 + g * P * 0.01 / (1 - g))
    errors = []
    for h in (0.1, 0.05):
        axis, mdp = regulator(h)
        got = solve_mdp(mdp, tol=1e-8)
        inner = jnp.abs(axis) <= 1
        errors.append(float(jnp.max(jnp.where(inner, jnp.abs(got.value - exact(axis)), 0))))
    assert errors[1] < errors[0] / 2
    assert errors[1] < 0.05
    assert abs(float(exact(0.0))) > 0.1


def test_a_sampler_of_noise_agrees_with_its_points_and_weights(float64):
    """Plus or minus 0.1 by coin: the value at the middle of the regulator, within five standard errors of the draws."""
    axis, exact = regulator(0.1)
    problem = Problem(lambda s, a, k, th: -(s[0] ** 2) - a[0] ** 2, lambda s, a, k, th: s + a)
    actions, draws = jnp.linspace(-1.5, 1.5, 31)[:, None], 400

    def value(size):
        coin = lambda key: size * jax.random.rademacher(key, (1,), jnp.float64)
        mdp = mdp_from_problem(problem, [axis], actions, 0.9, noise=coin, key=jax.random.key(0), draws=draws)
        return solve_mdp(mdp, tol=1e-8).value[20]

    middle = solve_mdp(exact, tol=1e-8).value[20]
    # the mean of the draws is off by 0.1 / sqrt(draws); it moves the value by its square and its slope, 0 in the middle
    assert abs(float(value(0.1) - middle)) < 5 / draws
    assert abs(float(value(0.3) - middle)) > 0.2
    with pytest.raises(InputError, match="key"):
        mdp_from_problem(problem, [axis], actions, 0.9, noise=lambda key: jnp.zeros(1))


def test_periodic_axes_wrap_and_others_clip(float64):
    problem = Problem(lambda s, a, k, th: jnp.cos(s[0]) * s[1], lambda s, a, k, th: s + a)
    angle = jnp.arange(8.0) * (2 * jnp.pi / 8)
    axes, actions = [angle.astype(float), jnp.linspace(-1, 1, 3)], jnp.array([[2 * jnp.pi / 8, 0.0], [0.0, 5.0]])
    mdp = mdp_from_problem(problem, axes, actions, 0.5, periodic=[True, False])
    v = jnp.arange(24.0)
    Q = mdp.transition.probability * v[mdp.transition.successor]
    after = jnp.sum(Q, -1)
    assert_close(after[21:24, 0], jnp.array([0.0, 1.0, 2.0]), ulps=256, scale=24.0)
    assert_close(after[::3, 1], jnp.arange(24.0)[2::3], ulps=256, scale=24.0)


def test_grid_input_is_checked():
    problem = Problem(lambda s, a, k, th: s[0], lambda s, a, k, th: s)
    actions = jnp.zeros((1, 1))
    for axes in ([jnp.array([0.0, 0.0])], [jnp.array([0.0])], [jnp.array([0, 1])]):
        with pytest.raises((InputError, TypeError), match="axes"):
            mdp_from_problem(problem, axes, actions, 0.9)
    bad_noise = (jnp.zeros((2, 1)), jnp.array([0.5, 0.6]))
    with pytest.raises(InputError, match="P: got 1.1"):
        mdp_from_problem(problem, [jnp.array([0.0, 1.0])], actions, 0.9, noise=bad_noise)


def test_krylov_steps_halve_the_work_where_mixing_is_slow(float64):
    """FrozenLake at a discount near one; a sweep of T_pi costs a quarter of a sweep of T."""
    gymnasium = pytest.importorskip("gymnasium")
    lake = gymnasium.make("FrozenLake-v1", map_name="8x8").unwrapped
    mdp = mdp_from_gymnasium(lake, 0.9999, dtype="float64")
    by = {m: solve_mdp(mdp, method=m, tol=1e-6) for m in METHODS}
    work = {m: int(got.steps) + int(got.sweeps) / 4 for m, got in by.items()}
    assert work["auto"] * 2 < work["modified_policy_iteration"], work
    assert work["krylov"] * 2 < work["modified_policy_iteration"], work
    assert int(by["policy_iteration"].steps) < 20
    assert all(int(got.status) == 0 for got in by.values())
