"""Equation 2: the path of least time. A ray in a medium, from n ds alone; Snell's law; second order in the step."""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax.variation import energy, lift, stationary_path


def _optical(x, y, slope):
    return jnp.sqrt(1 + slope**2) / y  # n = 1 / y: rays are circles about the x axis


def _circle(x):
    return jnp.sqrt(9 - x**2)


def _ray(intervals):
    end = jnp.float64(1.5)
    return stationary_path(_optical, _circle(-end), _circle(end), -end, end, intervals=intervals)


def test_the_ray_is_the_circle_at_second_order(float64):
    errors = []
    for n in (16, 32, 64):
        path = _ray(n)
        assert int(path.status) == 0
        assert int(path.index) == 0
        errors.append(float(jnp.max(jnp.abs(path.value - _circle(path.times)))))
    slopes = np.diff(np.log(errors)) / np.log(0.5)
    assert np.all(np.abs(slopes - 2) < 0.2)
    assert errors[-1] < 1e-2 * float(jnp.max(jnp.abs(_circle(path.times) - _circle(1.5))))  # a straight line is far off


def test_snells_law(float64):
    x = jnp.linspace(-1.5, 1.5, 7)
    across = lambda y: jax.vmap(lambda x: energy(_optical)(*lift(y)(x)))(x)
    assert float(jnp.ptp(across(_circle))) < 1e-15
    assert float(jnp.ptp(across(lambda x: 1.1 * _circle(x)))) > 1e-3
