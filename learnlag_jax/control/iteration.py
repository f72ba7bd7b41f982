"""Solving Markov decision processes, stopped by certified bounds.

Every method repeats: from v, one sweep gives T v, the greedy policy pi and the bounds of `bellman.bounds`; if they are
tight enough, stop; else improve v. Value iteration takes T v; Gauss-Seidel the same state by state (or in 4096 blocks), each from the newest
values of the others, which carries news along chains of states in one sweep; modified policy iteration goes on with sweeps of T_pi, which
cost 1/A of a sweep of T, while they still flatten the increments; policy iteration and the Krylov method solve for the value
of pi, exactly or roughly. Only T and the bounds need every digit; whatever v comes between is judged by them. The answer is the midpoint of the bounds: this midrange correction costs nothing and can save most
of the sweeps.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from learnlag_jax import checks, trees
from learnlag_jax.control.bellman import alike, bellman, enclosed, factors, floor, largest_reward, margins, rounding
from learnlag_jax.control.implicit import bicgstab, moved, still, usable, values_response
from learnlag_jax.control.mdp import MDP, ill_posed
from learnlag_jax.control.operators import action_values, block, under, under_matrix
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where

METHODS = ("auto", "value_iteration", "gauss_seidel", "modified_policy_iteration", "policy_iteration", "krylov")
SWEEPS, AT_A_TIME, SETTLED = 20, 5, 20
BLOCKS = 4096
KRYLOV_TOLERANCE, KRYLOV_STEPS = 1e-2, 60
LARGEST_DIRECT = 8192


class Values(NamedTuple):
    """Optimal values with bounds that contain them.

    Attributes:
        value: [S], the midpoint of the bounds.
        residual: largest |T value - value|, the Bellman residual (scalar).
        status: `Status`; converged if the largest upper - lower is at most the tolerance.
        steps: sweeps of T taken; the first, from v = 0, is the rewards themselves.
        policy: [S] int32, greedy; its own value is also at least `lower`, so it loses at most upper - lower.
        lower, upper: [S], bounds that contain V* whatever the status (except nonfinite_input: NaN).
        sweeps: sweeps of T_pi taken, each 1/A of the work of one of T.

    Example:
        >>> from learnlag_jax.control import Values
        >>> Values._fields[:4]
        ('value', 'residual', 'status', 'steps')
    """

    value: Array
    residual: Array
    status: Array
    steps: Array
    policy: Array
    lower: Array
    upper: Array
    sweeps: Array


class _Iterate(NamedTuple):
    v: Array
    Tv: Array
    policy: Array
    gap: Array
    floor: Array
    largest: Array
    steps: Array
    sweeps: Array
    slow: Array


def solve_mdp(
    mdp: MDP, *, method: str = "auto", tol: float = 1e-6, max_steps: int = 100_000, v0: Array | None = None
) -> Values:
    """Optimal values and policy of a Markov decision process, with certified bounds.

        V(s) = max_a r(s, a) + discount sum_s' P(s' | s, a) V(s'),   lower <= V <= upper     (eq. 19, 20)

    Args:
        mdp: the process.
        method: "value_iteration"; "gauss_seidel", sweeps block by block, there and back, for
            processes where values travel along the order of the states; "modified_policy_iteration"; "policy_iteration", with a direct solve of
            (I - discount P_pi) v = r_pi; "krylov", a Newton step (I - discount P_pi) x = T v - v by BiCGStab to one
            percent, taken only if it tightens the bounds, else a step of modified policy iteration; "auto", modified policy
            iteration that turns to Krylov steps once the policy has settled and its sweeps still mix slowly.
        tol: stop when the largest upper - lower is at most this, in units of the reward.
        max_steps: limit on sweeps of the Bellman operator.
        v0: [S] first guess; zero if left out.

    Returns:
        A `Values`. The bounds contain V* at any limit on the sweeps. `value` is differentiable, forward and reverse, by
        rewards, probabilities, discount and theta: dV = (I - discount P_pi)^-1 (dr_pi + d(discount P_pi) V) of the greedy
        policy pi. `lower` and `upper` move with it, `residual` is a constant; where the status is a failure the derivatives
        are NaN.

    Raises:
        InputError: unknown method, tol <= 0, a v0 of the wrong shape, or more than 8192 states for a direct solve.
        Statuses: acceptable (bounds as tight as rounding allows, wider than tol), max_steps, nonfinite_input,
            inconsistent (under `jit` or `vmap`: rows that are not probabilities, a discount outside [0, 1], or discount x
            row sum not below 1; NaN values).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.control import mdp_dense, solve_mdp
        >>> P = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
        >>> answer = solve_mdp(mdp_dense(P, jnp.array([[0.0, 0.0], [1.0, 0.0]]), 0.5), tol=1e-9)
        >>> [round(float(v), 6) for v in answer.value], answer.policy.tolist()
        ([1.0, 2.0], [1, 0])

    Reference: MATH.md section 5; Puterman, Markov Decision Processes, 6.5-6.6.
    """
    checks.require(method in METHODS, "method", repr(method), f"one of {METHODS}", "choose one of them")
    checks.require(max_steps >= 1, "max_steps", max_steps, "at least 1", "allow one sweep")
    S = mdp.reward.shape[0]
    small = method != "policy_iteration" or S <= LARGEST_DIRECT
    checks.require(small, "method", f"policy_iteration on {S} states", f"<= {LARGEST_DIRECT}", 'use method="krylov"')
    if not checks.is_traced(tol):
        checks.require(tol > 0, "tol", tol, "a positive gap", "raise it")
    if v0 is not None:
        v0 = jnp.asarray(v0, mdp.reward.dtype)
        checks.shape(v0, mdp.reward.shape[:1], "v0")
    return _solve(mdp, v0, jnp.asarray(tol, mdp.reward.dtype), method, max_steps)


@functools.partial(jax.jit, static_argnames=("method", "max_steps"))
def _solve(mdp: MDP, v0: Array | None, tol: Array, method: str, max_steps: int) -> Values:
    return _solved(method, max_steps, mdp, v0, tol)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _solved(method: str, max_steps: int, mdp: MDP, v0: Array | None, tol: Array) -> Values:
    # a value that need not be finite has no bounds
    wrong = ill_posed(mdp) | jnp.isinf(factors(mdp)[1])

    def unfinished(it: _Iterate):
        return (it.gap > jnp.maximum(tol, it.floor)) & (it.steps < max_steps) & ~wrong

    end, improve = _first(mdp, v0), functools.partial(_IMPROVE[method], mdp)
    if method == "auto":
        end = lax.while_loop(lambda it: unfinished(it) & ~it.slow, improve, end)
        improve = functools.partial(_krylov, mdp)
    end = lax.while_loop(unfinished, improve, end)
    lower, upper = enclosed(mdp, end.v, end.Tv)
    value = lower + (upper - lower) / 2
    residual = trees.max_abs(bellman(mdp)(value) - value)
    # this last sweep keeps NaN, at a price that those before it need not pay
    lost = ~trees.all_finite((end.v, end.Tv)) | jnp.isnan(residual)
    value, lower, upper = trees.fill_where(lost | wrong, (value, lower, upper))
    status = first_failure(
        status_where(wrong, Status.inconsistent),
        status_where(lost, Status.nonfinite_input),
        status_where((end.gap > tol) & (end.gap <= end.floor), Status.acceptable),
        status_where(~(end.gap <= tol), Status.max_steps),
    )
    return Values(value, residual, status, end.steps, end.policy, lower, upper, end.sweeps)


@_solved.defjvp
def _solved_jvp(method: str, max_steps: int, primals, tangents):
    """The value of the greedy policy moves; the bounds move along, the residual is a constant."""
    got = _solved(method, max_steps, *primals)
    b = moved(primals[0], tangents[0], got.policy, got.value)
    dV = usable(got.status, b.dtype) * values_response(primals[0], got.policy, b)
    return got, still(got)._replace(value=dV, lower=dV, upper=dV)


def _first(mdp: MDP, v0: Array | None) -> _Iterate:
    """Where nothing is known about the future, v = 0, the sweep is the rewards themselves."""
    v = jnp.zeros(mdp.reward.shape[0], mdp.reward.dtype) if v0 is None else v0
    Q = mdp.reward if v0 is None else action_values(mdp, v)
    return _judged(mdp, v, Q, largest_reward(mdp), jnp.int32(1), jnp.int32(0), jnp.asarray(False))


def _judged(mdp: MDP, v: Array, Q: Array, largest, steps, sweeps, slow) -> _Iterate:
    """T v, the greedy policy, and how far apart the bounds are; below `floor` only rounding is left."""
    Tv, policy, slack = jnp.max(Q, 1), lax.argmax(Q, 1, jnp.int32), rounding(mdp, v, largest)
    least, most = jnp.min(Tv - v), jnp.max(Tv - v)
    below, above = margins(mdp, least, most, slack)
    lowest = floor(mdp, jnp.maximum(jnp.abs(least), jnp.abs(most)), slack)
    return _Iterate(v, Tv, policy, above - below, lowest, largest, steps, sweeps, slow)


def _next(mdp: MDP, it: _Iterate, v: Array, sweeps, slow: Any = False) -> _Iterate:
    count = it.steps + 1, it.sweeps + jnp.int32(sweeps)
    return _judged(mdp, v, action_values(mdp, v), it.largest, *count, jnp.asarray(slow))


def _value_iteration(mdp: MDP, it: _Iterate) -> _Iterate:
    return _next(mdp, it, it.Tv, 0)


def _gauss_seidel(mdp: MDP, it: _Iterate) -> _Iterate:
    """From T v, moved into the bounds, the blocks last to first and back, each from the newest values of all states."""
    S = len(it.v)
    size = -(-S // BLOCKS)
    forward = jnp.minimum(jnp.arange(0, S, size, dtype=jnp.int32), S - size)

    def update(v, first):
        new = jnp.max(action_values(block(mdp, first, size), v), 1)
        return lax.dynamic_update_slice_in_dim(v, new, first, 0), None

    nearest = jnp.clip(it.Tv, *enclosed(mdp, it.v, it.Tv))
    v, _ = lax.scan(update, nearest, jnp.concatenate([forward[::-1], forward]))
    return _next(mdp, it._replace(steps=it.steps + 2), v, 0)


def _spread(x: Array) -> Array:
    return jnp.max(x) - jnp.min(x)


def _modified(mdp: MDP, it: _Iterate) -> _Iterate:
    """Sweeps of T_pi from T v, until their increments are 5 A times flatter than those of T, which costs A of them.

    It is slow if all sweeps allowed are not enough and the gap is not even halved, though few states have changed their action: a
    policy that still moves is not worth a better value.
    """
    carry_over, increment, goal, unit = _increments(mdp, it)
    total, rest, count = _swept(carry_over, increment, goal)
    new = _next(mdp, it, it.Tv + unit * total.astype(it.v.dtype), count)
    settled = SETTLED * jnp.sum(new.policy != it.policy, dtype=jnp.int32) <= len(it.v)
    return new._replace(slow=(rest > goal) & settled & (new.gap > it.gap / 2))


def _increments(mdp: MDP, it: _Iterate) -> tuple[Callable, Array, Array, Array]:
    """discount P_pi, the increment T v - v it starts from, how flat its last image should be, and the unit of both.

    Of increments a few digits are enough, since the next T starts from whatever they lead to: float32 moves fewer bytes. A
    constant would hide the rest from it, and where rows sum alike it moves all values alike, which the bounds do not see: it
    is left out.
    """
    d = it.Tv - it.v
    low, high = jnp.min(d), jnp.max(d)
    increment = d - jnp.where(alike(mdp), low + (high - low) / 2, 0)
    size = jnp.max(jnp.abs(increment))
    # whatever the unit of the rewards, float32 holds numbers of size 1
    unit = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    goal = (high - low) / unit / (5 * mdp.reward.shape[1])
    short = (increment / unit).astype(jnp.float32), goal.astype(jnp.float32)
    return under(mdp, it.policy, jnp.float32)[1], *short, unit


def _swept(carry_over: Callable, increment: Array, goal: Array) -> tuple[Array, Array, Array]:
    """The sum of the images of an increment, how rough the last one is, and how many there were."""

    def sweep(_, carry):
        image = carry_over(carry[0])
        return image, carry[1] + image

    def sweeps(carry):
        image, total = lax.fori_loop(0, AT_A_TIME, sweep, carry[:2])
        return image, total, _spread(image), carry[3] + AT_A_TIME

    def rough(carry):
        return (carry[2] > goal) & (carry[3] < SWEEPS)

    start = increment, jnp.zeros_like(increment), jnp.float32(jnp.inf), jnp.int32(0)
    return lax.while_loop(rough, sweeps, start)[1:]


def _policy_iteration(mdp: MDP, it: _Iterate) -> _Iterate:
    reward, matrix = under_matrix(mdp, it.policy)
    return _next(mdp, it, jnp.linalg.solve(jnp.eye(len(reward), dtype=reward.dtype) - matrix, reward), 0)


def _krylov(mdp: MDP, it: _Iterate) -> _Iterate:
    """The Newton step for T v - v = 0, kept only if the bounds come at least a tenth closer."""
    _, carry_over = under(mdp, it.policy)
    x, count = bicgstab(lambda u: u - carry_over(u), it.Tv - it.v, KRYLOV_TOLERANCE, KRYLOV_STEPS)
    candidate = _next(mdp, it, it.v + x, count)
    careful = lambda: _modified(mdp, it._replace(sweeps=candidate.sweeps, steps=candidate.steps))
    return lax.cond(candidate.gap < 0.9 * it.gap, lambda: candidate, careful)


# what improves an iterate; "auto" goes on to Krylov steps once that is slow
_IMPROVE = {
    "auto": _modified,
    "value_iteration": _value_iteration,
    "gauss_seidel": _gauss_seidel,
    "modified_policy_iteration": _modified,
    "policy_iteration": _policy_iteration,
    "krylov": _krylov,
}
