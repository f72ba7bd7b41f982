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
        return excess_in_trace(probability)
    P = np.asarray(probability)
    # half a digit lost here is divided by 1 - discount later on, twice
    exact: type[np.floating] = np.longdouble if P.dtype == np.float64 else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        total = P.sum(-1, dtype=exact)
        blur = np.finfo(exact).eps * ((P.shape[-1] - 1) * np.abs(total) + np.abs(total - 1))
    return _down(total - 1 - blur, P.dtype), -_down(1 - total - blur, P.dtype)


def excess_in_trace(probability: Array) -> tuple[Array, Array]:
    """The same bounds in JAX: numbers are added in pairs, and what each addition rounds off is kept (Knuth's two-sum).

    With e_i the errors of the K - 1 additions, the row sum minus one is (total - 1) + sum e_i, where total - 1 is rounded once,
    sum e_i by less than K eps sum |e_i|, and the outer sum once: of a row of a few numbers that float holds, nothing is lost.
    """
    x, count, dtype = probability.astype(widest()), probability.shape[-1], probability.dtype
    lost = size = jnp.zeros(x.shape[:-1], x.dtype)
    while x.shape[-1] > 1:
        x, error = _paired(x)
        lost, size = lost + jnp.sum(error, -1), size + jnp.sum(jnp.abs(error), -1)
    number = lambda x: jnp.asarray(x, size.dtype)
    over, finfo = x[..., 0] - 1, jnp.finfo(size.dtype)
    total = over + lost
    # the sum of |e_i| is itself rounded by K eps; errors that are flushed to zero are smaller than the smallest float
    blur = number(finfo.eps) * (jnp.abs(over) + jnp.abs(total) + number(2 * count) * size) + number(count * finfo.tiny)
    # the last rounding, to `dtype`, is relative to the difference
    less = number(1 + jnp.finfo(dtype).eps)
    outward = lambda x: jnp.where(x > 0, x * less, x / less).astype(dtype)
    return -outward(blur - total), outward(total + blur)


def _paired(x: Array) -> tuple[Array, Array]:
    """Sums of neighbours along the last axis, and exactly what rounding took from each."""
    x = jnp.concatenate([x, jnp.zeros_like(x[..., : x.shape[-1] % 2])], -1)
    a, b = x[..., ::2], x[..., 1::2]
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def marked(row_excess: tuple, least: Array, ends: bool) -> tuple:
    """Infinite bounds where a row cannot be one of probabilities: nothing can be raised while tracing. NaN where it is."""
    below, above = (jnp.where(jnp.isfinite(x), x, jnp.nan) for x in row_excess)
    wrong = (least < 0) | (below > ROW_TOLERANCE) | (above < (-1 if ends else -ROW_TOLERANCE))
    return jnp.where(wrong, -jnp.inf, below), jnp.where(wrong, jnp.inf, above)


def _down(x: np.ndarray, dtype) -> np.ndarray:
    """The nearest numbers of `dtype` that are not larger."""
    near = x.astype(dtype)
    return np.where(near > x, np.nextafter(near, np.asarray(-np.inf, dtype)), near)
