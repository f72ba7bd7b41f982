"""Factors of all leaves: by leaf, as a step uses their bases, and in stacks, as a refresh finds them.

    slots (leaf, axis, K) of one side d:   one stack (sum K, d, d)   <->   a matrix (K d, d) a slot   ->   {axis: (K, d, d)} a leaf

Comes from: `structure.bucket_slots`. Goes to: `step`, `stack`. Not public. Reference: MATH.md 7.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax.fisher import roots
from learnlag_jax.fisher.structure import Seat, Slot
from learnlag_jax.vocabulary import Array

Slots = dict[tuple[int, str, int], list[Slot]]


def parted(rows: Array, counts: Sequence[int]) -> tuple[Array, ...]:
    """The rows in pieces of so many, where XLA cannot know at which it cuts: one kernel for all pieces of a length.

    XLA on CPU compiles a kernel for every constant offset: for the bases of 60 matrices that was half the compile time of
    "eigen". It would also compile one for every scalar, but not for every array of several values.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.factors import parted
        >>> [piece.tolist() for piece in parted(jnp.array([5, 6, 7]), (1, 2))]
        [[5], [6, 7]]
    """
    starts = np.cumsum([0, *counts[:-1]])
    starts = jax.lax.optimization_barrier([np.array([start, -1], np.int32) for start in starts])
    return tuple(_picked(rows, start, count) for start, count in zip(starts, counts, strict=True))


@functools.partial(jax.jit, static_argnums=2)
def _picked(rows: Array, start: Array, count: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(rows, start[0], count, allow_negative_indices=False)


def stacked(bases: tuple[Array, ...]) -> Array:
    """(sum K, d, d) of the bases in one bucket."""
    d = bases[0].shape[-1]
    return jnp.concatenate(bases).reshape(-1, d, d)


def split(stacks: list[Array], slots: Slots) -> list[tuple[Array, ...]]:
    """One matrix a slot, of all its rows, from one stack a bucket: of bases (sum K, d, d) or of vectors (sum K, d)."""

    def pieces(stack, taken):
        rows = stack.reshape(-1, stack.shape[-1])
        return parted(rows, [K * (len(rows) // len(stack)) for *_, K in taken])

    return [pieces(stack, taken) for stack, taken in zip(stacks, slots.values(), strict=True)]


def by_leaf(values: list[tuple[Array, ...]], slots: Slots, leaves: int) -> list[dict[int, Array]]:
    """{axis: stack of its blocks} for every leaf, from one matrix a slot."""
    found: list[dict[int, Array]] = [{} for _ in range(leaves)]
    for matrices, taken in zip(values, slots.values(), strict=True):
        for (i, axis, K), matrix in zip(taken, matrices, strict=True):
            found[i][axis] = matrix.reshape(K, -1, matrix.shape[-1])
    return found


def carried(seat: Seat, mu: Array, nu: Array | None, old: dict[int, Array], new: dict[int, Array]):
    """Both moments of a leaf, turned from the old bases into the new."""
    turns = {axis: roots.turn(old[axis], new[axis]) for axis in new}
    m = seat.leave(roots.rotate(seat.enter(mu), turns, back=True))
    return m, None if nu is None else seat.leave(roots.transport(seat.enter(nu), turns))


def worst(fits: list[roots.Fit]):
    """Staleness, whitening residual and condition of the worst factor."""
    return tuple(
        functools.reduce(jnp.maximum, [jnp.max(x).astype(jnp.float32) for x in part])
        for part in zip(*fits, strict=True)
    )
