"""What every solver asks of a process: expected next values, for all actions or under one policy, however P is held."""

import dataclasses
import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax, vmap

from learnlag_jax.control.mdp import MDP, Dense, Functions
from learnlag_jax.vocabulary import Array

UNROLLED = 32


def _gathered(v: Array, index: Array) -> Array:
    """v[index]; no index is negative, and asking whether one is would cost a third of a sweep."""
    return v.at[index].get(mode="clip", wrap_negative_indices=False)


def _weighed(chance: Array, v: Array, successor: Array, axis: int = -1) -> Array:
    """sum_j chance_j v[successor_j], j along the first or the last axis.

    Few terms are written out: one fused pass over the pairs, two to three times the speed of a gather and a reduction.
    """
    K = chance.shape[axis]
    if K > UNROLLED:
        return jnp.sum(chance * _gathered(v, successor), axis)
    term = lambda j: (chance[j], successor[j]) if axis == 0 else (chance[..., j], successor[..., j])
    products = (p * _gathered(v, index) for p, index in map(term, range(K)))
    return functools.reduce(operator.add, products)


def expected(mdp: MDP, v: Array) -> Array:
    """[S, A]: the expected value of the next state."""
    held = mdp.transition
    if isinstance(held, Dense):
        S, A, _ = held.probability.shape
        return (held.probability.reshape(S * A, -1) @ v).reshape(S, A)
    if isinstance(held, Functions):
        S, A = mdp.reward.shape
        actions = jnp.arange(A, dtype=jnp.int32)
        row = lambda s: vmap(lambda a: _average(held, s, a, v))(actions)
        return lax.map(row, jnp.arange(S, dtype=jnp.int32), batch_size=min(S, held.chunk))
    return _weighed(held.probability, v, held.successor)


def _average(held: Functions, s, a, v: Array) -> Array:
    after, chance = outcomes_of(held, s, a)
    return jnp.sum(jnp.asarray(chance, v.dtype) * v[after])


def outcomes_of(held, s, a) -> tuple[Array, Array]:
    """The successors of one state and action, and their probabilities."""
    if isinstance(held, Functions):
        return vmap(lambda j: held.outcome(s, a, j, held.theta))(jnp.arange(held.outcomes, dtype=jnp.int32))
    row = held.probability[s, a]
    return (jnp.arange(len(row), dtype=jnp.int32) if isinstance(held, Dense) else held.successor[s, a]), row


def terms(mdp: MDP) -> int:
    """How many products are added up in one expectation."""
    held = mdp.transition
    return held.outcomes if isinstance(held, Functions) else held.probability.shape[-1]


def action_values(mdp: MDP, v: Array) -> Array:
    """Q(s, a) = r(s, a) + discount E v(s'): [S, A]; -inf where the action is not available."""
    future = jnp.where(mdp.reward > -jnp.inf, expected(mdp, v), 0)
    return mdp.reward + mdp.discount * future


def block(mdp: MDP, first: Array, size: int) -> MDP:
    """The process as seen from the states first .. first + size - 1 alone; values stay those of all states."""
    held, cut = mdp.transition, lambda x: lax.dynamic_slice_in_dim(x, first, size)
    if isinstance(held, Functions):
        inner = dataclasses.replace(held, outcome=lambda s, a, j, theta: held.outcome(s + first, a, j, theta))
    else:
        inner = jax.tree.map(cut, held)
    return dataclasses.replace(mdp, reward=cut(mdp.reward), transition=inner)


def _pick(x: Array, policy: Array) -> Array:
    return jnp.take_along_axis(x, policy.reshape(-1, *(1,) * (x.ndim - 1)), axis=1)[:, 0]


def under(mdp: MDP, policy: Array, dtype=None) -> tuple[Array, Callable]:
    """The process under a policy: its reward [S], and v -> discount P_pi v, in another dtype if asked for."""
    held, reward = mdp.transition, _pick(mdp.reward, policy)
    dtype = dtype or reward.dtype
    discount = mdp.discount.astype(dtype)
    if isinstance(held, Dense):
        matrix = discount * _pick(held.probability, policy).astype(dtype)
        return reward, lambda v: matrix @ v
    if isinstance(held, Functions):
        pairs = jnp.arange(len(policy), dtype=jnp.int32), policy
        batch = min(len(policy), held.chunk)
        return (
            reward,
            lambda v: discount * lax.map(lambda p: _average(held, p[0], p[1], v), pairs, batch_size=batch),
        )
    successor, weight = _pick(held.successor, policy), discount * _pick(held.probability, policy).astype(dtype)
    if weight.shape[1] > UNROLLED:
        return reward, lambda v: _weighed(weight, v, successor)
    # the j-th term of all states side by side, as they are read: two thirds of the time
    successor, weight = successor.T, weight.T
    return reward, lambda v: _weighed(weight, v, successor, 0)


def under_matrix(mdp: MDP, policy: Array) -> tuple[Array, Array]:
    """The process under a policy: its reward [S], and discount P_pi as a full matrix [S, S]."""
    held, reward = mdp.transition, _pick(mdp.reward, policy)
    if isinstance(held, Dense):
        return reward, mdp.discount * _pick(held.probability, policy)
    S = len(policy)
    states = jnp.arange(S, dtype=jnp.int32)
    if isinstance(held, Functions):
        successor, chance = vmap(lambda s, a: outcomes_of(held, s, a))(states, policy)
        chance = jnp.asarray(chance, reward.dtype)
    else:
        successor, chance = _pick(held.successor, policy), _pick(held.probability, policy)
    empty = jnp.zeros((S, S), reward.dtype)
    return reward, mdp.discount * empty.at[states[:, None], successor].add(chance)
