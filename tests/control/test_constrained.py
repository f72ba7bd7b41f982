"""Constraints: closed forms, multipliers as prices, complementarity, obstacles, infeasibility."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status
from learnlag_jax.control import Problem, minimise, rollout, solve_constrained

N = 8


def double_integrator() -> Problem:
    """Position and rate under a held force for one second in all; least sum of a^2 / 2."""
    dt = 1 / N

    def dynamics(s, a, k, theta):
        return jnp.stack([s[0] + dt * s[1] + dt**2 / 2 * a, s[1] + dt * a])

    return minimise(lambda s, a, k, theta: a**2 / 2, dynamics)


def reach():
    """The map from forces to the end state, from rest: exact least-norm answers come from it."""
    dt = 1 / N
    return np.array([[dt**2 * (N - k - 0.5) for k in range(N)], [dt] * N])


ends_at = jax.jit(
    lambda target: solve_constrained(
        double_integrator(), jnp.zeros(2), jnp.zeros(N), target, terminal=lambda s, target: s - target, tol=1e-9
    )
)


def test_least_energy_to_a_point_has_its_closed_form_and_prices(float64):
    target, G = jnp.array([1.0, 0.0]), reach()
    got = ends_at(target)
    price = np.linalg.solve(G @ G.T, np.asarray(target))
    assert int(got.status) == 0
    assert float(got.violation) <= 1e-9
    assert np.abs(np.asarray(got.actions) - G.T @ price).max() < 1e-7
    assert np.abs(np.asarray(got.terminal_multiplier) + price).max() < 1e-6
    assert np.abs(np.asarray(got.actions) - np.mean(G.T @ price)).max() > 0.1
    slope = jax.grad(lambda target: ends_at(target).value)(target)
    assert np.abs(np.asarray(slope) + price).max() < 1e-5 * np.abs(price).max()


def test_the_path_is_differentiable_by_the_constraint_in_both_modes(float64):
    target, G = jnp.array([1.0, 0.0]), reach()
    exact = G.T @ np.linalg.inv(G @ G.T)
    for mode in (jax.jacfwd, jax.jacrev):
        got = mode(lambda target: ends_at(target).actions)(target)
        assert np.abs(np.asarray(got) - exact).max() < 1e-5 * np.abs(exact).max()


def test_an_obstacle_is_not_entered_and_pushes_back_only_where_touched(float64):
    """A point driven across a disc of radius 0.5 at the origin."""
    problem = minimise(
        lambda s, a, k, theta: jnp.sum(a**2),
        lambda s, a, k, theta: s + a,
        lambda s, theta: 100 * jnp.sum((s - jnp.array([1.0, 0.0])) ** 2),
    )
    start, guess = jnp.array([-1.0, 0.05]), jnp.tile(jnp.array([0.2, 0.0]), (10, 1))
    avoid = lambda s, a, k, theta: (0.25 - jnp.sum((s + a) ** 2))[None]
    got = solve_constrained(problem, start, guess, path=avoid, tol=1e-8)
    assert int(got.status) == 0
    distance = jnp.sqrt(jnp.sum(got.states**2, 1))
    assert jnp.min(distance) > 0.5 - 1e-6
    touched = got.path_multiplier[:, 0] > 1e-6
    assert jnp.any(touched)
    assert not jnp.all(touched)
    assert jnp.all(jnp.where(touched, jnp.abs(distance[1:] - 0.5) < 1e-6, True))
    assert float(got.complementarity) < 1e-6
    straight = rollout(problem, start, guess)
    assert jnp.min(jnp.sum(straight**2, 1)) < 0.2


def test_what_cannot_be_reached_is_flagged(float64):
    walk = Problem(lambda s, a, k, th: -(a**2), lambda s, a, k, th: s + a)
    far = solve_constrained(
        walk, jnp.array(0.0), jnp.zeros(3), terminal=lambda s, th: s[None] - 5.0, lower=-1.0, upper=1.0
    )
    assert int(far.status) in (Status.infeasible, Status.max_steps)
    assert float(far.violation) > 1.9
    with pytest.raises(InputError, match="neither"):
        solve_constrained(walk, jnp.array(0.0), jnp.zeros(3))
