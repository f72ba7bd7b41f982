"""The Newton iteration behind `solve`, on ravelled states and actions.

At each iterate the costates come from the exact backward recursion, all second derivatives of H_k from one `vmap`, and the
Newton step from one Riccati sweep of the linear-quadratic model, in which the gaps f(s_k, a_k, k) - s_{k+1} may be non-zero. A
step of length alpha is taken along the true dynamics with the Riccati feedback, so gaps shrink by exactly 1 - alpha; an
exact penalty on the gaps decides whether to take it. If a pivot of R + B'PB is not positive, or no step length will do, a
Levenberg shift is added to the action block; it is zero near a solution with a positive reduced Hessian.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from learnlag_jax import trees
from learnlag_jax.control.model import Model, free_actions, linear_path, masked, model_at, projected
from learnlag_jax.control.problem import Problem, counter
from learnlag_jax.control.riccati import Quadratic, sweep
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
    costates: Array
    shift: Array
    status: Array
    steps: Array
    best: Array
    idle: Array
    running: Array


def newton(p: Problem, options: Options, x0, X0, U0, low, high, theta):
    """States, actions, costates, status and steps of the ravelled problem."""
    dtype = x0.dtype
    U0 = jnp.clip(U0, low, high)
    X0 = X0.at[0].set(x0)
    finite = trees.all_finite((X0[0], U0)) & ~jnp.any(low > high)
    number = functools.partial(jnp.asarray, dtype=dtype)
    start = Iterate(
        X0,
        U0,
        jnp.zeros_like(X0),
        number(0.0),
        jnp.int32(Status.max_steps),
        jnp.int32(0),
        number(jnp.inf),
        jnp.int32(0),
        finite,
    )
    step = functools.partial(_judge_and_move, p, options, x0, low, high, theta)
    end = lax.while_loop(lambda st: st.running, step, start)
    status = first_failure(
        status_where(jnp.any(low > high), Status.infeasible), status_where(~finite, Status.nonfinite_input), end.status
    )
    unusable = (status == Status.nonfinite_function) | (status == Status.nonfinite_derivative) | ~finite
    X, U, costates = trees.fill_where(unusable, (end.X, end.U, end.costates))
    return X, U, costates, status, end.steps


def _judge_and_move(p: Problem, options: Options, x0, low, high, theta, st: Iterate) -> Iterate:
    """Judge the iterate; if it is not yet stationary, factor, search and move."""
    n, eps = len(st.U), float(jnp.finfo(st.X.dtype).eps)
    model = model_at(p, st.X, st.U, theta)
    gaps = model.stages.c
    relative = jnp.maximum(
        jnp.max(jnp.abs(gaps)) / (1 + jnp.max(jnp.abs(st.X))),
        jnp.max(jnp.abs(projected(st.U, model.slope, low, high))) / (1 + jnp.max(jnp.abs(model.costates))),
    )
    done = relative <= options.tol
    idle = jnp.where(relative < st.best / 2, 0, st.idle)
    floor = relative <= 64 * n * eps
    value_bad = ~jnp.isfinite(model.reward) | ~trees.all_finite(gaps)
    slope_bad = ~trees.all_finite((model.stages, model.Qn, model.costates))
    out_of_steps = st.steps >= options.max_steps
    failed = first_failure(
        status_where(value_bad, Status.nonfinite_function),
        status_where(slope_bad, Status.nonfinite_derivative),
        status_where(~done & (idle >= IDLE) & floor, Status.acceptable),
        status_where(~done & (idle >= IDLE), Status.stagnated),
        status_where(~done & out_of_steps, Status.max_steps),
    )
    judged = st._replace(
        costates=model.costates,
        best=jnp.minimum(st.best, relative),
        idle=idle,
        status=failed,
        running=~done & (failed == 0),
    )
    move = functools.partial(_move, p, x0, low, high, theta, model)
    return lax.cond(judged.running, move, lambda st: st, judged)


def _move(p: Problem, x0, low, high, theta, model: Model, st: Iterate) -> Iterate:
    eps = float(jnp.finfo(st.X.dtype).eps)
    stages = masked(model.stages, free_actions(st.U, model.slope, low, high))
    size = 1 + jnp.max(jnp.abs(stages.R))
    shift, gains = _factor(stages, model, st.shift, size)
    P, p_lin, _, K, k, _ = gains
    ds, slope = linear_path(stages, model, K, k)
    gaps = jnp.sum(jnp.abs(model.stages.c))
    penalty = 2 * jnp.max(jnp.abs((P @ ds[..., None])[..., 0] + p_lin))
    merit = penalty * gaps - model.reward
    slope = slope - penalty * gaps
    slack = 16 * eps * (model.magnitude + penalty * gaps)

    def attempt(carry):
        alpha = carry[0] / 2
        X, U, reward = _candidate(p, x0, low, high, theta, st, model.stages.c, K, k, alpha)
        new = penalty * (1 - alpha) * gaps - reward
        return alpha, X, U, new, new <= merit + 1e-4 * alpha * slope + slack

    def searching(carry):
        return ~carry[4] & (carry[0] > 2.0**-HALVINGS)

    first = (jnp.asarray(2.0, st.X.dtype), st.X, st.U, merit, jnp.asarray(False))
    alpha, X, U, new, accepted = lax.while_loop(searching, attempt, first)
    raised = jnp.maximum(shift * 10, SHIFT_MIN * size)
    lowered = jnp.where(shift / 10 < SHIFT_MIN * size, 0.0, shift / 10)
    shift_next = jnp.where(accepted & (alpha > 0.3), lowered, raised)
    hopeless = ~accepted & (shift > SHIFT_MAX * size)
    return st._replace(
        X=jnp.where(accepted, X, st.X),
        U=jnp.where(accepted, U, st.U),
        shift=jnp.where(accepted & (alpha <= 0.3) & (alpha > 0.05), shift, shift_next),
        steps=st.steps + 1,
        idle=jnp.where(accepted & (merit - new <= slack), st.idle + 1, jnp.where(accepted, 0, st.idle)),
        status=status_where(hopeless, Status.line_search_failed),
        running=~hopeless,
    )


def _factor(stages: Quadratic, model: Model, shift, size):
    """The Riccati sweep with the smallest shift of the schedule that makes every pivot positive."""
    n, m, d = len(stages.B), stages.B.shape[2], stages.B.shape[1]
    zeros = functools.partial(jnp.zeros, dtype=stages.B.dtype)
    empty = (zeros((n + 1, d, d)), zeros((n + 1, d)), zeros(n + 1), zeros((n, m, d)), zeros((n, m)), zeros(n) - 1)
    eps = float(jnp.finfo(stages.B.dtype).eps)

    def attempt(carry):
        shift, _, first = carry
        shift = jnp.where(first, shift, jnp.maximum(shift * 10, SHIFT_MIN * size))
        return shift, sweep(stages, model.Qn, model.qn, shift), jnp.asarray(False)

    def unfit(carry):
        shift, gains, _ = carry
        return ~(jnp.min(gains[5]) > eps * size) & (shift < SHIFT_MAX * size)

    shift, gains, _ = lax.while_loop(unfit, attempt, (shift, empty, jnp.asarray(True)))
    return shift, gains


def _candidate(p: Problem, x0, low, high, theta, st: Iterate, gaps, K, k, alpha):
    """The true dynamics under the step and its feedback; gaps shrink by exactly 1 - alpha."""

    def step(x, now):
        i, x_old, u_old, gap, K, k, lo, hi = now
        u = jnp.clip(u_old + alpha * k + K @ (x - x_old), lo, hi)
        x_next = p.dynamics(x, u, i, theta) - (1 - alpha) * gap
        return x_next, (x_next, u, p.reward(x, u, i, theta))

    now = (counter(len(st.U)), st.X[:-1], st.U, gaps, K, k, low, high)
    end, (later, U, rewards) = lax.scan(step, x0, now)
    return jnp.concatenate([x0[None], later]), U, jnp.sum(rewards) + p.terminal(end, theta)
