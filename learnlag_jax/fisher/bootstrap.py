"""A p-value for White's test that holds in small samples: the statistic on data sets drawn from the fitted model, each fitted again.

    p = (1 + number of draws with T* >= T) / (1 + draws)

The chi-square limit converges slowly (fourth powers of residuals); where the model is a location-scale family, the
statistic has the same law at every parameter and this p-value is exact. Comes from: `stationarity`. Goes to: the report.
Reference: MATH.md 6; White 1982; Horowitz 1994 (the parametric bootstrap of this test).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax import checks, trees
from learnlag_jax.fisher.scores import scores
from learnlag_jax.fisher.stationarity import information_matrix_statistic
from learnlag_jax.vocabulary import Array, PyTree


class Bootstrap(NamedTuple):
    """White's test, calibrated by simulation.

    Attributes:
        statistic: on the data; the square of the standard score of the information-matrix residual.
        p_value: share of draws at least as large, counting the data themselves; never 0.
        draws: the statistic on each simulated data set; a failed fit counts as larger than the data's.

    Example:
        >>> from learnlag_jax.fisher import Bootstrap
        >>> Bootstrap._fields
        ('statistic', 'p_value', 'draws')
    """

    statistic: Array
    p_value: Array
    draws: Array


def bootstrap(
    log_prob: Callable, fit: Callable, simulate: Callable, batch: PyTree, key: Array, *, draws: int = 199
) -> Bootstrap:
    """White's information-matrix test with a parametric-bootstrap p-value.

    Args:
        log_prob: `log_prob(params, example)`, one real scalar in nats.
        fit: `fit(batch) -> params`, the maximum-likelihood estimate, traceable by JAX.
        simulate: `simulate(params, batch, key) -> batch` with the outcomes redrawn from the model.
        batch: n examples, leading axis n on every leaf.
        key: a typed JAX key.
        draws: simulated data sets; 199 resolves p = 0.005.

    Returns:
        `Bootstrap`. A statistic on the data that is not a number gives a p-value that is not one.

    Raises:
        InputError: fewer than 19 draws, which cannot resolve 5 %.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from learnlag_jax.fisher import bootstrap
        >>> log_prob = lambda t, x: -((x - t[0]) ** 2) / 2
        >>> fit, simulate = lambda x: x.mean()[None], lambda t, x, key: t[0] + jax.random.normal(key, x.shape, x.dtype)
        >>> x = 2 * jax.random.normal(jax.random.key(0), (100,), jnp.float64)    # the model says variance 1
        >>> round(float(bootstrap(log_prob, fit, simulate, x, jax.random.key(1), draws=19).p_value), 2)
        0.05

    Reference: MATH.md 6; White 1982.
    """
    checks.require(draws >= 19, "draws", draws, "at least 19", "199 is usual")

    def statistic(batch, params):
        flat, fold = trees.ravel(params)
        s = jax.vmap(lambda tree: trees.ravel(tree)[0])(scores(log_prob, params, batch))
        mean = lambda theta: jnp.mean(jax.vmap(log_prob, (None, 0))(fold(theta), batch))
        return information_matrix_statistic(log_prob, fold, flat, batch, s, jax.hessian(mean)(flat).astype(s.dtype))[0]

    def drawn(key):
        simulated = simulate(params, batch, key)
        return statistic(simulated, fit(simulated))

    params = fit(batch)
    seen = statistic(batch, params)
    T = jax.lax.map(drawn, jax.random.split(key, draws))
    larger = jnp.sum(~(seen > T), dtype=T.dtype)  # not a number counts as larger
    p = (1 + larger) / (1 + draws)
    return Bootstrap(seen, jnp.where(jnp.isfinite(seen), p, jnp.nan), T)
