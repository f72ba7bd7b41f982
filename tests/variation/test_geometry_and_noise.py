"""Geodesics, the Jacobi metric, and least actions of diffusions, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError
from learnlag_jax.testing import assert_close
from learnlag_jax.variation import (
    euler_lagrange,
    freidlin_wentzell,
    geodesic_lagrangian,
    jacobi_lagrangian,
    onsager_machlup,
    stationary_path,
)

SPHERE = geodesic_lagrangian(lambda q: jnp.diag(jnp.stack([jnp.ones_like(q[0]), jnp.sin(q[0]) ** 2])))


def test_geodesics_of_the_sphere_and_their_conjugate_point(float64):
    """Along the equator: a minimum up to the antipode, then one direction is shorter."""
    ends = lambda angle: (jnp.array([jnp.pi / 2, 0.0]), jnp.array([jnp.pi / 2, angle]))
    short, long = (stationary_path(SPHERE, *ends(angle), 0.0, 1.0, intervals=128) for angle in (3.0, 4.0))
    assert_close(jnp.sqrt(2 * short.action), jnp.float64(3.0), ulps=512)
    assert [int(short.index), int(long.index)] == [0, 1]
    assert bool(jnp.isnan(short.conjugate))
    assert abs(float(long.conjugate) * 4.0 - np.pi) < 4.0 / 64  # it is known to one or two intervals
    with pytest.raises(InputError, match="metric"):
        geodesic_lagrangian(lambda q: q)(0.0, jnp.ones(2), jnp.ones(2))


def test_orbits_of_one_energy_are_geodesics_of_the_jacobi_metric(float64):
    """A thrown ball, run through at ds = 2 (E - V) dt = |v|^2 dt: no residual; at another energy it has one."""
    L = lambda t, q, v: v @ v / 2 - 2.0 * q[1]
    q, v, a = jnp.array([0.3, 0.2]), jnp.array([1.0, 0.7]), jnp.array([0.0, -2.0])
    energy, speed = v @ v / 2 + 2.0 * q[1], v @ v
    w, bend = v / speed, (a - 2 * (v @ a) / speed * v) / speed**2  # dq/ds and d^2q/ds^2
    residual = jax.jit(lambda energy: euler_lagrange(jacobi_lagrangian(L, energy))(0.0, q, w, bend))
    assert_close(residual(energy), jnp.zeros(2), scale=8.0)
    assert float(jnp.max(jnp.abs(residual(1.05 * energy)))) > 0.01
    assert_close(jnp.sqrt(w @ w / 2 / (energy - 2.0 * q[1])), 1 / speed)  # dt / ds
    assert bool(jnp.isnan(jacobi_lagrangian(L, energy)(0.0, jnp.array([0.0, 9.0]), v)))


def test_least_paths_of_a_diffusion_give_its_exact_transition_probability(float64):
    """Ornstein-Uhlenbeck, dX = -k X dt + sigma dW: the density is Gaussian, its logarithm is minus the least action."""
    k, sigma, T, x0, x1 = 0.7, 1.4, 2.0, 0.5, 1.1
    variance = sigma**2 * (1 - np.exp(-2 * k * T)) / (2 * k)
    exact = (x1 - x0 * np.exp(-k * T)) ** 2 / (2 * variance)
    drift = lambda t, q: -k * q
    solve = lambda L: stationary_path(L, jnp.array([x0]), jnp.array([x1]), 0.0, T, intervals=400)
    rare = solve(freidlin_wentzell(drift, lambda t, q: jnp.full((1, 1), sigma)))
    assert int(rare.status) == 0
    assert int(rare.index) == 0
    assert abs(float(rare.action) - exact) < (T / 400) ** 2
    tube = solve(onsager_machlup(drift, jnp.full((1, 1), sigma)))
    assert abs(float(tube.action) - (exact - k * T / 2)) < (T / 400) ** 2
    assert abs(float(solve(freidlin_wentzell(drift)).action) - exact) > 0.1  # the noise forgotten


def test_climbing_out_of_a_well_costs_twice_its_depth(float64):
    """A drift that also swirls, orthogonal to the slope, costs nothing more; the way down is free."""
    well = lambda q: (q[0] ** 2 - 1) ** 2 / 4 + q[1] ** 2 / 2
    swirl = lambda t, q: -jax.grad(well)(q) + jnp.stack([-jax.grad(well)(q)[1], jax.grad(well)(q)[0]])
    ends = jnp.array([-1.0, 0.0]), jnp.array([-0.1, 0.0])
    late = lambda t: ends[0] + (ends[1] - ends[0]) * jnp.exp(t - 16)
    path = stationary_path(freidlin_wentzell(swirl), *ends, 0.0, 16.0, intervals=200, guess=late)
    assert int(path.status) == 0
    assert abs(float(path.action) / (2 * float(well(ends[1]) - well(ends[0]))) - 1) < 5e-3
    down = stationary_path(
        freidlin_wentzell(swirl), *ends[::-1], 0.0, 16.0, intervals=200, guess=lambda t: late(16 - t)
    )
    assert int(down.status) == 0
    assert float(down.action) < 0.01


def test_a_singular_noise_is_never_a_number(dtype):
    L = freidlin_wentzell(lambda t, q: -q, lambda t, q: jnp.ones((2, 2), dtype))
    assert bool(jnp.isnan(L(0.0, jnp.ones(2, dtype), jnp.ones(2, dtype))))
    with pytest.raises(InputError, match="drift"):
        freidlin_wentzell(lambda t, q: q[:1])(0.0, jnp.ones(2, dtype), jnp.ones(2, dtype))


def test_the_actions_themselves_by_hand(float64):
    """Values, not only residuals: a noise that mixes its coordinates, the divergence of a shear, Jacobi's factor 2."""
    q, v, sigma = jnp.array([1.0, 2.0]), jnp.array([0.5, -1.0]), jnp.array([[1.0, 0.5], [0.0, 2.0]])
    drift = lambda t, q: jnp.stack([-q[0] + 3 * q[1], -2 * q[1]])
    kick = np.linalg.solve(sigma, v - drift(0.0, q))
    for noise in (sigma, lambda t, q: sigma):
        assert_close(freidlin_wentzell(drift, noise)(0.0, q, v), jnp.asarray(kick @ kick / 2), ulps=64)
    assert_close(onsager_machlup(drift, sigma)(0.0, q, v), jnp.asarray(kick @ kick / 2 - 1.5), ulps=64)
    assert_close(onsager_machlup(drift)(0.0, q, drift(0.0, q)), jnp.float64(-1.5), ulps=8)
    E, V, m = 3.0, lambda q: q[1], jnp.diag(jnp.array([1.0, 4.0]))
    L = lambda t, q, v: v @ m @ v / 2 - V(q)
    twice = (
        2 * (E - float(V(q))) * float(v @ m @ v)
    )  # the square of the speed in Jacobi's metric, ds^2 = 2 (E - V) v'Mv
    assert_close(jacobi_lagrangian(L, E)(0.0, q, v), jnp.float64(twice / 2), ulps=64)
