"""The Newton iteration behind `solve`, on ravelled states and actions.

At each iterate the costates come from the exact backward recursion, all second derivatives of H_k from one `vmap`, and the
Newton step from one Riccati sweep of the linear-quadratic model, in which the gaps f(s_k, a_k, k) - s_{k+1} may be non-zero. A
step of length alpha is taken along the true dynamics with the Riccati feedback, so gaps shrink by exactly 1 - alpha; an
exact penalty on the gaps decides whether to take it. If a pivot of R + B'PB is not positive, the curvature of the dynamics is left out
(iterative LQR, Li and Todorov 2004), for one full step that keeps its promise; if that will not do, nor any step length, a
Levenberg shift is added to the action block; both are gone near a solution with a positive reduced Hessian.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax import trees
from learnlag_jax.control.model import (
    Model,
    along,
    curvature_scale,
    free_actions,
    masked,
    model_at,
    room,
    slope_scale,
    straightened,
    travel,
    unsettled,
)
from learnlag_jax.control.problem import Problem, counter
from learnlag_jax.control.riccati import sweep, times
from learnlag_jax.extrema import largest_size, smallest
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where

HALVINGS = 12
SHIFT_MIN, SHIFT_MAX = 1e-6, 1e12
IDLE = 4
REST = 64.0  # eps of their size, by which states and actions of a path at rest may move
FAR = 0.05  # a relative residual above this is far from a solution
SHARE = 0.25  # of what the straight model promises for a full step, so much must be kept


class Options(NamedTuple):
    tol: float
    max_steps: int


class Iterate(NamedTuple):
    X: Array
    U: Array
    model: Model
    shift: Array
    status: Array
    steps: Array
    best: Array
    idle: Array
    running: Array
    far: Array
    scale: Array  # the largest scale of the slopes so far


class Tried(NamedTuple):
    """A step of length alpha: where it leads, the merit there, and whether that will do."""

    alpha: Array
    X: Array
    U: Array
    merit: Array
    accepted: Array


class Search(NamedTuple):
    """The merit now, what of a change of it is rounding, and `attempt(alpha, share of the promise that must be kept)`."""

    merit: Array
    slack: Array
    attempt: Callable[..., Tried]


class Setting(NamedTuple):
    """What stays the same from one iterate to the next."""

    problem: Problem
    options: Options
    x0: Array
    low: Array | None
    high: Array | None
    theta: object


def newton(p: Problem, options: Options, x0, X0, U0, low, high, theta):
    """States, actions, status, steps and the model at the answer, costates included, of the ravelled problem."""
    U, X = jnp.clip(U0, low, high), X0.at[0].set(x0)
    crossed = jnp.asarray(False) if low is None else jnp.any(low > high)
    finite = trees.all_finite((X[0], U)) & ~crossed
    number = functools.partial(jnp.asarray, dtype=x0.dtype)
    zero, setting = jnp.int32(0), Setting(p, options, x0, low, high, theta)
    start = Iterate(
        X,
        U,
        model_at(p, X, U, theta),
        number(0.0),
        zero,
        zero,
        number(jnp.inf),
        zero,
        finite,
        jnp.asarray(False),
        jnp.zeros_like(U),
    )

    def step(st: Iterate) -> Iterate:
        moved = _moved(setting, st)
        return _judged(setting, moved._replace(model=model_at(p, moved.X, moved.U, theta)), U)

    end = lax.while_loop(lambda st: st.running, step, _judged(setting, start, U))
    status = first_failure(
        status_where(crossed, Status.infeasible), status_where(~finite, Status.nonfinite_input), end.status
    )
    unusable = (status == Status.nonfinite_function) | (status == Status.nonfinite_derivative) | ~finite
    X, U, model = trees.fill_where(unusable, (end.X, end.U, end.model))
    return X, U, status, end.steps, model


def _judged(at: Setting, st: Iterate, guess: Array) -> Iterate:
    """Whether the iterate is stationary, and if not, whether there is hope."""
    model, n, eps = st.model, len(st.U), float(jnp.finfo(st.X.dtype).eps)
    moves, whole = travel(st.X, st.U, guess)
    scale, sizes = slope_scale(model, moves), slope_scale(model, whole)
    seen = jnp.maximum(scale, st.scale)
    gaps, share = largest_size(model.gaps) / (1 + jnp.max(jnp.abs(st.X))), room(st.U, model.slope, at.low, at.high)
    # where all terms vanish at the solution, rounding of what they were is left
    left = unsettled(model.slope, jnp.maximum(scale, eps * seen), share)
    relative = jnp.maximum(gaps, largest_size(left))
    # digits are lost to the size of states and actions, however little they move; of a path at rest nothing else can be said
    lost = jnp.maximum(gaps, largest_size(unsettled(model.slope, sizes, share)))
    rounding, rests = lost <= 4 * n**0.5 * eps, jnp.all(moves <= REST * eps * whole)
    done = (relative <= at.options.tol) | (rests & rounding)
    idle = jnp.where(relative < st.best / 2, 0, st.idle)
    spent = (idle >= IDLE) | (st.steps >= at.options.max_steps)
    value_bad = ~jnp.isfinite(model.reward) | ~trees.all_finite(model.gaps)
    # what is not finite in the first derivatives shows in the costates or in dH/da
    slope_bad = ~trees.all_finite((model.H, model.slope, model.Pn, model.costates))
    failed = first_failure(
        status_where(value_bad, Status.nonfinite_function),
        status_where(slope_bad, Status.nonfinite_derivative),
        status_where(~done & (spent & (lost <= 64 * n * eps) | rounding), Status.acceptable),
        status_where(~done & (idle >= IDLE), Status.stagnated),
        jnp.where(done, 0, st.status),
        status_where(~done & (st.steps >= at.options.max_steps), Status.max_steps),
    )
    best = jnp.minimum(st.best, relative)
    far = (relative > FAR) & (st.steps > 0)  # a linear-quadratic problem needs one step and no other model
    running = st.running & ~done & (failed == 0)
    return st._replace(best=best, idle=idle, far=far, status=failed, scale=seen, running=running)


def _moved(at: Setting, st: Iterate) -> Iterate:
    """Factor, search along the step, and move; status line_search_failed where no shift helps."""
    model = st.model
    free = free_actions(st.U, model.slope, at.low, at.high)
    size = curvature_scale(model)
    H, W = masked(model.H, model.W, free, size)
    straight = lambda: masked(straightened(at.problem, model, st.X, st.U, at.theta), W, free, size)[0]
    one = jnp.ones((), st.X.dtype)
    untried = Tried(2 * one, st.X, st.U, -model.reward, jnp.asarray(False))
    full = lambda P, K: _search(at, st, P, K).attempt(one, SHARE)
    shift, P, K, tried = _factored(H, straight, W, model.Pn, st, size, full, untried)
    merit, slack, attempt = _search(at, st, P, K)
    searching = lambda tried: ~tried.accepted & (tried.alpha > 2.0**-HALVINGS)
    alpha, X, U, new, accepted = lax.while_loop(searching, lambda tried: attempt(tried.alpha / 2), tried)
    raised = jnp.maximum(shift * 10, SHIFT_MIN * size)
    lowered = jnp.where(shift / 10 < SHIFT_MIN * size, 0.0, shift / 10)
    shift_next = jnp.where(accepted & (alpha > 0.3), lowered, raised)
    return st._replace(
        X=jnp.where(accepted, X, st.X),
        U=jnp.where(accepted, U, st.U),
        shift=jnp.where(accepted & (alpha <= 0.3) & (alpha > 0.05), shift, shift_next),
        steps=st.steps + 1,
        idle=jnp.where(accepted & (merit - new <= slack), st.idle + 1, jnp.where(accepted, 0, st.idle)),
        status=status_where(~accepted & (shift > SHIFT_MAX * size), Status.line_search_failed),
    )


def _search(at: Setting, st: Iterate, P: Array, K: Array) -> Search:
    """How good steps along the direction of a sweep are: an exact penalty on the gaps decides."""
    model, eps = st.model, float(jnp.finfo(st.X.dtype).eps)
    gaps = jnp.sum(jnp.abs(model.gaps))
    # what the model promises for a full step rides in the corner of P_0
    promised = P[0, -1, -1] / 2
    open_ = gaps > 16 * eps * model.gaps.size * (1 + jnp.max(jnp.abs(st.X)))
    multiplier = jnp.maximum(jnp.max(jnp.abs(model.costates)), jnp.max(jnp.abs(P[:, :-1, -1])))
    penalty = jnp.where(open_, 2 * jnp.maximum(multiplier, promised / jnp.where(open_, gaps, 1)), 0)
    merit, promised = penalty * gaps - model.reward, promised - penalty * gaps
    slack, small = 16 * eps * (model.magnitude + penalty * gaps), eps ** (1 / 3)

    def attempt(alpha, share=1e-4):
        X, U, reward = candidate(at, st.X, st.U, st.model.gaps, K, alpha)
        new = penalty * (1 - alpha) * gaps - reward
        # a reward may lose more digits inside than its size tells; a step too small to do harm need not be judged by it
        harmless = (trees.max_abs(X - st.X) <= small * (1 + trees.max_abs(X))) & (
            trees.max_abs(U - st.U) <= small * (1 + trees.max_abs(U))
        )
        return Tried(alpha, X, U, new, (new <= merit + share * alpha * promised + slack) | harmless)

    return Search(merit, slack, attempt)


def _factored(H, straight, W, Pn, st: Iterate, size, full, untried: Tried):
    """The Riccati sweep of the first model that will do: the exact one with the last shift, or, while there is none, the one in which
    the dynamics are straight, which comes first far from a solution; then the exact one with larger and larger shifts.

    All pivots must be positive; of the straight one the full step must be good as well, and comes along. The pivot that failed
    first, going backward, is exact and says how much is missing there at least; ten times the last shift is tried where that is more.
    """
    n, rows, m = len(H), len(Pn), H.shape[-1] - len(Pn)
    zeros = functools.partial(jnp.zeros, dtype=H.dtype)
    empty, bold = (zeros((n + 1, rows, rows)), zeros((n, m, rows))), st.shift == 0
    least = float(jnp.finfo(H.dtype).eps) * size

    def attempt(carry):
        shift, _, missing, tries, _, _ = carry
        straighten = bold & (tries < 2) & (st.far == (tries == 0))
        raised = jnp.maximum(jnp.maximum(shift * 10, SHIFT_MIN * size), missing)
        shift = jnp.where((tries == 0) | (bold & (tries == 1)), shift, raised)
        P, K, pivots = sweep(lax.cond(straighten, straight, lambda: H), W, Pn, shift)
        positive = smallest(pivots) > least
        tried = lax.cond(straighten & positive, full, lambda P, K: untried, P, K)
        failed = pivots[n - 1 - jnp.argmax(pivots[::-1] <= least)]
        lacking = jnp.where(jnp.isfinite(failed), jnp.minimum(-2 * failed, size), 0)
        missing = jnp.where(straighten, missing, lacking)
        return shift, (P, K), missing, tries + 1, tried, positive & (~straighten | tried.accepted)

    def unfit(carry):
        return ~carry[-1] & (carry[0] < SHIFT_MAX * size)

    start = st.shift, empty, jnp.zeros_like(size), jnp.int32(0), untried, jnp.asarray(False)
    shift, (P, K), _, _, tried, _ = lax.while_loop(unfit, attempt, start)
    return shift, P, K, tried


def candidate(at: Setting, X, U, gaps, K, alpha):
    """The true dynamics under the step and its feedback; gaps shrink by exactly 1 - alpha."""
    p, theta, k = at.problem, at.theta, counter(len(U))
    offset = U + alpha * K[..., -1] - along(K[..., :-1], X[:-1])

    def step(x, now):
        i, K, offset, gap, lo, hi = now
        u = jnp.clip(times(K, x[:, None])[:, 0] + offset, lo, hi)
        x = p.dynamics(x, u, i, theta) - gap
        return x, (x, u)

    now = (k, K[..., :-1], offset, (1 - alpha) * gaps, at.low, at.high)
    _, (later, U) = lax.scan(step, at.x0, now)
    X = jnp.concatenate([at.x0[None], later])
    rewards = jax.vmap(p.reward, (0, 0, 0, None))(X[:-1], U, k, theta)
    return X, U, jnp.sum(rewards) + p.terminal(X[-1], theta)
