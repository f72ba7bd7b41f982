"""Finite horizons: the Bellman equation solved exactly, backward from the end."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax import checks, trees
from learnlag_jax.control.mdp import MDP, ill_posed
from learnlag_jax.control.operators import action_values, under
from learnlag_jax.extrema import largest
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where


class Plan(NamedTuple):
    """Values and best actions for every number of steps left.

    Attributes:
        value: [n + 1, S], value[k] with n - k steps left; value[n] is the terminal reward.
        residual: largest |value[k] - T_pi value[k + 1]|, the policy evaluated on its own.
        status: `Status`; nonfinite_input if a value is NaN or infinite; inconsistent if, under `jit`, rows turn out not to be
            probabilities.
        steps: n.
        policy: [n, S] int32.

    Example:
        >>> from learnlag_jax.control import Plan
        >>> Plan._fields[:4]
        ('value', 'residual', 'status', 'steps')
    """

    value: Array
    residual: Array
    status: Array
    steps: Array
    policy: Array


def backward_induction(mdp: MDP, horizon: int, terminal: Array | None = None) -> Plan:
    """Optimal values and policy over a finite number of steps.

        V_n = terminal,   V_k = T V_{k+1}     (eq. 18, 19)

    Args:
        mdp: the process, as its builder took it: with a discount of 1 only where every row ends with positive chance.
        horizon: n >= 1 steps.
        terminal: [S] reward at the end; zero if left out.

    Returns:
        A `Plan`.

    Raises:
        InputError: a horizon that is not a whole number >= 1, or a terminal reward of the wrong shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import backward_induction, mdp_dense
        >>> one = mdp_dense(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), 0.5)
        >>> backward_induction(one, 3).value[:, 0].tolist()
        [1.75, 1.5, 1.0, 0.0]

    Reference: MATH.md section 5, eq. 18-20.
    """
    checks.whole(horizon, "horizon", 1, "pass a number of steps")
    states = mdp.reward.shape[:1]
    last = jnp.zeros(states, mdp.reward.dtype) if terminal is None else jnp.asarray(terminal, mdp.reward.dtype)
    checks.shape(last, states, "terminal")

    def step(v, _):
        Q = action_values(mdp, v)
        now = largest(Q, 1), jnp.argmax(Q, 1).astype(jnp.int32)
        return now[0], now

    _, (values, policy) = lax.scan(step, last, length=horizon, reverse=True)
    values = jnp.concatenate([values, last[None]])

    def followed(pi, v_next):
        reward, carry_over = under(mdp, pi)
        return reward + carry_over(v_next)

    residual = trees.max_abs(jax.vmap(followed)(policy, values[1:]) - values[:-1])
    status = first_failure(
        status_where(ill_posed(mdp), Status.inconsistent),
        status_where(~trees.all_finite(values), Status.nonfinite_input),
    )
    return Plan(values, residual, status, jnp.int32(horizon), policy)
