"""Running moments and powers of a diagonal Fisher, in the order of operations that makes Adam equal to the last bit.

    m_k = (1 - b) g_k + b m_{k-1}        m_k / (1 - b^k)        F^a m = m (sqrt(F) + eps)^(2a)

Comes from: gradients. Goes to: `precondition`. Reference: MATH.md 7.
"""

import jax
import jax.numpy as jnp

from learnlag_jax.fisher.scores import wide_dtype
from learnlag_jax.vocabulary import Array


def real_dtype(x) -> jnp.dtype:
    """The real dtype of at least float32 in which the second moment of x is kept."""
    return jnp.finfo(wide_dtype(x)).dtype


def square(g: Array) -> Array:
    """|g|^2, real."""
    return (g.conj() * g).real if jnp.iscomplexobj(g) else g * g


def moment(new: Array, old: Array, decay, keep: Array | None = None) -> Array:
    """(1 - b) new + b old; `old` where `keep` is false, so that a skipped step leaves every moment as it was."""
    mixed = jnp.asarray(1 - decay, new.dtype) * new + jnp.asarray(decay, new.dtype) * old
    return mixed if keep is None else chosen(keep, mixed, old)


def chosen(keep: Array, x: Array, otherwise: Array) -> Array:
    """`jnp.where` of two like arrays without being a function of its own: a call to compile for every leaf and moment."""
    return jax.lax.select(keep if jnp.ndim(keep) == 0 else jnp.broadcast_to(keep, x.shape), x, otherwise)


def correction(decay, count) -> Array:
    """1 - b^k in float32 at least, so that b^k does not round to 1."""
    base = jnp.asarray(decay)
    return 1 - jax.lax.pow(base.astype(wide_dtype(base)), count)


def fisher_power(m: Array, second_moment: Array, exponent, eps) -> Array:
    """F^a m for a diagonal F: m (sqrt(F) + eps)^(2a); a division, exactly as in Adam, when a = -1/2.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.moments import fisher_power
        >>> round(float(fisher_power(jnp.float64(3.0), jnp.float64(4.0), -0.5, 0.0)), 6)
        1.5
    """
    root = jnp.sqrt(second_moment) + jnp.asarray(eps, second_moment.dtype)
    root = root.astype(m.dtype)  # a real number even where m is complex
    if isinstance(exponent, (int, float)):
        if exponent == -0.5:
            return m / root
        if exponent == 0:
            return m
    a = jnp.asarray(exponent, root.dtype)
    live = root != 0  # 0^-1 times a zero moment is a direction never seen: leave it alone
    safe = jnp.where(live, root, jnp.ones_like(root))
    scaled = m * jnp.power(safe, jnp.broadcast_to(2 * a, root.shape))
    scaled = jnp.where(live, scaled, jnp.where(a == 0, m, jnp.zeros_like(m)))
    return jnp.where(a == -0.5, m / root, scaled)
