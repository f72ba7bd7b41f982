"""The Newton iteration behind `solve`, on ravelled states and actions.

At each iterate the costates come from the exact backward recursion, all second derivatives of H_k from one `vmap`, and the
Newton step from one Riccati sweep of the linear-quadratic model, in which the gaps f(s_k, a_k, k) - s_{k+1} may be non-zero. A
step of length alpha is taken along the true dynamics with the Riccati feedback, so gaps shrink by exactly 1 - alpha; an
exact penalty on the gaps decides whether to take it. If a pivot of R + B'PB is not positive, or no step length will do, a
Levenberg shift is added to the action block; it is zero near a solution with a positive reduced Hessian.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax import trees
from learnlag_jax.control.model import Model, along, free_actions, masked, model_at, projected
from learnlag_jax.control.problem import Problem, counter
from learnlag_jax.control.riccati import sweep, times
from learnlag_jax.extrema import largest_size, smallest
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where

HALVINGS = 12
SHIFT_MIN, SHIFT_MAX = 1e-6, 1e12
IDLE = 4


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
    start = Iterate(X, U, model_at(p, X, U, theta), number(0.0), zero, zero, number(jnp.inf), zero, finite)

    def step(st: Iterate) -> Iterate:
        moved = _moved(setting, st)
        return _judged(setting, moved._replace(model=model_at(p, moved.X, moved.U, theta)))

    end = lax.while_loop(lambda st: st.running, step, _judged(setting, start))
    status = first_failure(
        status_where(crossed, Status.infeasible), status_where(~finite, Status.nonfinite_input), end.status
    )
    unusable = (status == Status.nonfinite_function) | (status == Status.nonfinite_derivative) | ~finite
    X, U, model = trees.fill_where(unusable, (end.X, end.U, end.model))
    return X, U, status, end.steps, model


def _judged(at: Setting, st: Iterate) -> Iterate:
    """Whether the iterate is stationary, and if not, whether there is hope."""
    model, n, eps = st.model, len(st.U), float(jnp.finfo(st.X.dtype).eps)
    relative = jnp.maximum(
        largest_size(model.gaps) / (1 + jnp.max(jnp.abs(st.X))),
        largest_size(projected(st.U, model.slope, at.low, at.high)) / (1 + jnp.max(jnp.abs(model.costates))),
    )
    done = relative <= at.options.tol
    idle = jnp.where(relative < st.best / 2, 0, st.idle)
    floor = relative <= 64 * n * eps
    value_bad = ~jnp.isfinite(model.reward) | ~trees.all_finite(model.gaps)
    # what is not finite in the first derivatives shows in the costates or in dH/da
    slope_bad = ~trees.all_finite((model.H, model.slope, model.Pn, model.costates))
    failed = first_failure(
        status_where(value_bad, Status.nonfinite_function),
        status_where(slope_bad, Status.nonfinite_derivative),
        status_where(~done & (idle >= IDLE) & floor, Status.acceptable),
        status_where(~done & (idle >= IDLE), Status.stagnated),
        jnp.where(done, 0, st.status),
        status_where(~done & (st.steps >= at.options.max_steps), Status.max_steps),
    )
    best = jnp.minimum(st.best, relative)
    return st._replace(best=best, idle=idle, status=failed, running=st.running & ~done & (failed == 0))


def _moved(at: Setting, st: Iterate) -> Iterate:
    """Factor, search along the step, and move; status line_search_failed where no shift helps."""
    model, eps = st.model, float(jnp.finfo(st.X.dtype).eps)
    H, W = masked(model, free_actions(st.U, model.slope, at.low, at.high))
    size = 1 + jnp.max(jnp.abs(H[:, : st.U.shape[1], : st.U.shape[1]]))
    shift, P, K = _factored(H, W, model.Pn, st.shift, size)
    gaps = jnp.sum(jnp.abs(model.gaps))
    # what the model promises for a full step rides in the corner of P_0
    promised = P[0, -1, -1] / 2
    open_ = gaps > 16 * eps * model.gaps.size * (1 + jnp.max(jnp.abs(st.X)))
    multiplier = jnp.maximum(jnp.max(jnp.abs(model.costates)), jnp.max(jnp.abs(P[:, :-1, -1])))
    penalty = jnp.where(open_, 2 * jnp.maximum(multiplier, promised / jnp.where(open_, gaps, 1)), 0)
    merit, promised = penalty * gaps - model.reward, promised - penalty * gaps
    slack, small = 16 * eps * (model.magnitude + penalty * gaps), eps ** (1 / 3)

    def attempt(carry):
        alpha = carry[0] / 2
        X, U, reward = candidate(at, st.X, st.U, st.model.gaps, K, alpha)
        new = penalty * (1 - alpha) * gaps - reward
        # a reward may lose more digits inside than its size tells; a step too small to do harm need not be judged by it
        harmless = (trees.max_abs(X - st.X) <= small * (1 + trees.max_abs(X))) & (
            trees.max_abs(U - st.U) <= small * (1 + trees.max_abs(U))
        )
        return alpha, X, U, new, (new <= merit + 1e-4 * alpha * promised + slack) | harmless

    def searching(carry):
        return ~carry[4] & (carry[0] > 2.0**-HALVINGS)

    first = (jnp.asarray(2.0, st.X.dtype), st.X, st.U, merit, jnp.asarray(False))
    alpha, X, U, new, accepted = lax.while_loop(searching, attempt, first)
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


def _factored(H, W, Pn, shift, size):
    """The Riccati sweep with the smallest shift of the schedule that makes every pivot positive.

    The pivot that failed first, going backward, is exact and says how much is missing there at least; ten times the last
    shift is tried where that is more.
    """
    n, rows, m = len(H), len(Pn), H.shape[-1] - len(Pn)
    zeros = functools.partial(jnp.zeros, dtype=H.dtype)
    empty = zeros((n + 1, rows, rows)), zeros((n, m, rows)), zeros(n) - 1
    least = float(jnp.finfo(H.dtype).eps) * size

    def attempt(carry):
        shift, swept, first = carry
        failed = swept[2][n - 1 - jnp.argmax(swept[2][::-1] <= least)]
        missing = jnp.where(jnp.isfinite(failed), jnp.minimum(-2 * failed, size), 0)
        raised = jnp.maximum(jnp.maximum(shift * 10, SHIFT_MIN * size), missing)
        shift = jnp.where(first, shift, raised)
        return shift, sweep(H, W, Pn, shift), jnp.asarray(False)

    def unfit(carry):
        shift, swept, _ = carry
        return ~(smallest(swept[2]) > least) & (shift < SHIFT_MAX * size)

    shift, (P, K, _), _ = lax.while_loop(unfit, attempt, (shift, empty, jnp.asarray(True)))
    return shift, P, K


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
