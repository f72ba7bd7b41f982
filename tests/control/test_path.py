"""Paths: the residual is the gradient of the Lagrangian, costates are gradients of the remaining reward."""

import jax
import jax.numpy as jnp
import pytest

from learnlag_jax import InputError, trees
from learnlag_jax.control import (
    Problem,
    costates,
    hamiltonian,
    lagrangian,
    minimise,
    rollout,
    stationarity,
    total_reward,
)
from learnlag_jax.testing import assert_close
from tests.control.systems import nonlinear, nonlinear_path


def test_stationarity_is_the_gradient_of_the_lagrangian_on_any_path(dtype):
    s0, states, actions, lam, theta = nonlinear_path(dtype)
    parts = stationarity(nonlinear(), s0, states, actions, lam, theta)
    gradient = jax.grad(lagrangian(nonlinear()), (3, 1, 2))(s0, states, actions, lam, theta)
    assert_close(tuple(parts), gradient, ulps=64, scale=10.0)
    wrong = stationarity(nonlinear(), s0, states, actions, jax.tree.map(lambda x: -x, lam), theta)
    assert trees.max_abs(trees.subtract(wrong.costate, gradient[1])) > 0.1


def test_total_reward_gradient_is_the_action_part_and_costate_zero(dtype):
    s0, _, actions, _, theta = nonlinear_path(dtype)
    states = rollout(nonlinear(), s0, actions, theta)
    lam = costates(nonlinear(), states, actions, theta)
    parts = stationarity(nonlinear(), s0, states, actions, lam, theta)
    by_state, by_action = jax.grad(lambda s0, a: total_reward(nonlinear(), s0, a, theta), (0, 1))(s0, actions)
    assert_close((parts.action, jax.tree.map(lambda x: x[0], lam)), (by_action, by_state), ulps=256)
    assert_close((parts.dynamics, parts.costate), trees.zeros_like((states, states)), ulps=64, scale=10.0)


@pytest.mark.parametrize("k", [0, 2, 5])
def test_every_costate_is_the_gradient_of_the_reward_still_to_come(dtype, k):
    s0, _, actions, _, theta = nonlinear_path(dtype)
    states = rollout(nonlinear(), s0, actions, theta)
    p = nonlinear()

    def remaining(s):
        total = jnp.zeros((), dtype)
        for j in range(k, 5):
            total = total + p.reward(s, actions[j], jnp.int32(j), theta)
            s = p.dynamics(s, actions[j], jnp.int32(j), theta)
        return total + p.terminal(s, theta)

    here = jax.tree.map(lambda x: x[k], (states, costates(p, states, actions, theta)))
    assert_close(here[1], jax.grad(remaining)(here[0]), ulps=512)


def test_associative_costates_equal_the_scan(dtype):
    _, states, actions, _, theta = nonlinear_path(dtype, n=9)
    scan = costates(nonlinear(), states, actions, theta)
    assert_close(costates(nonlinear(), states, actions, theta, method="associative"), scan, ulps=256, scale=10.0)
    shifted = jax.tree.map(lambda x: x[::-1], states)
    other = costates(nonlinear(), shifted, actions, theta, method="associative")
    assert trees.max_abs(trees.subtract(other, scan)) > 0.01


def test_hamiltonian_is_reward_plus_pairing_and_minimise_flips_the_sign(dtype):
    one = jnp.ones((), dtype)
    costs = minimise(lambda s, a, k, theta: s + 2 * a, lambda s, a, k, theta: s * a, lambda s, theta: 5 * s)
    assert float(hamiltonian(costs)(3 * one, 2 * one, 4 * one, 0)) == -(3 + 4) + 24
    assert float(costs.terminal(one, None)) == -5
    assert float(total_reward(costs, one, jnp.ones(1, dtype))) == -3 - 5


def test_time_enters_as_the_step_number():
    by_time = Problem(lambda s, a, k, theta: jnp.where(k == 2, a, 0.0), lambda s, a, k, theta: s)
    slope = jax.grad(lambda a: total_reward(by_time, jnp.float32(0), a))(jnp.zeros(4, jnp.float32))
    assert slope.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda p: total_reward(p, jnp.float32(0), jnp.zeros(0, jnp.float32)), "actions"),
        (lambda p: total_reward(p, jnp.float32(0), jnp.zeros(3, jnp.int32)), "actions"),
        (lambda p: costates(p, jnp.zeros(3, jnp.float32), jnp.zeros(3, jnp.float32)), "states"),
        (lambda p: costates(p, jnp.zeros(4, jnp.float32), jnp.zeros(3, jnp.float32), method="magic"), "method"),
        (lambda p: rollout(p._replace(dynamics=lambda s, a, k, th: s[None]), *_start()), "dynamics"),
        (lambda p: rollout(p._replace(dynamics=lambda s, a, k, th: (s, a)), *_start()), "dynamics"),
        (lambda p: rollout(p._replace(dynamics=lambda s, a, k, th: s.astype("float16")), *_start()), "dynamics"),
        (lambda p: total_reward(p._replace(reward=lambda s, a, k, th: s[None]), *_start()), "reward"),
    ],
)
def test_bad_input_is_refused_by_name(call, word):
    problem = Problem(lambda s, a, k, theta: s * a, lambda s, a, k, theta: s + a)
    with pytest.raises((InputError, TypeError), match=word):
        call(problem)


def _start():
    return jnp.float32(0), jnp.zeros(3, jnp.float32)
