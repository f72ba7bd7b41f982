"""Fisher information as a linear operator on parameter pytrees: full, diagonal, Kronecker; `matrix_free` has a fourth.

    mv(v) = F v      solve(v) = F^-1 v      power(a).mv(v) = F^a v

All are positive semi-definite by construction. Negative powers are pseudo-inverses: eigenvalues at or below the rounding of
their matrix, d eps max(w) with d its side, count as zero, so nothing is divided by noise; a diagonal has none. What is NaN
stays so. Comes from: `fisher_information`.
Goes to: `stationarity`, the learning Lagrangian, natural-gradient steps. Reference: MATH.md 6, 7.
"""

import functools
from dataclasses import dataclass
from typing import dataclass_transform

import jax
import jax.numpy as jnp

from learnlag_jax import trees
from learnlag_jax.vocabulary import Array, PyTree


def spectral_power(w: Array, exponent, cutoff: Array) -> Array:
    """w^a where w > cutoff, else 0, and NaN where w is; every w^0 is 1, so that exponent 0 is the identity.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.operators import spectral_power
        >>> [round(float(x), 6) for x in spectral_power(jnp.array([4.0, 0.0]), -0.5, jnp.float64(0.0))]
        [0.5, 0.0]
    """
    a = jnp.asarray(exponent, w.dtype)
    kept = ~(w <= cutoff)
    powered = jnp.power(jnp.where(kept, w, jnp.ones_like(w)), jnp.broadcast_to(a, w.shape))
    return jnp.where(kept, powered, jnp.where(a == 0, jnp.ones_like(w), jnp.zeros_like(w)))


def cutoff(w: Array, size: int, eps: float | None = None) -> Array:
    return jnp.asarray(size * (eps or float(jnp.finfo(w.dtype).eps)), w.dtype) * jnp.max(w, initial=0.0)


def matrix_power(matrix: Array, exponent) -> Array:
    """F^a of a symmetric positive semi-definite matrix through its eigenvalues.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.operators import matrix_power
        >>> root = matrix_power(jnp.array([[2.0, 1.0], [1.0, 2.0]]), -0.5)
        >>> [round(float(x), 6) for x in (root @ root)[0]]
        [0.666667, -0.333333]
    """
    w, q = jnp.linalg.eigh(matrix)
    return (q * spectral_power(w, exponent, cutoff(w, w.shape[-1]))[None, :]) @ q.T


def in_units(matrix: Array) -> tuple[Array, Array]:
    """A matrix over the roots of its diagonal on both sides, and those (1 for a zero): free of the parameters' units.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.operators import in_units
        >>> in_units(jnp.array([[4.0, 2.0], [2.0, 16.0]]))[0].tolist()
        [[1.0, 0.25], [0.25, 1.0]]
    """
    unit = jnp.sqrt(jnp.abs(jnp.diagonal(matrix)))
    unit = jnp.where(unit > 0, unit, jnp.ones_like(unit))
    return matrix / unit[:, None] / unit[None, :], unit


@jax.custom_jvp
def pseudo_inverse(matrix: Array) -> Array:
    """F^-1 on the range of F, with the derivative of a matrix of constant rank, which needs no distinct eigenvalues.

    dF^+ = -F^+ dF F^+ + F^+ F^+ dF (I - F F^+) + (I - F^+ F) dF F^+ F^+        (Golub and Pereyra 1973)

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from learnlag_jax.fisher.operators import pseudo_inverse
        >>> jax.grad(lambda a: pseudo_inverse(a * jnp.eye(2))[0, 0])(jnp.float64(2.0)).tolist()
        -0.25
    """
    return matrix_power(matrix, -1.0)


@pseudo_inverse.defjvp
def _(primals, tangents):
    (F,), (dF,) = primals, tangents
    dF = 0.5 * (dF + dF.T)  # as its eigenvalues are taken: of a symmetric matrix
    inverse = pseudo_inverse(F)
    missing = jnp.eye(F.shape[-1], dtype=F.dtype) - F @ inverse
    outer = inverse @ inverse @ dF @ missing
    return inverse, outer + outer.T - inverse @ dF @ inverse


class Operator:
    """What every structure answers: `mv`, `solve`, `power`, `trace`, `dense`; calling it is `mv`."""

    point: PyTree

    def mv(self, v: PyTree) -> PyTree:
        """F v, for v like the parameters."""
        raise NotImplementedError

    def power(self, exponent) -> "Operator":
        """F^a as an operator, for any real a; its negative powers act on the range of F."""
        raise NotImplementedError

    def __call__(self, v: PyTree) -> PyTree:
        return self.mv(v)

    def solve(self, v: PyTree) -> PyTree:
        """F^-1 v (pseudo-inverse where F is singular)."""
        return self.power(-1.0).mv(v)

    def columns(self) -> Array:
        """F as a P x P matrix by P products; the other structures know it more directly."""
        flat, fold = trees.ravel(self.point)
        return jax.vmap(lambda e: trees.ravel(self.mv(fold(e)))[0])(jnp.eye(flat.size, dtype=flat.dtype)).T

    def dense(self) -> Array:
        """F as a P x P matrix in the order of `trees.ravel`."""
        return self.columns()

    def trace(self) -> Array:
        """tr F."""
        return jnp.trace(self.dense())


@dataclass_transform(frozen_default=True)
def register(*, meta: tuple[str, ...] = ()):
    def decorate(cls):
        cls = dataclass(frozen=True)(cls)
        fields = [name for name in cls.__dataclass_fields__ if name not in meta]
        return jax.tree_util.register_dataclass(cls, data_fields=fields, meta_fields=list(meta))

    return decorate


@register()
class FullFisher(Operator):
    """The whole matrix, (P, P): exact, for P up to a few thousand."""

    matrix: Array
    point: PyTree

    def mv(self, v):
        flat, fold = trees.ravel(v)
        return fold((self.matrix @ flat.astype(self.matrix.dtype)).astype(flat.dtype))

    def power(self, exponent):
        return FullFisher(matrix_power(self.matrix, exponent), self.point)

    def solve(self, v):
        return FullFisher(pseudo_inverse(self.matrix), self.point).mv(v)

    def dense(self):
        return self.matrix


@register()
class DiagonalFisher(Operator):
    """The diagonal alone: a pytree like the parameters."""

    values: PyTree
    point: PyTree

    def mv(self, v):
        v = jax.tree.map(jnp.asarray, v)
        return jax.tree.map(lambda d, x: (d * x.astype(d.dtype)).astype(x.dtype), self.values, v)

    def power(self, exponent):
        leaf = lambda d: spectral_power(d, exponent, jnp.zeros((), d.dtype))
        return DiagonalFisher(jax.tree.map(leaf, self.values), self.point)

    def dense(self):
        return jnp.diag(trees.ravel(self.values)[0])

    def trace(self):
        return functools.reduce(jnp.add, [jnp.sum(d) for d in jax.tree.leaves(self.values)])


@register()
class KroneckerFisher(Operator):
    """One block per leaf, F = scale A_1 (x) ... (x) A_r with one factor per axis; leaves are uncorrelated.

    For a matrix leaf F = L (x) R / tr L with L = E[G G'], R = E[G' G]; a vector leaf keeps its full block.
    """

    factors: tuple[tuple[Array, ...], ...]
    scales: tuple[Array, ...]
    point: PyTree

    def mv(self, v):
        leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, v))
        done = [
            (scale * apply_factors(factors, x.astype(scale.dtype))).astype(x.dtype)
            for factors, scale, x in zip(self.factors, self.scales, leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, done)

    def power(self, exponent):
        factors = tuple(tuple(matrix_power(a, exponent) for a in leaf) for leaf in self.factors)
        scales = tuple(spectral_power(s, exponent, jnp.zeros_like(s)) for s in self.scales)
        return KroneckerFisher(factors, scales, self.point)

    def dense(self):
        blocks = [
            s * functools.reduce(jnp.kron, factors, jnp.ones((1, 1), s.dtype))
            for factors, s in zip(self.factors, self.scales, strict=True)
        ]
        return jax.scipy.linalg.block_diag(*blocks)

    def trace(self):
        traces = [
            s * functools.reduce(jnp.multiply, [jnp.trace(a) for a in factors], jnp.ones_like(s))
            for factors, s in zip(self.factors, self.scales, strict=True)
        ]
        return functools.reduce(jnp.add, traces)


def apply_factors(factors: tuple[Array, ...], x: Array) -> Array:
    """(A_1 (x) ... (x) A_r) x: factor i acts on axis i of the array x, no reshape."""
    for axis, a in enumerate(factors):
        x = jnp.moveaxis(jnp.tensordot(a, x, axes=(1, axis)), 0, axis)
    return x


def kronecker_factors(second_moments: tuple[Array, ...], total: Array) -> tuple[tuple[Array, ...], Array]:
    """The factors, each with trace 1, and their scale: the axis moments, each with trace `total`, over it.

    No product of traces is formed: the fourth power of a small gradient is zero in float32.
    """
    live = total > 0
    safe = jnp.where(live, total, jnp.ones_like(total))
    return tuple(jnp.where(live, A, jnp.zeros_like(A)) / safe for A in second_moments), total
