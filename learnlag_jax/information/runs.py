"""The same motion over training steps: a loss curve, its speed and its acceleration, smoothed with a stated bandwidth.

    eps(n) = loss after n steps     eta(n) = -d eps / dn     the loss smoothed by local quadratics

Comes from: losses recorded once a step. Goes to: learning time, T = integral of d eps / eta from the threshold to eps(0).
Reference: MATH.md sections 1 and 3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.vocabulary import Array


class LossMotion(NamedTuple):
    """A training curve in motion.

    Attributes:
        step: (N,) steps, from 0.
        loss: (N,) smoothed loss.
        speed: (N,) fall of the loss in each step, eta.
        acceleration: (N,) second derivative of the loss; positive while the fall slows down.

    Example:
        >>> from learnlag_jax.information import LossMotion
        >>> LossMotion._fields
        ('step', 'loss', 'speed', 'acceleration')
    """

    step: Array
    loss: Array
    speed: Array
    acceleration: Array


def loss_motion(losses: Array, *, bandwidth: float = 20.0) -> LossMotion:
    """Smoothed loss, speed and acceleration of a run, without bias at its two ends on any parabola.

        at every n: minimise over (l, s, a) the sum over m of k((m - n)/h) (eps(m) - l + s (m - n) - a (m - n)^2 / 2)^2

    with the Gaussian kernel k and bandwidth h: what is faster than about h steps is taken for noise.

    Args:
        losses: (N,) training or test loss of every step.
        bandwidth: h, steps, at least 1; weights beyond 4 h are zero.

    Returns:
        `LossMotion`, each (N,), in the dtype of the losses.

    Raises:
        InputError: fewer than 5 steps, a loss that is not finite (on the host), or a bandwidth below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import loss_motion
        >>> motion = loss_motion(3 - 0.1 * jnp.arange(50.0), bandwidth=5)
        >>> [round(float(x), 5) for x in (motion.loss[0], motion.speed[0], motion.acceleration[25])]
        [3.0, 0.1, 0.0]

    Reference: MATH.md section 1; Fan & Gijbels 1996 (local polynomials).
    """
    losses = jnp.asarray(losses)
    checks.shape(losses, ("N",), "losses")
    checks.floating(losses, "losses")
    checks.require(len(losses) >= 5, "losses", checks.describe(losses), "at least 5 steps", "record a longer run")
    checks.require(bandwidth >= 1, "bandwidth", bandwidth, "at least 1 step", "smooth over more steps")
    checks.finite(losses, "losses")
    N, dtype = len(losses), losses.dtype
    reach = min(int(4 * bandwidth), N - 1)
    u = jnp.arange(-reach, reach + 1, dtype=dtype) / jnp.asarray(bandwidth, dtype)
    basis = jnp.stack([jnp.ones_like(u), u, u * u / 2])
    kernel = jnp.exp(-u * u / 2)
    padded, live = (jnp.pad(x, reach) for x in (losses, jnp.ones_like(losses)))

    def at(n):
        near = lambda x: jax.lax.dynamic_slice(x, (n,), (2 * reach + 1,))
        w = kernel * near(live)
        # about the local mean, so that a large loss costs the derivatives no digits
        centre = jnp.dot(w, near(padded)) / jnp.sum(w)
        scaled = basis * w[None, :]
        l, s, a = jnp.linalg.solve(scaled @ basis.T, scaled @ ((near(padded) - centre) * near(live)))
        return l + centre, -s / bandwidth, a / bandwidth**2

    loss, speed, acceleration = jax.lax.map(at, jnp.arange(N), batch_size=256)
    return LossMotion(jnp.arange(N), loss, speed, acceleration)
