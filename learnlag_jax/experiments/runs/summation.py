"""A batch in pieces, whose mean has the same bits however many devices share them.

    mean = (((g_0 + g_1) + (g_2 + g_3)) + ((g_4 + g_5) + (g_6 + g_7))) / 8        g_i of piece i, with key fold_in(key, i)

Floating-point sums depend on their order, so the order is fixed: a balanced binary tree over the pieces, whose number has nothing
to do with the devices. A device that holds 2^k neighbouring pieces sums a whole branch, and the branches meet in a butterfly
across the devices (`partner` is the index with one bit turned; a + b and b + a are the same bits). The same order is not
enough, for a compiler fuses a loop of one turn otherwise than a loop of eight, and one device otherwise than several: so every
device runs the same one-device program, in which how many pieces are its own is a number known only at run time.
Comes from: a loss that is a mean over a batch. Goes to: `program`.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from learnlag_jax import checks, trees
from learnlag_jax.vocabulary import Array, PyTree


def pieces_of(batch: PyTree, asked: int, devices: int) -> int:
    """How many pieces: the largest number that divides `asked` and the batch; the devices, if they do not divide that.

    Raises:
        InputError: `asked` is no power of two, or the batch does not divide over the devices.
    """
    power = asked > 0 and asked & (asked - 1) == 0
    checks.require(power, "pieces", asked, "a power of two", "8 serves up to 8 devices")
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        checks.require(
            np.ndim(leaf) and len(leaf) % devices == 0,
            "batch" + jax.tree_util.keystr(path),
            f"{len(leaf) if np.ndim(leaf) else 'no'} examples for {devices} devices",
            "a multiple of the devices",
            "change the batch size or the number of devices",
        )
    pieces = math.gcd(asked, *map(len, jax.tree.leaves(batch)))
    return devices if pieces % devices else pieces


def cut(batch: PyTree, pieces: int) -> PyTree:
    """(examples, ...) -> (pieces, examples of one, ...)."""
    return jax.tree.map(lambda x: np.reshape(np.asarray(x), (pieces, len(x) // pieces, *np.shape(x)[1:])), batch)


def tree_sum(one: Callable[[Array], PyTree], number: Array, most: int) -> PyTree:
    """one(0) + ... + one(number - 1) as a balanced binary tree; `number` is a power of two, at most `most`, known at run time.

    Like a binary counter: `waiting[level]` holds a branch of 2^level terms until its neighbour is there. Returns leaves with a
    leading axis of one.
    """
    if most == 1:
        return one(jnp.int32(0))
    at = lambda waiting, level: jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, level), waiting)

    def add(i, waiting):
        merge = lambda x: (x[0] + jnp.int32(1), trees.add(at(waiting, x[0]), x[1]))
        level, branch = lax.while_loop(lambda x: (i >> x[0]) & jnp.int32(1) == 1, merge, (jnp.int32(0), one(i)))
        return jax.tree.map(lambda x, new: lax.dynamic_update_slice_in_dim(x, new, level, 0), waiting, branch)

    shapes = jax.eval_shape(one, jnp.int32(0))
    nothing = jax.tree.map(lambda x: jnp.zeros((most.bit_length(), *x.shape[1:]), x.dtype), shapes)
    waiting = lax.fori_loop(jnp.int32(0), number, add, nothing)
    return at(waiting, lax.population_count(number - jnp.int32(1)))


def branch(loss: Callable, most: int) -> Callable[..., PyTree]:
    """`f((params, key, step), parts, first, number)`: loss and gradient summed over `number` pieces from `first` on.

    Leaves have a leading axis of one and at least four bytes.
    """
    wide = lambda x: x[None].astype(jnp.float32) if x.dtype.itemsize < 4 else x[None]

    def f(position, parts, first, number):
        params, key, step = position
        key = jax.random.fold_in(key, step)

        def one(i):
            part = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, first + i, keepdims=False), parts)
            return jax.tree.map(wide, jax.value_and_grad(loss)(params, part, jax.random.fold_in(key, first + i)))

        return tree_sum(one, number, most)

    return f


def mean_of(total: PyTree, pieces: int, params: PyTree) -> tuple[Array, PyTree]:
    """Loss and gradient, of the types of the parameters, from what `branch` and `butterfly` have summed."""
    loss, gradient = jax.tree.map(lambda x: x[0] / pieces, total)
    return loss, jax.tree.map(lambda x, q: x.astype(q.dtype), gradient, params)


def mean(loss: Callable, parts: PyTree, key: Array) -> Callable[[PyTree], Array]:
    """`f(params)`: the loss of the whole batch, in the same order, on one device; differentiable as often as the loss is."""
    pieces = len(jax.tree.leaves(parts)[0])

    def f(params):
        one = lambda x: loss(params, x[0], jax.random.fold_in(key, x[1]))
        return _paired(lax.map(one, (parts, jnp.arange(pieces, dtype=jnp.int32)))) / pieces

    return f


def _paired(x: Array) -> Array:
    if len(x) % 2:
        return jnp.sum(x)  # of one; or of as many pieces as there are devices, if those are no power of two
    return _paired(x[0::2] + x[1::2])


def butterfly(mesh: Mesh) -> Callable[[PyTree, Array], tuple[PyTree, Array]]:
    """`f(branches, flags)`: the sum of a tree on each device, the same bits on all of them, and whether any flag is set."""
    size, power = mesh.size, mesh.size & (mesh.size - 1) == 0

    def meet(tree, flag):
        x, unravel = ravel_pytree(tree)  # one message and not one a leaf
        for k in range(size.bit_length() - 1 if power else 0):
            partner = [(i, i ^ (1 << k)) for i in range(size)]
            x = x + lax.ppermute(x, mesh.axis_names[0], partner)
        return unravel(x if power else lax.psum(x, mesh.axis_names[0])), lax.pmax(flag, mesh.axis_names[0])

    split = P(mesh.axis_names[0])
    return jax.shard_map(meet, mesh=mesh, in_specs=(split, split), out_specs=(P(), P()), check_vma=False)
