"""Learning times over seeds: medians, means and ratios that respect censoring.

    S(t) = prod over times t_i <= t of (1 - d_i / n_i)                 Kaplan-Meier: the share not yet there
    restricted mean = integral from 0 to budget of S(t) dt             mean of min(T, budget)

Runs that never reach the threshold stay in, as lower bounds. Times in samples or seconds. Reference: Kaplan and Meier (1958);
MATH.md 3.
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
        times: (n,) times; where not reached, the last time the run was seen. A run whose time is NaN or infinite did not reach:
            it counts as seen for ever.
        reached: (n,) bool.
        weights: (n,) counts of each run, as in a bootstrap draw, or any numbers that are not negative; None for 1 each.

    Returns:
        `Survival(times, share)`, both (n,), sorted, +inf in place of NaN; runs of one time have one share, that after all of them. The
        share is of the dtype of the times, JAX's default where those are integers.

    Raises:
        InputError: unequal lengths; weights that are negative or not finite (not checked while tracing).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import kaplan_meier
        >>> curve = kaplan_meier(jnp.array([3.0, 1.0, 2.0, 2.0]), jnp.array([True, True, True, False]))
        >>> [round(float(s), 6) for s in curve.share]
        [0.75, 0.5, 0.5, 0.0]

    Reference: Kaplan and Meier (1958); MATH.md 3.
    """
    times, reached = jnp.asarray(times), jnp.asarray(reached, bool)
    checks.shape(times, ("n",), "times")
    checks.shape(reached, times.shape, "reached")
    kind = times.dtype if jnp.issubdtype(times.dtype, jnp.floating) else jnp.zeros(()).dtype
    weights = jnp.ones(times.shape, kind) if weights is None else _counts(weights, times).astype(kind)
    if jnp.issubdtype(times.dtype, jnp.floating):
        times, reached = jnp.where(jnp.isnan(times), jnp.inf, times), reached & jnp.isfinite(times)
    order = jnp.lexsort((~reached, times))
    times, reached, weights = times[order], reached[order], weights[order]
    at_risk = jnp.cumsum(weights[::-1])[::-1]
    after = at_risk - jnp.where(reached, weights, 0)
    # the product telescopes between censored runs: only those are multiplied, so no rounding piles up
    before = jnp.concatenate([at_risk[:1], after[:-1]])
    censored = jnp.cumprod(jnp.where(at_risk > 0, before / jnp.where(at_risk > 0, at_risk, 1), 1))
    share = after / jnp.where(at_risk[:1] > 0, at_risk[:1], 1) * censored
    # runs of weight 0 say nothing: after the last that carries weight the curve stays where that left it
    carried = jax.lax.cummax(jnp.where(at_risk > 0, jnp.arange(times.size), 0))
    return Survival(times, share[carried[_last_of_ties(times)]])


def _counts(weights, times: Array) -> Array:
    weights = jnp.asarray(weights)
    checks.shape(weights, times.shape, "weights")
    if not checks.is_traced(weights):
        checks.finite(weights, "weights")
        least = float(jnp.min(weights, initial=0))
        checks.require(least >= 0, "weights", f"a weight of {least:g}", "no negative one", "a weight counts runs")
    return weights


def _last_of_ties(times: Array) -> Array:
    """For every entry of a sorted vector, where the last equal to it stands."""
    ends = jnp.concatenate([times[1:] != times[:-1], jnp.ones(min(times.size, 1), bool)])
    return jax.lax.cummin(jnp.where(ends, jnp.arange(times.size), times.size), reverse=True)


def _estimates(times: Array, reached: Array, budget: Array, weights: Array) -> Array:
    """Median, restricted mean and share reached of one (re)sample."""
    t, share = kaplan_meier(times, reached, weights)
    # the product rounds: a share that is one half in exact arithmetic must count as one half
    half = share <= 0.5 + min(8 * t.size * float(jnp.finfo(t.dtype).eps), 0.25 / t.size)
    median = jnp.where(jnp.any(half), t[jnp.argmax(half)], jnp.inf)
    ends = jnp.minimum(jnp.concatenate([t, budget[None]]), budget)
    starts = jnp.concatenate([jnp.zeros(1, t.dtype), ends[:-1]])
    spans = jnp.where(ends == starts, 0, ends - starts)  # no time passes between two infinite ones
    before = jnp.concatenate([jnp.ones(1, t.dtype), share])
    inside = jnp.where(t <= budget, share, 1.0)
    mean = jnp.sum(jnp.where(before > 0, spans * before, 0))  # an endless budget costs nothing once all have reached
    return jnp.stack([median, mean, 1 - jnp.min(inside, initial=1.0)])


def learning_time_summary(times, reached, budget, *, confidence: float = 0.95, draws: int = 2000, key=None) -> Summary:
    """Median and mean learning time over runs, some of which may not have reached the threshold.

    Args:
        times: (n,) learning times over seeds; where not reached, any value (infinity too): the run counts as censored at
            min(time, budget).
        reached: (n,) bool; a run whose time is NaN did not reach.
        budget: positive scalar: how long the runs were allowed to go.
        confidence: coverage of the intervals.
        draws: bootstrap draws over runs.
        key: typed random key; None takes `jax.random.key(0)`.

    Returns:
        `Summary`. With fewer than half reached the median is +inf: report `reached` and `restricted_mean` (+inf too, with an
        endless budget and a run that did not reach).

    Raises:
        InputError, DTypeError: unequal lengths, no runs, a budget that is no positive scalar, a confidence outside (0, 1), draws that
            are no positive integer, or dtypes that are not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import learning_time_summary
        >>> summary = learning_time_summary(jnp.array([10.0, 20.0, jnp.inf]), jnp.array([True, True, False]), 50.0)
        >>> float(summary.median), round(float(summary.restricted_mean), 6), round(float(summary.reached), 6)
        (20.0, 26.666667, 0.666667)

    Reference: MATH.md 3; Efron (1981) for the bootstrap of censored data.
    """
    times, reached = jnp.asarray(times), jnp.asarray(reached, bool)
    checks.shape(times, ("n",), "times")
    checks.floating(times, "times")
    checks.shape(reached, times.shape, "reached")
    checks.require(jnp.size(times) > 0, "times", "no runs", "at least one", "run it once")
    checks.fraction(confidence, "confidence")
    checks.whole(draws, "draws", 1, "2000 is usual")
    _positive(budget)
    key = checks.random_key(key)
    return _summarise(times, reached, jnp.asarray(budget, times.dtype), key, confidence, draws)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _summarise(times: Array, reached: Array, budget: Array, key: Array, confidence: float, draws: int) -> Summary:
    seen = reached & (times <= budget)  # false for NaN
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


def _positive(budget) -> None:
    checks.shape(budget, (), "budget")
    if not checks.is_traced(budget):
        checks.require(float(budget) > 0, "budget", budget, "a positive time", "how long the runs were allowed to go")


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
        InputError, DTypeError: unequal lengths, no runs, a budget that is no positive scalar, a confidence outside (0, 1), draws that
            are no positive integer, or times that are not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import learning_time_ratio
        >>> t = jnp.array([10.0, 20.0, 30.0])
        >>> ratio = learning_time_ratio(t / 2, jnp.ones(3, bool), t, jnp.ones(3, bool), 50.0)
        >>> float(ratio.value), [float(x) for x in ratio.interval]
        (0.5, [0.5, 0.5])

    Reference: MATH.md 3; Efron and Tibshirani (1993), chapter 8.
    """
    times, reached, other_times, other_reached = map(jnp.asarray, (times, reached, other_times, other_reached))
    checks.shape(times, ("n",), "times")
    checks.floating(times, "times")
    for x, name in ((reached, "reached"), (other_times, "other_times"), (other_reached, "other_reached")):
        checks.shape(x, jnp.shape(times), name)
    checks.fraction(confidence, "confidence")
    checks.whole(draws, "draws", 1, "2000 is usual")
    dtype = jnp.asarray(times).dtype
    checks.require(jnp.size(times) > 0, "times", "no runs", "at least one", "run it once")
    _positive(budget)
    budget = jnp.asarray(budget, dtype)
    # false for NaN: such a run did not reach
    spent = lambda t, r: jnp.where(
        jnp.asarray(r, bool) & (jnp.asarray(t, dtype) <= budget), jnp.asarray(t, dtype), budget
    )
    a, b = spent(times, reached), spent(other_times, other_reached)
    key = checks.random_key(key)
    return _ratio(a, b, key, draws, int((1 - confidence) / 2 * (draws - 1)))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _ratio(a: Array, b: Array, key: Array, draws: int, tail: int) -> Ratio:
    picks = jax.random.randint(key, (draws, a.size), 0, a.size)
    sample = jnp.sort(jnp.sum(a[picks], 1) / jnp.sum(b[picks], 1))
    interval = jnp.stack([sample[tail], sample[-1 - tail]])
    return Ratio(jnp.sum(a) / jnp.sum(b), interval, jnp.mean((sample < 1).astype(a.dtype)))
