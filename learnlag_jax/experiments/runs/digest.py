"""Digests of arrays: one 32-bit number a leaf, the same on any number of devices, so that a flipped bit shows."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax.vocabulary import Array


def digest(leaves: Mapping[str, Any]) -> dict[str, str]:
    """sum of u w mod 2^32 per leaf: u the bits of an entry, w an odd hash of its index, so that any single flip shows."""
    words = {name: _bits(leaf) for name, leaf in leaves.items()}
    return {name: f"{int(value):08x}" for name, value in _digests(words).items()}


@jax.jit
def _digests(words: dict[str, Array]) -> dict[str, Array]:
    return {name: _digest(u) for name, u in words.items()}


def _digest(u: Array) -> Array:
    index = jnp.zeros(u.shape, jnp.uint32)
    for axis in range(u.ndim):
        factor = np.uint32((2654435761 * (2 * axis + 1) + axis) % 2**32)
        index += jax.lax.broadcasted_iota(jnp.uint32, u.shape, axis) * factor
    w = (index ^ (index >> np.uint32(15))) * np.uint32(0x85EBCA6B)
    w = (w ^ (w >> np.uint32(13))) | np.uint32(1)
    return jnp.sum(u.astype(jnp.uint32) * w, dtype=jnp.uint32)


def _bits(x) -> Array | np.ndarray:
    """The entries as unsigned integers of at most 32 bits; 64-bit entries become pairs."""
    if isinstance(x, Array):
        wide = x.dtype.itemsize == 8
        kind = jnp.uint8 if x.dtype == jnp.bool_ else jnp.uint32 if wide else f"uint{8 * x.dtype.itemsize}"
        return x.astype(kind) if x.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(x, kind)
    x = np.asarray(x, order="C")
    size = min(4, x.dtype.itemsize)
    flat = x.reshape(-1).view(f"u{size}")
    return flat.reshape(*x.shape, 2) if x.dtype.itemsize == 8 else flat.reshape(x.shape)
