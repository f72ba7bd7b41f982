"""What few, unequal or missing documents do: bands and tests that keep their level, and curves that cannot be judged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from learnlag_jax import InputError, Status
from learnlag_jax.information import (
    compare_decays,
    decay_fit,
    deceleration_test,
    effective_context,
    in_context_curve,
    in_context_score,
    log_bins,
)
from learnlag_jax.information.student import student_band, student_quantile, student_sf
from learnlag_jax.testing import assert_close

T = 8


@pytest.mark.parametrize("windows", [5, 10, 40])
def test_bands_and_tests_keep_their_level_whatever_the_number_of_windows(float64, windows):
    """Flat curves: 95 % bands hold the truth, 5 % of tests reject. Percentiles and a normal law would give 11 % at five."""
    draws = 1000

    @jax.jit
    @jax.vmap
    def once(key):
        a, b = jax.random.split(key)
        curve = in_context_curve(jax.random.normal(a, (windows, T)), key=b, replicates=200)
        plain = curve.mean[None, :] + (curve.replicates - curve.mean[None, :]) * jnp.sqrt(1 - 1 / windows)
        normal = deceleration_test(curve._replace(replicates=plain)).statistic > scipy.stats.norm.isf(0.05)
        held = (curve.low[0] < 0) & (curve.high[0] > 0)
        return deceleration_test(curve).p_value < 0.05, normal, held

    rejected, normal, held = (np.asarray(x).mean() for x in once(jax.random.split(jax.random.key(windows), draws)))
    error = np.sqrt(0.05 * 0.95 / draws)
    assert abs(rejected - 0.05) < 3 * error + 0.01  # 200 draws know their own spread to 5 %
    assert abs(held - 0.95) < 3 * error + 0.015
    if windows == 5:  # the control
        assert normal > 0.05 + 5 * error


@pytest.mark.parametrize("documents", [2, 3, 4, 5, 10])
def test_bands_of_few_documents_hold_the_truth_as_often_as_they_say(float64, documents):
    """Percentiles of the draws would hold it 61, 81, 89, 92 and 94 % of the time: two documents have three draws."""
    trials, replicates = (4000, 600) if documents == 5 else (1000, 200)  # there 92.5 is not far from 95

    @jax.jit
    @jax.vmap
    def once(key):
        a, b = jax.random.split(key)
        curve = in_context_curve(jax.random.normal(a, (documents, 2)), key=b, replicates=replicates)
        percentiles = jnp.percentile(curve.replicates[:, 0], jnp.asarray([2.5, 97.5]))
        within = lambda low, high: (low < 0) & (high > 0)
        moves = within(curve.acceleration_low[0], curve.acceleration_high[0])
        return within(curve.low[0], curve.high[0]), moves, within(*percentiles)

    held, moves, plain = (np.asarray(x).mean() for x in once(jax.random.split(jax.random.key(documents), trials)))
    error = np.sqrt(0.05 * 0.95 / trials)
    assert abs(held - 0.95) < 3 * error
    assert abs(moves - 0.95) < 3 * error
    if documents <= 5:  # the control
        assert plain < 0.95 - 5 * error


def test_bands_count_the_windows_that_reach_a_position(float64):
    """Of 30 windows eight are long; a late band for thirty would be too narrow."""
    trials, mask = 1000, np.arange(2) < np.where(np.arange(30) < 8, 2, 1)[:, None]

    @jax.jit
    @jax.vmap
    def once(key):
        a, b = jax.random.split(key)
        curve = in_context_curve(jax.random.normal(a, mask.shape), mask=mask, key=b, replicates=200)
        return (curve.low < 0) & (curve.high > 0), curve.sources

    held, sources = (np.asarray(x).mean(0) for x in once(jax.random.split(jax.random.key(0), trials)))
    assert sources.tolist() == [30, 8]
    assert np.abs(held - 0.95).max() < 3 * np.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize("windows, long", [(20, 5), (30, 3)])
def test_the_draw_that_misses_every_long_window_is_left_out(float64, windows, long):
    """Of 20 windows of which five are long one draw in 300 misses them all, of 30 and three one in 24: no reason for no band."""
    trials, mask = 400, np.arange(2) < np.where(np.arange(windows) < long, 2, 1)[:, None]

    @jax.jit
    @jax.vmap
    def once(key):
        a, b = jax.random.split(key)
        curve = in_context_curve(jax.random.normal(a, mask.shape), mask=mask, key=b, replicates=400)
        return (curve.low < 0) & (curve.high > 0), jnp.all(jnp.isfinite(curve.replicates))

    held, whole = (np.asarray(x) for x in once(jax.random.split(jax.random.key(0), trials)))
    assert whole.all()
    assert abs(held[:, 1].mean() - 0.95) < 3 * np.sqrt(0.05 * 0.95 / trials)


def test_where_many_draws_miss_a_position_it_has_no_band(float64):
    """Two of 30 windows: one draw in eight. The positions before it keep theirs; and whether it has one is not left to the key."""
    mask = np.arange(3) < np.where(np.arange(30) < 2, 3, np.where(np.arange(30) < 3, 2, 1))[:, None]
    v = jax.random.normal(jax.random.key(0), mask.shape)
    lows = jax.jit(jax.vmap(lambda key: in_context_curve(v, mask=mask, key=key).low))
    assert np.isnan(lows(jax.random.split(jax.random.key(1), 20))).mean(0).tolist() == [0, 0, 1]


def test_fits_and_tests_know_as_many_documents_as_the_position_that_fewest_reach(float64):
    mask = np.arange(T) < np.where(np.arange(60) < 20, T, T - 1)[:, None]
    noise = 0.3 * jax.random.normal(jax.random.key(7), (60, T))
    curve = in_context_curve(2 + 3 / jnp.arange(1.0, T + 1)[None] + noise, mask=mask)
    assert curve.sources.tolist() == [60.0] * (T - 1) + [20.0]
    assert log_bins(curve).sources.tolist() == [60.0, 60.0, 60.0, 20.0]  # 1, 2, 3-4, 5-8
    assert float(decay_fit(curve).sources) == 20
    test = deceleration_test(curve)
    np.testing.assert_allclose(test.p_value, scipy.stats.t.sf(float(test.statistic), 19), rtol=1e-6)


def test_documents_of_unequal_length_count_as_fewer(float64):
    sizes = np.array([1, 2, 4, 8, 16, 32])
    v = jax.random.normal(jax.random.key(0), (int(sizes.sum()), T))
    curve = in_context_curve(v, documents=np.repeat(list("abcdef"), sizes))
    assert_close(curve.sources, jnp.full(T, sizes.sum() ** 2 / (sizes**2).sum()))
    assert_close(in_context_curve(v).sources, jnp.full(T, float(sizes.sum())))
    with pytest.raises(InputError, match="documents: got 1 document"):
        in_context_curve(v, documents=np.zeros(len(v)))


def test_labels_that_cannot_be_looked_at_are_refused_with_the_remedy(dtype):
    with pytest.raises(InputError, match="documents: got labels inside a transformation; .*pass them from outside jit"):
        jax.jit(lambda v, ids: in_context_curve(v, documents=ids).mean)(jnp.ones((2, 2), dtype), jnp.arange(2))


def test_labels_of_documents_may_be_anything(float64):
    v = jax.random.normal(jax.random.key(1), (6, T))
    numbered, named = (in_context_curve(v, documents=x) for x in ([0, 0, 1, 1, 2, 2], [7, 7, 9, 9, 40, 40]))
    assert jnp.array_equal(numbered.replicates, named.replicates)
    assert_close(named.replicates.mean(0), v.mean(0), scale=1.0, ulps=2**48)  # 0.06: no document is left out or doubled


def test_replicates_are_means_of_whole_windows_that_were_drawn(float64):
    """Two windows, of which one is short: the draws of a masked position are 0 or 1 of its tokens, as counted."""
    v = jnp.array([[1.0, 5.0], [3.0, 7.0], [5.0, jnp.nan]])
    mask = jnp.array([[True, True], [True, True], [True, False]])
    curve = in_context_curve(v, mask=mask, replicates=400)
    plain = np.asarray(curve.mean[None] + (curve.replicates - curve.mean[None]) * np.sqrt([[2 / 3, 1 / 2]]))
    drawn = [np.array(x) for x in np.ndindex(3, 3, 3)]
    sums = lambda w: sum(np.array([[1.0, 5.0], [3.0, 7.0], [5.0, 0.0]])[i] for i in w)
    counts = lambda w: sum(np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])[i] for i in w)
    possible = np.array([sums(w) / counts(w) for w in drawn if counts(w)[1] > 0])
    seen = plain[np.isfinite(plain[:, 1])]
    assert len(seen) == 400  # the draw of the short window alone, one in 27, is left out
    assert np.abs(seen[:, None] - possible[None]).max(-1).min(1).max() < 1e-12
    assert np.abs(possible[:, None] - seen[None]).max(-1).min(1).max() < 1e-12  # each of them came up
    alone = np.mean(np.abs(seen[:, 1] - 5) < 1e-9)
    assert abs(alone - 7 / 26) < 4 * np.sqrt(
        7 / 26 * 19 / 26 / 400
    )  # the first or the short one, and not the short one alone


@pytest.mark.parametrize("level, sources", [(0.95, 10.0), (0.95, 1e4), (0.5, 12.0)])
def test_bands_are_percentiles_as_far_out_as_students_quantiles(float64, level, sources):
    draws = jnp.asarray(np.random.default_rng(0).normal(size=(500, 2)))
    tail = scipy.stats.norm.cdf(scipy.stats.t.ppf((1 - level) / 2, sources - 1))
    expected = np.percentile(draws, [100 * tail, 100 * (1 - tail)], axis=0)
    found = student_band(draws, level, jnp.asarray(sources), jnp.zeros(2))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95, 0.999])
def test_quantiles_and_tails_are_students_in_either_precision_for_few_and_for_many(dtype, level):
    """In float32 the incomplete beta function gave 1.22 for 1.28 at 1e5 documents and 0.77 at 1e7, and at 1.02 it had an end."""
    eps = float(jnp.finfo(dtype).eps)
    dof = np.concatenate([[0.5, 1, 1.5, 2, 5], np.geomspace(10, 1e8, 20)])
    found = student_quantile(level, jnp.asarray(dof, dtype))
    np.testing.assert_allclose(found, scipy.stats.t.isf((1 - level) / 2, dof), rtol=5e-6)
    assert float(student_quantile(level, jnp.asarray(0.02, dtype))) > 1e13
    tails = jax.vmap(student_sf, (None, 0))(jnp.asarray([-3.0, 0.0, 0.1, 1.0, 6.0], dtype), jnp.asarray(dof, dtype))
    expected = scipy.stats.t.sf(np.array([-3.0, 0.0, 0.1, 1.0, 6.0]), dof[:, None])
    np.testing.assert_allclose(tails, expected, rtol=max(1e-9, 512 * eps))


@pytest.mark.parametrize("level, sources, draws", [(0.95, 3.0, 500), (0.95, 2.0, 40), (0.99, 30.0, 100)])
def test_where_percentiles_do_not_reach_the_band_is_students_quantile_of_the_spread(float64, level, sources, draws):
    """Few documents, or a tail that no draw lies in."""
    x, centre = np.random.default_rng(0).normal(size=(draws, 2)), np.array([0.1, -0.2])
    reach = scipy.stats.t.ppf((1 + level) / 2, sources - 1) * x.std(0, ddof=1)
    found = student_band(jnp.asarray(x), level, jnp.asarray(sources), jnp.asarray(centre))
    np.testing.assert_allclose(found, [centre - reach, centre + reach], rtol=1e-6)


def test_bands_of_curve_bins_and_fits_are_those_percentiles(float64):
    v = 2 + 2 / jnp.arange(1.0, 33.0)[None] + 0.1 * jax.random.normal(jax.random.key(2), (30, 32))
    curve = in_context_curve(v, level=0.8)
    binned, fit = log_bins(curve, level=0.5, per_octave=2), decay_fit(curve, level=0.8)
    edges = [(1, 1), (2, 2), (3, 4), (5, 5), (6, 8), (9, 11), (12, 16), (17, 22), (23, 32)]
    # half octaves end at 1, 1.41, 2, 2.83, 4, 5.66, 8, 11.3, 16, 22.6, 32
    assert_close(binned.mean, jnp.stack([curve.mean[a - 1 : b].mean() for a, b in edges]))
    band = lambda x, level: student_band(x, level, jnp.asarray(30.0), jnp.zeros(x.shape[1]))
    assert_close((curve.low, curve.high), tuple(band(curve.replicates, 0.8)))
    assert_close(
        (curve.acceleration_low, curve.acceleration_high), tuple(band(jnp.diff(curve.replicates, axis=1), 0.8))
    )
    assert_close((binned.low, binned.high), tuple(band(binned.replicates, 0.5)))
    assert_close((fit.low, fit.high), tuple(band(fit.replicates, 0.8)))
    context = effective_context(fit, 0.01)
    assert float(context.low) < float(context.t) < float(context.high)
    assert_close(
        fit.residual,
        jnp.sqrt(jnp.mean((curve.mean - fit.v_inf - fit.c * (curve.t.astype(float) + fit.t0) ** -fit.b) ** 2)),
    )


def test_the_contrast_is_the_slope_on_log_t_and_start_counts_tokens(float64):
    t = np.arange(1.0, 65)
    noise = jax.random.normal(jax.random.key(3), (100, 64)) * 0.1
    line = in_context_curve(5 - 0.6 * jnp.log(t)[None] + noise * 1e-9)
    assert abs(float(deceleration_test(line).contrast) - 0.6) < 1e-8
    knee = in_context_curve(jnp.asarray(np.where(t < 8, 3 - t / 8, 2.0))[None] + noise)
    for curve in (knee, log_bins(knee, per_octave=2)):
        assert float(deceleration_test(curve).p_value) < 1e-6
        assert float(deceleration_test(curve, start=12).p_value) > 0.01
    with pytest.raises(InputError, match="start: got 64, 1 positions left"):
        deceleration_test(knee, start=64)


@pytest.mark.parametrize("level", [1.5, float(np.log(256))])
def test_windows_that_do_not_differ_give_no_verdict(dtype, level):
    """A uniform model: an exactly flat curve, whose slope and error are rounding; their ratio was certainty."""
    curve = in_context_curve(jnp.full((8, 32), level, dtype))
    for each in (curve, log_bins(curve)):
        assert bool(jnp.isnan(deceleration_test(each).p_value))
    noisy = curve._replace(replicates=curve.replicates + 1e-3 * jax.random.normal(jax.random.key(0), (400, 32), dtype))
    assert 0 < float(deceleration_test(noisy).p_value) < 1


def test_short_documents_are_named_and_a_binned_curve_is_not_taken_for_a_whole_one(float64):
    v = jax.random.normal(jax.random.key(4), (12, 16))
    mask = np.arange(16) < np.where(np.arange(12) < 2, 16, 9)[:, None]
    ragged = in_context_curve(jnp.where(mask, v, jnp.nan), mask=mask)
    for use in (log_bins, decay_fit, deceleration_test, compare_decays):
        with pytest.raises(InputError, match="no draw at position 10.*cut them to 9 tokens"):
            use(ragged)
    traced = jax.jit(lambda c: compare_decays(c).wins)(ragged)
    assert bool(jnp.all(jnp.isnan(traced)))
    whole = in_context_curve(v)
    for use in (log_bins, lambda c: in_context_score(c, early=1, late=2)):
        with pytest.raises(InputError, match="a binned curve"):
            use(log_bins(whole))
    with pytest.raises(InputError, match="a Curve"):
        decay_fit(v)
    early, late = in_context_score(whole, early=2, late=9), whole.mean[8] - whole.mean[1]
    assert_close(early.value, late)


def test_what_does_not_fall_has_no_limit_and_no_context(float64):
    """Noise about a level: the first point may lie high by chance, which is no fall."""
    noise = 0.3 * jax.random.normal(jax.random.key(5), (40, 100, 64))
    status = jax.jit(jax.vmap(lambda v: decay_fit(in_context_curve(2 + v)).status))(noise)
    assert np.mean(np.asarray(status) == Status.singular) > 0.95
    rising = decay_fit(in_context_curve(jnp.log(jnp.arange(1.0, 65.0))[None] + noise[0]))
    assert float(rising.c) == 0
    assert_close(rising.v_inf, jnp.mean(in_context_curve(jnp.log(jnp.arange(1.0, 65.0))[None] + noise[0]).mean))
    below = decay_fit(in_context_curve(noise[0] - 4))
    assert float(below.v_inf) >= 0
    assert int(effective_context(below, 0.1).status) == Status.singular


def test_the_effective_context_of_a_steep_decay_does_not_overflow():
    t = 2.0 ** jnp.arange(0, 18, dtype=jnp.float32)
    v = 2 + 3 * jnp.exp(-6 * t / t[-1])
    curve = in_context_curve(jnp.tile(v[None], (2, 1)))
    fit = decay_fit(curve._replace(t=t))
    assert bool(jnp.isfinite(effective_context(fit, 1e-6).t))


def test_percentiles_reach_the_last_draw_they_need_and_tails_end(dtype):
    """A tenth of ten steps is one, or hardly more when it is rounded."""
    draws = jnp.linspace(-1, 1, 11, dtype=dtype)[:, None]
    for windows in (1e7, 1e12):
        band = student_band(draws, 0.8, jnp.asarray([windows], dtype), draws[5])
        np.testing.assert_allclose(band[:, 0], [-0.8, 0.8], atol=1e-3)
    far = jnp.asarray([1e30, jnp.inf, -jnp.inf], dtype)
    np.testing.assert_array_equal(student_sf(far, jnp.full(3, 150, dtype)), [0, 0, 1])
