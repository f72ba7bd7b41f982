"""Receding horizon: act, see where the system went, shift the plan by one step and solve again from there."""

import jax
import jax.numpy as jnp

from learnlag_jax import trees
from learnlag_jax.control.problem import Problem, at, joined
from learnlag_jax.control.trajectory import Trajectory, solve
from learnlag_jax.vocabulary import PyTree


def mpc_step(
    problem: Problem,
    s: PyTree,
    plan: Trajectory,
    theta: PyTree = None,
    *,
    lower: PyTree | None = None,
    upper: PyTree | None = None,
    tol: float | None = None,
    max_steps: int = 1,
) -> Trajectory:
    """The next plan of a receding horizon, warm-started by the last one shifted one step.

        actions0 = (a_1 + K_1 (s - s_1), a_2, ..., a_{n-1}, a_{n-1}), then `solve` with at most max_steps Newton steps

    Args:
        problem: reward, dynamics and terminal reward; its step number k counts from the present.
        s: the measured state.
        plan: the last answer of `solve` or `mpc_step`.
        theta: parameters; lower, upper: bounds; tol, max_steps: as in `solve`. One Newton step is often enough.

    Returns:
        A `Trajectory` from s; apply its first action, `plan.actions[0]`. Its status is max_steps where the residual,
        which is returned, is still above the tolerance. Same shapes as `plan`: under `jit` there is one compilation.

    Raises:
        As `solve`. A plan that failed with NaN is replaced by zero actions.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import Problem, mpc_step, solve
        >>> problem = Problem(lambda s, a, k, theta: -(s**2) - a**2, lambda s, a, k, theta: s + a)
        >>> plan = solve(problem, jnp.array(1.0), jnp.zeros(10))
        >>> again = mpc_step(problem, plan.states[1] + 0.1, plan)
        >>> int(again.status), round(float(again.actions[0]), 4)
        (0, -0.2979)

    Reference: Rawlings, Mayne and Diehl, Model Predictive Control (2017), chapter 8.
    """
    x, _ = trees.ravel(s)
    old, _ = trees.ravel(at(plan.states, 1))
    a, fold = trees.ravel(at(plan.actions, min(1, len(plan.K) - 1)))
    first = fold(a + plan.K[min(1, len(plan.K) - 1)] @ (x - old))
    rest, last = at(plan.actions, slice(2, None)), at(plan.actions, slice(-1, None))
    shifted = joined(at(first, None), rest, last) if len(plan.K) > 1 else at(first, None)
    usable = trees.all_finite(shifted)
    actions0 = jax.tree.map(lambda leaf: jnp.where(usable, leaf, jnp.zeros_like(leaf)), shifted)
    return solve(problem, s, actions0, theta, lower=lower, upper=upper, tol=tol, max_steps=max_steps)
