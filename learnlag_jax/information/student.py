"""Student's law for bootstrap bands and tests: few documents know their own spread badly.

Comes from: bootstrap draws and the effective number of documents D, D - 1 degrees of freedom. Goes to: `curves`, `decay`.
Reference: Hesterberg 2015, What teachers should know about the bootstrap. Not public.
"""

import jax
import jax.numpy as jnp

from learnlag_jax.vocabulary import Array


def percentile_band(draws: Array, level: float, sources: Array) -> Array:
    """(2, ...) low and high: percentiles as far out in the normal law as Student's quantiles are (Hesterberg 2015)."""
    dof = (sources - 1).astype(draws.dtype)

    def halve(_, x):  # the share of Student's law beyond t is betainc(dof / 2, 1 / 2, x), x = dof / (dof + t^2)
        low, high = x
        middle = (low + high) / 2
        beyond = jax.scipy.special.betainc(dof / 2, jnp.full_like(dof, 0.5), middle) > 1 - level
        return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

    x = jax.lax.fori_loop(0, 50, halve, (jnp.zeros_like(dof), jnp.ones_like(dof)))[1]
    tail = 100 * jax.scipy.stats.norm.sf(jnp.sqrt(dof * (1 - x) / x))
    return jnp.percentile(draws, jnp.stack([tail, 100 - tail]), axis=0)


def student_sf(z: Array, dof: Array) -> Array:
    """P(t > z) of Student's law."""
    one_side = jax.scipy.special.betainc(dof / 2, jnp.full_like(dof, 0.5), dof / (dof + z**2)) / 2
    return jnp.where(z > 0, one_side, 1 - one_side)
