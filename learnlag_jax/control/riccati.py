"""Linear dynamics, quadratic cost: the exact solution by the Riccati recursion, with the pivots that prove a minimum.

    minimise  sum_k s'Qs/2 + a'Ra/2 + s'Ma + q's + r'a  +  s_n'Qn s_n/2 + qn's_n,     s_{k+1} = A s_k + B a_k + c

Cost-to-go s'Ps/2 + p's + v, best action a = K s + k. In this cost form P is symmetric and the costate of the reward -cost
is lambda = -(P s + p). Only R + B'PB must be positive definite: R itself may be singular or zero.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax.vocabulary import Array

UNROLLED = 4


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


def eliminate(G: Array, rhs: Array) -> tuple[Array, Array]:
    """x = G^-1 rhs for symmetric G, and the smallest pivot: positive if and only if G is positive definite.

    Small systems are unrolled, since a library call a step costs more than the arithmetic.
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


def backward(P: Array, p: Array, v: Array, now: Quadratic, shift: Array):
    """One Riccati step: cost-to-go at k + 1 -> cost-to-go, gains and pivot at k; `shift` I is added to R + B'PB."""
    A, B, Q, R, M, q, r, c = now
    y = P @ c + p
    G = R + B.T @ P @ B + shift * jnp.eye(B.shape[1], dtype=B.dtype)
    F, g = M.T + B.T @ P @ A, r + B.T @ y
    solved, pivot = eliminate(G, jnp.concatenate([F, g[:, None]], axis=1))
    K, k = -solved[:, :-1], -solved[:, -1]
    P_now = Q + A.T @ P @ A + F.T @ K
    v_now = v + c @ (P @ c) / 2 + p @ c + g @ k / 2
    return (P_now + P_now.T) / 2, q + A.T @ y + F.T @ k, v_now, K, k, pivot


def sweep(stages: Quadratic, Qn: Array, qn: Array, shift: Array):
    """All Riccati steps, last to first: P, p, v with n + 1 entries, K, k and pivots with n."""
    zero = jnp.zeros((), Qn.dtype)

    def step(carry, now):
        P, p, v, K, k, pivot = backward(carry[0], carry[1], carry[2], now, shift)
        return (P, p, v), (P, p, v, K, k, pivot)

    _, (P, p, v, K, k, pivot) = lax.scan(step, (Qn, qn, zero), stages, reverse=True)
    ends = (Qn[None], qn[None], zero[None])
    P, p, v = (jnp.concatenate([early, end]) for early, end in zip((P, p, v), ends, strict=True))
    return P, p, v, K, k, pivot
