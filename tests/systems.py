"""Systems with closed forms: motions, motions under constraints, and fields, each with the Lagrangian they solve."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from learnlag_jax.variation import holonomic


class System(NamedTuple):
    """`lagrangian(t, q, v)` is stationary on `path(t)` for t in [start, stop]."""

    lagrangian: Callable
    path: Callable
    start: float = 0.1
    stop: float = 2.0


class Constrained(NamedTuple):
    """`lagrangian(t, q, v)` with the reactions of `constraint(t, q, v)` = 0 moves along `path(t)`."""

    lagrangian: Callable
    constraint: Callable
    path: Callable


class Field(NamedTuple):
    """`density(x, u, du)` is stationary at `field(x)`; `point` is where it may be checked."""

    density: Callable
    field: Callable
    point: tuple[float, ...]


def _sq(x):
    return jnp.sum(x**2)


def _kepler_circle(t):
    return jnp.array([2 * jnp.cos(t / 8**0.5), 2 * jnp.sin(t / 8**0.5)])


def _kepler_ellipse(t, e=0.5):
    """Kepler's equation E - e sin E = t by Newton's method, far beyond rounding."""
    E = t
    for _ in range(7):
        E = E - (E - e * jnp.sin(E) - t) / (1 - e * jnp.cos(E))
    return jnp.array([jnp.cos(E) - e, (1 - e**2) ** 0.5 * jnp.sin(E)])


def _catenary(a):
    return lambda t: a * jnp.cosh(t / a)


def _separatrix(t):
    """The pendulum (g = l = 1) from upright to upright, in infinite time."""
    return 4 * jnp.arctan(jnp.exp(t)) - jnp.pi


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
    "Kepler ellipse": System(lambda t, q, v: _sq(v) / 2 + 1 / jnp.sqrt(_sq(q)), _kepler_ellipse),
    "pendulum": System(lambda t, q, v: v**2 / 2 + jnp.cos(q), _separatrix),
    "brachistochrone": System(
        lambda s, q, w: jnp.sqrt(_sq(w) / q[1]), lambda s: jnp.stack([s - jnp.sin(s), 1 - jnp.cos(s)]), 0.5, 3.0
    ),
    "relativistic particle": System(lambda t, q, v: -jnp.sqrt(1 - v**2), lambda t: 1 + 0.6 * t),
    "relativistic, constant force": System(lambda t, q, v: -jnp.sqrt(1 - v**2) + q, lambda t: jnp.sqrt(1 + t**2)),
    "soap film": System(lambda t, q, v: q * jnp.sqrt(1 + v**2), _catenary(0.8483379380)),  # both hang on rings of
    "deep soap film": System(lambda t, q, v: q * jnp.sqrt(1 + v**2), _catenary(0.2350952021), 0.1, 0.5),  # radius 1
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


def _planar_wave(x):
    """A plane wave of light along z, polarised along y: the potential A(t, z)."""
    zero = jnp.zeros_like(x[0])
    return jnp.stack([zero, zero, jnp.cos(3 * (x[0] - x[1])), zero])


def _maxwell(x, A, dA):
    """-F F / 4 for potentials (A_t, A_x, A_y, A_z) that depend on (t, z), signature (+, -, -, -)."""
    d = jnp.stack([dA[:, 0], jnp.zeros_like(A), jnp.zeros_like(A), dA[:, 1]])  # d[i, j] = d_i A_j
    F = d - d.T
    sign = jnp.array([1.0, -1.0, -1.0, -1.0], A.dtype)
    return -jnp.sum(F**2 * sign[:, None] * sign[None, :]) / 4


def _schroedinger(x, u, du):
    """A complex field as two real ones: i psi_t + psi_xx / 2 + |psi|^2 psi = 0."""
    a, b = u["re"], u["im"]
    return b * du["re"][0] - a * du["im"][0] - (du["re"][1] ** 2 + du["im"][1] ** 2) / 2 + (a**2 + b**2) ** 2 / 2


def _soliton(x):
    return {"re": jnp.cos(x[0] / 2) / jnp.cosh(x[1]), "im": jnp.sin(x[0] / 2) / jnp.cosh(x[1])}


def _wave(V):
    return lambda x, u, du: (du[0] ** 2 - du[1] ** 2) / 2 - V(u)


def _area(x, u, du):
    return -jnp.sqrt(1 + _sq(du))


FIELDS = {
    "Klein-Gordon": Field(_wave(lambda u: u**2 / 2), lambda x: jnp.cos(1.49**0.5 * x[0] - 0.7 * x[1]), (0.3, 0.4)),
    "sine-Gordon kink": Field(
        _wave(lambda u: 1 - jnp.cos(u)), lambda x: 4 * jnp.arctan(jnp.exp((x[1] - 0.6 * x[0]) / 0.8)), (0.3, 0.4)
    ),
    "sine-Gordon breather": Field(
        _wave(lambda u: 1 - jnp.cos(u)),
        lambda x: 4 * jnp.arctan(jnp.sin(x[0] * 0.5**0.5) / jnp.cosh(x[1] * 0.5**0.5)),
        (0.9, 0.4),
    ),
    "phi^4 kink": Field(_wave(lambda u: (u**2 - 1) ** 2 / 4), lambda x: jnp.tanh(x[1] * 0.5**0.5), (0.3, 0.4)),
    "Scherk's minimal surface": Field(_area, lambda x: jnp.log(jnp.cos(x[1]) / jnp.cos(x[0])), (0.5, -0.8)),
    "helicoid": Field(_area, lambda x: jnp.arctan2(x[1], x[0]), (0.5, 0.8)),
    "point charge": Field(lambda x, u, du: -_sq(du) / 2, lambda x: 1 / jnp.sqrt(_sq(x)), (0.5, 0.8, -0.4)),
    "light": Field(_maxwell, _planar_wave, (0.2, 0.5)),
    "nonlinear Schroedinger soliton": Field(_schroedinger, _soliton, (0.7, 0.4)),
}


def _rod(t):
    return jnp.stack([jnp.sin(_separatrix(t)), -jnp.cos(_separatrix(t))])


def _dumbbell(t):
    e, c = jnp.stack([jnp.cos(1.3 * t), jnp.sin(1.3 * t)]), jnp.stack([0.5 * t, 1 - t])
    return jnp.concatenate([c + e, c - e])


def _skate(t, pull=2.0, spin=1.5):
    """On a slope: the skate cycloids across it and does not go down."""
    angle = spin * t
    return jnp.stack(
        [pull / (2 * spin**2) * jnp.sin(angle) ** 2, pull / (2 * spin**2) * (angle - jnp.sin(2 * angle) / 2), angle]
    )


def _disc(t, spin=0.8, roll=2.0):
    """An upright disc of radius 1 that rolls in a circle: place, heading, angle rolled."""
    return jnp.stack([roll / spin * jnp.sin(spin * t), -roll / spin * jnp.cos(spin * t), spin * t, roll * t])


CONSTRAINED = {
    "pendulum on a rigid rod": Constrained(lambda t, q, v: _sq(v) / 2 - q[1], holonomic(lambda t, q: _sq(q) - 1), _rod),
    "dumbbell": Constrained(lambda t, q, v: _sq(v) / 2, holonomic(lambda t, q: _sq(q[:2] - q[2:]) - 4), _dumbbell),
    "particle on a sphere": Constrained(
        lambda t, q, v: _sq(v) / 2,
        holonomic(lambda t, q: _sq(q) - 1),
        lambda t: jnp.stack([jnp.cos(2 * t), 0.6 * jnp.sin(2 * t), 0.8 * jnp.sin(2 * t)]),
    ),
    "skate on a slope": Constrained(
        lambda t, q, v: (_sq(v[:2]) + 0.3 * v[2] ** 2) / 2 + 2.0 * q[0],
        lambda t, q, v: v[0] * jnp.sin(q[2]) - v[1] * jnp.cos(q[2]),
        _skate,
    ),
    "rolling disc": Constrained(
        lambda t, q, v: (_sq(v[:2]) + v[2] ** 2 / 4 + v[3] ** 2 / 2) / 2,
        lambda t, q, v: v[:2] - v[3] * jnp.stack([jnp.cos(q[2]), jnp.sin(q[2])]),
        _disc,
    ),
}
