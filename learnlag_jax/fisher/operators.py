"""Fisher information as a linear operator on parameter pytrees: full, diagonal, Kronecker, matrix-free.

    mv(v) = F v      solve(v) = F^-1 v      power(a).mv(v) = F^a v

All are positive semi-definite by construction. Negative powers are pseudo-inverses: eigenvalues at or below
P eps max(w) count as zero, so nothing is divided by rounding noise. Comes from: `fisher_information`.
Goes to: `stationarity`, the learning Lagrangian, natural-gradient steps. Reference: MATH.md 6, 7.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import dataclass_transform

import jax
import jax.numpy as jnp

from learnlag_jax import trees
from learnlag_jax.fisher.scores import group_log_probs
from learnlag_jax.vocabulary import Array, PyTree


def spectral_power(w: Array, exponent, cutoff: Array) -> Array:
    """w^a where w > cutoff, else 0; every w^0 is 1, so that exponent 0 is the identity.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.operators import spectral_power
        >>> [round(float(x), 6) for x in spectral_power(jnp.array([4.0, 0.0]), -0.5, jnp.float64(0.0))]
        [0.5, 0.0]
    """
    a = jnp.asarray(exponent, w.dtype)
    kept = w > cutoff
    powered = jnp.power(jnp.where(kept, w, jnp.ones_like(w)), jnp.broadcast_to(a, w.shape))
    return jnp.where(kept, powered, jnp.where(a == 0, jnp.ones_like(w), jnp.zeros_like(w)))


def _cutoff(w: Array, size: int) -> Array:
    return size * jnp.finfo(w.dtype).eps * jnp.max(w, initial=0.0)


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
    return (q * spectral_power(w, exponent, _cutoff(w, w.shape[-1]))[None, :]) @ q.T


class Operator:
    """What every structure answers: `mv`, `solve`, `power`, `trace`, `dense`; calling it is `mv`."""

    point: PyTree

    def mv(self, v: PyTree) -> PyTree:
        raise NotImplementedError

    def power(self, exponent) -> "Operator":
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
def _register(*, meta: tuple[str, ...] = ()):
    def decorate(cls):
        cls = dataclass(frozen=True)(cls)
        fields = [name for name in cls.__dataclass_fields__ if name not in meta]
        return jax.tree_util.register_dataclass(cls, data_fields=fields, meta_fields=list(meta))

    return decorate


@_register()
class FullFisher(Operator):
    """The whole matrix, (P, P): exact, for P up to a few thousand."""

    matrix: Array
    point: PyTree

    def mv(self, v):
        flat, fold = trees.ravel(v)
        return fold((self.matrix @ flat.astype(self.matrix.dtype)).astype(flat.dtype))

    def power(self, exponent):
        return FullFisher(matrix_power(self.matrix, exponent), self.point)

    def dense(self):
        return self.matrix


@_register()
class DiagonalFisher(Operator):
    """The diagonal alone: a pytree like the parameters."""

    values: PyTree
    point: PyTree

    def mv(self, v):
        return jax.tree.map(lambda d, x: (d * x.astype(d.dtype)).astype(x.dtype), self.values, v)

    def power(self, exponent):
        largest = trees.max_abs(self.values)

        def leaf(d):
            return spectral_power(
                d, exponent, (trees.size(self.values) * jnp.finfo(d.dtype).eps * largest).astype(d.dtype)
            )

        return DiagonalFisher(jax.tree.map(leaf, self.values), self.point)

    def dense(self):
        return jnp.diag(trees.ravel(self.values)[0])

    def trace(self):
        return functools.reduce(jnp.add, [jnp.sum(d) for d in jax.tree.leaves(self.values)])


@_register()
class KroneckerFisher(Operator):
    """One block per leaf, F = scale A_1 (x) ... (x) A_r with one factor per axis; leaves are uncorrelated.

    For a matrix leaf F = L (x) R / tr L with L = E[G G'], R = E[G' G]; a vector leaf keeps its full block.
    """

    factors: tuple[tuple[Array, ...], ...]
    scales: tuple[Array, ...]
    point: PyTree

    def mv(self, v):
        leaves, treedef = jax.tree.flatten(v)
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
    """The factors and their scale: r axis moments, each with trace `total`, divided by total^(r - 1)."""
    rank = len(second_moments)
    if rank == 0:
        return (), total
    return second_moments, spectral_power(total, 1.0 - rank, jnp.zeros_like(total))


@_register(meta=("log_prob", "steps"))
class MatrixFreeFisher(Operator):
    """F v = J' diag(w) J v by one jvp and one vjp; powers by Lanczos. Memory O(P + m), no matrix."""

    point: PyTree
    examples: PyTree
    weights: Array
    damping: Array
    log_prob: Callable
    steps: int

    def mv(self, v):
        return trees.axpy(self.damping, v, self._undamped(v))

    def _undamped(self, v):
        log_probs = group_log_probs(self.log_prob, self.examples)
        _, pushed = jax.jvp(log_probs, (self.point,), (v,))
        _, pull = jax.vjp(log_probs, self.point)
        return pull((self.weights * pushed).astype(pushed.dtype))[0]

    def power(self, exponent):
        return LanczosPower(self, jnp.asarray(exponent, self.damping.dtype))

    def trace(self):
        def square(group):
            mean = lambda params: group_log_probs(self.log_prob, jax.tree.map(lambda x: x[None], group))(params)[0]
            return trees.norm(jax.grad(mean)(self.point)) ** 2

        squares = jax.lax.map(square, self.examples, batch_size=16)
        return jnp.sum(self.weights * squares.astype(self.weights.dtype)) + self.damping * trees.size(self.point)


@_register()
class LanczosPower(Operator):
    """F^a v ~ |v| Q f(T) e_1 from a Krylov space of `steps` dimensions, with full reorthogonalisation.

    Exact when the Krylov space of v is exhausted; otherwise the error falls as the best polynomial approximation
    of w^a on the spectrum. Negative powers act on the range of F.
    """

    fisher: MatrixFreeFisher
    exponent: Array

    @property
    def point(self):
        return self.fisher.point

    def mv(self, v):
        flat, fold = trees.ravel(v)
        steps = min(self.fisher.steps, flat.size)
        q, alpha, beta = lanczos(lambda x: trees.ravel(self.fisher.mv(fold(x)))[0], flat, steps)
        w, u = jnp.linalg.eigh(jnp.diag(alpha) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1))
        f = spectral_power(w, self.exponent.astype(w.dtype), _cutoff(w, flat.size))
        return fold(jnp.linalg.norm(flat) * (q.T @ (u @ (f * u[0]))))

    def power(self, exponent):
        return LanczosPower(self.fisher, self.exponent * jnp.asarray(exponent, self.exponent.dtype))


def lanczos(mv: Callable, v: Array, steps: int) -> tuple[Array, Array, Array]:
    """Orthonormal Krylov basis Q (steps, P) and the tridiagonal (alpha, beta) with A Q' = Q' T + remainder.

    A Krylov space that closes early leaves zero rows: they carry no weight in any function of T.
    """
    tiny = jnp.asarray(v.size * jnp.finfo(v.dtype).eps, v.dtype)

    def normalised(x, floor):
        length = jnp.linalg.norm(x)
        live = length > floor
        return jnp.where(live, x / jnp.where(live, length, jnp.ones_like(length)), jnp.zeros_like(x)), jnp.where(
            live, length, jnp.zeros_like(length)
        )

    def step(k, carry):
        q, alpha, beta, scale = carry
        y = mv(q[k])
        a = jnp.vdot(q[k], y)
        scale = jnp.maximum(scale, jnp.linalg.norm(y))
        for _ in range(2):  # twice is enough (Kahan): one pass leaves rounding of the size of the cancelled part
            y = y - q.T @ (q @ y)
        following, b = normalised(y, tiny * scale)
        q = q.at[k + 1].set(following, mode="drop")
        return q, alpha.at[k].set(a), beta.at[k].set(b), scale

    first, _ = normalised(v, jnp.zeros((), v.dtype))
    q = jnp.zeros((steps, v.size), v.dtype).at[0].set(first)
    empty = jnp.zeros(steps, v.dtype)
    q, alpha, beta, _ = jax.lax.fori_loop(0, steps, step, (q, empty, empty, jnp.zeros((), v.dtype)))
    return q, alpha, beta


def entries(shape: tuple[int, ...]) -> int:
    """Number of entries of an array of this shape."""
    return math.prod(shape)
