"""Does the velocity fall as context grows? A test that can come out false.

    z = contrast / standard error, against Student's t with D - 1 degrees of freedom, D the effective number of documents, the
    least of all positions

Comes from: `curves`. Goes to: `decay`, the report's chapter. Reference: MATH.md section 1, Insight 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.information.curves import Curve, check_curve
from learnlag_jax.information.student import student_sf
from learnlag_jax.vocabulary import Array


class Deceleration(NamedTuple):
    """Does the velocity fall with context?

    Attributes:
        statistic: falling contrast in standard errors, positive when falling; for a flat curve about Student's t with D - 1
            degrees of freedom, D the effective number of documents.
        p_value: chance of a statistic at least as large if the curve is flat or rising; like the statistic NaN where the draws
            do not differ by more than rounding, so that there is nothing to judge by.
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


def deceleration_test(curve: Curve, *, start: int = 1) -> Deceleration:
    """Does the velocity fall as context grows? A one-sided test that a flat or rising curve passes and a falling one fails.

        contrast = - sum over t of (log t - mean log t) v(t) / sum of (log t - mean log t)^2,   z = contrast / s.e.

    The standard error comes from the bootstrap replicates of whole windows, so dependence inside a window is allowed for.

    Args:
        curve: from `in_context_curve`.
        start: first position that counts, in tokens from 1; for a model that looks back k tokens, t = k on must be flat. Of a
            binned curve the bins count whose t is at least that.

    Returns:
        `Deceleration`; `p_value` is the p of "flat or rising".

    Raises:
        InputError: fewer than two positions left, or (on the host) no draw at some position.

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
    check_curve(curve)
    checks.whole(start, "start", 1, "positions are counted from 1")
    if not checks.is_traced(curve.t):
        left = int(np.sum(np.asarray(curve.t) >= start))
        checks.require(left >= 2, "start", f"{start}, {left} positions left", "two positions or more", "start earlier")
    return _deceleration(curve, start)


@jax.jit
def _deceleration(curve: Curve, start) -> Deceleration:
    x, counts = jnp.log(curve.t.astype(curve.mean.dtype)), curve.t >= start
    x = jnp.where(counts, x - jnp.mean(x, where=counts), 0)
    weights = -x / jnp.sum(x**2)
    contrast = jnp.dot(weights, curve.mean)
    error = jnp.std(curve.replicates @ weights, ddof=1)
    rounding = 16 * jnp.finfo(error.dtype).eps * jnp.dot(jnp.abs(weights), jnp.abs(curve.mean))
    z = jnp.where(error > rounding, contrast / error, jnp.nan)
    return Deceleration(z, student_sf(z, jnp.min(curve.sources) - 1), contrast, error)
