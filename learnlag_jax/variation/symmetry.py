"""Noether's theorem: a family of changes that alters L by at most a total time derivative conserves a charge.

    charge = p . dq - energy dt - K,   dq = dF/ds, dt = dT/ds at s = 0,   where L dt changes by dK

Comes from: `lagrange`. Reference: MATH.md section 2; Noether 1918; Sussman and Wisdom, SICM 1.8.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax import checks, trees
from learnlag_jax.variation.discrete import discrete_momenta
from learnlag_jax.variation.lagrange import energy, momentum
from learnlag_jax.variation.path import local


def noether(L: Callable, F: Callable, K: Callable | None = None, *, time: Callable | None = None) -> Callable:
    """The charge that a symmetry conserves.

        charge(t, q, v) = dL/dv . dF/ds - energy dT/ds - K,   derivatives at s = 0

    Args:
        L: `L(t, q, v)` -> scalar.
        F: `F(s, t, q)` -> moved coordinates, F(0, t, q) = q.
        K: `K(t, q)` -> scalar by whose differential the symmetry changes L dt; zero if left out.
        time: `T(s, t, q)` -> moved time, T(0, t, q) = t; time is left alone if left out. (F then is the position at the moved
            time: a pure shift of time has F = q.)

    Returns:
        `charge(t, q, v)`, constant along stationary paths.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import noether
        >>> turn = lambda s, t, q: jnp.array([q[0] * jnp.cos(s) - q[1] * jnp.sin(s), q[0] * jnp.sin(s) + q[1] * jnp.cos(s)])
        >>> spin = noether(lambda t, q, v: v @ v / 2 - q @ q, turn)
        >>> round(float(spin(0.0, jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0]))), 6)  # x v_y - y v_x
        -1.0

    Reference: MATH.md section 2; Noether 1918.
    """
    p, E = momentum(L), energy(L)
    moved_time = time or (lambda s, t, q: t)

    def charge(t, q, v):
        t, q, v = local(t, q, v)
        zero, one = jnp.zeros((), t.dtype), jnp.ones((), t.dtype)
        moved, dq = jax.jvp(lambda s: F(s, t, q), (zero,), (one,))
        checks.same_structure(moved, q, "F(s, t, q)", "q")
        dt = jax.jvp(lambda s: moved_time(s, t, q), (zero,), (one,))[1]
        total = trees.dot(p(t, q, v), dq) - E(t, q, v) * dt
        return total if K is None else total - checks.scalar_function(K, "K")(t, q)

    return charge


def discrete_noether(Ld: Callable, F: Callable) -> Callable:
    """The charge that a symmetry of a discrete action conserves, exactly and at any step.

        charge_k = p_k . dF/ds = -D_1 L_d(k, q_k, q_{k+1}) . dF/ds at s = 0

    Args:
        Ld: `Ld(k, q0, q1)` -> scalar, unchanged when both ends are moved.
        F: `F(s, k, q)` -> moved coordinates, F(0, k, q) = q.

    Returns:
        `charge(k, q0, q1)`, the same for every step of a stationary discrete path.

    Example:
        >>> from learnlag_jax.variation import discrete_lagrangian, discrete_noether
        >>> free = discrete_lagrangian(lambda t, q, v: v**2 / 2, 0.5)
        >>> float(discrete_noether(free, lambda s, k, q: q + s)(0, 1.0, 2.0))  # its momentum
        2.0

    Reference: Marsden and West 2001, section 1.3.4.
    """
    momenta = discrete_momenta(Ld)

    def charge(k, q0, q1):
        q0 = jax.tree.map(jnp.asarray, q0)
        p0 = momenta(k, q0, q1)[0]
        zero = jnp.zeros((), trees.ravel(q0)[0].dtype)
        moved, dq = jax.jvp(lambda s: F(s, k, q0), (zero,), (jnp.ones_like(zero),))
        checks.same_structure(moved, q0, "F(s, k, q)", "q0")
        return trees.dot(p0, dq)

    return charge
