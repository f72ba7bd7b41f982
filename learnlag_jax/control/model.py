"""The linear-quadratic model of a problem along a path: first and second derivatives, and its linear responses.

States and actions are vectors here. All derivatives are taken over the whole path at once by `vmap`; only the recursions
that are sequential by nature run in a scan.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax.control.problem import Problem, counter, hamiltonian
from learnlag_jax.control.riccati import Quadratic, eliminate, sweep
from learnlag_jax.vocabulary import Array


class Model(NamedTuple):
    """First and second order at a path, in cost form, with the exact costates and dH/da."""

    stages: Quadratic
    Qn: Array
    qn: Array
    costates: Array
    slope: Array
    reward: Array
    magnitude: Array


def rolled(p: Problem, x0: Array, U: Array, theta) -> Array:
    def step(x, now):
        x = p.dynamics(x, now[1], now[0], theta)
        return x, x

    _, later = lax.scan(step, x0, (counter(len(U)), U))
    return jnp.concatenate([x0[None], later])


def model_at(p: Problem, X: Array, U: Array, theta) -> Model:
    k, H = counter(len(U)), hamiltonian(p)

    def first(x, u, k):
        (A, B), f = jax.jacfwd(lambda x, u: (p.dynamics(x, u, k, theta),) * 2, (0, 1), has_aux=True)(x, u)
        r, (r_x, r_u) = jax.value_and_grad(p.reward, (0, 1))(x, u, k, theta)
        return f, A, B, r, r_x, r_u

    f, A, B, r, r_x, r_u = jax.vmap(first)(X[:-1], U, k)
    h, h_x = jax.value_and_grad(p.terminal)(X[-1], theta)
    later = lax.scan(lambda c, now: (now[1] + now[0].T @ c, c), h_x, (A, r_x), reverse=True)
    costates = jnp.concatenate([later[0][None], later[1]])
    second = jax.vmap(lambda x, u, c, k: jax.hessian(H, (0, 1))(x, u, c, k, theta))
    (H_xx, H_xu), (_, H_uu) = second(X[:-1], U, costates[1:], k)
    stages = Quadratic(A, B, -H_xx, -H_uu, -H_xu, -r_x, -r_u, f - X[1:])
    slope = r_u + (costates[1:, None, :] @ B)[:, 0]
    magnitude = jnp.sum(jnp.abs(r)) + jnp.abs(h)
    return Model(stages, -jax.hessian(p.terminal)(X[-1], theta), -h_x, costates, slope, jnp.sum(r) + h, magnitude)


def projected(U: Array, slope: Array, low: Array, high: Array) -> Array:
    """dH/da, or, where an action is bounded, what a step along it would move before the bounds cut it off."""
    bounded = jnp.isfinite(low) | jnp.isfinite(high)
    return jnp.where(bounded, jnp.clip(U + slope, low, high) - U, slope)


def free_actions(U, slope, low, high):
    """1 where an action may move: not at a bound with dH/da pointing outside."""
    stuck = ((high <= U) & (slope > 0)) | ((low >= U) & (slope < 0))
    return jnp.where(stuck, 0.0, 1.0).astype(U.dtype)


def masked(stages: Quadratic, free: Array) -> Quadratic:
    """The model in which the actions that are not free stay where they are."""
    m = free.shape[1]
    R = stages.R * free[:, None, :] * free[:, :, None] + (1 - free)[:, None, :] * jnp.eye(m, dtype=free.dtype)[None]
    return stages._replace(B=stages.B * free[:, None, :], M=stages.M * free[:, None, :], R=R, r=stages.r * free)


def linear_path(stages: Quadratic, model: Model, K, k):
    """The step in the states under the linear model, and the slope of minus the reward along it."""

    def step(carry, now):
        ds, slope = carry
        A, B, q, r, c, K, k = now
        da = K @ ds + k
        return (A @ ds + B @ da + c, slope + q @ ds + r @ da), ds

    start = (jnp.zeros_like(model.qn), jnp.zeros((), model.qn.dtype))
    (end, slope), ds = lax.scan(step, start, (stages.A, stages.B, stages.q, stages.r, stages.c, K, k))
    return jnp.concatenate([ds, end[None]]), slope + model.qn @ end


def linear_response(stages: Quadratic, model: Model, ds0, qn):
    """Solve the linear-quadratic problem for the given q, r, c, qn and first state; linear in all five."""
    P, _, _, K, _, _ = sweep(
        stages._replace(**{x: jnp.zeros_like(getattr(stages, x)) for x in "qrc"}),
        model.Qn,
        jnp.zeros_like(qn),
        jnp.zeros((), qn.dtype),
    )

    def back(p, now):
        A, B, R, K, q, r, c, P_next = now
        y = P_next @ c + p
        g = r + B.T @ y
        k = -eliminate(R + B.T @ P_next @ B, g[:, None])[0][:, 0]
        p = q + A.T @ y + K.T @ g
        return p, (p, k)

    now = (stages.A, stages.B, stages.R, K, stages.q, stages.r, stages.c, P[1:])
    _, (p, k) = lax.scan(back, qn, now, reverse=True)

    def forward(ds, now):
        A, B, c, K, k = now
        da = K @ ds + k
        ds = A @ ds + B @ da + c
        return ds, (ds, da)

    _, (later, dU) = lax.scan(forward, ds0, (stages.A, stages.B, stages.c, K, k))
    dX = jnp.concatenate([ds0[None], later])
    dcostates = -((P @ dX[..., None])[..., 0] + jnp.concatenate([p, qn[None]]))
    return dX, dU, dcostates
