"""Functions of a positive definite matrix that keep their digits, and derivatives that hold at repeated eigenvalues too.

Comes from: information matrices. Goes to: `criteria`. Reference: Higham, Functions of Matrices (2008), chapter 3; MATH.md 4.
"""

import jax
import jax.numpy as jnp

from learnlag_jax.vocabulary import Array


@jax.custom_jvp
def inverse(M: Array) -> Array:
    """M^-1 through Cholesky; its derivative, -M^-1 dM M^-1, is products only, to any order."""
    root = inverse_root(M)
    return root @ root.T


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
    pivots = jnp.diagonal(jnp.linalg.cholesky(_correlations(M))) ** 2
    return jnp.all(jnp.diagonal(M) > 0) & jnp.all(pivots > 10 * p * jnp.finfo(M.dtype).eps)  # NaN pivots compare false


def rank(S: Array) -> Array:
    """How many directions a positive semi-definite matrix knows, beyond rounding, whatever the units of its columns."""
    known = jnp.linalg.eigvalsh(_correlations(S)) > 10 * len(S) * jnp.finfo(S.dtype).eps
    return jnp.sum(known.astype(jnp.int32))


def _correlations(S: Array) -> Array:
    """S in units in which its diagonal is 1, where it is not 0."""
    d = jnp.diagonal(S)
    scale = jax.lax.rsqrt(jnp.where(d > 0, d, jnp.ones_like(d)))
    return S * scale[:, None] * scale[None, :]


def inverse_root(M: Array, basis: Array | None = None) -> Array:
    """X with X X' = B M^-1 B'. Its singular values squared are the eigenvalues of that, small ones in proportion too."""
    half = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(M), jnp.eye(M.shape[-1], dtype=M.dtype), lower=True)
    return half.T if basis is None else basis @ half.T


@jax.custom_jvp
def log_power_mean(M: Array, q: Array, basis: Array | None = None) -> Array:
    """log(tr (B M^-1 B')^q / p) / q, B constant: the mean of log l as q -> 0, to its last digits.

    Derivative -tr((X' X)^q L^-1 dM L^-T) / tr(X' X)^q, without a division by q, at repeated eigenvalues too.
    """
    return _log_mean(_logarithms(inverse_root(M, basis)), q)


@log_power_mean.defjvp
def _log_power_mean_jvp(primals, tangents):
    (M, q, basis), (dM, dq, _) = primals, tangents
    half = inverse_root(M).T
    X = half.T if basis is None else basis @ half.T
    mean = log_power_mean(M, q, basis)
    total = X.shape[-1] * jnp.exp(q * mean)
    in_M = -jnp.sum(gram_power(X, q) * (half @ dM @ half.T).T) / total
    return mean, in_M + _slope_in_exponent(_logarithms(X) - mean, q) * dq


def _logarithms(X: Array) -> Array:
    """log of the eigenvalues of X X'; of the smallest number for one that rounding made 0."""
    l = jnp.linalg.svd(X, compute_uv=False) ** 2
    return jnp.log(jnp.maximum(l, jnp.finfo(l.dtype).tiny))


def _log_mean(logs: Array, q: Array) -> Array:
    return jnp.log1p(jnp.mean(jnp.expm1(q * logs))) / q


def _slope_in_exponent(d: Array, q: Array) -> Array:
    """d/dq of the log of a power mean, from d = log l - itself: mean of d^2 h(q d), h(r) = (r e^r - e^r + 1) / r^2 = 1/2 + r/3 + ...

    It is a relative entropy over q^2: no difference of large numbers. The series loses r^4 / 144, the quotient 2 eps / r.
    """
    r = q * d
    near = jnp.abs(r) < (288 * jnp.finfo(r.dtype).eps) ** 0.2
    far, close = jnp.where(near, jnp.ones_like(r), r), jnp.where(near, r, jnp.zeros_like(r))
    up = jnp.expm1(far)
    h = jnp.where(near, 1 / 2 + close / 3 + close**2 / 8 + close**3 / 30, (far * up - (up - far)) / far**2)
    return jnp.mean(d**2 * h)


@jax.custom_jvp
def gram_power(X: Array, q: Array) -> Array:
    """(X' X)^q; derivative by divided differences (Daleckii and Krein)."""
    _, S, Vt = jnp.linalg.svd(X)
    return (Vt.T * _power(S**2, q)[None, :]) @ Vt


def _power(l: Array, q: Array) -> Array:
    """l^q; 0 for an eigenvalue that rounding made 0."""
    return jnp.where(l > 0, jnp.where(l > 0, l, 1) ** q, 0)


def _power_slope(l: Array, q: Array) -> Array:
    """d l^q / dq = l^q log l."""
    return _power(l, q) * jnp.log(jnp.where(l > 0, l, 1))


@gram_power.defjvp
def _gram_power_jvp(primals, tangents):
    (X, q), (dX, dq) = primals, tangents
    _, S, Vt = jnp.linalg.svd(X)
    V, l = Vt.T, S**2
    f, slope = _power(l, q), q * _power(l, q - 1)
    gap = l[:, None] - l[None, :]
    close = jnp.abs(gap) <= jnp.sqrt(jnp.finfo(l.dtype).eps) * (l[:, None] + l[None, :])
    steep = (f[:, None] - f[None, :]) / jnp.where(close, jnp.ones_like(gap), gap)
    difference = jnp.where(close, (slope[:, None] + slope[None, :]) / 2, steep)
    turned = (X @ V).T @ (dX @ V)
    in_q = (V * (_power_slope(l, q) * dq)[None, :]) @ Vt
    return (V * f[None, :]) @ Vt, V @ (difference * (turned + turned.T)) @ Vt + in_q
