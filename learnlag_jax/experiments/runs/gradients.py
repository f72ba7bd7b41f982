"""Loss and gradient of a batch that all devices share: each sums its own pieces, then the sums meet.

Comes from: `summation`, `placement`. Goes to: `program`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from learnlag_jax.experiments.runs import summation
from learnlag_jax.experiments.runs.placement import Placement, on, shapes
from learnlag_jax.vocabulary import Array, PyTree


def place(at: Placement, parts: PyTree) -> list[PyTree]:
    """All pieces of a batch (see `summation.cut`) on each of this process's devices."""
    return [jax.device_put(parts, device) for device in at.own]


class Gradients(NamedTuple):
    """Compiled for one task on some devices.

    Attributes:
        like: shape of the total.
        flag: bool -> the `stop` argument.
        total: `total(position, placed batch, flag)` -> the mean loss and gradient of all pieces, on this process's first device,
            and whether any process has set the flag. `position`: (params, key, step), on that device.
    """

    like: PyTree
    flag: Callable[[bool], Array]
    total: Callable[[PyTree, list[PyTree], Array], tuple[PyTree, Array]]


def compile_gradients(loss: Callable, at: Placement, position: PyTree, batch: PyTree, pieces: int) -> Gradients:
    """`position`: shapes of (params, key, step); `batch`: of the shape that all have."""
    share = np.int32(pieces // at.mesh.size)
    own = [(i, d) for i, d in enumerate(at.mesh.devices.flat) if d in at.own]
    branch = jax.jit(summation.branch(loss, pieces))
    like = [(shapes(position, d), shapes(summation.cut(batch, pieces), d), share, share) for _, d in own]
    lowered = [branch.lower(*arguments) for arguments in like]  # the same program for each: the same code and bits
    with ThreadPoolExecutor() as pool:
        compiled = list(pool.map(lambda program: program.compile(), lowered))
    shape = shapes(jax.eval_shape(branch, *like[0]), at.own[0])
    meet, flag = _meeting(at, shape)

    def total(position, placed, flag):
        near = [position, *(jax.device_put(position, d) for _, d in own[1:])]
        each = zip(own, compiled, near, placed, strict=True)
        return meet([run(p, parts, np.int32(i) * share, share) for (i, _), run, p, parts in each], flag)

    return Gradients(shape, flag, total)


def _meeting(at: Placement, like: PyTree) -> tuple[Callable, Callable]:
    """How the sums of the devices meet, and what a flag is."""
    n = at.mesh.size
    if n == 1:
        return lambda sums, flag: (sums[0], flag), np.bool_
    split = NamedSharding(at.mesh, P("data"))
    one = lambda *x: jax.make_array_from_single_device_arrays((n, *x[0].shape[1:]), split, x)
    flag = lambda stop: jax.make_array_from_callback((n,), split, lambda i: np.full(1, stop, np.int32))
    shape = jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype, sharding=split), like)
    meet = jax.jit(summation.butterfly(at.mesh)).lower(shape, flag(False)).compile()
    return lambda sums, flag: on(meet(jax.tree.map(one, *sums), flag), at.own[0]), flag
