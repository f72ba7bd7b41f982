"""The Riccati recursion in about 2 log2(n) parallel levels, with the check that textbook versions leave out.

Each stretch of time carries (A, b, C, e, J): the least cost from x at its start to z at its end is

    max_l  x'Jx/2 - e'x - l'Cl/2 - l'(z - A x - b),

and two stretches compose into one. C = B R^-1 B' grows without limit as control becomes cheap, and digits are lost with it
(all of them in float32 when R is 1e-6 of Q). So every P_k found is put through one exact Riccati step from P_{k+1}, all k at
once; what remains is a residual. Errors common to neighbours hide from it, so eps |R^-1 B'PB|, the rounding of I + CJ, counts
as well. If either is too large the caller falls back to the sequential sweep.
"""

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax.control.riccati import Feedback, Quadratic, backward, bordered, homogeneous, unbordered
from learnlag_jax.extrema import largest, largest_size
from learnlag_jax.vocabulary import Array


def levels(n: int) -> int:
    """Depth of the scan over n + 1 elements."""
    return 2 * max(1, (n).bit_length())


def parallel_sweep(stages: Quadratic, Qn: Array, qn: Array) -> tuple[Feedback, Array]:
    """The whole `Feedback`, and the error to expect: misfit to one Riccati step, and rounding."""
    elements = jax.vmap(_element)(stages)
    end = tuple(jnp.zeros_like(x[0]) for x in elements[:3]) + (-qn, Qn)
    joined = [jnp.concatenate([x, last[None]]) for x, last in zip(elements, end, strict=True)]
    *_, e, P = lax.associative_scan(_compose, tuple(joined), reverse=True)
    H, W = jax.vmap(homogeneous)(stages)
    zero = jnp.zeros((), Qn.dtype)
    ahead = jax.vmap(bordered, (0, 0, None))(P[1:], -e[1:], zero)
    once = jax.vmap(backward, (0, 0, 0, None))(ahead, H, W, zero)
    now = unbordered(*once)
    misfit = jnp.maximum(_apart(P[:-1], now.P), _apart(-e[:-1], now.p))
    cheapness = jax.vmap(lambda R, B, P: jnp.linalg.solve(R, B.T @ P @ B))(stages.R, stages.B, P[1:])
    misfit = jnp.maximum(misfit, jnp.finfo(qn.dtype).eps * largest_size(cheapness))
    v = jnp.concatenate([jnp.cumsum(now.v[::-1])[::-1], zero[None]])
    P, p = jnp.concatenate([now.P, Qn[None]]), jnp.concatenate([now.p, qn[None]])
    return now._replace(P=P, p=p, v=v), misfit


def _sizes(x: Array) -> Array:
    """The largest entry of each step."""
    return largest(jnp.abs(x).reshape(len(x), -1), 1)


def _apart(x: Array, y: Array) -> Array:
    """The largest difference, relative to the entries of its own step."""
    return largest(_sizes(x - y) / (_sizes(y) + jnp.finfo(y.dtype).tiny))


def _element(now: Quadratic):
    """One step, with the cross term and the linear term in the action completed into the rest."""
    A, B, Q, R, M, q, r, c = now
    solved = jnp.linalg.solve(R, jnp.concatenate([B.T, M.T, r[:, None]], axis=1))
    d = A.shape[0]
    RB, RM, Rr = solved[:, :d], solved[:, d : 2 * d], solved[:, 2 * d]
    return A - B @ RM, c - B @ Rr, B @ RB, -(q - M @ Rr), Q - M @ RM


def _compose(late, early):
    """The stretch `early` followed by the stretch `late`; both batched."""
    A1, b1, C1, e1, J1 = early
    A2, b2, C2, e2, J2 = late
    times = lambda matrix, vector: (matrix @ vector[..., None])[..., 0]
    turned = jnp.swapaxes(A1, -1, -2)
    eye = jnp.broadcast_to(jnp.eye(A1.shape[-1], dtype=A1.dtype), A1.shape)
    d = A1.shape[-1]
    inner = jnp.concatenate([A1, (b1 + times(C1, e2))[..., None], C1], -1)
    W = jnp.linalg.solve(eye + C1 @ J2, inner)
    WA, Wb, WC = W[..., :d], W[..., d], W[..., d + 1 :]
    A = A2 @ WA
    b = times(A2, Wb) + b2
    C = A2 @ WC @ jnp.swapaxes(A2, -1, -2) + C2
    J = turned @ J2 @ WA + J1
    e = times(jnp.swapaxes(WA, -1, -2), e2 - times(J2, b1)) + e1
    return A, b, (C + jnp.swapaxes(C, -1, -2)) / 2, e, (J + jnp.swapaxes(J, -1, -2)) / 2
