"""Largest and smallest entries that keep NaN.

`jnp.max` and `jnp.min` drop it on CPU where an array has 4096 entries or more (jaxlib 0.10: their reductions go to a library that
takes the maximum of numbers), and a residual that drops NaN calls a failure converged. So whatever judges an answer uses these.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax.vocabulary import Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def largest(x: Array, axis: int | None = None) -> Array:
    """max x, over all entries or along one axis; NaN if any of them is, -inf of nothing."""
    # of primitives alone: a function called in here, as jnp.where is, and a result that nobody uses make jaxlib 0.10 crash
    first = lambda a, b: lax.select(lax.bitwise_or(lax.gt(a, b), lax.ne(a, a)), a, b)
    axes = tuple(range(x.ndim)) if axis is None else (axis % x.ndim,)
    return lax.reduce(x, jnp.asarray(-jnp.inf, x.dtype), first, axes)


@largest.defjvp
def _largest_jvp(axis, primals, tangents):
    """That of the entry attained; of equals, the mean."""
    (x,), (dx,) = primals, tangents
    y = largest(x, axis)
    at = (x == (y if axis is None else jnp.expand_dims(y, axis))).astype(x.dtype)
    return y, jnp.sum(dx * at, axis) / jnp.sum(at, axis)


def smallest(x: Array, axis: int | None = None) -> Array:
    """min x, over all entries or along one axis; NaN if any of them is, inf of nothing."""
    return -largest(-x, axis)


def largest_size(x: Array) -> Array:
    """max |x|; NaN if any entry is, 0 of nothing."""
    return jnp.maximum(largest(jnp.abs(x)), 0)
