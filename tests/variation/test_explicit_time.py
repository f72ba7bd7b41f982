"""Time enters by itself, not only through the path: driven, rheonomic and damped systems in every part of the hall."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax.testing import assert_close
from learnlag_jax.variation import (
    discrete_force,
    discrete_lagrangian,
    first_step,
    holonomic,
    integrate,
    motion,
    stationary_path,
)

T, N = 0.7, 8


@pytest.mark.parametrize("mass", ["dense", "tridiagonal", "cg", "diagonal"])
def test_driven_and_growing_masses_of_every_kind(float64, mass):
    """L = (1 + t) v'Mv/2 - t^2 q^2/2 with a force: (1 + t) M a = -M v - t^2 q + F."""
    M = np.diag(2 + np.arange(N) / N) + (0 if mass == "diagonal" else 0.3) * (np.eye(N, k=1) + np.eye(N, k=-1))
    q, v = np.random.default_rng(0).normal(size=(2, N))
    L = lambda t, q, v: (1 + t) * v @ jnp.asarray(M) @ v / 2 - t**2 * q @ q / 2
    got = motion(L, force=lambda t, q, v: t - 0.3 * v, mass=mass)(T, jnp.asarray(q), jnp.asarray(v))
    expected = np.linalg.solve((1 + T) * M, -M @ v - T**2 * q + T - 0.3 * v)
    assert int(got.status) == 0
    np.testing.assert_allclose(got.value, expected, rtol=1e-12 if mass != "cg" else 1e-7)
    np.testing.assert_allclose(got.residual, 0, atol=1e-7)


def test_a_rod_that_grows_pushes_with_the_force_of_polar_coordinates(float64):
    """|q| = r(t): the acceleration and the reaction 2 lambda q from r'' - r w^2 = -g sin + 2 lambda r, r w' + 2 r' w = -g cos."""
    r, dr, ddr, angle, w, g = 1 + 0.3 * T**2, 0.6 * T, 0.6, 0.4, 1.3, 9.8
    radial, round_ = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    q, v = r * radial, dr * radial + r * w * round_
    rod = holonomic(lambda t, q: q @ q - (1 + 0.3 * t**2) ** 2)
    got = motion(lambda t, q, v: v @ v / 2 - g * q[1], constraint=rod)(T, jnp.asarray(q), jnp.asarray(v))
    a = (ddr - r * w**2) * radial + (-g * np.cos(angle)) * round_
    multiplier = (ddr - r * w**2 + g * np.sin(angle)) / (2 * r)
    assert_close(got.value, jnp.asarray(a), ulps=256)
    assert_close(got.multipliers, jnp.asarray([multiplier]), ulps=256)


@pytest.mark.parametrize(
    "rule, stages, weights",
    [
        ("midpoint", 1, {0.5: 1.0}),
        ("trapezoid", 1, {0.0: 0.5, 1.0: 0.5}),
        ("gauss", 2, {0.5 - 12**-0.5: 0.5, 0.5 + 12**-0.5: 0.5}),
    ],
)
def test_the_step_looks_at_its_own_times_and_places(float64, rule, stages, weights):
    """L = sin(t) + t^3 q, linear in q: the path inside a step is straight, and the action is the rule's own sum."""
    h, k, q0, q1 = 0.4, 3, 1.0, 2.0
    times = {(k + c) * h: b for c, b in weights.items()}
    where = lambda t: q0 + (t / h - k) * (q1 - q0)
    by_hand = sum(h * b * (np.sin(t) + t**3 * where(t)) for t, b in times.items())
    straight = lambda t, q, v: 1e6 * v**2 / 2 + jnp.sin(t) + t**3 * q  # a mass that does not bend
    Ld = discrete_lagrangian(straight, h, rule=rule, stages=stages)
    kinetic = h * 1e6 * ((q1 - q0) / h) ** 2 / 2
    np.testing.assert_allclose(float(Ld(k, q0, q1)) - kinetic, by_hand, atol=1e-5 * abs(by_hand))


@pytest.mark.parametrize("rule", ["midpoint", "trapezoid"])
def test_the_impulses_of_a_force_belong_to_their_ends(float64, rule):
    force = lambda t, q, v: t * q + v
    h, k, q0, q1 = 0.5, 3, 1.0, 4.0
    v, t = (q1 - q0) / h, k * h
    half = (t + h / 2) * (q0 + q1) / 2 + v
    expected = (t * q0 + v, (t + h) * q1 + v) if rule == "trapezoid" else (half, half)
    got = discrete_force(force, h, rule=rule)(k, q0, q1)
    np.testing.assert_allclose(got, h / 2 * np.array(expected), rtol=1e-14)


@pytest.mark.parametrize("rule", ["midpoint", "trapezoid"])
def test_a_driven_motion_is_followed_at_second_order(float64, rule):
    """L = v^2/2 - q^2/2 + q sin(2 t): q = A cos t + B sin t - sin(2 t)/3."""
    exact = lambda t: 0.4 * np.cos(t) + 1.7 * np.sin(t) - np.sin(2 * t) / 3

    def error(n):
        h = 2.0 / n
        Ld = discrete_lagrangian(lambda t, q, v: v**2 / 2 - q**2 / 2 + q * jnp.sin(2 * t), h, rule=rule)
        start = first_step(Ld, 0.4, 1.7 - 2 / 3).value
        return abs(float(integrate(Ld, 0.4, start, n - 1)[-1]) - exact(2.0))

    errors = [error(n) for n in (10, 20, 40)]
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(slopes, 2, atol=0.2)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_a_boundary_problem_knows_when_it_begins(float64, start):
    """L = v^2/2 + q sin t: q = -sin t + a + b t between any two times, and its action."""
    L, end, n = lambda t, q, v: v**2 / 2 + q * jnp.sin(t), 3.0, 400
    exact = lambda t: -np.sin(t) + 0.5 + 2 * t
    path = stationary_path(L, exact(start), exact(end), start, end, intervals=n)
    size = ((end - start) / n) ** 2
    assert int(path.index) == 0
    np.testing.assert_allclose(path.value, exact(np.asarray(path.times)), atol=0.2 * size)
    t = np.linspace(start, end, 20001)
    speed = 2 - np.cos(t)
    action = np.trapezoid(speed**2 / 2 + exact(t) * np.sin(t), t)
    np.testing.assert_allclose(float(path.action), action, atol=size)


@pytest.mark.parametrize("n", [100, 4001])
def test_the_conjugate_time_is_the_first_of_the_grid_that_is_not_before_it(float64, n):
    h = 4.0 / n
    path = stationary_path(lambda t, q, v: v**2 / 2 - q**2 / 2, 0.0, 1.0, 0.0, 4.0, intervals=n)
    discrete = np.pi / (2 * np.arctan(h / 2) / h)  # the midpoint rule turns by 2 arctan(h/2) a step
    assert discrete <= float(path.conjugate) < discrete + h


def test_an_infinite_index_is_not_counted_and_backward_times_are_flagged(float64):
    saddle = stationary_path(
        lambda t, q, v: (v[0] ** 2 - v[1] ** 2) / 2, jnp.zeros(2), jnp.ones(2), 0.0, 1.0, intervals=9
    )
    assert (int(saddle.status), int(saddle.index)) == (0, -1)
    assert np.isnan(saddle.conjugate)
    solve = jax.jit(lambda t1: stationary_path(lambda t, q, v: v**2 / 2 - q**2 / 2, 0.0, 1.0, 0.0, t1, intervals=9))
    ends = jax.vmap(solve)(jnp.array([1.0, 0.0, -1.0]))
    assert ends.status.tolist() == [0, 13, 13]
    assert ends.index.tolist() == [0, -1, -1]
    assert np.isnan(ends.value[1:]).all()
