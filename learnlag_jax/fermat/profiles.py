"""Scores of many solvers over many tasks, from their learning times.

    score = 1 / (r_max - 1) integral_1^r_max rho(r) dr,  rho(r) = share of tasks with time <= r best

Comes from: learning times, +inf where not reached. Reference: Dolan and More (2002); MLPerf training rules; MATH.md 3.
"""

from typing import NamedTuple

import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.vocabulary import Array


class Profile(NamedTuple):
    """Performance of solvers over tasks.

    Attributes:
        score: (solvers,) area under the profile from 1 to r_max, over r_max - 1: in [0, 1], 1 is best everywhere.
        ratio: (solvers, tasks) time over the best time of the task; +inf where not reached.

    Example:
        >>> from learnlag_jax.fermat import Profile
        >>> Profile._fields
        ('score', 'ratio')
    """

    score: Array
    ratio: Array


def performance_profile(times, r_max: float = 4.0) -> Profile:
    """Score solvers over tasks by the exact area under their performance profiles.

        rho_s(r) = share of tasks with times[s] <= r min_s times,   score_s = 1/(r_max - 1) integral_1^r_max rho_s(r) dr

    The profile is a step function, so its integral is the mean over tasks of (r_max - ratio)^+ / (r_max - 1): no grid.

    Args:
        times: (solvers, tasks) positive times; +inf (or NaN) where not reached.
        r_max: ratios above it score nothing; AlgoPerf uses 4.

    Returns:
        `Profile(score, ratio)`.

    Raises:
        InputError: wrong shape, times not positive (not checked while tracing), r_max <= 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import performance_profile
        >>> times = jnp.array([[1.0, 4.0], [2.0, 2.0], [jnp.inf, 3.0]])
        >>> [round(float(s), 6) for s in performance_profile(times, 4.0).score]
        [0.833333, 0.833333, 0.416667]

    Reference: Dolan and More (2002); Dahl et al., AlgoPerf (2023).
    """
    times = jnp.asarray(times)
    checks.shape(times, ("solvers", "tasks"), "times")
    checks.floating(times, "times")
    checks.require(r_max > 1, "r_max", r_max, "a ratio above 1", "AlgoPerf uses 4")
    if not checks.is_traced(times):
        checks.require(
            bool(jnp.all(~(jnp.asarray(times) <= 0))), "times", "a time <= 0", "positive times", "count from 1"
        )
    times = jnp.where(jnp.isnan(times), jnp.inf, jnp.asarray(times))
    best = jnp.min(times, 0)
    ratio = jnp.where(
        jnp.isfinite(times), jnp.maximum(times / jnp.where(jnp.isfinite(best), best, 1)[None, :], 1), jnp.inf
    )
    top = jnp.asarray(r_max, times.dtype)
    return Profile(jnp.mean(jnp.clip(top - ratio, 0) / (top - 1), 1), ratio)


def mlperf_time(times) -> Array:
    """The score of MLPerf training: the fastest and the slowest run are dropped, the rest averaged.

        mean of the sorted times without the first and the last; +inf if more than one run did not converge

    Args:
        times: (n,) times of n >= 3 runs; +inf (or NaN) for a run that did not converge.

    Returns:
        Scalar.

    Raises:
        InputError: fewer than three runs.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import mlperf_time
        >>> float(mlperf_time(jnp.array([5.0, 1.0, 3.0, jnp.inf, 4.0])))
        4.0

    Reference: MLPerf training rules, section on results.
    """
    times = jnp.asarray(times)
    checks.shape(times, ("n",), "times")
    checks.floating(times, "times")
    checks.require(
        jnp.size(times) >= 3, "times", f"{jnp.size(times)} runs", "at least three", "run it again with other seeds"
    )
    times = jnp.asarray(times)
    return jnp.mean(jnp.sort(jnp.where(jnp.isnan(times), jnp.inf, times))[1:-1])
