"""The Lagrangian `L(t, q, v)` and what follows from it by differentiation alone.

    E = dL/dq - d/dt dL/dv = dS/dq        p = dL/dv        energy = p . v - L

The residual E is the gradient of the action: forces add to it with their own sign, and a stationary path has E = 0. One
jvp on the shifted jet gives d/dt, so the residual costs a small constant times L, whatever the number of coordinates.
Comes from: a scalar function. Goes to: `motion`, `hamilton`, `symmetry`. Reference: MATH.md section 2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax import checks, trees
from learnlag_jax.variation.path import local, total_derivative
from learnlag_jax.vocabulary import PyTree


def euler_lagrange(L: Callable, order: int = 1) -> Callable:
    """The Euler-Lagrange residual: the gradient of the action at one instant.

        E = dL/dq - d/dt dL/dv            in general the sum over k of (-D_t)^k dL/dq^(k)

    The signs make E the gradient of the action, E = dS/dq: a generalised force F acts as E + F = 0.

    Args:
        L: `L(t, q, v)` -> scalar; for a higher order `L(t, q, v, a, ...)`. Time may appear explicitly.
        order: highest derivative of q in L.

    Returns:
        `E(t, q, v, a, ...)` on jets up to derivative 2 x order, a covector shaped like q. Along a path q:
        `E(*lift(q, 2 * order)(t))`.

    Raises:
        InputError: L is not scalar, the jet has the wrong length, or v, a are not shaped like q.
        DTypeError: integer coordinates.

    Example:
        >>> from learnlag_jax.variation import euler_lagrange
        >>> E = euler_lagrange(lambda t, q, v: v**2 / 2 - 4 * q**2 / 2)
        >>> float(E(0.0, 1.0, 0.5, -4.0)), float(E(0.0, 1.0, 0.5, 0.0))
        (0.0, -4.0)

    Reference: MATH.md section 2, eq. 3; Ostrogradsky 1850 for higher orders.
    """
    covectors = jax.grad(checks.scalar_function(L, "L"), tuple(range(1, order + 2)))
    for _ in range(order):
        covectors = _fold(covectors)

    def residual(t, *jet):
        expected = f"t and {2 * order + 1} entries, q to derivative {2 * order}"
        checks.require(
            len(jet) == 2 * order + 1, "jet", f"t and {len(jet)} entries", expected, "use lift(path, 2 * order)"
        )
        return covectors(*local(t, *jet))[0]

    return residual


def _fold(covectors: Callable) -> Callable:
    """(F_0, ..., F_m) -> (F_0, ..., F_{m-1} - D_t F_m): one Horner step of the sum of (-D_t)^k F_k, one jvp."""

    def folded(t, *jet):
        forces, rates = jax.jvp(covectors, (t, *jet[:-1]), (jnp.ones_like(t), *jet[1:]))
        return (*forces[:-2], trees.subtract(forces[-2], rates[-1]))

    return folded


def momentum(L: Callable) -> Callable:
    """The momentum conjugate to the coordinates.

        p(t, q, v) = dL/dv

    Args:
        L: `L(t, q, v)` -> scalar.

    Returns:
        `p(t, q, v)`, a covector shaped like q.

    Example:
        >>> from learnlag_jax.variation import momentum
        >>> float(momentum(lambda t, q, v: 3 * v**2 / 2 - q)(0.0, 1.0, 2.0))
        6.0

    Reference: MATH.md section 2, eq. 4.
    """
    slope = jax.grad(checks.scalar_function(L, "L"), 2)
    return lambda t, q, v: slope(*local(t, q, v))


def energy(L: Callable) -> Callable:
    """The energy function, conserved along stationary paths when L does not depend on time.

        energy(t, q, v) = dL/dv . v - L

    Args:
        L: `L(t, q, v)` -> scalar.

    Returns:
        `energy(t, q, v)`, a scalar; its rate along a stationary path is -dL/dt.

    Example:
        >>> from learnlag_jax.variation import energy
        >>> float(energy(lambda t, q, v: v**2 / 2 - q**2 / 2)(0.0, 3.0, 4.0))
        12.5

    Reference: MATH.md section 2.
    """
    checked = checks.scalar_function(L, "L")

    def total(t, q, v):
        t, q, v = local(t, q, v)
        value, pv = jax.jvp(lambda v: checked(t, q, v), (v,), (v,))
        return pv - value

    return total


def pullback(L: Callable, F: Callable) -> Callable:
    """The same mechanics in other coordinates; the change may depend on time.

        L'(t, x, w) = L(t, F(t, x), D_t F(t, x, w))

    Args:
        L: `L(t, q, v)` -> scalar, in the old coordinates.
        F: `F(t, x)` -> q, the old coordinates as a function of the new.

    Returns:
        `L'(t, x, w)`.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import pullback
        >>> polar = lambda t, x: jnp.array([x[0] * jnp.cos(x[1]), x[0] * jnp.sin(x[1])])
        >>> L = pullback(lambda t, q, v: v @ v / 2, polar)
        >>> round(float(L(0.0, jnp.array([2.0, 0.3]), jnp.array([1.0, 3.0]))), 6)  # (1 + 2^2 3^2) / 2
        18.5

    Reference: Sussman and Wisdom, SICM 1.6.1 (F->C).
    """

    def new(t, x, w):
        t, x, w = local(t, x, w)
        return L(t, F(t, x), total_derivative(F)(t, x, w))

    return new


def damped(L: Callable, gamma) -> Callable:
    """Friction in a Lagrangian: the Caldirola-Kanai factor.

        L'(t, q, v) = e^{gamma t} L(t, q, v)      so that E' = e^{gamma t} (E - gamma dL/dv)

    Args:
        L: `L(t, q, v)` -> scalar.
        gamma: rate of friction, 1 / time, a scalar.

    Returns:
        `L'(t, q, v)`; for L = m v^2/2 - V its motion is m q'' = -dV/dq - gamma m q'.

    Example:
        >>> from learnlag_jax.variation import acceleration, damped
        >>> a = acceleration(damped(lambda t, q, v: v**2 / 2 - q**2 / 2, 0.1))
        >>> round(float(a(3.0, 1.0, 2.0)), 12)  # -q - gamma v
        -1.2

    Reference: MATH.md section 7; Caldirola 1941, Kanai 1948.
    """

    def lagrangian(t, q, v):
        t, q, v = local(t, q, v)
        value = L(t, q, v)
        t = t.astype(value.dtype)
        return jnp.exp(jnp.asarray(gamma, value.dtype) * t) * value

    return lagrangian


def rayleigh(R: Callable) -> Callable:
    """The generalised force of a dissipation function.

        force(t, q, v) = -dR/dv

    Args:
        R: `R(t, q, v)` -> scalar, Rayleigh's dissipation function; half the power lost if it is quadratic in v.

    Returns:
        `force(t, q, v)` for `acceleration(L, force=...)`.

    Example:
        >>> from learnlag_jax.variation import rayleigh
        >>> float(rayleigh(lambda t, q, v: 0.5 * v**2 / 2)(0.0, 1.0, 4.0))
        -2.0

    Reference: Rayleigh 1873; Goldstein, Classical Mechanics 1.5.
    """
    slope = momentum(R)

    def force(t, q, v) -> PyTree:
        return trees.scale(-1.0, slope(t, q, v))

    return force
