"""Where a carry lies between steps, and how it comes to the one device of each process that makes the step.

The step is a one-device program (see `summation`), which the first device of every process runs on the same numbers. Between
steps the carry lies there, the same on every process; or split over all devices, which costs two copies a step: gathered, it is
whole on every device for as long as the step lasts. Copies change no bit.
Comes from: a list of devices. Goes to: `program`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from learnlag_jax.vocabulary import Array, PyTree


class Placement(NamedTuple):
    """Where things are.

    Attributes:
        mesh: all devices, in the order of their pieces.
        own: the devices of this process; the first of them makes the step.
        whole: carry -> the same on the first own device.
        store: the carry of the first own device -> where it lies between steps.
    """

    mesh: Mesh
    own: list[Any]
    whole: Callable[[PyTree], PyTree]
    store: Callable[[PyTree], PyTree]


def placement(devices: Sequence[Any], like: PyTree, split: bool) -> Placement:
    """Of a carry like `like`; `split`: over all devices, where a leading axis divides."""
    mesh = Mesh(np.array(devices), ("data",))  # Auto axis types: the user's model needs no sharding rules
    own = [d for d in devices if d.process_index == jax.process_index()]
    if len(own) == len(devices) and not (split and len(own) > 1):
        return Placement(mesh, own, lambda carry: carry, lambda carry: carry)
    _meet(mesh)
    if split:
        return Placement(mesh, own, *_split(mesh, own, like))
    firsts = {d.process_index: d for d in reversed(devices)}
    same = NamedSharding(Mesh(np.array([firsts[i] for i in sorted(firsts)]), ("process",)), P())
    return Placement(mesh, own, lambda carry: on(carry, own[0]), lambda carry: joined(carry, same))


def _meet(mesh: Mesh) -> None:
    """A first collective while all processes are here: they may wait for a first one for 30 s only, and compile for longer."""
    ones = jax.make_array_from_callback((mesh.size,), NamedSharding(mesh, P("data")), lambda i: np.ones(1, np.float32))
    jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, P()))(ones).block_until_ready()


def _split(mesh: Mesh, own: list, like: PyTree) -> tuple[Callable, Callable]:
    everywhere = NamedSharding(mesh, P())
    where = jax.tree.map(lambda x: _sharding(x, mesh), like)
    gather = jax.jit(lambda carry: carry, in_shardings=(where,), out_shardings=everywhere)
    scatter = jax.jit(lambda carry: carry, in_shardings=(everywhere,), out_shardings=where)
    near = NamedSharding(Mesh(np.array(own), ("data",)), P())
    whole = lambda carry: on(gather(carry), own[0])
    return whole, lambda carry: scatter(joined(jax.device_put(carry, near), everywhere))


def _sharding(x, mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P("data") if x.ndim > 1 and x.shape[0] % mesh.size == 0 else P())


def on(tree: PyTree, device: Any) -> PyTree:
    """What lies on one device of arrays that are the same on many."""
    return jax.tree.map(lambda x: _shards(x)[device], tree)


def joined(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Global arrays, the same everywhere, of what lies on this process's devices."""
    order = [d for d in np.ravel(np.asarray(sharding.mesh.devices)) if d.process_index == jax.process_index()]
    join = lambda x: jax.make_array_from_single_device_arrays(x.shape, sharding, [_shards(x)[d] for d in order])
    return jax.tree.map(join, tree)


def _shards(x: Array) -> dict:
    return {shard.device: shard.data for shard in x.addressable_shards}


def shapes(tree: PyTree, device: Any) -> PyTree:
    """What to compile for: arrays like these on a device."""
    there = jax.sharding.SingleDeviceSharding(device)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there), tree)
