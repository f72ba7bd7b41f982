"""In-context learning curves: the expected velocity at every position, its band, its limit, and whether it slows down.

    v(t) = mean over windows of -log p(x_t | x_<t)              band: bootstrap over windows or documents, never tokens
    fit:  v(t) = v_inf + c (t + t0)^-b                          the limit v_inf and how fast it is approached
    test: z = contrast / standard error                         can come out false

Tokens of one window are dependent, so whole windows (or all windows of one document) are drawn again. Comes from: an array
of velocities (windows, T). Goes to: the report's figure 1. Reference: MATH.md section 1, eq. 1; figure 1 of the paper.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.vocabulary import Array


class Curve(NamedTuple):
    """An in-context learning curve.

    Attributes:
        t: (T,) tokens, from 1.
        mean: (T,) expected velocity, nats per token.
        low, high: (T,) band of the mean.
        acceleration: (T - 1,) difference of `mean`, nats per token squared (eq. 1).
        acceleration_low, acceleration_high: (T - 1,) its band.
        replicates: (R, T) bootstrap means, from which every later standard error comes.

    Example:
        >>> from learnlag_jax.information import Curve
        >>> Curve._fields[:2]
        ('t', 'mean')
    """

    t: Array
    mean: Array
    low: Array
    high: Array
    acceleration: Array
    acceleration_low: Array
    acceleration_high: Array
    replicates: Array


class Decay(NamedTuple):
    """The fitted approach to a limit, v(t) = v_inf + c (t + t0)^-b.

    Attributes:
        v_inf, c, t0, b: the parameters; v_inf >= 0, c >= 0, t0 > -1, b > 0.
        low, high: `(v_inf, c, t0, b)` bands from the bootstrap replicates, each (4,).
        residual: root mean square misfit, nats per token.

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


class Deceleration(NamedTuple):
    """Does the velocity fall with context?

    Attributes:
        statistic: falling contrast in standard errors; about N(0, 1) for a flat curve, positive when falling.
        p_value: chance of a statistic at least as large if the curve is flat or rising.
        contrast: how much v falls for each e-fold of t, nats per token (least squares on log t).
        standard_error: of the contrast.

    Example:
        >>> from learnlag_jax.information import Deceleration
        >>> Deceleration._fields[:2]
        ('statistic', 'p_value')
    """

    statistic: Array
    p_value: Array
    contrast: Array
    standard_error: Array


def in_context_curve(v: Array, *, documents=None, replicates: int = 400, level: float = 0.95, key=None) -> Curve:
    """The expected velocity and acceleration at every position, with bootstrap bands.

        v(t) = (1/W) sum over windows w of v[w, t],   a(t) = v(t+1) - v(t)

    Args:
        v: (W, T) velocities of W windows, nats per token; no NaN.
        documents: (W,) integers 0 .. D - 1, the document each window was cut from; windows of one document are drawn
            together. Each window its own document if left out.
        replicates: bootstrap draws R.
        level: coverage of the band.
        key: typed JAX key of the draws; `jax.random.key(0)` if left out.

    Returns:
        `Curve`.

    Raises:
        InputError: fewer than 2 windows or tokens, or (on the host) a velocity that is not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import in_context_curve
        >>> curve = in_context_curve(jnp.array([[3.0, 2.0, 1.0], [5.0, 2.0, 1.0]]))
        >>> curve.mean.tolist(), curve.acceleration.tolist()
        ([4.0, 2.0, 1.0], [-2.0, -1.0])

    Reference: MATH.md section 1; figure 1 of the paper.
    """
    checks.shape(v, ("W", "T"), "v")
    checks.floating(v, "v")
    checks.require(min(v.shape) >= 2, "v", checks.describe(v), "at least 2 windows of 2 tokens", "cut more windows")
    checks.finite(v, "v")
    draws = _counts(jax.random.key(0) if key is None else key, documents, v, replicates)
    weights = draws / jnp.sum(draws, axis=1, keepdims=True)
    means = weights @ v
    tail = 50 * (1 - level)
    band = lambda x: jnp.percentile(x, jnp.asarray([tail, 100 - tail], x.dtype), axis=0)
    mean = jnp.mean(v, axis=0)
    (low, high), (a_low, a_high) = band(means), band(jnp.diff(means, axis=1))
    t = jnp.arange(1, v.shape[1] + 1, dtype=jnp.int32)
    return Curve(t, mean, low, high, jnp.diff(mean), a_low, a_high, means)


def _counts(key, documents, v: Array, replicates: int) -> Array:
    """How often each window appears in each draw, (R, W)."""
    windows = v.shape[0]
    ids = jnp.arange(windows) if documents is None else jnp.asarray(documents)
    checks.shape(ids, (windows,), "documents")
    total = windows if documents is None else int(np.max(np.asarray(documents))) + 1
    drawn = jax.random.randint(key, (replicates, total), 0, total)
    times = jax.vmap(lambda row: jnp.bincount(row, length=total))(drawn)
    return times[:, ids].astype(v.dtype)


def decay_fit(curve: Curve, *, level: float = 0.95) -> Decay:
    """Least-squares fit of the approach to a limit.

        minimise over v_inf >= 0, c >= 0, t0 > -1, b > 0 the sum over t of (v(t) - v_inf - c (t + t0)^-b)^2

    For each (t0, b) the best v_inf and c are in closed form, so only two parameters are searched, on a grid that closes in.

    Args:
        curve: from `in_context_curve`.
        level: coverage of the bands, by refitting the bootstrap replicates.

    Returns:
        `Decay`.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import decay_fit, in_context_curve
        >>> t = jnp.arange(1.0, 65.0)
        >>> fit = decay_fit(in_context_curve(jnp.tile(2 + 3 * (t + 1) ** -0.5, (2, 1))))
        >>> [round(float(x), 3) for x in (fit.v_inf, fit.c, fit.t0, fit.b)]
        [2.0, 3.0, 1.0, 0.5]

    Reference: MATH.md section 1.
    """
    t = curve.t.astype(curve.mean.dtype)
    best, misfit = _fit(t, curve.mean)
    many, _ = jax.vmap(_fit, (None, 0))(t, curve.replicates[:100])
    tail = 50 * (1 - level)
    low, high = jnp.percentile(many, jnp.asarray([tail, 100 - tail], t.dtype), axis=0)
    return Decay(*best, low, high, jnp.sqrt(misfit / t.shape[0]))


GRID, ROUNDS, SHRINK = 17, 24, 0.6


def _fit(t: Array, v: Array) -> tuple[Array, Array]:
    """(v_inf, c, t0, b) and the sum of squares, by a grid over (log(1 + t0), log b) that closes in on its best point."""
    unit = jnp.linspace(-1, 1, GRID, dtype=t.dtype)

    def at(point):
        t0, b = jnp.expm1(point[0]), jnp.exp(point[1])
        x = ((t + t0) / (1 + t0)) ** -b
        limit, c = _line(x, v)
        return jnp.stack([limit, c * (1 + t0) ** b, t0, b]), jnp.sum((v - limit - c * x) ** 2)

    def closer(state, _):
        centre, width = state
        points = jnp.stack(jnp.meshgrid(centre[0] + width[0] * unit, centre[1] + width[1] * unit), -1).reshape(-1, 2)
        points = jax.vmap(lambda p: jnp.clip(p, low, high))(points)
        return (points[jnp.argmin(jax.vmap(lambda p: at(p)[1])(points))], width * SHRINK), None

    # 1 + t0 from 1/4 token to the length of the window; b from a nearly logarithmic to a nearly exponential decay
    low = jnp.stack([jnp.log(jnp.asarray(0.25, t.dtype)), jnp.log(jnp.asarray(0.02, t.dtype))])
    high = jnp.stack([jnp.log(t[-1] + 1), jnp.log(jnp.asarray(8.0, t.dtype))])
    (centre, _), _ = jax.lax.scan(closer, ((low + high) / 2, (high - low) / 2), length=ROUNDS)
    return at(centre)


def _line(x: Array, v: Array) -> tuple[Array, Array]:
    """v ~ limit + c x with both at least zero: the free fit if admissible, else the better of its two edges."""
    mx, mv = jnp.mean(x), jnp.mean(v)
    spread = jnp.sum((x - mx) ** 2)
    c = jnp.sum((x - mx) * (v - mv)) / jnp.where(spread > 0, spread, jnp.ones_like(spread))
    limit = mv - c * mx
    through_zero = jnp.sum(x * v) / jnp.sum(x * x)
    c, limit = jnp.where(limit < 0, through_zero, c), jnp.maximum(limit, 0)
    return jnp.where(c < 0, mv, limit), jnp.maximum(c, 0)


def deceleration_test(curve: Curve, *, start: int = 1) -> Deceleration:
    """Does the velocity fall as context grows? A one-sided test that a flat or rising curve passes and a falling one fails.

        contrast = - sum over t of (log t - mean log t) v(t) / sum of (log t - mean log t)^2,   z = contrast / s.e.

    The standard error comes from the bootstrap replicates of whole windows, so dependence inside a window is allowed for.

    Args:
        curve: from `in_context_curve`.
        start: first position that counts, in tokens from 1; for a model that looks back k tokens, t = k on must be flat.

    Returns:
        `Deceleration`; `p_value` is the p of "flat or rising".

    Raises:
        InputError: fewer than two positions left.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from learnlag_jax.information import deceleration_test, in_context_curve
        >>> noise = jax.random.normal(jax.random.key(1), (64, 32))
        >>> flat = deceleration_test(in_context_curve(2 + noise))
        >>> falling = deceleration_test(in_context_curve(2 + noise + 1 / jnp.arange(1.0, 33.0)[None]))
        >>> bool(flat.p_value > 0.01), bool(falling.p_value < 1e-6)
        (True, True)

    Reference: MATH.md section 1, Insight 1.
    """
    length = curve.mean.shape[0]
    checks.require(1 <= start <= length - 1, "start", start, f"1 .. {length - 1}", "leave at least two positions")
    x = jnp.log(curve.t[start - 1 :].astype(curve.mean.dtype))
    weights = -(x - jnp.mean(x)) / jnp.sum((x - jnp.mean(x)) ** 2)
    contrast = jnp.dot(weights, curve.mean[start - 1 :])
    error = jnp.std(curve.replicates[:, start - 1 :] @ weights, ddof=1)
    z = contrast / jnp.maximum(error, jnp.finfo(error.dtype).tiny)
    return Deceleration(z, jax.scipy.stats.norm.sf(z), contrast, error)
