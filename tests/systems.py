"""Mechanical systems with closed forms: a Lagrangian, a path that solves it, and the times where it may be checked."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp


class System(NamedTuple):
    """`lagrangian(t, q, v)` is stationary on `path(t)` for t in [start, stop]."""

    lagrangian: Callable
    path: Callable
    start: float = 0.1
    stop: float = 2.0


def _sq(x):
    return jnp.sum(x**2)


def _kepler_circle(t):
    return jnp.array([2 * jnp.cos(t / 8**0.5), 2 * jnp.sin(t / 8**0.5)])


def _catenary(t):
    return jnp.cosh(t)


def _great_circle(t):
    """The equator tilted by 1: colatitude and longitude of (cos t, sin t cos 1, sin t sin 1)."""
    z = jnp.sin(t) * jnp.sin(1.0)
    return jnp.array([jnp.arccos(z), jnp.arctan2(jnp.sin(t) * jnp.cos(1.0), jnp.cos(t))])


def _poincare(t):
    """A half circle of radius 1 in the upper half plane, at unit speed."""
    return jnp.array([jnp.tanh(t), 1 / jnp.cosh(t)])


def _underdamped(t):
    return jnp.exp(-0.1 * t) * jnp.cos(jnp.sqrt(0.99) * t)


SYSTEMS = {
    "free particle": System(lambda t, q, v: _sq(v) / 2, lambda t: jnp.stack([1 + 3 * t, 2 - t])),
    "falling body": System(lambda t, q, v: v**2 / 2 - 9.81 * q, lambda t: 1 + 2 * t - 9.81 * t**2 / 2),
    "oscillator": System(lambda t, q, v: v**2 / 2 - 2 * q**2, lambda t: jnp.cos(2 * t) + 3 * jnp.sin(2 * t)),
    "unstable oscillator": System(lambda t, q, v: v**2 / 2 + q**2 / 2, jnp.cosh),
    "damped oscillator": System(lambda t, q, v: jnp.exp(0.2 * t) * (v**2 - q**2) / 2, _underdamped),
    "forced oscillator": System(lambda t, q, v: (v**2 - q**2) / 2 + q * jnp.cos(3 * t), lambda t: -jnp.cos(3 * t) / 8),
    "charge in a field": System(
        lambda t, q, v: _sq(v) / 2 + 1.5 * (q[0] * v[1] - q[1] * v[0]) / 2,
        lambda t: jnp.array([jnp.cos(1.5 * t), -jnp.sin(1.5 * t)]),
    ),
    "Kepler circle": System(lambda t, q, v: _sq(v) / 2 + 1 / jnp.sqrt(_sq(q)), _kepler_circle),
    "isotropic oscillator": System(
        lambda t, q, v: (_sq(v) - _sq(q)) / 2, lambda t: jnp.array([2 * jnp.cos(t), jnp.sin(t)])
    ),
    "relativistic particle": System(lambda t, q, v: -jnp.sqrt(1 - v**2), lambda t: 1 + 0.6 * t),
    "relativistic, constant force": System(lambda t, q, v: -jnp.sqrt(1 - v**2) + q, lambda t: jnp.sqrt(1 + t**2)),
    "soap film": System(lambda t, q, v: q * jnp.sqrt(1 + v**2), _catenary),
    "straight line": System(lambda t, q, v: jnp.sqrt(1 + v**2), lambda t: 2 - 3 * t),
    "great circle": System(lambda t, q, v: (v[0] ** 2 + jnp.sin(q[0]) ** 2 * v[1] ** 2) / 2, _great_circle, 0.1, 1.2),
    "hyperbolic plane": System(lambda t, q, v: _sq(v) / (2 * q[1] ** 2), _poincare),
    "polar free particle": System(
        lambda t, q, v: (v[0] ** 2 + q[0] ** 2 * v[1] ** 2) / 2,
        lambda t: jnp.array([jnp.sqrt(1 + t**2), jnp.arctan(t)]),
    ),
    "rotating frame": System(
        lambda t, q, v: ((v[0] - q[1]) ** 2 + (v[1] + q[0]) ** 2) / 2,
        lambda t: jnp.array([jnp.cos(t) + t * jnp.sin(t), t * jnp.cos(t) - jnp.sin(t)]),
    ),
    "kink": System(lambda t, q, v: v**2 / 2 + (1 - jnp.cos(q)), lambda t: 4 * jnp.arctan(jnp.exp(t))),
    "growing mass": System(lambda t, q, v: t * v**2 / 2, jnp.log, 0.5, 2.0),
    "Snell, n = 1/y": System(lambda t, q, v: jnp.sqrt(1 + v**2) / q, lambda t: jnp.sqrt(9 - t**2)),
    "tree of coordinates": System(
        lambda t, q, v: (v["a"] ** 2 - q["a"] ** 2) / 2 + _sq(v["b"]) / 2,
        lambda t: {"a": jnp.sin(t), "b": jnp.stack([t, 2 * t])},
    ),
}
