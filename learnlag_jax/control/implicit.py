"""Derivatives of values and gains: those of the equation that the greedy policy solves, not of the sweeps that led there.

    discounted    V = r_pi + discount P_pi V        dV = (I - discount P_pi)^-1 (dr_pi + d(discount P_pi) V)
    average       g + h = r_pi + P_pi h, h(0) = 0    (dg, dh) from the same equation, with dr_pi + dP_pi h on the right

The optimal policy is locally constant, so where it is unique these are the derivatives of the optimum (Danskin). A loop that stops
when its bounds meet may have seen one sweep only, and its own derivative is then that of one sweep.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from learnlag_jax.control.mdp import MDP
from learnlag_jax.control.operators import under, under_matrix
from learnlag_jax.extrema import largest_size
from learnlag_jax.vocabulary import Array, PyTree, Status

LARGEST_MATRIX = 1024
RESTARTS, STEPS = 20, 200


def moved(mdp: MDP, tangent, policy: Array, v: Array) -> Array:
    """dr_pi + d(discount P_pi) v for a tangent of the process, v held."""

    def followed(mdp):
        reward, carry_over = under(mdp, policy)
        return reward + carry_over(v)

    return jax.jvp(followed, (mdp,), (tangent,))[1]


def values_response(mdp: MDP, policy: Array, b: Array) -> Array:
    """x = (I - discount P_pi)^-1 b."""
    if len(b) <= LARGEST_MATRIX:
        return jnp.linalg.solve(jnp.eye(len(b), dtype=b.dtype) - under_matrix(mdp, policy)[1], b)
    carry_over = under(mdp, policy)[1]
    return _solved(lambda x: x - carry_over(x), b)


def gain_response(mdp: MDP, policy: Array, b: Array) -> tuple[Array, Array]:
    """g and h with g + h = b + P_pi h, h(0) = 0, for a process whose discount is 1; g takes the place of h(0)."""
    if len(b) <= LARGEST_MATRIX:
        matrix = jnp.eye(len(b), dtype=b.dtype) - under_matrix(mdp, policy)[1]
        x = jnp.linalg.solve(matrix.at[:, 0].set(1), b)
        return x[0], x.at[0].set(0)
    carry_over = under(mdp, policy)[1]

    def apply(x):
        h = x.at[0].set(0)
        return h - carry_over(h) + x[0]

    x = _solved(apply, b)
    return x[0], x.at[0].set(0)


def usable(status: Array, dtype) -> Array:
    """1, or NaN where the solve failed: a factor, not a `where`, so that the transpose is NaN as well."""
    solved = (status == Status.converged) | (status == Status.acceptable)
    return jnp.where(solved, 1.0, jnp.nan).astype(dtype)


def still(answer: PyTree) -> Any:
    """The tangent of an answer that does not move."""

    def zero(x):
        return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(x.shape, jax.dtypes.float0)

    return jax.tree.map(zero, answer)


def _solved(apply: Callable, b: Array) -> Array:
    """x with apply(x) = b by restarted BiCGStab, transposable; NaN where that fails."""
    return lax.custom_linear_solve(apply, b, solve=_iterated, transpose_solve=_iterated)


def _iterated(apply: Callable, b: Array) -> Array:
    goal = float(jnp.finfo(b.dtype).eps) ** (2 / 3) * largest_size(b)

    def unfinished(c):
        return (largest_size(c[1]) > goal) & (c[2] < RESTARTS)

    def again(c):
        x = c[0] + bicgstab(apply, c[1], 1e-3, STEPS)[0]
        lower = largest_size(b - apply(x)) < largest_size(c[1])
        x = jnp.where(lower, x, c[0] + c[1])  # after a breakdown, from somewhere else
        return x, b - apply(x), c[2] + 1

    x, rest, _ = lax.while_loop(unfinished, again, (jnp.zeros_like(b), b, jnp.int32(0)))
    return jnp.where(largest_size(rest) <= goal, x, jnp.nan)


def bicgstab(apply: Callable, b: Array, tol: float, limit: int) -> tuple[Array, Array]:
    """x with |b - apply(x)| <= tol |b| (2-norm) or the last iterate, and how often `apply` was called.

    Van der Vorst's BiCGStab. A breakdown ends the iteration; the caller judges x by its own residual.
    """
    goal = tol * jnp.linalg.norm(b)
    number = functools.partial(jnp.asarray, dtype=b.dtype)

    def unfinished(c):
        return (jnp.linalg.norm(c[1]) > goal) & (c[6] < limit) & jnp.isfinite(c[3])

    def step(c):
        x, r, p, rho, shadow, _, count = c
        Ap = apply(p)
        alpha = rho / (shadow @ Ap)
        half = r - alpha * Ap
        Ah = apply(half)
        # nothing is left to do where half a step was all that was needed
        omega = (Ah @ half) / jnp.where(Ah @ Ah > 0, Ah @ Ah, 1)
        x, r = x + alpha * p + omega * half, half - omega * Ah
        rho_next = shadow @ r
        beta = rho_next / rho * alpha / omega
        return x, r, r + beta * (p - omega * Ap), rho_next, shadow, omega, count + 1

    start = (jnp.zeros_like(b), b, b, b @ b, b, number(1.0), jnp.int32(0))
    end = lax.while_loop(unfinished, step, start)
    return jnp.where(jnp.isfinite(end[0]), end[0], 0), 2 * end[6]
