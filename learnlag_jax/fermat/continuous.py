"""Exact designs on continuous regions: n points of a box or a sphere, moved downhill until no small move helps.

    min over x_1 .. x_n in the region of phi(sum_k f(x_k) f(x_k)' + fixed' fixed + prior)

Points are written so that the region needs no constraint, x = z / |z| on the sphere and x = low + (high - low) (1 + sin z) / 2 in a box, and
Newton descends log phi from several starts side by side. Three levels a factor, or any grid, are rarely the best of a continuum.
Reference: Pukelsheim (1993), chapter 12; MATH.md 4.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.extrema import largest_size
from learnlag_jax.fermat.criteria import Criterion, as_criterion
from learnlag_jax.fermat.exact import approximate_bound, certified_efficiency
from learnlag_jax.fermat.known import known_information
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where


class ContinuousDesign(NamedTuple):
    """n points of a region, what their observations are worth, and how much better others could be.

    Attributes:
        points: (n, d) points of the region; NaN where no regular design was found.
        value: phi of the total information, fixed rows and prior included.
        efficiency: certified against every design on a grid over the region (at most 4096 points, the design's own included).
        residual: largest derivative of log phi (of asinh phi for a criterion of the user's) along a feasible move, over the width of the box or the radius of the sphere.
        status: int32, a `Status`.
        steps: int32, Newton steps of the best start.

    Example:
        >>> from learnlag_jax.fermat import ContinuousDesign
        >>> ContinuousDesign._fields[:3]
        ('points', 'value', 'efficiency')
    """

    points: Array
    value: Array
    efficiency: Array
    residual: Array
    status: Array
    steps: Array


def continuous_design(
    model: Callable,
    region,
    n: int,
    criterion: str | Callable = "A",
    *,
    start=None,
    fixed=None,
    prior=None,
    restarts: int = 16,
    key=None,
    max_steps: int = 100,
) -> ContinuousDesign:
    """Choose n points of a box or of the unit sphere so that a criterion of their total information is least.

        min over x_k in region of phi(sum_k f(x_k) f(x_k)' + fixed' fixed + prior),   f = model

    Args:
        model: `model(x)` -> (p,) row of information at the point x (d,), smooth.
        region: (low, high), each (d,) and finite: a box; or an integer d: the unit sphere of R^d.
        n: how many points.
        criterion: a letter, a `Criterion`, or any convex phi(M), smooth near the optimum.
        start: (n, d) points of the region to polish (on the sphere of any length but 0), such as an `exact_design` on a grid, beside the random starts; or None.
        fixed: (m, p) rows already observed.
        prior: (p, p) information known beforehand.
        restarts: random starts.
        key: typed random key of the starts; None takes `jax.random.key(0)`.
        max_steps: most Newton steps from each start.

    Returns:
        `ContinuousDesign`, the best local optimum found. Statuses: `rank_deficient` (points NaN), `max_steps` if the residual
        is above the square root of the rounding unit.

    Raises:
        InputError, DTypeError: n + m < p without a prior, numbers that are not whole, low >= high, a start outside of the box, a prior
            that is none (neither of these is checked while tracing), a model that returns no vector.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import continuous_design
        >>> line = lambda x: jnp.concatenate([jnp.ones(1, x.dtype), x])
        >>> design = continuous_design(line, (jnp.array([-1.0]), jnp.array([1.0])), 4, restarts=2)
        >>> [round(abs(float(x)), 3) for x in design.points[:, 0]], round(float(design.value), 5)
        ([1.0, 1.0, 1.0, 1.0], 0.5)

    Reference: MATH.md 4.
    """
    box = None if isinstance(region, int | np.integer) else _box(region)
    d, dtype = (int(region), jnp.zeros(()).dtype) if box is None else (box[0].size, box[0].dtype)
    checks.whole(d, "region", 1, "the sphere and the box have at least one dimension")
    for number, name, least in ((n, "n", 1), (restarts, "restarts", 1), (max_steps, "max_steps", 0)):
        checks.whole(number, name, least, "pass a Python integer")
    shape = jax.eval_shape(model, jax.ShapeDtypeStruct((d,), dtype)).shape
    checks.require(len(shape) == 1, "model", f"an answer of shape {shape}", "one row (p,)", "return a vector")
    p, m = shape[0], 0 if fixed is None else jnp.shape(fixed)[0]
    checks.require(prior is not None or n + m >= p, "n", n, f"at least p = {p} rows in all", "raise n or pass a prior")
    prior = None if prior is None else known_information(prior, jnp.zeros((1, p), dtype))
    if fixed is not None:
        checks.shape(fixed, (m, p), "fixed")
        checks.finite(fixed, "fixed")
        fixed = jnp.asarray(fixed, dtype)
    base = jnp.zeros((p, p), dtype) if prior is None else prior
    base = base if fixed is None else base + fixed.T @ fixed
    phi = as_criterion(criterion, p)
    key, cloud_key = jax.random.split(checks.random_key(key))
    z = 2 * jax.random.normal(key, (restarts, n, d), dtype)
    if start is not None:
        _inside(start, (n, d), box)
        z = jnp.concatenate([_coordinates(jnp.asarray(start, dtype), box)[None], z])
    x, value, residual, steps = _descend(model, as_pytree(phi), z, box, base, max_steps)
    found = jnp.isfinite(value)
    cloud = _cloud(cloud_key, d, box, dtype)
    cloud = jnp.concatenate([jnp.where(found, x, cloud[:1]), cloud])
    efficiency = certified_efficiency(value, approximate_bound(jax.vmap(model)(cloud), phi, prior, n, fixed))
    status = first_failure(
        status_where(~found, Status.rank_deficient),
        status_where(~(residual <= jnp.sqrt(jnp.finfo(dtype).eps)), Status.max_steps),
    )
    return ContinuousDesign(jnp.where(found, x, jnp.nan), value, efficiency, residual, status, steps)


def as_pytree(phi: Callable) -> Callable:
    """phi as something that crosses `jax.jit`."""
    return phi if isinstance(phi, Criterion) else jax.tree_util.Partial(phi)


def _box(region) -> tuple[Array, Array]:
    pair = isinstance(region, tuple | list) and len(region) == 2
    got = type(region).__name__ + (f" of {len(region)}" if isinstance(region, tuple | list) else "")
    checks.require(pair, "region", got, "(low, high), or an integer", "pass two vectors, or the dimension of a sphere")
    low, high = map(jnp.asarray, region)
    checks.shape(low, ("d",), "region")
    checks.shape(high, jnp.shape(low), "region")
    checks.floating((low, high), "region")
    checks.finite((low, high), "region")
    if not checks.is_traced(low, high):
        checks.require(bool(jnp.all(low < high)), "region", f"{low} to {high}", "low < high", "swap them")
    return low, high


def _inside(start, shape: tuple, box) -> None:
    """Host gate: points to polish are points of the region, to rounding."""
    checks.shape(start, shape, "start")
    checks.finite(start, "start")
    if checks.is_traced(start, box):
        return
    x = np.asarray(start, np.float64)
    if box is None:
        checks.require(bool(np.all(np.any(x != 0, 1))), "start", "a point of length 0", "directions", "drop the point")
        return
    low, high = (np.asarray(end, np.float64) for end in box)
    slack = 4 * float(jnp.finfo(box[0].dtype).eps) * np.maximum(np.abs(low), np.abs(high))
    out = np.argwhere((x < low - slack) | (x > high + slack))
    got = "" if not len(out) else f"{x[tuple(out[0])]:g} at index {tuple(map(int, out[0]))}"
    checks.require(not len(out), "start", got, f"points of the box from {low} to {high}", "clip them, or widen the box")


def _points(z: Array, box) -> Array:
    if box is None:
        return z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    return box[0] + (box[1] - box[0]) * (1 + jnp.sin(z)) / 2


def _coordinates(x: Array, box) -> Array:
    """The inverse of `_points`, a little inside the box, where the map is not flat."""
    if box is None:
        return x
    return jnp.arcsin(jnp.clip(2 * (x - box[0][None, :]) / (box[1] - box[0])[None, :] - 1, -0.98, 0.98))


def _feasible_slope(x: Array, g: Array, box) -> Array:
    """Largest part of the gradient along moves that stay in the region, in units of its size."""
    if box is None:
        return largest_size(g - jnp.sum(g * x, 1, keepdims=True) * x)
    width = (box[1] - box[0])[None, :]
    u = (x - box[0][None, :]) / width
    return largest_size(u - jnp.clip(u - g * width, 0, 1))


@functools.partial(jax.jit, static_argnames="model")
def _descend(model: Callable, phi: Callable, starts: Array, box, base: Array, max_steps: int):
    place = jax.vmap(lambda z: _points(z, box))
    # a criterion of the user's may be negative, and asinh is a logarithm for both signs
    log, exp = (jnp.log, jnp.exp) if isinstance(phi, Criterion) else (jnp.arcsinh, jnp.sinh)

    def log_value(x):
        F = jax.vmap(model)(x)
        return log(phi(base + F.T @ F))

    def one(z):
        flat, steps = newton_descent(lambda flat: log_value(place(flat.reshape(z.shape))), z.ravel(), max_steps)
        x = place(flat.reshape(z.shape))
        value, g = jax.value_and_grad(log_value)(x)
        return x, jnp.where(jnp.isnan(value), jnp.inf, exp(value)), _feasible_slope(x, g, box), steps

    x, value, residual, steps = jax.lax.map(one, starts, batch_size=8)
    best = jnp.argmin(value)
    return x[best], value[best], residual[best], steps[best]


def newton_descent(loss: Callable, z: Array, max_steps: int) -> tuple[Array, Array]:
    """Newton with the curvatures made positive, halving a step until the loss falls; the last steps double the digits.

    Directions without curvature (turning the whole sphere, lengthening z) stay put.
    """
    eps = jnp.finfo(z.dtype).eps
    value_and_slope, hessian = jax.value_and_grad(loss), jax.hessian(loss)

    def step(state):
        z, _, k = state
        value, g = value_and_slope(z)
        H = hessian(z)
        l, U = jnp.linalg.eigh(
            jnp.where(jnp.all(jnp.isfinite(H)), H, jnp.zeros_like(H))
        )  # LAPACK may not return from NaN
        size = jnp.abs(l)
        curved = size > 1e3 * z.size * eps * jnp.max(size)
        d = -U @ (jnp.where(curved, 1 / jnp.where(curved, size, 1), 0) * (U.T @ g))
        fall = -jnp.sum(g * d)
        enough = lambda t: loss(z + t * d) <= value - 1e-4 * t * fall + 10 * eps
        t = jax.lax.while_loop(lambda t: ~enough(t) & (t > 1e-12), lambda t: t / 2, jnp.ones((), z.dtype))
        going = (fall > 10 * eps) & (t > 1e-12)  # the step that makes the fall vanish is still taken; NaN stops
        return jnp.where(t > 1e-12, z + t * d, z), going, k + 1

    state = (z, jnp.asarray(True), jnp.int32(0))
    z, _, steps = jax.lax.while_loop(lambda state: state[1] & (state[2] < max_steps), step, state)
    return z, steps


def _cloud(key: Array, d: int, box, dtype) -> Array:
    """Points all over the region: a grid of a box of few dimensions, else random ones."""
    if box is None:
        z = jax.random.normal(key, (2000, d), dtype)
        return z / jnp.linalg.norm(z, axis=1, keepdims=True)
    levels = int(np.floor(4000 ** (1 / d) + 1e-9))
    if levels >= 5:
        axes = jnp.meshgrid(*[jnp.linspace(0.0, 1.0, levels, dtype=dtype)] * d, indexing="ij")
        unit = jnp.stack(axes, -1).reshape(-1, d)
    else:
        unit = jax.random.uniform(key, (4000, d), dtype)
    return box[0][None, :] + (box[1] - box[0])[None, :] * unit
