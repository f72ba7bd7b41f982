"""The path view of values: a state's value is the average, over the paths that meet there, of what each still earns.

    Monte Carlo    G_t = r_t + discount G_{t+1}                                   its own future
    TD             G_t = r_t + discount V(s_{t+1})                                every path's future, through s_{t+1}
    n-step, TD(l)  G_t = r_t + discount ((1 - l) V(s_{t+1}) + l G_{t+1})          between the two

Where paths meet, TD lets each continue along all the others, so it averages over many more paths than were walked.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from learnlag_jax import checks
from learnlag_jax.extrema import largest_size
from learnlag_jax.vocabulary import Array, Status, status_where


class Averages(NamedTuple):
    """Values of states as averages over recorded paths.

    Attributes:
        value: [S]; 0 where no path passes.
        residual: largest |value - average of its targets| over visited states: zero at the fixed point.
        status: `Status`; max_steps if the residual is above the tolerance.
        steps: sweeps over the record.
        visits: [S], how many path steps were averaged.

    Example:
        >>> from learnlag_jax.control import Averages
        >>> Averages._fields[:4]
        ('value', 'residual', 'status', 'steps')
    """

    value: Array
    residual: Array
    status: Array
    steps: Array
    visits: Array


def path_values(
    states: Array,
    rewards: Array,
    discount,
    *,
    count: int,
    blend: float = 1.0,
    tol: float = 1e-6,
    max_steps: int = 10_000,
) -> Averages:
    """Values of states from recorded paths: Monte Carlo, temporal difference, or anything between.

        V(s) = average over visits of G_t,   G_t = r_t + discount ((1 - blend) V(s_{t+1}) + blend G_{t+1})

    Args:
        states: [N, T] int, the states s_0 .. s_{T-1} of N paths; -1 after a path has ended.
        rewards: [N, T], r_t earned on leaving states[:, t]; ignored where the state is -1.
        discount: in [0, 1].
        count: number of states S.
        blend: 1 is Monte Carlo, 0 one-step TD (the certainty-equivalent values of the recorded transitions), between
            is TD(lambda).
        tol: largest change at the fixed point; max_steps: limit on sweeps.

    Returns:
        An `Averages`.

    Raises:
        InputError: shapes, states outside -1 .. S - 1 or after a -1, a reward that is not finite where there is a state, a
            discount or blend outside [0, 1].
        Status max_steps.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import path_values
        >>> states = jnp.array([[0, 2, 3], [1, 2, -1]])  # both pass 2; only the first goes on to 3, which pays 4
        >>> rewards = jnp.array([[0.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
        >>> path_values(states, rewards, 1.0, count=4).value.tolist()
        [4.0, 0.0, 2.0, 4.0]
        >>> path_values(states, rewards, 1.0, count=4, blend=0.0).value.tolist()
        [2.0, 2.0, 2.0, 4.0]

    Reference: MATH.md section 5; Greydanus and Olah, The Paths Perspective on Value Learning (2019); Sutton (1988).
    """
    checks.shape(states, ("N", "T"), "states")
    checks.shape(rewards, jnp.shape(states), "rewards")
    checks.floating(rewards, "rewards")
    integral = jnp.issubdtype(jnp.result_type(states), jnp.integer)
    checks.require(integral, "states", checks.describe(states), "integers", "pass state indices", checks.DTypeError)
    checks.require(0 <= blend <= 1, "blend", blend, "0 <= blend <= 1", "1 is Monte Carlo, 0 is TD")
    if not checks.is_traced(states):
        low, high = int(jnp.min(states)), int(jnp.max(states))
        checks.require(low >= -1 and high < count, "states", f"{low} .. {high}", f"-1 .. {count - 1}", "raise count")
        back = np.argwhere(np.diff(np.asarray(states) >= 0, axis=1) & (np.asarray(states)[:, 1:] >= 0))
        got = "" if not len(back) else f"path {back[0][0]} that goes on at step {back[0][1] + 1} after -1"
        checks.require(not len(back), "states", got, "-1 only after the end", "record it as two paths")
    if not checks.is_traced(discount):
        checks.require(0 <= discount <= 1, "discount", discount, "0 <= discount <= 1", "rescale time or rewards")
    rewards = jnp.where(jnp.asarray(states) >= 0, rewards, 0)
    checks.finite(rewards, "rewards")
    dtype = jnp.result_type(rewards)
    as_number = lambda x: jnp.asarray(x, dtype)
    return _path_values(count, states, rewards, as_number(discount), as_number(blend), as_number(tol), max_steps)


@functools.partial(jax.jit, static_argnums=0)
def _path_values(count: int, states: Array, rewards: Array, discount, blend, tol, max_steps) -> Averages:
    dtype, on = rewards.dtype, states >= 0
    place = jnp.where(on, states, 0)
    visits = jnp.zeros(count, dtype).at[place].add(on.astype(dtype))

    def targets(v):
        after = jnp.concatenate([jnp.where(on, v[place], 0)[:, 1:], jnp.zeros_like(rewards[:, :1])], 1)

        def back(G, now):
            r, v_next, here, next_on = now
            G = r + discount * jnp.where(next_on, (1 - blend) * v_next + blend * G, 0)
            G = jnp.where(here, G, 0)
            return G, G

        next_on = jnp.concatenate([on[:, 1:], jnp.zeros_like(on[:, :1])], 1)
        columns = tuple(x.T for x in (rewards, after, on, next_on))
        return lax.scan(back, jnp.zeros_like(rewards[:, 0]), columns, reverse=True)[1].T

    def averaged(v):
        total = jnp.zeros_like(v).at[place].add(jnp.where(on, targets(v), 0))
        return total / jnp.maximum(visits, 1)

    def unfinished(carry):
        return (carry[1] > tol) & (carry[2] < max_steps)

    def sweep(carry):
        v = averaged(carry[0])
        return v, largest_size(v - carry[0]), carry[2] + 1

    start = (jnp.zeros(count, dtype), jnp.asarray(jnp.inf, dtype), jnp.int32(0))
    v, _, steps = lax.while_loop(unfinished, sweep, start)
    residual = largest_size(averaged(v) - v)
    return Averages(v, residual, status_where(~(residual <= tol), Status.max_steps), steps, visits)
