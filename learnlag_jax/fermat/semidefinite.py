"""The largest least eigenvalue of an information matrix, and the matrix that proves it: what stands behind E-optimality.

    max over w of lambda,  S = M(w) - lambda K psd,  w >= 0,  sum w = 1;      for any X psd with tr K X = 1:
    lambda* <= max_i f_i' X f_i + tr X prior

Interior point, primal and dual at once: Newton on X S + S X = 2 kappa I (Alizadeh, Haeberly and Overton), w_i z_i = kappa, and
kappa -> 0. A repeated eigenvalue, X of any rank and weights that are not unique cost it nothing. K = B'B carries the
coordinates of the parameters into the basis in which the pool is orthonormal. Comes from: `extreme`. Reference: Alizadeh, Haeberly and
Overton (1998); Todd (2001); MATH.md 4.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax.extrema import largest, smallest
from learnlag_jax.fermat.active_set import weighted_information
from learnlag_jax.fermat.criteria import sensitivity
from learnlag_jax.fermat.matrices import inverse
from learnlag_jax.vocabulary import Array

STEPS = 100
NEAR_WALL, SHORTEST = 0.95, 1e-6


class Point(NamedTuple):
    """Weights w (n,) and level (); proof X (p, p), what rows lack of the common worth z (n,), that worth nu (); and how far the last
    step went."""

    w: Array
    level: Array
    X: Array
    z: Array
    nu: Array
    went: Array


def largest_eigenvalue_design(rows: Array, K: Array, prior: Array | None, tol: Array) -> tuple[Array, Array]:
    """Weights w (n,) on `rows` ((n, p) or (n, k, p)) and X (p, p) with tr K X = 1, to a relative gap of about `tol`.

    Where rounding stops Newton early, the last sound point is returned: whoever calls certifies it.
    """
    n, p = rows.shape[0], rows.shape[-1]
    w = jnp.full(n, 1 / n, rows.dtype)
    given, K = K, K / _top(weighted_information(rows, w, prior), K)
    half = jnp.asarray(0.5, rows.dtype)
    S_inverse = inverse(weighted_information(rows, w, prior) - half * K)
    kappa = 1 / jnp.sum(K * S_inverse)
    X, z = kappa * S_inverse, jnp.full(n, n * kappa)
    start = Point(w, half, X, z, jnp.mean(sensitivity(rows, X) + z), jnp.ones((), rows.dtype))

    def cond(carry):
        point, sound, k = carry
        loose = _complementarity(rows, K, prior, point) * (n + p) > tol * point.level
        lacking = jnp.max(jnp.abs(point.nu - sensitivity(rows, point.X) - point.z)) > tol * point.level
        return sound & (k < STEPS) & (loose | lacking)

    def body(carry):
        point, _, k = carry
        new, sound = _advance(rows, K, prior, point)
        return jax.tree.map(lambda a, b: jnp.where(sound, a, b), new, point), sound, k + 1

    point, _, _ = jax.lax.while_loop(cond, body, (start, jnp.isfinite(kappa), 0))
    return point.w / jnp.sum(point.w), point.X / jnp.sum(given * point.X)


def _top(M: Array, K: Array) -> Array:
    """Largest eigenvalue of M^-1 K."""
    root = jnp.linalg.cholesky(M)
    solve = lambda A: jax.scipy.linalg.solve_triangular(root, A, lower=True)
    return jnp.linalg.eigvalsh(solve(solve(K).T))[-1]


def _slack(rows: Array, K: Array, prior: Array | None, point: Point) -> Array:
    return weighted_information(rows, point.w, prior) - point.level * K


def _complementarity(rows: Array, K: Array, prior: Array | None, point: Point) -> Array:
    products = jnp.sum(point.X * _slack(rows, K, prior, point)) + jnp.sum(point.w * point.z)
    return products / (point.w.size + len(K))


def _advance(rows: Array, K: Array, prior: Array | None, point: Point) -> tuple[Point, Array]:
    """One Newton step, cut off before the walls; towards a tenth of kappa if the last one was long, else to less."""
    S = _slack(rows, K, prior, point)
    share = jnp.where(point.went > 0.7, 0.1, jnp.where(point.went > 0.3, 0.3, 0.6)).astype(S.dtype)
    kappa = share * _complementarity(rows, K, prior, point)
    dw, dlevel, dX, dz, dnu = _newton(rows, K, S, point, kappa)
    dS = weighted_information(rows, dw, None) - dlevel * K
    a = jnp.minimum(1, NEAR_WALL * jnp.minimum(_room(point.w, dw), _matrix_room(S, dS)))
    b = jnp.minimum(1, NEAR_WALL * jnp.minimum(_room(point.z, dz), _matrix_room(point.X, dX)))
    went = jnp.minimum(a, b)
    moved = Point(
        point.w + a * dw, point.level + a * dlevel, point.X + b * dX, point.z + b * dz, point.nu + b * dnu, went
    )
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in moved]))
    return moved, finite & (went > SHORTEST)


def _room(x: Array, dx: Array) -> Array:
    """The longest step that keeps x >= 0."""
    return smallest(jnp.where(dx < 0, -x / jnp.where(dx < 0, dx, -1), jnp.inf))


def _matrix_room(A: Array, dA: Array) -> Array:
    """The longest step that keeps A psd; NaN if it is not to begin with."""
    root = jnp.linalg.cholesky(A)
    solve = lambda B: jax.scipy.linalg.solve_triangular(root, B, lower=True)
    least = jnp.linalg.eigvalsh(solve(solve(dA).T))[0]
    return jnp.where(least < 0, -1 / jnp.where(least < 0, least, -1), jnp.where(jnp.isnan(least), jnp.nan, jnp.inf))


def _newton(rows: Array, K: Array, S: Array, point: Point, kappa: Array):
    """(dw, dlevel, dX, dz, dnu): dS and dz eliminated, the others in one system whose condition stays bounded at the optimum."""
    w, _, X, z, nu, _ = point
    n, p, vector = len(w), len(K), _Vector(len(K), S.dtype)
    f = vector.of(jnp.einsum("i...a,i...b->iab", rows, rows))
    k, one, none = vector.of(K), jnp.ones((1, n), w.dtype), jnp.zeros
    over_S, over_X = vector.product(S), vector.product(X)
    A = jnp.concatenate(
        [
            jnp.concatenate([jnp.diag(z / w), -f, none((n, 1), w.dtype), one.T], 1),
            jnp.concatenate([over_X @ f.T, over_S, -(over_X @ k)[:, None], none((len(k), 1), w.dtype)], 1),
            jnp.concatenate([none((1, n), w.dtype), k[None], none((1, 2), w.dtype)], 1),
            jnp.concatenate([one, none((1, len(k) + 2), w.dtype)], 1),
        ]
    )
    lacking = kappa * jnp.eye(p, dtype=w.dtype) - (X @ S + S @ X) / 2
    ends = jnp.stack([1 - jnp.sum(K * X), 1 - jnp.sum(w)])
    b = jnp.concatenate([sensitivity(rows, X) + kappa / w - nu, vector.of(lacking), ends])
    x = _solved(A, b)
    dw = x[:n]
    return dw, x[-2], vector.matrix(x[n:-2]), kappa / w - z - z / w * dw, x[-1]


def _solved(A: Array, b: Array) -> Array:
    """A^-1 b, rows scaled to a largest entry of one, refined once."""
    scale = 1 / largest(jnp.abs(A), 1)
    factor = jax.scipy.linalg.lu_factor(A * scale[:, None])
    solve = lambda r: jax.scipy.linalg.lu_solve(factor, scale * r)
    x = solve(b)
    return x + solve(b - A @ x)


class _Vector:
    """Symmetric matrices as vectors of p (p + 1) / 2, with the same inner product."""

    def __init__(self, p: int, dtype):
        self.p = p
        self.i, self.j = np.triu_indices(p)
        self.weight = np.where(self.i == self.j, 1.0, np.sqrt(2.0)).astype(dtype)

    def of(self, A: Array) -> Array:
        return A[..., self.i, self.j] * self.weight.reshape((1,) * (A.ndim - 2) + (-1,))

    def matrix(self, x: Array) -> Array:
        upper = jnp.zeros((self.p, self.p), x.dtype).at[self.i, self.j].set(x / self.weight)
        return upper + jnp.triu(upper, 1).T

    def product(self, S: Array) -> Array:
        """The matrix of Y -> (S Y + Y S) / 2."""
        i, j, k, m = self.i[:, None], self.j[:, None], self.i[None], self.j[None]
        half = np.where(self.i == self.j, 0.5, np.sqrt(0.5))
        share = lambda same: np.asarray(same * half[:, None] * half[None], self.weight.dtype)
        return S[i, k] * share(j == m) + S[i, m] * share(j == k) + S[j, m] * share(i == k) + S[j, k] * share(i == m)
