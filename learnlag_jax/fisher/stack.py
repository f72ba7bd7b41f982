"""Small leaves of one shape worked on as one: XLA compiles their kernels once, and multiplies their matrices in one call.

    (d_1, d_2), (d_1, d_2), ..  ->  (G d_1, d_2) in G blocks

A stack looks like one leaf that is cut in blocks, so nothing that works on leaves knows of it. Parameters, moments and
updates stay as they are outside. Only "one_sided" leaves are joined, which are multiplied 15 times a step: for the few
products of the others the copies cost more than they save (4 to 30 % of a step, leaves of 64 x 64 to 256 x 64 on two
cores). Comes from: seats. Goes to: `precondition`, `step`. Not public.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp

from learnlag_jax.fisher.factors import parted
from learnlag_jax.fisher.structure import Seat
from learnlag_jax.vocabulary import Array

LIMIT = 1 << 16  # entries: a larger leaf is worth kernels of its own


class Stack(NamedTuple):
    """The places of its leaves, each one's seat, and the seat of all as one."""

    places: tuple[int, ...]
    members: tuple[Seat, ...]
    seat: Seat

    def join(self, leaves: list, like: list) -> Array | None:
        """Of all leaves of a tree those that belong here, as one; zero where one of several is None."""
        mine = [leaves[i] for i in self.places]
        if len(mine) == 1 or all(x is None for x in mine):
            return mine[0]
        dtype = like[self.places[0]].dtype
        lead = next(
            x.shape[: x.ndim - len(seat.plan.shape)]
            for x, seat in zip(mine, self.members, strict=True)
            if x is not None
        )
        parts = [
            jnp.zeros((*lead, *seat.shape), dtype) if x is None else seat.enter(x.astype(dtype))
            for x, seat in zip(mine, self.members, strict=True)
        ]
        return jnp.concatenate(parts, len(lead)).reshape(*lead, *self.seat.plan.shape)

    def split(self, joined: Array | None) -> list:
        """The leaves again."""
        if len(self.places) == 1 or joined is None:
            return [joined] * len(self.places)
        pieces = parted(self.seat.enter(joined), [1] * len(self.members))
        return [seat.leave(piece) for seat, piece in zip(self.members, pieces, strict=True)]


def stacks(seats: list[Seat]) -> list[Stack]:
    """Every leaf in one stack, most of them alone.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.stack import stacks
        >>> from learnlag_jax.fisher.structure import plan_leaf, seats
        >>> leaves = [jnp.zeros(s) for s in ((3, 5), (5, 3), (3, 1, 5))]
        >>> plans = [plan_leaf("one_sided", x.shape, max_size=64, block_size=None, merge=True) for x in leaves]
        >>> [(s.places, s.seat.shape) for s in stacks(seats(plans, leaves, [jnp.dtype("float32")] * 3))]
        [((0, 2), (2, 3, 5)), ((1,), (1, 5, 3))]
    """
    groups: dict[tuple, list[int]] = {}
    for i, seat in enumerate(seats):
        small = seat.plan.kind == "one_sided" and math.prod(seat.shape) <= LIMIT
        whole = small and seat.spec is None and seat.shape[0] == 1  # neither split over devices nor cut in blocks
        key = (seat.shape, seat.dtype) if whole else (i,)
        groups.setdefault(key, []).append(i)
    return [_stack(tuple(places), tuple(seats[i] for i in places)) for places in groups.values()]


def _stack(places: tuple[int, ...], members: tuple[Seat, ...]) -> Stack:
    first, count = members[0], len(members)
    if count == 1:
        return Stack(places, members, first)
    matrix = (count * first.shape[1], *first.shape[2:])
    plan = first.plan._replace(shape=matrix, matrix=matrix, blocks=(count, *(1 for _ in matrix[1:])))
    present = tuple(seat.present[0] for seat in members)
    return Stack(places, members, first._replace(plan=plan, present=present))


def unstacked(groups: list[Stack], values: list) -> list:
    """One value a stack -> one a leaf, in the leaves' order."""
    placed = {
        i: x
        for group, value in zip(groups, values, strict=True)
        for i, x in zip(group.places, group.split(value), strict=True)
    }
    return [placed[i] for i in range(len(placed))]
