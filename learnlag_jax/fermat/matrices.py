"""Functions of a positive definite matrix that keep their digits, and derivatives that hold at repeated eigenvalues too.

Comes from: information matrices. Goes to: `criteria`. Reference: Higham, Functions of Matrices (2008), chapter 3; MATH.md 4.
"""

import jax
import jax.numpy as jnp

from learnlag_jax.vocabulary import Array


@jax.custom_jvp
def inverse(M: Array) -> Array:
    """M^-1 through Cholesky; its derivative, -M^-1 dM M^-1, is products only, to any order."""
    L = jnp.linalg.cholesky(M)
    half = jax.scipy.linalg.solve_triangular(L, jnp.eye(M.shape[-1], dtype=M.dtype), lower=True)
    return half.T @ half


@inverse.defjvp
def _inverse_jvp(primals, tangents):
    D = inverse(primals[0])
    return D, -D @ tangents[0] @ D


@jax.custom_jvp
def log_determinant(M: Array) -> Array:
    """log det M through Cholesky; derivative tr(M^-1 dM)."""
    return 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(M))))


@log_determinant.defjvp
def _log_determinant_jvp(primals, tangents):
    return log_determinant(primals[0]), jnp.sum(inverse(primals[0]) * tangents[0].T)


def regular(M: Array) -> Array:
    """True if M is positive definite beyond rounding: every Cholesky pivot keeps a share of its diagonal entry.

    The share, 1 - R^2 of a column on those before it, does not change when columns are rescaled.
    """
    p = M.shape[-1]
    d = jnp.diagonal(M)
    scale = jax.lax.rsqrt(jnp.where(d > 0, d, jnp.ones_like(d)))
    pivots = jnp.diagonal(jnp.linalg.cholesky(M * scale[:, None] * scale[None, :])) ** 2
    return jnp.all(d > 0) & jnp.all(pivots > 10 * p * jnp.finfo(M.dtype).eps)  # NaN pivots compare false


def eigenvalues(M: Array) -> Array:
    """Of a positive definite matrix, increasing; the small ones from its inverse, which knows them better when rows differ in scale."""
    large, small = jnp.linalg.eigvalsh(M), 1 / jnp.linalg.eigvalsh(inverse(M))[::-1]
    middle = jnp.sqrt(small[0]) * jnp.sqrt(large[-1])
    return jnp.where((large > middle) | ~(small > 0), large, small)


@jax.custom_jvp
def negative_power_trace(M: Array, q: Array) -> Array:
    """tr M^-q; its derivative -q tr(M^-(q+1) dM) - tr(M^-q log M) dq is finite also at repeated eigenvalues."""
    return jnp.sum(eigenvalues(M) ** -q)


@negative_power_trace.defjvp
def _negative_power_trace_jvp(primals, tangents):
    (M, q), (dM, dq) = primals, tangents
    l, U = jnp.linalg.eigh(inverse(M))
    in_q = jnp.sum(_power_slope(l, q)) * dq
    return negative_power_trace(M, q), -q * jnp.sum(negative_power(M, q + 1) * dM.T) + in_q


def negative_power(M: Array, q: Array) -> Array:
    """M^-q of a positive definite matrix, as the power of its inverse."""
    return power(inverse(M), q)


@jax.custom_jvp
def power(D: Array, q: Array) -> Array:
    """D^q of a positive definite matrix; derivative by divided differences (Daleckii and Krein)."""
    l, U = jnp.linalg.eigh(D)
    return (U * _power(l, q)[None, :]) @ U.T


def _power(l: Array, q: Array) -> Array:
    """l^q; 0 for an eigenvalue that rounding made negative."""
    return jnp.where(l > 0, jnp.where(l > 0, l, 1) ** q, 0)


def _power_slope(l: Array, q: Array) -> Array:
    """d l^q / dq = l^q log l."""
    return _power(l, q) * jnp.log(jnp.where(l > 0, l, 1))


@power.defjvp
def _power_jvp(primals, tangents):
    (D, q), (dD, dq) = primals, tangents
    l, U = jnp.linalg.eigh(D)
    f, slope = _power(l, q), q * _power(l, q - 1)
    gap = l[:, None] - l[None, :]
    close = jnp.abs(gap) <= jnp.sqrt(jnp.finfo(l.dtype).eps) * (l[:, None] + l[None, :])
    steep = (f[:, None] - f[None, :]) / jnp.where(close, jnp.ones_like(gap), gap)
    difference = jnp.where(close, (slope[:, None] + slope[None, :]) / 2, steep)
    in_q = (U * (_power_slope(l, q) * dq)[None, :]) @ U.T
    return (U * f[None, :]) @ U.T, U @ (difference * (U.T @ dD @ U)) @ U.T + in_q
