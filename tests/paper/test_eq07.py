"""Eq. 7: the least error sigma^2 (1 + p/n), attained at every n >= p; and what one step at a time costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax.fermat import criterion, greedy_ratio, information_matrix, least_time_path, tight_frame
from learnlag_jax.testing import assert_close

P = 5
error = lambda X: 1 + criterion("A")(information_matrix(X)) / X.shape[1]


@pytest.mark.parametrize("n", [5, 6, 7, 10, 13, 15])
def test_minimum_is_attained_at_every_n(n, float64):
    X = tight_frame(n, P)
    assert_close(error(X), jnp.asarray(1 + P / n), ulps=64)
    G = jax.grad(error)(X)
    assert float(jnp.abs(G - jnp.sum(G * X, 1, keepdims=True) * X).max()) < 1e-13  # stationary on the sphere


@pytest.mark.parametrize("n", [6, 13])
def test_no_unit_rows_do_better(n, float64):
    Z = np.random.default_rng(n).normal(size=(2000, n, P))
    Z /= np.linalg.norm(Z, axis=2, keepdims=True)
    random = 1 + np.trace(np.linalg.inv(np.swapaxes(Z, 1, 2) @ Z), axis1=1, axis2=2) / P
    assert random.min() > 1 + P / n


def test_values_named_in_the_paper(float64):
    assert float(error(tight_frame(P, P))) == pytest.approx(2.0, rel=1e-14)
    assert float(error(tight_frame(2 * P, P))) == pytest.approx(1.5, rel=1e-14)


def test_one_step_at_a_time_costs_what_the_closed_form_says(float64):
    n = jnp.arange(P, 24)
    ratio = least_time_path(P, 23, objective="greedy").values[P - 1 :] * n.astype(float) / P**2
    assert_close(ratio, greedy_ratio(n, P), ulps=64)
    at_multiples = np.asarray(n) % P == 0
    np.testing.assert_allclose(np.asarray(ratio)[at_multiples], 1, rtol=1e-14)
    assert np.all(np.asarray(ratio)[~at_multiples] > 1.001)  # the control: strictly worse between multiples
    assert float(ratio.max()) <= 1.125


def test_control_rows_that_are_not_tight_are_not_optimal(float64):
    X = jnp.eye(P)[jnp.arange(7) % P]
    assert float(error(X)) > (1 + P / 7) * 1.01
