"""Summaries over runs and tasks: survival against scipy, exact profile integrals, coverage of intervals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from learnlag_jax import InputError, Status
from learnlag_jax.fermat import (
    kaplan_meier,
    learning_time_ratio,
    learning_time_summary,
    mlperf_time,
    performance_profile,
)
from learnlag_jax.testing import assert_close


def _runs(seed, n, budget):
    times = np.random.default_rng(seed).exponential(10.0, size=n)
    return jnp.asarray(np.where(times <= budget, times, np.inf)), jnp.asarray(times <= budget)


def test_kaplan_meier_against_scipy(float64):
    rng = np.random.default_rng(0)
    times, reached = rng.integers(1, 12, size=60).astype(float), rng.random(60) < 0.7  # ties, and censoring anywhere
    curve = kaplan_meier(jnp.asarray(times), jnp.asarray(reached))
    reference = scipy.stats.ecdf(scipy.stats.CensoredData.right_censored(times, ~reached)).sf
    for t, s in zip(reference.quantiles, reference.probabilities, strict=True):
        ours = np.asarray(curve.share)[np.searchsorted(np.asarray(curve.times), t, side="right") - 1]
        assert ours == pytest.approx(s, abs=1e-12)
    dropped = kaplan_meier(
        jnp.asarray(times[reached]), jnp.ones(int(reached.sum()), bool)
    )  # the control: dropping them
    assert abs(np.asarray(dropped.share)[-1] - np.asarray(curve.share)[-1]) > 0.01 or float(
        dropped.times[len(dropped.times) // 2]
    ) < float(np.median(times))


def test_restricted_mean_and_median_against_scipy(float64):
    """The mean of min(T, budget) is the area under scipy's survival curve, the median its first step to a half."""
    rng = np.random.default_rng(3)
    times, reached, budget = rng.exponential(10.0, size=50), rng.random(50) < 0.6, 18.0
    summary = learning_time_summary(jnp.asarray(times), jnp.asarray(reached), budget, draws=50)
    sf = scipy.stats.ecdf(scipy.stats.CensoredData.right_censored(times, ~reached)).sf
    ends = np.concatenate([[0.0], sf.quantiles[sf.quantiles < budget], [budget]])
    area = np.sum(np.diff(ends) * np.concatenate([[1.0], sf.probabilities[sf.quantiles < budget]]))
    assert float(summary.restricted_mean) == pytest.approx(area, rel=1e-12)
    assert float(summary.median) == sf.quantiles[np.argmax(sf.probabilities <= 0.5)]
    dropped = np.minimum(times[reached], budget).mean()  # the control: censored runs dropped
    assert dropped < area * 0.9


def test_without_censoring_everything_is_elementary(dtype):
    times = jnp.asarray([3.0, 1.0, 2.0, 5.0, 4.0], dtype)
    s = learning_time_summary(times, jnp.ones(5, bool), 10.0, draws=200)
    assert (float(s.median), float(s.restricted_mean), float(s.reached)) == (
        3.0,
        pytest.approx(3.0, rel=1e-5),
        pytest.approx(1.0),
    )
    assert s.median.dtype == dtype


def test_censored_runs_stay_in(dtype):
    times, reached = (
        jnp.asarray([10.0, 20.0, jnp.inf, jnp.inf, jnp.inf], dtype),
        jnp.asarray([True, True, False, False, False]),
    )
    s = learning_time_summary(times, reached, 50.0, draws=200)
    assert (float(s.median), int(s.status)) == (np.inf, Status.not_reached)
    assert float(s.restricted_mean) == pytest.approx((10 + 20 + 150) / 5, rel=1e-5)
    assert float(s.reached) == pytest.approx(0.4, rel=1e-5)
    assert float(s.median_interval[1]) == np.inf
    late = learning_time_summary(
        jnp.asarray([10.0, 60.0], dtype), jnp.ones(2, bool), 50.0, draws=20
    )  # after the budget
    assert float(late.reached) == pytest.approx(0.5)


def test_intervals_cover(float64):
    budget, n, repeats = 15.0, 40, 200
    median, mean, share = 10 * np.log(2), 10 * (1 - np.exp(-1.5)), 1 - np.exp(-1.5)
    runs = [_runs(seed, n, budget) for seed in range(repeats)]
    times, reached = jnp.stack([r[0] for r in runs]), jnp.stack([r[1] for r in runs])
    s = jax.jit(jax.vmap(lambda t, r: learning_time_summary(t, r, budget, draws=300)))(times, reached)
    for interval, truth in (
        (s.median_interval, median),
        (s.restricted_mean_interval, mean),
        (s.reached_interval, share),
    ):
        covered = np.mean(np.asarray((interval[:, 0] <= truth) & (truth <= interval[:, 1])))
        assert covered > 0.95 - 4.5 * np.sqrt(0.95 * 0.05 / repeats) - 0.02  # percentile bootstrap at n = 40
    wrong = np.mean(np.asarray((s.median_interval[:, 0] <= mean * 1.7) & (mean * 1.7 <= s.median_interval[:, 1])))
    assert wrong < 0.5


def test_performance_profile_integral_is_exact(dtype):
    rng = np.random.default_rng(1)
    times = rng.exponential(size=(4, 9)) + 0.1
    times[rng.random((4, 9)) < 0.2] = np.inf
    times[:, 0] = np.inf  # a task nobody solved
    profile = performance_profile(jnp.asarray(times, dtype), 4.0)
    grid = np.linspace(1, 4, 200_001)
    best = np.min(times, 0)
    with np.errstate(invalid="ignore"):
        rho = [
            np.mean(times[s][None, :] <= grid[:, None] * np.where(np.isfinite(best), best, -1)[None, :], 1)
            for s in range(4)
        ]
    np.testing.assert_allclose(profile.score, np.trapezoid(rho, grid, axis=1) / 3, atol=1e-4)
    assert np.all(np.isinf(profile.ratio[:, 0]))
    assert float(jnp.min(profile.ratio)) == 1.0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: learning_time_summary(jnp.ones(2), jnp.ones(3, bool), 5.0), "reached"),
        (lambda: learning_time_summary(jnp.ones(0), jnp.ones(0, bool), 5.0), "no runs"),
        (lambda: learning_time_summary(jnp.ones(2), jnp.ones(2, bool), 5.0, confidence=95), "between 0 and 1"),
        (lambda: performance_profile(jnp.ones(3)), "times"),
        (lambda: performance_profile(jnp.zeros((2, 2))), "positive"),
        (lambda: performance_profile(jnp.ones((2, 2)), 1.0), "r_max"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_paired_ratio_is_tighter_than_unpaired(float64):
    rng = np.random.default_rng(3)
    hard = rng.exponential(10.0, size=40) + 5
    a, b = jnp.asarray(0.8 * hard * rng.uniform(0.95, 1.05, 40)), jnp.asarray(hard)
    yes = jnp.ones(40, bool)
    paired = learning_time_ratio(a, yes, b, yes, 1000.0)
    assert float(paired.interval[0]) <= 0.8 <= float(paired.interval[1])
    assert float(paired.share) > 0.999
    shuffled = learning_time_ratio(a[::-1], yes, b, yes, 1000.0)  # the control: seeds torn apart
    assert float(jnp.diff(shuffled.interval)[0]) > 3 * float(jnp.diff(paired.interval)[0])
    censored = learning_time_ratio(a, yes, b, b < 20, 20.0)
    assert 0.8 < float(censored.value) < 1


def test_mlperf_rule(dtype):
    times = jnp.asarray([3.0, 9.0, jnp.inf, 5.0, 1.0], dtype)
    assert float(mlperf_time(times)) == pytest.approx((3 + 9 + 5) / 3, rel=1e-6)
    assert float(mlperf_time(times.at[0].set(jnp.nan))) == np.inf
    with pytest.raises(InputError, match="at least three"):
        mlperf_time(times[:2])


def test_the_ratio_interval_has_its_tails_on_both_sides(float64):
    """Three seeds: each of the two extreme draws, one pair thrice, has probability 1/27, between 2.5 % and 5 %."""
    a, one, yes = jnp.asarray([1.0, 2.0, 4.0]), jnp.ones(3), jnp.ones(3, bool)
    interval = lambda confidence: (
        learning_time_ratio(a, yes, one, yes, 10.0, confidence=confidence, draws=20_000).interval
    )
    np.testing.assert_allclose(interval(0.95), [1.0, 4.0], rtol=1e-12)
    np.testing.assert_allclose(interval(0.9), [4 / 3, 10 / 3], rtol=1e-12)  # 5 % leaves the extremes out


def test_a_tie_is_not_a_lead(dtype):
    t, yes = jnp.asarray([10.0, 20.0, 30.0], dtype), jnp.ones(3, bool)
    shares = [float(learning_time_ratio(c * t, yes, t, yes, 100.0, draws=50).share) for c in (0.5, 1.0, 2.0)]
    assert shares == [1.0, 0.0, 0.0]


def test_nan_and_infinity_both_mean_not_reached(dtype):
    times, reached = jnp.asarray([10.0, jnp.nan, 20.0], dtype), jnp.asarray([True, False, True])
    infinite = jnp.where(jnp.isnan(times), jnp.inf, times)
    summaries = [learning_time_summary(t, reached, 50.0, draws=200) for t in (times, infinite)]
    np.testing.assert_array_equal(*(np.hstack(s) for s in summaries))
    assert float(summaries[0].restricted_mean) == pytest.approx(80 / 3, rel=8 * float(jnp.finfo(dtype).eps))
    profile = performance_profile(jnp.stack([times, jnp.full_like(times, 20.0)]), 4.0)
    np.testing.assert_array_equal(profile.ratio, [[1, np.inf, 1], [2, 1, 1]])
    assert_close(profile.score, jnp.asarray([2 / 3, (2 / 3 + 1 + 1) / 3], dtype), ulps=8)


def test_weights_count_runs(dtype):
    """Whole weights are copies, of step counts too, and only their proportions matter."""
    times, reached = np.array([3, 1, 2, 2, 5]), np.array([True, True, False, True, True])
    counts = np.array([2, 1, 3, 0, 1])
    copies = kaplan_meier(jnp.asarray(times.repeat(counts), dtype), jnp.asarray(reached.repeat(counts)))
    eps = float(jnp.finfo(dtype).eps)
    for t in (jnp.asarray(times, dtype), jnp.asarray(times)):
        for weights in (jnp.asarray(counts), jnp.asarray(counts * 0.25, dtype), list(map(float, counts))):
            curve = kaplan_meier(t, jnp.asarray(reached), weights)
            assert jnp.issubdtype(curve.share.dtype, jnp.floating)
            for at, share in zip(copies.times.tolist(), copies.share.tolist(), strict=True):
                got = float(curve.share[np.asarray(curve.times).tolist().index(at)])
                assert got == pytest.approx(share, rel=16 * max(eps, float(jnp.finfo(curve.share.dtype).eps)))


def test_step_counts_take_fractional_weights():
    curve = kaplan_meier(jnp.array([10, 20, 30]), jnp.ones(3, bool), jnp.array([1.5, 0.5, 1.0]))
    np.testing.assert_allclose(curve.share, [1 / 2, 1 / 3, 0], rtol=1e-6)


def test_runs_of_one_time_have_one_share(dtype):
    curve = kaplan_meier(jnp.asarray([2, 2, 3, 3], dtype), jnp.asarray([True, True, False, True]))
    np.testing.assert_allclose(curve.share, [0.5, 0.5, 0.25, 0.25], rtol=8 * float(jnp.finfo(dtype).eps))


def test_a_run_without_a_time_is_no_event_of_the_curve(dtype):
    reached = jnp.ones(3, bool)
    for nothing in (jnp.nan, jnp.inf):
        curve = kaplan_meier(jnp.asarray([2.0, nothing, 3.0], dtype), reached)
        np.testing.assert_allclose(curve.share, [2 / 3, 1 / 3, 1 / 3], rtol=8 * float(jnp.finfo(dtype).eps))
        assert curve.times.tolist() == [2.0, 3.0, np.inf]
        summary = learning_time_summary(jnp.asarray([2.0, nothing, 3.0], dtype), reached, 50.0, draws=2)
        assert float(summary.reached) == pytest.approx(float(1 - curve.share[-1]), rel=1e-5)


def test_an_endless_budget_and_an_endless_run_have_an_infinite_mean(dtype):
    reached = jnp.asarray([True, True, False])
    summary = learning_time_summary(jnp.asarray([2.0, 1.0, jnp.inf], dtype), reached, np.inf, draws=8)
    assert float(summary.restricted_mean) == np.inf
    assert not np.isnan(np.hstack([np.ravel(x) for x in summary])).any()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda t, r: kaplan_meier(t, r, jnp.array([1.0, 5.0])), "weights: .*shape"),
        (lambda t, r: kaplan_meier(t, r, jnp.array([1.0])), "weights: .*shape"),
        (lambda t, r: kaplan_meier(t, r, jnp.array([1.0, -1.0, 2.0])), "weights: .*-1"),
        (lambda t, r: kaplan_meier(t, r, jnp.array([1.0, jnp.nan, 2.0])), "weights: .*nan"),
        (lambda t, r: learning_time_summary(t, r, 5.0, draws=0), "draws"),
        (lambda t, r: learning_time_summary(t, r, 5.0, draws=2.0), "draws"),
        (lambda t, r: learning_time_summary(t, r, jnp.ones(3)), "budget: .*shape"),
        (lambda t, r: learning_time_ratio(t, r, t, r, 5.0, draws=0), "draws"),
    ],
)
def test_weights_draws_and_budgets_are_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call(jnp.array([1.0, 2.0, 3.0]), jnp.ones(3, bool))


def _survival(times, reached, weights, at):
    """prod (1 - d / n) by its definition, over the times up to `at`."""
    share = 1.0
    for t in np.unique(times[times <= at]):
        risk = weights[times >= t].sum()
        share *= 1 - weights[(times == t) & reached].sum() / risk if risk else 1
    return share


@pytest.mark.parametrize(
    "times, weights",
    [
        ([1, 2, 3], [1, 1, 0]),
        ([1, 5, 5], [1, 2, 0]),
        ([1, 5, 5], [1, 0, 2]),
        ([1, 2, 2], [0, 1, 0]),
        ([1, 2, 3], [1, 0, 0]),
    ],
    ids=["last", "within a tie at the budget", "first of a tie", "nothing reached", "all but the first"],
)
def test_a_run_of_weight_zero_says_nothing(times, weights, dtype):
    times, reached, weights = np.array(times, float), np.array([True, False, False]), np.array(weights, float)
    curve = kaplan_meier(jnp.asarray(times, dtype), jnp.asarray(reached), jnp.asarray(weights, dtype))
    expected = [_survival(times, reached, weights, t) for t in times]
    np.testing.assert_allclose(curve.share, expected, rtol=8 * float(jnp.finfo(dtype).eps))


def test_none_reached_in_any_draw_either(dtype):
    summary = learning_time_summary(jnp.full(5, jnp.inf, dtype), jnp.zeros(5, bool), 10.0, draws=50)
    assert summary.reached_interval.tolist() == [0, 0]
    assert summary.median_interval.tolist() == [np.inf, np.inf]
    assert summary.restricted_mean_interval.tolist() == [10, 10]


def test_intervals_of_censored_runs_are_those_of_a_bootstrap_by_hand(float64):
    """Where all that are censored go on to the budget, a draw's mean and share are those of min(T, budget)."""
    times, budget, draws = np.array([1.0, 2.0, 3.0, np.inf, np.inf, np.inf]), 10.0, 2000
    s = learning_time_summary(jnp.asarray(times), jnp.isfinite(jnp.asarray(times)), budget, draws=draws)
    picks = np.asarray(
        jax.vmap(lambda key: jax.random.randint(key, (6,), 0, 6))(jax.random.split(jax.random.key(0), draws))
    )
    ends = lambda x: np.sort(x)[[int(0.025 * (draws - 1)), -1 - int(0.025 * (draws - 1))]]
    drawn = np.minimum(times[picks], budget)
    np.testing.assert_allclose(s.restricted_mean_interval, ends(drawn.mean(1)), rtol=1e-9)
    np.testing.assert_allclose(s.reached_interval, ends(np.isfinite(times[picks]).mean(1)), atol=1e-9)
    median = np.sort(times[picks], 1)[:, 2]  # the first time at which half have reached
    np.testing.assert_array_equal(s.median_interval, ends(median))
