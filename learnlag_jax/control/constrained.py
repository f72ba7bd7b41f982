"""Optimal paths under constraints: where to end, and what never to cross, with the multipliers that price them.

    maximise J  subject to  g(s_n) = 0,   c(s_k, a_k, k) <= 0

The method of multipliers: Newton on the Lagrangian of the reward minus nu'g + rho |g|^2 / 2 and minus
(max(0, mu + rho c)^2 - mu^2) / (2 rho), then nu <- nu + rho g and mu <- max(0, mu + rho c). Each inner answer is exactly
stationary for the updated multipliers, so only feasibility and complementarity remain to converge.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax import checks, trees
from learnlag_jax.control.model import travel
from learnlag_jax.control.path import rollout, total_reward
from learnlag_jax.control.problem import Problem, at, counter, horizon, meant
from learnlag_jax.control.trajectory import Trajectory, solve
from learnlag_jax.meaning import by_meaning
from learnlag_jax.vocabulary import Array, PyTree, Status, first_failure, status_where

FIRST_PENALTY, LAST_PENALTY, GROWTH = 1.0, 1e6, 10.0  # of the curvature of the reward along the constraint
ROUNDS, POLISH, STUCK = 40, 7, 4
ROUNDING = 8  # eps of a state or an action that no answer is asked to resolve
FALLING = 0.9  # a round that leaves more of the violation has not lowered it


class Constrained(NamedTuple):
    """An optimal path under constraints, with the whole certificate.

    Attributes:
        value: the total reward, without penalties.
        residual: the largest of stationarity (with multipliers), violation and complementarity.
        status: `Status`; infeasible where the violation stopped falling at the largest penalty.
        steps: rounds of the method of multipliers.
        states, actions, costates: as in `Trajectory`; costates of the Lagrangian with multipliers.
        terminal_multiplier: nu, one for each entry of g: minus the gradient of the optimal value by the level of g.
        path_multiplier: mu >= 0, [n, entries of c].
        violation: largest |g| and max(0, c).
        complementarity: largest |mu c|.

    Example:
        >>> from learnlag_jax.control import Constrained
        >>> Constrained._fields[:4]
        ('value', 'residual', 'status', 'steps')
    """

    value: Array
    residual: Array
    status: Array
    steps: Array
    states: PyTree
    actions: PyTree
    costates: PyTree
    terminal_multiplier: Array
    path_multiplier: Array
    violation: Array
    complementarity: Array


class _Round(NamedTuple):
    inner: Trajectory
    nu: Array
    mu: Array
    rho: Array  # the penalty, as a multiple of the weights
    weights: tuple[Array, Array]
    wrong: Array
    reach: Array
    count: Array
    stuck: Array


def solve_constrained(
    problem: Problem,
    s0: PyTree,
    actions0: PyTree,
    theta: PyTree = None,
    *,
    terminal: Callable | None = None,
    path: Callable | None = None,
    lower: PyTree | None = None,
    upper: PyTree | None = None,
    tol: float | None = None,
    max_steps: int = 200,
) -> Constrained:
    """The best path among those that obey the constraints, with multipliers and complementarity.

        L = eq. 9 - nu'g(s_n) - sum_k mu_k'c(s_k, a_k, k),   mu >= 0,  mu c = 0

    Args:
        problem: reward, dynamics and terminal reward.
        s0, actions0, theta, lower, upper: as in `solve`.
        terminal: `g(s, theta)` -> vector that must vanish at the end.
        path: `c(s, a, k, theta)` -> vector that must not be positive on the way.
        tol: largest violation and complementarity, each as a share of the size of its constraint: what it would change by, at
            the answer, if states and actions changed by as much as they move on the way; by default eps^(1/2). Violations
            by 8 eps of the size of states and actions are rounding. So neither the units of constraints and reward matter
            nor the guess.
        max_steps: Newton iterations a round.

    Returns:
        A `Constrained`, differentiable with respect to s0 and theta in both modes: a few rounds more are taken through the
        implicit derivative of `solve`, each shrinking the error of the multipliers' derivative by the penalty.

    Raises:
        InputError: as `solve`; no constraint given; tol <= 0.
        Statuses: infeasible; max_steps; those of `solve`, where the last path is not stationary to eps^(1/2) of its costates.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import Problem, solve_constrained
        >>> walk = Problem(lambda s, a, k, theta: -(a**2), lambda s, a, k, theta: s + a)
        >>> got = solve_constrained(walk, jnp.array(0.0), jnp.zeros(4), terminal=lambda s, theta: s[None] - 1.0)
        >>> [round(float(a), 6) for a in got.actions], round(float(got.terminal_multiplier[0]), 6)
        ([0.25, 0.25, 0.25, 0.25], -0.5)

    Reference: MATH.md section 5; Bertsekas, Constrained Optimization and Lagrange Multiplier Methods (1982).
    """
    given = terminal is not None or path is not None
    checks.require(given, "terminal, path", "neither", "at least one constraint", "use solve")
    horizon(actions0, "actions0")
    s0 = jax.tree.map(jnp.asarray, s0)
    dtype = jnp.result_type(jax.tree.leaves(s0)[0])
    if tol is not None:
        checks.require(tol > 0, "tol", tol, "a positive share", "raise it")
    within: float = float(jnp.finfo(dtype).eps) ** 0.5 if tol is None else tol
    now = s0, at(actions0, 0), jnp.int32(0), theta
    g, c = by_meaning(terminal or _nothing, s0, theta), by_meaning(path or _nothing_on_the_way, *now)
    limits = _Limits(meant(problem, s0, actions0, theta), g, c, within, max_steps)
    return _multipliers(limits, s0, actions0, theta, lower, upper)


def _nothing(s, theta):
    return jnp.zeros(0, jnp.result_type(jax.tree.leaves(s)[0]))


def _nothing_on_the_way(s, a, k, theta):
    return _nothing(s, theta)


class _Limits(NamedTuple):
    problem: Problem
    g: Callable
    c: Callable
    tol: float
    max_steps: int

    def penalised(self) -> Problem:
        """The problem whose theta is (theta, nu, mu, rho of g, rho of c)."""

        def reward(s, a, k, extended):
            theta, _, mu, _, rho = extended
            pressed = jnp.maximum(mu[k] + rho * self.c(s, a, k, theta), 0)
            return self.problem.reward(s, a, k, theta) - jnp.sum((pressed**2 - mu[k] ** 2) / (2 * rho))

        def terminal(s, extended):
            theta, nu, _, rho, _ = extended
            g = self.g(s, theta)
            return self.problem.terminal(s, theta) - nu @ g - jnp.sum(rho * g**2) / 2

        return Problem(reward, lambda s, a, k, extended: self.problem.dynamics(s, a, k, extended[0]), terminal)

    def levels(self, states, actions, theta) -> tuple[Array, Array]:
        """g [p] and c [n, q] along a path."""
        on_the_way = jax.vmap(lambda s, a, k: self.c(s, a, k, theta))
        c = on_the_way(at(states, slice(None, -1)), actions, counter(horizon(actions)))
        return self.g(at(states, -1), theta), c

    def reach(self, states, actions, guess) -> Array:
        """How much states and actions change, [d + m]: what they move by, and so much of their size that tol of it is rounding."""
        X, U, first = (jax.vmap(lambda x: trees.ravel(x)[0])(path) for path in (states, actions, guess))
        moves, size = travel(X, U, first)
        return jnp.roll(moves + ROUNDING * float(jnp.finfo(X.dtype).eps) / self.tol * size, -U.shape[1])

    def sizes(self, states, actions, theta, reach: Array) -> tuple[Array, Array]:
        """How much each entry of g and c changes if states and actions change by `reach`: [p] and [q]."""
        before, now = at(states, slice(None, -1)), at(states, -1)
        by_state = _jacobian(lambda s: self.g(s, theta), now)
        by_both = lambda s, a, k: _jacobian(lambda y: self.c(*y, k, theta), (s, a)) @ reach
        along = jax.vmap(by_both)(before, actions, counter(horizon(actions)))
        return by_state @ reach[: by_state.shape[1]], jnp.max(along, 0)

    def weights(self, s0, actions, theta) -> tuple[Array, Array]:
        """Penalties [p] and [q] as stiff as the reward is curved, each along the gradient of its own constraint.

        With v the gradient of an entry by all actions, summed over the steps of a path constraint, rho |Dc v|^2 = |v|^2 times the
        largest curvature |v'Hv| / |v|^2 of the reward along any of them: no unit of reward, constraint or action is left.
        """
        u, fold = trees.ravel(actions)
        J = lambda u: total_reward(self.problem, s0, fold(u), theta)
        values = lambda u: self.levels(rollout(self.problem, s0, fold(u), theta), fold(u), theta)
        V = jnp.concatenate(jax.jacrev(lambda u: (values(u)[0], jnp.sum(values(u)[1], 0)))(u))
        g, c = jax.vmap(lambda v: jax.jvp(values, (u,), (v,))[1])(V)
        p, square = g.shape[1], jnp.sum(V**2, 1)
        steep = jnp.concatenate([jnp.diagonal(g) ** 2, jnp.sum(jnp.diagonal(c[p:], axis1=0, axis2=2) ** 2, 0)])
        curved = jnp.abs(jax.vmap(lambda v: v @ jax.jvp(jax.grad(J), (u,), (v,))[1])(V))
        curvature = jnp.max(jnp.where(square > 0, curved / jnp.where(square > 0, square, 1), 0), initial=0)
        # a reward that is straight has no stiffness of its own; its slope for a step of one action is what there is
        straight = jnp.maximum(trees.max_abs(jax.grad(J)(u)), 0)
        curvature = jnp.where(curvature > 0, curvature, jnp.where(straight > 0, straight, 1))
        rho = curvature * square / jnp.where(steep > 0, steep, 1)
        rho = jnp.where((rho > 0) & jnp.isfinite(rho), rho, 1)
        return rho[:p], rho[p:]


def _jacobian(f: Callable, x: PyTree) -> Array:
    """|df/dx| of a vector function, as a matrix."""
    flat, fold = trees.ravel(x)
    return jnp.abs(jax.jacfwd(lambda y: f(fold(y)))(flat))


def _share(x: Array, size: Array) -> Array:
    return jnp.abs(x) / jnp.maximum(size, jnp.finfo(x.dtype).tiny)


@functools.partial(jax.jit, static_argnums=0)
def _multipliers(limits: _Limits, s0, actions0, theta, lower, upper) -> Constrained:
    problem = limits.penalised()
    still = lax.stop_gradient
    number = functools.partial(jnp.asarray, dtype=jax.tree.leaves(s0)[0].dtype)

    def weighed(actions):
        """Measured anew where a round begins: constraints may be far steeper at the guess than at the answer."""
        return still(limits.weights(s0, actions, theta))

    def wrongness(inner, g, c, mu, reach):
        """The largest violation and complementarity, as shares of the sizes of the constraints."""
        of_g, of_c = still(limits.sizes(inner.states, inner.actions, theta, reach))
        slack = jnp.minimum(_share(mu, jnp.max(mu, 0)[None]), _share(c, of_c[None]))
        return trees.max_abs((_share(g, of_g), _share(jnp.maximum(c, 0), of_c[None]), slack))

    def once(actions, nu, mu, rho, weights, before):
        """Solve for these multipliers, then update them. `before` is the reach of the round before, whose rounding is left."""
        options: Any = {"lower": lower, "upper": upper, "max_steps": limits.max_steps}
        of_g, of_c = (rho * weight for weight in weights)
        inner = solve(problem, s0, actions, (theta, nu, mu, of_g, of_c), **options)
        g, c = limits.levels(inner.states, inner.actions, theta)
        nu, mu = nu + of_g * g, jnp.maximum(mu + of_c[None] * c, 0)
        reach = still(limits.reach(inner.states, inner.actions, actions0))
        at_least = jnp.maximum(reach, ROUNDING * float(jnp.finfo(reach.dtype).eps) / limits.tol * before)
        return inner, nu, mu, number(wrongness(inner, g, c, mu, at_least)), reach

    def improved(r: _Round) -> _Round:
        weights = weighed(r.inner.actions)
        inner, nu, mu, wrong, reach = once(r.inner.actions, r.nu, r.mu, r.rho, weights, r.reach)
        slow = wrong > r.wrong / 4
        rho = jnp.where(slow, jnp.minimum(r.rho * GROWTH, LAST_PENALTY), r.rho)
        stuck = jnp.where((wrong > FALLING * r.wrong) & (r.rho >= LAST_PENALTY), r.stuck + 1, 0)
        return _Round(inner, nu, mu, rho, weights, wrong, reach, r.count + 1, stuck)

    def unfinished(r: _Round):
        usable = trees.all_finite(r.inner.actions)
        return (r.wrong > limits.tol) & (r.count < ROUNDS) & (r.stuck < STUCK) & usable

    # the solve is written once in the loop and once in the scan: every copy of it is compiled
    g0, c0 = still(limits.levels(rollout(limits.problem, s0, actions0, theta), actions0, theta))
    rho, weights = number(FIRST_PENALTY), jax.tree.map(jnp.zeros_like, (g0, c0[0]))
    shapes = jax.eval_shape(once, actions0, g0, c0, rho, weights, number(0.0))
    inner, nu, mu, _, reach = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    inner = inner._replace(actions=actions0)
    start = _Round(inner, nu, mu, rho, weights, number(jnp.inf), reach, jnp.int32(0), jnp.int32(0))
    end = still(lax.while_loop(unfinished, lambda r: still(improved(r)), still(start)))

    def polish(carry, _):
        inner, nu, mu, _ = carry
        return once(still(inner.actions), nu, mu, end.rho, end.weights, end.reach)[:4], None

    (inner, nu, mu, wrong), _ = lax.scan(polish, (end.inner, end.nu, end.mu, end.wrong), length=POLISH)
    g, c = limits.levels(inner.states, inner.actions, theta)
    violation = number(trees.max_abs((g, jnp.maximum(c, 0))))
    complementarity = number(trees.max_abs(mu * c))
    # a stiff penalty may keep the solve of a round from its own tolerance; what counts is how stationary the last path is
    flat = inner.residual <= float(jnp.finfo(g0.dtype).eps) ** 0.5 * trees.max_abs(inner.costates)
    forgiven = flat | (inner.status == Status.acceptable)
    status = first_failure(
        jnp.where(forgiven, 0, inner.status),
        status_where(~(wrong <= limits.tol) & (end.stuck >= STUCK), Status.infeasible),
        status_where(~(wrong <= limits.tol), Status.max_steps),
    )
    residual = jnp.maximum(jnp.maximum(inner.residual, violation), complementarity)
    value = total_reward(limits.problem, s0, inner.actions, theta)
    paths = inner.states, inner.actions, inner.costates
    return Constrained(value, residual, status, end.count, *paths, nu, mu, violation, complementarity)
