"""The basis in which the pool is orthonormal: designs do not depend on coordinates, their digits do.

    M0 = mean_i f_i f_i' = L L',    B = L^-T,    M~ = B' M B with rows B' f_i,    M^-1 = B M~^-1 B'

In raw columns 1, x, x^2 on [3, 4], M^-1 is known to six digits only and Newton stalls; in this basis it is not felt. B is a constant to
autodiff, rightly: nothing depends on it. Comes from: `optimal_weights`. Reference: Pukelsheim (1993), chapter 3; MATH.md 4.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax.fermat.active_set import weighted_information
from learnlag_jax.fermat.criteria import Criterion, flat
from learnlag_jax.fermat.matrices import regular
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
def orthonormal(F: Array, phi: Any, prior: Array | None) -> Orthonormal:
    """The same problem, well conditioned; unchanged for a mean over draws, for T and a user's phi, and if the pool does not span."""
    none = jnp.zeros((), F.dtype)
    if not isinstance(phi, Criterion) or phi.draws is not None or phi.kind == "T":
        return Orthonormal(phi, F, prior, None, none, none)
    B = jax.lax.stop_gradient(_basis(F))
    within, lost = _in_basis(phi, B)
    lost = jnp.maximum(lost, 2 * _growth(F, B))
    eps = jnp.finfo(F.dtype).eps
    if prior is None:
        return Orthonormal(within, F @ B, None, B, jax.lax.stop_gradient(eps * lost), none)
    blurred = 2 * eps * jnp.max(jnp.sum(jnp.abs(B).T @ jnp.abs(prior) @ jnp.abs(B), 1))
    return Orthonormal(within, F @ B, B.T @ prior @ B, B, *jax.lax.stop_gradient((eps * lost, blurred)))


def _in_basis(phi: Criterion, B: Array) -> tuple[Criterion, Array]:
    """The criterion, and by how much the change of basis lets rounding in its arrays grow."""
    if phi.region is not None:
        region = jnp.asarray(phi.region, B.dtype)
        turned, lost = region @ B, 2 * _growth(region, B)
        within = {"region": turned} if phi.kind == "G" else {"moment": turned.T @ turned / len(turned), "region": None}
        return dataclasses.replace(phi, **within), lost
    if phi.kind in ("I", "c"):
        C = jnp.asarray(phi.moment, B.dtype)
        within = B.T @ C @ B
        grown = jnp.trace(jnp.abs(B).T @ jnp.abs(C) @ jnp.abs(B))
        return dataclasses.replace(phi, moment=within), grown / jnp.trace(within)
    return dataclasses.replace(phi, basis=B), jnp.zeros((), B.dtype)


def _growth(rows: Array, B: Array) -> Array:
    """The largest sum of |f_k B_kj|: f' B is known to eps times that, beside entries of about 1."""
    return jnp.max(jnp.max(jnp.abs(flat(rows)), 0) @ jnp.abs(B))


def _basis(F: Array) -> Array:
    """Upper triangular B with mean_i B' f_i f_i' B = I; the identity where the pool does not span the space."""
    N, p = F.shape[0], F.shape[-1]
    M = weighted_information(F, jnp.full(N, 1 / N, F.dtype), None)
    identity = jnp.eye(p, dtype=F.dtype)
    ok = regular(M)
    L = jnp.linalg.cholesky(jnp.where(ok, M, identity))
    return jnp.where(ok, jax.scipy.linalg.solve_triangular(L, identity, lower=True).T, identity)
