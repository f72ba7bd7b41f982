"""Derivatives of an optimal design with respect to the pool, the prior and the criterion, by the implicit function theorem.

    on the support:  s_i(w, x) = mu,   sum w = 1,     s_i = tr(G M_i),  G = -d phi / dM
    so               P H P dw = P (d s / d x) dx,     H_ij = d^2 phi / dw_i dw_j,   P = projection onto sum dw = 0
    and              d phi* = (d phi / d x) dx at fixed w    (envelope)

The support stands still under small changes; where a row is about to enter or to leave, the weights have a kink and this is the
derivative on one side. Comes from: `optimal_weights`. Reference: Fiacco (1976); MATH.md 4.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax.fermat.active_set import Design, capacity, solve_weights, weight_hessian, weighted_information
from learnlag_jax.fermat.criteria import block_size, sensitivity, slope, unguarded
from learnlag_jax.vocabulary import Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def differentiable_weights(F: Array, phi, prior, tol: Array, max_rounds: int) -> Design:
    """`solve_weights`, differentiable in F, the arrays of phi, and prior; forward and reverse."""
    return solve_weights(F, phi, prior, tol, max_rounds)


@differentiable_weights.defjvp
def _differentiable_weights_jvp(max_rounds, primals, tangents):
    F, phi, prior, tol = primals
    design = differentiable_weights(F, phi, prior, tol, max_rounds)
    weights = jnp.where(jnp.isnan(design.weights), 0, design.weights)
    w, heaviest = jax.lax.top_k(weights, capacity(F.shape[0], block_size(phi, F.shape[-1])))
    given = (F[heaviest], phi, prior)
    change = (tangents[0][heaviest], tangents[1], tangents[2])
    information = lambda rows, prior: weighted_information(rows, w, prior)
    worth = lambda rows, phi, prior: sensitivity(rows, slope(unguarded(phi), information(rows, prior)))
    value = lambda rows, phi, prior: unguarded(phi)(information(rows, prior))
    turn = _response(w, weight_hessian(given[0], information(given[0], prior), phi)) @ jax.jvp(worth, given, change)[1]
    still = jax.tree.map(_no_change, design)
    return design, still._replace(
        weights=jnp.where(jnp.isnan(design.weights), jnp.nan, jnp.zeros_like(weights).at[heaviest].add(turn)),
        value=jnp.where(jnp.isfinite(design.value), jax.jvp(value, given, change)[1], jnp.nan),
    )


def _response(w: Array, H: Array) -> Array:
    """(P H P)^+ on the support: how weights answer a change of worth. Rows that repeat one another share the answer."""
    on = (w > 0).astype(w.dtype)
    P = jnp.diag(on) - on[:, None] * on[None, :] / jnp.sum(on)
    H = jnp.where(jnp.all(jnp.isfinite(H)), H, jnp.zeros_like(H))  # a failed design; LAPACK may not return from NaN
    l, U = jnp.linalg.eigh(P @ H @ P)
    known = l > 1e3 * w.size * jnp.finfo(w.dtype).eps * l[-1]
    return (U * jnp.where(known, 1 / jnp.where(known, l, 1), 0)[None, :]) @ U.T


def _no_change(x: Array):
    """A zero tangent, of the type JAX gives integers and booleans."""
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(x.shape, jax.dtypes.float0)
