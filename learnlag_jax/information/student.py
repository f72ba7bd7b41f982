"""Student's law for bootstrap bands and tests: few documents know their own spread badly.

Comes from: bootstrap draws and the effective number of documents D, D - 1 degrees of freedom. Goes to: `curves`, `decay`.
Reference: Hesterberg 2015, What teachers should know about the bootstrap. Not public.
"""

import jax
import jax.numpy as jnp

from learnlag_jax.vocabulary import Array

# below so many documents percentiles hold normal means too seldom (92.5 % for 95 at five, 61 at two, whose draws take three values);
# from here on they lose nothing and follow skewed velocities, of which the straight band misses more
FEWEST = 10


def student_band(draws: Array, level: float, sources: Array, centre: Array) -> Array:
    """(2, ...) low and high of draws (R, ...): percentiles as far out in the normal law as Student's quantiles are (Hesterberg 2015).

    Where D < 10, or no draw lies that far out, Student's quantile times the spread of the draws about `centre`, the estimate.
    """
    sources = jnp.broadcast_to(sources.astype(draws.dtype), draws.shape[1:])
    t = student_quantile(level, sources - 1)
    tail = jax.scipy.stats.norm.sf(t)
    reach = t * jnp.std(draws, axis=0, ddof=1)
    few = (sources < FEWEST) | (tail * draws.shape[0] < 1)
    return jnp.where(few[None], jnp.stack([centre - reach, centre + reach]), _percentiles(draws, tail))


def student_quantile(level: float, dof: Array) -> Array:
    """t with P(|x| < t) = level, elementwise in the degrees of freedom."""

    def halve(_, x):  # the share of Student's law beyond t is betainc(dof / 2, 1 / 2, x), x = dof / (dof + t^2)
        low, high = x
        middle = (low + high) / 2
        beyond = jax.scipy.special.betainc(dof / 2, jnp.full_like(dof, 0.5), middle) > 1 - level
        return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

    x = jax.lax.fori_loop(0, 50, halve, (jnp.zeros_like(dof), jnp.ones_like(dof)))[1]
    return jnp.sqrt(dof * (1 - x) / x)


def _percentiles(draws: Array, tail: Array) -> Array:
    """(2, ...) the percentiles that leave `tail`, of the shape of one draw, on either side."""
    columns, tails = draws.reshape(draws.shape[0], -1), jnp.stack([tail, 1 - tail]).reshape(2, -1)
    found = jax.vmap(lambda column, q: jnp.percentile(column, 100 * q), 1, 1)(columns, tails)
    return found.reshape(2, *tail.shape)


def student_sf(z: Array, dof: Array) -> Array:
    """P(t > z) of Student's law."""
    one_side = jax.scipy.special.betainc(dof / 2, jnp.full_like(dof, 0.5), dof / (dof + z**2)) / 2
    return jnp.where(z > 0, one_side, 1 - one_side)
