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


def sound(seats: list[Seat], updates: Leaves, samples: Leaves | None, mu: Leaves) -> Array:
    """True if every gradient and sample is finite and its square as well: an infinite moment would stay so for good.

    Of a leaf with factors, and of samples, |g|^2, which bounds the square of every coordinate in every basis.
    """
    given = [
        (seat.plan.kind, u.astype(m.dtype)) for seat, u, m in zip(seats, updates, mu, strict=True) if u is not None
    ]
    norms = [jnp.sum(square(u)) for kind, u in given if kind in FACTORED]
    norms += [jnp.sum(jnp.mean(square(x), 0)) for x in samples or []]
    return trees.all_finite(norms) & trees.all_finite([u for kind, u in given if kind not in FACTORED], squares=True)
