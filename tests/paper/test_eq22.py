"""Eq. 22, Cramer-Rao: the covariance of the estimator is F^-1 / n for a right model, and larger for a worse estimator."""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax.fisher import fisher_information

SETS, N = 2000, 200


def log_prob(theta, x):
    """A logistic location family: its maximum-likelihood estimator beats the mean."""
    z = x - theta[0]
    return -z - 2 * jax.nn.softplus(-z)


def fit(x):
    """Newton's method from the median."""

    def step(theta, _):
        l = lambda t: jnp.mean(jax.vmap(log_prob, (None, 0))(t, x))
        return theta - jax.grad(l)(theta) / jax.hessian(l)(theta)[0], None

    return jax.lax.scan(step, jnp.median(x)[None], length=8)[0][0]


def relative_variance(estimates, bound):
    """Variance over the bound, and its standard error from the fourth moment."""
    centred = (np.asarray(estimates) - np.mean(estimates)) ** 2
    return centred.mean() / bound, centred.std() / np.sqrt(len(centred)) / bound


def test_cramer_rao(float64):
    x = jax.random.logistic(jax.random.key(0), (SETS, N), float64)
    big = jax.random.logistic(jax.random.key(1), (100_000,), float64)
    F = fisher_information(log_prob, jnp.zeros(1), big)
    bound = float(F.solve(jnp.ones(1))[0]) / N
    assert abs(bound * N - 3.0) < 0.1  # Fisher information of the logistic location is 1/3
    attained, se = relative_variance(jax.jit(jax.vmap(fit))(x), bound)
    assert attained > 1 - 4.5 * se  # never below
    assert attained < 1 + 4.5 * se + 3 / N  # and reached, up to the next order in 1/n
    wasteful, se = relative_variance(x.mean(1), bound)
    assert wasteful > 1 + 4.5 * se / 4.5 * 1.5  # the mean is unbiased too, with pi^2/9 of the bound
    assert abs(wasteful - np.pi**2 / 9) < 4.5 * se


def test_a_biased_estimator_goes_below_the_bound_and_is_caught(float64):
    x = jax.random.logistic(jax.random.key(0), (SETS, N), float64)
    shrunk, se = relative_variance(0.5 * x.mean(1), 3.0 / N)
    assert shrunk < 1 - 4.5 * se
