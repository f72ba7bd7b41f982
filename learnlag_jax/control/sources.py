"""Where processes come from: pure functions of integers, a `Problem` on a grid, a gymnasium table."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from learnlag_jax import checks
from learnlag_jax.control.mdp import (
    MDP,
    Functions,
    check_numbers,
    common_dtype,
    first_bad,
    mdp_sparse,
    weighed,
)
from learnlag_jax.control.problem import Problem, checked
from learnlag_jax.control.rows import marked
from learnlag_jax.meaning import by_meaning
from learnlag_jax.vocabulary import Array, PyTree


def mdp_functions(
    reward: Callable,
    outcome: Callable,
    discount,
    *,
    states: int,
    actions: int,
    outcomes: int = 1,
    theta: PyTree = None,
    ends: bool = False,
    chunk: int = 65_536,
    dtype=None,
) -> MDP:
    """A Markov decision process whose transitions are a function: the matrix is never formed.

    Args:
        reward: `reward(s, a, theta)` -> scalar for int32 s, a; -inf where the action is not available.
        outcome: `outcome(s, a, j, theta)` -> (next state as int32, probability) for int32 j < outcomes.
        discount: in [0, 1).
        states, actions, outcomes: their numbers S, A, K.
        theta: parameters handed to both functions.
        ends: allow probabilities that sum to less than one; the missing mass ends the episode.
        chunk: states handled at once: memory is about S A + chunk A K numbers.
        dtype: of the rewards and values; JAX's default float if left out.

    Returns:
        An `MDP`; rewards are stored, transitions are recomputed where needed, from the numbers that `outcome` reads when
        the process is built: after a change, build it again.

    Raises:
        InputError: as `mdp_sparse`.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import mdp_functions, solve_mdp
        >>> ring = mdp_functions(
        ...     lambda s, a, theta: jnp.where(s == 0, 1.0, 0.0), lambda s, a, j, theta: ((s + 1 + a) % 3, 1.0),
        ...     0.5, states=3, actions=2)
        >>> [round(float(v), 6) for v in solve_mdp(ring, tol=1e-9).value]
        [1.333333, 0.666667, 0.666667]

    Reference: MATH.md section 5, eq. 19.
    """
    for name, number in (("states", states), ("actions", actions), ("outcomes", outcomes), ("chunk", chunk)):
        checks.require(number >= 1, name, number, "at least 1", "raise it")
    dtype = jnp.dtype(dtype or jnp.result_type(float))
    a = jnp.arange(actions, dtype=jnp.int32)
    row = lambda s: jax.vmap(lambda a: jnp.asarray(reward(s, a, theta), dtype))(a)
    R = jax.lax.map(row, jnp.arange(states, dtype=jnp.int32), batch_size=min(states, chunk))
    outcome, theta = _frozen(outcome, theta)
    held = Functions(outcome, outcomes, theta, chunk)
    row_excess, least, inside = held.probabilities(states, actions, dtype)
    _, R, discount = common_dtype(R, R, discount)
    if not checks.is_traced(least, R):
        can = np.asarray(R) > -np.inf
        check_numbers(np.where(can, 1 + np.asarray(row_excess[1], np.float64), 1.0)[..., None], R, ends)
        bad = can & ~(np.asarray(least) >= 0)
        checks.require(
            not bad.any(), "outcome", first_bad(bad, np.asarray(least)), "probabilities >= 0", "fix the function"
        )
        out = can & ~np.asarray(inside)
        got = first_bad(out, np.full(out.shape, "a successor outside the states"))
        checks.require(not out.any(), "outcome", got, f"states 0 .. {states - 1}", "fix the function")
    if checks.is_traced(least):
        row_excess = marked(row_excess, least, ends)
    return weighed(R, held, discount, row_excess)


def _frozen(outcome: Callable, theta: PyTree) -> tuple[Callable, PyTree]:
    """The outcome with the numbers it reads as they are now, compared by what it computes, and its theta.

    Row sums and rewards are measured now; a process whose transitions moved later would not be theirs, nor would answers
    compiled before. Numbers it reads while they are traced join theta: through a closure no derivative would find them.
    """
    zero = jnp.int32(0)
    program, shape = jax.make_jaxpr(lambda *x: outcome(*x), return_shape=True)(zero, zero, zero, theta)
    joined = [x for x in program.consts if checks.is_traced(x)]
    known = [None if checks.is_traced(x) else x for x in program.consts]
    tree = jax.tree.structure(shape)

    def held(s, a, j, theta):
        theta, numbers = theta if joined else (theta, [])
        rest = iter(numbers)
        run = jaxpr_as_fun(ClosedJaxpr(program.jaxpr, [next(rest) if x is None else x for x in known]))
        return jax.tree.unflatten(tree, run(*jax.tree.leaves((s, a, j, theta))))

    theta = (theta, joined) if joined else theta
    return by_meaning(held, zero, zero, zero, theta), theta


def mdp_from_problem(
    problem: Problem,
    axes: Sequence,
    actions,
    discount,
    theta: PyTree = None,
    *,
    noise: tuple | Callable | None = None,
    periodic: Sequence[bool] | None = None,
    key: Array | None = None,
    draws: int = 64,
) -> MDP:
    """A control problem on a grid of states: transitions spread over the corners of the cell they lead into.

        V(s) = max_a r(s, a) + discount E sum_corners weight x V(corner)     (eq. 19)

    Args:
        problem: reward and dynamics on a vector state [d] (d = 1 too); called with k = 0; the terminal reward is unused.
        axes: d increasing vectors; the grid is their product, the last axis running fastest.
        actions: [A, m] or any pytree with leading axis A of the actions to choose from.
        discount: in [0, 1).
        theta: parameters handed to reward and dynamics.
        noise: (points [J, d], weights [J]) added to the next state, or a sampler `noise(key)` -> [d]; none if left out.
        periodic: for each axis, whether it wraps round: its last entry plus one spacing is its first, and all its
            spacings are equal. Other axes hold the
            state inside by clipping.
        key, draws: for a sampler: the J = draws samples of weight 1 / draws, the same ones in every state and action, so
            that the process is a consistent one and its values err by O(draws^-1/2).

    Returns:
        An `MDP` with prod(len(axis)) states and J 2^d outcomes. Interpolation is multilinear, so values converge at second
        order in the spacing where they are smooth.

    Raises:
        InputError: axes that are not increasing, a periodic one with unequal spacings, weights that do not sum to one.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import Problem, mdp_from_problem, solve_mdp
        >>> problem = Problem(lambda s, a, k, theta: -(s[0] ** 2), lambda s, a, k, theta: s + a)
        >>> mdp = mdp_from_problem(problem, [jnp.linspace(-1.0, 1.0, 5)], jnp.array([[-0.5], [0.0], [0.5]]), 0.5)
        >>> [round(abs(float(v)), 6) for v in solve_mdp(mdp, tol=1e-9).value]  # costs: minus the values
        [1.125, 0.25, 0.0, 0.25, 1.125]

    Reference: MATH.md section 5; Kushner and Dupuis, Numerical Methods for Stochastic Control.
    """
    p, axes = checked(problem), [jnp.asarray(axis) for axis in axes]
    checks.floating(axes, "axes")
    for i, axis in enumerate(axes):
        checks.increasing(axis, f"axes[{i}]")
        checks.require(len(axis) >= 2, f"axes[{i}]", len(axis), "at least two points", "refine the grid")
    wraps = tuple(periodic) if periodic is not None else (False,) * len(axes)
    checks.require(len(wraps) == len(axes), "periodic", len(wraps), f"{len(axes)} entries", "one for each axis")
    for i, (axis, wrap) in enumerate(zip(axes, wraps, strict=True)):
        if wrap:
            _uniform(axis, f"axes[{i}]")
    points, weights = _noise(noise, key, draws, jnp.zeros(len(axes), axes[0].dtype))
    checks.shape(points, ("J", len(axes)), "noise[0]")
    checks.shape(weights, (jnp.shape(points)[0],), "noise[1]")
    grid = jnp.stack([x.ravel() for x in jnp.meshgrid(*axes, indexing="ij")], -1)

    def pair(s, a):
        s_next = p.dynamics(s, a, jnp.int32(0), theta)
        corners, chance = jax.vmap(lambda xi: _corners(axes, wraps, s_next + xi))(jnp.asarray(points, s.dtype))
        chance = chance * jnp.asarray(weights, s.dtype)[:, None]
        return p.reward(s, a, jnp.int32(0), theta), corners.ravel(), chance.ravel()

    each = jax.vmap(jax.vmap(pair, (None, 0)), (0, None))
    R, successor, probability = jax.jit(each)(grid, actions)
    return mdp_sparse(successor, probability, R, discount)


def _uniform(axis: Array, argument: str) -> None:
    """Host gate: equal spacings up to rounding, without which a period is not defined."""
    if checks.is_traced(axis):
        return
    x = np.asarray(axis, np.float64)
    gaps = np.diff(x)
    blur = 8 * float(jnp.finfo(axis.dtype).eps) * float(np.abs(x).max())
    even = float(np.ptp(gaps)) <= blur
    got = f"spacings from {gaps.min():.6g} to {gaps.max():.6g}"
    checks.require(even, argument, got, "equal spacings where it is periodic", "use jnp.linspace without its endpoint")


def _noise(noise, key, draws: int, zero: Array) -> tuple[Array, Array]:
    """Points and weights of the noise, however it was given."""
    if noise is None:
        return zero[None], jnp.ones(1, zero.dtype)
    if not callable(noise):
        return noise
    checks.require(key is not None, "key", key, "a typed PRNG key with a sampler", "pass key=jax.random.key(0)")
    checks.require(draws >= 1, "draws", draws, "at least one sample", "raise it")
    points = jnp.asarray(jax.vmap(noise)(jax.random.split(key, draws)), zero.dtype)
    return points, jnp.full(draws, 1 / draws, zero.dtype)


def _corners(axes, wraps, s):
    """The grid points around s and their weights: 2^d of each."""
    low, fraction, sizes = [], [], [len(axis) for axis in axes]
    for axis, wrap, x in zip(axes, wraps, s, strict=True):
        if wrap:
            step = axis[1] - axis[0]
            period = step * len(axis)
            place = jnp.mod(x - axis[0], period) / step
            i = jnp.minimum(jnp.floor(place), len(axis) - 1)
            low.append(i.astype(jnp.int32))
            fraction.append(place - i)
            continue
        i = jnp.clip(jnp.searchsorted(axis, x, side="right") - 1, 0, len(axis) - 2)
        low.append(i.astype(jnp.int32))
        fraction.append(jnp.clip((x - axis[i]) / (axis[i + 1] - axis[i]), 0.0, 1.0))
    index, weight = [], []
    for corner in itertools.product((0, 1), repeat=len(axes)):
        flat, w = jnp.int32(0), jnp.ones((), s.dtype)
        for i, f, up, size in zip(low, fraction, corner, sizes, strict=True):
            flat = flat * jnp.int32(size) + (i + jnp.int32(up)) % jnp.int32(size)
            w = w * (f if up else 1 - f)
        index.append(flat)
        weight.append(w)
    return jnp.stack(index), jnp.stack(weight)


def mdp_from_gymnasium(environment, discount, *, dtype=None) -> MDP:
    """A Markov decision process from a gymnasium toy-text table; terminal transitions do not bootstrap.

    Args:
        environment: an unwrapped environment with a table `P[s][a] = [(probability, s', reward, terminated), ...]`, or
            that table itself.
        discount: in [0, 1).
        dtype: of the arrays; JAX's default float if left out.

    Returns:
        An `MDP` with sparse transitions; the mass of terminated transitions is missing from the rows.

    Raises:
        InputError: as `mdp_sparse`; and if the full rows, ends included, do not sum to one.

    Example:
        >>> from learnlag_jax.control import mdp_from_gymnasium, solve_mdp
        >>> table = {0: {0: [(0.5, 0, 0.0, False), (0.5, 1, 1.0, True)]}, 1: {0: [(1.0, 1, 0.0, True)]}}
        >>> [round(float(v), 6) for v in solve_mdp(mdp_from_gymnasium(table, 0.5), tol=1e-9).value]
        [0.666667, 0.0]

    Reference: MATH.md section 5, eq. 19.
    """
    table: Any = environment if isinstance(environment, Mapping) else getattr(environment, "P", None)
    ok = isinstance(table, Mapping) and len(table)
    checks.require(ok, "environment", type(environment).__name__, "a table P[s][a]", "pass environment.unwrapped")
    S, A = len(table), max(len(actions) for actions in table.values())
    K = max(len(outcomes) for actions in table.values() for outcomes in actions.values())
    successor, probability = np.zeros((S, A, K), np.int32), np.zeros((S, A, K))
    whole, reward = np.zeros((S, A, K)), np.full((S, A), -np.inf)
    for s, actions in table.items():
        for a, outcomes in actions.items():
            for j, (chance, after, _, ended) in enumerate(outcomes):
                successor[s, a, j], whole[s, a, j] = after, chance
                probability[s, a, j] = 0.0 if ended else chance
            reward[s, a] = sum(chance * gain for chance, _, gain, _ in outcomes)
    check_numbers(whole, reward, ends=False)
    dtype = jnp.dtype(dtype or jnp.result_type(float))
    return mdp_sparse(successor, probability.astype(dtype), reward.astype(dtype), discount, ends=True)
