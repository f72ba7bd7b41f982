"""One root finder for the whole hall: Newton's method, globalised on the residual norm, differentiable to every order.

    f(x) = 0        dx/dtheta = -(df/dx)^-1 df/dtheta     (implicit, through `lax.custom_root`; closures included)

Not public: `legendre`, `discrete` and `boundary` give it their equations.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax.extrema import largest_size
from learnlag_jax.variation import linear
from learnlag_jax.vocabulary import Array, Solution, Status

ULPS = 16.0  # a residual below ULPS eps (offset + |J| |x|), row by row, is rounding
IDLE = 16  # tries that do not halve a residual which may be rounding, before it is taken for it


def dense_step(f: Callable, x):
    """f(x), Newton's direction -J^-1 f(x) (a short gradient step where J is singular), y -> |J| y and y -> gross(J) y, whether J
    was regular."""
    r, push = jax.linearize(f, x)
    J = jax.vmap(push, out_axes=1)(jnp.eye(x.size, dtype=x.dtype))
    direction, status = linear.solve(J, -r)
    regular = (status != Status.singular) & jnp.all(jnp.isfinite(direction))
    d = lambda: jnp.sqrt(jnp.abs(jnp.diagonal(J)))  # of use in one branch alone
    spread, most = lambda y: jnp.abs(J) @ y, lambda y: gross(J, d(), d()) @ y
    return r, jnp.where(regular, direction, away(x, r)), spread, most, regular


def gross(M: Array, rows: Array, columns: Array) -> Array:
    """|M|, or where it may be the rest of a sum that cancels, the most that can have cancelled: `rows` and `columns` hold the
    roots of the diagonal, and M_ij^2 <= M_ii M_jj in a sum of semidefinite terms. An exact zero is taken for no sum at all, so
    that bodies that do not touch keep their own rounding.
    """
    return jnp.where(M == 0, 0, jnp.maximum(jnp.abs(M), rows[..., :, None] * columns[..., None, :]))


def away(x: Array, r: Array) -> Array:
    """Where J is singular (a quartic at rest) any step of moderate length along -r leaves the bad point; J is not negative."""
    return -r / jnp.maximum(jnp.max(jnp.abs(r)), jnp.finfo(r.dtype).tiny) * (1 + jnp.max(jnp.abs(x)))


def dense_tangent(g: Callable, y):
    """The solve of the linearised equation g(x) = y that implicit derivatives need."""
    return linear.solve(jax.jacfwd(g)(jnp.zeros_like(y)), y)[0]


class _Search(NamedTuple):
    """Where the search is: x, f, the size of what cancels in every row of f (`terms`), whether f is rounding there
    (`at_floor`), whether J was regular, the share of the next correction in those terms (`to_go`), how much every unknown weighed
    in them at the start and what it would change by that weight where it is undetermined (`blur`), the same share in all that may
    have cancelled if f was seen to be rounding of that, or infinity (`doubt`), the tries that made no difference to such an f
    (`idle`), the correction and how much of it to try, the verdict (-1: none yet), and the steps taken."""

    x: Array
    r: Array
    terms: Array
    at_floor: Array
    regular: Array
    to_go: Array
    weight: Array
    blur: Array
    doubt: Array
    idle: Array
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

    A row whose terms cancel inside f, as in a body of mirror symmetry that moves along its axis, rounds by more than |J| |x| and
    never gets there. So a search that is stuck, or out of steps, has also arrived where f is rounding of all that may have
    cancelled: gross(J) |x|, and in rows where nothing else is left |J| times the size of the start. To begin with this floor
    would not do: a light body is not to have the rounding of a heavy one that it touches.

    Args:
        f: an array -> an array of the same shape.
        start: where to begin; inside the domain of f.
        offset: size of the terms in f that do not come from x, for all rows or for each, or a function of x; rounding is judged
            against it and against |J| |x| where the search is, not where it began.
        max_steps: Newton steps.
        step: `step(f, x)` -> (f(x), direction, y -> |J| y, y -> gross(J) y, regular).
        tangent: `tangent(g, y)` solves the linear equation g(x) = y.

    Returns:
        Solution with x, f(x), status and Newton steps. x is not filled: the caller knows what failure means.
    """
    eps = jnp.finfo(start.dtype).eps
    # out of steps, a search under way must not pass for one at a root at zero: sixty steps to a triple root shrink x to 3e-11
    finest = min(float(eps), float(np.finfo(np.float64).eps))
    reach = jax.lax.stop_gradient(jnp.abs(start))
    other = offset if callable(offset) else lambda _: offset

    def solve(f, x0):
        verdict = lambda blur: jnp.where(blur <= eps**0.25, 0, int(Status.ill_conditioned))
        zero, one, no, none = jnp.zeros((), x0.dtype), jnp.ones((), x0.dtype), jnp.asarray(False), jnp.int32(0)
        rest, far = jnp.zeros_like(x0), jnp.full((), jnp.inf, x0.dtype)

        # f is written once, at the trial point: nested solvers would otherwise multiply their programs by its copies
        def advance(state: _Search) -> _Search:
            x, r_old, scale, at_floor, regular_old, to_go_old, weight, blur_old, _, idle, direction, s, _, k = state
            trial = x + s * direction
            r, onward, spread, gross, regular = step(f, trial)
            alone = jnp.broadcast_to(jnp.asarray(other(trial), x.dtype), x.shape)
            terms = alone + spread(jnp.abs(trial))  # what cancels in f
            low = jnp.all((jnp.abs(r) <= ULPS * eps * terms) | (r == 0))  # at a cusp the terms are inf * 0
            to_go = jnp.where(regular, largest_size(_over(spread(jnp.abs(onward)), terms)), 0)
            scale = jnp.where(k == 0, terms, scale)
            (slopes,) = jax.linear_transpose(spread, trial)(_over(jnp.ones_like(r), terms))
            weight = jnp.where(k == 0, slopes, weight)
            undetermined = regular & (jnp.abs(onward) > eps**0.25 * jnp.abs(trial))
            blur = largest_size(jnp.where(undetermined, weight * jnp.abs(onward), 0))

            size = lambda y, rows=True: jnp.sqrt(jnp.sum(jnp.where(rows, _over(y, scale), 0) ** 2))
            halves = at_floor & low & regular & (to_go <= s * to_go_old / 2)
            gains = ((k == 0) | (size(r) <= size(r_old) / 2)) & jnp.all(jnp.isfinite(r))
            arrived = low & (to_go <= ULPS * eps)

            def gets_on():
                return jnp.asarray(True), idle, far, jnp.where(arrived, verdict(blur), -1)

            def looked_at():
                """All that may have cancelled is measured where the search does not get on, or ends."""
                begun = spread(reach)
                most = alone + gross(jnp.abs(trial)) + jnp.where(alone <= ULPS * eps * begun, begun, 0)
                unsure = largest_size(_over(gross(jnp.abs(onward)), most))
                maybe, maybe_old = (regular & (jnp.abs(y) <= ULPS * eps * most) for y in (r, r_old))
                # rows that may be rounding have no say while there are others
                noise, counts = jnp.all(maybe & maybe_old), ~(maybe & maybe_old) | jnp.all(maybe_old)
                norm, norm_old = size(r, counts), size(r_old, counts)
                # off a singular point, where the slope promises nothing, it is enough not to rise
                least = jnp.where(regular_old, 1 - s / 1024, 1)
                falls = ((norm <= least * norm_old) | (k == 0)) & jnp.all(jnp.isfinite(r))
                # the row that is rounding hides what the others gain: some whole steps for them, before the end
                takes = falls | halves | ((idle >= IDLE // 2) & noise)
                tries = idle + (~low & noise & (norm > norm_old / 2)).astype(jnp.int32)
                doubt = jnp.where(regular & jnp.all(jnp.abs(r) <= ULPS * finest * most), unsure, far)
                # a step into infinity may need many halvings
                moves = jnp.any(x + s / 2 * direction != x) & (s / 2 > eps**2)
                stuck = (~takes & (~moves | (k == 0))) | (tries >= IDLE)
                failure = jnp.where(k == 0, int(Status.nonfinite_function), int(Status.stagnated))
                failure = jnp.where(jnp.all(jnp.where(takes, maybe, maybe_old)), verdict(unsure), failure)
                code = jnp.where(takes & arrived, verdict(blur), jnp.where(stuck, failure, -1))
                return takes, tries, doubt, jnp.where(~takes & at_floor, verdict(blur_old), code)

            easy = (gains | halves) & (k + 1 < max_steps)
            takes, idle, doubt, code = jax.lax.cond(easy, gets_on, looked_at)
            tried = _Search(trial, r, terms, low, regular, to_go, weight, blur, doubt, idle, onward, one, none, k + 1)
            now = jax.tree.map(lambda new, old: jnp.where(takes, new, old), tried, state)
            return now._replace(idle=idle, s=jnp.where(takes, 1, s / 2), code=code.astype(jnp.int32))

        going = lambda state: (state.code == -1) & (state.steps < max_steps)
        begin = _Search(x0, rest, rest, no, no, zero, rest, zero, far, none, rest, one, jnp.int32(-1), none)
        found = jax.lax.while_loop(going, advance, begin)
        late = jnp.where(jnp.isfinite(found.doubt), verdict(found.doubt), int(Status.max_steps))
        late = jnp.where(found.at_floor, verdict(found.blur), late)
        code = jnp.where(found.code == -1, late, found.code)
        # `custom_root` gives aux a tangent of its dtype
        return found.x, jnp.stack([code, found.steps]).astype(x0.dtype)

    x, aux = jax.lax.custom_root(f, start, solve, tangent, has_aux=True)
    status, steps = aux.astype(jnp.int32)
    return Solution(x, f(x), status, steps)
