"""Dense systems that say when they are singular.

Comes from: mass matrices, Newton steps. Goes to: `motion`, `newton`, `boundary`. Not public.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax.extrema import largest_size
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where

UNROLLED = 4  # up to this size elimination is written out: batches fuse into one loop instead of one LAPACK call each


def solve(A: Array, b: Array) -> tuple[Array, Array]:
    """x with A x = b, and a status; rows and columns are scaled first, so units do not decide what is singular.

    A failed member of a batch is solved with A = 1 behind its NaN: whoever masks it gets a finite gradient.

    Args:
        A: (n, n).
        b: (n,) or (n, m).

    Returns:
        x shaped like b, NaN where A is singular; `singular` if the pivots of a small A span 1/(4 n eps) or more, or a large A
        amplifies a probe by as much; `ill_conditioned` if that leaves less than a quarter of the digits.
    """
    n = A.shape[0]
    if n <= UNROLLED:
        x, status = solve_entries([[A[i, j] for j in range(n)] for i in range(n)], [b[i] for i in range(n)])
        return jnp.stack(x), status
    rows = reciprocal(jnp.max(jnp.abs(A), axis=1))
    columns = reciprocal(jnp.max(jnp.abs(A) * rows[:, None], axis=0))
    scaled = A * rows[:, None] * columns[None, :]
    factors, pivots = jax.scipy.linalg.lu_factor(jax.lax.stop_gradient(scaled))
    z = probe(n, A.dtype)
    met = amplification(jax.scipy.linalg.lu_solve((factors, pivots), z), z, jnp.max(jnp.sum(jnp.abs(scaled), axis=1)))
    singular, status = verdict(jnp.all(jnp.isfinite(A)), met, n)
    one = jnp.eye(n, dtype=A.dtype)
    factors, regular = jnp.where(singular, one, factors), jnp.where(singular, one, scaled)
    invert = lambda trans: lambda _, y: jax.scipy.linalg.lu_solve((factors, pivots), y, trans=trans)
    weigh = lambda w, x: x * (w if x.ndim == 1 else w[:, None])
    y = jax.lax.custom_linear_solve(lambda x: regular @ x, weigh(rows, b), invert(0), transpose_solve=invert(1))
    return jnp.where(singular, jnp.nan, weigh(columns, y)), status


def probe(n: int, dtype) -> Array:
    """(n,) a right side without pattern, cos k^2: no singular vector of use is orthogonal to it."""
    return jnp.asarray(np.cos(np.arange(1.0, n + 1) ** 2), dtype)


def amplification(x: Array, b: Array, size: Array) -> Array:
    """|b| / (|A| |x|) of a solve of A x = b with |A| = `size`: the reciprocal of the condition number that b has met."""
    return jax.lax.stop_gradient(largest_size(b) / (size * largest_size(x)))


def solve_entries(A: list[list[Array]], b: list[Array]) -> tuple[list[Array], Array]:
    """`solve` with every entry its own scalar: no array is ever built, so a batch of systems is one fused loop.

    Two equations go by Cramer's rule: |ad - bc| / (|ad| + |bc|) does not depend on units either.
    """
    n = len(b)
    finite = functools.reduce(jnp.logical_and, [jnp.isfinite(x) for row in A for x in row])
    rows = [reciprocal(_largest(row)) for row in A]
    A = [[x * r for x in row] for row, r in zip(A, rows, strict=True)]
    b = [x * r for x, r in zip(b, rows, strict=True)]
    x, spread = _cramer(A, b) if n == 2 else _eliminate(A, b)
    singular, status = verdict(finite, spread, n)
    return [jnp.where(singular, jnp.nan, y) for y in x], status


def verdict(finite: Array, spread: Array, n: int) -> tuple[Array, Array]:
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


def reciprocal(x: Array) -> Array:
    """1 / x, or 1 where x is not positive; a unit, and constant to differentiation."""
    positive = x > 0
    return jax.lax.stop_gradient(jnp.where(positive, 1 / jnp.where(positive, x, 1), 1))


def _or_one(x: Array) -> Array:
    """x, or 1 in place of zero: what is divided by it is masked later, and its gradient must stay finite."""
    return jnp.where(x == 0, 1, x)


def _cramer(A: list[list[Array]], b: list[Array]) -> tuple[list[Array], Array]:
    """Two equations without a branch; the determinant's share of its own terms says how many digits it has."""
    (p, q), (r, s) = A
    determinant = p * s - q * r
    inverse = 1 / _or_one(determinant)
    x = [(s * b[0] - q * b[1]) * inverse, (p * b[1] - r * b[0]) * inverse]
    return x, jnp.abs(determinant) / (jnp.abs(p * s) + jnp.abs(q * r))


def _eliminate(A: list[list[Array]], b: list[Array]) -> tuple[list[Array], Array]:
    """Gaussian elimination with partial pivoting, written out; columns are scaled here, the caller scaled the rows."""
    n = len(b)
    columns = [reciprocal(_largest([row[j] for row in A])) for j in range(n)]
    rows = [[*(x * c for x, c in zip(row, columns, strict=True)), right] for row, right in zip(A, b, strict=True)]
    for k in range(n):
        for i in range(k + 1, n):
            larger = jnp.abs(rows[i][k]) > jnp.abs(rows[k][k])
            pairs = list(zip(rows[k][k:], rows[i][k:], strict=True))
            rows[k][k:] = [jnp.where(larger, y, x) for x, y in pairs]
            rows[i][k:] = [jnp.where(larger, x, y) for x, y in pairs]
        for i in range(k + 1, n):
            factor = rows[i][k] / _or_one(rows[k][k])
            rows[i][k:] = [y - factor * x for x, y in zip(rows[k][k:], rows[i][k:], strict=True)]
    solution: list = [None] * n
    for k in reversed(range(n)):
        known = [rows[k][j] * solution[j] for j in range(k + 1, n)]
        solution[k] = functools.reduce(jnp.subtract, known, rows[k][n]) / _or_one(rows[k][k])
    pivots = [jnp.abs(rows[k][k]) for k in range(n)]
    spread = functools.reduce(jnp.minimum, pivots) / functools.reduce(jnp.maximum, pivots)
    return [x * c for x, c in zip(solution, columns, strict=True)], spread
