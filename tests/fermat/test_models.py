"""Local designs of nonlinear and generalised linear models: published optima, and information by simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from learnlag_jax import InputError
from learnlag_jax.fermat import criterion, fisher_information, information_matrix, optimal_weights
from learnlag_jax.testing import assert_within_se


def _support(x, design):
    on = np.asarray(design.weights) > 1e-6
    return np.asarray(x)[on], np.asarray(design.weights)[on]


def test_michaelis_menten_d_optimal(float64):
    """Two points with equal weight: b and K b / (2 K + b)."""
    K, b = 1.5, 6.0
    x = jnp.sort(jnp.append(jnp.linspace(0.05, b, 200), K * b / (2 * K + b)))
    F = fisher_information(
        lambda theta, x: theta["V"] * x / (theta["K"] + x), {"V": jnp.float64(2.0), "K": jnp.float64(K)}, x
    )
    where, weight = _support(x, optimal_weights(F, "D"))
    np.testing.assert_allclose(where, [K * b / (2 * K + b), b], rtol=1e-12)
    np.testing.assert_allclose(weight, 0.5, atol=1e-6)


def test_logistic_d_optimal(float64):
    """Two points with equal weight at logits +-c, the root of c tanh(c / 2) = 1: c = 1.5434."""
    c = brentq(lambda c: c * np.tanh(c / 2) - 1, 1, 2)
    theta = jnp.array([0.5, 2.0])
    x = jnp.sort(jnp.append(jnp.linspace(-3, 3, 301), (jnp.array([-c, c]) - 0.5) / 2))
    design = optimal_weights(fisher_information(lambda th, x: th[0] + th[1] * x, theta, x, family="bernoulli"), "D")
    where, weight = _support(x, design)
    np.testing.assert_allclose(0.5 + 2 * where, [-c, c], atol=1e-9)
    np.testing.assert_allclose(weight, 0.5, atol=1e-6)
    linear = optimal_weights(fisher_information(lambda th, x: th[0] + th[1] * x, theta, x), "D")
    assert abs(_support(x, linear)[0][-1] - 3.0) < 1e-9  # the control: the Gaussian model goes to the ends


def test_poisson_d_optimal(float64):
    """log rate = a - x on [0, inf): weight one half at 0 and at 2."""
    x = jnp.linspace(0, 8, 401)
    design = optimal_weights(
        fisher_information(lambda th, x: th[0] - th[1] * x, jnp.array([0.0, 1.0]), x, family="poisson"), "D"
    )
    where, weight = _support(x, design)
    np.testing.assert_allclose(where, [0.0, 2.0], atol=1e-9)
    np.testing.assert_allclose(weight, 0.5, atol=1e-6)


def test_compartmental_model_d_optimal(float64):
    """Atkinson, Donev and Tobias: theta3 (exp(-theta1 t) - exp(-theta2 t)), D-optimal at t = 0.229, 1.389, 18.42."""
    t = jnp.concatenate([jnp.linspace(0.001, 4.0, 4000), jnp.linspace(4.01, 40.0, 3600)])
    mean = lambda th, t: th[2] * (jnp.exp(-th[0] * t) - jnp.exp(-th[1] * t))
    where, weight = _support(t, optimal_weights(fisher_information(mean, jnp.array([0.05884, 4.298, 21.80]), t), "D"))
    centres = [
        np.sum(where[k] * weight[k]) / np.sum(weight[k]) for k in (where < 0.8, (where > 0.8) & (where < 5), where > 5)
    ]
    np.testing.assert_allclose(centres, [0.2288, 1.3886, 18.417], rtol=2e-3)


@pytest.mark.parametrize("family", ["gaussian", "bernoulli", "poisson", "gamma"])
def test_rows_are_the_variance_of_the_score(family, float64):
    theta, x, shape, draws = jnp.array([0.3, -0.4]), jnp.array([0.7]), 4.0, 20_000
    eta = lambda th: th[0] + th[1] * x[0]
    rng, e = np.random.default_rng(0), eta(theta)
    log_prob, y, noise = {
        "gaussian": (
            lambda th, y: -((y - eta(th)) ** 2) / (2 * 0.5**2),
            e + 0.5 * jnp.asarray(rng.normal(size=draws)),
            0.5,
        ),
        "bernoulli": (
            lambda th, y: y * eta(th) - jax.nn.softplus(eta(th)),
            jnp.asarray(rng.random(draws) < jax.nn.sigmoid(e), float),
            1.0,
        ),
        "poisson": (
            lambda th, y: y * eta(th) - jnp.exp(eta(th)),
            jnp.asarray(rng.poisson(float(jnp.exp(e)), draws), float),
            1.0,
        ),
        "gamma": (
            lambda th, y: -shape * (eta(th) + y * jnp.exp(-eta(th))),
            jnp.asarray(rng.gamma(shape, size=draws)) / shape * jnp.exp(e),
            0.5,
        ),
    }[family]
    scores = jax.vmap(jax.grad(log_prob), (None, 0))(theta, y)
    F = fisher_information(lambda th, x: th[0] + th[1] * x, theta, x, family=family, noise=noise)
    assert_within_se(scores[:, :, None] * scores[:, None, :], information_matrix(F))
    with pytest.raises(AssertionError):
        assert_within_se(scores[:, :, None] * scores[:, None, :], 1.2 * information_matrix(F))


def test_bad_input_is_refused_by_name():
    with pytest.raises(InputError, match="family"):
        fisher_information(lambda th, x: th * x, jnp.float32(1.0), jnp.ones(3), family="normal")
    with pytest.raises(InputError, match="model"):
        fisher_information(lambda th, x: jnp.stack([th, x]), jnp.float32(1.0), jnp.ones(3, jnp.float32))
    with pytest.raises(InputError, match="draws"):
        fisher_information(lambda th, x: th * x, jnp.ones(2, jnp.float32), jnp.ones(3, jnp.float32), draws="all")


def _log_det_over_prior(F, w):
    """The textbook value: the mean over draws of -log det M / p, without the library's block matrix."""
    M = np.einsum("i,isa,isb->sab", w, F, F)
    return -np.mean(np.linalg.slogdet(M)[1]) / F.shape[2]


def test_information_averaged_over_a_prior(float64):
    x = jnp.linspace(0.1, 5.0, 7)
    draws = jnp.asarray([[1.0, 0.5], [1.0, 2.0], [2.0, 1.0]])
    mean = lambda th, x: th[0] * x / (th[1] + x)
    local = [fisher_information(mean, theta, x, noise=0.5) for theta in draws]
    averaged = information_matrix(fisher_information(mean, draws, x, noise=0.5, draws="average"))
    np.testing.assert_allclose(averaged, sum(information_matrix(F) for F in local) / 3, rtol=1e-12)
    at_the_mean = information_matrix(fisher_information(mean, draws.mean(0), x, noise=0.5))
    assert not np.allclose(at_the_mean, averaged, rtol=0.02)  # the control: not the information at the mean parameter
    w = jnp.linspace(1.0, 2.0, 7) / 10.5
    blocks = information_matrix(fisher_information(mean, draws, x, noise=0.5, draws="separate"), w)
    F = np.stack([np.asarray(F) for F in local], 1)
    assert float(jnp.log(criterion("D", draws=3)(blocks))) == pytest.approx(_log_det_over_prior(F, w), rel=1e-12)
    traces = [float(criterion("A")(information_matrix(F, w))) for F in local]
    assert float(criterion("A", draws=3)(blocks)) == pytest.approx(np.mean(traces), rel=1e-12)


@pytest.mark.slow
def test_bayesian_d_optimal_logistic_design_spreads_with_the_prior(float64):
    """Chaloner and Larntz (1989): with little doubt two points, as the local design; with much doubt, more."""
    x = jnp.linspace(-1.2, 1.2, 61)
    logit = lambda th, x: th[1] * (x - th[0])
    supports = []
    for width in (0.05, 1.0):
        centres = jnp.linspace(-width, width, 7)
        draws = jnp.stack([centres, jnp.full(7, 7.0)], 1)
        rows = fisher_information(logit, draws, x, family="bernoulli", draws="separate")
        design = optimal_weights(rows, criterion("D", draws=7))
        assert float(design.gap) <= 1e-9
        where, _ = _support(x, design)
        supports.append(np.sum(np.diff(where) > 0.041) + 1)  # neighbours on the grid are one point
        # the equivalence theorem by hand: mean_s f' M_s^-1 f / p <= 1 everywhere
        F = np.asarray(rows).reshape(61, 7, 7, 2)[:, np.arange(7), np.arange(7)]
        M = np.einsum("i,isa,isb->sab", np.asarray(design.weights), F, F)
        worth = np.einsum("isa,sab,isb->i", F, np.linalg.inv(M), F) / (7 * 2)
        assert worth.max() <= 1 + 1e-8
        local = optimal_weights(fisher_information(logit, jnp.array([0.0, 7.0]), x, family="bernoulli"), "D")
        if width == 1.0:
            assert (
                _log_det_over_prior(F, np.asarray(local.weights))
                > _log_det_over_prior(F, np.asarray(design.weights)) + 0.1
            )
    assert supports[0] == 2
    assert supports[1] >= 4


def test_blocks_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="2 blocks of one size"):
        criterion("D", draws=2)(jnp.eye(3))
    with pytest.raises(InputError, match="draws"):
        criterion("E", draws=2)
