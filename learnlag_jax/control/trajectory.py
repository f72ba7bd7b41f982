"""Optimal trajectories by Newton's method on the Lagrangian (eq. 9) in states, actions and costates at once.

Any guess of the states will do as a start (multiple shooting). Answers are differentiable with respect to s0, theta and
active bounds: stationarity = 0 is differentiated, and the same Riccati factors solve for the response.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks, trees
from learnlag_jax.control.model import along, free_actions, linear_response, masked, model_at, projected, rolled
from learnlag_jax.control.newton import Options, Setting, candidate, newton
from learnlag_jax.control.path import costates, stationarity
from learnlag_jax.control.problem import Problem, at, checked, counter, horizon, meant, path_length
from learnlag_jax.control.riccati import sweep
from learnlag_jax.extrema import smallest
from learnlag_jax.vocabulary import Array, PyTree, Status


class Trajectory(NamedTuple):
    """An optimal path with what proves it.

    Attributes:
        value: the total reward of the actions (scalar).
        residual: the largest entry of `stationarity` at the answer, in its units: those of states (dynamics), reward by
            state (costates) and reward by action. Of a bounded action dH/da counts times the share of the width of its
            bounds (of the bound, where there is one) that is left in its direction, up to 1: not at all at the bound.
        status: `Status`, int32.
        steps: Newton iterations.
        states, actions, costates: paths with leading axes n + 1, n and n + 1, like s0, actions0 and s0.
        K: [n, m, d] feedback gains of the ravelled problem: near the path the best action is a_k + K_k (s - s_k).
        pivot: the smallest pivot of the reduced Hessian (of minus the reward): positive at a strict local maximum of the
            reward, negative where the path is stationary but a saddle.

    Example:
        >>> from learnlag_jax.control import Trajectory
        >>> Trajectory._fields[:4]
        ('value', 'residual', 'status', 'steps')
    """

    value: Array
    residual: Array
    status: Array
    steps: Array
    states: PyTree
    actions: PyTree
    costates: PyTree
    K: Array
    pivot: Array


def solve(
    problem: Problem,
    s0: PyTree,
    actions0: PyTree,
    theta: PyTree = None,
    *,
    states0: PyTree | None = None,
    lower: PyTree | None = None,
    upper: PyTree | None = None,
    tol: float | None = None,
    max_steps: int = 200,
) -> Trajectory:
    """The actions that make the total reward stationary and locally largest, with costates and proof.

        maximise J (eq. 8):  dL/ds = 0, dL/da = 0, dL/dlambda = 0 for L of eq. 9

    Args:
        problem: reward, dynamics and terminal reward, twice differentiable.
        s0: first state, a pytree of real arrays.
        actions0: a guess of the actions, leading axis n >= 1.
        theta: parameters; the answer may be differentiated by them.
        states0: a guess of the states, leading axis n + 1, that need not satisfy the dynamics; the rollout of
            `actions0` if left out.
        lower, upper: bounds on each action, pytrees like one action or like `actions0` (scalars broadcast).
        tol: largest gap in the dynamics, relative to 1 + the largest state, and largest dH/da, relative to the terms that
            cancel in it at its step: slope of the reward, costates, and what they change by if states and actions change by as
            much as they move. An action within this share of the width of its bounds from the one dH/da points at is done
            as well. So neither units nor the origins of states and actions matter; where these are so far away that only
            rounding of their size is left, the status is acceptable. By default eps^(2/3). The answer is one Newton step
            better than the iterate that met it.
        max_steps: limit on Newton iterations.

    Returns:
        A `Trajectory`. Its paths are differentiable, forward and reverse, with respect to `s0`, `theta` and active
        bounds, through stationarity = 0 and the same Riccati factors; the starting guesses have derivative zero. Where
        the status is a failure the derivatives are NaN.

    Raises:
        InputError: shapes or structures that do not fit.
        Statuses: acceptable (at the rounding floor), max_steps, line_search_failed, stagnated, infeasible (lower > upper),
            nonfinite_input, nonfinite_function, nonfinite_derivative (the last four fill the paths with NaN). A saddle is
            converged with a pivot that is not positive: a guess that is stationary already is left where it is. Single
            precision may stagnate where rewards of a long path lose its digits.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import Problem, solve
        >>> problem = Problem(
        ...     lambda s, a, k, theta: -(s**2) - a**2, lambda s, a, k, theta: s + a, lambda s, theta: -(s**2))
        >>> answer = solve(problem, jnp.array(1.0), jnp.zeros(20))
        >>> int(answer.status), round(float(answer.costates[0]), 6)  # -2 x golden ratio
        (0, -3.236068)

    Reference: MATH.md section 5, eq. 9-15; Bertsekas, Projected Newton Methods (1982), for the bounds.
    """
    horizon(actions0, "actions0")
    checks.floating(s0, "s0")
    s0 = jax.tree.map(jnp.asarray, s0)
    if states0 is not None:
        path_length(states0, actions0)
        checks.same_structure(at(states0, 0), s0, "states0[0]", "s0")
    low, high = (None, None)  # known to be absent, bounds cost nothing
    if lower is not None or upper is not None:
        low, high = (_bound(x, actions0, name, s) for x, name, s in ((lower, "lower", -1), (upper, "upper", 1)))
    leaf, action = jax.tree.leaves(s0)[0], jax.tree.leaves(actions0)[0]
    same = {jnp.result_type(x) for x in jax.tree.leaves((s0, actions0))} == {jnp.result_type(leaf)}
    like = f"{leaf.dtype}, as in s0"
    checks.require(same, "actions0", checks.describe(action), like, "cast states and actions alike", checks.DTypeError)
    eps = float(jnp.finfo(leaf.dtype).eps)
    options = Options(eps ** (2 / 3) if tol is None else tol, max_steps)
    return _solve(meant(problem, s0, actions0, theta), options, s0, actions0, states0, low, high, theta)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _solve(problem: Problem, options: Options, s0, actions0, states0, low, high, theta) -> Trajectory:
    """The answer, with its proof evaluated apart from the iteration; compiled once for each problem and shape."""
    vector = lambda tree: trees.ravel(tree)[0]
    x0, fold_s = trees.ravel(s0)
    _, fold_a = trees.ravel(at(actions0, 0))
    flat = _flat(checked(problem), fold_s, fold_a)
    U0 = jax.vmap(vector)(actions0)
    low, high = (None if a is None else jax.vmap(vector)(a) for a in (low, high))
    X0 = rolled(flat, x0, U0, theta) if states0 is None else jax.vmap(vector)(states0)
    X, U, status, steps, model = _path(flat, options, x0, X0, U0, low, high, theta)
    free = free_actions(U, model.slope, low, high)
    _, K, pivots = sweep(*masked(model.H, model.W, free), model.Pn, jnp.zeros((), x0.dtype))
    setting = Setting(flat, options, x0, low, high, theta)
    X, U, prices, residual = _polished(setting, (X, U, model.costates), model.gaps, K, _solved(status))
    rewards = jax.vmap(flat.reward, (0, 0, 0, None))(X[:-1], U, counter(len(U)), theta)
    value = jnp.asarray(flat.terminal(X[-1], theta), rewards.dtype) + jnp.sum(rewards)
    paths = jax.vmap(fold_s)(X), jax.vmap(fold_a)(U), jax.vmap(fold_s)(prices)
    return Trajectory(value, residual, status, steps, *paths, K[..., :-1], smallest(pivots))


def _polished(at: Setting, path: tuple, gaps: Array, K: Array, solved: Array):
    """States, actions, costates and residual of a solved path after one more Newton step, whose gains are at hand anyway.

    Taken if it leaves less residual, which is far below the tolerance then. The step is a constant to autodiff: derivatives stay those
    of the path that it started from.
    """

    def residual(X, U, costates):
        parts = stationarity(at.problem, at.x0, X, U, costates, at.theta)
        return trees.max_abs(parts._replace(action=projected(U, parts.action, at.low, at.high)))

    still = Setting(at.problem, at.options, *jax.lax.stop_gradient(at[2:]))
    X, U, gaps, K = jax.lax.stop_gradient((*path[:2], gaps, K))
    X, U, _ = candidate(still, X, U, gaps, K, jnp.ones((), X.dtype))
    new, before = (X, U, costates(at.problem, X, U, still.theta)), residual(*path)
    after = residual(*new)
    better = solved & (after < before)
    moved = jax.tree.map(lambda y, x: x + jnp.where(better, y - jax.lax.stop_gradient(x), 0), new, path)
    return *moved, jnp.where(better, after, before)


def _solved(status: Array) -> Array:
    return (status == Status.converged) | (status == Status.acceptable)


def _flat(p: Problem, fold_s, fold_a) -> Problem:
    """The problem on ravelled states and actions."""
    return Problem(
        lambda x, u, k, theta: p.reward(fold_s(x), fold_a(u), k, theta),
        lambda x, u, k, theta: trees.ravel(p.dynamics(fold_s(x), fold_a(u), k, theta))[0],
        lambda x, theta: p.terminal(fold_s(x), theta),
    )


def _bound(x, actions: PyTree, name: str, sign: int) -> PyTree:
    """The bound as a path like the actions; infinite if not given."""
    if x is None:
        return jax.tree.map(lambda a: jnp.full_like(a, sign * jnp.inf), actions)
    if len(jax.tree.leaves(x)) == 1 and jnp.ndim(jax.tree.leaves(x)[0]) == 0:
        return jax.tree.map(lambda a: jnp.full_like(a, jax.tree.leaves(x)[0]), actions)
    same = jax.tree.structure(x) == jax.tree.structure(actions)
    checks.require(same, name, jax.tree.structure(x), f"{jax.tree.structure(actions)}", "pass a pytree like one action")

    def spread(b, a):
        b = jnp.asarray(b, a.dtype)
        fits = b.shape in ((), a.shape[1:], a.shape)
        checks.require(fits, name, b.shape, f"{a.shape[1:]} or {a.shape}", "give one action or all")
        return jnp.broadcast_to(b if b.ndim == a.ndim else b[None], a.shape)

    return jax.tree.map(spread, x, actions)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _path(p: Problem, options: Options, x0, X0, U0, low, high, theta):
    """States, actions, status, steps and the model there; differentiated by the rule below."""
    return newton(p, options, x0, X0, U0, low, high, theta)


@_path.defjvp
def _path_jvp(p: Problem, options: Options, primals, tangents):
    """Differentiate stationarity = 0: the Riccati factors at the solution, applied to the tangents of the residual.

    The model moves with the path it is taken at; only its costates have a rule of their own.
    """
    x0, X0, U0, low, high, theta = primals
    dx0, _, _, dlow, dhigh, dtheta = tangents
    answer = _path(p, options, x0, X0, U0, low, high, theta)
    X, U, status, _, model = answer

    def residual(x0, theta):
        return stationarity(p, x0, X, U, model.costates, theta)

    _, moved = jax.jvp(residual, (x0, theta), (dx0, dtheta))
    free, m = free_actions(U, model.slope, low, high), U.shape[1]
    H, W = masked(model.H, model.W, free)
    free = jnp.ones_like(U) if free is None else free
    pinned = jnp.zeros_like(U) if low is None else jnp.where(free > 0, 0.0, jnp.where(high <= U, dhigh, dlow))
    pressed = along(model.H[:, :-1, :m], pinned)
    r, q = free * (pressed[:, :m] - moved.action), pressed[:, m:] - moved.costate[:-1]
    c = along(model.W[:, :-1, :m], pinned) + moved.dynamics[1:]
    dX, dU, dcostates = linear_response(H, W, model.Pn, r, q, c, moved.dynamics[0], -moved.costate[-1])
    # a factor, not a `where`, so that the transpose is NaN as well
    factor = jnp.where(_solved(status), 1.0, jnp.nan).astype(X.dtype)
    dX, dU, dcostates = trees.scale(factor, (dX, dU + pinned, dcostates))
    _, dmodel = jax.jvp(lambda *x: model_at(p, *x), (X, U, theta), (dX, dU, dtheta))
    none = lambda x: np.zeros(jnp.shape(x), jax.dtypes.float0)
    return answer, (dX, dU, none(answer[2]), none(answer[3]), dmodel._replace(costates=dcostates))
