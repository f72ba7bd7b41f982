"""Boundary-value problems: the path between two points that makes the action stationary, and what kind of point it is.

    0 = dS/dq_k = D_2 L_d(k-1, q_{k-1}, q_k) + D_1 L_d(k, q_k, q_{k+1}),   k = 1 .. N - 1,   q_0 and q_N fixed

The Hessian of S is block tridiagonal: a Newton step is one forward and one backward scan, O(N n^3). The blocks D_k of its
elimination carry its signature: the number of negative eigenvalues of all D_k is the Morse index. Index 0 is a minimum; else
descent on the action would run away from the answer. Comes from: `discrete`. Reference: MATH.md section 7; Milnor, Morse Theory.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks, trees
from learnlag_jax.meaning import by_meaning
from learnlag_jax.variation import linear, newton
from learnlag_jax.variation.discrete import discrete_euler_lagrange, discrete_lagrangian, inner_directions
from learnlag_jax.vocabulary import Array, PyTree, Status, first_failure, status_where


class StationaryPath(NamedTuple):
    """A path between two points with its proof.

    Attributes:
        value: positions q_0 .. q_N, leading axis N + 1; NaN unless `status` is 0.
        residual: dS/dq_k at the interior positions, leading axis N - 1.
        status: `Status`.
        steps: Newton steps.
        index: Morse index, int32: how many independent directions lower the action; 0 means a minimum. -1 on failure, where
            d2L/dv2 is not positive definite (Legendre's condition), for then there may be infinitely many, and where the
            elimination meets a pivot that is exactly zero.
        conjugate: the first time of the grid at which the path stops being a minimum (a conjugate point), NaN if none.
        times: (N + 1,) the times of the positions.
        action: the discrete action of the path.

    Example:
        >>> from learnlag_jax.variation import StationaryPath
        >>> StationaryPath._fields[:5]
        ('value', 'residual', 'status', 'steps', 'index')
    """

    value: PyTree
    residual: PyTree
    status: Array | int
    steps: Array | int
    index: Array
    conjugate: Array
    times: Array
    action: Array


def stationary_path(
    L: Callable,
    q0: PyTree,
    q1: PyTree,
    t0,
    t1,
    *,
    intervals: int,
    rule: str = "midpoint",
    stages: int = 1,
    guess: Callable | None = None,
    max_steps: int = 60,
) -> StationaryPath:
    """The path from (t0, q0) to (t1, q1) on which the action of L is stationary.

        dS = 0 with fixed ends; S the discrete action of `discrete_lagrangian(L, (t1 - t0) / intervals)`

    Args:
        L: `L(t, q, v)` -> scalar.
        q0, q1: end points, pytrees of real arrays.
        t0, t1: end times, t0 < t1.
        intervals: N >= 2; the error of the path falls as N^-2 (N^(-2 stages) with "gauss").
        rule, stages: of the discrete Lagrangian.
        guess: `guess(t)` -> coordinates, where the search begins; the straight line if left out. Long or unstable paths
            (a status that is not 0) need one of roughly the right shape.
        max_steps: limit on Newton steps.

    Returns:
        `StationaryPath`; differentiable in q0, q1, t0, t1 and whatever L closes over, through the stationarity.

    Raises:
        InputError: fewer than two intervals, t0 >= t1 or not finite, ends or a guess of different shape; DTypeError: or dtype, or leaves of two.
        Statuses: max_steps, stagnated, nonfinite_function, infeasible (t0 >= t1 seen under `jit`).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import stationary_path
        >>> oscillator = lambda t, q, v: v**2 / 2 - q**2 / 2
        >>> path = stationary_path(oscillator, 0.0, 1.0, 0.0, 4.0, intervals=100)  # longer than half a period, pi
        >>> int(path.status), int(path.index), round(float(path.conjugate), 1)
        (0, 1, 3.2)

    Reference: MATH.md section 7; Milnor, Morse Theory (1963); Marsden and West 2001.
    """
    checks.whole(intervals, "intervals", 2, "raise it")
    q0, q1 = jax.tree.map(jnp.asarray, (q0, q1))
    checks.floating(q0, "q0")
    checks.same_structure(q1, q0, "q1", "q0")
    q0, q1 = checks.settle(q0, q1)
    checks.same_dtypes(q1, q0, "q1", "q0")
    checks.one_dtype(q0, "q0")
    dtype = trees.ravel(q0)[0].dtype
    span = _span(t0, t1, dtype, intervals)
    ends = q0, q1, jnp.asarray(t0, dtype), span
    if guess is not None:
        jax.eval_shape(lambda t: checks.alike(guess(t), q0, "guess(t)", "q0"), ends[2])
    seen, begun = by_meaning(L, ends[2], q0, q0), guess and by_meaning(guess, ends[2])
    return _stationary_path(seen, intervals, rule, stages, begun, max_steps, *ends)


def _span(t0, t1, dtype, intervals: int) -> Array:
    """t1 - t0: of numbers that can be seen, before either is rounded, and refused where the grid's times would run together."""
    largest = float(jnp.finfo(dtype).max)
    for name, t in (("t0", t0), ("t1", t1)):
        checks.shape(t, (), name)
        ok = np.isrealobj(t) and (checks.is_traced(t) or abs(float(t)) <= largest)
        checks.require(ok, name, t, f"a real number, finite in {dtype}", "choose a moment")
    if checks.is_traced(t0, t1):
        return jnp.asarray(t1, dtype) - jnp.asarray(t0, dtype)
    begin, end = float(t0), float(t1)
    checks.require(begin < end, "t0, t1", f"{t0}, {t1}", "t0 < t1", "swap the ends")
    apart = (end - begin) / intervals > float(jnp.finfo(dtype).eps) * max(abs(begin), abs(end))
    expected, remedy = f"times that {dtype} tells apart", "measure time from t0, or use float64"
    checks.require(apart, "t0, t1", f"{t0}, {t1}", expected, remedy)
    return jnp.asarray(end - begin, dtype)


@functools.partial(jax.jit, static_argnums=range(6))
def _stationary_path(L, intervals, rule, stages, guess, max_steps, q0, q1, t0, span) -> StationaryPath:
    (x0, fold), (x1, _) = trees.ravel(q0), trees.ravel(q1)
    share = jnp.linspace(0, 1, intervals + 1, dtype=x0.dtype)
    times = t0 + span * share
    shifted = lambda t, x, v: L(t0 + t, fold(x), fold(v))
    Ld = discrete_lagrangian(shifted, span / intervals, rule=rule, stages=stages)
    gradient = _interior_gradient(Ld, x0, x1, intervals)
    line = x0[None] + share[:, None] * (x1 - x0)[None]
    start = (line if guess is None else jax.vmap(lambda t: trees.ravel(guess(t))[0].astype(x0.dtype))(times))[1:-1]
    fixed = jax.lax.stop_gradient((x0, x1))
    size = lambda inner: jnp.max(jnp.abs(jax.vmap(jax.grad(Ld, 1))(*_steps(fixed[0], inner, fixed[1]))), axis=0)
    found = newton.root(gradient, start, offset=size, max_steps=max_steps, step=_newton_step, tangent=_tangent)
    k, starts, ends = _steps(x0, found.value, x1)
    action = jnp.sum(jax.vmap(Ld)(k, starts, ends))
    status = first_failure(
        status_where(~(span > 0), Status.infeasible),
        found.status,
        status_where(~jnp.isfinite(action), Status.nonfinite_function),
    )
    failed = status != 0
    pivots = _pivots(gradient, jax.lax.stop_gradient(found.value))
    clean = jnp.all(jnp.isfinite(pivots) & (pivots != 0))
    # the direction of a pivot is there at the next node, that inside a step at the end of the step
    negative = jnp.zeros(intervals + 1, jnp.int32).at[2:].set(jnp.sum(pivots < 0, axis=1, dtype=jnp.int32))
    if rule == "gauss" and stages > 1:
        inside = lambda t, x, y: inner_directions(shifted, t, span / intervals, x, y, stages)
        negative = negative.at[1:].add(jax.vmap(inside)((span * share)[:-1], starts, ends))
    X = jnp.where(failed, jnp.nan, jnp.concatenate([x0[None], found.value, x1[None]]))
    countable = ~failed & clean & _convex(shifted, span * share, X)
    return StationaryPath(
        jax.vmap(fold)(X),
        jax.vmap(fold)(found.residual),
        status,
        found.steps,
        jnp.where(countable, jnp.sum(negative, dtype=jnp.int32), -1),
        jnp.where(countable & jnp.any(negative > 0), times[jnp.argmax(negative > 0)], jnp.nan),
        times,
        jnp.where(failed, jnp.nan, action),
    )


def _convex(L: Callable, times: Array, X: Array) -> Array:
    """Legendre's condition at the middle of every interval: d2L/dv2 is positive definite, to rounding, in any units."""
    x, h = jax.lax.stop_gradient(X), jnp.diff(jax.lax.stop_gradient(times))
    middle = (times[:-1] + h / 2, (x[:-1] + x[1:]) / 2, jnp.diff(x, axis=0) / h[:, None])
    M = jax.vmap(jax.hessian(L, 2))(*middle)
    positive = jnp.all(jnp.diagonal(M, axis1=1, axis2=2) > 0)  # then the other eigenvalues are those of a unit diagonal
    # a mass may grow along the path: every moment has units of its own
    each = jax.vmap(lambda m: _in_units(m[None])[0])(M)
    return positive & jnp.all(jnp.linalg.eigvalsh(each) > 64 * jnp.finfo(x.dtype).eps)


def _in_units(M: Array) -> Array:
    """Symmetric matrices (N, n, n) over the roots of their largest diagonals: signs stay, and units no longer round them."""
    size = jnp.max(jnp.abs(jnp.diagonal(M, axis1=1, axis2=2)), axis=0)
    s = jnp.sqrt(linear.reciprocal(size))
    return M * s[None, :, None] * s[None, None]


def _steps(x0, interior, x1):
    X = jnp.concatenate([x0[None], interior, x1[None]])
    return jnp.arange(len(X) - 1, dtype=jnp.int32), X[:-1], X[1:]


def _interior_gradient(Ld: Callable, x0: Array, x1: Array, intervals: int) -> Callable:
    E = jax.vmap(discrete_euler_lagrange(Ld))
    k = jnp.arange(1, intervals, dtype=jnp.int32)

    def gradient(interior):
        X = jnp.concatenate([x0[None], interior, x1[None]])
        return E(k, X[:-2], X[1:-1], X[2:])

    return gradient


def blocks(apply: Callable, shape: tuple[int, ...], dtype) -> tuple[Array, Array]:
    """Row sums A_k + B_k + B_{k-1}' and upper blocks B_k of a block-tridiagonal operator, (N, n, n) each, from 4 n products."""
    N, n = shape
    colour = (jnp.arange(N) % 3)[:, None]
    masks = [jnp.ones((N, 1), dtype), *((colour == c).astype(dtype) for c in range(3))]
    probes = jnp.stack([mask * jnp.eye(n, dtype=dtype)[j][None] for mask in masks for j in range(n)])
    columns = jnp.moveaxis(jax.vmap(apply)(probes).reshape(4, n, N, n), 1, -1)
    k = jnp.arange(N)
    return columns[0], jnp.where((k < N - 1)[:, None, None], columns[1 + (k + 1) % 3, k], 0)


def _eliminate(sums: Array, upper: Array, right: Array) -> tuple[Array, Array]:
    """Solve the symmetric block-tridiagonal system, and the pivot blocks D_k = A_k - B_{k-1}' D_{k-1}^-1 B_{k-1}.

    B is of the order 1 / h and D + B of the order 1 / (t - t0): the difference, which holds the potential, would be lost in
    float32 with a few hundred intervals. With U = D + B from the row sums, U_k = sums_k - B_{k-1}' D_{k-1}^-1 U_{k-1}, no
    digits cancel (the idea of Grassmann, Taksar and Heyman 1985).
    """
    zero = jnp.zeros_like(sums[0])

    def forward(carry, now):
        D_inverse_U, D_inverse_y, B = carry
        row, B_next, r = now
        U = row - B.T @ D_inverse_U
        D = U - B_next
        # two solves: the matrix must not become linear in the right side, or reverse mode could not transpose the scan
        both = linear.solve(D, jnp.concatenate([U, B_next], axis=1))[0]
        Dy = linear.solve(D, r - B.T @ D_inverse_y)[0]
        return (both[:, : len(U)], Dy, B_next), (D, both[:, len(U) :], Dy)

    _, (D, DB, Dy) = jax.lax.scan(forward, (zero, right[0] * 0, zero), (sums, upper, right))

    def backward(x_next, now):
        DB, Dy = now
        x = Dy - DB @ x_next
        return x, x

    _, x = jax.lax.scan(backward, jnp.zeros_like(right[0]), (DB, Dy), reverse=True)
    return x, D


def _newton_step(f: Callable, x: Array):
    """f(x), Newton's direction by block elimination, y -> |Hessian| y and y -> gross(Hessian) y, and whether it was regular."""
    r, push = jax.linearize(f, x)
    sums, upper = blocks(push, x.shape, x.dtype)
    direction, _ = _eliminate(sums, upper, -r)
    regular = jnp.all(jnp.isfinite(direction))
    return r, jnp.where(regular, direction, newton.away(x, r)), *_spreads(sums, upper), regular


def _spreads(sums: Array, upper: Array) -> tuple[Callable, Callable]:
    """y -> |A| y + |B| y of the next node + |B'| y of the last one, (N - 1, n), and the same of their `newton.gross`."""
    lower = jnp.concatenate([jnp.zeros_like(upper[:1]), jnp.swapaxes(upper[:-1], 1, 2)])
    after, before = (lambda y: jnp.roll(y, -1, 0).at[-1].set(0)), (lambda y: jnp.roll(y, 1, 0).at[0].set(0))
    A = sums - upper - lower
    d = jnp.sqrt(jnp.abs(jnp.diagonal(A, axis1=1, axis2=2)))
    times = lambda M, y: jnp.sum(M * y[:, None, :], axis=2)
    spread = lambda A, B, C: lambda y: times(A, y) + times(B, after(y)) + times(C, before(y))
    most = newton.gross(A, d, d), newton.gross(upper, d, after(d)), newton.gross(lower, d, before(d))
    return spread(*map(jnp.abs, (A, upper, lower))), spread(*most)


def _tangent(g: Callable, y: Array) -> Array:
    return _eliminate(*blocks(g, y.shape, y.dtype), y)[0]


def _pivots(f: Callable, x: Array) -> Array:
    """Eigenvalues of every pivot block, (N - 1, n): their signs are those of the Hessian of the action (Sylvester)."""
    r, push = jax.linearize(f, x)
    _, D = _eliminate(*blocks(push, x.shape, x.dtype), r)
    return jnp.linalg.eigvalsh(_in_units((D + jnp.swapaxes(D, 1, 2)) / 2))
