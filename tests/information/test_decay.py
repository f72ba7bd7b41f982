"""The contest of forms, the bins, the effective context, the score: each finds what was put in and rejects what was not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status
from learnlag_jax.information import (
    compare_decays,
    decay_fit,
    effective_context,
    in_context_curve,
    in_context_score,
    log_bins,
)
from learnlag_jax.testing import assert_close

T = 64
t = np.arange(1.0, T + 1)
FORMS = {
    "power": 2 + 3 * (t + 0.5) ** -0.7,
    "exponential": 2 + 3 * np.exp(-t / 9),
    "logarithmic": 5 - 0.6 * np.log(t + 3),
}


def _noisy(v, windows=256, scale=0.3):
    return in_context_curve(jnp.asarray(v + scale * np.random.default_rng(0).standard_normal((windows, T))))


@pytest.mark.parametrize("form", range(3), ids=list(FORMS))
def test_the_form_that_was_put_in_wins(float64, form):
    contest = compare_decays(_noisy(list(FORMS.values())[form]))
    assert int(jnp.argmin(contest.score)) == form
    assert float(contest.wins[form]) > 0.7
    assert_close(contest.wins.sum(), jnp.asarray(1.0))
    # the control: the first two forms misfit each other's curves by more than the noise of a mean, 0.3 / sqrt(256)
    others = [float(contest.residual[other]) for other in range(2) if other != form]
    assert max(others) > 0.3 / 16


def test_the_fit_recovers_its_parameters_within_their_band_from_noisy_windows(float64):
    fit = decay_fit(_noisy(FORMS["power"]))
    truth = np.array([2.0, 3.0, 0.5, 0.7])
    spread = np.asarray(fit.replicates).std(0)
    found = np.array([float(x) for x in (fit.v_inf, fit.c, fit.t0, fit.b)])
    assert np.all(np.abs(found - truth) < 4 * spread)
    assert abs(found[0] + 1 - truth[0]) > 4 * spread[0]  # the control: a limit wrong by a nat lies outside


def test_the_effective_context_is_where_the_slope_of_the_fit_equals_the_gain(float64):
    fit = decay_fit(in_context_curve(jnp.tile(jnp.asarray(FORMS["power"])[None], (2, 1)), replicates=40))
    found = effective_context(fit, 0.01)
    slope = jax.grad(lambda s: fit.v_inf + fit.c * (s + fit.t0) ** -fit.b)(found.t)
    assert_close(slope, jnp.asarray(-0.01), ulps=256)
    assert found.low <= found.t * (1 + 1e-6)
    assert float(effective_context(fit, 100.0).t) == 1.0
    with pytest.raises(InputError, match="gain: got 0"):
        effective_context(fit, 0)


def test_bins_double_and_keep_the_mean(dtype):
    v = jax.random.uniform(jax.random.key(0), (6, 37), dtype)
    curve = in_context_curve(v, replicates=40)
    binned = log_bins(curve)
    edges = [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, 37)]
    assert_close(binned.mean, jnp.stack([curve.mean[a - 1 : b].mean() for a, b in edges]))
    assert_close(binned.t, jnp.asarray([(a + b) / 2 for a, b in edges], dtype))
    assert_close(binned.acceleration, jnp.diff(binned.mean) / jnp.diff(binned.t))
    widths = jnp.asarray([b - a + 1 for a, b in edges], dtype)
    assert_close(jnp.sum(binned.mean * widths), jnp.sum(curve.mean), scale=37.0)
    assert log_bins(curve, per_octave=2).t.shape[0] > len(edges)


def test_a_bin_of_dependent_tokens_keeps_the_error_of_a_window(float64):
    """Tokens that move together gain nothing from averaging: treating them as independent would be wrong by sqrt(32)."""
    shift = jax.random.normal(jax.random.key(1), (200, 1))
    curve = in_context_curve(jnp.broadcast_to(shift, (200, 64)), replicates=1000)
    spread = log_bins(curve).replicates.std(0)
    expected = float(shift.std()) / np.sqrt(200)
    assert float(jnp.max(jnp.abs(spread / expected - 1))) < 5 / np.sqrt(2 * 1000)


def test_the_score_is_the_late_velocity_less_the_early_one_with_its_error(float64):
    v = 2 + jnp.asarray(1 / t)[None] + jax.random.normal(jax.random.key(2), (400, T))
    curve = in_context_curve(v, replicates=2000)
    score = in_context_score(curve, early=1, late=T)
    assert_close(score.value, (v[:, -1] - v[:, 0]).mean(), scale=4.0)
    expected = float((v[:, -1] - v[:, 0]).std()) / np.sqrt(400)
    assert abs(float(score.standard_error) / expected - 1) < 5 / np.sqrt(2 * 2000)
    for early, late in ((0, 5), (5, 5), (5, T + 1)):
        with pytest.raises(InputError, match="early"):
            in_context_score(curve, early=early, late=late)


def test_a_constant_curve_never_has_a_limit_whatever_rounding_decides(dtype):
    """Windows that do not differ: a fall of one unit in the last place is none, and of all forms none is best."""
    levels = jnp.asarray([0.3, 0.7, 1.1, 1.7, 2.2, float(np.log(256)), 3.3, 4.2, 7.1, 9.9], dtype)
    for length in (8, 33):
        ours = lambda level, length=length: in_context_curve(jnp.full((3, length), level, dtype), replicates=40)
        curves = [ours(level) for level in levels]
        assert {int(decay_fit(curve).status) for curve in curves} == {int(Status.singular)}
    assert bool(jnp.all(jnp.isnan(compare_decays(curves[0]).wins)))
    falling = jnp.asarray(2 + 1e-3 / t, dtype)  # the control: a small fall is one
    assert int(decay_fit(in_context_curve(jnp.tile(falling[None], (2, 1)), replicates=40)).status) == Status.converged


def test_what_every_form_fits_is_not_contested(float64):
    two = in_context_curve(jnp.asarray([[3.0, 2.0], [3.5, 2.2], [3.1, 2.0]]))
    for curve in (two, in_context_curve(jnp.zeros((5, 6)))):
        assert bool(jnp.all(jnp.isnan(compare_decays(curve).wins)))


def test_the_effective_context_is_mapped_over_gains(float64):
    fit = decay_fit(in_context_curve(jnp.tile(jnp.asarray(FORMS["power"])[None], (2, 1)), replicates=40))
    gains = jnp.array([0.1, 0.01, 0.001])
    many = jax.jit(jax.vmap(effective_context, (None, 0)))(fit, gains)
    assert_close(many.t, jnp.stack([effective_context(fit, gain).t for gain in gains]))


def test_bands_of_few_documents_stay_where_the_parameters_may_be(float64):
    v = jnp.asarray(FORMS["power"])[None] + 0.5 * jax.random.normal(jax.random.key(0), (2, T))
    fit = decay_fit(in_context_curve(v))
    assert bool(jnp.all(fit.low >= jnp.array([0.0, 0.0, -1.0, 0.0])))
    assert float(effective_context(fit, 0.01).low) >= 1
