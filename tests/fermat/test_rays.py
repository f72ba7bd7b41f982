"""Rays: Fermat's principle against Snell's law and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax.fermat import optical_length, ray, time_to_threshold


def test_snell_invariant_and_eikonal_in_a_stratified_medium(float64):
    n = lambda x: 1.0 + 0.5 * x[1]
    x0, x1 = jnp.array([0.0, 0.0]), jnp.array([2.0, 0.5])

    def traced(b):
        path = ray(n, x0, b, intervals=64)
        return path.value, path

    gradient, path = jax.jacfwd(traced, has_aux=True)(x1)
    assert int(path.status) == 0

    def spread(points):
        step, middle = jnp.diff(points, axis=0), (points[1:] + points[:-1]) / 2
        return float(jnp.ptp(jax.vmap(n)(middle) * step[:, 0] / jnp.linalg.norm(step, axis=1)))

    assert spread(path.points) < 1e-3  # second order in 1 / 64
    assert spread(jnp.linspace(0, 1, 65)[:, None] * x1[None, :]) > 0.1  # not so on the straight line
    assert float(path.value) < 1.125 * float(jnp.linalg.norm(x1))  # less time than the chord, whose mean index is 1.125
    np.testing.assert_allclose(jnp.linalg.norm(gradient), n(x1), rtol=1e-3)  # eikonal: |grad T| = n


def test_refraction_at_a_smooth_interface_obeys_snell(float64):
    n = lambda x: 1.0 + 0.5 * jax.nn.sigmoid(x[1] / 0.05)
    path = ray(n, jnp.array([-1.0, -1.0]), jnp.array([1.0, 1.0]), intervals=100)
    first, last = path.points[1] - path.points[0], path.points[-1] - path.points[-2]
    sine = lambda v: v[0] / jnp.linalg.norm(v)
    assert float(sine(first) / sine(last)) == pytest.approx(1.5, rel=1e-3)


def test_homogeneous_medium_is_straight_in_single_precision():
    dtype = jnp.float32
    path = ray(lambda x: 1.5 + 0 * x[0], jnp.zeros(2, dtype), jnp.asarray([3.0, 4.0], dtype), intervals=8)
    assert float(path.value) == pytest.approx(7.5, rel=1e-5)
    np.testing.assert_allclose(path.points[4], [1.5, 2.0], rtol=1e-5)


def test_the_same_functional_with_the_error_as_coordinate_is_the_learning_time(float64):
    """eq. 2 and eq. 5: T = integral n |dx| with x = eps and n = 1 / eta is the time to the threshold."""
    p, sigma2 = 4.0, 1.0
    t = jnp.linspace(p, 60.0, 20_001)
    error = sigma2 * (1 + p / t)
    eta = lambda eps: (eps[0] - sigma2) ** 2 / (p * sigma2)  # -d eps / dt at that error
    threshold = 1.2
    path = jnp.linspace(error[0], threshold, 2001)[:, None]
    crossing = time_to_threshold(t, error, threshold, interpolate=True).value
    by_length = t[0] + optical_length(lambda eps: 1 / eta(eps), path)
    np.testing.assert_allclose(by_length, crossing, rtol=1e-6)
    np.testing.assert_allclose(crossing, p * sigma2 / (threshold - sigma2), rtol=1e-6)
    wrong = t[0] + optical_length(lambda eps: eta(eps), path)  # the control: the rate itself, not its inverse
    assert abs(float(wrong - crossing)) > 1
