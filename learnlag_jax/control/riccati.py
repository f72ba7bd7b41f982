"""Linear dynamics, quadratic cost: the exact solution by the Riccati recursion, with the pivots that prove a minimum.

    minimise  sum_k s'Qs/2 + a'Ra/2 + s'Ma + q's + r'a  +  s_n'Qn s_n/2 + qn's_n,     s_{k+1} = A s_k + B a_k + c

Cost-to-go s'Ps/2 + p's + v, best action a = K s + k. In this cost form P is symmetric and the costate of the reward -cost
is lambda = -(P s + p). Only R + B'PB must be positive definite: R itself may be singular or zero.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from learnlag_jax import checks
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where

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


class Regulator(NamedTuple):
    """The solution of a linear-quadratic problem.

    Attributes:
        value: [n + 1], the constant v_k of the cost-to-go s'P_k s/2 + p_k's + v_k.
        residual: largest relative residual of the gain equation (R + B'PB) K + B'PA + M' = 0 and of the closed-loop
            (Joseph) form of the Riccati equation.
        status: `Status`; not_positive_definite if some R + B'PB is not.
        steps: number of Riccati steps.
        P: [n + 1, d, d], K: [n, m, d], p: [n + 1, d], k: [n, m]; the best action is K_k s + k_k.
        pivot: smallest pivot of any R + B'PB; negative at a saddle.

    Example:
        >>> from learnlag_jax.control import Regulator
        >>> Regulator._fields[:4]
        ('value', 'residual', 'status', 'steps')
    """

    value: Array
    residual: Array
    status: Array
    steps: Array
    P: Array
    K: Array
    p: Array
    k: Array
    pivot: Array


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


def lqr(A, B, Q, R, *, M=None, q=None, r=None, c=None, Qn=None, qn=None, horizon: int | None = None) -> Regulator:
    """The linear-quadratic regulator: best gains and cost-to-go of a quadratic cost under affine dynamics.

        minimise  sum_k s'Qs/2 + a'Ra/2 + s'Ma + q's + r'a  +  s_n'Qn s_n/2 + qn's_n,   s_{k+1} = A s_k + B a_k + c
        a_k = K_k s_k + k_k

    Args:
        A: [n, d, d] or [d, d]; B: [n, d, m] or [d, m]; dynamics.
        Q: [n, d, d] or [d, d] (or [n + 1, d, d]: the last is Qn); R: [n, m, m] or [m, m]; symmetric weights.
        M: [n, d, m] cross weight; q: [n, d], r: [n, m] linear weights; c: [n, d] drift; all zero if left out, and each
            also without the leading axis.
        Qn: [d, d], qn: [d]; terminal weights, zero if left out.
        horizon: n, where no array has a leading time axis.

    Returns:
        A `Regulator` with `.P`, `.K`, `.k` and the residual of the equations they solve. A[n, d, d] = A for all k if the
        leading axis is missing.

    Raises:
        InputError: shapes that do not fit, or a horizon that is unknown or 0.
        Status not_positive_definite: some R + B'PB has a pivot <= 0: the cost has no unique minimum (NaN gains).
        Status nonfinite_input: an array holds NaN or infinity.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import lqr
        >>> one = jnp.ones((1, 1))
        >>> round(float(lqr(one, one, one, one, horizon=30).P[0, 0, 0]), 6)  # the golden ratio
        1.618034

    Reference: MATH.md section 5 ("LQR exact"); Bertsekas, Dynamic Programming and Optimal Control, chapter 3.
    """
    stages, Qn, qn, n = _arranged(A, B, Q, R, M, q, r, c, Qn, qn, horizon)
    P, p, v, K, k, pivot = sweep(stages, Qn, qn, jnp.zeros((), Qn.dtype))
    return _answer(stages, (P, p, v, K, k, pivot), n)


def _answer(stages: Quadratic, solved, n: int) -> Regulator:
    P, p, v, K, k, pivots = solved
    pivot = jnp.min(pivots)
    finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in stages]))
    status = first_failure(
        status_where(~finite, Status.nonfinite_input),
        status_where(~(pivot > 0), Status.not_positive_definite),
        status_where(~jnp.all(jnp.isfinite(P)), Status.diverged),
    )
    P, p, v, K, k = (jnp.where(status == 0, x, jnp.asarray(jnp.nan, x.dtype)) for x in (P, p, v, K, k))
    return Regulator(v, _residual(stages, P, K), status, jnp.int32(n), P, K, p, k, pivot)


def _residual(stages: Quadratic, P: Array, K: Array) -> Array:
    """Gain equation and closed-loop Riccati equation, relative to the terms that cancel in them; all k at once."""

    def at_step(now: Quadratic, P, K, P_next):
        A, B, Q, R, M = now.A, now.B, now.Q, now.R, now.M
        closed = A + B @ K
        terms = (R @ K, M.T, B.T @ P_next @ closed)
        gain = jnp.max(jnp.abs(terms[0] + terms[1] + terms[2]))
        joseph = (Q, K.T @ R @ K, M @ K + (M @ K).T, closed.T @ P_next @ closed)
        riccati = jnp.max(jnp.abs(sum(joseph[1:], joseph[0]) - P))
        scales = [jnp.max(jnp.abs(x)) for x in (*terms, *joseph, B.T @ P_next @ A, A.T @ P_next @ A)]
        return jnp.maximum(gain, riccati) / jnp.maximum(jnp.max(jnp.stack(scales)), jnp.finfo(P.dtype).tiny)

    return jnp.max(jax.vmap(at_step)(stages, P[:-1], K, P[1:]))


def _arranged(A, B, Q, R, M, q, r, c, Qn, qn, horizon):
    """Shapes checked, absent terms zero, constant ones repeated over the horizon."""
    given = {"A": A, "B": B, "Q": Q, "R": R, "M": M, "q": q, "r": r, "c": c, "Qn": Qn, "qn": qn}
    arrays = {name: jnp.asarray(x) for name, x in given.items() if x is not None}
    checks.floating(arrays, "lqr")
    dtype = np.result_type(*(x.dtype for x in arrays.values()))
    d, m = arrays["B"].shape[-2:] if arrays["B"].ndim >= 2 else (0, 0)
    checks.require(
        d and m, "B", checks.describe(B), "shape (n, d, m) or (d, m)", "pass the action matrix of the dynamics"
    )
    shapes = {"A": (d, d), "B": (d, m), "Q": (d, d), "R": (m, m), "M": (d, m), "q": (d,), "r": (m,), "c": (d,)}
    timed = {name: x.shape[0] for name, x in arrays.items() if name in shapes and x.ndim == len(shapes[name]) + 1}
    counts = [count for name, count in timed.items() if name != "Q"]
    n: int = horizon or (counts[0] if counts else timed.get("Q", 0))
    checks.require(n, "horizon", n, "at least one step", "give an array a leading time axis, or pass horizon=n")
    if Qn is None and timed.get("Q") == n + 1:
        arrays["Qn"], arrays["Q"] = arrays["Q"][-1], arrays["Q"][:-1]

    def stage(name, size):
        x = arrays.get(name, jnp.zeros(size, dtype)).astype(dtype)
        x = x if x.ndim == len(size) + 1 else jnp.broadcast_to(x, (n, *x.shape))
        checks.shape(x, (n, *size), name)
        return x

    stages = Quadratic(*(stage(name, size) for name, size in shapes.items()))
    ends = [arrays.get(name, jnp.zeros(size, dtype)).astype(dtype) for name, size in (("Qn", (d, d)), ("qn", (d,)))]
    for x, name, size in zip(ends, ("Qn", "qn"), ((d, d), (d,)), strict=True):
        checks.shape(x, size, name)
    return stages, *ends, n
