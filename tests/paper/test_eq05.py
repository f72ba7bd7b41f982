"""Eq. 5: the least time as an indicator integral and as an integral over the error; when they are one number."""

import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax.fermat import tight_frame, time_by_rate, time_to_threshold

P, SIGMA2 = 4, 2.0


def _error(n):
    """The optimal curve of the linear model, attained by tight frames; infinite before the model can be fitted."""
    errors = [np.inf] * P
    for k in range(P, n + 1):
        X = np.asarray(tight_frame(k, P))
        errors.append(SIGMA2 * (1 + np.trace(np.linalg.inv(X.T @ X)) / P))
    return jnp.asarray(errors)


@pytest.mark.parametrize("threshold", [3.9, 3.05, 2.6, 2.3])
def test_indicator_integral_is_the_hitting_time_in_closed_form(threshold, float64):
    t, error = jnp.arange(41.0), _error(40)
    expected = max(P, int(np.ceil(P * SIGMA2 / (threshold - SIGMA2))))
    for kind in ("first", "last", "occupation"):
        assert float(time_to_threshold(t, error, threshold, kind).value) == expected


def test_the_state_before_any_data_counts(float64):
    t, error = jnp.arange(41.0), _error(40)
    without = time_to_threshold(t[:-1], error[1:], 2.6, "occupation")
    assert float(time_to_threshold(t, error, 2.6, "occupation").value) - float(without.value) == 1.0


def test_error_integral_converges_from_an_infinite_start(float64):
    threshold = 2.6
    limit = P * SIGMA2 / (threshold - SIGMA2)
    misses = []
    for h in (0.1, 0.05):
        t = jnp.arange(0.0, 40.0, h)
        error = jnp.where(t > 0, SIGMA2 * (1 + P / jnp.maximum(t, h)), jnp.inf)
        found = time_by_rate(t, error, threshold)
        misses.append(float(found.value) - limit)
        assert float(found.value) == pytest.approx(
            float(time_to_threshold(t, error, threshold, interpolate=True).value), rel=1e-12
        )
    assert all(0 <= m <= h**2 / (4 * limit) + 1e-9 for m, h in zip(misses, (0.1, 0.05), strict=True))


def test_control_a_curve_that_comes_back_has_three_times(float64):
    t, error = jnp.arange(41.0), _error(40).at[30].set(5.0)
    first, last, occupation = (
        float(time_to_threshold(t, error, 2.6, k).value) for k in ("first", "last", "occupation")
    )
    assert (last - first, occupation - first) == (31 - 14, 1.0)
    assert np.isnan(float(time_by_rate(t, error, 2.6).value))
