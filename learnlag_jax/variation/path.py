"""Paths and their local tuples: lift a path to its jet, differentiate along it, integrate a Lagrangian over it.

    lift(q)(t) = (t, q, q', q'', ...)        D_t F = jvp(F, (t, q, v), (1, v, a))        S[q] = integral of L dt  (eq. 3)

A path is a function of time with any pytree of real coordinates as its value; the local tuple is what a Lagrangian
`L(t, q, v)` takes. Units: t in the user's unit of time, S in energy x time. Goes to: every other file of the hall.
Reference: MATH.md section 2; Sussman and Wisdom, Structure and Interpretation of Classical Mechanics, 1.2-1.4.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.vocabulary import Array, PyTree


def local(t, *jet: PyTree, names: Sequence[str] = ("q", "v", "a")) -> tuple:
    """(t, q, v, ...) as arrays: real floating point, every derivative shaped like q; t takes q's dtype if it has none."""
    q, *rates = jax.tree.map(jnp.asarray, jet)
    named = [*names, *(f"derivative {k} of q" for k in range(len(names), len(jet)))]
    checks.floating(q, named[0])
    for x, name in zip(rates, named[1:], strict=False):
        checks.floating(x, name)
        checks.same_structure(x, q, name, "q")
        q, _ = checks.settle(q, x)
    rates = [checks.settle(x, q)[0] for x in rates]
    for x, name in zip(rates, named[1:], strict=False):
        checks.same_dtypes(x, q, name, "q")
    leaves = jax.tree.leaves(q)
    checks.require(any(x.size for x in leaves), names[0], q, "one coordinate or more", "pass a pytree with entries")
    if isinstance(t, int | float) and leaves:
        t = jnp.asarray(t, leaves[0].dtype)
    checks.floating(t, "t")
    return (jnp.asarray(t), q, *rates)


def lift(q: Callable, order: int = 1) -> Callable:
    """Lift a path to its jet.

        lift(q, n)(t) = (t, q(t), q'(t), ..., q^(n)(t))

    Args:
        q: `q(t)` -> coordinates, any pytree of real arrays, differentiable `order` times.
        order: highest derivative.

    Returns:
        A function of time that gives the local tuple, ready for `L(*lift(q)(t))`.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import lift
        >>> [round(float(x), 6) for x in lift(lambda t: t**3, 2)(2.0)]
        [2.0, 8.0, 12.0, 12.0]

    Reference: Sussman and Wisdom, SICM 1.4 (Gamma).
    """
    derivatives = [q]
    for _ in range(order):
        derivatives.append(_rate(derivatives[-1]))

    def jet(t):
        t = t if isinstance(t, jax.Array) else jnp.asarray(t, jnp.result_type(float))
        checks.floating(t, "t")
        here = q(t)
        checks.floating(here, "path(t)")
        return (t, here, *(f(t) for f in derivatives[1:]))

    return jet


def _rate(f: Callable) -> Callable:
    return lambda t: jax.jvp(f, (t,), (jnp.ones_like(t),))[1]


def total_derivative(F: Callable) -> Callable:
    """The derivative of F along a path, as a function of the jet one order longer.

        D_t F (t, q, v, a) = dF/dt + dF/dq v + dF/dv a = jvp(F, (t, q, v), (1, v, a))

    Args:
        F: `F(t, q, ..., q^(n))` -> any pytree.

    Returns:
        `D_t F (t, q, ..., q^(n+1))`.

    Example:
        >>> from learnlag_jax.variation import total_derivative
        >>> float(total_derivative(lambda t, q: t * q**2)(2.0, 3.0, 5.0))
        69.0

    Reference: MATH.md section 2.
    """

    def derivative(t, *jet):
        t, *jet = local(t, *jet)
        return jax.jvp(F, (t, *jet[:-1]), (jnp.ones_like(t), *jet[1:]))[1]

    return derivative


def quadrature(t0, t1, panels: int, nodes: int) -> tuple[Array, Array]:
    """Composite Gauss-Legendre rule: times and weights, each (panels * nodes,), in the dtype of the limits."""
    checks.whole(panels, "panels", 1, "raise it")
    checks.whole(nodes, "nodes", 1, "raise it")
    t0, t1 = (x if isinstance(x, jax.Array) else jnp.asarray(x, jnp.result_type(float)) for x in (t0, t1))
    x, w = np.polynomial.legendre.leggauss(nodes)
    c = ((np.arange(panels)[:, None] + (x + 1) / 2) / panels).ravel()
    b = np.tile(w / 2 / panels, panels)
    span = t1 - t0
    return t0 + span * jnp.asarray(c, span.dtype), span * jnp.asarray(b, span.dtype)


def action(L: Callable, path: Callable, t0, t1, *, order: int = 1, panels: int = 16, nodes: int = 12) -> Array:
    """The action of a path.

        S[q] = integral from t0 to t1 of L(t, q, q') dt        (eq. 3)

    Composite Gauss-Legendre quadrature, exact for polynomials of degree 2 nodes - 1 on each panel: with the default 192
    points a path that is analytic on the scale of one panel is integrated to rounding. More panels for rougher paths.

    Args:
        L: `L(t, q, v)`, with further derivatives if `order` > 1.
        path: `path(t)` -> coordinates.
        t0, t1: limits; their dtype is the dtype of the work.
        order: highest derivative in L.
        panels, nodes: of the rule.

    Returns:
        The action, a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import action
        >>> L = lambda t, q, v: (v**2 - q**2) / 2
        >>> round(float(action(L, jnp.cos, 0.0, 1.0)), 9)  # -sin(2)/4
        -0.227324357

    Reference: MATH.md section 2, eq. 3.
    """
    times, weights = quadrature(t0, t1, panels, nodes)
    integrand = checks.scalar_function(L, "L")
    return jnp.dot(weights, jax.vmap(lambda t: integrand(*lift(path, order)(t)))(times))


def first_variation(L: Callable, path: Callable, direction: Callable, t0, t1, **rule) -> Array:
    """How the action changes when the path is pushed.

        dS[q; eta] = d/de S[q + e eta] at e = 0 = integral of E . eta dt + [ p . eta ]

    Args:
        L, path, t0, t1: as for `action`.
        direction: `eta(t)`, shaped like the path.
        **rule: order, panels, nodes, as for `action`.

    Returns:
        The directional derivative of the action, a scalar; zero on a stationary path if eta vanishes at the ends.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import first_variation
        >>> L = lambda t, q, v: (v**2 - q**2) / 2
        >>> bump = lambda t: t * (1 - t)
        >>> abs(float(first_variation(L, jnp.cos, bump, 0.0, 1.0))) < 1e-14
        True

    Reference: MATH.md section 2.
    """
    probe, _ = quadrature(t0, t1, 1, 1)

    def pushed(e):
        def at(t):
            here, eta = jax.tree.map(jnp.asarray, (path(t), direction(t)))
            checks.same_structure(eta, here, "direction(t)", "path(t)")
            return jax.tree.map(lambda q, eta: q + e.astype(q.dtype) * eta, here, eta)

        return at

    varied = lambda e: action(L, pushed(e), t0, t1, **rule)
    return jax.jvp(varied, (jnp.zeros((), probe.dtype),), (jnp.ones((), probe.dtype),))[1]
