"""The same motion over training steps: a loss curve, its speed and its acceleration, smoothed with a stated bandwidth.

    eps(n) = loss after n steps     eta(n) = -d eps / dn     T(threshold) = integral from threshold to eps(0) of d eps / eta

The loss is smoothed by local quadratics. Comes from: losses recorded once a step. Goes to: learning time (eq. 5).
Reference: MATH.md sections 1 and 3.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.information.arrays import widened
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where


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
        bandwidth: h, steps, at least 1 and finite; weights beyond 4 h are zero. It may be traced, at the cost of sums over the
            whole run at every step.

    Returns:
        `LossMotion`, each (N,), in the dtype of the losses, in at least float32.

    Raises:
        InputError: fewer than 5 steps; on the host a loss that is not finite, or a bandwidth below 1 or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import loss_motion
        >>> motion = loss_motion(3 - 0.1 * jnp.arange(50.0), bandwidth=5)
        >>> [round(abs(float(x)), 5) for x in (motion.loss[0], motion.speed[0], motion.acceleration[25])]
        [3.0, 0.1, 0.0]

    Reference: MATH.md section 1; Fan & Gijbels 1996 (local polynomials).
    """
    losses = jnp.asarray(losses)
    checks.shape(losses, ("N",), "losses")
    checks.floating(losses, "losses")
    checks.require(len(losses) >= 5, "losses", checks.describe(losses), "at least 5 steps", "record a longer run")
    checks.shape(bandwidth, (), "bandwidth")
    traced, last = checks.is_traced(bandwidth), len(losses) - 1
    sized = traced or 1 <= bandwidth < math.inf
    checks.require(sized, "bandwidth", bandwidth, "a finite number of steps, at least 1", "20 is usual")
    checks.finite(losses, "losses")
    losses = widened(losses)
    reach = last if traced else int(min(4 * float(bandwidth), last))
    return _loss_motion(losses, jnp.asarray(bandwidth, losses.dtype), reach)


@functools.partial(jax.jit, static_argnums=2)
def _loss_motion(losses: Array, bandwidth: Array, reach: int) -> LossMotion:
    N, dtype = len(losses), losses.dtype
    unit = jnp.minimum(bandwidth, N)  # of a bandwidth beyond the run, squares of u would vanish beside 1
    offset = jnp.arange(-reach, reach + 1, dtype=dtype)
    u, beyond = offset / unit, jnp.abs(offset) > 4 * bandwidth
    basis = jnp.stack([jnp.ones_like(u), u, u * u / 2])
    kernel = jnp.where(beyond, 0, jnp.exp(-((offset / bandwidth) ** 2) / 2))
    padded, live = (jnp.pad(x, reach) for x in (losses, jnp.ones_like(losses)))

    def at(n):
        near = lambda x: jax.lax.dynamic_slice(x, (n,), (2 * reach + 1,))
        w = kernel * near(live)
        # about the local mean, so that a large loss costs the derivatives no digits
        centre = jnp.dot(w, near(padded)) / jnp.sum(w)
        scaled = basis * w[None, :]
        l, s, a = jnp.linalg.solve(scaled @ basis.T, scaled @ ((near(padded) - centre) * near(live)))
        return l + centre, -s / unit, a / unit**2

    loss, speed, acceleration = jax.lax.map(at, jnp.arange(N), batch_size=256)
    return LossMotion(jnp.arange(N), loss, speed, acceleration)


class LearningTime(NamedTuple):
    """Steps from the start of a run to a threshold, and what happened.

    Attributes:
        value: (), steps; NaN where the loss stops falling on the way or the smoothing decides the answer; a lower bound where the
            threshold is not reached.
        status: int32 `Status`: converged, not_reached, stagnated or inconsistent.

    Example:
        >>> from learnlag_jax.information import LearningTime
        >>> LearningTime._fields
        ('value', 'status')
    """

    value: Array
    status: Array


def learning_time(motion: LossMotion, threshold) -> LearningTime:
    """The time to learn, from speeds alone: how long the loss needs to fall to a threshold.

        T = integral from threshold to eps(0) of d eps / eta(eps)

    by the trapezoid rule in eps between steps, second order in the step. Loss and speed are smoothed by the same bandwidth but are
    not each other's derivative: where the loss bends within a bandwidth the integral leaves the time at which the smoothed loss
    crosses the threshold. More than a twentieth of it (and one step) is too much.

    Args:
        motion: from `loss_motion`.
        threshold: the loss to be reached, in the units of the loss.

    Returns:
        `LearningTime`, in steps; zero where the run starts below the threshold.

    Raises:
        InputError: a threshold that is not one finite number.

    Statuses:
        converged; not_reached (the value is the length of the run, a lower bound); stagnated (a speed that is not positive
        before the threshold: the integral does not exist, a first crossing still may); inconsistent (the integral is not
        the crossing of the smoothed loss: take a smaller bandwidth).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import learning_time, loss_motion
        >>> motion = loss_motion(jnp.exp(-jnp.arange(200.0) / 50), bandwidth=5)
        >>> abs(float(learning_time(motion, 0.5).value) - 34.66) < 0.5  # 50 log 2 = 34.66
        True

    Reference: MATH.md section 3, eq. 5.
    """
    checks.require(
        isinstance(motion, LossMotion), "motion", type(motion).__name__, "a LossMotion", "make it by loss_motion"
    )
    checks.shape(threshold, (), "threshold")
    checks.finite(threshold, "threshold")
    loss, speed = motion.loss, motion.speed
    threshold = jnp.asarray(threshold, loss.dtype)
    left = jnp.arange(len(loss)) < jnp.argmax(loss <= threshold)  # steps before the crossing
    reached = jnp.any(loss <= threshold)
    before = jnp.where(reached, left, True)[:-1]
    fall = loss[:-1] - loss[1:]
    part = jnp.where(reached, jnp.clip((loss[:-1] - threshold) / jnp.where(fall > 0, fall, 1), 0, 1), 1)
    end = speed[:-1] + part * (speed[1:] - speed[:-1])  # at the threshold, or after the whole step
    moving = (speed[:-1] > 0) & (end > 0)
    time = part * fall * (1 / jnp.where(moving, speed[:-1], 1) + 1 / jnp.where(moving, end, 1)) / 2
    falls = jnp.all(moving | ~before)
    integral, crossing = jnp.sum(jnp.where(before, time, 0)), jnp.sum(jnp.where(before, part, 0))
    apart = reached & (jnp.abs(integral - crossing) > jnp.maximum(1, crossing / 20))
    status = first_failure(
        status_where(~falls, Status.stagnated),
        status_where(apart, Status.inconsistent),
        status_where(~reached, Status.not_reached),
    )
    spent = jnp.where(reached, integral, len(loss) - 1)
    return LearningTime(jnp.where(falls & ~apart, spent, jnp.nan), status)
