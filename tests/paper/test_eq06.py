"""Eq. 6: tr(X'X) = n for unit rows, and the prediction error of least squares on them."""

import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax.fermat import criterion, information_matrix
from learnlag_jax.testing import assert_close, assert_within_se

N, P, SIGMA, DRAWS = 9, 4, 0.7, 20_000


def _unit(rng, *shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _squared_errors(rng, X):
    """Fit on fresh noise and predict at fresh inputs, with a coefficient vector drawn each time."""
    beta, z = rng.normal(size=(DRAWS, P)), _unit(rng, DRAWS, P)
    y = beta @ X.T + SIGMA * rng.normal(size=(DRAWS, N))
    fitted = y @ np.linalg.pinv(X).T
    return (np.sum(z * beta, 1) + SIGMA * rng.normal(size=DRAWS) - np.sum(z * fitted, 1)) ** 2


def _formula(X, moment):
    return SIGMA**2 * (1 + float(criterion("I", moment=moment)(information_matrix(jnp.asarray(X)))))


def test_trace_is_the_number_of_rows(dtype):
    X = jnp.asarray(_unit(np.random.default_rng(0), N, P), dtype)
    assert_close(jnp.trace(information_matrix(X)), jnp.asarray(N, dtype), ulps=4 * N)
    assert abs(float(jnp.trace(information_matrix(1.01 * X))) - N) > 0.1


def test_prediction_error_by_simulation(float64):
    rng = np.random.default_rng(1)
    X = _unit(rng, N, P)
    squared = _squared_errors(rng, X)
    assert_within_se(squared, _formula(X, jnp.eye(P) / P))
    with pytest.raises(AssertionError):
        assert_within_se(squared, _formula(X, jnp.eye(P)))  # E[z z'] = I is wrong by a factor p


def test_uniform_inputs_have_second_moment_one_over_p():
    z = _unit(np.random.default_rng(2), DRAWS, P)
    assert_within_se(z[:, :, None] * z[:, None, :], np.eye(P) / P)
