"""What this room makes of the arrays it is given: ids in int32, masks that are booleans, reals no narrower than float32.

A token in a narrow type wraps beside the size of a vocabulary, and a mask of numbers would weigh what it should count.
Comes from: callers. Goes to: `log_probs`, `stream`, `curves`, `kinematics`, `runs`. Not public.
"""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.vocabulary import Array

LARGEST = np.iinfo(np.int32).max


def widened(x: Array) -> Array:
    """The same numbers in float32 if they are narrower: sums of halves overflow, and many functions are not made for them."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def as_ids(tokens) -> Array:
    """Integers of any width in int32; what no int32 holds becomes -1, which is no token, and never wraps to one.

    Raises:
        DTypeError: tokens that are not integers.
    """
    tokens = looked_at(tokens)
    integral = jnp.issubdtype(tokens.dtype, jnp.integer)
    checks.require(integral, "tokens", checks.describe(tokens), "integer ids", "encode the text", checks.DTypeError)
    if tokens.dtype.itemsize < 4 or tokens.dtype == np.int32:
        return jnp.asarray(tokens, jnp.int32)
    within = (tokens >= 0) & (tokens <= np.asarray(LARGEST, tokens.dtype))
    pick = jnp.where if isinstance(tokens, jax.Array) else np.where  # without x64, JAX cuts NumPy's wide ids short
    return jnp.asarray(pick(within, tokens.astype(np.int32), np.int32(-1)), jnp.int32)


def as_mask(mask, shape: tuple) -> Array:
    """Booleans of that shape, all true for None; zeros and ones in integers will do where they can be looked at.

    Raises:
        InputError: another shape, or an integer that is neither 0 nor 1. DTypeError: anything but booleans and such integers.
    """
    if mask is None:
        return jnp.ones(shape, bool)
    mask = looked_at(mask)
    checks.shape(mask, shape, "mask")
    if mask.dtype != bool:
        seen = jnp.issubdtype(mask.dtype, jnp.integer) and not checks.is_traced(mask)
        got, remedy = checks.describe(mask), "pass mask > 0, or mask.astype(bool)"
        checks.require(seen, "mask", got, "booleans, True where a token counts", remedy, checks.DTypeError)
        odd = np.argwhere((np.asarray(mask) != 0) & (np.asarray(mask) != 1))
        first = "" if not len(odd) else f"{np.asarray(mask)[tuple(odd[0])]} at index {tuple(map(int, odd[0]))}"
        checks.require(not len(odd), "mask", first, "booleans, or zeros and ones", remedy)
    return jnp.asarray(mask).astype(bool)


def looked_at(x) -> Array | np.ndarray:
    """As an array, of NumPy where it is the host's: what it holds must be seen before JAX narrows it."""
    return x if isinstance(x, jax.Array) else jnp.asarray(x) if checks.is_traced(x) else np.asarray(x)
