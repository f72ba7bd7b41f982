"""Rays: the path of least optical length through a medium, on the hall's boundary solver.

    T = min over x(s) of integral n(x) |dx|                                                            (eq. 2)

The length n |v| does not say how fast a path is run through, so its Euler-Lagrange equation is degenerate; its square,
L = n(x)^2 |v|^2 / 2 over s in [0, 1], has the same paths, run at constant n |v| = T. Symbols: x (d,) position, n(x) > 0 refractive
index (time per length). Reference: Born and Wolf, Principles of Optics, chapter 3; MATH.md 2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax import checks, variation
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where


class Ray(NamedTuple):
    """A stationary path of light.

    Attributes:
        value: the optical length T (the travel time), by the midpoint rule.
        points: (intervals + 1, d) positions, ends included.
        index: Morse index: 0 where the ray is a local minimum, else the number of conjugate points passed.
        residual: (intervals - 1, d) the discrete Euler-Lagrange residual at the inner points.
        status: int32, a `Status`; `out_of_domain` where n is not positive along the path found.
        steps: int32, Newton steps.

    Example:
        >>> from learnlag_jax.fermat import Ray
        >>> Ray._fields[0]
        'value'
    """

    value: Array
    points: Array
    index: Array
    residual: Array
    status: Array | int
    steps: Array | int


def optical_length(index: Callable, points) -> Array:
    """The time along a given path through a medium, by the midpoint rule: Fermat's functional itself.

        T = integral n(x) |dx|

    In space n is the refractive index. With the error (or any information that falls or grows) as the one coordinate and
    n = 1 / eta, the inverse of the learning rate eta = - d eps / dt, it is the learning time of eq. 5: the same functional.

    Args:
        index: `index(x)` -> positive scalar, time per length.
        points: (n, d) along the path, floats.

    Returns:
        Scalar; the error falls as the square of the spacing.

    Raises:
        InputError, DTypeError: points of another shape or not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import optical_length
        >>> error = jnp.linspace(1.0, 0.25, 1001)[:, None]  # d eps / dt = - eps: from 1 to 1/4 in log 4
        >>> round(float(optical_length(lambda eps: 1 / eps[0], error)), 4)
        1.3863

    Reference: MATH.md 2, eq. 2; MATH.md 3, eq. 5.
    """
    checks.shape(points, ("n", "d"), "points")
    checks.floating(points, "points")
    n, points = checks.scalar_function(index, "index"), jnp.asarray(points)
    length = lambda a, b: n((a + b) / 2) * _norm(b - a)
    return jnp.sum(jax.vmap(length)(points[:-1], points[1:]))


def _norm(v: Array) -> Array:
    """|v|, with slope zero at zero: points that coincide add no length."""
    square = jnp.sum(v**2)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def ray(index: Callable, x0, x1, *, intervals: int = 64, guess: Callable | None = None, max_steps: int = 60) -> Ray:
    """The path of stationary optical length between two points: Fermat's principle.

        delta integral n(x) |dx| = 0

    Snell's law is its conserved quantity: where n depends on one coordinate, n sin(angle to that axis) is constant along the ray.

    Args:
        index: `index(x)` -> positive scalar n, differentiable.
        x0, x1: (d,) end points, floats.
        intervals: of the path; the error falls as intervals^-2.
        guess: `guess(s)` -> (d,), s in [0, 1]: where the search begins; the straight line if left out. Other rays may exist.
        max_steps: limit on Newton steps.

    Returns:
        `Ray`; differentiable in the end points and in what `index` closes over. Statuses of `variation.stationary_path`.

    Raises:
        InputError, DTypeError: end points of different shape or not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import ray
        >>> path = ray(lambda x: 1.0 + x[1], jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0]), intervals=64)
        >>> int(path.status), bool(path.points[32, 1] < 0), bool(path.value < 1.0)  # it bends to where n is small
        (0, True, True)

    Reference: MATH.md 2, eq. 2.
    """
    checks.shape(x0, ("d",), "x0")
    checks.same_structure(x0, x1, "x0", "x1")
    checks.floating((x0, x1), "x0")
    n = checks.scalar_function(index, "index")
    L = lambda s, x, v: n(x) ** 2 * jnp.sum(v**2) / 2
    one = jnp.ones((), jnp.result_type(x0))
    path = variation.stationary_path(L, x0, x1, 0 * one, one, intervals=intervals, guess=guess, max_steps=max_steps)
    middle = (path.value[1:] + path.value[:-1]) / 2
    inside = jnp.all(jax.vmap(n)(middle) > 0) | ~jnp.all(jnp.isfinite(path.value))
    status = first_failure(path.status, status_where(~inside, Status.out_of_domain))
    return Ray(optical_length(n, path.value), path.value, path.index, path.residual, status, path.steps)
