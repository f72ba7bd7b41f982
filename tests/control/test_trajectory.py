"""Optimal paths: proof by stationarity, costates as gradients of the optimal value, exact derivatives, bounds, honesty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status, trees
from learnlag_jax.control import Problem, rollout, solve, stationarity, total_reward
from learnlag_jax.testing import assert_close
from tests.control.systems import pendulum, pendulum_start, scalar_regulator

solve_pendulum = jax.jit(lambda s0, a0, theta: solve(pendulum(), s0, a0, theta))


def test_swing_up_is_stationary_and_a_maximum(dtype):
    s0, a0, theta = pendulum_start(dtype)
    got = solve_pendulum(s0, a0, theta)
    assert int(got.status) == 0
    assert got.pivot > 0
    size = 1 + float(trees.max_abs(got.costates))
    assert got.residual <= 2 * jnp.finfo(dtype).eps ** (2 / 3) * size
    assert abs(float(got.states["q"][-1]) - np.pi) < 0.1
    parts = stationarity(pendulum(), s0, got.states, got.actions, got.costates, theta)
    assert_close(trees.max_abs(parts), got.residual, ulps=64, scale=size)
    nudged = stationarity(pendulum(), s0, got.states, got.actions + 0.01, got.costates, theta)
    assert trees.max_abs(nudged) > 1e-4


def test_costate_is_the_gradient_of_the_optimal_value(float64):
    s0, a0, theta = pendulum_start(float64)
    got = solve_pendulum(s0, a0, theta)
    slope = jax.grad(lambda s0: solve_pendulum(s0, got.actions, theta).value)(s0)
    assert_close(jax.tree.map(lambda x: x[0], got.costates), slope, ulps=2**20, scale=1.0)
    h = 1e-4
    up, down = (solve_pendulum({**s0, "q": s0["q"] + e}, got.actions, theta).value for e in (h, -h))
    assert abs(float(up - down) / (2 * h) - float(got.costates["q"][0])) < 1e3 * h**2


def test_any_guess_of_the_states_will_do(float64):
    s0, a0, theta = pendulum_start(float64)
    line = {"q": jnp.linspace(0, jnp.pi, 41), "w": jnp.full(41, jnp.pi / 4)}
    got = solve(pendulum(), s0, a0, theta, states0=line)
    assert int(got.status) == 0
    assert got.residual < 1e-9
    assert float(got.states["q"][0]) == 0.0


def test_derivatives_of_the_path_match_finite_differences_in_both_modes(float64):
    s0, a0, theta = pendulum_start(float64)
    start = solve_pendulum(s0, a0, theta).actions
    path = jax.jit(lambda s0, theta: solve(pendulum(), s0, start, theta, tol=1e-12)[4:7])
    step = {"q": jnp.array(0.3), "w": jnp.array(-0.2)}, {"g": jnp.array(0.5)}
    _, forward = jax.jvp(path, (s0, theta), step)
    h = 1e-4
    moved = [path(*trees.axpy(e, step, (s0, theta))) for e in (h, -h)]
    difference = trees.scale(1 / (2 * h), trees.subtract(*moved))
    scale = float(trees.max_abs(forward))
    assert float(trees.max_abs(trees.subtract(forward, difference))) < 1e-4 * scale
    cotangent = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), forward)
    _, back = jax.vjp(path, s0, theta)
    assert_close(trees.dot(back(cotangent), step), trees.dot(cotangent, forward), ulps=2**20, scale=scale)
    assert scale > 1e-2


def test_gains_and_pivot_move_with_the_parameter(float64):
    """They come from the model of the last iterate, whose derivative is that of the whole path."""
    s0, a0, theta = pendulum_start(float64)
    start = solve_pendulum(s0, a0, theta).actions
    proof = jax.jit(lambda theta: solve(pendulum(), s0, start, theta, tol=1e-12)[7:])
    step, h = {"g": jnp.array(1.0)}, 1e-4
    _, slope = jax.jvp(proof, (theta,), (step,))
    moved = [proof(trees.axpy(e, step, theta)) for e in (h, -h)]
    difference = trees.scale(1 / (2 * h), trees.subtract(*moved))
    scale = float(trees.max_abs(slope))
    assert float(trees.max_abs(trees.subtract(slope, difference))) < 1e-4 * scale
    assert scale > 1e-2


def test_no_bounds_are_bounds_at_infinity(dtype):
    s0, a0, theta = pendulum_start(dtype)
    bounded = jax.jit(lambda *x: solve(pendulum(), *x, lower=-jnp.inf, upper=jnp.inf))(s0, a0, theta)
    free = solve_pendulum(s0, a0, theta)
    assert int(free.status) == int(bounded.status) == 0
    assert_close(free.actions, bounded.actions, ulps=2**12, scale=float(trees.max_abs(free.actions)))


def test_hessian_of_the_optimal_value_and_vmap_over_starts():
    f = lambda s: solve(scalar_regulator(), s, jnp.zeros(30)).value
    golden = (1 + np.sqrt(5)) / 2
    assert_close(jax.hessian(f)(jnp.array(0.5)), jnp.array(-2 * golden), ulps=256)
    values = jax.vmap(f)(jnp.array([1.0, 2.0, -3.0]))
    assert_close(values, -golden * jnp.array([1.0, 4.0, 9.0]), ulps=256)


def test_derivatives_pass_through_vmap_and_one_failure_stays_alone(float64):
    """Forward and reverse, by the start and by a bound; the third member starts from NaN."""
    problem = scalar_regulator()
    first = lambda s, high: solve(problem, s, jnp.zeros(3), lower=-high, upper=high).actions[0]
    starts, highs = jnp.array([0.3, 3.0, jnp.nan, -3.0]), jnp.full(4, 0.7)
    for mode in (jax.jacfwd, jax.jacrev):
        by_start, by_bound = jax.vmap(mode(first, (0, 1)))(starts, highs)
        assert_close(by_start[jnp.array([1, 3])], jnp.zeros(2), ulps=64, scale=1.0)
        assert_close(by_bound[jnp.array([0, 1, 3])], jnp.array([0.0, -1.0, 1.0]), ulps=64, scale=1.0)
        assert abs(float(by_start[0]) + 8 / 13) < 1e-9
        assert jnp.isnan(by_start[2])


def test_quadratic_convergence_near_the_solution(float64):
    s0, a0, theta = pendulum_start(float64)
    best = solve_pendulum(s0, a0, theta).actions
    near = best + 0.002 * jnp.cos(jnp.arange(40.0))
    errors = [float(jnp.max(jnp.abs(near - best)))]
    for steps in (1, 2, 3):
        got = solve(pendulum(), s0, near, theta, tol=1e-15, max_steps=steps)
        errors.append(float(jnp.max(jnp.abs(got.actions - best))))
    orders = [
        np.log(after / now) / np.log(now / before)
        for before, now, after in zip(errors, errors[1:], errors[2:], strict=False)
    ]
    assert orders[0] > 1.7, errors
    assert errors[3] < 1e-9, errors


def test_an_answer_is_a_newton_step_better_than_its_tolerance(float64):
    s0, a0, theta = pendulum_start(float64)
    loose = solve(pendulum(), s0, a0, theta, tol=1e-5)
    assert int(loose.status) == Status.converged
    assert loose.residual < 1e-8 * (1 + trees.max_abs(loose.costates))
    assert loose.residual == trees.max_abs(stationarity(pendulum(), s0, *loose[4:7], theta))
    assert_close(loose.states, rollout(pendulum(), s0, loose.actions, theta), ulps=64)


def test_bounds_hold_and_the_projected_residual_vanishes(dtype):
    s0, a0, theta = pendulum_start(dtype)
    got = jax.jit(lambda *x: solve(pendulum(), *x, lower=-3.0, upper=3.0))(s0, a0, theta)
    assert int(got.status) in (0, 1)
    assert float(jnp.max(jnp.abs(got.actions))) == 3.0
    slope = stationarity(pendulum(), s0, got.states, got.actions, got.costates, theta).action
    inside = jnp.abs(got.actions) < 3
    assert jnp.max(jnp.abs(jnp.where(inside, slope, 0))) <= 64 * 40 * jnp.finfo(dtype).eps * (
        1 + trees.max_abs(got.costates)
    )
    assert jnp.all(jnp.where(inside, 0, slope * jnp.sign(got.actions)) >= 0)
    assert jnp.max(jnp.abs(slope)) > 1e-3


def test_active_bounds_have_derivatives(float64):
    problem, s0 = scalar_regulator(), jnp.array(3.0)
    f = lambda high: solve(problem, s0, jnp.zeros(3), lower=-high, upper=high).value
    slope = jax.grad(f)(jnp.array(0.7))
    h = 1e-5
    assert abs(float(slope) - float(f(0.7 + h) - f(0.7 - h)) / (2 * h)) < 1e-6
    assert slope > 1


def test_a_saddle_is_visible(float64):
    s0, _, theta = pendulum_start(float64)
    problem = Problem(lambda s, a, k, th: -(a**2) / 2, lambda s, a, k, th: s + a, lambda s, th: s**2)
    hanging = solve(problem, jnp.array(0.0), jnp.zeros(2))
    assert hanging.residual == 0
    assert hanging.pivot < 0


def test_trouble_is_flagged_never_silent(float64):
    one, start = jnp.array(1.0), jnp.zeros(3)
    limited = solve(scalar_regulator(), one, start, max_steps=0)
    assert int(limited.status) == Status.max_steps
    assert limited.residual > 0.1
    bad = Problem(lambda s, a, k, th: -(a**2), lambda s, a, k, th: jnp.log(s - 5) + a)
    broken = solve(bad, one, start)
    assert int(broken.status) == Status.nonfinite_function
    assert jnp.isnan(broken.actions).all()
    assert int(solve(scalar_regulator(), one * jnp.nan, start).status) == Status.nonfinite_input
    crossed = solve(scalar_regulator(), one, start, lower=1.0, upper=-1.0)
    assert int(crossed.status) == Status.infeasible
    unbounded = Problem(lambda s, a, k, th: s, lambda s, a, k, th: s + a)
    assert int(solve(unbounded, one, start).status) != 0
    root = Problem(lambda s, a, k, th: -jnp.sqrt(jnp.abs(a)) - s**2, lambda s, a, k, th: s + a)
    assert int(solve(root, one, start).status) == Status.nonfinite_derivative
    steep = Problem(lambda s, a, k, th: -(a**2) - s**2, lambda s, a, k, th: s + jnp.sqrt(jnp.abs(a)))
    assert int(solve(steep, one, start).status) == Status.nonfinite_derivative
    grad = jax.grad(lambda s: jnp.sum(solve(scalar_regulator(), s, start, max_steps=0).actions))(one)
    assert jnp.isnan(grad)


def test_shapes_are_checked():
    problem, one = scalar_regulator(), jnp.array(1.0)
    for call in (
        lambda: solve(problem, one, jnp.zeros(0)),
        lambda: solve(problem, one, jnp.zeros(3), states0=jnp.zeros(3)),
        lambda: solve(problem, one, jnp.zeros(3), states0={"s": jnp.zeros(4)}),
        lambda: solve(problem, one, jnp.zeros(3), lower={"a": 0.0, "b": 1.0}),
    ):
        with pytest.raises(InputError):
            call()


def test_a_bound_of_another_shape_is_refused(float64):
    s0, a0, theta = pendulum_start(float64)
    with pytest.raises(InputError, match=r"lower: got \(3,\)"):
        solve(pendulum(), s0, a0, theta, lower=jnp.zeros(3))
    crossed = solve(pendulum(), s0, a0, theta, lower=1.0, upper=-1.0)
    assert int(crossed.status) == Status.infeasible
    assert bool(jnp.isnan(crossed.value))


def test_value_is_the_reward_of_the_actions(dtype):
    s0, a0, theta = pendulum_start(dtype)
    got = solve_pendulum(s0, a0, theta)
    assert_close(total_reward(pendulum(), s0, got.actions, theta), got.value, ulps=2**12)
