"""The saddle point behind G: weights against the worst mixture of the directions in which a design is judged.

    min over w of max over mu of sum_j mu_j v_j(w),    v_j = r_j' M(w)^-1 r_j,    w, mu >= 0,  sum w = sum mu = 1

Interior point, primal and dual at once: Newton on the conditions of an optimum with every product w_i z_i and mu_j s_j equal
to kappa, and kappa -> 0. Corners and weights that are not unique cost it nothing: its iterates stay inside.

    J' mu - z + nu 1 = 0,    v(w) + s = t 1,    sum w = 1,    sum mu = 1,    J = dv / dw = -(r_j' M^-1 f_i)^2

Comes from: `extreme`. Reference: Boyd and Vandenberghe (2004), 11.7 (the search along the residual); Wright (1997); MATH.md 4.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax.fermat.active_set import weighted_information
from learnlag_jax.fermat.criteria import flat
from learnlag_jax.fermat.matrices import inverse, regular
from learnlag_jax.vocabulary import Array

STEPS, HALVINGS = 200, 30
NEAR = 1e-11  # of the maximum: below, t - v loses its digits


class Point(NamedTuple):
    """Weights w (n,) and what they lack of the common worth z (n,); mixture mu (m,) and what its directions lack of the maximum, s (m,);
    the maximum t and the common worth nu."""

    w: Array
    z: Array
    mu: Array
    s: Array
    t: Array
    nu: Array


class Residual(NamedTuple):
    """By how much the conditions fail: worth (n,), maximum (m,), two sums, and complementarity less kappa (n,) and (m,)."""

    worth: Array
    maximum: Array
    shares: Array
    mixture: Array
    wz: Array
    mus: Array


class Local(NamedTuple):
    """The problem at one w and mu: v (m,), slopes J (m, n) = dv / dw, worth (n,) = -J' mu, and root and cross products for H."""

    v: Array
    J: Array
    worth: Array
    cross: Array
    turned: Array


def minimax(rows: Array, judges: Array, prior: Array | None, tol: Array) -> tuple[Array, Array]:
    """Weights w (n,) on `rows` ((n, p) or (n, k, p)) and mixture mu (m,) of `judges` (m, p), to a duality gap of about `tol`.

    Where rounding or a wall stops Newton early, the last sound point is returned: whoever
    calls certifies it.
    """
    n, m = rows.shape[0], judges.shape[0]
    w, mu = jnp.full(n, 1 / n, rows.dtype), jnp.full(m, 1 / m, rows.dtype)
    top = jnp.max(_local(rows, judges, prior, w, mu).v)
    judges = judges * jax.lax.rsqrt(top)
    at = _local(rows, judges, prior, w, mu)
    t, nu = 1 + jnp.max(at.v), 1 + jnp.max(at.worth)
    start = Point(w, nu - at.worth, mu, t - at.v, t, nu)

    def cond(carry):
        point, _, progress, k = carry
        loose = _complementarity(point) * (n + m) > tol * point.t
        lacking = _norm(_lacking(_local(rows, judges, prior, point.w, point.mu), point, 0.0))
        return progress & (k < STEPS) & (loose | (lacking > tol * point.t))

    def body(carry):
        point, went, _, k = carry
        new, went, ok = _advance(rows, judges, prior, point, went)
        return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, point), went, ok, k + 1

    point, *_ = jax.lax.while_loop(cond, body, (start, jnp.ones_like(t), jnp.isfinite(t), 0))
    return point.w / jnp.sum(point.w), point.mu / jnp.sum(point.mu)


def _complementarity(point: Point) -> Array:
    return (jnp.sum(point.w * point.z) + jnp.sum(point.mu * point.s)) / (point.w.size + point.mu.size)


def _norm(residual: Residual) -> Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in residual))


def _local(rows: Array, judges: Array, prior: Array | None, w: Array, mu: Array) -> Local:
    M = weighted_information(rows, w, prior)
    ok = regular(M)
    D = inverse(jnp.where(ok, M, jnp.eye(M.shape[0], dtype=M.dtype)))
    f, image = flat(rows), judges @ D
    J = -jnp.sum((image @ f.T).reshape(len(judges), len(rows), -1) ** 2, 2)
    v = jnp.where(ok, jnp.sum(image * judges, 1), jnp.inf)
    C = image.T @ (mu[:, None] * image)
    return Local(v, J, -J.T @ mu, f @ D @ f.T, f @ C @ f.T)


def _lacking(at: Local, point: Point, kappa) -> Residual:
    w, z, mu, s, t, nu = point
    kappa = jnp.asarray(kappa, w.dtype)
    return Residual(nu - at.worth - z, at.v + s - t, jnp.sum(w) - 1, jnp.sum(mu) - 1, w * z - kappa, mu * s - kappa)


def _advance(rows: Array, judges: Array, prior: Array | None, point: Point, went: Array) -> tuple[Point, Array, Array]:
    """One Newton step, as long as everything stays positive and the residual falls; how long it was, and whether there was one.

    Towards a tenth of kappa if the last one was long, else to less. While kappa is far from rounding, z and s
    are what w, mu, nu and t leave to them: carried on straight lines, the bend of v would hold the steps up.
    """
    share = jnp.where(went > 0.7, 0.1, jnp.where(went > 0.3, 0.3, 0.8)).astype(went.dtype)
    kappa = share * _complementarity(point)
    at = _local(rows, judges, prior, point.w, point.mu)
    residual = _lacking(at, point, kappa)
    d = _newton(at, residual, point, len(rows))
    start, far = _norm(residual), kappa > NEAR * point.t

    def moved(length):
        straight = jax.tree.map(lambda x, dx: x + length * dx, point, d)
        at = _local(rows, judges, prior, straight.w, straight.mu)
        bent = straight._replace(z=straight.nu - at.worth, s=straight.t - at.v)
        new = jax.tree.map(lambda a, b: jnp.where(far, a, b), bent, straight)
        inside = (jnp.min(new.z) > 0) & (jnp.min(new.s) > 0)
        return new, jnp.where(inside, _norm(_lacking(at, new, kappa)), jnp.inf)

    def rising(state):
        length, k = state
        return ~(moved(length)[1] <= (1 - 0.01 * length) * start) & (k < HALVINGS)

    wall = jnp.min(jnp.stack([_room(x, dx) for x, dx in zip(point[:4], d[:4], strict=True)]))
    first = (jnp.minimum(1, 0.99 * wall), 0)
    length, halvings = jax.lax.while_loop(rising, lambda state: (state[0] / 2, state[1] + 1), first)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in d]))
    return moved(length)[0], length, finite & (halvings < HALVINGS)


def _room(x: Array, dx: Array) -> Array:
    """The longest step that keeps x >= 0."""
    return jnp.min(jnp.where(dx < 0, -x / jnp.where(dx < 0, dx, -1), jnp.inf))


def _newton(at: Local, residual: Residual, point: Point, n: int) -> Point:
    """The Newton step: z and s eliminated; w, mu and the borders t and nu left in one symmetric matrix.

    Eliminating mu too would leave a positive definite matrix of half the size, with the square of this one's condition: where
    weights are not unique that costs the last four digits.
    """
    w, z, mu, s, _, _ = point
    m = mu.size
    H = 2 * jnp.sum((at.cross * at.turned).reshape(n, -1, n, at.cross.shape[0] // n), (1, 3))
    one, none = jnp.ones_like, jnp.zeros_like
    border = jnp.stack([jnp.concatenate([none(w), -one(mu)]), jnp.concatenate([one(w), none(mu)])])  # d t, d nu
    inner = jnp.block([[H + jnp.diag(z / w), at.J.T], [at.J, -jnp.diag(s / mu)]])
    A = jnp.block([[inner, border.T], [border, jnp.zeros((2, 2), w.dtype)]])
    b = jnp.concatenate([residual.worth + residual.wz / w, residual.maximum - residual.mus / mu])
    sides = jnp.stack([-residual.mixture, residual.shares])
    dw, dmu, last = jnp.split(_solved(A, -jnp.concatenate([b, sides])), [n, n + m])
    return Point(dw, -(residual.wz + z * dw) / w, dmu, -(residual.mus + s * dmu) / mu, last[0], last[1])


def _solved(A: Array, b: Array) -> Array:
    """A^-1 b with rows and columns of what has left the optimum, ten orders heavier than the others, scaled to one; refined once."""
    scale = jax.lax.rsqrt(jnp.maximum(jnp.abs(jnp.diagonal(A)), 1))
    factor: Any = jax.scipy.linalg.lu_factor(A * scale[:, None] * scale[None, :])
    solve = lambda r: scale * jax.scipy.linalg.lu_solve(factor, scale * r)
    x = solve(b)
    return x + solve(b - A @ x)
