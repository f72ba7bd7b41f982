"""Derivatives of values and gains against closed forms, however early the sweeps stop; numbers that are read when built."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learnlag_jax import Status
from learnlag_jax.control import (
    Environment,
    average_reward,
    dqn,
    implicit,
    mdp_dense,
    mdp_functions,
    mdp_sparse,
    solve_mdp,
)
from tests.control.systems import dense_arrays, garnet_arrays

S, A, K = 6, 2, 3
MODES = (jax.jacfwd, jax.jacrev)


@pytest.mark.parametrize("mode", MODES)
def test_two_states_have_the_resolvent_for_derivative(float64, mode):
    """Equal rewards: one sweep and the bounds meet."""
    P = jnp.asarray([[[0.9, 0.1]], [[0.2, 0.8]]])
    by_reward = mode(lambda R: solve_mdp(mdp_dense(P, R, 0.9)).value)(jnp.ones((2, 1)))
    exact = np.linalg.inv(np.eye(2) - 0.9 * np.asarray(P)[:, 0])
    np.testing.assert_allclose(by_reward[..., 0], exact, rtol=1e-13)
    by_discount = mode(lambda g: solve_mdp(mdp_dense(P, jnp.ones((2, 1)), g)).value)(jnp.asarray(0.9))
    np.testing.assert_allclose(by_discount, [100.0, 100.0], rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("matrix", [True, False])
def test_rewards_and_probabilities_of_the_greedy_policy(float64, mode, matrix, monkeypatch):
    """dV = (I - g P_pi)^-1 (dr + g dP V), by a matrix or by iteration, dense or from lists."""
    monkeypatch.setattr(implicit, "LARGEST_MATRIX", implicit.LARGEST_MATRIX if matrix else 0)
    jax.clear_caches()
    g, (P, R) = 0.97, dense_arrays(S, A, K, 3)
    first = solve_mdp(mdp_dense(jnp.asarray(P), jnp.asarray(R), g), tol=1e-10)
    rows, pi, V = np.arange(S), np.asarray(first.policy), np.asarray(first.value)
    resolvent = np.linalg.inv(np.eye(S) - g * P[rows, pi])
    by_R, by_P = mode(lambda R, P: solve_mdp(mdp_dense(P, R, g), tol=1e-3).value, (0, 1))(
        jnp.asarray(R), jnp.asarray(P)
    )
    wanted = np.zeros((S, S, A))
    wanted[:, rows, pi] = resolvent
    np.testing.assert_allclose(by_R, wanted, atol=1e-8)
    np.testing.assert_allclose(by_P, wanted[..., None] * g * V, atol=2e-3 * np.abs(wanted).max())
    successor, probability, R = garnet_arrays(S, A, K, 3)
    by_list = mode(lambda R: solve_mdp(mdp_sparse(successor, probability, R, g)).value)(jnp.asarray(R))
    np.testing.assert_allclose(by_list, wanted, atol=1e-8)
    jax.clear_caches()


@pytest.mark.parametrize("mode", MODES)
def test_theta_of_a_function_and_failure(float64, mode):
    """Stay with probability theta at reward 1, else go where there is none: V(0) = 1 / (1 - g theta)."""
    outcome = lambda s, a, j, theta: (jnp.where(s == 0, j, 1), jnp.where(j == 0, theta, 1 - theta))
    build = lambda theta: mdp_functions(
        lambda s, a, theta: jnp.where(s == 0, 1.0, 0.0), outcome, 0.9, states=2, actions=1, outcomes=2, theta=theta
    )
    slope = mode(lambda theta: solve_mdp(build(theta)).value[0])(jnp.asarray(0.5))
    assert abs(float(slope) - 0.9 / (1 - 0.45) ** 2) < 1e-5
    early = lambda theta: solve_mdp(build(theta), max_steps=1)
    assert int(early(jnp.asarray(0.5)).status) == Status.max_steps
    assert bool(jnp.isnan(mode(lambda theta: early(theta).value[0])(jnp.asarray(0.5))))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("matrix", [True, False])
def test_the_gain_moves_with_the_stationary_distribution(float64, mode, matrix, monkeypatch):
    monkeypatch.setattr(implicit, "LARGEST_MATRIX", implicit.LARGEST_MATRIX if matrix else 0)
    jax.clear_caches()
    P, R = dense_arrays(S, A, K, 2)
    P = 0.9 * P + 0.1 / S
    got = average_reward(mdp_dense(jnp.asarray(P), jnp.asarray(R), 0.5), tol=1e-10)
    rows, pi = np.arange(S), np.asarray(got.policy)
    chain = np.vstack([P[rows, pi].T - np.eye(S), np.ones(S)])
    weights = np.linalg.lstsq(chain, np.append(np.zeros(S), 1.0), rcond=None)[0]
    build = lambda R, P: average_reward(mdp_dense(P, R, 0.5), tol=1e-9)
    by_R, by_P = mode(lambda R, P: build(R, P).value, (0, 1))(jnp.asarray(R), jnp.asarray(P))
    wanted = np.zeros((S, A))
    wanted[rows, pi] = weights
    np.testing.assert_allclose(by_R, wanted, atol=1e-8)
    np.testing.assert_allclose(by_P, wanted[..., None] * np.asarray(got.bias), atol=1e-6)
    even = mode(lambda R: build(R, jnp.asarray(P)).value)(jnp.ones((S, A)))
    assert abs(float(jnp.sum(even)) - 1) < 1e-9
    jax.clear_caches()


def test_a_number_that_an_outcome_reads_is_seen_when_it_changes(float64):
    p = {"x": 0.5}
    outcome = lambda s, a, j, theta: (j, jnp.where(j == 0, p["x"], 1 - p["x"]))
    build = lambda: mdp_functions(
        lambda s, a, theta: jnp.where(s == 0, 1.0, 0.0), outcome, 0.9, states=2, actions=1, outcomes=2
    )
    before = build()
    for x in (0.5, 0.9):
        p["x"] = x
        V = float(solve_mdp(build(), tol=1e-9).value[0])
        assert abs(V - (1 + 9 * x)) < 1e-8  # V(0) = 1 + 0.9 V(0) x + 0.9 V(1) (1 - x), V(1) = V(0) - 1
        assert abs(float(average_reward(build()).value) - x) < 1e-6
    # and a process built before keeps what it was measured with
    assert abs(float(solve_mdp(before, tol=1e-9, max_steps=77).value[0]) - 5.5) < 1e-8


def test_a_number_that_an_outcome_reads_while_it_is_differentiated(float64):
    """V(0) = 1 + g x V(0) + g (1 - x) (V(0) - 1) = 1 + 9 x at g = 0.9."""

    def value(x):
        outcome = lambda s, a, j, theta: (j, jnp.where(j == 0, x, 1 - x))
        reward = lambda s, a, theta: jnp.where(s == 0, 1.0, 0.0)
        return solve_mdp(mdp_functions(reward, outcome, 0.9, states=2, actions=1, outcomes=2)).value[0]

    for slope in (jax.grad(value), jax.jit(jax.grad(value))):
        assert abs(float(slope(jnp.asarray(0.3))) - 9) < 1e-5


def test_a_number_that_an_environment_reads_is_seen_when_it_changes():
    p, one = {"r": 1.0}, jnp.float32(1)
    step = lambda key, s, a: (s, p["r"] * a.astype(s.dtype), jnp.array(True), jnp.array(False))
    coin = Environment(lambda key: one, step, lambda s: s[None], 2)
    network, optimiser = lambda w, x: w * x[0], optax.sgd(0.2)
    for r in (1.0, 3.0):
        p["r"] = r
        got = dqn(jax.random.key(0), coin, network, jnp.zeros(2, jnp.float32), optimiser, steps=400, warmup=1, every=1)
        assert abs(float(got.value[1]) - r) < 0.05
