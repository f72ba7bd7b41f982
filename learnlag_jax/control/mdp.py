"""Markov decision processes: how rewards and transitions are held, built and checked.

    V(s) = max_a r(s, a) + discount * sum_s' P(s' | s, a) V(s')     (eq. 19)

An action that is not available in a state has reward -inf. Where an episode may end, the row of P sums to less than
one: what is missing is the chance to end, and nothing is earned after it (terminal states do not bootstrap).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.control.rows import ROW_TOLERANCE, excess_in_trace, excess_of, marked
from learnlag_jax.vocabulary import Array


class Dense(NamedTuple):
    """P[s, a, s']: every transition held."""

    probability: Array


class Sparse(NamedTuple):
    """Successor lists: from (s, a) to successor[s, a, j] with probability[s, a, j]; padding has probability 0."""

    successor: Array
    probability: Array


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["theta"], meta_fields=["outcome", "outcomes", "chunk"]
)
@dataclasses.dataclass(frozen=True)
class Functions:
    """Transitions as a function, never stored: `outcome(s, a, j, theta)` -> (s', probability) for j < outcomes."""

    outcome: Callable
    outcomes: int
    theta: Any
    chunk: int

    def probabilities(self, S: int, A: int, dtype) -> tuple[tuple[Array, Array], Array, Array]:
        """Bounds on row sums minus one, smallest entry, and whether every successor is a state: [S, A] each, chunk by chunk."""
        j = jnp.arange(self.outcomes, dtype=jnp.int32)

        def row(s):
            def entry(a):
                after, chance = jax.vmap(lambda j: self.outcome(s, a, j, self.theta))(j)
                chance = jnp.asarray(chance, dtype)
                return excess_in_trace(chance), jnp.min(chance), jnp.all((after >= 0) & (after < S))

            return jax.vmap(entry)(jnp.arange(A, dtype=jnp.int32))

        return jax.lax.map(row, jnp.arange(S, dtype=jnp.int32), batch_size=min(S, self.chunk))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MDP:
    """A Markov decision process with finitely many states and actions; a pytree, so it goes through `jit` and `vmap`.

    Attributes:
        reward: [S, A] expected reward; -inf where the action is not available.
        transition: how P is held: `Dense`, `Sparse` or `Functions`.
        discount: scalar in [0, 1].
        excess: [2], bounds on the row sums of P minus one, over the available actions: rounded outward, so that what is
            proved from them holds of the numbers stored. Their sum with one is `mass`; below 1 where episodes end; infinite where
            a process built under `jit` or `vmap` has rows that are not probabilities (its solvers answer `inconsistent`).

    Build one with `mdp_dense`, `mdp_sparse`, `mdp_functions`, `mdp_from_problem` or `mdp_from_gymnasium`, which check
    the numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import mdp_dense
        >>> mdp_dense(jnp.ones((1, 2, 1)), jnp.array([[0.0, 1.0]]), 0.5).reward.shape
        (1, 2)

    Reference: MATH.md section 5, eq. 19.
    """

    reward: Array
    transition: Any
    discount: Array
    excess: Array

    @property
    def mass(self) -> Array:
        """[2], smallest and largest row sum, to rounding."""
        return 1 + self.excess


def mdp_dense(P, R, discount, *, ends: bool = False) -> MDP:
    """A Markov decision process from a full transition array.

    Args:
        P: [S, A, S] probabilities P[s, a, s'] of the next state; rows sum to one.
        R: [S, A] expected rewards; -inf marks an action that is not available.
        discount: in [0, 1); 1 only where every row ends with positive chance.
        ends: allow rows that sum to less than one; the missing mass ends the episode.

    Returns:
        An `MDP` in the common dtype of P and R.

    Raises:
        InputError: names the first state and action with a negative, NaN or infinite probability, a wrong row sum, or a
            NaN or +inf reward; a state without available actions; a discount outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import mdp_dense, solve_mdp
        >>> stay = mdp_dense(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), 0.9)
        >>> round(float(solve_mdp(stay, tol=1e-9).value[0]), 4)
        10.0

    Reference: MATH.md section 5, eq. 19.
    """
    checks.shape(P, ("S", "A", "S"), "P")
    P, R, discount = common_dtype(P, R, discount)
    checks.shape(R, P.shape[:2], "R")
    check_numbers(P, R, ends)
    return _built(R, Dense(P), discount, ends)


def mdp_sparse(successor, probability, R, discount, *, ends: bool = False) -> MDP:
    """A Markov decision process from lists of successors: memory and time grow with the transitions that exist.

    Args:
        successor: [S, A, K] integers in 0 .. S - 1; unused entries may hold any state. Equal ones of a state and action are merged.
        probability: [S, A, K]; unused entries 0; rows sum to one.
        R: [S, A] expected rewards; -inf marks an action that is not available.
        discount: in [0, 1); 1 only where every row ends with positive chance.
        ends: allow rows that sum to less than one; the missing mass ends the episode.

    Returns:
        An `MDP`.

    Raises:
        InputError: as `mdp_dense`; and names the first successor outside 0 .. S - 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import mdp_sparse, solve_mdp
        >>> ring = mdp_sparse(jnp.array([[[1]], [[0]]]), jnp.ones((2, 1, 1)), jnp.array([[1.0], [0.0]]), 0.5)
        >>> [round(float(v), 6) for v in solve_mdp(ring, tol=1e-9).value]
        [1.333333, 0.666667]

    Reference: MATH.md section 5, eq. 19.
    """
    probability, R, discount = common_dtype(probability, R, discount)
    checks.shape(probability, ("S", "A", "K"), "probability")
    checks.shape(successor, probability.shape, "successor")
    checks.shape(R, probability.shape[:2], "R")
    integral = jnp.issubdtype(jnp.result_type(successor), jnp.integer)
    checks.require(
        integral, "successor", checks.describe(successor), "integers", "pass state indices", checks.DTypeError
    )
    if not checks.is_traced(successor):
        index = np.asarray(successor)
        bad = np.argwhere((index < 0) | (index >= len(R)))
        got = "" if not len(bad) else f"{index[tuple(bad[0])]} at (state, action, entry) {tuple(map(int, bad[0]))}"
        checks.require(not len(bad), "successor", got, f"states 0 .. {len(R) - 1}", "give every successor a state")
    check_numbers(probability, R, ends)
    successor = jnp.asarray(successor, jnp.int32)
    if not checks.is_traced(successor, probability):
        successor, probability = _merged(successor, probability)
    return _built(R, Sparse(successor, probability), discount, ends)


def _merged(successor: Array, probability: Array) -> tuple[Array, Array]:
    """Equal successors of a state and action as one and unused entries left out, if that makes the longest list shorter."""
    p = np.asarray(probability)
    shape, last = p.shape, np.int32(p.shape[0])
    key = np.where(p > 0, np.asarray(successor), last)  # what is not used comes last
    order = np.argsort(key, -1, kind="stable")
    key, p = np.take_along_axis(key, order, -1), np.take_along_axis(p, order, -1)
    place = np.cumsum(np.diff(key, axis=-1, prepend=key[..., :1]) > 0, -1)
    longest = max(1, int(np.max(np.where(key < last, place + 1, 0), initial=0)))
    if longest == shape[-1]:
        return successor, probability
    flat = (place + shape[-1] * np.arange(place[..., 0].size).reshape(*shape[:-1], 1)).ravel()
    total = np.bincount(flat, p.ravel(), p.size).reshape(shape)[..., :longest]
    named = np.zeros(p.size, np.int32)
    named[flat] = np.where(key < last, key, 0).ravel()
    return jnp.asarray(named.reshape(shape)[..., :longest]), jnp.asarray(total, probability.dtype)


def common_dtype(P, R, discount):
    """P, R and the discount in the widest floating dtype of P and R."""
    kinds = [np.dtype(jnp.result_type(x)) for x in (P, R) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    dtype = np.result_type(*kinds) if kinds else jnp.result_type(float)
    dtype = dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype("float32")
    if not isinstance(P, jax.Array):
        P = np.asarray(P)
    checks.require(jnp.ndim(discount) == 0, "discount", checks.describe(discount), "a scalar", "vmap over discounts")
    if not checks.is_traced(discount):
        checks.require(0 <= discount <= 1, "discount", discount, "0 <= discount <= 1", "rescale time or rewards")
    return jnp.asarray(P, dtype), jnp.asarray(R, dtype), jnp.asarray(discount, dtype)


def first_bad(bad: Any, values: np.ndarray) -> str:
    """The first offending entry, by state and action."""
    where = np.argwhere(bad)
    if not len(where):
        return ""
    index: Any = tuple(map(int, where[0]))
    rest = "" if len(index) <= 2 else f", entry {index[2]}"
    action = "" if len(index) < 2 else f", action {index[1]}"
    return f"{values[index]} at state {index[0]}{action}{rest}"


def check_numbers(P, R, ends: bool) -> None:
    """Host gate: probabilities and rewards, named by state and action."""
    if checks.is_traced(P, R):
        return
    P, R = np.asarray(P), np.asarray(R)
    can = -np.inf < R
    bad = np.isnan(R) | (np.inf == R)
    checks.require(
        not bad.any(), "R", first_bad(bad, R), "finite rewards, or -inf where not available", "fix the reward"
    )
    checks.require(
        can.any(),
        "R",
        "-inf for every state and action",
        "at least one available action a state",
        "give finite rewards",
    )
    empty = ~can.any(1)
    got = first_bad(empty, np.full(len(R), "no available action"))
    checks.require(not empty.any(), "R", got, "at least one available action a state", "add an action, if only to stay")
    wrong = (~np.isfinite(P) | (P < 0)) & can[..., None]
    checks.require(not wrong.any(), "P", first_bad(wrong, P), "probabilities in [0, 1]", "fix the entry")
    total = np.where(can, P.sum(-1, where=can[..., None], dtype=np.float64), 1.0)
    off = np.asarray((total > 1 + ROW_TOLERANCE) | (total < (0 if ends else 1 - ROW_TOLERANCE)))
    remedy = "normalise the row, or pass ends=True if missing mass ends the episode"
    checks.require(not off.any(), "P", first_bad(off, total), "rows that sum to 1", remedy)


def _built(R: Array, transition, discount: Array, ends: bool) -> MDP:
    """Measure the row sums over available actions; refuse an endless undiscounted problem."""
    P = transition.probability
    row_excess = excess_of(P)
    if checks.is_traced(P):
        row_excess = marked(row_excess, jnp.min(P, -1), ends)
    probability = jnp.where((-jnp.inf < R)[..., None], transition.probability, 0)
    return weighed(R, transition._replace(probability=probability), discount, row_excess)


def ill_posed(mdp: MDP) -> Array:
    """Whether the rows were found not to be probabilities, or the discount not to be one, which may be seen at run time only."""
    return jnp.any(jnp.isinf(mdp.excess)) | (mdp.discount < 0) | (mdp.discount > 1)


def weighed(R: Array, transition, discount: Array, row_excess: tuple) -> MDP:
    """The process with bounds on its row sums minus one; refuses values that need not be finite."""
    can, (least, most) = -jnp.inf < R, (jnp.asarray(x, R.dtype) for x in row_excess)
    low, high = jnp.min(jnp.where(can, least, jnp.inf)), jnp.max(jnp.where(can, most, -1))
    if not checks.is_traced(high, discount):
        rest = (1 - float(discount)) - float(discount) * float(high)
        checks.require(
            rest > 0,
            "discount",
            f"{float(discount)} with rows that sum to {1 + float(high):.6g}",
            "discount x row sum < 1, so that values are finite",
            "lower the discount, or use average_reward",
        )
    return MDP(R, transition, discount, jnp.stack([low, high]))
