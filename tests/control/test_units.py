"""What a solve says must not depend on the units that rewards, actions and constraints are measured in."""

import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import Status
from learnlag_jax.control import Problem, minimise, solve, solve_constrained

UNITS = (1e-12, 1e-6, 1.0, 1e3, 1e6, 1e12)


@pytest.mark.parametrize("unit", UNITS)
def test_bounded_actions_do_not_depend_on_the_unit_of_the_reward(dtype, unit):
    """Walk to 1 in steps of 0.1 at most: four count, the last one is not seen by any cost."""
    problem = minimise(lambda s, a, k, theta: theta * (s - 1) ** 2, lambda s, a, k, theta: s + a)
    got = solve(problem, jnp.zeros((), dtype), jnp.zeros(5, dtype), jnp.asarray(unit, dtype), lower=-0.1, upper=0.1)
    assert int(got.status) == 0
    np.testing.assert_array_equal(got.actions, np.asarray([0.1, 0.1, 0.1, 0.1, 0.0], dtype))
    assert float(got.residual) <= 8 * float(jnp.finfo(dtype).eps) * unit


@pytest.mark.parametrize("bound", [1e-6, 1e-12])
def test_bounds_far_smaller_than_one_are_used_up(dtype, bound):
    problem = minimise(lambda s, a, k, theta: (1e3 * s - 0.01) ** 2, lambda s, a, k, theta: s + a)
    got = solve(problem, jnp.zeros((), dtype), jnp.zeros(4, dtype), lower=-bound, upper=bound)
    assert int(got.status) == 0
    np.testing.assert_array_equal(got.actions[:3], np.full(3, bound, dtype))


def test_one_sided_bounds_far_smaller_than_one_are_used_up(dtype):
    problem = minimise(lambda s, a, k, theta: 1e6 * (s - 1) ** 2, lambda s, a, k, theta: s + a)
    got = solve(problem, jnp.zeros((), dtype), jnp.zeros(4, dtype), upper=1e-6)
    assert int(got.status) == 0
    np.testing.assert_array_equal(got.actions[:3], np.full(3, 1e-6, dtype))


@pytest.mark.parametrize("unit", UNITS)
def test_free_actions_do_not_depend_on_the_unit_of_the_reward(dtype, unit):
    bent = Problem(lambda s, a, k, theta: -theta * (jnp.cosh(s - 3) + a**4 + a**2), lambda s, a, k, theta: s + a)
    got, right = (solve(bent, jnp.zeros((), dtype), jnp.zeros(5, dtype), jnp.asarray(x, dtype)) for x in (unit, 1.0))
    assert int(got.status) == int(right.status) == 0
    assert abs(int(got.steps) - int(right.steps)) <= 1
    np.testing.assert_allclose(got.actions, right.actions, atol=64 * float(jnp.finfo(dtype).eps))
    assert float(got.residual) <= 256 * float(jnp.finfo(dtype).eps) * unit


@pytest.mark.parametrize("unit", UNITS)
def test_actions_scale_with_their_unit(dtype, unit):
    """The same walk with actions counted in another unit."""
    bent = Problem(
        lambda s, a, k, theta: -(jnp.cosh(s - 3) + (theta * a) ** 4 + (theta * a) ** 2),
        lambda s, a, k, theta: s + theta * a,
    )
    got, right = (solve(bent, jnp.zeros((), dtype), jnp.zeros(5, dtype), jnp.asarray(x, dtype)) for x in (unit, 1.0))
    assert int(got.status) == 0
    np.testing.assert_allclose(unit * got.actions, right.actions, atol=64 * float(jnp.finfo(dtype).eps))


def test_actions_that_end_at_nothing_end(dtype):
    """All terms of dH/da vanish at the solution, so there is nothing to be small beside."""
    still = Problem(lambda s, a, k, theta: -(s**2) - a**2, lambda s, a, k, theta: s + a)
    got = solve(still, jnp.zeros((), dtype), jnp.asarray([1.0, -0.3, 0.7, 0.1], dtype))
    assert int(got.status) == 0
    assert int(got.steps) <= 2
    assert float(jnp.max(jnp.abs(got.actions))) <= 8 * float(jnp.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("reward", "constraint"), [(1e8, 1.0), (1e-8, 1.0), (1.0, 1e3), (1.0, 1e6), (1.0, 1e-9), (1e8, 1e6)]
)
def test_constraints_do_not_depend_on_units(dtype, reward, constraint):
    """To 1 in four steps, the first of them 0.1 at most: the others share the rest."""
    walk = Problem(lambda s, a, k, theta: -theta[0] * a**2, lambda s, a, k, theta: s + a)
    theta, eps = jnp.asarray([reward, constraint], dtype), float(jnp.finfo(dtype).eps)
    short = lambda s, a, k, theta: (theta[1] * (a - jnp.where(k == 0, 0.1, 1.0).astype(a.dtype)))[None]
    end = lambda s, theta: theta[1] * (s[None] - 1)
    got = solve_constrained(walk, jnp.zeros((), dtype), jnp.zeros(4, dtype), theta, terminal=end, path=short)
    assert int(got.status) == 0
    np.testing.assert_allclose(got.actions, [0.1, 0.3, 0.3, 0.3], atol=eps**0.5)
    unit = constraint / reward
    np.testing.assert_allclose(got.terminal_multiplier * unit, [-0.6], rtol=8 * eps**0.5)
    np.testing.assert_allclose(got.path_multiplier[:, 0] * unit, [0.4, 0, 0, 0], atol=8 * eps**0.5)


@pytest.mark.parametrize("constraint", [1e-9, 1.0, 1e6])
def test_what_cannot_be_reached_is_infeasible_in_any_unit(float64, constraint):
    walk = Problem(lambda s, a, k, theta: -(a**2), lambda s, a, k, theta: s + a)
    end = lambda s, theta: theta * (s[None] - 5)
    got = solve_constrained(
        walk, jnp.array(0.0), jnp.zeros(3), jnp.asarray(constraint), terminal=end, lower=-1.0, upper=1.0
    )
    assert int(got.status) == Status.infeasible
    np.testing.assert_allclose(got.actions, np.ones(3))


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_a_straight_reward_ends_at_the_bounds_and_nowhere_without(dtype, unit):
    """No curvature to measure a shift of the action block by."""
    straight = Problem(lambda s, a, k, theta: theta * (s + a), lambda s, a, k, theta: s + a)

    def run(bound):
        start = jnp.ones((), dtype), jnp.zeros(4, dtype), jnp.asarray(unit, dtype)
        return solve(straight, *start, lower=-bound, upper=bound, max_steps=20)

    held = run(1.0)
    assert int(held.status) == 0
    np.testing.assert_array_equal(held.actions, np.ones(4))
    assert int(run(jnp.inf).status) not in (Status.converged, Status.acceptable)


def test_constraints_do_not_depend_on_the_guess(dtype):
    """Steep far from its root 1: what it is at the guess says nothing about how well it must hold."""
    walk = Problem(lambda s, a, k, theta: -(a**2), lambda s, a, k, theta: s + a)
    end = lambda s, theta: (s[None] - 1) ** 3 + (s[None] - 1)
    got = solve_constrained(walk, jnp.zeros((), dtype), jnp.full(4, 10.0, dtype), terminal=end)
    assert int(got.status) == 0
    np.testing.assert_allclose(got.actions, np.full(4, 0.25), atol=float(jnp.finfo(dtype).eps) ** 0.5)
    assert float(got.violation) <= 2 * float(jnp.finfo(dtype).eps) ** 0.5


@pytest.mark.parametrize("digits", [0.06, 0.2])
def test_a_shift_of_the_origin_is_no_better_excuse_than_a_unit(dtype, digits):
    """Three metres at an easting that leaves a few digits of them: nothing is converged that they can tell apart."""
    offset = digits / 4 / float(jnp.finfo(dtype).eps)
    off = jnp.asarray(round(offset), dtype)
    cubic = Problem(lambda s, a, k, there: -0.1 * a**2 - jnp.abs(s - there) ** 3, lambda s, a, k, there: s + a)
    got, right = (solve(cubic, x, jnp.zeros(5, dtype), x + 3) for x in (off, jnp.zeros((), dtype)))
    assert int(right.status) == 0
    assert int(got.status) != Status.converged or float(got.residual) < 1e-2
    assert int(got.steps) > 0
    assert abs(float(got.value - right.value)) < digits


@pytest.mark.parametrize("horizon", [1, 40])
def test_a_path_at_rest_is_converged_from_its_own_answer(dtype, horizon):
    """Nothing moves, so no movement says what is small."""
    still = Problem(
        lambda s, a, k, there: -((s - there) ** 2) - (a - 0.3) ** 2, lambda s, a, k, there: 0.9 * s + 0.7 * a
    )
    there = jnp.asarray(2.1, dtype)
    cold = solve(still, there, jnp.zeros(horizon, dtype), there)
    warm = solve(still, there, cold.actions, there)
    assert (int(cold.status), int(warm.status), int(warm.steps)) == (0, 0, 0)
