"""Learning time: how long a curve of errors takes to reach a threshold, and what is known when it does not.

    T(theta) = integral Theta(eps(t) - theta) dt  =  integral_theta^eps(0) d eps / eta,   eta = - d eps / dt      (eq. 5)

The indicator integral is an occupation time. It equals the hitting time for monotone curves only, so both are given, and the last
crossing too. A curve that does not reach the threshold is right-censored: its time is infinite, with the budget as a lower
bound. Symbols: t (n,) samples (T_sample) or seconds (T_compute), error (n,) in any unit, the threshold in the same unit.
A NaN error counts as above the threshold. Reference: MATH.md 3.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.vocabulary import Array, Status, status_where

KINDS = ("first", "last", "occupation")


class LearningTime(NamedTuple):
    """A time to a threshold, or what is known of it.

    Attributes:
        value: the time in the unit of t; +inf if not reached.
        reached: True if the threshold was reached (for "last" and "occupation": and the curve ends below it).
        lower: lower bound on the time: the value itself if reached, else the time observed so far.
        status: int32, `Status.not_reached` where censored.

    Example:
        >>> from learnlag_jax.fermat import LearningTime
        >>> LearningTime(3.0, True, 3.0, 0).value
        3.0
    """

    value: Array
    reached: Array
    lower: Array
    status: Array


def _curve(t, error):
    t, error = jnp.asarray(t), jnp.asarray(error)
    checks.increasing(t, "t")
    checks.shape(error, t.shape, "error")
    checks.require(t.size > 0, "t", "no evaluations", "at least one", "a curve has points")
    checks.floating(error, "error")
    # times keep their own digits: a step count needs more of them than a half-precision loss
    own = t.dtype if jnp.issubdtype(t.dtype, jnp.floating) else jnp.zeros(()).dtype
    return t.astype(np.promote_types(own, jnp.float32)), error


def _level(threshold, error: Array) -> Array:
    """One threshold for the whole curve: a vector would be compared entry by entry."""
    checks.shape(threshold, (), "threshold")
    return jnp.asarray(threshold, error.dtype)


def _censor(value, reached, observed) -> LearningTime:
    inf = jnp.full_like(value, jnp.inf)
    return LearningTime(
        jnp.where(reached, value, inf),
        reached,
        jnp.where(reached, value, observed),
        status_where(~reached, Status.not_reached),
    )


def _crossing(t, error, threshold, k, interpolate: bool):
    """The time of the crossing that ends at evaluation k: t_k, or the point on the chord from k - 1."""
    if not interpolate:
        return t[k]
    before = jnp.maximum(k - 1, 0)
    high, low = error[before], error[k]
    safe = (k > 0) & jnp.isfinite(high) & (high > low)  # a curve may start at infinity: then the crossing is t_k
    share = jnp.where(safe, (high - threshold) / jnp.where(safe, high - low, jnp.ones_like(low)), jnp.ones_like(low))
    return t[before] + share.astype(t.dtype) * (t[k] - t[before])


def time_to_threshold(t, error, threshold, kind: str = "first", *, interpolate: bool = False) -> LearningTime:
    """The time at which an error curve reaches a threshold.

        first       the first t_k with error_k <= threshold
        last        the time after which the error is never above it again
        occupation  sum over k of Theta(error_k - threshold) (t_{k+1} - t_k): the time spent above, the integral of eq. 5

    All three agree for monotone curves. Time before the first evaluation counts as above.

    Args:
        t: (n,) increasing times: samples from 0, or seconds.
        error: (n,) errors; NaN and +inf count as above, -inf as below.
        threshold: scalar in the unit of the error.
        kind: "first", "last" or "occupation".
        interpolate: place crossings on the chord between evaluations; the value is then differentiable in error, t and threshold,
            by the implicit function theorem on the chord, dT = -d error / (d error / dt). Not for "occupation".

    Returns:
        `LearningTime`; status `not_reached` if the curve never reaches it, or for "last" and "occupation" ends above it.

    Raises:
        InputError: unequal lengths, times that do not increase, a threshold that is no scalar (map several with jax.vmap), unknown kind.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import time_to_threshold
        >>> t, error = jnp.arange(5.0), jnp.array([9.0, 3.0, 5.0, 2.0, 1.0])
        >>> [float(time_to_threshold(t, error, 4.0, kind).value) for kind in ("first", "last", "occupation")]
        [1.0, 3.0, 2.0]
        >>> censored = time_to_threshold(t, error, 0.5)
        >>> float(censored.value), bool(censored.reached), float(censored.lower)
        (inf, False, 4.0)

    Reference: MATH.md 3, eq. 5.
    """
    checks.require(kind in KINDS, "kind", repr(kind), f"one of {', '.join(KINDS)}", "see the docstring")
    checks.require(
        not (interpolate and kind == "occupation"),
        "interpolate",
        True,
        "False for occupation",
        "use soft_learning_time",
    )
    t, error = _curve(t, error)
    return _time_to_threshold(t, error, _level(threshold, error), kind, interpolate)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _time_to_threshold(t: Array, error: Array, threshold: Array, kind: str, interpolate: bool) -> LearningTime:
    below = error <= threshold  # NaN is not below
    ends = below[-1]
    if kind == "first":
        return _censor(_crossing(t, error, threshold, jnp.argmax(below), interpolate), jnp.any(below), t[-1])
    if kind == "last":
        k = error.size - jnp.argmax(~below[::-1])
        k = jnp.where(jnp.all(below), 0, jnp.minimum(k, error.size - 1))
        return _censor(_crossing(t, error, threshold, k, interpolate), ends, t[-1])
    spent = t[0] + jnp.sum(jnp.where(below[:-1], jnp.zeros_like(t[1:]), jnp.diff(t)))
    return _censor(spent, ends, spent)


def time_by_rate(t, error, threshold) -> LearningTime:
    """The same time as an integral over the error, for strictly decreasing curves.

        T = integral_threshold^error(0) d eps / eta,   eta_k = (error_{k-1} - error_k) / (t_k - t_{k-1})

    Each whole step adds t_k - t_{k-1}; the step through the threshold adds its share. An infinite first error takes the whole step.

    Args:
        t: (n,) increasing times.
        error: (n,) strictly decreasing errors; the first may be infinite.
        threshold: scalar.

    Returns:
        `LearningTime`: equal to the interpolated first crossing; NaN with status `out_of_domain` where the curve does not
        strictly decrease, since eta = 0 or negative there and the integral means nothing.

    Raises:
        InputError: unequal lengths, times that do not increase, a threshold that is no scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import time_by_rate
        >>> t = jnp.arange(6.0)
        >>> round(float(time_by_rate(t, 8.0 / (1 + t), 2.5).value), 6)
        2.25

    Reference: MATH.md 3, eq. 5.
    """
    t, error = _curve(t, error)
    return _time_by_rate(t, error, _level(threshold, error))


@jax.jit
def _time_by_rate(t: Array, error: Array, threshold: Array) -> LearningTime:
    fall, step = error[:-1] - error[1:], jnp.diff(t)
    decreasing = jnp.all(fall > 0)
    finite = jnp.isfinite(fall)
    span = error[:-1] - jnp.maximum(error[1:], threshold)  # the part of each step above the threshold
    safe = finite & decreasing
    share = jnp.where(safe, jnp.clip(span, 0) / jnp.where(safe, fall, jnp.ones_like(fall)), jnp.ones_like(fall))
    time = _censor(t[0] + jnp.sum(share.astype(t.dtype) * step), error[-1] <= threshold, t[-1])
    nan = jnp.full_like(time.value, jnp.nan)
    return time._replace(
        value=jnp.where(decreasing, time.value, nan),
        lower=jnp.where(decreasing, time.lower, nan),
        status=jnp.where(decreasing, time.status, jnp.int32(int(Status.out_of_domain))),
    )


def soft_learning_time(t, error, threshold, tau, *, richardson: bool = True) -> Array:
    """The occupation time with a smooth step: it has a gradient even while the threshold is missed.

        T_tau = integral sigmoid((eps(t) - threshold) / tau) dt,    T_tau = T + (pi^2 / 6) tau^2 t''(threshold) + O(tau^4)

    The curve is joined by chords and each chord is integrated exactly, so T_tau -> the interpolated occupation time as tau -> 0. Anneal tau
    for optimisation and report the time from `time_to_threshold`. Keep tau well below threshold - min(error): otherwise the tail of the
    curve adds time without bound as the horizon grows.

    Args:
        t: (n,) increasing times.
        error: (n,) errors; non-finite ones count as above, with no gradient.
        threshold: scalar in the unit of the error.
        tau: temperature in the unit of the error, positive.
        richardson: combine tau and tau / 2 so that the tau^2 term cancels.

    Returns:
        Scalar time in the unit of t, differentiable in error, threshold and tau.

    Raises:
        InputError: unequal lengths, times that do not increase, tau or threshold no scalar, tau not positive (not checked while
            tracing).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from learnlag_jax.fermat import soft_learning_time
        >>> t = jnp.linspace(0.0, 10.0, 101)
        >>> round(float(soft_learning_time(t, jnp.exp(-t), 0.2, 0.02)), 2)  # log 5 = 1.609
        1.61
        >>> missed = jax.grad(lambda a: soft_learning_time(t, 1.0 + a * jnp.exp(-t), 0.9, 0.1))(1.0)
        >>> bool(missed > 0)
        True

    Reference: MATH.md 3; Sommerfeld (1928) for the expansion.
    """
    t, error = _curve(t, error)
    checks.shape(tau, (), "tau")
    if not checks.is_traced(tau):
        checks.require(tau > 0, "tau", tau, "a positive temperature", "a tenth of the threshold is a start")
    tau, threshold = jnp.asarray(tau, error.dtype), _level(threshold, error)

    def smooth(tau):
        finite = jnp.isfinite(error)
        x = jnp.where(finite, error - threshold, 0) / tau
        share = jnp.where(finite[:-1] & finite[1:], _mean_sigmoid(x[:-1], x[1:]), 1)
        return t[0] + jnp.sum(share.astype(t.dtype) * jnp.diff(t))

    return (4 * smooth(tau / 2) - smooth(tau)) / 3 if richardson else smooth(tau)


def _mean_sigmoid(a: Array, b: Array) -> Array:
    """(softplus(b) - softplus(a)) / (b - a) = sigmoid(m) + sigmoid''(m) d^2 / 24 + O(d^4), m = (a + b) / 2, d = b - a.

    The derivative of the chord is known to eps / d^2, that of the series to about d^3 / 4000: each where it is the better.
    """
    above = a + b > 0  # sigmoid(x) = 1 - sigmoid(-x): taken below the threshold, where softplus is small
    a, b = jnp.where(above, -a, a), jnp.where(above, -b, b)
    near = jnp.abs(b - a) < (4000 * jnp.finfo(a.dtype).eps) ** 0.2
    chord = (jax.nn.softplus(b) - jax.nn.softplus(a)) / jnp.where(near, 1, b - a)
    s, d = jax.nn.sigmoid((a + b) / 2), jnp.where(near, b - a, 0)
    mean = jnp.where(near, s + s * (1 - s) * (1 - 2 * s) * d**2 / 24, chord)
    return jnp.where(above, 1 - mean, mean)
