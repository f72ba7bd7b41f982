"""Learning the same fixed point from sampled transitions: tabular Q-learning.

    Q(s, a) <- Q(s, a) + alpha_n (r + discount max_b Q(s', b) - Q(s, a))

Only samples of s' are used. Where the missing mass of a row strikes, the episode ends: no bootstrap, and a fresh start.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax import checks, trees
from learnlag_jax.control.bellman import Bounds, bounds
from learnlag_jax.control.mdp import MDP
from learnlag_jax.control.operators import action_values, outcomes_of
from learnlag_jax.extrema import largest
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where


class Learned(NamedTuple):
    """Action values learned from samples, judged by the model they were sampled from.

    Attributes:
        value: [S, A] Q; -inf where an action is not available.
        residual: largest |Q - (r + discount E max Q)|: zero at the fixed point of eq. 19.
        status: `Status`; converged if V* is known within `tol`, else max_steps.
        steps: samples drawn.
        policy: [S] int32, greedy in Q.
        lower, upper: [S] certified bounds on V*, from max_a Q.
        visits: [S, A] int32, how often each pair was updated.

    Example:
        >>> from learnlag_jax.control import Learned
        >>> Learned._fields[:4]
        ('value', 'residual', 'status', 'steps')
    """

    value: Array
    residual: Array
    status: Array
    steps: Array
    policy: Array
    lower: Array
    upper: Array
    visits: Array


def q_learning(
    key: Array,
    mdp: MDP,
    *,
    steps: int,
    rate: float = 0.1,
    explore: float = 0.5,
    restart: float = 0.05,
    tol: float = 1e-3,
    Q0: Array | None = None,
) -> Learned:
    """Tabular Q-learning along sampled paths (Watkins), compiled as one loop.

        Q(s, a) <- Q(s, a) + alpha (r + discount max_b Q(s', b) - Q(s, a)),   alpha = 1 / (1 + rate n(s, a))

    Args:
        key: typed PRNG key; one stream (vmap over keys for more).
        mdp: the process that is sampled; learning sees only rewards and sampled successors.
        steps: number of transitions.
        rate: 0 keeps alpha = 1, exact for deterministic transitions; 1 - discount or more for random ones.
        explore: chance of a uniformly random available action; else the greedy one.
        restart: chance to continue from a uniformly random state; also done when an episode ends.
        tol: bounds closer than this count as converged.
        Q0: [S, A] first guess; zero if left out.

    Returns:
        A `Learned`.

    Raises:
        InputError: steps < 1, a negative rate, or chances outside [0, 1].
        Statuses: max_steps (the bounds from the learned values are wider than tol), nonfinite_input.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from learnlag_jax.control import mdp_dense, q_learning
        >>> one = mdp_dense(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), 0.5)
        >>> round(float(q_learning(jax.random.key(0), one, steps=60, rate=0.0).value[0, 0]), 6)
        2.0

    Reference: MATH.md section 5, eq. 19-20; Watkins and Dayan, Q-learning (1992).
    """
    checks.whole(steps, "steps", 1, "draw a transition")
    if not checks.is_traced(rate):
        checks.require(rate >= 0, "rate", rate, "a number >= 0", "0 keeps alpha = 1")
    for name, chance in (("explore", explore), ("restart", restart)):
        if not checks.is_traced(chance):
            checks.require(0 <= chance <= 1, name, chance, "a probability", "choose it in [0, 1]")
    dtype, shape = mdp.reward.dtype, mdp.reward.shape
    Q0 = jnp.zeros(shape, dtype) if Q0 is None else jnp.asarray(Q0, dtype)
    checks.shape(Q0, shape, "Q0")
    numbers = (jnp.asarray(x, dtype) for x in (rate, explore, restart, tol))
    return _learn(key, mdp, Q0, *numbers, steps=steps)


@functools.partial(jax.jit, static_argnames="steps")
def _learn(key, mdp: MDP, Q0, rate, explore, restart, tol, *, steps: int) -> Learned:
    dtype, (S, A) = mdp.reward.dtype, mdp.reward.shape
    can = mdp.reward > -jnp.inf
    options = jnp.sum(can, 1)
    ordered = jnp.argsort(~can, axis=1, stable=True)

    def step(carry, _):
        Q, visits, s, key = carry
        key, now = jax.random.split(key)
        draw = jax.random.uniform(now, (5,), dtype)
        any_action = ordered[s, (draw[0] * options[s].astype(dtype)).astype(jnp.int32)]
        a = jnp.where(draw[1] < explore, any_action, jnp.argmax(Q[s])).astype(jnp.int32)
        s_next, ended = _sample(mdp, s, a, draw[2])
        future = jnp.where(ended, jnp.zeros((), dtype), mdp.discount * jnp.max(Q[s_next]))
        alpha = 1 / (1 + rate * visits[s, a].astype(dtype))
        Q = Q.at[s, a].add(alpha * (mdp.reward[s, a] + future - Q[s, a]))
        fresh = jnp.minimum((draw[3] * S).astype(jnp.int32), S - 1)
        return (Q, visits.at[s, a].add(1), jnp.where(ended | (draw[4] < restart), fresh, s_next), key), None

    first = (jnp.where(can, Q0, -jnp.inf), jnp.zeros((S, A), jnp.int32), jnp.int32(0), key)
    (Q, visits, _, _), _ = lax.scan(step, first, length=steps)
    v = largest(Q, 1)
    enclosure: Bounds = bounds(mdp, v)
    residual = trees.max_abs(jnp.where(can, action_values(mdp, v) - Q, jnp.zeros((), dtype)))
    gap = jnp.max(enclosure.upper - enclosure.lower)
    status = first_failure(
        status_where(~trees.all_finite(v), Status.nonfinite_input), status_where(~(gap <= tol), Status.max_steps)
    )
    return Learned(Q, residual, status, jnp.int32(steps), jnp.argmax(Q, 1).astype(jnp.int32), *enclosure, visits)


def _sample(mdp: MDP, s, a, draw):
    """The next state, and whether the episode ended, from one uniform draw."""
    successor, row = outcomes_of(mdp.transition, s, a)
    total = jnp.cumsum(jnp.asarray(row, draw.dtype))
    last = len(row) - 1 - jnp.argmax(jnp.asarray(row)[::-1] > 0)  # what rounding leaves beyond it leads nowhere else
    j = jnp.minimum(jnp.sum(total <= draw), last)
    # rows that sum to one up to rounding never end
    ended = (draw >= total[-1]) & (total[-1] < 1 - 1e-6)
    return successor[j].astype(jnp.int32), ended
