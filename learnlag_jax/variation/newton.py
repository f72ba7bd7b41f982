"""One root finder for the whole hall: Newton's method, globalised on the residual norm, differentiable to every order.

    f(x) = 0        dx/dtheta = -(df/dx)^-1 df/dtheta     (implicit, through `lax.custom_root`; closures included)

Not public: `legendre`, `discrete` and `boundary` give it their equations.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax.extrema import largest_size
from learnlag_jax.variation import linear
from learnlag_jax.vocabulary import Array, Solution, Status

ULPS = 16.0  # a residual below ULPS eps (offset + |J| |x|), row by row, is rounding


def dense_step(f: Callable, x):
    """f(x), Newton's direction -J^-1 f(x), y -> |J| y, and whether J was regular; a short gradient step where not."""
    r, push = jax.linearize(f, x)
    J = jax.vmap(push, out_axes=1)(jnp.eye(x.size, dtype=x.dtype))
    direction, status = linear.solve(J, -r)
    regular = (status != Status.singular) & jnp.all(jnp.isfinite(direction))
    return r, jnp.where(regular, direction, away(x, r)), lambda y: jnp.abs(J) @ y, regular


def away(x: Array, r: Array) -> Array:
    """Where J is singular (a quartic at rest) any step of moderate length along -r leaves the bad point; J is not negative."""
    return -r / jnp.maximum(jnp.max(jnp.abs(r)), jnp.finfo(r.dtype).tiny) * (1 + jnp.max(jnp.abs(x)))


def dense_tangent(g: Callable, y):
    """The solve of the linearised equation g(x) = y that implicit derivatives need."""
    return linear.solve(jax.jacfwd(g)(jnp.zeros_like(y)), y)[0]


class _Search(NamedTuple):
    """Where the search is: x, f, the size of what cancels in every row of f (`terms`), whether f is rounding there
    (`at_floor`), whether J was regular, the share of the next correction in those terms (`to_go`), how much every unknown weighed
    in them at the start
    and what it would change by that weight where it is undetermined (`blur`), the correction and how much of it to try, the
    verdict (-1: none yet), and the steps taken."""

    x: Array
    r: Array
    terms: Array
    at_floor: Array
    regular: Array
    to_go: Array
    weight: Array
    blur: Array
    direction: Array
    s: Array
    code: Array
    steps: Array


def _over(x: Array, terms: Array) -> Array:
    """x in units of the terms of its row, so that rows in other units count alike."""
    return x / jnp.where(terms > 0, terms, 1)


def root(
    f: Callable,
    start,
    *,
    offset: Array | float | Callable = 0.0,
    max_steps: int = 60,
    step: Callable = dense_step,
    tangent: Callable = dense_tangent,
) -> Solution:
    """x with f(x) = 0, from `start`, by Newton steps halved until |f| falls.

    Every row of f is measured by the terms that cancel in it, so coordinates may have any units. Once f is rounding, |f| can no
    longer judge a step: whole steps go on while the correction halves. What it is at the end is the error of x:
    `ill_conditioned` if an unknown keeps less than a quarter of its digits, and that much of it mattered in f at the start
    (an unknown that is zero has no digits to lose).

    Args:
        f: an array -> an array of the same shape.
        start: where to begin; inside the domain of f.
        offset: size of the terms in f that do not come from x, for all rows or for each, or a function of x; rounding is judged
            against it and against |J| |x| where the search is, not where it began.
        max_steps: Newton steps.
        step: `step(f, x)` -> (f(x), direction, y -> |J| y, regular).
        tangent: `tangent(g, y)` solves the linear equation g(x) = y.

    Returns:
        Solution with x, f(x), status and Newton steps. x is not filled: the caller knows what failure means.
    """
    eps = jnp.finfo(start.dtype).eps
    other = offset if callable(offset) else lambda _: offset

    def solve(f, x0):
        verdict = lambda blur: jnp.where(blur <= eps**0.25, 0, int(Status.ill_conditioned))

        # f is written once, at the trial point: nested solvers would otherwise multiply their programs by its copies
        def advance(state: _Search) -> _Search:
            x, r_old, scale, at_floor, regular_old, to_go_old, weight, blur_old, direction, s, _, k = state
            trial = x + s * direction
            r, onward, spread, regular = step(f, trial)
            alone = jnp.broadcast_to(jnp.asarray(other(trial), x.dtype), x.shape)
            terms = alone + spread(jnp.abs(trial))  # what cancels in f
            trial_at_floor = jnp.all(jnp.abs(r) <= ULPS * eps * terms)
            to_go = jnp.where(regular, largest_size(_over(spread(jnp.abs(onward)), terms)), 0)
            scale = jnp.where(k == 0, terms, scale)
            (slopes,) = jax.linear_transpose(spread, trial)(_over(jnp.ones_like(r), terms))
            weight = jnp.where(k == 0, slopes, weight)
            undetermined = regular & (jnp.abs(onward) > eps**0.25 * jnp.abs(trial))
            blur = largest_size(jnp.where(undetermined, weight * jnp.abs(onward), 0))
            finite, norm = jnp.all(jnp.isfinite(r)), lambda r: jnp.sqrt(jnp.sum(_over(r, scale) ** 2))
            # off a singular point, where the slope promises nothing, it is enough not to rise
            least = jnp.where(regular_old, 1 - s / 1024, 1)
            falls = ((norm(r) <= least * norm(r_old)) | (k == 0)) & finite
            halves = at_floor & trial_at_floor & regular & (to_go <= s * to_go_old / 2)
            takes = falls | halves
            arrived = takes & trial_at_floor & (to_go <= ULPS * eps)
            failure = jnp.where(k == 0, int(Status.nonfinite_function), int(Status.stagnated))
            # a step into infinity may need many halvings
            moves = jnp.any(x + s / 2 * direction != x) & (s / 2 > eps**2)
            stuck = ~takes & (~moves | (k == 0))
            stays = jnp.where(stuck, failure, -1)
            code = jnp.where(~takes & at_floor, verdict(blur_old), jnp.where(arrived, verdict(blur), stays))
            pick = lambda new, old: jnp.where(takes, new, old)
            return _Search(
                pick(trial, x),
                pick(r, r_old),
                pick(terms, scale),
                pick(trial_at_floor, at_floor),
                pick(regular, regular_old),
                pick(to_go, to_go_old),
                weight,
                pick(blur, blur_old),
                pick(onward, direction),
                pick(1, s / 2),
                code.astype(jnp.int32),
                k + pick(1, 0),
            )

        going = lambda state: (state.code == -1) & (state.steps < max_steps)
        zero, one, no = jnp.zeros((), x0.dtype), jnp.ones((), x0.dtype), jnp.asarray(False)
        rest = jnp.zeros_like(x0)
        begin = _Search(x0, rest, rest, no, no, zero, rest, zero, rest, one, jnp.int32(-1), jnp.int32(0))
        found = jax.lax.while_loop(going, advance, begin)
        late = jnp.where(found.at_floor, verdict(found.blur), int(Status.max_steps))
        code = jnp.where(found.code == -1, late, found.code)
        # `custom_root` gives aux a tangent of its dtype
        return found.x, jnp.stack([code, found.steps]).astype(x0.dtype)

    x, aux = jax.lax.custom_root(f, start, solve, tangent, has_aux=True)
    status, steps = aux.astype(jnp.int32)
    return Solution(x, f(x), status, steps)
