"""Learning times over seeds and tasks: medians and means that respect censoring, and performance profiles.

    S(t) = prod over times t_i <= t of (1 - d_i / n_i)                 Kaplan-Meier: the share not yet there
    restricted mean = integral from 0 to budget of S(t) dt             mean of min(T, budget)
    score = 1 / (r_max - 1) integral_1^r_max rho(r) dr,  rho(r) = share of tasks with time <= r best

Runs that never reach the threshold stay in, as lower bounds. Times in samples or seconds. Reference: Kaplan and Meier (1958);
Dolan and More (2002); MATH.md 3.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.vocabulary import Array, Status, status_where


class Summary(NamedTuple):
    """What many runs say about one learning time.

    Attributes:
        median: Kaplan-Meier median; +inf if fewer than half reached.
        median_interval: (2,) percentile bootstrap over runs; an end may be +inf.
        restricted_mean: mean of min(T, budget).
        restricted_mean_interval: (2,) percentile bootstrap.
        reached: share of runs that reached within the budget, by Kaplan-Meier.
        reached_interval: (2,) percentile bootstrap.
        status: int32: `not_reached` if the median is infinite.

    Example:
        >>> from learnlag_jax.fermat import Summary
        >>> Summary._fields[0]
        'median'
    """

    median: Array
    median_interval: Array
    restricted_mean: Array
    restricted_mean_interval: Array
    reached: Array
    reached_interval: Array
    status: Array


class Survival(NamedTuple):
    """A Kaplan-Meier curve: the share that has not reached the threshold after each time, times increasing.

    Example:
        >>> from learnlag_jax.fermat import Survival
        >>> Survival._fields
        ('times', 'share')
    """

    times: Array
    share: Array


def kaplan_meier(times, reached, weights=None) -> Survival:
    """The share of runs that have not reached the threshold, as a right-continuous step function.

        S(t) = prod over i with t_i <= t of (1 - d_i / n_i)

    Args:
        times: (n,) times; where not reached, the last time the run was seen.
        reached: (n,) bool.
        weights: (n,) counts of each run, as in a bootstrap draw; None for 1 each.

    Returns:
        `Survival(times, share)`, both (n,), sorted; runs that reached come before runs censored at the same time.

    Raises:
        InputError: unequal lengths.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import kaplan_meier
        >>> curve = kaplan_meier(jnp.array([3.0, 1.0, 2.0, 2.0]), jnp.array([True, True, True, False]))
        >>> [round(float(s), 6) for s in curve.share]
        [0.75, 0.5, 0.5, 0.0]

    Reference: Kaplan and Meier (1958); MATH.md 3.
    """
    checks.shape(times, ("n",), "times")
    checks.shape(reached, jnp.shape(times), "reached")
    times, reached = jnp.asarray(times), jnp.asarray(reached, bool)
    weights = jnp.ones_like(times) if weights is None else jnp.asarray(weights, times.dtype)
    order = jnp.lexsort((~reached, times))
    times, reached, weights = times[order], reached[order], weights[order]
    at_risk = jnp.cumsum(weights[::-1])[::-1]
    factor = 1 - jnp.where(reached, weights, 0) / jnp.where(at_risk > 0, at_risk, 1)
    return Survival(times, jnp.cumprod(factor))


def _estimates(times: Array, reached: Array, budget: Array, weights: Array) -> Array:
    """Median, restricted mean and share reached of one (re)sample."""
    t, share = kaplan_meier(times, reached, weights)
    # the product rounds: a share that is one half in exact arithmetic must count as one half
    half = share <= 0.5 + 8 * t.size * jnp.finfo(t.dtype).eps
    median = jnp.where(jnp.any(half), t[jnp.argmax(half)], jnp.inf)
    ends = jnp.minimum(jnp.concatenate([t, budget[None]]), budget)
    spans = jnp.diff(ends, prepend=jnp.zeros(1, t.dtype))
    before = jnp.concatenate([jnp.ones(1, t.dtype), share])
    inside = jnp.where(t <= budget, share, 1.0)
    return jnp.stack([median, jnp.sum(spans * before), 1 - jnp.min(inside, initial=1.0)])


def learning_time_summary(times, reached, budget, *, confidence: float = 0.95, draws: int = 2000, key=None) -> Summary:
    """Median and mean learning time over runs, some of which may not have reached the threshold.

    Args:
        times: (n,) learning times over seeds; where not reached, any value (infinity too): the run counts as censored at
            min(time, budget).
        reached: (n,) bool.
        budget: scalar: how long the runs were allowed to go.
        confidence: coverage of the intervals.
        draws: bootstrap draws over runs.
        key: typed random key; None takes `jax.random.key(0)`.

    Returns:
        `Summary`. With fewer than half reached the median is +inf: report `reached` and `restricted_mean`.

    Raises:
        InputError: unequal lengths, no runs, or a confidence outside (0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import learning_time_summary
        >>> summary = learning_time_summary(jnp.array([10.0, 20.0, jnp.inf]), jnp.array([True, True, False]), 50.0)
        >>> float(summary.median), round(float(summary.restricted_mean), 6), round(float(summary.reached), 6)
        (20.0, 26.666667, 0.666667)

    Reference: MATH.md 3; Efron (1981) for the bootstrap of censored data.
    """
    checks.shape(times, ("n",), "times")
    checks.floating(times, "times")
    checks.shape(reached, jnp.shape(times), "reached")
    checks.require(jnp.size(times) > 0, "times", "no runs", "at least one", "run it once")
    checks.require(0 < confidence < 1, "confidence", confidence, "a number between 0 and 1", "0.95 is usual")
    times, reached = jnp.asarray(times), jnp.asarray(reached, bool)
    key = jax.random.key(0) if key is None else key
    return _summarise(times, reached, jnp.asarray(budget, times.dtype), key, confidence, draws)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _summarise(times: Array, reached: Array, budget: Array, key: Array, confidence: float, draws: int) -> Summary:
    seen = reached & (times <= budget)
    times = jnp.minimum(jnp.where(jnp.isnan(times), budget, times), budget)
    n = times.size

    def draw(key):
        picks = jax.random.randint(key, (n,), 0, n)
        return _estimates(times, seen, budget, jnp.zeros(n, times.dtype).at[picks].add(1))

    point = _estimates(times, seen, budget, jnp.ones(n, times.dtype))
    sample = jnp.sort(jax.lax.map(draw, jax.random.split(key, draws), batch_size=256), 0)
    tail = (1 - confidence) / 2  # order statistics, not interpolated: an infinite end stays infinite
    low, high = sample[int(tail * (draws - 1))], sample[-1 - int(tail * (draws - 1))]
    ends = jnp.stack([low, high], 1)
    status = status_where(~jnp.isfinite(point[0]), Status.not_reached)
    return Summary(point[0], ends[0], point[1], ends[1], point[2], ends[2], status)


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


class Ratio(NamedTuple):
    """How much longer one method takes than another, over the same seeds.

    Attributes:
        value: ratio of the restricted means.
        interval: (2,) percentile bootstrap, whole pairs redrawn.
        share: bootstrap share of draws with a ratio below 1: how sure it is that the first is faster.

    Example:
        >>> from learnlag_jax.fermat import Ratio
        >>> Ratio._fields[0]
        'value'
    """

    value: Array
    interval: Array
    share: Array


def learning_time_ratio(
    times, reached, other_times, other_reached, budget, *, confidence=0.95, draws: int = 2000, key=None
) -> Ratio:
    """Ratio of two restricted mean learning times, with an interval that keeps runs of the same seed together.

        ratio = mean min(T, budget) / mean min(T', budget)

    Args:
        times, reached: (n,) of the first method, run i with seed i.
        other_times, other_reached: (n,) of the second, run i with the same seed i.
        budget: scalar, the same for both.
        confidence: coverage of the interval.
        draws: bootstrap draws over seeds.
        key: typed random key; None takes `jax.random.key(0)`.

    Returns:
        `Ratio`: below 1 where the first is faster. Runs that do not reach count with the budget: a ratio of means of min(T, budget).

    Raises:
        InputError: unequal lengths.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import learning_time_ratio
        >>> t = jnp.array([10.0, 20.0, 30.0])
        >>> ratio = learning_time_ratio(t / 2, jnp.ones(3, bool), t, jnp.ones(3, bool), 50.0)
        >>> float(ratio.value), [float(x) for x in ratio.interval]
        (0.5, [0.5, 0.5])

    Reference: MATH.md 3; Efron and Tibshirani (1993), chapter 8.
    """
    checks.shape(times, ("n",), "times")
    checks.floating(times, "times")
    for x, name in ((reached, "reached"), (other_times, "other_times"), (other_reached, "other_reached")):
        checks.shape(x, jnp.shape(times), name)
    checks.require(0 < confidence < 1, "confidence", confidence, "a number between 0 and 1", "0.95 is usual")
    dtype = jnp.asarray(times).dtype
    budget = jnp.asarray(budget, dtype)
    spent = lambda t, r: jnp.where(jnp.asarray(r, bool), jnp.minimum(jnp.asarray(t, dtype), budget), budget)
    a, b = spent(times, reached), spent(other_times, other_reached)
    key = jax.random.key(0) if key is None else key
    return _ratio(a, b, key, draws, int((1 - confidence) / 2 * (draws - 1)))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _ratio(a: Array, b: Array, key: Array, draws: int, tail: int) -> Ratio:
    picks = jax.random.randint(key, (draws, a.size), 0, a.size)
    sample = jnp.sort(jnp.sum(a[picks], 1) / jnp.sum(b[picks], 1))
    interval = jnp.stack([sample[tail], sample[-1 - tail]])
    return Ratio(jnp.sum(a) / jnp.sum(b), interval, jnp.mean((sample < 1).astype(a.dtype)))


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
    checks.shape(times, ("n",), "times")
    checks.floating(times, "times")
    checks.require(
        jnp.size(times) >= 3, "times", f"{jnp.size(times)} runs", "at least three", "run it again with other seeds"
    )
    times = jnp.asarray(times)
    return jnp.mean(jnp.sort(jnp.where(jnp.isnan(times), jnp.inf, times))[1:-1])
