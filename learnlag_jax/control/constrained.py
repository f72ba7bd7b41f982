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
from learnlag_jax.control.path import total_reward
from learnlag_jax.control.problem import Problem, at, counter, horizon, meant
from learnlag_jax.control.trajectory import Trajectory, solve
from learnlag_jax.meaning import by_meaning
from learnlag_jax.vocabulary import Array, PyTree, Status, first_failure, status_where

FIRST_PENALTY, LAST_PENALTY, GROWTH = 10.0, 1e6, 10.0
ROUNDS, POLISH = 40, 6


class Constrained(NamedTuple):
    """An optimal path under constraints, with the whole certificate.

    Attributes:
        value: the total reward, without penalties.
        residual: the largest of stationarity (with multipliers), violation and complementarity.
        status: `Status`; infeasible where the violation did not fall at the largest penalty.
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
    rho: Array
    wrong: Array
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
        tol: largest violation and complementarity; by default eps^(1/2).
        max_steps: Newton iterations a round.

    Returns:
        A `Constrained`, differentiable with respect to s0 and theta in both modes: a few rounds more are taken through the
        implicit derivative of `solve`, each shrinking the error of the multipliers' derivative by the penalty.

    Raises:
        InputError: as `solve`; no constraint given.
        Statuses: those of `solve`; infeasible; max_steps.

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
    within: float = tol or float(jnp.finfo(dtype).eps) ** 0.5
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
        """The problem whose theta is (theta, nu, mu, rho)."""

        def reward(s, a, k, extended):
            theta, _, mu, rho = extended
            pressed = jnp.maximum(mu[k] + rho * self.c(s, a, k, theta), 0)
            return self.problem.reward(s, a, k, theta) - jnp.sum(pressed**2 - mu[k] ** 2) / (2 * rho)

        def terminal(s, extended):
            theta, nu, _, rho = extended
            g = self.g(s, theta)
            return self.problem.terminal(s, theta) - nu @ g - rho * jnp.sum(g**2) / 2

        return Problem(reward, lambda s, a, k, extended: self.problem.dynamics(s, a, k, extended[0]), terminal)


@functools.partial(jax.jit, static_argnums=0)
def _multipliers(limits: _Limits, s0, actions0, theta, lower, upper) -> Constrained:
    n, problem = horizon(actions0), limits.penalised()
    g0 = limits.g(s0, theta)
    c0 = limits.c(s0, at(actions0, 0), jnp.int32(0), theta)
    number = functools.partial(jnp.asarray, dtype=g0.dtype)

    def levels(inner):
        on_the_way = jax.vmap(lambda s, a, k: limits.c(s, a, k, theta))
        c = on_the_way(at(inner.states, slice(None, -1)), inner.actions, counter(n))
        return limits.g(at(inner.states, -1), theta), c

    def once(actions, nu, mu, rho):
        """Solve for these multipliers, then update them."""
        options: Any = {"lower": lower, "upper": upper, "max_steps": limits.max_steps}
        inner = solve(problem, s0, actions, (theta, nu, mu, rho), **options)
        g, c = levels(inner)
        nu, mu = nu + rho * g, jnp.maximum(mu + rho * c, 0)
        wrong = jnp.maximum(trees.max_abs((g, jnp.maximum(c, 0))), trees.max_abs(jnp.minimum(mu, jnp.abs(c))))
        return inner, nu, mu, number(wrong)

    def improved(r: _Round) -> _Round:
        inner, nu, mu, wrong = once(r.inner.actions, r.nu, r.mu, r.rho)
        slow = wrong > r.wrong / 4
        rho = jnp.where(slow, jnp.minimum(r.rho * GROWTH, LAST_PENALTY), r.rho)
        stuck = jnp.where(slow & (r.rho >= LAST_PENALTY), r.stuck + 1, 0)
        return _Round(inner, nu, mu, rho, wrong, r.count + 1, stuck)

    def unfinished(r: _Round):
        usable = trees.all_finite(r.inner.actions)
        return (r.wrong > limits.tol) & (r.count < ROUNDS) & (r.stuck < 4) & usable

    zero_nu, zero_mu = jnp.zeros_like(g0), jnp.zeros((n, *c0.shape), c0.dtype)
    first, nu, mu, wrong = lax.stop_gradient(once(actions0, zero_nu, zero_mu, number(FIRST_PENALTY)))
    start = _Round(first, nu, mu, number(FIRST_PENALTY), wrong, jnp.int32(1), jnp.int32(0))
    still = lax.stop_gradient
    end = still(lax.while_loop(unfinished, lambda r: still(improved(r)), start))

    def polish(carry, _):
        actions, nu, mu = carry
        inner, nu, mu, _ = once(still(actions), nu, mu, end.rho)
        return (inner.actions, nu, mu), None

    (actions, nu, mu), _ = lax.scan(polish, (end.inner.actions, end.nu, end.mu), length=POLISH)
    inner, nu, mu, wrong = once(still(actions), nu, mu, end.rho)
    g, c = levels(inner)
    violation = number(trees.max_abs((g, jnp.maximum(c, 0))))
    complementarity = number(trees.max_abs(mu * c))
    bad = (violation > limits.tol) | (wrong > limits.tol)
    status = first_failure(
        jnp.where(inner.status == Status.acceptable, 0, inner.status),
        status_where(bad & (end.stuck >= 4), Status.infeasible),
        status_where(bad, Status.max_steps),
    )
    residual = jnp.maximum(jnp.maximum(inner.residual, violation), complementarity)
    value = total_reward(limits.problem, s0, inner.actions, theta)
    paths = inner.states, inner.actions, inner.costates
    return Constrained(value, residual, status, end.count, *paths, nu, mu, violation, complementarity)
