"""The equation of motion solved for the acceleration, with forces and constraints, and a status for the mass matrix.

    E(t, q, v, a) + force + A' lambda = 0,   E = dL/dq - dp/dt = E_0 - M a,   M = d^2 L / dv dv
    A a + b = 0                              the time derivative of a constraint c(t, q, v) = 0, A = dc/dv

Comes from: `lagrange`. Goes to: any integrator. Reference: MATH.md section 2; Sussman and Wisdom, SICM 1.7, 1.10.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks, trees
from learnlag_jax.variation import linear, structured
from learnlag_jax.variation.lagrange import euler_lagrange
from learnlag_jax.variation.path import local, total_derivative
from learnlag_jax.vocabulary import Array, PyTree, Status, first_failure, status_where

STRUCTURED = {
    "diagonal": structured.diagonal,
    "tridiagonal": structured.tridiagonal,
    "cg": structured.positive_definite,
}
MASSES = ("dense", *STRUCTURED)


class Motion(NamedTuple):
    """The acceleration at one instant, and what proves it.

    Attributes:
        value: the acceleration, shaped like q; NaN unless the mass matrix is regular.
        residual: E + force + A' lambda at the answer, shaped like q.
        status: `Status`: `singular` or `ill_conditioned` mass; `inconsistent` where the mass is not "diagonal" or "tridiagonal"
            as it was said to be; `not_positive_definite` or `max_steps` for "cg"; `nonfinite_function` where L is NaN, `nonfinite_derivative` where a slope
            or a force is.
        steps: 1; the equation is linear.
        multipliers: (m,) lambda, the constraint forces are A' lambda; empty without a constraint.

    Example:
        >>> from learnlag_jax.variation import Motion
        >>> Motion._fields[:3]
        ('value', 'residual', 'status')
    """

    value: PyTree
    residual: PyTree
    status: Array
    steps: Array
    multipliers: Array


def motion(
    L: Callable, *, force: Callable | None = None, constraint: Callable | None = None, mass: str = "dense"
) -> Callable:
    """The equation of motion with its status: like `acceleration`, and it says whether the answer may be used.

        M a - A' lambda = E_0 + force,   A a = -b

    Args:
        L: `L(t, q, v)` -> scalar.
        force: `force(t, q, v)` -> generalised force, shaped like q, whose dtype plain numbers and integers take; adds to E.
        constraint: `c(t, q, v)` -> scalar or vector, zero on the motion, by d'Alembert's rule (reactions along dc/dv);
            for a holonomic g(t, q) = 0 pass `holonomic(g)`. Its rate is held at zero: a start that breaks it by c stays off
            by c, and is not reported here.
        mass: how M is solved: "dense"; "diagonal" and "tridiagonal" from one and three products; "cg" without any matrix,
            for a positive definite M in like units (it judges all coordinates by one norm). Only "dense" takes constraints. "cg" calls an M singular too that is so
            ill-conditioned that 2n products do not solve an equation with it.

    Returns:
        `motion(t, q, v)` -> `Motion`.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import motion
        >>> free = motion(lambda t, q, v: 0.0 * q * v)(0.0, 1.0, 2.0)  # no mass at all
        >>> int(free.status), bool(jnp.isnan(free.value))
        (9, True)

    Reference: MATH.md section 2.
    """
    solved = _equation(L, force, constraint, mass)

    def instant(t, q, v):
        a, fold, balance, reaction, multipliers, status = solved(t, q, v)
        outside = ~jnp.isfinite(L(*local(t, q, v)))  # derivatives may be finite there: log(-1) has one
        failed = outside | jnp.isnan(a[0])
        status = first_failure(
            status,
            status_where(outside, Status.nonfinite_function),
            status_where(failed, Status.nonfinite_derivative),  # M regular, the forces not
        )
        rest = jnp.zeros_like(a)
        residual = fold(balance(jnp.where(failed, rest, a)) + jnp.where(failed, rest, reaction))
        return Motion(fold(jnp.where(failed, jnp.nan, a)), residual, status, jnp.int32(1), multipliers)

    return instant


def _equation(L: Callable, force: Callable | None, constraint: Callable | None, mass: str) -> Callable:
    """`solved(t, q, v)` -> acceleration, fold, E + force of any other, reaction, multipliers, status of the solve."""
    checks.require(mass in MASSES, "mass", repr(mass), "one of " + ", ".join(MASSES), "choose one")
    checks.require(
        mass == "dense" or constraint is None, "mass", repr(mass), "'dense' with a constraint", "leave mass out"
    )
    E = euler_lagrange(L)

    def solved(t, q, v):
        t, q, v = local(t, q, v)
        _, fold = trees.ravel(q)
        push = trees.zeros_like(q) if force is None else force(t, q, v)
        push = checks.alike(push, q, "force(t, q, v)", "q")

        def balance(a):
            return trees.ravel(trees.add(E(t, q, v, fold(a)), push))[0]

        rest = trees.ravel(trees.zeros_like(q))[0]
        multipliers, reaction = jnp.zeros((0,), rest.dtype), jnp.zeros_like(rest)
        if constraint is None and mass == "dense" and rest.size <= linear.UNROLLED:
            a, status = _written_out(L, push, t, q, v)
        else:
            start, push_mass = jax.linearize(balance, rest)
            minus = lambda x: -push_mass(x)
            if constraint is None:
                a, status = _solved(minus, start, mass)
            else:
                a, multipliers, reaction, status = _constrained(minus, start, constraint, t, q, v)
            a = jnp.where(jnp.all(jnp.isfinite(a)), a, jnp.nan)
        return a, fold, balance, reaction, multipliers, status

    return solved


def _written_out(L: Callable, push: PyTree, t, q: PyTree, v: PyTree) -> tuple[Array, Array]:
    """Few coordinates: every entry of M and of the right side is its own scalar, by forward mode, one loop for a batch."""
    x, fold = trees.ravel(q)
    axes = [fold(jnp.asarray(e)) for e in np.eye(x.size, dtype=x.dtype)]
    along = lambda f, point, direction: jax.jvp(f, point, direction)[1]
    checked = checks.scalar_function(L, "L")

    def momentum(e):
        return lambda t, q, v: along(lambda v: checked(t, q, v), (v,), (e,))

    force = [along(lambda q: checked(t, q, v), (q,), (e,)) for e in axes]
    rate = [along(lambda t, q, e=e: momentum(e)(t, q, v), (t, q), (jnp.ones_like(t), v)) for e in axes]
    half = [[along(lambda v, e=e: momentum(e)(t, q, v), (v,), (d,)) for d in axes[: i + 1]] for i, e in enumerate(axes)]
    M = [[half[max(i, j)][min(i, j)] for j in range(x.size)] for i in range(x.size)]
    extra = trees.ravel(push)[0]
    right = [f - r + extra[i] for i, (f, r) in enumerate(zip(force, rate, strict=True))]
    a, status = linear.solve_entries(M, right)
    usable = functools.reduce(jnp.logical_and, [jnp.isfinite(x) for x in a])
    return jnp.stack([jnp.where(usable, x, jnp.nan) for x in a]), status


def _solved(apply: Callable, b: Array, mass: str) -> tuple[Array, Array]:
    if mass in STRUCTURED:
        return STRUCTURED[mass](apply, b)
    return linear.solve(jax.vmap(apply)(jnp.eye(b.shape[0], dtype=b.dtype)).T, b)


def _constrained(apply: Callable, b: Array, constraint: Callable, t, q, v):
    """The saddle-point system [[M, -A'], [A, 0]] (a, lambda) = (b, -c), in units in which M has a unit diagonal and A unit rows."""
    _, fold = trees.ravel(v)
    checks.vector_function(constraint, "constraint", t, q, v)
    flat = lambda v: jnp.atleast_1d(constraint(t, q, v))
    A = jax.vmap(lambda e: jax.jvp(flat, (v,), (fold(e),))[1])(jnp.eye(b.shape[0], dtype=b.dtype)).T
    c = jnp.atleast_1d(total_derivative(constraint)(t, q, v, trees.zeros_like(v)))
    M = jax.vmap(apply)(jnp.eye(b.shape[0], dtype=b.dtype)).T
    m = A.shape[0]
    s = jnp.sqrt(linear.reciprocal(jnp.abs(jnp.diagonal(M))))  # rows of M over those of A alone would lose a light body
    rows = linear.reciprocal(jnp.max(jnp.abs(A) * s[None], axis=1))
    B = A * s[None] * rows[:, None]
    system = jnp.block([[M * s[:, None] * s[None], -B.T], [B, jnp.zeros((m, m), b.dtype)]])
    solution, status = linear.solve(system, jnp.concatenate([s * b, -rows * c]))
    a, multipliers = s * solution[: b.shape[0]], rows * solution[b.shape[0] :]
    return a, multipliers, A.T @ multipliers, status


def acceleration(
    L: Callable, *, force: Callable | None = None, constraint: Callable | None = None, mass: str = "dense"
) -> Callable:
    """The acceleration that a Lagrangian commands.

        a(t, q, v) = M^-1 (dL/dq - d/dt dL/dv at a = 0 + force),   M = d^2 L / dv dv

    Args:
        L: `L(t, q, v)` -> scalar.
        force: `force(t, q, v)` -> generalised force, shaped like q (see `rayleigh` for dissipation).
        constraint: `c(t, q, v)` -> scalar or vector held at zero; `holonomic(g)` for g(t, q) = 0.
        mass: "dense", "diagonal", "tridiagonal" or "cg", as in `motion`.

    Returns:
        `a(t, q, v)`, shaped like q; NaN where the mass matrix is singular (`motion` says why). L itself is not evaluated: outside
        of its domain, where a slope may still be a number (of log(q) at -1), only `motion` gives NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import acceleration
        >>> a = acceleration(lambda t, q, v: v**2 / 2 + jnp.cos(q))
        >>> round(float(a(0.0, 0.5, 1.0)), 6)  # -sin(q)
        -0.479426

    Reference: MATH.md section 2.
    """
    solved = _equation(L, force, constraint, mass)

    def commanded(t, q, v):
        a, fold, *_ = solved(t, q, v)
        return fold(a)

    return commanded


def holonomic(g: Callable) -> Callable:
    """A constraint on positions, g(t, q) = 0, in the form that motions take: its rate.

        c(t, q, v) = dg/dt + dg/dq v

    Args:
        g: `g(t, q)` -> scalar or vector, zero at the start and, by its rate, ever after.

    Returns:
        `c(t, q, v)` for `acceleration(L, constraint=...)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import acceleration, holonomic
        >>> rod = holonomic(lambda t, q: q @ q - 1.0)
        >>> a = acceleration(lambda t, q, v: v @ v / 2 - 9.81 * q[1], constraint=rod)
        >>> [round(float(x), 6) for x in a(0.0, jnp.array([0.0, -1.0]), jnp.array([2.0, 0.0]))]  # centripetal
        [0.0, 4.0]

    Reference: MATH.md section 2; Goldstein, Classical Mechanics 1.3.
    """
    return total_derivative(g)
