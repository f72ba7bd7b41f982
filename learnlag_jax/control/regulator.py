"""The linear-quadratic regulator, checked at the door and answered with the residual of the equations it solves."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from learnlag_jax import checks, trees
from learnlag_jax.control.parallel import levels, parallel_sweep
from learnlag_jax.control.riccati import Feedback, Quadratic, bordered, eliminate, homogeneous, sweep, unbordered
from learnlag_jax.extrema import largest, largest_size, smallest
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where


class Regulator(NamedTuple):
    """The solution of a linear-quadratic problem.

    Attributes:
        value: [n + 1], the constant v_k of the cost-to-go s'P_k s/2 + p_k's + v_k.
        residual: largest relative residual of the gain equation (R + B'PB) K + B'PA + M' = 0 and of the closed-loop
            (Joseph) form of the Riccati equation.
        status: `Status`; not_positive_definite if some R + B'PB is not.
        steps: sequential Riccati steps, or levels of the parallel scan.
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


def lqr(
    A, B, Q, R, *, M=None, q=None, r=None, c=None, Qn=None, qn=None, horizon: int | None = None, parallel: bool = False
) -> Regulator:
    """The linear-quadratic regulator: best gains and cost-to-go of a quadratic cost under affine dynamics.

        minimise  sum_k s'Qs/2 + a'Ra/2 + s'Ma + q's + r'a  +  s_n'Qn s_n/2 + qn's_n,   s_{k+1} = A s_k + B a_k + c
        a_k = K_k s_k + k_k

    Args:
        A: [n, d, d] or [d, d]; B: [n, d, m] or [d, m]; dynamics.
        Q: [n, d, d] or [d, d] (or [n + 1, d, d]: the last is Qn); R: [n, m, m] or [m, m]; weights, of which the
            form s'Qs only sees the symmetric part: (Q + Q')/2 is what is used, of R and Qn too.
        M: [n, d, m] cross weight; q: [n, d], r: [n, m] linear weights; c: [n, d] drift; all zero if left out, and each
            also without the leading axis.
        Qn: [d, d], qn: [d]; terminal weights, zero if left out.
        horizon: n >= 1, where no array has a leading time axis.
        parallel: find P by an associative scan (for accelerators and long horizons); if its misfit to the Riccati step
            exceeds 64 d eps (1e-10 in float64), as it will when control is cheap, the sequential sweep is run instead. `.steps` tells
            which: the levels of the scan, or n.

    Returns:
        A `Regulator` with `.P`, `.K`, `.k` and the residual of the equations they solve. A[n, d, d] = A for all k if the
        leading axis is missing.

    Raises:
        InputError: shapes that do not fit, or a horizon that is unknown or not a whole number of steps.
        Status not_positive_definite: some R + B'PB has a pivot that is not positive, or is nothing but the rounding of its
            diagonal entry, (m + d) eps of it: the cost has no unique minimum (NaN gains).
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
    return _regulate(stages, Qn, qn, n, parallel)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _regulate(stages: Quadratic, Qn: Array, qn: Array, n: int, parallel: bool) -> Regulator:
    zero = jnp.zeros((), Qn.dtype)

    def step_by_step():
        return unbordered(*sweep(*jax.vmap(homogeneous)(stages), bordered(Qn, qn, zero), zero)), jnp.int32(n)

    if not parallel:
        return _answer(stages, (Qn, qn), *step_by_step())
    at_once, misfit = parallel_sweep(stages, Qn, qn)
    good = misfit <= max(64 * len(qn) * float(jnp.finfo(qn.dtype).eps), 1e-10)
    return _answer(stages, (Qn, qn), *lax.cond(good, lambda: (at_once, jnp.int32(levels(n))), step_by_step))


def _answer(stages: Quadratic, ends: tuple, solved: Feedback, steps: Array) -> Regulator:
    P, p, v, K, k, pivots = solved
    (d, m), pivot = stages.B.shape[1:], smallest(pivots)
    definite = (pivot > 0) & (smallest(_relative_pivots(stages, P)) > (m + d) * float(jnp.finfo(P.dtype).eps))
    status = first_failure(
        status_where(~trees.all_finite((stages, ends)), Status.nonfinite_input),
        status_where(~definite, Status.not_positive_definite),
        status_where(~jnp.all(jnp.isfinite(P)), Status.diverged),
    )
    P, p, v, K, k = (jnp.where(status == 0, x, jnp.asarray(jnp.nan, x.dtype)) for x in (P, p, v, K, k))
    return Regulator(v, _residual(stages, P, K), status, steps, P, K, p, k, pivot)


def _relative_pivots(stages: Quadratic, P: Array) -> Array:
    """The smallest pivot of each R + B'PB scaled to a diagonal of ones, which is its share of what it was left over from."""

    def at_step(R, B, P):
        S = R + B.T @ P @ B
        size = jnp.sqrt(jnp.diagonal(S))
        return eliminate(S / size[:, None] / size[None], jnp.zeros_like(S[:, :1]))[1]

    return jax.vmap(at_step)(stages.R, stages.B, P[1:])


def _residual(stages: Quadratic, P: Array, K: Array) -> Array:
    """Gain equation and closed-loop Riccati equation, relative to the terms that cancel in them; all k at once."""

    def at_step(now: Quadratic, P, K, P_next):
        A, B, Q, R, M = now.A, now.B, now.Q, now.R, now.M
        closed = A + B @ K
        terms = (R @ K, M.T, B.T @ P_next @ closed)
        gain = largest_size(terms[0] + terms[1] + terms[2])
        joseph = (Q, K.T @ R @ K, M @ K + (M @ K).T, closed.T @ P_next @ closed)
        riccati = largest_size(sum(joseph[1:], joseph[0]) - P)
        scales = [jnp.max(jnp.abs(x)) for x in (*terms, *joseph, B.T @ P_next @ A, A.T @ P_next @ A)]
        return jnp.maximum(gain, riccati) / jnp.maximum(jnp.max(jnp.stack(scales)), jnp.finfo(P.dtype).tiny)

    return largest(jax.vmap(at_step)(stages, P[:-1], K, P[1:]))


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
    if horizon is not None:
        checks.whole(horizon, "horizon", 1, "pass a number of steps")
    n: int = (counts[0] if counts else timed.get("Q", 0)) if horizon is None else int(horizon)
    checks.require(n, "horizon", n, "at least one step", "give an array a leading time axis, or pass horizon=n")
    if Qn is None and timed.get("Q") == n + 1:
        arrays["Qn"], arrays["Q"] = arrays["Q"][-1], arrays["Q"][:-1]

    def stage(name, size):
        x = arrays.get(name, jnp.zeros(size, dtype)).astype(dtype)
        x = x if x.ndim == len(size) + 1 else jnp.broadcast_to(x, (n, *x.shape))
        checks.shape(x, (n, *size), name)
        return x

    symmetric = lambda x, name: (x + x.mT) / 2 if name in ("Q", "R", "Qn") else x
    stages = Quadratic(*(symmetric(stage(name, size), name) for name, size in shapes.items()))
    ends = [arrays.get(name, jnp.zeros(size, dtype)).astype(dtype) for name, size in (("Qn", (d, d)), ("qn", (d,)))]
    for x, name, size in zip(ends, ("Qn", "qn"), ((d, d), (d,)), strict=True):
        checks.shape(x, size, name)
    return stages, symmetric(ends[0], "Qn"), ends[1], n
