"""The three forms of an approach to a limit, each fitted by least squares: a search over its shape, the rest is linear.

    power         v(t) = v_inf + c (t + t0)^-b
    exponential   v(t) = v_inf + c exp(-t / tau)
    logarithmic   v(t) = m - c log(t + t0)

Comes from: positions and a curve. Goes to: `decay`. Not public.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax.vocabulary import Array

SHARPEST, SLOWEST, FASTEST = 0.25, 0.02, 8.0  # edges of the search: least 1 + t0 and tau, tokens; least and largest b


def rounding(v: Array) -> Array:
    """The size below which differences between the values of a curve say nothing."""
    return 64 * jnp.finfo(v.dtype).eps * jnp.max(jnp.abs(v))


@jax.jit
def power(t: Array, v: Array) -> tuple[Array, Array]:
    """(v_inf, c, t0, b) and the sum of squares; 1 + t0 runs from SHARPEST to the window, b from SLOWEST to FASTEST."""

    def at(point):
        t0, b = jnp.expm1(point[0]), jnp.exp(point[1])
        x = ((t + t0) / (1 + t0)) ** -b
        limit, c = _line(x, v, floor=0.0)
        return jnp.stack([limit, c * (1 + t0) ** b, t0, b]), jnp.sum((v - limit - c * x) ** 2)

    return _search(at, [SHARPEST, SLOWEST], [t[-1] + 1, FASTEST], t.dtype)


@jax.jit
def exponential(t: Array, v: Array) -> tuple[Array, Array]:
    """(v_inf, c, tau) and the sum of squares; tau from a quarter of a token to ten windows."""

    def at(point):
        tau = jnp.exp(point[0])
        x = jnp.exp(-(t - t[0]) / tau)
        limit, c = _line(x, v, floor=0.0)
        return jnp.stack([limit, c * jnp.exp(t[0] / tau), tau]), jnp.sum((v - limit - c * x) ** 2)

    return _search(at, [SHARPEST], [10 * t[-1]], t.dtype)


@jax.jit
def logarithmic(t: Array, v: Array) -> tuple[Array, Array]:
    """(m, c, t0) and the sum of squares, with t0 as for the power law."""

    def at(point):
        t0 = jnp.expm1(point[0])
        x = -jnp.log((t + t0) / (1 + t0))
        m, c = _line(x, v, floor=-np.inf)
        return jnp.stack([m + c * jnp.log1p(t0), c, t0]), jnp.sum((v - m - c * x) ** 2)

    return _search(at, [SHARPEST], [t[-1] + 1], t.dtype)


def _search(at: Callable, low, high, dtype) -> tuple[Array, Array]:
    """`at` its best point, over logarithms of shapes from `low` to `high`: a grid of 17 a side, then of 7 that closes in."""
    low, high = (jnp.log(jnp.stack([jnp.asarray(x, dtype) for x in side])) for side in (low, high))

    def best(centre, width, side):
        axes = jnp.meshgrid(*[jnp.linspace(-1, 1, side, dtype=dtype)] * len(low), indexing="ij")
        unit = jnp.stack(axes, -1).reshape(-1, len(low))
        points = jax.vmap(lambda u: jnp.clip(centre + width * u, low, high))(unit)
        return points[jnp.argmin(jax.vmap(lambda p: at(p)[1])(points))]

    def closer(state, _):
        centre, width = state
        return (best(centre, width, 7), width * 0.6), None

    half = (high - low) / 2
    start = best((low + high) / 2, half, 17), half / 4
    (centre, _), _ = jax.lax.scan(closer, start, length=20)
    return at(centre)


def _line(x: Array, v: Array, floor: float) -> tuple[Array, Array]:
    """v ~ limit + c x with c >= 0 and limit >= floor: the free fit if admissible, else the better of its edges."""
    mx, mv = jnp.mean(x), jnp.mean(v)
    spread = jnp.sum((x - mx) ** 2)
    c = jnp.sum((x - mx) * (v - mv)) / jnp.where(spread > 0, spread, jnp.ones_like(spread))
    limit = mv - c * mx
    through_zero = jnp.sum(x * v) / jnp.sum(x * x)
    c, limit = jnp.where(limit < floor, through_zero, c), jnp.maximum(limit, floor)
    return jnp.where(c < 0, jnp.maximum(mv, floor), limit), jnp.maximum(c, 0)
