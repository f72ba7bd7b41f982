"""Along a path: states forward, costates backward, and the stationarity residual that says whether it is optimal.

    s_{k+1} = f(s_k, a_k, k)                                              forward
    lambda_n = grad h(s_n),  lambda_k = dH_k/ds(s_k, a_k, lambda_{k+1})   backward (eq. 13, 14)
    dH_k/da(s_k, a_k, lambda_{k+1}) = 0                                   best action (eq. 15)

Whatever the actions, lambda_k is the gradient of the remaining reward with respect to s_k and dH_k/da that with respect to
a_k; at the optimum lambda_k = grad V(s_k) (eq. 16, 17).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax import checks, trees
from learnlag_jax.control.problem import Problem, at, checked, counter, hamiltonian, horizon, joined, path_length
from learnlag_jax.vocabulary import Array, PyTree


class Stationarity(NamedTuple):
    """The gradient of the Lagrangian (eq. 9), part by part; all zero on an optimal path.

    Attributes:
        dynamics: dL/dlambda, leading axis n + 1: s0 - s_0, then f(s_k, a_k, k) - s_{k+1}.
        costate: dL/ds, leading axis n + 1: dH_k/ds - lambda_k, then grad h(s_n) - lambda_n.
        action: dL/da, leading axis n: dH_k/da.

    Example:
        >>> from learnlag_jax.control import Stationarity
        >>> Stationarity(dynamics=0.0, costate=0.0, action=1.0).action
        1.0
    """

    dynamics: PyTree
    costate: PyTree
    action: PyTree


def rollout(problem: Problem, s0: PyTree, actions: PyTree, theta: PyTree = None) -> PyTree:
    """The states that the actions lead through.

        s_{k+1} = f(s_k, a_k, k, theta)

    Args:
        problem: reward, dynamics and terminal reward.
        s0: first state, a pytree of real arrays.
        actions: pytree with leading axis n >= 1.
        theta: parameters handed to the dynamics.

    Returns:
        States with leading axis n + 1, s_0 = s0 first.

    Raises:
        InputError: no actions, or a next state unlike the state.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import Problem, rollout
        >>> problem = Problem(lambda s, a, k, theta: -(s**2), lambda s, a, k, theta: s + a)
        >>> rollout(problem, jnp.array(1.0), jnp.array([-0.5, -0.25])).tolist()
        [1.0, 0.5, 0.25]

    Reference: MATH.md section 5, eq. 8.
    """
    n, p = horizon(actions), checked(problem)
    checks.floating(s0, "s0")
    s0 = jax.tree.map(jnp.asarray, s0)

    def step(s, now):
        s_next = p.dynamics(s, now[1], now[0], theta)
        return s_next, s_next

    _, later = lax.scan(step, s0, (counter(n), actions))
    return joined(at(s0, None), later)


def total_reward(problem: Problem, s0: PyTree, actions: PyTree, theta: PyTree = None) -> Array:
    """The reward collected along the path of the actions: the scalar to be maximised.

        J = h(s_n) + sum_k r(s_k, a_k, k)     (eq. 8)

    Args:
        problem: reward, dynamics and terminal reward.
        s0: first state.
        actions: pytree with leading axis n >= 1.
        theta: parameters handed to all three functions.

    Returns:
        A scalar. Its gradient with respect to `actions` is `stationarity(...).action`.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import Problem, total_reward
        >>> problem = Problem(lambda s, a, k, theta: -(s**2) - a**2, lambda s, a, k, theta: s + a)
        >>> float(total_reward(problem, jnp.array(1.0), jnp.array([-0.5, -0.25])))
        -1.5625

    Reference: MATH.md section 5, eq. 8.
    """
    p = checked(problem)
    states = rollout(problem, s0, actions, theta)
    rewards = jax.vmap(p.reward, (0, 0, 0, None))(
        at(states, slice(None, -1)), actions, counter(horizon(actions)), theta
    )
    return jnp.asarray(p.terminal(at(states, -1), theta), rewards.dtype) + jnp.sum(rewards)


def costates(
    problem: Problem, states: PyTree, actions: PyTree, theta: PyTree = None, *, method: str = "scan"
) -> PyTree:
    """The costates along a path: the gradient of the remaining reward with respect to each state.

        lambda_n = grad h(s_n),  lambda_k = dH_k/ds(s_k, a_k, lambda_{k+1})     (eq. 13, 14)

    Args:
        problem: reward, dynamics and terminal reward.
        states: pytree with leading axis n + 1.
        actions: pytree with leading axis n.
        theta: parameters handed to all three functions.
        method: "scan", one vector-Jacobian product a step; "associative", in about 2 log2(n) parallel levels from the
            n dense Jacobians (for accelerators; more arithmetic on a CPU).

    Returns:
        Costates with leading axis n + 1 (k = 0 .. n), like the states.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import Problem, costates, rollout
        >>> problem = Problem(lambda s, a, k, theta: -(s**2) - a**2, lambda s, a, k, theta: s + a)
        >>> actions = jnp.array([-0.5, -0.25])
        >>> costates(problem, rollout(problem, jnp.array(1.0), actions), actions).tolist()
        [-3.0, -1.0, 0.0]

    Reference: MATH.md section 5, eq. 13-14.
    """
    n, p = path_length(states, actions), checked(problem)
    checks.require(
        method in ("scan", "associative"), "method", repr(method), '"scan" or "associative"', "choose one of them"
    )
    last = jax.grad(p.terminal)(at(states, -1), theta)
    if method == "associative":
        return _associative(p, states, actions, last, theta)
    slope = jax.grad(hamiltonian(problem))

    def step(costate, now):
        k, s, a = now
        costate = slope(s, a, costate, k, theta)
        return costate, costate

    _, earlier = lax.scan(step, last, (counter(n), at(states, slice(None, -1)), actions), reverse=True)
    return joined(earlier, at(last, None))


def _associative(p: Problem, states, actions, last, theta):
    """lambda_k = r_s + f_s' lambda_{k+1} as a composition of affine maps, later map applied first."""
    n = horizon(actions)
    _, fold = trees.ravel(last)

    def maps(k, s, a):
        slope = jax.grad(p.reward)(s, a, k, theta)
        x, unravel = trees.ravel(s)
        jacobian = jax.jacrev(lambda y: trees.ravel(p.dynamics(unravel(y), a, k, theta))[0])(x)
        return jacobian.T, trees.ravel(slope)[0]

    F, g = jax.vmap(maps)(counter(n), at(states, slice(None, -1)), actions)
    end = trees.ravel(last)[0]
    F = jnp.concatenate([F, jnp.zeros_like(F[:1])])
    g = jnp.concatenate([g, end[None]])

    def compose(late, early):
        return early[0] @ late[0], (early[0] @ late[1][..., None])[..., 0] + early[1]

    return jax.vmap(fold)(lax.associative_scan(compose, (F, g), reverse=True)[1])


def stationarity(
    problem: Problem, s0: PyTree, states: PyTree, actions: PyTree, costates: PyTree, theta: PyTree = None
) -> Stationarity:
    """What must vanish on an optimal path: the gradient of the Lagrangian, in three parts.

        dL/dlambda:  s0 - s_0 and f(s_k, a_k, k) - s_{k+1}
        dL/ds:       dH_k/ds(s_k, a_k, lambda_{k+1}) - lambda_k and grad h(s_n) - lambda_n     (eq. 13, 14)
        dL/da:       dH_k/da(s_k, a_k, lambda_{k+1})                                           (eq. 15)

    Args:
        problem: reward, dynamics and terminal reward.
        s0: the prescribed first state.
        states, actions, costates: pytrees with leading axes n + 1, n and n + 1.
        theta: parameters handed to all three functions.

    Returns:
        A `Stationarity`. It equals `jax.grad(lagrangian(problem), (3, 1, 2))`.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import Problem, costates, rollout, stationarity
        >>> problem = Problem(lambda s, a, k, theta: -(s**2) - a**2, lambda s, a, k, theta: s + a)
        >>> s0, actions = jnp.array(1.0), jnp.array([-0.5, -0.25])
        >>> states = rollout(problem, s0, actions)
        >>> stationarity(problem, s0, states, actions, costates(problem, states, actions)).action.tolist()
        [0.0, 0.5]

    Reference: MATH.md section 5, eq. 13-15.
    """
    n, p, H = path_length(states, actions), checked(problem), hamiltonian(problem)
    checks.same_structure(costates, states, "costates", "states")
    before, after = slice(None, -1), slice(1, None)
    now = (at(states, before), actions, at(costates, after), counter(n))
    H_s, H_a = jax.vmap(lambda s, a, costate, k: jax.grad(H, (0, 1))(s, a, costate, k, theta))(*now)
    f = jax.vmap(lambda s, a, costate, k: p.dynamics(s, a, k, theta))(*now)
    h_s = jax.grad(p.terminal)(at(states, -1), theta)
    return Stationarity(
        dynamics=trees.subtract(joined(at(s0, None), f), states),
        costate=trees.subtract(joined(H_s, at(h_s, None)), costates),
        action=H_a,
    )
