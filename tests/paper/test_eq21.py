"""Equation 21: the Hamiltonian system of a Lagrangian has the same motions."""

import jax
import jax.numpy as jnp

from learnlag_jax.testing import assert_close
from learnlag_jax.variation import (
    acceleration,
    canonical_defect,
    energy,
    hamilton_equations,
    hamiltonian,
    lift,
    momentum,
    noether,
    poisson,
)
from tests.systems import SYSTEMS


def _two_body(t, q, v):
    return (1 + q[0] ** 2) * v[0] ** 2 / 2 + v[1] ** 4 / 4 + v @ v / 2 - jnp.cos(q[0]) * q[1] ** 2


def test_hamiltons_equations_are_the_euler_lagrange_equations(float64):
    t, q, v = 0.0, jnp.array([0.4, -0.3]), jnp.array([0.7, 1.1])
    p = momentum(_two_body)(t, q, v)
    H = hamiltonian(_two_body)
    speed, force = hamilton_equations(H)(t, q, p)
    assert_close(speed, v, ulps=512)
    assert_close(H(t, q, p), energy(_two_body)(t, q, v), ulps=512, scale=2.0)
    a = acceleration(_two_body)(t, q, v)
    rate = jax.jvp(lambda q, v: momentum(_two_body)(t, q, v), (q, v), (v, a))[1]
    assert_close(force, rate, ulps=1024)
    assert float(jnp.max(jnp.abs(force + rate))) > 0.1  # the control: p' = +dH/dq


def test_brackets(float64):
    f, g = lambda t, q, p: q[0] * p[1] - q[1] * p[0], lambda t, q, p: (p @ p) / 2 - 1 / jnp.sqrt(q @ q)
    h = lambda t, q, p: jnp.sin(q[0]) * p[1] ** 2
    z = 0.0, jnp.array([1.0, 0.5]), jnp.array([-0.2, 0.8])
    assert_close(poisson(f, g)(*z), jnp.float64(0), scale=1.0)  # a central force keeps angular momentum
    assert abs(float(poisson(f, h)(*z))) > 0.1
    cycle = poisson(f, poisson(g, h))(*z) + poisson(g, poisson(h, f))(*z) + poisson(h, poisson(f, g))(*z)
    assert_close(cycle, jnp.float64(0), scale=4.0)  # Jacobi


def test_polar_coordinates_are_canonical_and_a_stretch_is_not(float64):
    polar = lambda t, q, p: (jnp.sqrt(2 * p) * jnp.sin(q), jnp.sqrt(2 * p) * jnp.cos(q))
    z = 0.0, jnp.array([0.3]), jnp.array([0.9])
    assert_close(canonical_defect(polar)(*z), jnp.zeros((2, 2)), scale=1.0)
    assert float(jnp.max(jnp.abs(canonical_defect(lambda t, q, p: (2 * q, p))(*z)))) == 1


def test_noether_with_a_quasi_symmetry_and_with_moved_time(float64):
    """A Galilean boost changes L by d/dt(m q); friction is invariant when time moves and q shrinks."""
    t = jnp.linspace(0.1, 3.0, 6)
    along = lambda charge, system: jax.vmap(lambda t: charge(*lift(SYSTEMS[system].path)(t)))(t)
    free = SYSTEMS["free particle"].lagrangian
    boost = noether(free, lambda s, t, q: q + s * t, lambda t, q: jnp.sum(q))
    assert float(jnp.ptp(along(boost, "free particle"))) < 1e-14
    plain = noether(free, lambda s, t, q: q + s * t)
    assert float(jnp.ptp(along(plain, "free particle"))) > 1
    damped = SYSTEMS["damped oscillator"].lagrangian
    moved = {"time": lambda s, t, q: t + s}
    kept = noether(damped, lambda s, t, q: q * jnp.exp(-0.1 * s), **moved)
    lost = noether(damped, lambda s, t, q: q, **moved)
    assert float(jnp.ptp(along(kept, "damped oscillator"))) < 1e-13
    assert float(jnp.ptp(along(lost, "damped oscillator"))) > 1e-2
