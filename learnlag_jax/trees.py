"""Pytrees as vectors: the only place where leaves are added, scaled and multiplied.

Every function keeps the leaves' dtypes; sums over leaves accumulate in at least float32.
"""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from learnlag_jax.extrema import largest_size
from learnlag_jax.vocabulary import Array, PyTree

CHAIN = 8  # leaves whose flags are combined by a plain chain of `and`
SMALL = 1 << 12  # entries below which a leaf is not worth a pass of its own


def _wide(x) -> Array:
    """The leaf in at least float32, explicitly, so that strict dtype promotion has nothing to object to."""
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 or not jnp.issubdtype(x.dtype, jnp.inexact) else x


def _widest(leaves) -> list[Array]:
    wide = [_wide(leaf) for leaf in leaves] or [jnp.zeros((), jnp.float32)]
    dtype = np.result_type(*(leaf.dtype for leaf in wide))
    return [leaf.astype(dtype) for leaf in wide]


def _sum_leaves(tree: PyTree) -> Array:
    return functools.reduce(operator.add, _widest(jax.tree.leaves(tree)))


def add(x: PyTree, y: PyTree) -> PyTree:
    """x + y, leaf by leaf."""
    return jax.tree.map(jnp.add, x, y)


def subtract(x: PyTree, y: PyTree) -> PyTree:
    """x - y, leaf by leaf."""
    return jax.tree.map(jnp.subtract, x, y)


def scale(a, x: PyTree) -> PyTree:
    """a x, with the scalar cast to each leaf's dtype."""
    return jax.tree.map(lambda leaf: jnp.asarray(a, jnp.result_type(leaf)) * leaf, x)


def axpy(a, x: PyTree, y: PyTree) -> PyTree:
    """a x + y, with the scalar cast to each leaf's dtype."""
    return add(scale(a, x), y)


def dot(x: PyTree, y: PyTree) -> Array:
    """Sum of conj(x) y over all leaves: the pairing of a covector with a vector."""
    return _sum_leaves(jax.tree.map(lambda a, b: jnp.vdot(_wide(a), _wide(b)), x, y))


def norm(x: PyTree) -> Array:
    """Euclidean norm over all leaves."""
    return jnp.sqrt(_sum_leaves(jax.tree.map(lambda a: jnp.sum(jnp.abs(_wide(a)) ** 2), x)))


def max_abs(x: PyTree) -> Array:
    """Largest absolute entry over all leaves; 0 for an empty tree; NaN if any entry is."""
    largest = [largest_size(_wide(leaf)) for leaf in jax.tree.leaves(x)]
    return functools.reduce(jnp.maximum, _widest(largest))


def all_finite(x: PyTree, *, squares: bool = False) -> Array:
    """True if no inexact leaf holds NaN or infinity; with `squares`, nor the square of any (in float32 at least).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax import trees
        >>> x = {"w": jnp.float32(1e20)}
        >>> bool(trees.all_finite(x)), bool(trees.all_finite(x, squares=True))
        (True, False)
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(x)]
    leaves = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if len(leaves) < CHAIN:
        return functools.reduce(jnp.logical_and, [_finite(leaf, squares) for leaf in leaves], jnp.asarray(True))
    # XLA copies a chain of scalars into every kernel that asks for its end, and turns `all` of flags into one
    return jnp.all(jnp.stack([_zero(leaf, squares) for leaf in _packed(leaves)]) == 0)


def _finite(leaf: Array, squares: bool) -> Array:
    if leaf.size >= SMALL:
        return _zero(leaf, squares) == 0
    return jnp.all(jnp.isfinite(_to_the_edge(leaf) if squares else leaf))


def _to_the_edge(x: Array) -> Array:
    """Infinite exactly where |x|^2 is: |x| times 2^64 in float32.

    Not the square itself: if something else needs it, XLA forms it once and writes it out. A power of two, for a product
    that is exact leaves nothing to x c - x c even where the two are contracted into one operation.
    """
    x = _wide(x)
    x = jnp.abs(x) if jnp.iscomplexobj(x) else x
    return x * jnp.asarray(2.0 ** (jnp.finfo(x.dtype).maxexp // 2), x.dtype)


def _zero(leaf: Array, squares: bool) -> Array:
    """0, or NaN: x - x is 0, or NaN where x is not finite, and so is its sum.

    XLA on CPU sums floats in one pass with nothing written, twice as fast as `all(isfinite)` where it is long, and without
    a kernel to compile. Not a maximum, which drops NaN there (jaxlib 0.10).
    """
    leaf = _to_the_edge(leaf) if squares else leaf
    zero = jnp.sum(leaf - leaf)
    return (jnp.abs(zero) if jnp.iscomplexobj(zero) else zero).astype(jnp.float32)


def _packed(leaves) -> list[Array]:
    """Small leaves of one dtype as one vector: every shape that is summed alone costs kernels to compile."""
    small, rest = {}, []
    for leaf in leaves:
        whole = all(axis is None for axis in jax.typeof(leaf).sharding.spec)  # split axes cannot be joined
        small.setdefault(leaf.dtype, []).append(leaf) if whole and leaf.size < SMALL else rest.append(leaf)
    return rest + [jnp.concatenate([leaf.ravel() for leaf in same]) for same in small.values()]


def fill_where(bad, x: PyTree, value=jnp.nan) -> PyTree:
    """`value` in every entry where the scalar `bad` is true: a failed answer that cannot pass for a number."""
    return jax.tree.map(lambda leaf: jnp.where(bad, jnp.asarray(value, leaf.dtype), leaf), x)


def zeros_like(x: PyTree) -> PyTree:
    """Zeros with the tree's structure, shapes and dtypes."""
    return jax.tree.map(jnp.zeros_like, x)


def ravel(x: PyTree):
    """The tree as one vector, and the function that folds a vector back."""
    return ravel_pytree(x)


def size(x: PyTree) -> int:
    """Number of entries over all leaves (static)."""
    return sum(jnp.size(leaf) for leaf in jax.tree.leaves(x))
