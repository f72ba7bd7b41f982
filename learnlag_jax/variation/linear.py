"""Small dense systems that say when they are singular, and the structured ones that are never formed.

Comes from: mass matrices, Newton steps. Goes to: `motion`, `newton`, `boundary`. Not public.
"""

import functools
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
    n = A.shape[0]
    if n <= UNROLLED:
        x, status = solve_entries([[A[i, j] for j in range(n)] for i in range(n)], [b[i] for i in range(n)])
        return jnp.stack(x), status
    rows = _reciprocal(jnp.max(jnp.abs(A), axis=1))
    columns = _reciprocal(jnp.max(jnp.abs(A) * rows[:, None], axis=0))
    scaled = A * rows[:, None] * columns[None, :]
    weigh = lambda w, x: x * (w if x.ndim == 1 else w[:, None])
    lu, _, _ = jax.lax.linalg.lu(jax.lax.stop_gradient(scaled))
    pivots = jnp.abs(jnp.diagonal(lu))
    singular, status = _verdict(jnp.all(jnp.isfinite(A)), jnp.min(pivots) / jnp.max(pivots), n)
    x = weigh(columns, jnp.linalg.solve(scaled, weigh(rows, b)))
    return jnp.where(singular, jnp.nan, x), status


def solve_entries(A: list[list[Array]], b: list[Array]) -> tuple[list[Array], Array]:
    """`solve` with every entry its own scalar: no array is ever built, so a batch of systems is one fused loop.

    Two equations go by Cramer's rule: |ad - bc| / (|ad| + |bc|) does not depend on units either.
    """
    n = len(b)
    finite = functools.reduce(jnp.logical_and, [jnp.isfinite(x) for row in A for x in row])
    rows = [_reciprocal(_largest(row)) for row in A]
    A = [[x * r for x in row] for row, r in zip(A, rows, strict=True)]
    b = [x * r for x, r in zip(b, rows, strict=True)]
    x, spread = _cramer(A, b) if n == 2 else _eliminate(A, b)
    singular, status = _verdict(finite, spread, n)
    return [jnp.where(singular, jnp.nan, y) for y in x], status


def _verdict(finite: Array, spread: Array, n: int) -> tuple[Array, Array]:
    """Whether the pivots' spread (smallest / largest) leaves any digit of the solution, and the status."""
    eps = jnp.finfo(spread.dtype).eps
    singular = ~(spread > 4 * n * eps)  # also true for NaN
    return singular, first_failure(
        status_where(~finite, Status.nonfinite_derivative),
        status_where(singular, Status.singular),
        status_where(spread < eps**0.75, Status.ill_conditioned),
    )


def _largest(entries: list[Array]) -> Array:
    return functools.reduce(jnp.maximum, [jnp.abs(x) for x in entries])


def _reciprocal(x: Array) -> Array:
    positive = x > 0
    return jax.lax.stop_gradient(jnp.where(positive, 1 / jnp.where(positive, x, 1), 1))


def _cramer(A: list[list[Array]], b: list[Array]) -> tuple[list[Array], Array]:
    """Two equations without a branch; the determinant's share of its own terms says how many digits it has."""
    (p, q), (r, s) = A
    determinant, inverse = p * s - q * r, 1 / (p * s - q * r)
    x = [(s * b[0] - q * b[1]) * inverse, (p * b[1] - r * b[0]) * inverse]
    return x, jnp.abs(determinant) / (jnp.abs(p * s) + jnp.abs(q * r))


def _eliminate(A: list[list[Array]], b: list[Array]) -> tuple[list[Array], Array]:
    """Gaussian elimination with partial pivoting, written out; columns are scaled here, the caller scaled the rows."""
    n = len(b)
    columns = [_reciprocal(_largest([row[j] for row in A])) for j in range(n)]
    rows = [[*(x * c for x, c in zip(row, columns, strict=True)), right] for row, right in zip(A, b, strict=True)]
    for k in range(n):
        for i in range(k + 1, n):
            larger = jnp.abs(rows[i][k]) > jnp.abs(rows[k][k])
            pairs = list(zip(rows[k][k:], rows[i][k:], strict=True))
            rows[k][k:] = [jnp.where(larger, y, x) for x, y in pairs]
            rows[i][k:] = [jnp.where(larger, x, y) for x, y in pairs]
        for i in range(k + 1, n):
            factor = rows[i][k] / rows[k][k]
            rows[i][k:] = [y - factor * x for x, y in zip(rows[k][k:], rows[i][k:], strict=True)]
    solution: list = [None] * n
    for k in reversed(range(n)):
        known = [rows[k][j] * solution[j] for j in range(k + 1, n)]
        solution[k] = functools.reduce(jnp.subtract, known, rows[k][n]) / rows[k][k]
    pivots = [jnp.abs(rows[k][k]) for k in range(n)]
    spread = functools.reduce(jnp.minimum, pivots) / functools.reduce(jnp.maximum, pivots)
    return [x * c for x, c in zip(solution, columns, strict=True)], spread


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


def amplification(x: Array, b: Array, size: Array) -> Array:
    """A status from what a solve did: |A| |x| / |b| is the condition number that b has met."""
    eps, n = jnp.finfo(b.dtype).eps, b.shape[0]
    met = jnp.max(jnp.abs(b)) / (size * jnp.max(jnp.abs(x)))
    still = jnp.all(b == 0) & jnp.all(x == 0)
    return first_failure(
        status_where(~(met > 4 * n * eps) & ~still, Status.singular),
        status_where((met < eps**0.75) & ~still, Status.ill_conditioned),
    )


def verified(apply: Callable, x: Array, b: Array, size: Array, status: Array) -> tuple[Array, Array]:
    """x, NaN and `inconsistent` where it does not solve apply(x) = b: the structure it was computed from is not there."""
    largest = lambda x: jnp.max(jnp.abs(x))
    solves = largest(b - apply(x)) <= jnp.finfo(b.dtype).eps ** 0.75 * (size * largest(x) + largest(b))
    status = first_failure(status, status_where(~solves, Status.inconsistent))
    unusable = (status != 0) & (status != Status.ill_conditioned)
    return jnp.where(unusable, jnp.nan, x), status


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
