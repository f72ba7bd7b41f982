"""What a step is given: gradients and, where F is not theirs, samples; each as its leaf is worked on.

Comes from: `precondition`. Goes to: `step`. Not public. Reference: MATH.md 6, 7.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from learnlag_jax import trees
from learnlag_jax.fisher import roots
from learnlag_jax.fisher.moments import square
from learnlag_jax.fisher.structure import FACTORED, Seat
from learnlag_jax.vocabulary import Array

Leaves = list[Any]  # arrays, or None where there is nothing


def entered(seat: Seat, u, mu: Array) -> Array:
    """A gradient as it is worked on, in the dtype of the momentum; zero where there is none."""
    return seat.enter(jnp.zeros(mu.shape, mu.dtype) if u is None else u.astype(mu.dtype))


def second(seat: Seat, moment_of: Callable, u, x, mu: Array) -> Array:
    """A second moment of the gradient, or its mean over the samples x."""
    if x is None:
        return moment_of(entered(seat, u, mu))
    return jnp.mean(jax.vmap(moment_of)(seat.enter(x)), 0)


def along(seat: Seat, axis: int, u, x, mu: Array) -> Array:
    """The second moment seen along one axis, (K, d, d)."""
    return second(seat, lambda stack: roots.axis_moment(stack, axis), u, x, mu)


def filled(samples: Leaves, mu: Leaves) -> Leaves:
    """Samples in the dtypes of the moments, zero where a leaf has none."""
    count = next((len(s) for s in samples if s is not None), 1)
    return [
        jnp.zeros((count, *m.shape), m.dtype) if s is None else s.astype(m.dtype)
        for s, m in zip(samples, mu, strict=True)
    ]


def sound(seats: list[Seat], sides: list[Array], updates: Leaves, samples: Leaves | None, mu: Leaves) -> Array:
    """True if every gradient and sample is finite and its square as well: an infinite moment would stay so for good.

    Where a leaf has factors its second moments along them say so without another pass over it: the trace of g g' is |g|^2,
    which bounds the square of every coordinate in every basis.
    """
    traces = [jnp.trace(A, axis1=-2, axis2=-1).real for A in sides]
    others = lambda leaves: [x for seat, x in zip(seats, leaves, strict=True) if seat.plan.kind not in FACTORED]
    given = [None if u is None else u.astype(m.dtype) for u, m in zip(updates, mu, strict=True)]
    moments = [] if samples is None else [jnp.mean(square(x), 0) for x in others(samples)]
    return trees.all_finite([traces, moments]) & trees.all_finite(
        others(given) if samples is None else given, squares=True
    )
