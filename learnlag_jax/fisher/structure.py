"""Which structure each parameter leaf gets, and how a leaf is seen as a stack of matrices. All of it static.

A leaf of any rank is *viewed* as (K, d_1, .., d_r): unit dimensions dropped, neighbouring dimensions merged into the
most nearly square matrix, long axes cut into K blocks if asked. An axis longer than `max_size` carries no factor.
Comes from: shapes. Goes to: `precondition`. Reference: MATH.md 7; Gupta et al. 2018 on merging and blocking.
"""

import collections
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.vocabulary import Array, PyTree

STRUCTURES = ("eigen", "diagonal", "kronecker", "one_sided", "full", "none")
FACTORED = ("eigen", "kronecker", "full")  # carry factors
DIAGONALISED = ("diagonal", *FACTORED)  # have a running F that is diagonal in some basis
Slot = tuple[int, int, int]
NARROW, ROOM, LANES = 128, 1 << 18, 8
Rule = Callable[[str, tuple[int, ...]], str]


class Plan(NamedTuple):
    """What happens to one leaf.

    Attributes:
        kind: one of `STRUCTURES`.
        shape: of the leaf.
        matrix: shape after merging, (m, n), or any shape when nothing is merged.
        blocks: number of equal blocks along each axis of `matrix`.
        axes: the axes of `matrix` that carry a factor.
    """

    kind: str
    shape: tuple[int, ...]
    matrix: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    axes: tuple[int, ...] = ()

    @property
    def view(self) -> tuple[int, ...]:
        """(K, d_1, .., d_r)."""
        return math.prod(self.blocks), *(d // b for d, b in zip(self.matrix, self.blocks, strict=True))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side of the factor on each of `axes`."""
        return tuple(self.view[1 + axis] for axis in self.axes)


def plan_leaf(
    kind: str,
    shape: tuple[int, ...],
    *,
    max_size: int,
    block_size: int | None,
    merge: bool,
    aspect: float | None = None,
) -> Plan:
    """The plan of one leaf; what cannot carry the structure asked for is diagonal.

    Example:
        >>> from learnlag_jax.fisher.structure import plan_leaf
        >>> plan_leaf("eigen", (96, 4, 24), max_size=512, block_size=None, merge=True).view
        (1, 96, 96)
        >>> plan_leaf("eigen", (5000, 8), max_size=512, block_size=None, merge=True).sizes
        (8,)
        >>> plan_leaf("eigen", (64, 256), max_size=512, block_size=None, merge=True, aspect=2).sizes
        (64,)
        >>> plan_leaf("eigen", (7,), max_size=512, block_size=None, merge=True).kind
        'diagonal'
    """
    size = math.prod(shape)
    real = tuple(d for d in shape if d != 1)
    if kind in ("diagonal", "none") or size == 0:
        return Plan("none" if kind == "none" else "diagonal", shape)
    if kind == "full":
        return Plan("full", shape, (size,), (1,), (0,)) if size <= max_size else Plan("diagonal", shape)
    if kind == "kronecker" and len(real) == 1 and size <= max_size:
        return Plan("full", shape, (size,), (1,), (0,))
    if len(real) < 2:
        return Plan("diagonal", shape)
    matrix = nearly_square(real) if merge or kind == "one_sided" else real
    blocks = tuple(block_count(d, block_size) for d in matrix)
    sides = [d // b for d, b in zip(matrix, blocks, strict=True)]
    longest = min(max_size, aspect * min(sides)) if aspect and kind == "eigen" and len(sides) == 2 else max_size
    axes = tuple(i for i, d in enumerate(sides) if 1 < d <= longest)
    return Plan(kind, shape, matrix, blocks, axes) if axes or kind == "one_sided" else Plan("diagonal", shape)


def nearly_square(shape: tuple[int, ...]) -> tuple[int, int]:
    """Cut the dimensions in two groups of neighbours with the smallest sum of sides: the least state.

    Example:
        >>> from learnlag_jax.fisher.structure import nearly_square
        >>> nearly_square((3, 3, 64, 128))
        (576, 128)
    """
    cuts = [(math.prod(shape[:i]), math.prod(shape[i:])) for i in range(1, len(shape))]
    return min(cuts, key=sum)


def block_count(size: int, block_size: int | None) -> int:
    """The fewest equal blocks no longer than `block_size`; 1 if there are none of a useful size."""
    if block_size is None or size <= block_size:
        return 1
    fits = [b for b in range(2, size + 1) if size % b == 0 and size // b <= block_size]
    return fits[0] if fits and 4 * (size // fits[0]) >= block_size else 1


def view(plan: Plan, x: Array) -> Array:
    """The leaf as (K, d_1, .., d_r); leading axes of `x` beyond the leaf's own are kept in front."""
    lead = x.shape[: x.ndim - len(plan.shape)]
    if math.prod(plan.blocks) == 1:
        return x.reshape(*lead, 1, *plan.matrix)
    split = [part for d, b in zip(plan.matrix, plan.blocks, strict=True) for part in (b, d // b)]
    n, r = len(lead), len(plan.matrix)
    order = (*range(n), *(n + 2 * i for i in range(r)), *(n + 2 * i + 1 for i in range(r)))
    return x.reshape(*lead, *split).transpose(order).reshape(*lead, *plan.view)


def unview(plan: Plan, x: Array) -> Array:
    """Back to the leaf's own shape."""
    if math.prod(plan.blocks) == 1:
        return x.reshape(plan.shape)
    r = len(plan.matrix)
    order = tuple(i for pair in zip(range(r), range(r, 2 * r), strict=True) for i in pair)
    return x.reshape(*plan.blocks, *plan.view[1:]).transpose(order).reshape(plan.shape)


class Seat(NamedTuple):
    """One leaf's plan, the dtype of its moments as text, how it is split over an explicit mesh, or None, and whether there
    is a gradient this time: one answer for a leaf, one for every block of a stack."""

    plan: Plan
    dtype: str
    spec: Any
    present: tuple[bool, ...] = (True,)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the leaf as it is worked on: (K, d_1, .., d_r), or its own where nothing is viewed."""
        return self.plan.view if self.plan.matrix else self.plan.shape

    def enter(self, x: Array) -> Array:
        """The leaf as it is worked on; leading axes beyond its own are kept in front."""
        return view(self.plan, gathered(x)) if self.plan.matrix else x

    def leave(self, x: Array) -> Array:
        """Back to the leaf, where it lives."""
        if not self.plan.matrix:
            return x
        leaf = unview(self.plan, x)
        return leaf if self.spec is None else jax.sharding.reshard(leaf, jax.P(*self.spec))


def seats(plans: list[Plan], leaves: list[Array], dtypes: list[jnp.dtype]) -> list[Seat]:
    """One seat for every leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.structure import plan_leaf, seats
        >>> plan = plan_leaf("eigen", (3, 1, 5), max_size=64, block_size=None, merge=True)
        >>> seats([plan], [jnp.zeros((3, 1, 5))], [jnp.dtype("float32")])[0].shape
        (1, 3, 5)
    """
    specs = [explicit_spec(leaf) if is_sharded(leaf) else None for leaf in leaves]
    return [Seat(plan, str(dtype), spec) for plan, dtype, spec in zip(plans, dtypes, specs, strict=True)]


def gathered(x: Array) -> Array:
    """Under an explicit mesh the factors need whole axes."""
    return jax.sharding.reshard(x, jax.P(*[None] * x.ndim)) if is_sharded(x) else x


def plan_leaves(structure: str | Rule, leaves: list[tuple[str, Array]], **options) -> list[Plan]:
    """One plan per (path, leaf), from a structure's name or a rule (path, shape) -> name."""
    if isinstance(structure, str):
        named = [structure] * len(leaves)
    else:
        named = [structure(path, tuple(jnp.shape(leaf))) for path, leaf in leaves]
    for name in (structure, *named) if isinstance(structure, str) else named:
        checks.require(
            name in STRUCTURES, "structure", repr(name), "one of " + ", ".join(STRUCTURES), "choose one, or pass a rule"
        )
    return [
        plan_leaf(name, tuple(jnp.shape(leaf)), **(options | ({"merge": False} if is_sharded(leaf) else {})))
        for name, (_, leaf) in zip(named, leaves, strict=True)
    ]


def is_sharded(x) -> bool:
    """True for an array on a mesh with explicit axes whose dimensions are split: it must not be reshaped."""
    spec = explicit_spec(x)
    return spec is not None and any(axis is not None for axis in spec)


def explicit_spec(x):
    """The partition spec in the array's type, or None where the mesh is not explicit."""
    sharding = getattr(jax.typeof(x), "sharding", None) if isinstance(x, jax.Array) else None
    if sharding is None or not any("Explicit" in str(t) for t in sharding.mesh.axis_types):
        return None
    return sharding.spec


def bucket_slots(taken: list[Seat]) -> dict[tuple[int, str, int], list[Slot]]:
    """(side d, dtype, number) -> its slots (leaf, axis, K): factors that are worked on as one (sum K, d, d) stack.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.structure import bucket_slots, plan_leaf, seats
        >>> leaves = [jnp.zeros(s) for s in ((3, 5), (5, 5))]
        >>> plans = [plan_leaf("eigen", x.shape, max_size=64, block_size=None, merge=True) for x in leaves]
        >>> bucket_slots(seats(plans, leaves, [jnp.dtype("float32")] * 2))
        {(3, 'float32', 0): [(0, 0, 1)], (5, 'float32', 0): [(0, 1, 1), (1, 0, 1), (1, 1, 1)]}
    """
    slots: dict[tuple[int, str], list[Slot]] = {}
    for i, seat in enumerate(taken):
        if seat.plan.kind in FACTORED:
            for axis, d in zip(seat.plan.axes, seat.plan.sizes, strict=True):
                slots.setdefault((d, seat.dtype), []).append((i, axis, seat.shape[0]))
    return {(*side, k): part for side, found in sorted(slots.items()) for k, part in enumerate(_parts(side[0], found))}


def _parts(d: int, slots: list[Slot]) -> list[list[Slot]]:
    """Those of one side in stacks: one to compile, for narrow ones.

    Wide ones come in several, of ROOM entries if that makes no more than about LANES: the QR of one, which takes long and
    one core, then runs beside products of another. As nearly equal as can be: those of one size share their kernels.
    """
    if d <= NARROW:
        return [slots]
    total = sum(K for *_, K in slots)
    most = max(ROOM // d**2, math.ceil(total / LANES))
    room, parts = math.ceil(total / math.ceil(total / most)), [slots[:1]]
    for slot in slots[1:]:
        held = sum(K for *_, K in parts[-1])
        if held + slot[-1] > room:
            parts.append([])
        parts[-1].append(slot)
    return parts


def leaves_with_paths(tree: PyTree) -> tuple[list[tuple[str, Array]], Any]:
    """Leaves with readable paths, None kept as a leaf so that a missing gradient keeps its place."""
    pairs, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)
    parents = collections.Counter(path[:-1] for path, _ in pairs)
    return [(_readable(path, parents), leaf) for path, leaf in pairs], treedef


def _readable(path: tuple, parents: collections.Counter) -> str:
    """As JAX prints it, less the `.value` of a flax variable, the one thing in its place: `nnx.Optimizer` gives variables to
    `init` and bare arrays to `update`."""
    inner = path and path[-1] == jax.tree_util.GetAttrKey("value") and parents[path[:-1]] == 1
    return jax.tree_util.keystr(path[:-1] if inner else path)
