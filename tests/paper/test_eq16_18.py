"""Eq. 16-18: the costate is the gradient of the value, the value obeys Bellman's equation, and both have a limit in dt."""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import trees
from learnlag_jax.control import costates, lqr, rollout, solve
from learnlag_jax.testing import assert_close
from tests.control.systems import pendulum, pendulum_start, scalar_regulator

GOLDEN = (1 + np.sqrt(5)) / 2


def value(s, k: int, n: int = 25):
    """Optimal value of the scalar regulator from step k on."""
    return solve(scalar_regulator(), s, jnp.zeros(n - k, jnp.result_type(s))).value


def test_eq16_eq18_value_of_now_is_reward_plus_value_of_next_and_no_action_does_better(float64):
    s = jnp.array(1.3)
    best = solve(scalar_regulator(), s, jnp.zeros(25))
    backup = lambda a: -(s**2) - a**2 + value(s + a, 1)
    assert_close(backup(best.actions[0]), best.value, ulps=64)
    others = jnp.linspace(-2.0, 2.0, 9)
    assert jnp.all(jax.vmap(backup)(others) < best.value)
    assert jnp.max(jax.vmap(backup)(others)) > 2 * best.value
    assert abs(float(best.value) + GOLDEN * 1.3**2) < 1e-9


def test_eq17_costates_are_gradients_of_the_value_along_the_path(float64):
    best = solve(scalar_regulator(), jnp.array(1.3), jnp.zeros(25))
    for k in (0, 3):
        slope = jax.grad(lambda s, k=k: value(s, k))(best.states[k])
        assert_close(best.costates[k], slope, ulps=256)
        assert abs(float(best.costates[k + 1] - slope)) > 0.05


def test_eq17_holds_only_on_the_optimal_path(float64):
    s0, a0, theta = pendulum_start(float64)
    best = solve(pendulum(), s0, a0, theta)
    slope = jax.grad(lambda s: solve(pendulum(), s, best.actions, theta).value)(s0)
    assert_close(at0(best.costates), slope, ulps=2**20, scale=1.0)
    other = costates(pendulum(), rollout(pendulum(), s0, a0, theta), a0, theta)
    assert trees.max_abs(trees.subtract(at0(other), slope)) > 0.1


def at0(path):
    return jax.tree.map(lambda x: x[0], path)


def test_costates_tend_to_the_hjb_gradient_at_first_order_in_dt(float64):
    """ds/dt = a, cost s^2 + a^2 for all time: HJB gives V = s^2; discretely V = P s^2 with P = 1 + dt / 2 + O(dt^2)."""
    steps, errors = np.array([0.1, 0.05, 0.025]), []
    for dt in steps:
        one = jnp.ones((1, 1))
        P = lqr(one, dt * one, dt * one, dt * one, horizon=round(14 / dt)).P[0, 0, 0]
        errors.append(abs(float(P) - 1.0))
    order = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(order - 1) < steps[0]
    assert abs(errors[-1] / steps[-1] - 0.5) < steps[-1]
    assert abs(np.polyfit(np.log(steps), np.log(np.square(errors)), 1)[0] - 1) > steps[0]
