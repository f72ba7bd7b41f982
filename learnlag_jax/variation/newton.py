"""One root finder for the whole hall: Newton's method, globalised on the residual norm, differentiable to every order.

    f(x) = 0        dx/dtheta = -(df/dx)^-1 df/dtheta     (implicit, through `lax.custom_root`; closures included)

Not public: `legendre`, `discrete` and `boundary` give it their equations.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax.variation import linear
from learnlag_jax.vocabulary import Solution, Status

ULPS = 16.0  # a residual below ULPS eps (offset + |J| |x|) is rounding


def dense_step(f: Callable, x):
    """Newton's direction -J^-1 r, the size of J, and whether J was regular; a short gradient step where it was not."""
    J = jax.jacfwd(f)(x)
    r = f(x)
    direction, status = linear.solve(J, -r)
    regular = (status != Status.singular) & jnp.all(jnp.isfinite(direction))
    # Where J is singular (a quartic at rest) any step of moderate length along -r leaves the bad point.
    away = -r / jnp.maximum(jnp.max(jnp.abs(r)), jnp.finfo(r.dtype).tiny) * (1 + jnp.max(jnp.abs(x)))
    return jnp.where(regular, direction, away), jnp.max(jnp.sum(jnp.abs(J), axis=1)), regular


def dense_tangent(g: Callable, y):
    """The solve of the linearised equation g(x) = y that implicit derivatives need."""
    return linear.solve(jax.jacfwd(g)(jnp.zeros_like(y)), y)[0]


def root(
    f: Callable,
    start,
    *,
    offset=0.0,
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
        step: `step(f, x)` -> (direction, size of J, regular).
        tangent: `tangent(g, y)` solves the linear equation g(x) = y.

    Returns:
        Solution with x, f(x), status and Newton steps. x is not filled: the caller knows what failure means.
    """
    eps = jnp.finfo(start.dtype).eps
    reach = jax.lax.stop_gradient(jnp.max(jnp.abs(start), initial=0.0))

    def solve(f, x0):
        size = lambda r: jnp.where(jnp.all(jnp.isfinite(r)), jnp.sqrt(jnp.sum(r**2)), jnp.inf)

        def backtrack(x, direction, now):
            falls = lambda s: ~(size(f(x + s * direction)) <= (1 - s / 1024) * now) & (s > eps)
            return jax.lax.while_loop(falls, lambda s: s / 2, jnp.ones((), x.dtype))

        def advance(state):
            x, now, _, k = state
            direction, stiffness, regular = step(f, x)
            floor = ULPS * eps * (jnp.asarray(offset, x.dtype) + stiffness * (reach + jnp.max(jnp.abs(x))))
            small = jnp.max(jnp.abs(direction)) <= 2 * eps * jnp.max(jnp.abs(x))
            done = (jnp.max(jnp.abs(f(x))) <= floor) | (regular & small)
            s = jax.lax.cond(done, lambda: jnp.zeros((), x.dtype), lambda: backtrack(x, direction, now))
            stuck = ~done & ~(s > eps)
            x = jnp.where(done | stuck, x, x + s * direction)
            code = jnp.where(done, 0, jnp.where(stuck, int(Status.stagnated), -1)).astype(jnp.int32)
            return x, size(f(x)), code, k + 1

        first = size(f(x0))
        begin = jnp.where(jnp.isfinite(first), -1, int(Status.nonfinite_function)).astype(jnp.int32)
        going = lambda s: (s[2] == -1) & (s[3] < max_steps)
        x, _, code, k = jax.lax.while_loop(going, advance, (x0, first, begin, jnp.int32(0)))
        code = jnp.where(code == -1, int(Status.max_steps), code)
        return x, jnp.stack([code, k]).astype(x.dtype)  # floating point: `custom_root` gives aux a tangent of its dtype

    x, aux = jax.lax.custom_root(f, start, solve, tangent, has_aux=True)
    status, steps = aux.astype(jnp.int32)
    return Solution(x, f(x), status, steps)
