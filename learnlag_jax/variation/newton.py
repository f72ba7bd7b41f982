"""One root finder for the whole hall: Newton's method, globalised on the residual norm, differentiable to every order.

    f(x) = 0        dx/dtheta = -(df/dx)^-1 df/dtheta     (implicit, through `lax.custom_root`; closures included)

Not public: `legendre`, `discrete` and `boundary` give it their equations.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax.variation import linear
from learnlag_jax.vocabulary import Array, Solution, Status

ULPS = 16.0  # a residual below ULPS eps (offset + |J| |x|) is rounding


def dense_step(f: Callable, x):
    """f(x), Newton's direction -J^-1 f(x), the size of J, and whether J was regular; a short gradient step where not."""
    r, push = jax.linearize(f, x)
    J = jax.vmap(push, out_axes=1)(jnp.eye(x.size, dtype=x.dtype))
    direction, status = linear.solve(J, -r)
    regular = (status != Status.singular) & jnp.all(jnp.isfinite(direction))
    return r, jnp.where(regular, direction, away(x, r)), jnp.max(jnp.sum(jnp.abs(J), axis=1)), regular


def away(x: Array, r: Array) -> Array:
    """Where J is singular (a quartic at rest) any step of moderate length along -r leaves the bad point."""
    return -r / jnp.maximum(jnp.max(jnp.abs(r)), jnp.finfo(r.dtype).tiny) * (1 + jnp.max(jnp.abs(x)))


def dense_tangent(g: Callable, y):
    """The solve of the linearised equation g(x) = y that implicit derivatives need."""
    return linear.solve(jax.jacfwd(g)(jnp.zeros_like(y)), y)[0]


class _Search(NamedTuple):
    """Where the search is, |f| there, the next direction, how much of it to try, the verdict (-1: none yet), the steps."""

    x: Array
    size: Array
    direction: Array
    s: Array
    code: Array
    steps: Array


def root(
    f: Callable,
    start,
    *,
    offset: Array | float = 0.0,
    max_steps: int = 60,
    step: Callable = dense_step,
    tangent: Callable = dense_tangent,
) -> Solution:
    """x with f(x) = 0, from `start`, by Newton steps halved until |f| falls.

    Args:
        f: an array -> an array of the same shape.
        start: where to begin; inside the domain of f.
        offset: size of the terms in f that do not come from x; rounding is judged against it.
        max_steps: Newton steps.
        step: `step(f, x)` -> (f(x), direction, size of J, regular).
        tangent: `tangent(g, y)` solves the linear equation g(x) = y.

    Returns:
        Solution with x, f(x), status and Newton steps. x is not filled: the caller knows what failure means.
    """
    eps = jnp.finfo(start.dtype).eps
    reach = jax.lax.stop_gradient(jnp.max(jnp.abs(start), initial=0.0))

    def solve(f, x0):
        # f is written once, at the trial point: nested solvers would otherwise multiply their programs by its copies
        def advance(state: _Search) -> _Search:
            x, size, direction, s, _, k = state
            trial = x + s * direction
            r, onward, stiffness, regular = step(f, trial)
            trial_size = jnp.where(jnp.all(jnp.isfinite(r)), jnp.sqrt(jnp.sum(r**2)), jnp.inf)
            falls = (trial_size <= (1 - s / 1024) * size) & jnp.isfinite(trial_size)
            floor = ULPS * eps * (jnp.asarray(offset, x.dtype) + stiffness * (reach + jnp.max(jnp.abs(trial))))
            small = jnp.max(jnp.abs(onward)) <= 2 * eps * jnp.max(jnp.abs(trial))
            done = falls & ((jnp.max(jnp.abs(r)) <= floor) | (regular & small))
            stuck = ~falls & ~(s / 2 > eps)
            failure = jnp.where(k == 0, int(Status.nonfinite_function), int(Status.stagnated))
            code = jnp.where(done, 0, jnp.where(~falls & (stuck | (k == 0)), failure, -1)).astype(jnp.int32)
            pick = lambda new, old: jnp.where(falls, new, old)
            return _Search(
                pick(trial, x), pick(trial_size, size), pick(onward, direction), pick(1, s / 2), code, k + pick(1, 0)
            )

        going = lambda state: (state.code == -1) & (state.steps < max_steps)
        zero, one = jnp.zeros((), x0.dtype), jnp.ones((), x0.dtype)
        begin = _Search(x0, zero + jnp.inf, jnp.zeros_like(x0), one, jnp.int32(-1), jnp.int32(0))
        found = jax.lax.while_loop(going, advance, begin)
        code = jnp.where(found.code == -1, int(Status.max_steps), found.code)
        return found.x, jnp.stack([code, found.steps]).astype(
            x0.dtype
        )  # `custom_root` gives aux a tangent of its dtype

    x, aux = jax.lax.custom_root(f, start, solve, tangent, has_aux=True)
    status, steps = aux.astype(jnp.int32)
    return Solution(x, f(x), status, steps)
