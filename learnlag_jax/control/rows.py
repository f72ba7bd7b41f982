"""Row sums of transition probabilities, minus one and with bounds that hold of the numbers stored.

Values are sums over all time, about 1 / (1 - discount x row sum), so an error in a row sum is divided by the square of that
difference: near a discount of 1 the rounding of a sum of probabilities is the largest error there is.
"""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.vocabulary import Array

ROW_TOLERANCE = 1e-6


def widest():
    """The widest float that JAX has here."""
    return jax.dtypes.canonicalize_dtype(np.float64)


def excess_of(probability) -> tuple:
    """Lower and upper bounds [S, A] on the row sums minus one of the numbers stored."""
    if checks.is_traced(probability):
        return around(jnp.sum(probability, -1, dtype=widest()), probability.shape[-1], probability.dtype)
    P = np.asarray(probability)
    # half a digit lost here is divided by 1 - discount later on, twice
    exact: type[np.floating] = np.longdouble if P.dtype == np.float64 else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        total = P.sum(-1, dtype=exact)
        blur = np.finfo(exact).eps * ((P.shape[-1] - 1) * np.abs(total) + np.abs(total - 1))
    return _down(total - 1 - blur, P.dtype), -_down(1 - total - blur, P.dtype)


def around(total: Array, count: int, dtype) -> tuple[Array, Array]:
    """Bounds on row sums minus one, from sums of `count` terms that were rounded."""
    blur = jnp.asarray((count + 1) * jnp.finfo(total.dtype).eps, total.dtype) * jnp.abs(total)
    # the last rounding, to `dtype`, is relative to the difference
    less = jnp.asarray(1 + jnp.finfo(dtype).eps, total.dtype)
    outward = lambda x: jnp.where(x > 0, x * less, x / less).astype(dtype)
    return -outward(1 - total + blur), outward(total - 1 + blur)


def marked(row_excess: tuple, least: Array, ends: bool) -> tuple:
    """Infinite bounds where a row cannot be one of probabilities: nothing can be raised while tracing. NaN where it is."""
    below, above = (jnp.where(jnp.isfinite(x), x, jnp.nan) for x in row_excess)
    wrong = (least < 0) | (below > ROW_TOLERANCE) | (above < (-1 if ends else -ROW_TOLERANCE))
    return jnp.where(wrong, -jnp.inf, below), jnp.where(wrong, jnp.inf, above)


def _down(x: np.ndarray, dtype) -> np.ndarray:
    """The nearest numbers of `dtype` that are not larger."""
    near = x.astype(dtype)
    return np.where(near > x, np.nextafter(near, np.asarray(-np.inf, dtype)), near)
