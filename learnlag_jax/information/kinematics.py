"""Position, velocity and acceleration of information along a text.

    I(s_<=t) = -log p(s_<=t) = sum of v         v(t) = -log p(x_t | x_<t)         a(t) = v(t+1) - v(t)     (eq. 1)

t counts tokens from 1; nats, nats per token, nats per token squared. The chain rule makes position the exact sum of
velocities. Comes from: `log_probs`. Goes to: `curves`. Reference: MATH.md section 1.
"""

import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.information.arrays import widened
from learnlag_jax.information.log_probs import NATS_PER_BIT
from learnlag_jax.vocabulary import Array


def _sequence(x, argument: str) -> Array:
    x = jnp.asarray(x)
    checks.floating(x, argument)
    ok = x.ndim >= 1 and x.shape[-1] >= 1
    checks.require(ok, argument, checks.describe(x), "a last axis of at least one token", "score a longer text")
    return x


def position(v: Array) -> Array:
    """The information seen so far, the running sum of velocities.

        I(t) = v(1) + ... + v(t) = -log p(x_1, ..., x_t)

    Args:
        v: (..., T) velocities, nats per token; masked entries (NaN) count as zero.

    Returns:
        (..., T) nats, in at least float32.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import position
        >>> position(jnp.array([3.0, 2.0, 1.0])).tolist()
        [3.0, 5.0, 6.0]

    Reference: MATH.md section 1 (chain rule).
    """
    v = widened(_sequence(v, "v"))
    return jnp.cumsum(jnp.where(jnp.isnan(v), jnp.zeros_like(v), v), axis=-1)


def velocity(position: Array) -> Array:
    """The rate of information, the first difference of position from I(0) = 0.

        v(t) = I(t) - I(t-1)

    Args:
        position: (..., T) nats.

    Returns:
        (..., T) nats per token; 0 where a token was masked out of the position, which does not know it.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import velocity
        >>> velocity(jnp.array([3.0, 5.0, 6.0])).tolist()
        [3.0, 2.0, 1.0]

    Reference: MATH.md section 1.
    """
    I = _sequence(position, "position")
    return jnp.diff(I, axis=-1, prepend=jnp.zeros_like(I[..., :1]))


def acceleration(v: Array) -> Array:
    """The change of velocity from one token to the next.

        a(t) = v(t+1) - v(t)      (eq. 1)

    Args:
        v: (..., T) nats per token, T >= 2.

    Returns:
        (..., T - 1) nats per token squared; NaN beside a masked token.

    Raises:
        InputError: fewer than two tokens.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import acceleration
        >>> acceleration(jnp.array([3.0, 2.0, 1.5])).tolist()
        [-1.0, -0.5]

    Reference: MATH.md section 1; eq. 1.
    """
    v = _sequence(v, "v")
    checks.require(v.shape[-1] >= 2, "v", checks.describe(v), "at least two tokens", "score a longer text")
    return jnp.diff(v, axis=-1)


def bits(nats: Array) -> Array:
    """Nats in bits: divided by log 2.

    Args:
        nats: any array.

    Returns:
        The same shape, bits.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import bits
        >>> round(float(bits(jnp.log(8.0))), 6)
        3.0

    Reference: MATH.md section 1 (nats).
    """
    return jnp.asarray(nats) / NATS_PER_BIT


def bits_per_byte(v: Array, sizes: Array) -> Array:
    """Information per byte of text: comparable between models whose tokens differ.

        (sum of v) / (log 2 x sum of sizes)

    Args:
        v: (..., T) velocities, nats per token.
        sizes: (..., T) bytes of UTF-8 text in every token, not negative; tokens whose v is NaN (masked) do not count.

    Returns:
        (...) bits per byte over the last axis, in at least float32.

    Raises:
        InputError: shapes that differ, or (on the host) a row of v that is all masked, or sizes that are negative, not finite
            or all zero where v counts.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import bits_per_byte
        >>> round(float(bits_per_byte(jnp.log(jnp.array([8.0, 2.0])), jnp.array([3, 1]))), 6)  # 4 bits, 4 bytes
        1.0

    Reference: MATH.md section 1 (units).
    """
    v, sizes = widened(_sequence(v, "v")), jnp.asarray(sizes)
    checks.shape(sizes, v.shape, "sizes")
    counted = jnp.where(jnp.isnan(v), jnp.zeros_like(v), sizes.astype(v.dtype))
    checks.finite(counted, "sizes")
    if not checks.is_traced(counted):
        masked = np.argwhere(np.asarray(jnp.all(jnp.isnan(v), axis=-1)))
        where = (
            f"only masked tokens (NaN){f' in row {tuple(map(int, masked[0]))}' if v.ndim > 1 and len(masked) else ''}"
        )
        checks.require(not len(masked), "v", where, "a token that counts in every row", "leave the row out")
        least, total = float(jnp.min(counted)), float(jnp.min(jnp.sum(counted, axis=-1)))
        got = f"least {least:g}, sum {total:g}"
        checks.require(
            least >= 0 and total > 0, "sizes", got, "bytes, not all zero", "count the UTF-8 bytes of every token"
        )
    return bits(position(v)[..., -1]) / jnp.sum(counted, axis=-1)
