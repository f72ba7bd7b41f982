"""Solving Markov decision processes: value iteration and modified policy iteration, stopped by certified bounds.

Every method repeats: from v, one sweep gives T v, the greedy policy pi and the bounds of `bellman.bounds`; if they are
tight enough, stop; else improve v. Value iteration takes T v; modified policy iteration goes on with sweeps of T_pi, which
cost 1/A of a sweep of T, while they still shrink the spread of the increments. The answer is the midpoint of the bounds:
this midrange correction costs nothing and can save most of the sweeps.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax import checks, trees
from learnlag_jax.control.bellman import bellman, enclosed, rounding
from learnlag_jax.control.mdp import MDP, action_values, under
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where

METHODS = ("auto", "value_iteration", "modified_policy_iteration")
SWEEPS = 20


class Values(NamedTuple):
    """Optimal values with bounds that contain them.

    Attributes:
        value: [S], the midpoint of the bounds.
        residual: largest |T value - value|, the Bellman residual (scalar).
        status: `Status`; converged if the largest upper - lower is at most the tolerance.
        steps: sweeps of T taken.
        policy: [S] int32, greedy; its own value is also at least `lower`, so it loses at most upper - lower.
        lower, upper: [S], bounds that contain V* whatever the status (except nonfinite_input: NaN).
        sweeps: sweeps of T_pi taken, each 1/A of the work of one of T.

    Example:
        >>> from learnlag_jax.control import Values
        >>> Values._fields[:4]
        ('value', 'residual', 'status', 'steps')
    """

    value: Array
    residual: Array
    status: Array
    steps: Array
    policy: Array
    lower: Array
    upper: Array
    sweeps: Array


class _Iterate(NamedTuple):
    v: Array
    Tv: Array
    policy: Array
    gap: Array
    floor: Array
    steps: Array
    sweeps: Array


def solve_mdp(
    mdp: MDP, *, method: str = "auto", tol: float = 1e-6, max_steps: int = 100_000, v0: Array | None = None
) -> Values:
    """Optimal values and policy of a Markov decision process, with certified bounds.

        V(s) = max_a r(s, a) + discount sum_s' P(s' | s, a) V(s'),   lower <= V <= upper     (eq. 19, 20)

    Args:
        mdp: the process.
        method: "value_iteration", "modified_policy_iteration", or "auto" (the latter).
        tol: stop when the largest upper - lower is at most this, in units of the reward.
        max_steps: limit on sweeps of the Bellman operator.
        v0: [S] first guess; zero if left out.

    Returns:
        A `Values`. The bounds contain V* at any limit on the sweeps.

    Raises:
        InputError: unknown method, tol <= 0, or a v0 of the wrong shape.
        Statuses: acceptable (bounds as tight as rounding allows, wider than tol), max_steps, nonfinite_input.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import mdp_dense, solve_mdp
        >>> P = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
        >>> answer = solve_mdp(mdp_dense(P, jnp.array([[0.0, 0.0], [1.0, 0.0]]), 0.5), tol=1e-9)
        >>> [round(float(v), 6) for v in answer.value], answer.policy.tolist()
        ([1.0, 2.0], [1, 0])

    Reference: MATH.md section 5; Puterman, Markov Decision Processes, 6.5-6.6.
    """
    checks.require(method in METHODS, "method", repr(method), f"one of {METHODS}", "choose one of them")
    checks.require(max_steps >= 1, "max_steps", max_steps, "at least 1", "allow one sweep")
    if not checks.is_traced(tol):
        checks.require(tol > 0, "tol", tol, "a positive gap", "raise it")
    v0 = jnp.zeros(mdp.reward.shape[0], mdp.reward.dtype) if v0 is None else jnp.asarray(v0, mdp.reward.dtype)
    checks.shape(v0, mdp.reward.shape[:1], "v0")
    return _solve(mdp, v0, jnp.asarray(tol, mdp.reward.dtype), method, max_steps)


@functools.partial(jax.jit, static_argnames=("method", "max_steps"))
def _solve(mdp: MDP, v0: Array, tol: Array, method: str, max_steps: int) -> Values:
    improve = _value_iteration if method == "value_iteration" else _modified_policy_iteration

    def unfinished(it: _Iterate):
        return (it.gap > jnp.maximum(tol, it.floor)) & (it.steps < max_steps)

    def improved(it: _Iterate):
        v, sweeps = improve(mdp, it)
        return _judged(mdp, v, it.steps + 1, it.sweeps + sweeps)

    end = lax.while_loop(unfinished, improved, _judged(mdp, v0, jnp.int32(1), jnp.int32(0)))
    lower, upper = enclosed(mdp, end.v, end.Tv)
    value = lower + (upper - lower) / 2
    status = first_failure(
        status_where(~trees.all_finite((end.v, end.Tv)), Status.nonfinite_input),
        status_where((end.gap > tol) & (end.gap <= end.floor), Status.acceptable),
        status_where(~(end.gap <= tol), Status.max_steps),
    )
    residual = trees.max_abs(bellman(mdp)(value) - value)
    return Values(value, residual, status, end.steps, end.policy, lower, upper, end.sweeps)


def _judged(mdp: MDP, v: Array, steps, sweeps) -> _Iterate:
    """T v, the greedy policy, and how far apart the bounds are; below `floor` only rounding is left."""
    Q = action_values(mdp, v)
    Tv = jnp.max(Q, 1)
    lower, upper = enclosed(mdp, v, Tv)
    floor = 4 * rounding(mdp, v) / (1 - mdp.discount * mdp.mass[1])
    return _Iterate(v, Tv, jnp.argmax(Q, 1).astype(jnp.int32), jnp.max(upper - lower), floor, steps, sweeps)


def _value_iteration(mdp: MDP, it: _Iterate):
    del mdp
    return it.Tv, jnp.int32(0)


def _spread(x: Array) -> Array:
    return jnp.max(x) - jnp.min(x)


def _modified_policy_iteration(mdp: MDP, it: _Iterate):
    """Sweeps of T_pi from T v, until their increments are ten times flatter than those of T."""
    reward, carry_over = under(mdp, it.policy)
    goal = _spread(it.Tv - it.v) / 10

    def rough(carry):
        return (carry[1] > goal) & (carry[2] < SWEEPS)

    def sweep(carry):
        u, _, count = carry
        after = reward + carry_over(u)
        return after, _spread(after - u), count + 1

    first = (it.Tv, jnp.asarray(jnp.inf, it.v.dtype), jnp.int32(0))
    u, _, count = lax.while_loop(rough, sweep, first)
    return u, count
