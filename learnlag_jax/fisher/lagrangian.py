"""The learning Lagrangian as a scalar: for the loss field, for the parameter particle, and for a discrete optimiser.

    field      l(theta, u, du) = du' F(theta)^-1 du / (2 P) - u                              (eq. 26; u = log-likelihood)
    particle   L(t, q, v)      = v' M v / 2 - V(q)                                           (V = loss, M = F^{1/2})
    discrete   L_k(q, q+)      = beta^-k [ (q+ - q)' M (q+ - q) / (2 eta (1 - beta)) - V(q) ]

beta^-k is the Caldirola-Kanai factor e^{gamma t} of friction. The discrete Euler-Lagrange equation of the last line is
q_{k+1} - q_k = beta (q_k - q_{k-1}) - eta (1 - beta) M^-1 grad V(q_k): Adam's recursion with its metric held fixed. Paths
are stationary, often saddles: never say minimal. Comes from: a loss or log-likelihood and a metric. Goes to:
`variation.euler_lagrange`, `variation.discrete_euler_lagrange`, `audit`. Reference: MATH.md 6, 7.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax import checks, trees
from learnlag_jax.vocabulary import PyTree


def learning_lagrangian(information: Callable) -> Callable:
    """The density of the loss field, l(theta, u, du) = du' F(theta)^-1 du / (2 P) - u.

    Args:
        information: theta -> F(theta), an operator with `solve` (from `fisher_information`) or a (P, P) array.

    Returns:
        `density(theta, u, du)`: theta (P,), u the log-likelihood (nats), du (P,) its gradient.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher import learning_lagrangian
        >>> density = learning_lagrangian(lambda theta: 4 * jnp.eye(2))
        >>> round(float(density(jnp.zeros(2), jnp.float64(-3.0), jnp.array([2.0, 2.0]))), 6)
        3.5

    Reference: MATH.md 6; eq. 26.
    """

    def density(theta, u, du):
        F = information(theta)
        z = F.solve(du) if hasattr(F, "solve") else jnp.linalg.solve(F, du)
        return trees.dot(du, z) / (2 * trees.size(du)) - u

    return density


def particle_lagrangian(loss: Callable, mass) -> Callable:
    """L(t, q, v) = v' M v / 2 - V(q): a parameter that descends the loss V with inertia M.

    Args:
        loss: `loss(q)`, a real scalar; minus the log-likelihood.
        mass: M as a function v -> M v, a symmetric matrix (q a vector), or a pytree like q of diagonal entries.

    Returns:
        `L(t, q, v)` for the hall's `euler_lagrange`, `legendre` and `hamiltonian`.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher import particle_lagrangian
        >>> L = particle_lagrangian(lambda q: jnp.sum(q**2) / 2, jnp.array([4.0, 1.0]))
        >>> round(float(L(0.0, jnp.array([1.0, 1.0]), jnp.array([1.0, 2.0]))), 6)
        3.0

    Reference: MATH.md 7.
    """
    loss, apply = checks.scalar_function(loss, "loss"), mass_product(mass)

    def lagrangian(t, q, v):
        del t
        return trees.dot(v, apply(v)) / 2 - loss(q)

    return lagrangian


def descent_lagrangian(loss: Callable, mass, beta, eta) -> Callable:
    """The discrete Lagrangian whose stationary paths are momentum descent in the metric M.

        L_k(q, q+) = beta^-k [ (q+ - q)' M (q+ - q) / (2 eta (1 - beta)) - V(q) ]

    Args:
        loss: V(q), a real scalar.
        mass: M as a function v -> M v, a symmetric matrix (q a vector), or a pytree like q of diagonal entries.
        beta: momentum, 0 < beta < 1.
        eta: step size, > 0, in units of M times squared parameter per unit of loss.

    Returns:
        `Ld(k, q, q_next)` for the hall's `discrete_euler_lagrange`, which then vanishes on
        q_next - q = beta (q - q_prev) - eta (1 - beta) M^-1 grad V(q). beta^-k grows without bound, so count k from the
        middle of a long run: in float32 and at beta = 0.9 it is infinite from k = 843 on.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from learnlag_jax.fisher import descent_lagrangian
        >>> Ld = descent_lagrangian(lambda q: jnp.sum(q**2) / 2, jnp.ones(1), beta=0.5, eta=0.2)
        >>> a, b = jnp.array([1.0]), jnp.array([0.9])
        >>> c = b + 0.5 * (b - a) - 0.2 * 0.5 * b
        >>> residual = jax.grad(Ld, 2)(0, a, b) + jax.grad(Ld, 1)(1, b, c)
        >>> bool(abs(residual[0]) < 1e-14)
        True

    Reference: MATH.md 7; Caldirola 1941, Kanai 1948; Marsden and West 2001.
    """
    loss, apply = checks.scalar_function(loss, "loss"), mass_product(mass)

    def discrete(k, q, q_next):
        v = trees.subtract(q_next, q)
        kinetic = trees.dot(v, apply(v))
        kind = kinetic.dtype
        friction = jnp.power(jnp.asarray(beta, kind), -jnp.asarray(k, kind))
        return friction * (kinetic / (2 * jnp.asarray(eta * (1 - beta), kind)) - loss(q).astype(kind))

    return discrete


def mass_product(mass) -> Callable[[PyTree], PyTree]:
    """v -> M v from any of the forms a mass is given in.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.lagrangian import mass_product
        >>> mass_product(jnp.array([[2.0, 1.0], [1.0, 2.0]]))(jnp.array([1.0, 0.0])).tolist()
        [2.0, 1.0]
    """
    if callable(mass):
        return mass

    def product(v):
        if getattr(mass, "ndim", 0) == 2 and getattr(v, "ndim", 0) == 1:
            return mass @ v
        checks.same_structure(mass, v, "mass", "the velocity")
        return jax.tree.map(jnp.multiply, mass, v)

    return product
