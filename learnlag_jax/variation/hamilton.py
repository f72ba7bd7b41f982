"""Hamilton's equations, Poisson brackets, and the test of a canonical transformation.

    q' = dH/dp,   p' = -dH/dq          {f, g} = df/dq . dg/dp - df/dp . dg/dq

Comes from: `legendre`, or a Hamiltonian `H(t, q, p)`. Reference: MATH.md section 2; Sussman and Wisdom, SICM 3, 5.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax import checks, trees
from learnlag_jax.variation.path import local
from learnlag_jax.vocabulary import Array


def hamilton_equations(H: Callable) -> Callable:
    """The flow of a Hamiltonian.

        (q', p') = (dH/dp, -dH/dq)

    Args:
        H: `H(t, q, p)` -> scalar.

    Returns:
        `flow(t, q, p)` -> (q', p').

    Example:
        >>> from learnlag_jax.variation import hamilton_equations
        >>> flow = hamilton_equations(lambda t, q, p: p**2 / 2 + q**2 / 2)
        >>> [float(x) for x in flow(0.0, 1.0, 3.0)]
        [3.0, -1.0]

    Reference: MATH.md section 2.
    """
    slopes = jax.grad(checks.scalar_function(H, "H"), (1, 2))

    def flow(t, q, p):
        force, speed = slopes(*local(t, q, p, names=("q", "p")))
        return speed, trees.scale(-1.0, force)

    return flow


def poisson(f: Callable, g: Callable) -> Callable:
    """The Poisson bracket of two functions on phase space.

        {f, g} = df/dq . dg/dp - df/dp . dg/dq

    Args:
        f, g: `f(t, q, p)` -> scalar.

    Returns:
        `bracket(t, q, p)` -> scalar. Along a motion df/dt = {f, H} + partial f / partial t.

    Example:
        >>> from learnlag_jax.variation import poisson
        >>> float(poisson(lambda t, q, p: q, lambda t, q, p: p)(0.0, 1.0, 2.0))
        1.0

    Reference: MATH.md section 2; SICM 3.2.
    """
    df, dg = (jax.grad(checks.scalar_function(x, name), (1, 2)) for x, name in ((f, "f"), (g, "g")))

    def bracket(t, q, p):
        here = local(t, q, p, names=("q", "p"))
        (fq, fp), (gq, gp) = df(*here), dg(*here)
        return trees.dot(fq, gp) - trees.dot(fp, gq)

    return bracket


def canonical_defect(transformation: Callable) -> Callable:
    """How far a transformation of phase space is from canonical.

        D' J D - J,   D the derivative of (q, p) -> (Q, P), J = [[0, I], [-I, 0]]

    Args:
        transformation: `transformation(t, q, p)` -> (Q, P), both shaped like q.

    Returns:
        `defect(t, q, p)` -> (2n, 2n); zero everywhere for a canonical transformation.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import canonical_defect
        >>> swap = canonical_defect(lambda t, q, p: (p, -q))
        >>> double = canonical_defect(lambda t, q, p: (2 * q, p))
        >>> float(jnp.abs(swap(0.0, 1.0, 2.0)).max()), float(jnp.abs(double(0.0, 1.0, 2.0)).max())
        (0.0, 1.0)

    Reference: SICM 5.2 (symplectic test).
    """

    def defect(t, q, p) -> Array:
        t, q, p = local(t, q, p, names=("q", "p"))
        z, fold = trees.ravel((q, p))
        D = jax.jacfwd(lambda z: trees.ravel(transformation(t, *fold(z)))[0])(z)
        n = z.size // 2
        zero, one = jnp.zeros((n, n), z.dtype), jnp.eye(n, dtype=z.dtype)
        J = jnp.block([[zero, one], [-one, zero]])
        return D.T @ J @ D - J

    return defect
