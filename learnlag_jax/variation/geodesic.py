"""Geodesics, and mechanics as geometry: motions of one energy are geodesics of the Jacobi metric.

    L(s, q, w) = w' g(q) w / 2          g_Jacobi = 2 (E - V) g,   with T = v' g v / 2

The length sqrt(w' g w) does not say how fast a path is run through, so its Euler-Lagrange equation is degenerate; its square
has the same paths, run at constant speed. Goes to: `stationary_path`, `acceleration`, as any Lagrangian. Reference: MATH.md
section 2 (Fermat, Hamilton); Arnold, Mathematical Methods of Classical Mechanics, section 45.
"""

from collections.abc import Callable

import jax.numpy as jnp

from learnlag_jax import checks, trees
from learnlag_jax.variation.path import local


def geodesic_lagrangian(metric: Callable) -> Callable:
    """The Lagrangian whose motions are the geodesics of a metric, at constant speed.

        L(s, q, w) = w' g(q) w / 2

    Args:
        metric: `g(q)` -> (d, d), symmetric positive definite; q (d,).

    Returns:
        `L(s, q, w)`. The length of a path from s = 0 to 1 that solves it is sqrt(2 S), S its action.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import geodesic_lagrangian, stationary_path
        >>> sphere = geodesic_lagrangian(lambda q: jnp.diag(jnp.stack([1.0, jnp.sin(q[0])]) ** 2))
        >>> path = stationary_path(sphere, jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0]), 0.0, 1.0, intervals=64)
        >>> round(float(jnp.sqrt(2 * path.action)), 2)  # arccos(cos^2 1 + sin^2 1 cos 1) = 0.8305
        0.83

    Reference: Arnold, section 45; do Carmo, Riemannian Geometry, chapter 9.
    """

    def L(s, q, w):
        s, q, w = local(s, q, w)
        checks.shape(q, ("d",), "q")
        g = metric(q)
        checks.shape(g, (q.size, q.size), "metric(q)")
        return w @ g @ w / 2

    return L


def jacobi_lagrangian(L: Callable, energy) -> Callable:
    """The geodesic Lagrangian of the Jacobi metric: the orbits of one energy, without the time.

        J(s, q, w) = 2 (E - V(q)) T(q, w)        from L = T(q, v) - V(q), T quadratic in v

    The orbit of energy E between two points is a stationary path of J; time passes on it as dt = sqrt(T(q, w) / (E - V)) ds.

    Args:
        L: `L(t, q, v)` -> scalar, a kinetic energy quadratic in v minus a potential, both without time.
        energy: E, a scalar.

    Returns:
        `J(s, q, w)`; NaN where V >= E, which no motion of that energy enters.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import jacobi_lagrangian, stationary_path
        >>> J = jacobi_lagrangian(lambda t, q, v: v @ v / 2 - q[1], 1.0)  # a ball thrown with v^2 / 2 = 1 from height 0
        >>> ends = jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])
        >>> path = stationary_path(J, *ends, 0.0, 1.0, intervals=64, guess=lambda s: jnp.stack([s, s * (1 - s) / 4]))
        >>> int(path.status), round(float(path.value[32, 1]), 3)  # the flat parabola: (2 - sqrt 3) / 4 = 0.067
        (0, 0.067)

    Reference: Jacobi 1837; Arnold, section 45 D.
    """
    checked = checks.scalar_function(L, "L")

    def J(s, q, w):
        s, q, w = local(s, q, w)
        zero = jnp.zeros_like(s)
        potential = -checked(zero, q, trees.zeros_like(w))
        room = jnp.asarray(energy, potential.dtype) - potential
        return 2 * jnp.where(room > 0, room, jnp.nan) * (checked(zero, q, w) + potential)

    return J
