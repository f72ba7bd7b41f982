"""Average reward: the best gain per step of an endless process, by relative value iteration with bounds on the gain.

    g + h(s) = max_a r(s, a) + sum_s' P(s' | s, a) h(s')

For any h with d = T h - h, min d <= g <= max d where one gain is optimal from every state (unichain), and always max d is an
upper bound and min d a lower bound on the gain of the greedy policy from its worst state. The discount is ignored.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax import checks, trees
from learnlag_jax.control.mdp import MDP
from learnlag_jax.control.operators import action_values, terms
from learnlag_jax.extrema import largest, largest_size, smallest
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where

LAZINESS = 0.5


class Gain(NamedTuple):
    """The best average reward per step, with bounds.

    Attributes:
        value: the gain, midpoint of its bounds (reward per step).
        residual: largest |value + bias - T bias| (scalar).
        status: `Status`; max_steps also where different states have different best gains (multichain).
        steps: sweeps.
        policy: [S] int32, greedy in the bias; its gain is at least `lower` from every state.
        bias: [S], relative values h, zero at state 0.
        lower, upper: bounds on the gain.

    Example:
        >>> from learnlag_jax.control import Gain
        >>> Gain._fields[:4]
        ('value', 'residual', 'status', 'steps')
    """

    value: Array
    residual: Array
    status: Array
    steps: Array
    policy: Array
    bias: Array
    lower: Array
    upper: Array


def average_reward(mdp: MDP, *, tol: float = 1e-6, max_steps: int = 100_000) -> Gain:
    """The best long-run reward per step and the policy that earns it.

        g + h(s) = max_a r(s, a) + sum_s' P(s' | s, a) h(s'),   h(0) = 0

    Args:
        mdp: a process whose rows sum to one; its discount is ignored.
        tol: stop when upper - lower is at most this (reward per step).
        max_steps: limit on sweeps.

    Returns:
        A `Gain`. Half a chance to stay put is mixed into every step, which changes neither gain nor policy and makes
        periodic processes converge.

    Raises:
        InputError: tol <= 0, or rows that sum to less than one (an endless average needs an endless process).
        Statuses: acceptable (as tight as rounding allows), max_steps, nonfinite_input.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import average_reward, mdp_dense
        >>> flip = jnp.array([[[0.0, 1.0]], [[1.0, 0.0]]])
        >>> round(float(average_reward(mdp_dense(flip, jnp.array([[2.0], [0.0]]), 0.9)).value), 6)
        1.0

    Reference: MATH.md section 5; Puterman, Markov Decision Processes, 8.5.
    """
    if not checks.is_traced(tol):
        checks.require(tol > 0, "tol", tol, "a positive gap", "raise it")
    if not checks.is_traced(mdp.mass):
        least = float(mdp.mass[0])
        checks.require(
            least > 1 - 1e-6, "mdp", f"a row that sums to {least:.6g}", "rows that sum to 1", "use solve_mdp"
        )
    return _relative_values(mdp, jnp.asarray(tol, mdp.reward.dtype), max_steps)


@functools.partial(jax.jit, static_argnames="max_steps")
def _relative_values(mdp: MDP, tol: Array, max_steps: int) -> Gain:
    dtype = mdp.reward.dtype
    undiscounted = MDP(mdp.reward, mdp.transition, jnp.ones((), dtype), mdp.mass)
    size = jnp.max(jnp.where(jnp.isfinite(mdp.reward), jnp.abs(mdp.reward), 0))
    eps = jnp.asarray((terms(mdp) + 2) * jnp.finfo(dtype).eps, dtype)

    def judged(h, steps):
        Q = action_values(undiscounted, h)
        d = largest(Q, 1) - h
        slack = eps * (size + jnp.max(jnp.abs(h)))
        return h, d, jnp.argmax(Q, 1).astype(jnp.int32), smallest(d) - slack, largest(d) + slack, 8 * slack, steps

    def unfinished(c):
        return (c[4] - c[3] > jnp.maximum(tol, c[5])) & (c[6] < max_steps)

    def improved(c):
        h = c[0] + LAZINESS * c[1]
        return judged(h - h[0], c[6] + 1)

    start = judged(jnp.zeros(mdp.reward.shape[0], dtype), jnp.int32(1))
    h, d, policy, lower, upper, floor, steps = lax.while_loop(unfinished, improved, start)
    gap, value = upper - lower, lower + (upper - lower) / 2
    status = first_failure(
        status_where(~trees.all_finite((h, d)), Status.nonfinite_input),
        status_where((gap > tol) & (gap <= floor), Status.acceptable),
        status_where(~(gap <= tol), Status.max_steps),
    )
    return Gain(value, largest_size(d - value), status, steps, policy, h, lower, upper)
