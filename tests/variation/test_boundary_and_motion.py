"""Boundary values with their index, constraints and singular masses, fields: closed forms beside what must fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status
from learnlag_jax.testing import assert_close
from learnlag_jax.variation import (
    acceleration,
    energy_momentum,
    field_euler_lagrange,
    holonomic,
    lattice_residual,
    motion,
    rayleigh,
    stationary_path,
)


def _oscillator(t, q, v):
    return (jnp.sum(v**2) - jnp.sum(q**2)) / 2


@pytest.mark.parametrize("duration", [2.0, 4.0, 8.0])
def test_the_index_counts_half_periods(float64, duration):
    path = stationary_path(_oscillator, jnp.zeros(2), jnp.ones(2), 0.0, duration, intervals=160)
    assert int(path.status) == 0
    assert int(path.index) == 2 * int(duration / np.pi)
    exact = jnp.sin(path.times) / np.sin(duration)
    assert float(jnp.max(jnp.abs(path.value[:, 0] - exact))) < 0.05 * float(jnp.max(jnp.abs(exact)))
    assert bool(jnp.isnan(path.conjugate)) == (duration < np.pi)
    assert float(jnp.max(jnp.abs(path.residual))) < 1e-11
    assert not jnp.allclose(path.value[:, 0], path.times / duration, atol=0.05)  # it did move from the straight line


def test_the_solution_is_differentiable_in_its_ends_and_parameters(float64):
    def middle(end, stiffness):
        L = lambda t, q, v: v**2 / 2 - stiffness * jnp.cosh(q)
        return stationary_path(L, 0.0, end, 0.0, 1.0, intervals=20).value[10]

    at = jnp.float64(1.0), jnp.float64(0.7)
    forward = [float(x) for x in jax.jacfwd(middle, (0, 1))(*at)]
    h = 1e-5
    numeric = [
        (middle(at[0] + h, at[1]) - middle(at[0] - h, at[1])) / (2 * h),
        (middle(at[0], at[1] + h) - middle(at[0], at[1] - h)) / (2 * h),
    ]
    assert np.allclose(forward, [float(x) for x in numeric], rtol=1e-7)
    assert np.allclose(forward, [float(x) for x in jax.grad(middle, (0, 1))(*at)], rtol=1e-9)


def test_vector_ends_are_differentiable_in_reverse_too(float64):
    def total(end):
        return jnp.sum(stationary_path(_oscillator, jnp.zeros(2), end, 0.0, 1.0, intervals=8).value ** 2)

    end = jnp.array([1.0, -2.0])
    assert_close(jax.grad(total)(end), jax.jacfwd(total)(end), ulps=512)


def test_a_failed_member_of_a_batch_does_not_spoil_the_others(float64):
    solve = lambda end: stationary_path(lambda t, q, v: v**2 / 2 + jnp.log(q), 1.0, end, 0.0, 1.0, intervals=8)
    paths = jax.vmap(solve)(jnp.array([1.5, -1.0]))
    assert int(paths.status[0]) == 0
    assert int(paths.status[1]) != 0
    assert bool(jnp.all(jnp.isnan(paths.value[1])))
    assert int(paths.index[1]) == -1


def test_times_must_run_forward():
    with pytest.raises(InputError, match="t0 < t1"):
        stationary_path(_oscillator, 0.0, 1.0, 1.0, 0.0, intervals=4)


def test_a_rigid_rod_equals_the_pendulum(dtype):
    rod = acceleration(lambda t, q, v: v @ v / 2 - 9.81 * q[1], constraint=holonomic(lambda t, q: q @ q))
    angle, rate = jnp.asarray(0.6, dtype), jnp.asarray(1.3, dtype)
    e, n = jnp.stack([jnp.sin(angle), -jnp.cos(angle)]), jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    expected = -9.81 * jnp.sin(angle) * n - rate**2 * e
    assert_close(rod(0.0, e, rate * n), expected, ulps=256, scale=10.0)
    free = acceleration(lambda t, q, v: v @ v / 2 - 9.81 * q[1])
    assert float(jnp.max(jnp.abs(free(0.0, e, rate * n) - expected))) > 1


def test_a_skate_cannot_slip_sideways(float64):
    """d'Alembert: the reaction acts across the blade; the speed along it is untouched on level ice."""
    blade = lambda t, q, v: v[0] * jnp.sin(q[2]) - v[1] * jnp.cos(q[2])
    q, v = jnp.array([0.0, 0.0, 0.4]), jnp.array([jnp.cos(0.4), jnp.sin(0.4), 2.0])
    answer = motion(lambda t, q, v: v @ v / 2, constraint=blade)(0.0, q, v)
    assert_close(answer.value, jnp.array([-2 * jnp.sin(0.4), 2 * jnp.cos(0.4), 0.0]), scale=2.0)
    assert float(jnp.max(jnp.abs(answer.residual))) < 1e-14


def test_friction_loses_power(float64):
    a = acceleration(lambda t, q, v: v**2 / 2 - q**2 / 2, force=rayleigh(lambda t, q, v: 0.2 * v**2 / 2))
    assert_close(a(0.0, 1.0, 3.0), jnp.float64(-1.6))


@pytest.mark.parametrize("mass", ["dense", "tridiagonal", "cg"])
def test_large_masses_agree(float64, mass):
    n = 40
    L = lambda t, q, v: jnp.sum(v**2) + jnp.sum(v[1:] * v[:-1]) / 2 - jnp.sum(jnp.cosh(q))
    q, v = jnp.linspace(-1, 1, n), jnp.linspace(0, 1, n)
    M = 2 * jnp.eye(n) + (jnp.eye(n, k=1) + jnp.eye(n, k=-1)) / 2
    assert_close(acceleration(L, mass=mass)(0.0, q, v), -jnp.linalg.solve(M, jnp.sinh(q)), ulps=4096)


def test_a_singular_mass_is_flagged_and_never_a_number(dtype):
    answer = motion(lambda t, q, v: (v[0] + v[1]) ** 2 / 2 - q @ q)(0.0, jnp.ones(2, dtype), jnp.ones(2, dtype))
    assert int(answer.status) == Status.singular
    assert bool(jnp.all(jnp.isnan(answer.value)))
    with pytest.raises(InputError, match="mass"):
        motion(_oscillator, mass="banded")


def test_klein_gordon_and_the_sine_gordon_kink(float64):
    density = lambda V: lambda x, u, du: (du[0] ** 2 - du[1] ** 2) / 2 - V(u)
    wave = lambda x: jnp.cos(jnp.sqrt(1 + 0.49) * x[0] - 0.7 * x[1])
    kink = lambda x: 4 * jnp.arctan(jnp.exp((x[1] - 0.6 * x[0]) / 0.8))
    x = jnp.array([0.3, 0.4])
    free, sine = (
        field_euler_lagrange(density(lambda u: u**2 / 2)),
        field_euler_lagrange(density(lambda u: 1 - jnp.cos(u))),
    )
    assert abs(float(free(wave)(x))) < 1e-14
    assert abs(float(sine(kink)(x))) < 1e-14
    assert abs(float(sine(lambda x: kink(1.1 * x))(x))) > 1e-2
    T = energy_momentum(density(lambda u: 1 - jnp.cos(u)))(kink)
    divergence = jnp.trace(jax.jacfwd(T)(x), axis1=0, axis2=2)
    assert_close(divergence, jnp.zeros(2), scale=4.0)


def test_fields_of_vectors_and_trees(float64):
    """Each component of a vector field gives its own Laplace equation, and a tree the same."""
    vector = field_euler_lagrange(lambda x, u, du: jnp.sum(du**2) / 2)
    u = lambda x: jnp.stack([x[0] ** 2 - x[1] ** 2, x[0] ** 2])
    assert_close(vector(u)(jnp.array([0.2, 0.5])), jnp.array([0.0, -2.0]), scale=4.0)
    tree = field_euler_lagrange(lambda x, u, du: jnp.sum(du["a"] ** 2) / 2 + jnp.sum(du["b"] ** 2) / 2)
    value = tree(lambda x: {"a": x[0] ** 2, "b": u(x)})(jnp.array([0.2, 0.5]))
    assert_close(value, {"a": jnp.float64(-2), "b": jnp.array([0.0, -2.0])}, scale=4.0)


def test_the_lattice_residual_tends_to_the_field_equation_at_second_order(float64):
    density = lambda x, u, du: jnp.sum(du**2) / 2 - u**3 / 3 + x[0] * u
    field = lambda x: jnp.sin(x[0]) * jnp.cos(2 * x[1])
    exact = field_euler_lagrange(density)
    errors = []
    for n in (10, 20, 40):
        axis = jnp.linspace(0, 1, n + 1)
        grid = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), -1)
        residual = lattice_residual(density, jnp.full(2, 1 / n))(jax.vmap(jax.vmap(field))(grid))
        wanted = jax.vmap(jax.vmap(exact(field)))(grid)
        errors.append(float(jnp.max(jnp.abs((residual - wanted)[1:-1, 1:-1]))))
    assert np.all(np.abs(np.diff(np.log(errors)) / np.log(0.5) - 2) < 0.2)
