"""The Bellman operator and what it proves: greedy policies, and bounds that hold at any v whatever.

    (T v)(s) = max_a r(s, a) + discount sum_s' P(s' | s, a) v(s')     (eq. 19)

With d = T v - v, applying T again moves the values by at most discount x (row sum) x d, so summing the geometric series
encloses the fixed point (MacQueen, Porteus):

    T v + kappa(min d) <= V* <= T v + kappa(max d),   kappa(x) = x g / (1 - g),  g = discount x row sum,

the row sum being the smallest or the largest, whichever widens the bound. The greedy policy's own value obeys the same lower
bound. Further terms cover the rounding of T v and of kappa, so that bounds stay bounds when they meet: 1 - g is taken from the
row sums minus one, (1 - discount) - discount x (row sum - 1), for an error in g is divided by (1 - g)^2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.control.mdp import MDP
from learnlag_jax.control.operators import action_values, terms
from learnlag_jax.extrema import largest, smallest
from learnlag_jax.vocabulary import Array


class Bounds(NamedTuple):
    """Lower and upper bounds on the optimal values, [S] each.

    Example:
        >>> from learnlag_jax.control import Bounds
        >>> Bounds(lower=0.0, upper=1.0).upper
        1.0
    """

    lower: Array
    upper: Array


def bellman(mdp: MDP) -> Callable:
    """The Bellman operator as a function of values.

        (T v)(s) = max_a r(s, a) + discount sum_s' P(s' | s, a) v(s')     (eq. 19)

    Args:
        mdp: the process.

    Returns:
        `T(v)`, [S] -> [S]: a contraction by discount x largest row sum in the maximum norm; V* is its fixed point.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import bellman, mdp_dense
        >>> T = bellman(mdp_dense(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), 0.5))
        >>> T(jnp.array([2.0])).tolist()
        [2.0]

    Reference: MATH.md section 5, eq. 18-19.
    """

    def T(v):
        _values(mdp, v)
        return largest(action_values(mdp, v), 1)

    return T


def greedy(mdp: MDP, v: Array) -> Array:
    """The actions that look best when the future is worth v.

        pi(s) = argmax_a r(s, a) + discount sum_s' P(s' | s, a) v(s')     (eq. 20)

    Args:
        mdp: the process.
        v: [S] values.

    Returns:
        [S] int32 actions; the first of equals; never an action that is not available.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import greedy, mdp_dense
        >>> greedy(mdp_dense(jnp.ones((1, 2, 1)), jnp.array([[0.0, 1.0]]), 0.5), jnp.zeros(1)).tolist()
        [1]

    Reference: MATH.md section 5, eq. 20.
    """
    _values(mdp, v)
    return jnp.argmax(action_values(mdp, v), 1).astype(jnp.int32)


def bounds(mdp: MDP, v: Array) -> Bounds:
    """Bounds on the optimal values from any guess v.

        T v + kappa(min(T v - v)) <= V* <= T v + kappa(max(T v - v)),   kappa(x) = x g / (1 - g)

    Args:
        mdp: the process.
        v: [S] any values; the nearer to V* up to a constant, the tighter the bounds.

    Returns:
        A `Bounds`; they contain V* in exact arithmetic and, thanks to a rounding term, in floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import bounds, mdp_dense
        >>> low, high = bounds(mdp_dense(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), 0.5), jnp.zeros(1))
        >>> round(float(low[0]), 4), round(float(high[0]), 4)  # one state: exact at once
        (2.0, 2.0)

    Reference: MATH.md section 5; Puterman, Markov Decision Processes, 6.6.
    """
    return enclosed(mdp, v, bellman(mdp)(v))


def enclosed(mdp: MDP, v: Array, Tv: Array) -> Bounds:
    """The bounds, from v and T v."""
    d = Tv - v
    below, above = margins(mdp, smallest(d), largest(d), rounding(mdp, v, largest_reward(mdp)))
    return Bounds(Tv + below, Tv + above)


def margins(mdp: MDP, least: Array, most: Array, slack: Array) -> tuple[Array, Array]:
    """What the bounds add to T v, the same in every state, from the least and the largest entry of T v - v."""
    (below, above), least, most = factors(mdp), least - slack, most + slack
    # kappa with the row sum that widens the bound
    down = _series(least, jnp.where(least <= 0, above, below))
    up = _series(most, jnp.where(most >= 0, above, below))
    return down - slack, up + slack


def factors(mdp: MDP) -> tuple[Array, Array]:
    """Bounds on g / (1 - g) for the smallest and the largest row sum; infinite where g < 1 is not certain.

    Apart by more than the roundings of 1 - g (3 halves of eps of its terms), of the quotient, and of a product with it.
    """
    discount, excess = mdp.discount, mdp.excess
    terms = jnp.stack([1 - discount, 1 - discount]), discount * excess
    eps = jnp.asarray(8 * jnp.finfo(excess.dtype).eps, excess.dtype)
    blur = eps * (jnp.abs(terms[0]) + jnp.abs(terms[1])) * jnp.asarray([1, -1], excess.dtype)
    rest = terms[0] - terms[1] + blur
    factor = jnp.where(rest <= 0, jnp.inf, discount * mdp.mass / rest)
    return factor[0], factor[1]


def _series(x: Array, factor: Array) -> Array:
    """x times the factor, 0 if x is."""
    return jnp.where(x == 0, jnp.zeros_like(x), x * factor)


def floor(mdp: MDP, largest: Array, slack: Array) -> Array:
    """Bounds this close are as close as rounding allows, the largest |T v - v| being what it is.

    Rounding of T v, of kappa, and of the row sums where that is all they differ by.
    """
    (below, above), eps = factors(mdp), jnp.finfo(slack.dtype).eps
    apart = jnp.where(alike(mdp), above - below, 0) + jnp.asarray(16 * eps, slack.dtype) * above
    return 4 * slack * (1 + above) + _series(largest, apart)


def alike(mdp: MDP) -> Array:
    """Whether all rows have the same sum up to its rounding."""
    most = jnp.asarray(4 * (terms(mdp) + 2) * jnp.finfo(mdp.excess.dtype).eps, mdp.excess.dtype)
    return mdp.excess[1] - mdp.excess[0] <= most


def largest_reward(mdp: MDP) -> Array:
    """The largest |r|; a pass over all pairs, so a solver asks once."""
    return jnp.max(jnp.where(jnp.isfinite(mdp.reward), jnp.abs(mdp.reward), 0))


def rounding(mdp: MDP, v: Array, largest: Array) -> Array:
    """A bound on the rounding error of one T v - v: (terms + 2) eps (largest reward + g largest value) + eps largest value."""
    eps, size = jnp.finfo(v.dtype).eps, jnp.max(jnp.abs(v))
    each = largest + mdp.discount * mdp.mass[1] * size
    return jnp.asarray((terms(mdp) + 2) * eps, v.dtype) * each + jnp.asarray(eps, v.dtype) * size


def _values(mdp: MDP, v) -> None:
    """Shape and dtype of v at the door."""
    checks.shape(v, (mdp.reward.shape[0],), "v")
    same = jnp.result_type(v) == mdp.reward.dtype
    expected = f"{mdp.reward.dtype}, as in the rewards"
    checks.require(same, "v", checks.describe(v), expected, "cast v", checks.DTypeError)
