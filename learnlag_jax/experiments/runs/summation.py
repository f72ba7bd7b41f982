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

    With a random loss, which has a key in each piece, this number decides the numbers of a run.

    Raises:
        InputError: `asked` is no power of two; the batch has no examples, or not the same number in every leaf, or does not divide
            over the devices.
    """
    power = asked > 0 and asked & (asked - 1) == 0
    checks.require(power, "pieces", asked, "a power of two", "8 serves up to 8 devices")
    examples = _examples(batch)
    got = f"{examples} examples for {devices} devices"
    remedy = "change the batch size or the number of devices"
    checks.require(examples % devices == 0, "batch", got, "a multiple of the devices", remedy)
    pieces = math.gcd(asked, examples)
    return devices if pieces % devices else pieces


def _examples(batch: PyTree) -> int:
    """How many examples every leaf of the batch has."""
    leaves = [("batch" + jax.tree_util.keystr(path), x) for path, x in jax.tree_util.tree_leaves_with_path(batch)]
    checks.require(leaves, "batch", "no arrays", "arrays with a leading axis of examples", "return the examples in it")
    first, examples = leaves[0][0], np.shape(leaves[0][1])[:1]
    for name, leaf in leaves:
        alone = f"one {type(leaf).__name__} without an axis"
        remedy = "repeat for each example what is one for all, or let the loss hold it"
        checks.require(np.ndim(leaf) > 0, name, alone, "a leading axis of examples", remedy)
        as_many = np.shape(leaf)[:1] == examples
        wanted = f"as many as {first}, {examples[0]}"
        checks.require(as_many, name, f"{len(leaf)} examples", wanted, "give each example its entry in every leaf")
        checks.require(len(leaf) > 0, name, "no examples", "at least one", "change the batch size")
    return examples[0]


def refuse_another(batch: PyTree, first: PyTree) -> None:
    """The step was compiled for batches like the first.

    Raises:
        InputError: names the leaf whose shape or dtype is another.
    """
    wanted, got = jax.tree.structure(first), jax.tree.structure(batch)
    remedy = "give the batches of all steps the same shapes and dtypes"
    checks.require(got == wanted, "batch", got, f"{wanted}, as at step 0", remedy)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(batch), jax.tree.leaves(first), strict=True):
        x, y = checks.describe(x), checks.describe(y)  # as JAX will hold them: float64 may be float32 there
        checks.require(x == y, "batch" + jax.tree_util.keystr(path), x, f"{y}, as at step 0", remedy)


def cut(batch: PyTree, pieces: int) -> PyTree:
    """(examples, ...) -> (pieces, examples of one, ...), as copies: a device may take the memory it is given, and the user refill his."""
    part = lambda x: np.reshape(np.array(x, order="C"), (pieces, len(x) // pieces, *np.shape(x)[1:]))
    return jax.tree.map(part, batch)


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
    """`f((params, key, step), parts, first, number)`: what `number` pieces from `first` on add to the mean loss and gradient of `most`.

    Leaves have a leading axis of one and at least four bytes.
    """

    def f(position, parts, first, number):
        params, key, step = position
        key = jax.random.fold_in(key, step)

        def one(i):
            part = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, first + i, keepdims=False), parts)
            found = jax.value_and_grad(loss)(params, part, jax.random.fold_in(key, first + i))
            return jax.tree.map(lambda x: _share(x, most)[None], found)

        return tree_sum(one, number, most)

    return f


def _share(x: Array, pieces: int) -> Array:
    """What one piece adds to a mean: scaled before the sum, which might overflow where the mean does not; exact for powers of two."""
    wide = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
    return wide * (1 / pieces) if pieces > 1 else wide


def mean_of(total: PyTree, params: PyTree) -> tuple[Array, PyTree]:
    """Loss and gradient, of the types of the parameters, from what `branch` and `butterfly` have summed."""
    loss, gradient = jax.tree.map(lambda x: x[0], total)
    return loss, jax.tree.map(lambda x, q: x.astype(q.dtype), gradient, params)


def mean(loss: Callable, parts: PyTree, key: Array) -> Callable[[PyTree], Array]:
    """`f(params)`: the loss of the whole batch, in the same order, on one device; differentiable as often as the loss is."""
    pieces = len(jax.tree.leaves(parts)[0])

    def f(params):
        one = lambda x: _share(loss(params, x[0], jax.random.fold_in(key, x[1])), pieces)
        return _paired(lax.map(one, (parts, jnp.arange(pieces, dtype=jnp.int32))))

    return f


def _paired(x: Array) -> Array:
    if len(x) % 2:
        return jnp.sum(x)  # of one; or of as many pieces as there are devices, if those are no power of two
    return _paired(x[0::2] + x[1::2])


def butterfly(mesh: Mesh) -> Callable[[PyTree, Array], tuple[PyTree, Array]]:
    """`f(branches, flags)`: the sum of a tree on each device, the same bits on all of them, and whether any flag is set."""
    size, power = mesh.size, mesh.size & (mesh.size - 1) == 0

    def added(leaves):
        x, unravel = ravel_pytree(leaves)  # one message and not one a leaf
        for k in range(size.bit_length() - 1 if power else 0):
            partner = [(i, i ^ (1 << k)) for i in range(size)]
            x = x + lax.ppermute(x, mesh.axis_names[0], partner)
        return unravel(x if power else lax.psum(x, mesh.axis_names[0]))

    def meet(tree, flag):
        leaves, structure = jax.tree.flatten(tree)
        for dtype in sorted({x.dtype for x in leaves}, key=str):  # joined with float64, float32 would be summed in it
            at = [i for i, x in enumerate(leaves) if x.dtype == dtype]
            for i, x in zip(at, added([leaves[i] for i in at]), strict=True):
                leaves[i] = x
        return jax.tree.unflatten(structure, leaves), lax.pmax(flag, mesh.axis_names[0])

    split = P(mesh.axis_names[0])
    return jax.shard_map(meet, mesh=mesh, in_specs=(split, split), out_specs=(P(), P()), check_vma=False)
