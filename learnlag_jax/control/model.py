"""The linear-quadratic model of a problem along a path: first and second derivatives, and its linear responses.

States and actions are vectors here, y = (a, s, 1) and z = (s, 1) as in `riccati`. All derivatives are taken over the whole path
at once by `vmap`; only the recursions that are sequential by nature run in a scan.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax.control.problem import Problem, counter, hamiltonian
from learnlag_jax.control.riccati import bordered, eliminate, sweep, times
from learnlag_jax.vocabulary import Array


class Model(NamedTuple):
    """First and second order at a path, in the cost form of `riccati`, with the exact costates and dH/da."""

    H: Array
    W: Array
    Pn: Array
    costates: Array
    slope: Array
    reward: Array
    magnitude: Array

    @property
    def gaps(self) -> Array:
        """f(s_k, a_k, k) - s_{k+1}: [n, d]."""
        return self.W[:, :-1, -1]


def rolled(p: Problem, x0: Array, U: Array, theta) -> Array:
    def step(x, now):
        x = p.dynamics(x, now[1], now[0], theta)
        return x, x

    _, later = lax.scan(step, x0, (counter(len(U)), U))
    return jnp.concatenate([x0[None], later])


def affine(F: Array, g: Array, start: Array, *, reverse: bool = False) -> Array:
    """x_{k+1} = F_k x_k + g_k from x_0 = start, or x_k = F_k x_{k+1} + g_k from x_n = start: all n + 1."""

    def step(x, now):
        x = times(now[0], x[:, None])[:, 0] + now[1]
        return x, x

    _, rest = lax.scan(step, start, (F, g), reverse=reverse)
    return jnp.concatenate([rest, start[None]] if reverse else [start[None], rest])


def along(matrices: Array, vectors: Array) -> Array:
    """M_k v_k for all k."""
    return jnp.einsum("kij,kj->ki", matrices, vectors)


def turned(matrices: Array) -> Array:
    """M_k' for all k."""
    return jnp.swapaxes(matrices, -1, -2)


def model_at(p: Problem, X: Array, U: Array, theta) -> Model:
    (n, m), d, H = U.shape, X.shape[1], hamiltonian(p)
    k, Y = counter(n), jnp.concatenate([U, X[:-1]], 1)

    def first(y, k):
        jacobian, f = jax.jacfwd(lambda y: (p.dynamics(y[m:], y[:m], k, theta),) * 2, has_aux=True)(y)
        return jacobian, f, *jax.value_and_grad(lambda y: p.reward(y[m:], y[:m], k, theta))(y)

    f_y, f, r, r_y = jax.vmap(first)(Y, k)
    h, h_x = jax.value_and_grad(p.terminal)(X[-1], theta)
    costates = affine(turned(f_y[:, :, m:]), r_y[:, m:], h_x, reverse=True)
    H_yy = jax.vmap(jax.hessian(lambda y, c, k: H(y[m:], y[:m], c, k, theta)))(Y, costates[1:], k)
    zero, last = jnp.zeros((), X.dtype), jnp.zeros((n, 1, m + d + 1), X.dtype).at[:, :, -1].set(1)
    return Model(
        jax.vmap(bordered, (0, 0, None))(-H_yy, -r_y, zero),
        jnp.concatenate([jnp.concatenate([f_y, (f - X[1:])[..., None]], 2), last], 1),
        bordered(-jax.hessian(p.terminal)(X[-1], theta), -h_x, zero),
        costates,
        r_y[:, :m] + along(turned(f_y[:, :, :m]), costates[1:]),
        jnp.sum(r) + h,
        jnp.sum(jnp.abs(r)) + jnp.abs(h),
    )


def straightened(p: Problem, model: Model, X: Array, U: Array, theta) -> Array:
    """H without the curvature of the dynamics (iterative LQR): what is left is the reward's own, which is often concave."""
    (n, m), Y = U.shape, jnp.concatenate([U, X[:-1]], 1)
    R_yy = jax.vmap(jax.hessian(lambda y, k: p.reward(y[m:], y[:m], k, theta)))(Y, counter(n))
    return model.H.at[:, :-1, :-1].set(-R_yy)


def slope_scale(model: Model, y: Array) -> Array:
    """[n, m], for each action, the size of the terms that cancel in dH/da, in its units: reward by action.

    They are the slope of the reward, the costates carried back by the dynamics, and what either changes by when the entries
    of (a, s) change by y [m + d]. A costate is made of what comes later, so that is where its terms are looked for.
    """
    m = model.slope.shape[1]
    H, F, Pn = jnp.abs(model.H), jnp.abs(model.W[:, :-1, :-1]), jnp.abs(model.Pn)
    terms = jnp.einsum("kij,j->ki", H[:, :-1, :-1], y) + H[:, :-1, -1] + along(turned(F), jnp.abs(model.costates[1:]))
    end = Pn[:-1, :-1] @ y[m:] + Pn[:-1, -1]
    prices = lax.cummax(jnp.concatenate([terms[1:, m:], end[None]]), reverse=True)
    scale = terms[:, :m] + along(turned(F[:, :, :m]), prices)
    # in the total reward the digits of what is this much smaller are lost
    return jnp.maximum(scale, float(jnp.finfo(y.dtype).eps) ** (1 / 3) * jnp.max(scale, 0, keepdims=True))


def travel(X: Array, U: Array, guess: Array) -> tuple[Array, Array]:
    """How far the entries of (a, s) move, wherever their zero is, and how large they are: [m + d] each.

    States move along the path, from where they start. Actions move between their extremes, and from their guess: those that are
    all alike, or only one, do not move along the path. A guess further away than zero tells nothing.
    """
    size, moved = jnp.abs(U), jnp.abs(U - guess)
    of_actions = jnp.maximum(jnp.max(U, 0) - jnp.min(U, 0), jnp.max(jnp.minimum(size, moved), 0))
    far = jnp.concatenate([of_actions, jnp.max(jnp.abs(X - X[:1]), 0)])
    return far, jnp.concatenate([jnp.max(size, 0), jnp.max(jnp.abs(X), 0)])


def curvature_scale(model: Model) -> Array:
    """The size of the action block R + B'PB of a sweep, from what is known before it."""
    d, m = model.Pn.shape[0] - 1, model.slope.shape[1]
    B = jnp.abs(model.W[:, :-1, :m])
    C = jnp.maximum(jnp.max(jnp.abs(model.H[:, m:-1, m:-1]), 0), jnp.abs(model.Pn[:d, :d]))
    carried = jnp.einsum("kji,jl,kli->ki", B, C, B)
    size = jnp.maximum(jnp.max(jnp.abs(model.H[:, :m, :m])), jnp.max(carried))
    # of a straight problem its slope for one action; a shift that is a part of this must not vanish
    size = jnp.where(size > 0, size, jnp.max(jnp.abs(model.slope)))
    finfo = jnp.finfo(size.dtype)
    return jnp.where(size > 0, jnp.maximum(size, float(finfo.tiny / finfo.eps)), 1)


def room(U: Array, slope: Array, low: Array | None, high: Array | None) -> Array:
    """How far the bound is that dH/da points at, as a share of the width of the bounds (of the bound, where there is one).

    0 at that bound, infinite where there is none.
    """
    if low is None or high is None:
        return jnp.full_like(U, jnp.inf)
    one = jnp.maximum(jnp.where(jnp.isfinite(low), jnp.abs(low), 0), jnp.where(jnp.isfinite(high), jnp.abs(high), 0))
    width = jnp.where(jnp.isfinite(low) & jnp.isfinite(high), high - low, one)
    distance = jnp.where(slope > 0, high - U, U - low)
    return jnp.where(distance <= 0, 0, distance / jnp.maximum(width, jnp.finfo(U.dtype).tiny))


def unsettled(slope: Array, scale: Array, share: Array) -> Array:
    """How far each action is from stationary, without units: dH/da by its scale, or the room left before a bound, if less."""
    tiny = jnp.finfo(slope.dtype).tiny
    relative = jnp.abs(slope) / jnp.maximum(scale, tiny)
    # a scale that overflows says nothing
    return jnp.minimum(jnp.where(jnp.isfinite(scale), relative, jnp.abs(slope)), share)


def projected(U: Array, slope: Array, low: Array | None, high: Array | None) -> Array:
    """dH/da, less where a bound that it points at is near: times the share of the width of the bounds that is left."""
    return slope if low is None else slope * jnp.minimum(room(U, slope, low, high), 1)


def free_actions(U, slope, low, high):
    """1 where an action may move: not at a bound with dH/da pointing outside. None where there are no bounds."""
    if low is None:
        return None
    stuck = ((high <= U) & (slope > 0)) | ((low >= U) & (slope < 0))
    return jnp.where(stuck, 0.0, 1.0).astype(U.dtype)


def masked(H: Array, W: Array, free: Array | None, size: Array | float = 1.0) -> tuple[Array, Array]:
    """H and W of the model in which the actions that are not free stay where they are; `size` is what their pivots are."""
    if free is None:
        return H, W
    width = H.shape[-1]
    on = jnp.concatenate([free, jnp.ones((len(free), width - free.shape[1]), free.dtype)], 1)
    stay = size * (1 - on)[:, None] * jnp.eye(width, dtype=free.dtype)[None]
    return H * on[:, None] * on[..., None] + stay, W * on[:, None]


def linear_response(H: Array, W: Array, Pn: Array, r, q, c, ds0, qn):
    """Solve the linear-quadratic problem for the given r, q, c, qn and first state; linear in all five."""
    d, m = q.shape[1], r.shape[1]
    P, K, _ = sweep(H, W, Pn, jnp.zeros((), q.dtype))
    P, K, A, B = P[:, :d, :d], K[:, :, :d], W[:, :d, m:-1], W[:, :d, :m]
    G, eye = H[:, :m, :m] + turned(B) @ P[1:] @ B, jnp.eye(m, dtype=q.dtype)
    inverse = jax.vmap(lambda G: eliminate(G, eye)[0])(G)
    closed, pushed = A + B @ K, along(P[1:], c)
    p = affine(turned(closed), q + along(turned(K), r) + along(turned(closed), pushed), qn, reverse=True)
    k = -along(inverse, r + along(turned(B), pushed + p[1:]))
    dX = affine(closed, along(B, k) + c, ds0)
    return dX, along(K, dX[:-1]) + k, -(along(P, dX) + p)
