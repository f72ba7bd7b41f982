"""Rays: Fermat's principle against Snell's law and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax.fermat import ray


def test_snell_invariant_in_a_stratified_medium(float64):
    n = lambda x: 1.0 + 0.5 * x[1]
    misses = []
    for intervals in (32, 64):
        path = ray(n, jnp.array([0.0, 0.0]), jnp.array([2.0, 0.5]), intervals=intervals)
        assert int(path.status) == 0
        step = jnp.diff(path.points, axis=0)
        middle = (path.points[1:] + path.points[:-1]) / 2
        snell = jax.vmap(n)(middle) * step[:, 0] / jnp.linalg.norm(step, axis=1)
        misses.append(float(jnp.ptp(snell)))
    assert misses[1] < 1e-3
    assert 3.0 < misses[0] / misses[1] < 5.0  # second order
    straight = jnp.linspace(0, 1, 33)[:, None] * jnp.array([[2.0, 0.5]])
    wrong = jax.vmap(n)((straight[1:] + straight[:-1]) / 2)
    assert float(jnp.ptp(wrong)) > 0.1  # on the straight line n sin(angle) is not constant


def test_refraction_at_a_smooth_interface_obeys_snell(float64):
    n = lambda x: 1.0 + 0.5 * jax.nn.sigmoid(x[1] / 0.05)
    path = ray(n, jnp.array([-1.0, -1.0]), jnp.array([1.0, 1.0]), intervals=100)
    first, last = path.points[1] - path.points[0], path.points[-1] - path.points[-2]
    sine = lambda v: v[0] / jnp.linalg.norm(v)
    assert float(sine(first) / sine(last)) == pytest.approx(1.5, rel=1e-3)


def test_travel_time_is_least_and_its_gradient_is_the_eikonal(float64):
    n = lambda x: 1.0 + 0.5 * x[1]
    x0, x1 = jnp.array([0.0, 0.0]), jnp.array([2.0, 0.5])
    time = lambda a, b: ray(n, a, b, intervals=64).value
    straight = 1.125 * float(jnp.linalg.norm(x1))  # mean index on the chord
    assert float(time(x0, x1)) < straight
    gradient = jax.jacfwd(time, 1)(x0, x1)
    np.testing.assert_allclose(jnp.linalg.norm(gradient), n(x1), rtol=1e-3)  # |grad T| = n


def test_homogeneous_medium_is_straight_in_single_precision():
    dtype = jnp.float32
    path = ray(lambda x: 1.5 + 0 * x[0], jnp.zeros(2, dtype), jnp.asarray([3.0, 4.0], dtype), intervals=8)
    assert float(path.value) == pytest.approx(7.5, rel=1e-5)
    np.testing.assert_allclose(path.points[4], [1.5, 2.0], rtol=1e-5)
