"""Student's law for bootstrap bands and tests: few documents know their own spread badly.

Comes from: bootstrap draws and the effective number of documents D, D - 1 degrees of freedom. Goes to: `curves`, `decay`.
Reference: Hesterberg 2015, What teachers should know about the bootstrap; Hill 1970, Algorithm 395. Not public.
"""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax.vocabulary import Array

# below so many documents percentiles hold normal means too seldom (92.5 % for 95 at five, 61 at two, whose draws take three values);
# from here on they lose nothing and follow skewed velocities, of which the straight band misses more
FEWEST = 10
MANY = 100  # degrees of freedom from which Hill's series is right to rounding; below, float32 still holds the beta function
NODES = 24  # Chebyshev nodes of the quantile over 1 / D


def student_band(draws: Array, level: float, sources: Array, centre: Array) -> Array:
    """(2, ...) low and high of draws (R, ...): percentiles as far out in the normal law as Student's quantiles are (Hesterberg 2015).

    Where D < 10, or no draw lies that far out, Student's quantile times the spread of the draws about `centre`, the estimate.
    """
    sources = jnp.broadcast_to(sources.astype(draws.dtype), draws.shape[1:])
    t = student_quantile(level, sources - 1)
    tail = jax.scipy.stats.norm.sf(t)
    spread = jnp.std(draws, axis=0, ddof=1)
    reach = jnp.where(spread == 0, spread, t * spread)  # t is infinite where D is hardly more than 1
    few = (sources < FEWEST) | (tail * draws.shape[0] < 1)
    return jnp.where(few[None], jnp.stack([centre - reach, centre + reach]), _percentiles(draws, tail, level))


def student_quantile(level: float, dof: Array) -> Array:
    """t with P(|x| < t) = level, elementwise in the degrees of freedom; infinite where the dtype does not hold it.

    t^2 = dof expm1(h / dof), where h is smooth in 1 / D all the way from 0, the normal law, to 1: a polynomial in it does, to 1e-6
    from two documents and from levels of one half on.
    """
    dof = jnp.maximum(dof, jnp.finfo(dof.dtype).tiny)
    x = 2 / (dof + 1) - 1
    nodes = np.pi * (np.arange(NODES) + 0.5) / NODES
    values = _stretch(level, 2 / (1 + np.cos(nodes)) - 1)
    first, *rest = (np.cos(np.outer(np.arange(NODES), nodes)) @ values / NODES).tolist()
    b = d = jnp.zeros_like(x)
    for c in reversed(rest):  # Clenshaw
        b, d = 2 * c + 2 * x * b - d, b
    return jnp.sqrt(dof) * jnp.sqrt(jnp.expm1((first + x * b - d) / dof))


def _stretch(level: float, dof: np.ndarray) -> np.ndarray:
    """h = dof log(1 + t^2 / dof), on the host: with h = 2 p^2 the share within t is an integral from 0 to p of what nowhere bends sharply.

    share = int_0^p g / int_0^oo g,   g(p) = p exp(-p^2) / sqrt(1 - exp(-2 p^2 / dof))
    """
    s = np.linspace(-3, 3, 121)  # tanh-sinh
    u = 1 / (1 + np.exp(-np.pi * np.sinh(s)))
    weight = np.cosh(s) * u * (1 - u)

    def below(p):
        x = p[:, None] * u
        return p * (x * np.exp(-x * x) / np.sqrt(-np.expm1(-2 * x * x / dof[:, None])) @ weight)

    low, high = np.zeros_like(dof), np.full_like(dof, 12)  # beyond 12 lies 1e-60
    wanted = level * below(high)
    for _ in range(60):
        middle = (low + high) / 2
        within = below(middle) < wanted
        low, high = np.where(within, middle, low), np.where(within, high, middle)
    return 2 * low**2


def _percentiles(draws: Array, tail: Array, level: float) -> Array:
    """(2, ...) the percentiles that leave `tail`, of the shape of one draw and at most (1 - level) / 2, on either side."""
    last = draws.shape[0] - 1
    at = tail.reshape(-1) * last
    here = jnp.minimum(jnp.floor(at), last - 1).astype(jnp.int32)
    sides = _ends(draws.reshape(last + 1, -1).T, min(int((1 - level) / 2 * last) + 3, last + 1))
    a, b = (jnp.take_along_axis(sides, (here + i)[None, :, None], axis=2)[..., 0] for i in (0, 1))
    part, empty = at - here.astype(at.dtype), jnp.any(jnp.isnan(draws), axis=0).reshape(-1)
    found = jnp.where(empty[None], jnp.nan, a + part[None] * (b - a))
    return found.reshape(2, *tail.shape)


def _ends(rows: Array, k: int) -> Array:
    """(2, T, k) the k least, rising, and the k largest, falling, of every row."""
    if rows.dtype.itemsize > 4:  # XLA picks in float32 alone, ten times as fast as it sorts
        ordered = jnp.sort(rows, axis=1)
        return jnp.stack([ordered[:, :k], ordered[:, ::-1][:, :k]])
    return jnp.stack([-jax.lax.top_k(-rows, k)[0], jax.lax.top_k(rows, k)[0]])


def student_sf(z: Array, dof: Array) -> Array:
    """P(t > z) of Student's law: of many degrees of freedom the normal law at Hill's series, where the beta function loses its digits."""
    one_side = jax.scipy.special.betainc(dof / 2, jnp.full_like(dof, 0.5), dof / (dof + z**2)) / 2
    a = jnp.maximum(dof, MANY) - 0.5
    b, y = 48 * a**2, a * jnp.log1p(jnp.minimum(z**2, jnp.finfo(a.dtype).max) / (a + 0.5))
    series = ((((-0.4 * y - 3.3) * y - 24) * y - 85.5) / (0.8 * y**2 + 100 + b) + y + 3) / b + 1
    one_side = jnp.where(dof < MANY, one_side, jax.scipy.stats.norm.sf(series * jnp.sqrt(y)))
    return jnp.where(z > 0, one_side, 1 - one_side)
