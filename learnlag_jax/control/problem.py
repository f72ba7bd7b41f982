"""The scalar everything here comes from: reward r, dynamics f and terminal reward h, and the two functions they make.

    L = h(s_n) + sum_k r(s_k, a_k, k) + (f(s_k, a_k, k) - s_{k+1})' lambda_{k+1} + (s0 - s_0)' lambda_0     (eq. 9)
    H_k(s, a, lambda) = r(s, a, k) + f(s, a, k)' lambda                                                    (eq. 10)

States and actions are any pytrees of real arrays; a path stores them with a leading time axis, n + 1 states, n actions,
n + 1 costates. The term in lambda_0 pins the start, so that one `jax.grad` gives every stationarity condition, the
one that defines lambda_0 = grad V(s_0) included.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax import checks, trees
from learnlag_jax.meaning import by_meaning
from learnlag_jax.vocabulary import Array, PyTree


def no_terminal_reward(s: PyTree, theta: PyTree) -> Array:
    """h = 0, in the dtype of the state."""
    del theta
    return jnp.zeros((), jnp.result_type(jax.tree.leaves(s)[0]))


class Problem(NamedTuple):
    """A discrete-time optimal control problem; the total reward is maximised.

        J = h(s_n, theta) + sum_{k<n} r(s_k, a_k, k, theta),   s_{k+1} = f(s_k, a_k, k, theta)     (eq. 8)

    Attributes:
        reward: `r(s, a, k, theta)` -> scalar; `k` is an int32 step number, the units of r are the user's.
        dynamics: `f(s, a, k, theta)` -> the next state, same structure, shapes and dtypes as `s`.
        terminal: `h(s, theta)` -> scalar; zero if left out.

    All three are pure. A parameter that a solution may be differentiated by belongs in `theta`, never in a closure.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import Problem, total_reward
        >>> problem = Problem(lambda s, a, k, theta: -(s**2) - a**2, lambda s, a, k, theta: s + a)
        >>> float(total_reward(problem, jnp.array(1.0), jnp.array([-0.5, -0.25])))
        -1.5625

    Reference: MATH.md section 5, eq. 8.
    """

    reward: Callable
    dynamics: Callable
    terminal: Callable = no_terminal_reward


def meant(p: Problem, s0: PyTree, actions: PyTree, theta: PyTree) -> Problem:
    """The problem as a static argument that changes with every number its functions read."""
    now = s0, at(actions, 0), jnp.int32(0), theta
    return Problem(by_meaning(p.reward, *now), by_meaning(p.dynamics, *now), by_meaning(p.terminal, s0, theta))


def minimise(cost: Callable, dynamics: Callable, terminal_cost: Callable | None = None) -> Problem:
    """The problem whose reward is minus the cost, for users who think in costs.

        r = -cost,  h = -terminal_cost

    Args:
        cost: `cost(s, a, k, theta)` -> scalar to be minimised in sum.
        dynamics: `f(s, a, k, theta)` -> next state.
        terminal_cost: `terminal_cost(s, theta)` -> scalar; zero if left out.

    Returns:
        A `Problem`. Its costates are minus the gradient of the cost-to-go.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import minimise, total_reward
        >>> problem = minimise(lambda s, a, k, theta: s**2 + a**2, lambda s, a, k, theta: s + a)
        >>> float(total_reward(problem, jnp.array(1.0), jnp.array([-0.5, -0.25])))
        -1.5625

    Reference: MATH.md section 5.
    """
    terminal = no_terminal_reward
    if terminal_cost is not None:

        def terminal(s, theta):
            return -terminal_cost(s, theta)

    return Problem(lambda s, a, k, theta: -cost(s, a, k, theta), dynamics, terminal)


def checked(problem: Problem) -> Problem:
    """The problem with trace-time checks: scalar rewards, and a next state that looks like the state."""

    @functools.wraps(problem.dynamics)
    def dynamics(s, a, k, theta):
        s_next = problem.dynamics(s, a, k, theta)
        checks.same_structure(s_next, s, "dynamics(s, a, k, theta)", "s")
        for got, like in zip(jax.tree.leaves(s_next), jax.tree.leaves(s), strict=True):
            checks.require(
                jnp.result_type(got) == jnp.result_type(like),
                "dynamics(s, a, k, theta)",
                checks.describe(got),
                f"{checks.describe(like)}, as in s",
                "return the dtype of the state",
                checks.DTypeError,
            )
        return s_next

    reward = checks.scalar_function(problem.reward, "reward(s, a, k, theta)")
    terminal = checks.scalar_function(problem.terminal, "terminal(s, theta)")
    return Problem(reward, dynamics, terminal)


def horizon(actions: PyTree, argument: str = "actions") -> int:
    """The number of steps n: the leading axis shared by all action leaves."""
    checks.floating(actions, argument)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(actions)}
    ok = len(lengths) == 1 and lengths != {()} and lengths != {(0,)}
    checks.require(
        ok, argument, f"leading axes {sorted(lengths)}", "one leading time axis n >= 1", "stack the actions over time"
    )
    return int(next(iter(lengths))[0])


def path_length(states: PyTree, actions: PyTree) -> int:
    """n, after checking that `states` has n + 1 entries."""
    n = horizon(actions)
    checks.floating(states, "states")
    for leaf in jax.tree.leaves(states):
        got = checks.describe(leaf)
        ok = jnp.shape(leaf)[:1] == (n + 1,)
        checks.require(ok, "states", got, f"leading axis {n + 1} = number of actions + 1", "pass s_0 .. s_n")
    return n


def counter(n: int) -> Array:
    """k = 0 .. n - 1 as int32."""
    return jnp.arange(n, dtype=jnp.int32)


def at(path: PyTree, index) -> PyTree:
    """The entry or slice of a path at `index`, leaf by leaf."""
    return jax.tree.map(lambda leaf: leaf[index], path)


def joined(*parts: PyTree) -> PyTree:
    """Paths one after the other along time."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def hamiltonian(problem: Problem) -> Callable:
    """The discrete-time Hamiltonian, by its definition.

        H_k(s, a, lambda) = r(s, a, k) + f(s, a, k)' lambda     (eq. 10)

    Args:
        problem: reward, dynamics and terminal reward.

    Returns:
        `H(s, a, costate, k, theta=None)` -> scalar, where `costate` is lambda_{k+1}, a pytree like the state.
        `jax.grad(H, 0)` is the costate recursion, `jax.grad(H, 1)` what vanishes at the best action.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from learnlag_jax.control import Problem, hamiltonian
        >>> H = hamiltonian(Problem(lambda s, a, k, theta: -(a**2), lambda s, a, k, theta: s + a))
        >>> float(jax.grad(H, 1)(jnp.array(0.0), jnp.array(1.5), jnp.array(3.0), 0))
        0.0

    Reference: MATH.md section 5, eq. 10.
    """
    p = checked(problem)

    def H(s, a, costate, k, theta=None):
        pairing = trees.dot(p.dynamics(s, a, k, theta), costate)
        return jnp.asarray(p.reward(s, a, k, theta), pairing.dtype) + pairing

    return H


def lagrangian(problem: Problem) -> Callable:
    """The Lagrangian of the whole path; its gradient is the stationarity residual.

        L = h(s_n) + sum_k r(s_k, a_k, k) + (f(s_k, a_k, k) - s_{k+1})' lambda_{k+1} + (s0 - s_0)' lambda_0     (eq. 9)

    Args:
        problem: reward, dynamics and terminal reward.

    Returns:
        `L(s0, states, actions, costates, theta=None)` -> scalar; paths as in `stationarity`. The gradients with respect
        to costates, states and actions are the three parts of `stationarity`; the one by theta is dJ/dtheta.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from learnlag_jax.control import Problem, costates, lagrangian, rollout
        >>> problem = Problem(lambda s, a, k, theta: -(s**2) - a**2, lambda s, a, k, theta: s + a)
        >>> s0, a = jnp.array(1.0), jnp.array([-0.5, -0.25])
        >>> s = rollout(problem, s0, a)
        >>> float(jax.grad(lagrangian(problem))(s0, s, a, costates(problem, s, a)))  # dJ/ds0
        -3.0

    Reference: MATH.md section 5, eq. 9.
    """
    p = checked(problem)

    def L(s0, states, actions, costates, theta=None):
        n = path_length(states, actions)
        checks.same_structure(s0, at(states, 0), "s0", "states[0]")

        def link(k, s, a, s_next, costate_next):
            gap = trees.dot(trees.subtract(p.dynamics(s, a, k, theta), s_next), costate_next)
            return jnp.asarray(p.reward(s, a, k, theta), gap.dtype) + gap

        before, after = slice(None, -1), slice(1, None)
        links = jax.vmap(link)(counter(n), at(states, before), actions, at(states, after), at(costates, after))
        start = trees.dot(trees.subtract(s0, at(states, 0)), at(costates, 0))
        return jnp.asarray(p.terminal(at(states, -1), theta), links.dtype) + jnp.sum(links) + start

    return L
