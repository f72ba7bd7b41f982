"""The basis in which pool and prior are orthonormal: designs do not depend on coordinates, their digits do.

    M0 = mean_i f_i f_i' + prior = L L',    B = L^-T,    M~ = B' M B with rows B' f_i,    M^-1 = B M~^-1 B'

In raw columns 1, x, x^2 on [3, 4], M^-1 is known to six digits only and Newton stalls; in this basis it is not felt, for any B near L^-T
is a basis, and rows are turned into it to their last digits (`products`). B is a constant to autodiff, rightly: nothing depends on it.
Comes from: `optimal_weights`. Reference: Pukelsheim (1993), chapter 3; MATH.md 4.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax.fermat.active_set import weighted_information
from learnlag_jax.fermat.criteria import Criterion, flat
from learnlag_jax.fermat.matrices import regular
from learnlag_jax.fermat.products import congruence, product, unit
from learnlag_jax.vocabulary import Array


class Orthonormal(NamedTuple):
    """Criterion, pool and prior in the pool's own basis B (None: as given), the relative error that this leaves in f' G f, to add to a
    gap, and the absolute one in the prior, as the norm of a matrix."""

    phi: Any
    F: Array
    prior: Array | None
    B: Array | None
    rounding: Array
    blurred: Array


@jax.jit
def orthonormal(F: Array, phi: Any, prior: Array | None, seen: Array | None = None, share: float = 1.0) -> Orthonormal:
    """The same problem, well conditioned; unchanged for a mean over draws, for T and a user's phi, and if nothing spans.

    `seen`: rows (m, p) that are known beside the prior. They are turned themselves, for their products have lost what cancels; for the
    same reason it is there that both are divided by `share`.
    """
    none = jnp.zeros((), F.dtype)
    rows = jnp.zeros((0, F.shape[-1]), F.dtype) if seen is None else seen
    plain = None if prior is None and seen is None else ((0 if prior is None else prior) + rows.T @ rows) / share
    if not isinstance(phi, Criterion) or phi.draws is not None or phi.kind == "T":
        return Orthonormal(phi, F, plain, None, none, none)
    B = jax.lax.stop_gradient(_basis(F, plain))
    turned, lost = _turned(F, B)
    within, more = _in_basis(phi, B)
    known, blurred = _known(prior, rows, B)
    blurred = none if plain is None else blurred / share
    lost, blurred = jax.lax.stop_gradient((jnp.maximum(lost, more), blurred))
    return Orthonormal(within, turned, None if plain is None else known / share, B, lost, blurred)


def _known(prior: Array | None, rows: Array, B: Array) -> tuple[Array, Array]:
    """B' (prior + rows' rows) B, and what rounding may have done to it, as the norm of a matrix."""
    turned, lost = _turned(rows, B)
    known, blurred = turned.T @ turned, lost * jnp.sum(turned**2)
    if prior is None:
        return known, blurred
    own, eps = congruence(prior, B), jnp.finfo(B.dtype).eps
    grown = jnp.max(jnp.sum(jnp.abs(B).T @ jnp.abs(prior) @ jnp.abs(B), 1))
    return known + own, blurred + 2 * (unit(B.dtype, len(B)) * grown + eps * jnp.max(jnp.sum(jnp.abs(own), 1)))


def _in_basis(phi: Criterion, B: Array) -> tuple[Criterion, Array]:
    """The criterion, and how much of its values the change of basis loses to rounding."""
    if phi.region is not None:
        turned, lost = _turned(jnp.asarray(phi.region, B.dtype), B)
        within = {"region": turned} if phi.kind == "G" else {"moment": turned.T @ turned / len(turned), "region": None}
        return dataclasses.replace(phi, **within), lost
    if phi.kind in ("I", "c"):
        C = jnp.asarray(phi.moment, B.dtype)
        within = congruence(C, B)
        grown = jnp.trace(jnp.abs(B).T @ jnp.abs(C) @ jnp.abs(B)) / jnp.trace(within)
        return dataclasses.replace(phi, moment=within), 2 * (unit(B.dtype, len(B)) * grown + jnp.finfo(B.dtype).eps)
    return dataclasses.replace(phi, basis=B if phi.basis is None else phi.basis @ B), jnp.zeros((), B.dtype)


def _turned(rows: Array, B: Array) -> tuple[Array, Array]:
    """Rows B' f, and the relative error of (f' B)^2 beside those of usual size: `unit` of the largest sum of |f_k B_kj|, and eps."""
    shape, rows = rows.shape, flat(rows)
    turned = product(rows, B).reshape(shape)
    size = jnp.sqrt(jnp.sum(turned**2) / max(turned.size, 1))
    grown = jnp.max(jnp.max(jnp.abs(rows), 0, initial=0) @ jnp.abs(B)) / jnp.where(size > 0, size, 1)
    return turned, 2 * (unit(B.dtype, len(B)) * grown + jnp.finfo(B.dtype).eps)


def _basis(F: Array, prior: Array | None) -> Array:
    """Upper triangular B with B' M0 B = I; the identity where pool and prior do not span the space."""
    N, p = F.shape[0], F.shape[-1]
    M = weighted_information(F, jnp.full(N, 1 / N, F.dtype), prior)
    identity = jnp.eye(p, dtype=F.dtype)
    ok = regular(M)
    L = jnp.linalg.cholesky(jnp.where(ok, M, identity))
    return jnp.where(ok, jax.scipy.linalg.solve_triangular(L, identity, lower=True).T, identity)
