"""Linear dynamics, quadratic cost: the exact solution by the Riccati recursion, with the pivots that prove a minimum.

    minimise  sum_k s'Qs/2 + a'Ra/2 + s'Ma + q's + r'a  +  s_n'Qn s_n/2 + qn's_n,     s_{k+1} = A s_k + B a_k + c

In y = (a, s, 1) a step costs y'Hy/2 and leads to z = W y, z = (s, 1); the cost-to-go is z'Pz/2. Then

    S = H + W'PW,   K = -S_aa^-1 S_az,   P_now = S_zz + S_za K

is the whole recursion: affine terms ride in the last row and column. P[:d, :d] is symmetric in this cost form and the
costate of the reward -cost is lambda = -(P z)[:d]. Only S_aa must be positive definite: R itself may be singular or zero.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax.vocabulary import Array

UNROLLED, SMALL = 4, 24


class Quadratic(NamedTuple):
    """One step, or with a leading axis all steps, of the linear-quadratic problem."""

    A: Array
    B: Array
    Q: Array
    R: Array
    M: Array
    q: Array
    r: Array
    c: Array


def times(X: Array, Y: Array) -> Array:
    """X @ Y; small matrices as one sum, which fuses with its neighbours: a library call costs more than the arithmetic."""
    return jnp.sum(X[:, :, None] * Y[None], 1) if max(*X.shape, *Y.shape) <= SMALL else X @ Y


def eliminate(G: Array, rhs: Array) -> tuple[Array, Array]:
    """x = G^-1 rhs for symmetric G, and the smallest pivot: positive if and only if G is positive definite.

    Small systems are unrolled, for the same reason.
    """
    m = G.shape[-1]
    if m > UNROLLED:
        factor = jnp.linalg.cholesky(G)
        diagonal = jnp.min(jnp.diagonal(factor)) ** 2
        pivot = jnp.where(jnp.isfinite(diagonal), diagonal, -jnp.inf)
        return jax.scipy.linalg.cho_solve((factor, True), rhs), pivot
    left, right = [G[i] for i in range(m)], [rhs[i] for i in range(m)]
    for i in range(m):
        for j in range(i + 1, m):
            ratio = left[j][i] / left[i][i]
            left[j], right[j] = left[j] - ratio * left[i], right[j] - ratio * right[i]
    pivot = jnp.min(jnp.stack([left[i][i] for i in range(m)]))
    x: list[Any] = [None] * m
    for i in reversed(range(m)):
        x[i] = (right[i] - sum((left[i][j] * x[j] for j in range(i + 1, m)), jnp.zeros_like(rhs[i]))) / left[i][i]
    return jnp.stack(x), jnp.where(jnp.isnan(pivot), -jnp.inf, pivot)


def bordered(P: Array, p: Array, v: Array) -> Array:
    """The symmetric matrix of s'Ps/2 + p's + v in z = (s, 1)."""
    return jnp.block([[P, p[:, None]], [p[None], jnp.reshape(2 * v, (1, 1))]])


def homogeneous(stage: Quadratic) -> tuple[Array, Array]:
    """H and W of one step."""
    A, B, Q, R, M, q, r, c = stage
    zero = jnp.zeros((), q.dtype)
    H = bordered(jnp.block([[R, M.T], [M, Q]]), jnp.concatenate([r, q]), zero)
    last = jnp.zeros(len(r) + len(q) + 1, q.dtype).at[-1].set(1)
    return H, jnp.concatenate([jnp.concatenate([B, A, c[:, None]], 1), last[None]])


def backward(P: Array, H: Array, W: Array, shift: Array) -> tuple[Array, Array, Array]:
    """One Riccati step: P at k + 1 -> P, K and pivot at k; `shift` I is added to S_aa."""
    m = len(H) - len(P)
    S = H + times(W.T, times(P, W))
    solved, pivot = eliminate(S[:m, :m] + shift * jnp.eye(m, dtype=S.dtype), S[:m, m:])
    P_now = S[m:, m:] - times(S[:m, m:].T, solved)
    return (P_now + P_now.T) / 2, -solved, pivot


def sweep(H: Array, W: Array, Pn: Array, shift: Array) -> tuple[Array, Array, Array]:
    """All Riccati steps, last to first: P [n + 1, d + 1, d + 1], K [n, m, d + 1] and pivots [n]."""

    def step(P, now):
        H, W = now
        P, K, pivot = backward(P, H, W, shift)
        return P, (P, K, pivot)

    _, (P, K, pivots) = lax.scan(step, Pn, (H, W), reverse=True)
    return jnp.concatenate([P, Pn[None]]), K, pivots


class Feedback(NamedTuple):
    """Cost-to-go s'Ps/2 + p's + v with n + 1 entries; best action K s + k and pivots with n."""

    P: Array
    p: Array
    v: Array
    K: Array
    k: Array
    pivots: Array


def unbordered(P: Array, K: Array, pivots: Array) -> Feedback:
    """The parts of a sweep by their usual names."""
    return Feedback(P[:, :-1, :-1], P[:, :-1, -1], P[:, -1, -1] / 2, K[:, :, :-1], K[:, :, -1], pivots)
