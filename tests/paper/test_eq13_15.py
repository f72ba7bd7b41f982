"""Eq. 13-15: costates backward and the stationary action, as the gradient of eq. 9 and on a solved problem."""

import jax
import jax.numpy as jnp

from learnlag_jax import trees
from learnlag_jax.control import costates, hamiltonian, lagrangian, solve, stationarity
from learnlag_jax.testing import assert_close
from tests.control.systems import nonlinear, nonlinear_path, pendulum, pendulum_start

at = lambda path, k: jax.tree.map(lambda x: x[k], path)


def test_eq13_eq14_the_recursion_term_by_term(dtype):
    _, states, actions, _, theta = nonlinear_path(dtype)
    p, lam = nonlinear(), costates(nonlinear(), states, actions, theta)
    assert_close(at(lam, -1), jax.grad(p.terminal)(at(states, -1), theta), ulps=8)
    for k in range(5):
        s, k_ = at(states, k), jnp.int32(k)
        r_s = jax.grad(p.reward)(s, actions[k], k_, theta)
        f_s = jax.jacrev(p.dynamics)(s, actions[k], k_, theta)
        c = at(lam, k + 1)
        pulled = {q: jnp.tensordot(c["x"], f_s["x"][q], 1) + c["y"] * f_s["y"][q] for q in ("x", "y")}
        assert_close(at(lam, k), trees.add(r_s, pulled), ulps=64, scale=30.0)
    forgot = jax.grad(p.reward)(at(states, 0), actions[0], jnp.int32(0), theta)
    assert trees.max_abs(trees.subtract(at(lam, 0), forgot)) > 0.1


def test_eq13_eq15_stationarity_is_the_gradient_of_eq9(dtype):
    s0, states, actions, lam, theta = nonlinear_path(dtype, seed=1)
    parts = stationarity(nonlinear(), s0, states, actions, lam, theta)
    gradient = jax.grad(lagrangian(nonlinear()), (3, 1, 2))(s0, states, actions, lam, theta)
    assert_close(tuple(parts), gradient, ulps=64, scale=20.0)
    late = stationarity(nonlinear(), s0, states, actions, jax.tree.map(lambda x: jnp.roll(x, -1, 0), lam), theta)
    assert trees.max_abs(trees.subtract(late.action, gradient[2])) > 0.1


def test_eq15_the_best_action_makes_H_stationary_and_here_largest(float64):
    s0, a0, theta = pendulum_start(float64)
    got = solve(pendulum(), s0, a0, theta)
    H = hamiltonian(pendulum())
    k = jnp.arange(40, dtype=jnp.int32)
    each = jax.vmap(lambda s, a, c, k: H(s, a, c, k, theta), (0, 0, 0, 0))
    before = jax.tree.map(lambda x: x[:-1], got.states)
    after = jax.tree.map(lambda x: x[1:], got.costates)
    best = each(before, got.actions, after, k)
    for nudge in (-0.01, 0.01, 1.0):
        assert jnp.all(each(before, got.actions + nudge, after, k) < best)
    wrong = each(before, got.actions + 1.0, after, k)
    assert jnp.any(each(before, got.actions + 0.99, after, k) > wrong)
