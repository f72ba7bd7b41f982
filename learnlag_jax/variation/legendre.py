"""The Legendre transform, by solving dF/dx = w, and the two functions it joins: L and H.

    G(w) = w . x - F(x)   with   dF/dx (x) = w            H(t, q, p) = p . v - L(t, q, v)      (eq. 4, 21)

Newton's method on the slope, not a quadratic shortcut; exact derivatives of every order through the implicit function
theorem. Where no x has the slope w the answer is NaN. Comes from: `lagrange`. Goes to: `hamilton`.
Reference: MATH.md section 2, eq. 4, 21.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax import checks, trees
from learnlag_jax.variation import newton
from learnlag_jax.variation.path import local
from learnlag_jax.vocabulary import PyTree, Solution, Status


def conjugate_point(F: Callable, w: PyTree, start: PyTree | None = None) -> Solution:
    """The point where a function has a given slope: x with dF/dx (x) = w.

    Args:
        F: `F(x)` -> scalar, strictly convex where it is used. This is not checked: of a function that is not convex, the answer
            is one of its points with that slope, the one to which Newton's method comes from `start`.
        w: the slope, a pytree like x.
        start: where the search begins, inside the domain of F, shaped like w; zero if left out. Where w is zero its size also says
            what is small: a search that only shrinks x, as for |x|^3, ends when nothing is left of the start.

    Returns:
        `Solution` with x, dF/dx - w, status and steps; x is NaN and the status `out_of_domain` if no point was found.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import conjugate_point
        >>> round(float(conjugate_point(jnp.exp, jnp.array(2.0)).value), 6)  # log 2
        0.693147
        >>> int(conjugate_point(jnp.exp, jnp.array(-1.0)).status)  # exp has no negative slope
        14

    Reference: MATH.md section 2, eq. 4.
    """
    w = jax.tree.map(jnp.asarray, w)
    checks.floating(w, "w")
    flat, fold = trees.ravel(w)
    slope = jax.grad(lambda x: checks.scalar_function(F, "F")(fold(x)))
    if start is not None:
        checks.same_structure(start, w, "start", "w")
        start = jax.tree.map(lambda x, like: jnp.asarray(x).astype(like.dtype), start, w)
    first = jnp.zeros_like(flat) if start is None else trees.ravel(start)[0]
    found = newton.root(lambda x: slope(x) - flat, first, offset=jax.lax.stop_gradient(jnp.abs(flat)))
    failed = found.status != 0
    status = jnp.where(failed & (found.status != Status.nonfinite_function), int(Status.out_of_domain), found.status)
    x = jnp.where(failed, jnp.nan, found.value)
    return Solution(fold(x), fold(found.residual), status.astype(jnp.int32), found.steps)


def legendre(F: Callable, *, start: PyTree | None = None) -> Callable:
    """The Legendre transform of a strictly convex function.

        G(w) = w . x - F(x),   dF/dx (x) = w

    Args:
        F: `F(x)` -> scalar, x any pytree of real arrays.
        start: where the search for x begins; zero if left out.

    Returns:
        `G(w)`, w like x. Its gradient is x; transforming twice gives F back. NaN where no x has the slope w.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import legendre
        >>> G = legendre(lambda x: x**4 / 4)
        >>> round(float(G(jnp.array(8.0))), 6)  # (3/4) 8^(4/3)
        12.0

    Reference: MATH.md section 2, eq. 4, 21; Rockafellar, Convex Analysis 12.
    """

    def G(w):
        w = jax.tree.map(jnp.asarray, w)
        x = conjugate_point(F, w, start).value
        return trees.dot(w, x) - F(x)

    return G


def hamiltonian(L: Callable, *, start: PyTree | None = None) -> Callable:
    """The Hamiltonian of a Lagrangian.

        H(t, q, p) = p . v - L(t, q, v),   dL/dv = p        (eq. 4, 21)

    Args:
        L: `L(t, q, v)` -> scalar, strictly convex in v.
        start: a velocity where the search begins; zero if left out.

    Returns:
        `H(t, q, p)`, p shaped like q; differentiable to every order, NaN where no v has the momentum p.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import hamiltonian
        >>> H = hamiltonian(lambda t, q, v: -jnp.sqrt(1 - v**2))  # a relativistic particle
        >>> round(float(H(0.0, 0.0, 0.75)), 6)  # sqrt(1 + p^2)
        1.25

    Reference: MATH.md section 2, eq. 4, 21.
    """

    def H(t, q, p):
        t, q, p = local(t, q, p, names=("q", "p"))
        return legendre(lambda v: checks.scalar_function(L, "L")(t, q, v), start=start)(p)

    return H


def lagrangian(H: Callable, *, start: PyTree | None = None) -> Callable:
    """The Lagrangian of a Hamiltonian: the same transform, read backwards.

        L(t, q, v) = p . v - H(t, q, p),   dH/dp = v

    Args:
        H: `H(t, q, p)` -> scalar, strictly convex in p.
        start: a momentum where the search begins; zero if left out.

    Returns:
        `L(t, q, v)`.

    Example:
        >>> from learnlag_jax.variation import lagrangian
        >>> L = lagrangian(lambda t, q, p: p**2 / 4 + q**2)
        >>> float(L(0.0, 1.0, 3.0))  # v^2 - q^2
        8.0

    Reference: MATH.md section 2, eq. 21.
    """

    def L(t, q, v):
        t, q, v = local(t, q, v)
        return legendre(lambda p: checks.scalar_function(H, "H")(t, q, p), start=start)(v)

    return L
