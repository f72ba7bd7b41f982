"""Largest and smallest entries that keep NaN.

`jnp.max` and `jnp.min` drop it on CPU where an array has 4096 entries or more (jaxlib 0.10: their reductions go to a library that
takes the maximum of numbers), and a residual that drops NaN calls a failure converged. So whatever judges an answer uses these.
NaN is looked for apart: a reduction of our own making cannot cross devices.
"""

import jax.numpy as jnp

from learnlag_jax.vocabulary import Array


def largest(x: Array, axis: int | None = None) -> Array:
    """max x, over all entries or along one axis; NaN if any of them is, -inf of nothing."""
    number = jnp.max(x, axis, initial=-jnp.inf)
    return jnp.where(jnp.any(jnp.isnan(x), axis), jnp.asarray(jnp.nan, x.dtype), number)


def smallest(x: Array, axis: int | None = None) -> Array:
    """min x, over all entries or along one axis; NaN if any of them is, inf of nothing."""
    return -largest(-x, axis)


def largest_size(x: Array) -> Array:
    """max |x|; NaN if any entry is, 0 of nothing."""
    return jnp.maximum(largest(jnp.abs(x)), 0)
