"""How a velocity approaches its limit: the fit, the contest of forms, and the context after which little is gained.

    power         v(t) = v_inf + c (t + t0)^-b
    exponential   v(t) = v_inf + c exp(-t / tau)
    logarithmic   v(t) = m - c log(t + t0)                      has no limit: a warning when it wins

Only the shape (t0, b), tau or t0 is searched. Comes from: `curves`, `forms`. Reference: MATH.md section 1.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.information.curves import Curve, check_curve
from learnlag_jax.information.deceleration import deceleration_test
from learnlag_jax.information.forms import SLOWEST, exponential, logarithmic, power, rounding
from learnlag_jax.information.student import student_band
from learnlag_jax.vocabulary import Array, Status

REFITS = 100  # bootstrap replicates that are fitted again: enough for a 95 % band, and a fit is the costly part


class Decay(NamedTuple):
    """The fitted approach to a limit, v(t) = v_inf + c (t + t0)^-b.

    Attributes:
        v_inf, c, t0, b: the parameters; v_inf >= 0, c >= 0, t0 > -1, b > 0.
        low, high: `(v_inf, c, t0, b)` bands from the bootstrap replicates, each (4,).
        residual: root mean square misfit, nats per token.
        replicates: (R, 4) parameters of the refitted replicates.
        sources: () the least of the curve.
        status: int32 `Status`; singular where the curve does not determine its limit: the test of "flat or rising" is not
            rejected at 1 %, the fall to v_inf is no larger than rounding, the band of v_inf (before `low` is cut at zero) is wider
            than the whole fall or reaches zero, or b lies on the slow edge of the search. So a decay to zero is singular: a limit
            that these tokens do not tell from zero is not told from none. The misfit and `high` are still valid. Where the approach is
            faster than a power law, v_inf is determined and b runs to its other edge: see `compare_decays`.

    Example:
        >>> from learnlag_jax.information import Decay
        >>> Decay._fields[:2]
        ('v_inf', 'c')
    """

    v_inf: Array
    c: Array
    t0: Array
    b: Array
    low: Array
    high: Array
    residual: Array
    replicates: Array
    sources: Array
    status: Array


class Comparison(NamedTuple):
    """A contest of decay forms, in the order power, exponential, logarithmic.

    Attributes:
        residual: (3,) root mean square misfit, nats per token.
        score: (3,) T log(mean square misfit) + 2 (number of parameters); the least is best (Akaike).
        wins: (3,) share of bootstrap replicates in which the form has the least score; NaN where all forms fit to rounding, as
            they do a flat curve or two positions, so that nothing is contested.

    Example:
        >>> from learnlag_jax.information import Comparison
        >>> Comparison._fields
        ('residual', 'score', 'wins')
    """

    residual: Array
    score: Array
    wins: Array


class Context(NamedTuple):
    """A length of context in tokens, its band, and the status of the fit it comes from.

    Example:
        >>> from learnlag_jax.information import Context
        >>> Context(100.0, 80.0, 130.0, 0).t
        100.0
    """

    t: Array | float
    low: Array | float
    high: Array | float
    status: Array | int


def decay_fit(curve: Curve, *, level: float = 0.95) -> Decay:
    """Least-squares fit of the approach to a limit.

        minimise over v_inf >= 0, c >= 0, t0 > -1, b > 0 the sum over t of (v(t) - v_inf - c (t + t0)^-b)^2

    Args:
        curve: from `in_context_curve` or `log_bins`.
        level: coverage of the bands, by refitting the bootstrap replicates.

    Returns:
        `Decay`; look at its status before you quote a limit.

    Raises:
        InputError: a level that is no fraction, or (on the host) a curve without draws at some position.

    Statuses:
        converged, or singular where the limit is not determined.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import decay_fit, in_context_curve
        >>> t = jnp.arange(1.0, 65.0)
        >>> fit = decay_fit(in_context_curve(jnp.tile(2 + 3 * (t + 1) ** -0.5, (2, 1))))
        >>> [round(float(x), 3) for x in (fit.v_inf, fit.c, fit.t0, fit.b)]
        [2.0, 3.0, 1.0, 0.5]

    Reference: MATH.md section 1.
    """
    check_curve(curve)
    checks.fraction(level, "level")
    return _decay_fit(curve, level)


@functools.partial(jax.jit, static_argnums=1)
def _decay_fit(curve: Curve, level: float) -> Decay:
    t = curve.t.astype(curve.mean.dtype)
    best, misfit = power(t, curve.mean)
    many, _ = jax.vmap(power, (None, 0))(t, curve.replicates[:REFITS])
    sources = jnp.min(curve.sources)
    low, high = student_band(many, level, sources, best)
    v_inf, c, t0, b = best
    falls = ~(deceleration_test(curve).p_value > 0.01)  # NaN where windows do not differ: nothing says that it does not
    fall = curve.mean[0] - v_inf
    # the limit is known more closely than the fall is long, and is not zero: below zero is where a curve without one leads
    seen = (fall > rounding(curve.mean)) & (high[0] - low[0] < fall) & (low[0] > 0)
    determined = falls & seen & (v_inf > 0) & (b > 1.01 * SLOWEST)
    low = jnp.maximum(low, jnp.asarray([0, 0, -1, 0], t.dtype))  # no parameter is admissible below
    status = jnp.where(determined, Status.converged, Status.singular).astype(jnp.int32)
    return Decay(v_inf, c, t0, b, low, high, jnp.sqrt(misfit / t.shape[0]), many, sources, status)


def compare_decays(curve: Curve) -> Comparison:
    """Which form does the approach have: a power law, an exponential, or a logarithm that never ends?

        score = T log(mean square misfit) + 2 (number of parameters)

    Positions of one window are dependent, so the score of one curve overstates its evidence; `wins`, the share of replicates
    of whole windows each form wins, does not.

    Args:
        curve: from `in_context_curve` or `log_bins`.

    Returns:
        `Comparison` in the order power, exponential, logarithmic.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import compare_decays, in_context_curve
        >>> t = jnp.arange(1.0, 33.0)
        >>> curve = in_context_curve(jnp.tile(2 + 3 * jnp.exp(-t / 5), (2, 1)))
        >>> [round(float(x), 3) for x in compare_decays(curve).wins]  # the exponential
        [0.0, 1.0, 0.0]

    Reference: MATH.md section 1; Akaike 1974.
    """
    check_curve(curve)
    return _compare_decays(curve)


@jax.jit
def _compare_decays(curve: Curve) -> Comparison:
    t = curve.t.astype(curve.mean.dtype)
    T = t.shape[0]

    def scores(v):
        misfit = jnp.stack([form(t, v)[1] for form in (power, exponential, logarithmic)]) / T
        floor = rounding(v) ** 2  # below rounding no form is better
        score = T * jnp.log(jnp.maximum(misfit, floor)) + jnp.asarray([8, 6, 6], v.dtype)
        best = jax.nn.one_hot(jnp.argmin(score), 3, dtype=t.dtype)
        return misfit, score, jnp.where(jnp.isfinite(score) & jnp.any(misfit > floor), best, jnp.nan)

    misfit, score, _ = scores(curve.mean)
    wins = jnp.mean(jax.vmap(scores)(curve.replicates[:REFITS])[2], axis=0)
    return Comparison(jnp.sqrt(misfit), score, wins)


def effective_context(fit: Decay, gain: float, *, level: float = 0.95) -> Context:
    """The context after which one more token gains less than `gain`, by the fitted decay.

        -dv/dt = c b (t + t0)^-(b + 1) = gain        =>        t = (c b / gain)^(1 / (b + 1)) - t0

    Args:
        fit: from `decay_fit`.
        gain: () nats per token squared, above zero; may be traced, and mapped by `jax.vmap`.
        level: coverage of the band, from the refitted replicates.

    Returns:
        `Context`; at least 1 token. A context longer than the curve was is an extrapolation. Where the fit is not converged
        its status is passed on.

    Raises:
        InputError: a gain that is not one number above zero (on the host), or a level that is no fraction.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import decay_fit, effective_context, in_context_curve
        >>> t = jnp.arange(1.0, 65.0)
        >>> fit = decay_fit(in_context_curve(jnp.tile(2 + 3 / t, (2, 1))))
        >>> round(float(effective_context(fit, 0.03).t), 2)  # 3 / t^2 = 0.03
        10.0

    Reference: MATH.md section 1.
    """
    checks.shape(gain, (), "gain")
    above = checks.is_traced(gain) or gain > 0
    checks.require(above, "gain", gain, "nats per token squared, above zero", "use for example 0.001")
    checks.fraction(level, "level")

    def at(parameters):
        _, c, t0, b = parameters
        length = jnp.exp(
            (jnp.log(c) + jnp.log(b) - jnp.log(jnp.asarray(gain, c.dtype))) / (b + 1)
        )  # c may be beyond c / gain
        return jnp.maximum(length - t0, jnp.ones_like(c))

    best = at((fit.v_inf, fit.c, fit.t0, fit.b))
    low, high = student_band(jax.vmap(at)(fit.replicates), level, fit.sources, best)
    return Context(best, jnp.maximum(low, jnp.ones_like(low)), high, fit.status)
