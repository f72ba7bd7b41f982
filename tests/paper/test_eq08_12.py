"""Eq. 8-12: the total reward, the Lagrangian, the Hamiltonian, the regrouped Lagrangian and its first variation."""

import jax
import jax.numpy as jnp

from learnlag_jax import trees
from learnlag_jax.control import hamiltonian, lagrangian, rollout, total_reward
from learnlag_jax.testing import assert_close
from tests.control.systems import nonlinear, nonlinear_path

N = 5


def by_hand(p, s0, actions, theta):
    s, total = s0, 0.0
    for k in range(N):
        total, s = total + p.reward(s, actions[k], jnp.int32(k), theta), p.dynamics(s, actions[k], jnp.int32(k), theta)
    return total + p.terminal(s, theta)


def test_eq08_total_reward_is_the_sum_along_the_path_and_the_end(dtype):
    s0, _, actions, _, theta = nonlinear_path(dtype)
    p = nonlinear()
    J = total_reward(p, s0, actions, theta)
    assert_close(J, by_hand(p, s0, actions, theta), ulps=64, scale=30.0)
    without_end = total_reward(p._replace(terminal=lambda s, theta: 0 * s["y"]), s0, actions, theta)
    assert abs(float(J - without_end)) > 0.01


def test_eq09_lagrangian_is_the_reward_on_a_path_and_adds_gap_times_costate_off_it(dtype):
    s0, states, actions, lam, theta = nonlinear_path(dtype)
    p, L = nonlinear(), lagrangian(nonlinear())
    path = rollout(p, s0, actions, theta)
    assert_close(L(s0, path, actions, lam, theta), total_reward(p, s0, actions, theta), ulps=64, scale=30.0)
    moved = jax.tree.map(lambda x: x.at[-1].add(1), path)
    change = L(s0, moved, actions, lam, theta) - L(s0, path, actions, lam, theta)
    ends = p.terminal(*_last(moved, theta)) - p.terminal(*_last(path, theta))
    pairing = jnp.sum(lam["x"][-1]) + lam["y"][-1]
    assert_close(change, ends - pairing, ulps=256, scale=30.0)
    assert abs(float(pairing)) > 0.1


def _last(path, theta):
    return jax.tree.map(lambda x: x[-1], path), theta


def test_eq10_hamiltonian(dtype):
    s0, _, actions, lam, theta = nonlinear_path(dtype)
    p, c = nonlinear(), jax.tree.map(lambda x: x[1], lam)
    s_next = p.dynamics(s0, actions[0], jnp.int32(0), theta)
    expected = p.reward(s0, actions[0], jnp.int32(0), theta) + s_next["x"] @ c["x"] + s_next["y"] * c["y"]
    got = hamiltonian(p)(s0, actions[0], c, jnp.int32(0), theta)
    assert_close(got, expected, ulps=32, scale=10.0)
    assert abs(float(hamiltonian(p)(s0, actions[0], trees.scale(-1.0, c), jnp.int32(0), theta) - expected)) > 0.1


def test_eq11_regrouped(dtype):
    s0, states, actions, lam, theta = nonlinear_path(dtype)
    p, H = nonlinear(), hamiltonian(nonlinear())

    def regrouped(sign):
        at = lambda path, k: jax.tree.map(lambda x: x[k], path)
        total = p.terminal(at(states, -1), theta) - trees.dot(at(states, -1), at(lam, -1)) + trees.dot(s0, at(lam, 0))
        for k in range(N):
            total = total + H(at(states, k), actions[k], at(lam, k + 1), jnp.int32(k), theta)
            total = total - sign * trees.dot(at(states, k), at(lam, k))
        return total

    L = lagrangian(p)(s0, states, actions, lam, theta)
    assert_close(regrouped(1.0), L, ulps=128, scale=50.0)
    assert abs(float(regrouped(-1.0) - L)) > 0.1


def test_eq12_first_variation(float64):
    s0, states, actions, lam, theta = nonlinear_path(float64)
    p, H, L = nonlinear(), hamiltonian(nonlinear()), lagrangian(nonlinear())
    ds, da = jax.tree.map(lambda x: jnp.cos(x + 1), (states, actions))
    _, dL = jax.jvp(lambda s, a: L(s0, s, a, lam, theta), (states, actions), (ds, da))
    at = lambda path, k: jax.tree.map(lambda x: x[k], path)

    def variation(keep_costates):
        h_s = jax.grad(p.terminal)(at(states, -1), theta)
        total = trees.dot(trees.subtract(h_s, at(lam, -1)), at(ds, -1))
        for k in range(N):
            H_s, H_a = jax.grad(H, (0, 1))(at(states, k), actions[k], at(lam, k + 1), jnp.int32(k), theta)
            total = total + trees.dot(trees.axpy(-keep_costates, at(lam, k), H_s), at(ds, k)) + H_a @ da[k]
        return total

    assert_close(variation(1.0), dL, ulps=256, scale=20.0)
    assert abs(float(variation(0.0) - dL)) > 0.1
