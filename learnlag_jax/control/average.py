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
from learnlag_jax.control.implicit import gain_response, moved, still, usable
from learnlag_jax.control.mdp import MDP, ill_posed
from learnlag_jax.control.operators import action_values, terms
from learnlag_jax.control.rows import ROW_TOLERANCE
from learnlag_jax.extrema import largest, largest_size, smallest
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where

LAZINESS = 0.5
FAR = 64  # values this many times the largest reward have travelled, if they still do


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
        periodic processes converge. `value` and `bias` are differentiable, forward and reverse, by rewards, probabilities
        and theta: dg is the average of dr_pi + dP_pi h over the stationary distribution of the greedy policy pi. `lower`
        and `upper` move with the gain, `residual` is a constant. The derivatives are NaN where the status is a failure, and where
        the greedy policy has several closed classes of equal gain: there is no one stationary distribution then.

    Raises:
        InputError: tol <= 0, or rows that sum to less than one (an endless average needs an endless process).
        Statuses: acceptable (as tight as rounding allows), max_steps, nonfinite_input,
            inconsistent (under `jit` or `vmap`: rows that do not sum to one; NaN values).

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
    if not checks.is_traced(mdp.excess):
        least = float(mdp.mass[0])
        checks.require(
            least > 1 - ROW_TOLERANCE, "mdp", f"a row that sums to {least:.6g}", "rows that sum to 1", "use solve_mdp"
        )
    return _relative_values(mdp, jnp.asarray(tol, mdp.reward.dtype), max_steps)


def _endless(mdp: MDP) -> MDP:
    return MDP(mdp.reward, mdp.transition, jnp.ones((), mdp.reward.dtype), mdp.excess)


@functools.partial(jax.jit, static_argnames="max_steps")
def _relative_values(mdp: MDP, tol: Array, max_steps: int) -> Gain:
    return _solved(max_steps, _endless(mdp), tol)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solved(max_steps: int, undiscounted: MDP, tol: Array) -> Gain:
    dtype, mdp = undiscounted.reward.dtype, undiscounted
    size = jnp.max(jnp.where(jnp.isfinite(mdp.reward), jnp.abs(mdp.reward), 0))
    eps = jnp.asarray((terms(mdp) + 2) * jnp.finfo(dtype).eps, dtype)

    def judged(h, steps):
        Q = action_values(undiscounted, h)
        d = largest(Q, 1) - h
        reach, low, high = jnp.max(jnp.abs(h)), smallest(d), largest(d)
        slack = eps * (size + reach)
        # where gains differ h grows for ever, and its rounding with it: that is no floor
        grown = LAZINESS * steps.astype(dtype) * (high - low) > reach / 2
        floor = jnp.where(grown & (reach > FAR * size), 0, 8 * slack)
        return h, d, jnp.argmax(Q, 1).astype(jnp.int32), low - slack, high + slack, floor, steps

    def unfinished(c):
        return (c[4] - c[3] > jnp.maximum(tol, c[5])) & (c[6] < max_steps)

    def improved(c):
        h = c[0] + LAZINESS * c[1]
        return judged(h - h[0], c[6] + 1)

    start = judged(jnp.zeros(mdp.reward.shape[0], dtype), jnp.int32(1))
    h, d, policy, lower, upper, floor, steps = lax.while_loop(unfinished, improved, start)
    gap, value = upper - lower, lower + (upper - lower) / 2
    wrong = ill_posed(undiscounted) | (undiscounted.excess[0] < -jnp.maximum(ROW_TOLERANCE, 2 * eps))
    value, lower, upper, h = trees.fill_where(wrong, (value, lower, upper, h))
    status = first_failure(
        status_where(wrong, Status.inconsistent),
        status_where(~trees.all_finite((h, d)), Status.nonfinite_input),
        status_where((gap > tol) & (gap <= floor), Status.acceptable),
        status_where(~(gap <= tol), Status.max_steps),
    )
    return Gain(value, largest_size(d - value), status, steps, policy, h, lower, upper)


@_solved.defjvp
def _solved_jvp(max_steps: int, primals, tangents):
    """Gain and bias of the greedy policy move; the bounds move along, the residual is a constant."""
    got = _solved(max_steps, *primals)
    b = moved(primals[0], tangents[0], got.policy, got.bias)
    dg, dh = trees.scale(usable(got.status, b.dtype), gain_response(primals[0], got.policy, b))
    return got, still(got)._replace(value=dg, bias=dh, lower=dg, upper=dg)
