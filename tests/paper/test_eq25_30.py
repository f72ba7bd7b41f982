"""Eq. 25-30: the field Euler-Lagrange equation of the learning Lagrangian, and its residual at a fitted model."""

import jax
import jax.numpy as jnp

from learnlag_jax import trees
from learnlag_jax.fisher import fisher_information, learning_lagrangian, stationarity
from learnlag_jax.testing import assert_close
from tests.fisher.models import gaussian_fit, gaussian_log_prob, network_problem


def field_residual(log_prob, params, batch):
    """E[ div_theta dl/d(grad l) - dl/dl ] by autodiff of the density alone, with no formula for the residual."""
    flat, fold = trees.ravel(params)
    density = learning_lagrangian(lambda t: fisher_information(log_prob, fold(t), batch).dense())

    def one(example):
        u = lambda t: log_prob(fold(t), example)
        flux = lambda t: jax.grad(density, 2)(t, u(t), jax.grad(u)(t))
        return jnp.trace(jax.jacfwd(flux)(flat)) - jax.grad(density, 1)(flat, u(flat), jax.grad(u)(flat))

    return jnp.mean(jax.lax.map(one, batch))


def test_residual_is_the_field_euler_lagrange_equation_anywhere(float64):
    log_prob, params, batch, _ = network_problem(float64, n=40)
    found = stationarity(log_prob, params, batch)
    assert_close(found.residual, field_residual(log_prob, params, batch), ulps=1e6)
    assert abs(float(found.divergence)) > 1e-3  # away from the optimum the divergence term is needed
    assert abs(float(found.residual - found.divergence - field_residual(log_prob, params, batch))) > 1e-3


def gaussian_data(key, n, scale):
    k1, k2 = jax.random.split(key)
    x = jax.random.normal(k1, (n, 2))
    return x, x @ jnp.array([1.0, -1.0]) + scale(x) * jax.random.normal(k2, (n,))


def test_zero_at_the_estimator_of_a_right_model_and_not_of_a_wrong_one(float64):
    right = gaussian_data(jax.random.key(0), 20_000, lambda x: 1.0)
    wrong = gaussian_data(jax.random.key(0), 20_000, lambda x: jnp.exp(0.5 * x[:, 0]))
    found = stationarity(gaussian_log_prob, gaussian_fit(right), right)
    assert abs(float(found.residual)) < 4.5 * float(found.standard_error)
    assert abs(float(found.divergence)) < 1e-12
    off = stationarity(gaussian_log_prob, gaussian_fit(wrong), wrong)
    assert float(off.residual) > 4.5 * float(found.standard_error)
    assert float(off.p_value) < 1e-3 < float(found.p_value)
    assert abs(float(off.divergence)) < 1e-12  # it is just as much a maximum of the likelihood


def test_not_zero_away_from_the_estimator(float64):
    right = gaussian_data(jax.random.key(0), 20_000, lambda x: 1.0)
    away = trees.add(gaussian_fit(right), {"w": jnp.array([0.5, 0.0]), "log_sigma": jnp.array(0.0)})
    assert abs(float(stationarity(gaussian_log_prob, away, right).residual)) > 0.1
