"""The residual: zero on the closed forms, the gradient of the action, gauge- and coordinate-free, and cheap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from learnlag_jax import InputError, trees
from learnlag_jax.testing import assert_close, assert_stationary
from learnlag_jax.variation import (
    acceleration,
    action,
    energy,
    euler_lagrange,
    first_variation,
    lift,
    momentum,
    pullback,
    total_derivative,
)
from tests.systems import SYSTEMS

SMALL = st.floats(-2, 2, width=32)


def _times(system, dtype, count=5):
    return jnp.linspace(system.start, system.stop, count, dtype=dtype)


@pytest.mark.parametrize("name", SYSTEMS)
def test_closed_forms_are_stationary(name, dtype):
    system = SYSTEMS[name]
    assert_stationary(system.lagrangian, system.path, _times(system, dtype), ulps=2e3)


@pytest.mark.parametrize("name", ["oscillator", "Kepler circle", "great circle", "soap film", "damped oscillator"])
def test_a_path_bent_a_little_is_not(name, float64):
    system = SYSTEMS[name]
    bent = lambda t: jax.tree.map(lambda q: q + 1e-4 * jnp.sin(3 * t), system.path(t))
    with pytest.raises(AssertionError, match="not stationary"):
        assert_stationary(system.lagrangian, bent, _times(system, float64), ulps=2e3)


@pytest.mark.parametrize(
    "name", ["oscillator", "Kepler circle", "damped oscillator", "charge in a field", "tree of coordinates"]
)
def test_accelerations_are_those_of_the_closed_form(name, dtype):
    system = SYSTEMS[name]
    t, q, v, a = lift(system.path, 2)(jnp.asarray(0.7, dtype))
    assert_close(acceleration(system.lagrangian)(t, q, v), a, ulps=512, scale=10.0)


@given(SMALL, SMALL, SMALL, SMALL)
def test_a_total_derivative_has_no_equation_of_motion(t, q, v, a):
    F = lambda t, q: jnp.sin(t * q) * q**2
    E = euler_lagrange(total_derivative(F))
    assert_close(E(*map(jnp.float32, (t, q, v, a))), jnp.float32(0), scale=100.0)
    other = euler_lagrange(lambda t, q, v: total_derivative(F)(t, q, v) + 0.1 * v**2)
    assert_close(other(*map(jnp.float32, (t, q, v, a))), jnp.float32(-0.2) * jnp.float32(a), scale=100.0)


def test_the_residual_is_the_gradient_of_the_action(float64):
    """dS along a bump that vanishes at both ends is the integral of E times the bump, off the true path too."""
    L = lambda t, q, v: jnp.exp(-t) * v**2 / 2 - jnp.cos(q) * (1 + v / 2)
    path = lambda t: jnp.sin(2 * t) + t**2
    bump = lambda t: (t * (1 - t)) ** 2
    E = euler_lagrange(L)
    direct = first_variation(L, path, bump, 0.0, 1.0)
    integrated = action(lambda t, q, v, a: E(t, q, v, a) * bump(t), path, 0.0, 1.0, order=2)
    assert_close(direct, integrated, scale=1.0)
    assert abs(float(direct)) > 1e-3


def test_the_action_of_a_smooth_path_is_exact_to_rounding(float64):
    L = lambda t, q, v: (v**2 - q**2) / 2
    assert abs(float(action(L, jnp.cos, 0.0, 1.0)) + np.sin(2) / 4) < 1e-15
    assert abs(float(action(L, jnp.cos, 0.0, 30.0)) + np.sin(60) / 4) < 1e-12
    assert abs(float(action(L, jnp.cos, 0.0, 30.0, panels=1, nodes=4)) + np.sin(60) / 4) > 1e-3


@given(SMALL, SMALL, SMALL, SMALL)
def test_the_residual_is_a_covector(x, y, w, z):
    """In new coordinates q = F(x) it is pulled back by the Jacobian of F."""
    L = lambda t, q, v: (v @ v) / 2 - jnp.cos(q[0]) * q[1] + v[0] * q[1]
    F = lambda t, x: jnp.stack([x[0] + 0.3 * jnp.sin(x[1]), x[1] + 0.2 * x[0] * t])
    path = lambda t: jnp.stack([x + w * t + t**2, y + z * t - t**3]).astype(jnp.float32)
    t = jnp.float32(0.4)
    new = euler_lagrange(pullback(L, F))(*lift(path, 2)(t))
    old = euler_lagrange(L)(*lift(lambda t: F(t, path(t)), 2)(t))
    assert_close(new, old @ jax.jacfwd(F, 1)(t, path(t)), ulps=512, scale=30.0)


def test_the_residual_is_not_a_vector(float64):
    """The control: without the Jacobian, or with its inverse, the residual of the new coordinates is another number."""
    L, F = lambda t, q, v: v**2 / 2 - q**4, lambda t, x: jnp.sinh(x)
    path, t = lambda t: t**2, jnp.float64(0.9)
    new = euler_lagrange(pullback(L, F))(*lift(path, 2)(t))
    old = euler_lagrange(L)(*lift(lambda t: F(t, path(t)), 2)(t))
    stretch = jnp.cosh(path(t))
    assert_close(new, old * stretch, scale=10.0)
    assert abs(float(new - old)) > 0.1
    assert abs(float(new - old / stretch)) > 0.1


def test_higher_order_lagrangians(float64):
    beam = lambda t, q, v, a: a**2 / 2 - q * 24
    path = lambda t: t**4 + t**3  # q'''' = 24
    assert_close(euler_lagrange(beam, 2)(*lift(path, 4)(jnp.float64(0.3))), jnp.float64(0), scale=24.0)
    third = lambda t, q, v, a, j: j**2 / 2 + jnp.sin(q)
    value = euler_lagrange(third, 3)(*lift(jnp.sin, 6)(jnp.float64(0.3)))
    assert_close(value, jnp.cos(jnp.sin(0.3)) + jnp.sin(0.3), scale=2.0)  # cos q - q^(6) with q = sin t


def _random_expression(rng, atoms, depth=3):
    """A random scalar of the atoms: products, sums, sines and exponentials of them."""
    if depth == 0:
        return atoms[rng.integers(len(atoms))]
    below = [_random_expression(rng, atoms, depth - 1) for _ in range(2)]
    unary = [sympy.sin, sympy.cos, lambda x: sympy.exp(-(x**2)), lambda x: x**2]
    return [
        below[0] * below[1],
        below[0] + int(rng.integers(1, 4)) * below[1],
        unary[rng.integers(4)](below[0]) * below[1],
    ][rng.integers(3)]


@pytest.mark.parametrize("order", [1, 2])
def test_random_lagrangians_against_sympy(float64, order):
    """Two coupled coordinates, explicit time, up to the fourth derivative of the path; sympy differentiates symbols."""
    t = sympy.symbols("t")
    q = [sympy.Function(name)(t) for name in "xy"]
    jet = [[x.diff(t, k) for x in q] for k in range(order + 1)]
    flat = [x for level in jet for x in level]
    symbols = sympy.symbols(f"z:{len(flat)}")
    rng = np.random.default_rng(order)
    path = [t**3 - 2 * t + 1, t**2 - t**4 / 2]
    sampled = lambda s: jnp.stack([s**3 - 2 * s + 1, s**2 - s**4 / 2])
    moving = 0
    for _ in range(6):
        random = _random_expression(rng, [t, *symbols]) + sum(z**2 for z in symbols[-2:]) * (2 + symbols[0])
        L = random.subs(list(zip(symbols, flat, strict=True)), simultaneous=True)
        equations = sympy.calculus.euler.euler_equations(L, q, t)
        left = [e.lhs.subs(list(zip(q, path, strict=True))).doit() for e in equations]
        expected = jnp.array([float(e.subs(t, sympy.Rational(7, 10))) for e in left])
        function = sympy.lambdify([t, *symbols], random, modules=jnp)
        lagrangian = lambda t, *jet, f=function: f(t, *(x[i] for x in jet for i in range(2)))
        found = euler_lagrange(lagrangian, order)(*lift(sampled, 2 * order)(jnp.float64(0.7)))
        assert_close(found, expected, ulps=4096, scale=max(10.0, float(jnp.max(jnp.abs(expected)))))
        moving += float(jnp.max(jnp.abs(expected))) > 0.1
    assert moving == 6  # the control: none of the residuals is zero for the wrong reason


def test_energy_is_conserved_or_lost_as_it_must_be(float64):
    system = SYSTEMS["Kepler circle"]
    E = jax.vmap(lambda t: energy(system.lagrangian)(*lift(system.path)(t)))(_times(system, float64))
    assert_close(E, jnp.full(5, -0.25), scale=1.0)
    driven = SYSTEMS["forced oscillator"]
    jet = lift(driven.path, 2)(jnp.float64(0.4))
    rate = total_derivative(energy(driven.lagrangian))(*jet)
    assert_close(rate, -jax.grad(driven.lagrangian)(*jet[:3]), scale=1.0)  # dE/dt = -dL/dt
    assert abs(float(rate)) > 1e-3


def _chain(t, q, v):
    """A pendulum of n links, written in O(n)."""
    x, y = jnp.cumsum(jnp.cos(q) * v), jnp.cumsum(jnp.sin(q) * v)
    return jnp.sum(x**2 + y**2) / 2 + jnp.sum(jnp.cumsum(jnp.cos(q)))


def test_the_residual_costs_a_small_constant_times_the_lagrangian():
    def flops(f, *shapes):
        arguments = [jax.ShapeDtypeStruct((100, *s), jnp.float32) for s in shapes]
        return jax.jit(jax.vmap(f)).lower(*arguments).compile().cost_analysis()["flops"]

    q = (32,)
    once = flops(_chain, (), q, q)
    assert flops(euler_lagrange(_chain), (), q, q, q) <= 4.5 * once
    blocks = lambda t, q, v, a: (
        jax.grad(_chain, 1)(t, q, v)
        - jax.jacfwd(momentum(_chain), 1)(t, q, v) @ v
        - jax.jacfwd(momentum(_chain), 2)(t, q, v) @ a
    )
    assert flops(blocks, (), q, q, q) > 20 * once  # what forming Jacobian blocks costs


def test_bad_input_is_refused_by_name():
    L = lambda t, q, v: jnp.sum(v**2)
    with pytest.raises(InputError, match="jet: got t and 2 entries"):
        euler_lagrange(L)(0.0, 1.0, 2.0)
    with pytest.raises(InputError, match="v: got"):
        euler_lagrange(L)(0.0, jnp.ones(2), jnp.ones(3), jnp.ones(2))
    with pytest.raises(TypeError, match="q: got int"):
        euler_lagrange(L)(0.0, jnp.arange(2), jnp.ones(2), jnp.ones(2))
    with pytest.raises(InputError, match=r"L: got float\d+\[2\]"):
        euler_lagrange(lambda t, q, v: v)(0.0, jnp.ones(2), jnp.ones(2), jnp.ones(2))


def test_transforms_compose(float64):
    E = euler_lagrange(SYSTEMS["damped oscillator"].lagrangian)
    jets = lift(SYSTEMS["damped oscillator"].path, 2)(jnp.float64(1.0))
    batch = jax.tree.map(lambda x: jnp.stack([x, x + 0.1]), jets)
    values = jax.jit(jax.vmap(E))(*batch)
    assert values.shape == (2,)
    slope = jax.grad(lambda a: E(*jets[:3], a))(jets[3])
    assert_close(slope, -jnp.exp(jnp.float64(0.2)), ulps=64)  # -M
    assert bool(trees.all_finite(jax.jvp(jax.remat(E), jets, jets)[1]))
