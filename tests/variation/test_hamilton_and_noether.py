"""Phase space, brackets and conserved charges, each beside what is not conserved."""

import jax
import jax.numpy as jnp
import pytest

from learnlag_jax.testing import assert_close
from learnlag_jax.variation import (
    acceleration,
    damped,
    hamilton_equations,
    hamiltonian,
    lift,
    momentum,
    noether,
    poisson,
    pullback,
)
from tests.systems import SYSTEMS


@pytest.mark.parametrize(
    "name", ["Kepler ellipse", "relativistic, constant force", "damped oscillator", "rotating frame", "pendulum"]
)
def test_hamiltons_equations_hold_on_the_closed_forms(name, float64):
    system = SYSTEMS[name]
    t = jnp.float64(0.7)
    phase = lambda t: (system.path(t), momentum(system.lagrangian)(*lift(system.path)(t)))
    (q, p), rates = jax.jit(lambda t: jax.jvp(phase, (t,), (jnp.ones_like(t),)))(t)
    flow = jax.jit(hamilton_equations(hamiltonian(system.lagrangian)))
    assert_close(flow(t, q, p), rates, ulps=512, scale=8.0)
    wrong = flow(t, q, p + 0.1)
    assert max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(wrong, rates, strict=True)) > 1e-2


def test_angular_momenta_close_under_brackets(float64):
    spin = lambda i: lambda t, q, p: jnp.cross(q, p)[i]
    q, p = jnp.array([0.3, -1.0, 2.0]), jnp.array([1.0, 0.5, -0.7])
    assert_close(poisson(spin(0), spin(1))(0.0, q, p), spin(2)(0.0, q, p))
    assert abs(float(poisson(spin(1), spin(0))(0.0, q, p) - spin(2)(0.0, q, p))) > 0.1


def _constant(charge, system, times=(0.3, 0.9, 1.6)):
    return float(jnp.ptp(jax.jit(jax.vmap(lambda t: charge(*lift(system.path)(t))))(jnp.array(times))))


def test_scaling_time_and_place_of_a_free_fall_in_an_inverse_square_potential(float64):
    """L = v^2/2 - g/q^2: t -> t e^{2s}, q -> q e^s keeps L dt; for an oscillator it does not."""
    L = lambda t, q, v: v**2 / 2 - 0.5 / q**2
    path = lambda t: jnp.sqrt(1 + t**2)  # q'' = q^-3
    scale, slower = lambda s, t, q: q * jnp.exp(s), lambda s, t, q: t * jnp.exp(2 * s)
    system = SYSTEMS["oscillator"]._replace(lagrangian=L, path=path)
    assert _constant(noether(L, scale, time=slower), system) < 1e-14
    oscillator = SYSTEMS["oscillator"]
    assert _constant(noether(oscillator.lagrangian, scale, time=slower), oscillator) > 0.1


def test_a_moving_frame_has_its_fictitious_forces(float64):
    """q = R(t) x at rate w: x'' = 2 w J v + w^2 x and nothing else, from a free particle."""
    w, J = 0.8, jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    turn = lambda t, x: jnp.stack(
        [x[0] * jnp.cos(w * t) - x[1] * jnp.sin(w * t), x[0] * jnp.sin(w * t) + x[1] * jnp.cos(w * t)]
    )
    x, v = jnp.array([1.0, -0.5]), jnp.array([0.3, 0.6])
    a = jax.jit(acceleration(pullback(lambda t, q, v: v @ v / 2, turn)))(0.4, x, v)
    assert_close(a, 2 * w * J @ v + w**2 * x, scale=4.0)
    assert float(jnp.max(jnp.abs(a - w**2 * x))) > 0.1


def test_friction_by_a_factor_equals_friction_by_a_force(float64):
    L = lambda t, q, v: jnp.cosh(v) - q**4
    at = lambda a: jax.jit(a)(*map(jnp.float64, (1.7, 0.5, 0.9)))
    E = at(acceleration(damped(L, 0.3)))
    pushed = at(acceleration(L, force=lambda t, q, v: -0.3 * momentum(L)(t, q, v)))
    assert_close(E, pushed)
    assert abs(float(E - at(acceleration(L)))) > 0.1


def test_the_rate_of_a_function_is_its_bracket_with_the_energy_and_its_explicit_rate(float64):
    H = lambda t, q, p: p @ p / 2 - 1 / jnp.sqrt(q @ q)
    grow = lambda t, q, p: t * q @ p
    at = jnp.float64(0.7), jnp.array([1.0, 0.2]), jnp.array([-0.3, 0.9])
    rate, bracket = jax.jit(
        lambda t, q, p: (
            jax.jvp(grow, (t, q, p), (jnp.ones_like(t), *hamilton_equations(H)(t, q, p)))[1],
            poisson(grow, H)(t, q, p),
        )
    )(*at)
    assert_close(rate, bracket + at[1] @ at[2], scale=4.0)
    assert abs(float(rate - bracket)) > 0.05  # the explicit time forgotten
