"""Linear systems known by their products alone: diagonal, tridiagonal, or positive definite; no matrix is formed.

What the structure promises is checked on the answer and on a probe. Comes from: mass matrices. Goes to: `motion`. Not public.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from learnlag_jax.extrema import largest_size
from learnlag_jax.variation.linear import amplification, probe, verdict
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where


def diagonal(apply: Callable, b: Array) -> tuple[Array, Array]:
    """x with apply(x) = b for a diagonal operator, from its row sums; and a status."""
    d = apply(jnp.ones_like(b))
    _, status = verdict(jnp.all(jnp.isfinite(d)), jnp.where(jnp.any(d == 0), 0, jnp.ones_like(d[0])), b.shape[0])
    d = jnp.where(jnp.abs(d) > 0, d, 1)
    return _verified(apply, lambda b: b / d, lambda x: jnp.abs(d * x), b, status)


def tridiagonal(apply: Callable, b: Array) -> tuple[Array, Array]:
    """x with apply(x) = b for a symmetric tridiagonal operator, scaled to a unit diagonal; and a status."""
    low, middle, high = _band(apply, b.shape[0], b.dtype)
    finite = jnp.all(jnp.isfinite(low + middle + high))
    s = jax.lax.stop_gradient(1 / jnp.sqrt(jnp.where(jnp.abs(middle) > 0, jnp.abs(middle), 1)))
    bands = low * s * jnp.roll(s, 1), middle * s * s, high * s * jnp.roll(s, -1)
    z = probe(b.shape[0], b.dtype)
    size = jnp.max(sum(jnp.abs(band) for band in bands))
    met = amplification(_invert(jax.lax.stop_gradient(bands), z), z, size)
    singular, status = verdict(finite, met, b.shape[0])
    low, middle, high = (jnp.where(singular, c, band) for c, band in zip((0, 1, 0), bands, strict=True))

    def terms(x):
        y = jnp.abs(x / s)
        below, above = jnp.roll(y, 1).at[0].set(0), jnp.roll(y, -1).at[-1].set(0)
        return (jnp.abs(low) * below + jnp.abs(middle) * y + jnp.abs(high) * above) / s

    return _verified(apply, lambda b: s * _invert((low, middle, high), s * b), terms, b, status)


def _invert(bands: Sequence[Array], b: Array) -> Array:
    low, middle, high = bands
    return jax.lax.linalg.tridiagonal_solve(low, middle, high, b[:, None])[:, 0]


def _verified(apply: Callable, invert: Callable, terms: Callable, b: Array, status: Array) -> tuple[Array, Array]:
    """invert(b); NaN and `inconsistent` where it, or the same for a probe, does not solve its equation row by row."""

    def solves(x, b):
        return jnp.all(jnp.abs(b - apply(x)) <= jnp.finfo(b.dtype).eps ** 0.75 * (terms(x) + jnp.abs(b)))

    x, z = invert(b), probe(b.shape[0], b.dtype)
    status = first_failure(status, status_where(~(solves(x, b) & solves(invert(z), z)), Status.inconsistent))
    return jnp.where((status != 0) & (status != Status.ill_conditioned), jnp.nan, x), status


def _band(apply: Callable, n: int, dtype) -> tuple[Array, Array, Array]:
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


def positive_definite(apply: Callable, b: Array, *, steps: int | None = None) -> tuple[Array, Array]:
    """x with apply(x) = b for a positive definite operator, by conjugate gradients; a probe is solved beside b.

    Judged by one norm over all entries, for the operator's rows are not known: entries in unlike units want another method. A
    semi-definite operator solves what lies in its range and hides there; of a probe it cannot.

    Returns:
        x (n,), NaN unless solved, and `not_positive_definite`, `max_steps`, `singular` (b is solved, the probe is not: singular to
        working precision, or too ill-conditioned for the steps) or `converged`.
    """
    z, size = probe(b.shape[0], b.dtype), jax.lax.stop_gradient(largest_size(b))
    # or the square of b would overflow or vanish, and with it what counts as solved
    size = jnp.where(size > 0, size, 1)
    (x, _), (status, hidden) = jax.vmap(lambda b: _conjugate_gradient(apply, b, steps))(jnp.stack([b / size, z]))
    status = first_failure(status, status_where(hidden != 0, Status.singular))
    return jnp.where(status != 0, jnp.nan, x * size), status


def _conjugate_gradient(apply: Callable, b: Array, steps: int | None) -> tuple[Array, Array]:
    """Down to the rounding floor; the answer as it stands, and whether it may be used."""
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
        return jnp.where(curved, x, 0), curved

    x, curved = jax.lax.custom_linear_solve(apply, b, iterate, symmetric=True, has_aux=True)
    defect = b - apply(x)
    loose = ~(jnp.vdot(defect, defect) <= eps * jnp.vdot(b, b))  # sqrt(eps) of |b|
    status = first_failure(status_where(~curved, Status.not_positive_definite), status_where(loose, Status.max_steps))
    return x, status
