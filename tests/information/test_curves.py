"""Curves: bands with the stated coverage, a fit that finds what was put in, a test with the stated size and power."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status
from learnlag_jax.information import decay_fit, deceleration_test, in_context_curve
from learnlag_jax.testing import assert_close

T, WINDOWS = 24, 48


def _noise(key, dtype, windows=WINDOWS):
    """Windows whose tokens drift together (a random walk): dependent within, independent between."""
    a, b = jax.random.split(key)
    walk = jnp.cumsum(jax.random.normal(b, (windows, T), dtype), axis=1)
    return jax.random.normal(a, (windows, T), dtype) + jnp.asarray(0.3, dtype) * walk


def test_the_curve_is_the_mean_and_its_difference(dtype):
    v = _noise(jax.random.key(0), dtype)
    curve = in_context_curve(v)
    assert_close(curve.mean, v.mean(0))
    assert_close(curve.acceleration, jnp.diff(v.mean(0)), scale=3.0)
    assert curve.t.tolist() == list(range(1, T + 1))
    assert bool(jnp.all((curve.low <= curve.mean) & (curve.mean <= curve.high)))


def test_the_spread_of_the_replicates_is_the_standard_error_of_the_windows(float64):
    v = _noise(jax.random.key(1), float64, windows=400)
    spread = in_context_curve(v, replicates=2000).replicates.std(0)
    expected = v.std(0) / np.sqrt(400)
    assert float(jnp.max(jnp.abs(spread / expected - 1))) < 5 / np.sqrt(2 * 2000)  # five standard errors of a spread


def test_windows_of_one_document_are_drawn_together(float64):
    v = jnp.repeat(_noise(jax.random.key(2), float64, windows=40), 5, axis=0)
    documents = np.repeat(np.arange(40), 5)
    together = in_context_curve(v, documents=documents, replicates=1000).replicates.std(0)
    apart = in_context_curve(v, replicates=1000).replicates.std(0)
    ratio = together / apart
    assert bool(jnp.all(ratio > 1.8))  # sqrt(5) = 2.24: pretending the copies are independent is wrong by that factor


def test_the_test_keeps_its_size_and_has_power(float64):
    draws = 200
    keys = jax.random.split(jax.random.key(3), draws)
    falling = 2 * jnp.arange(1.0, T + 1) ** -0.5

    @jax.jit
    @jax.vmap
    def p_values(key):
        noise = _noise(key, float64)
        curve = lambda v: in_context_curve(v, key=jax.random.fold_in(key, 1), replicates=100)
        alone = curve(noise)
        # the control: every token for itself, so that the drift of a window counts as evidence
        tokens = alone.mean[None] + noise.std() / np.sqrt(WINDOWS) * jax.random.normal(
            jax.random.fold_in(key, 2), alone.replicates.shape
        )
        curves = alone, curve(noise - falling[None]), curve(noise + falling[None]), alone._replace(replicates=tokens)
        return jnp.stack([deceleration_test(curve).p_value for curve in curves])

    flat, rising, fell, pretended = np.asarray(p_values(keys)).T
    error = np.sqrt(0.05 * 0.95 / draws)
    assert abs((flat < 0.05).mean() - 0.05) < 4 * error
    assert (pretended < 0.05).mean() > 0.05 + 4 * error
    assert (rising < 0.05).mean() < 0.01
    assert (fell < 0.05).mean() > 0.95


def test_masked_tokens_change_nothing_and_short_windows_count_where_they_are(float64):
    v = _noise(jax.random.key(5), float64)
    lengths = np.random.default_rng(0).integers(T // 2, T + 1, WINDOWS)
    mask = np.arange(T) < lengths[:, None]
    mask[:2] = True
    curve = in_context_curve(jnp.where(mask, v, jnp.nan), mask=mask)
    expected = np.nanmean(np.where(mask, v, np.nan), axis=0)
    assert_close(curve.mean, jnp.asarray(expected), scale=10.0)
    assert float(jnp.max(jnp.abs(curve.mean - v.mean(0)))) > 0.01  # the control: what is masked would have mattered
    whole = in_context_curve(v, mask=jnp.ones(v.shape, bool))
    assert jnp.array_equal(whole.replicates, in_context_curve(v).replicates)
    with pytest.raises(InputError, match="mask: got 1 at position 24"):
        in_context_curve(v, mask=mask & (np.arange(T) < T - 1) | (np.arange(WINDOWS) == 0)[:, None])


@pytest.mark.parametrize("truth", [(2.0, 3.0, 1.0, 0.5), (0.7, 1.5, 0.0, 1.0), (0.0, 4.0, 4.0, 0.3)])
def test_the_fit_finds_the_decay_that_was_put_in(float64, truth):
    t = jnp.arange(1.0, 97.0)
    v_inf, c, t0, b = truth
    v = v_inf + c * (t + t0) ** -b
    fit = decay_fit(in_context_curve(jnp.tile(v[None], (2, 1)), replicates=40))
    assert float(fit.residual) < 1e-4
    if v_inf > 0:  # a limit of zero is the floor, not a finding
        assert int(fit.status) == Status.converged
    assert abs(float(fit.b) - b) < 0.02
    assert abs(float(fit.v_inf) - v_inf) < 0.02


def test_a_flat_curve_has_its_mean_as_limit(dtype):
    fit = decay_fit(in_context_curve(jnp.full((3, T), 1.5, dtype), replicates=40))
    assert_close(fit.v_inf + fit.c * (24 + fit.t0) ** -fit.b, jnp.asarray(1.5, dtype), ulps=256)
    assert int(fit.status) == Status.singular  # nothing falls, so no exponent can be found


def test_an_approach_faster_than_any_power_law_still_has_its_limit(float64):
    t = jnp.arange(1.0, 97.0)
    fit = decay_fit(in_context_curve(jnp.tile(2 + 3 * jnp.exp(-t / 5)[None], (2, 1)), replicates=40))
    assert int(fit.status) == Status.converged
    assert abs(float(fit.v_inf) - 2) < 0.02


def test_a_curve_without_a_limit_is_not_given_one(float64):
    """A straight line in log t falls for ever: every power law with a small exponent fits it as well as the next."""
    curve = in_context_curve(jnp.tile(5 - 0.5 * jnp.log(jnp.arange(1.0, 97.0))[None], (2, 1)), replicates=40)
    assert int(decay_fit(curve).status) == Status.singular


@pytest.mark.parametrize("form, documents, seed", [("logarithm", 8, 21), ("logarithm", 30, 4), ("to zero", 30, 3)])
def test_a_limit_that_cannot_be_told_from_zero_is_not_called_found(form, documents, seed):
    """The band of a logarithm's limit was cut at zero before it was found to be narrow; one to zero was found by chance."""
    t, key = jnp.arange(1.0, 65.0, dtype=jnp.float32), jax.random.key(seed)
    curve, noise = (4 - 0.5 * jnp.log(t), 1.0) if form == "logarithm" else (4 / jnp.sqrt(t + 1), 0.2)
    drift = jax.random.normal(jax.random.fold_in(key, 3), (documents, 1), t.dtype)
    v = curve[None] + noise * (jax.random.normal(key, (documents, 64), t.dtype) + 0.5 * drift)
    fit = jax.jit(lambda v: decay_fit(in_context_curve(v)))(v)
    assert 0 == float(fit.low[0]) < float(fit.v_inf) < float(fit.high[0])
    assert int(fit.status) == Status.singular


@pytest.mark.parametrize(
    "v, message",
    [
        (jnp.ones((1, 5)), "at least 2 windows"),
        (jnp.ones((5, 1)), "at least 2 windows of 2 tokens"),
        (jnp.ones(5), r"shape \(W, T\)"),
        (jnp.array([[1.0, 2.0], [jnp.nan, 1.0]]), r"nan at index \(1, 0\)"),
    ],
)
def test_bad_input_is_refused_by_name(v, message):
    with pytest.raises(InputError, match=message):
        in_context_curve(v)
    for documents in ([0, 1, 2], ["one", "one"]):
        with pytest.raises(InputError, match="documents: got"):
            in_context_curve(jnp.ones((2, 3)), documents=documents)
    for wrong in ({"level": 95}, {"level": 0.0}, {"replicates": 39}, {"replicates": 1e3}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))}: got"):
            in_context_curve(jnp.ones((2, 3)), **wrong)
    with pytest.raises(InputError, match="start"):
        deceleration_test(in_context_curve(jnp.ones((2, 3))), start=3)
