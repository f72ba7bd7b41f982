"""Small dense systems that say when they are singular, and the structured ones that are never formed.

Comes from: mass matrices, Newton steps. Goes to: `motion`, `newton`, `boundary`. Not public.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax.vocabulary import Array, Status, first_failure, status_where

UNROLLED = 4  # up to this size elimination is written out: batches fuse into one loop instead of one LAPACK call each


def solve(A: Array, b: Array) -> tuple[Array, Array]:
    """x with A x = b, and a status; rows and columns are scaled first, so units do not decide what is singular.

    Args:
        A: (n, n).
        b: (n,) or (n, m).

    Returns:
        x shaped like b, NaN where A is singular; `singular` if the pivots span 1/(4 n eps) or more, `ill_conditioned` if
        they leave less than a quarter of the digits.
    """
    n, eps = A.shape[0], jnp.finfo(A.dtype).eps
    rows = _reciprocal(jnp.max(jnp.abs(A), axis=1))
    columns = _reciprocal(jnp.max(jnp.abs(A) * rows[:, None], axis=0))
    scaled = A * rows[:, None] * columns[None, :]
    weigh = lambda w, x: x * (w if x.ndim == 1 else w[:, None])
    y, pivots = (_unrolled if n <= UNROLLED else _lu)(scaled, weigh(rows, b))
    spread = jnp.min(jnp.abs(pivots)) / jnp.max(jnp.abs(pivots))
    singular = ~(spread > 4 * n * eps)  # also true for NaN
    status = first_failure(
        status_where(~jnp.all(jnp.isfinite(A)), Status.nonfinite_derivative),
        status_where(singular, Status.singular),
        status_where(spread < eps**0.75, Status.ill_conditioned),
    )
    return jnp.where(singular, jnp.nan, weigh(columns, y)), status


def _reciprocal(x: Array) -> Array:
    positive = x > 0
    return jax.lax.stop_gradient(jnp.where(positive, 1 / jnp.where(positive, x, 1), 1))


def _lu(A: Array, b: Array) -> tuple[Array, Array]:
    lu, _, permutation = jax.lax.linalg.lu(jax.lax.stop_gradient(A))
    return jnp.linalg.solve(A, b), jnp.diagonal(lu)


def _unrolled(A: Array, b: Array) -> tuple[Array, Array]:
    """Gaussian elimination with partial pivoting, written out."""
    n = A.shape[0]
    rows = [[*(A[i, j] for j in range(n)), b[i]] for i in range(n)]
    for k in range(n):
        for i in range(k + 1, n):
            larger = jnp.abs(rows[i][k]) > jnp.abs(rows[k][k])
            rows[k], rows[i] = (
                [jnp.where(larger, x, y) for x, y in zip(rows[i], rows[k], strict=True)],
                [jnp.where(larger, y, x) for x, y in zip(rows[i], rows[k], strict=True)],
            )
        for i in range(k + 1, n):
            factor = rows[i][k] / rows[k][k]
            rows[i] = [x - factor * y for x, y in zip(rows[i], rows[k], strict=True)]
    solution: list = [None] * n
    for k in reversed(range(n)):
        known = sum((rows[k][j] * solution[j] for j in range(k + 1, n)), jnp.zeros_like(rows[k][n]))
        solution[k] = (rows[k][n] - known) / rows[k][k]
    return jnp.stack(solution), jnp.stack([rows[k][k] for k in range(n)])


def conjugate_gradient(apply: Callable, b: Array, *, steps: int | None = None) -> tuple[Array, Array]:
    """x with apply(x) = b for a positive definite operator, without its matrix; stops at the rounding floor.

    Returns:
        x (n,), NaN unless solved, and `not_positive_definite`, `max_steps` or `converged`.
    """
    n, eps = b.shape[0], jnp.finfo(b.dtype).eps
    limit = 2 * n if steps is None else steps

    def iterate(matvec, b):
        floor = (4 * eps) ** 2 * jnp.vdot(b, b)

        def step(state):
            x, r, p, rr, curved, k = state
            Ap = matvec(p)
            curvature = jnp.vdot(p, Ap)
            alpha = rr / curvature
            r_next = r - alpha * Ap
            rr_next = jnp.vdot(r_next, r_next)
            return x + alpha * p, r_next, r_next + (rr_next / rr) * p, rr_next, curved & (curvature > 0), k + 1

        go = lambda s: (s[3] > floor) & s[4] & (s[5] < limit)
        start = (jnp.zeros_like(b), b, b, jnp.vdot(b, b), jnp.asarray(True), jnp.int32(0))
        x, _, _, _, curved, _ = jax.lax.while_loop(go, step, start)
        return jnp.where(curved, x, jnp.nan)

    x = jax.lax.custom_linear_solve(apply, b, iterate, symmetric=True)
    defect = b - apply(x)
    loose = ~(jnp.vdot(defect, defect) <= eps * jnp.vdot(b, b))  # sqrt(eps) of |b|
    status = first_failure(
        status_where(jnp.isnan(x).any(), Status.not_positive_definite), status_where(loose, Status.max_steps)
    )
    return jnp.where(loose, jnp.nan, x), status


def band(apply: Callable, n: int, dtype) -> tuple[Array, Array, Array]:
    """The three diagonals of a tridiagonal operator from three applications; (n,) each, padded with zero as LAPACK does."""
    colour = jnp.arange(n) % 3
    columns = [apply((colour == c).astype(dtype)) for c in range(3)]
    pick = lambda shift: jnp.select([(jnp.arange(n) + shift) % 3 == c for c in range(3)], columns)
    inside = jnp.arange(n)
    return (
        jnp.where(inside > 0, pick(-1), jnp.zeros(n, dtype)),
        pick(0),
        jnp.where(inside < n - 1, pick(1), jnp.zeros(n, dtype)),
    )
