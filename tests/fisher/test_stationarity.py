"""The field residual: zero where it must be, its parts against closed forms, and a test with the right size and power."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status, trees
from learnlag_jax.fisher import bootstrap, fisher_information, probed_stationarity, stationarity
from learnlag_jax.fisher.operators import matrix_power
from learnlag_jax.fisher.stationarity import inverse_divergence
from learnlag_jax.testing import assert_close
from tests.fisher.models import gaussian_fit, gaussian_log_prob, network_problem, softmax_problem


def regression(key, n, noise):
    k1, k2 = jax.random.split(key)
    x = jnp.concatenate([jnp.ones((n, 1)), jax.random.normal(k1, (n, 2))], axis=1)
    return x, x @ jnp.array([1.0, -2.0, 0.5]) + noise(k2, x)


def well_specified(key, x):
    return jax.random.normal(key, x.shape[:1])


def heteroscedastic(key, x):
    return jnp.exp(0.6 * x[:, 1]) * jax.random.normal(key, x.shape[:1])


def heavy_tailed(key, x):
    return jax.random.t(key, 4.0, x.shape[:1])


def fitted(key, n, noise):
    batch = regression(key, n, noise)
    return stationarity(gaussian_log_prob, gaussian_fit(batch), batch)


def test_equipartition_mean_kinetic_energy_is_half_the_rank_per_parameter(float64):
    log_prob, params, batch, _ = network_problem(float64, n=60)
    found = stationarity(log_prob, params, batch)
    size = trees.size(params)
    assert_close(found.kinetic, found.rank.astype(float64) / (2 * size), ulps=1e4)
    few = stationarity(log_prob, params, jax.tree.map(lambda a: a[:5], batch))
    assert int(few.rank) == 5
    assert_close(few.kinetic, jnp.float64(5 / (2 * size)), ulps=1e4)
    assert int(few.status) == Status.rank_deficient


def test_the_divergence_equals_the_derivative_of_the_inverse(float64):
    log_prob, params, batch, outcomes = network_problem(float64, n=60)
    flat, fold = trees.ravel(params)
    for options in ({}, {"estimator": "exact", "outcomes": outcomes}):
        F = lambda t, options=options: fisher_information(log_prob, fold(t), batch, damping=1e-2, **options)  # noqa: B023
        g = jax.random.normal(jax.random.key(1), flat.shape)
        inverse = jnp.linalg.inv(F(flat).dense())
        direct = jnp.trace(jax.jacfwd(lambda t: jnp.linalg.solve(F(t).dense(), g))(flat))  # noqa: B023
        found = inverse_divergence(F, flat, inverse, inverse @ g)
        assert_close(found, direct, ulps=1e6)
        assert abs(float(direct)) > 1.0


def test_penalty_is_takeuchis_and_the_sandwich_is_symmetric(float64):
    x = jax.random.normal(jax.random.key(0), (400,), float64)
    wide = 2 * x - 2 * x.mean()
    found = stationarity(lambda t, e: -0.5 * (e - t[0]) ** 2, jnp.zeros(1), wide)
    variance = jnp.mean(wide**2)
    assert_close(found.penalty, variance)  # J = 1, K = variance
    assert_close(found.covariance[0, 0], variance / 400)
    assert_close(found.residual, 1 - 1 / variance)
    assert_close(found.tic, jnp.sum(wide**2) + 2 * variance)


def test_residual_vanishes_identically_with_the_model_fisher_of_a_canonical_model():
    """The pairing that cannot fail: even shuffled labels give zero, so it is no evidence."""
    log_prob, params, (x, y), outcomes = softmax_problem(jnp.dtype("float64"), n=40)
    plain = lambda w, example: log_prob({"w": jnp.concatenate([w, jnp.zeros((1, 2))]), "b": jnp.zeros(3)}, example)
    w = params["w"][:2]
    options = {"estimator": "exact", "outcomes": lambda p, e: outcomes_of(plain, p, e)}
    found = stationarity(plain, w, (x, y), **options)
    assert abs(float(found.curvature) + 1) < 1e-12
    assert abs(float(stationarity(plain, w, (x, y)).curvature) + 1) > 1e-2


def outcomes_of(log_prob, params, example):
    labels = jnp.arange(3)
    examples = jnp.broadcast_to(example[0], (3, 2)), labels
    return examples, jnp.exp(jax.vmap(log_prob, (None, 0))(params, examples))


def test_information_matrix_test_keeps_its_size_and_has_power(float64):
    rejections = {}
    for noise in (well_specified, heteroscedastic, heavy_tailed):
        keys = jax.random.split(jax.random.key(11), 200)
        found = jax.jit(jax.vmap(lambda key: fitted(key, 500, noise)))(keys)  # noqa: B023
        rejections[noise] = float(np.mean(np.asarray(found.p_value) < 0.05))
        if noise is well_specified:
            assert abs(float(jnp.mean(found.residual))) < 0.1
            assert bool(jnp.all(found.drift < 1e-20))
    # 0.08 +- 0.01 over 1000 other draws: the kurtosis part converges slowly; 3 binomial standard errors of 200 draws
    assert rejections[well_specified] < 0.08 + 3 * 0.019
    assert rejections[heteroscedastic] > 0.9
    assert rejections[heavy_tailed] > 0.75


def test_a_singular_hessian_is_a_status_not_a_number():
    x = jnp.linspace(-1.0, 1.0, 8)
    found = jax.jit(lambda t: stationarity(lambda t, e: -0.5 * (e - t[0] - t[1]) ** 2, t, x))(jnp.zeros(2))
    assert int(found.status) in (Status.singular, Status.rank_deficient)


def test_matrix_power_inverts_its_square_root(float64):
    a = jax.random.normal(jax.random.key(2), (5, 5), float64)
    F = a @ a.T + jnp.eye(5)
    root = matrix_power(F, -0.5)
    assert_close(root @ F @ root, jnp.eye(5), ulps=1e4)


def test_the_bootstrap_keeps_its_size_where_the_chi_square_limit_does_not(float64):
    """60 examples, 4 parameters: a location-scale family, so the bootstrap is exact up to 3 binomial standard errors."""
    sets = 200

    def simulate(params, batch, key):
        x, _ = batch
        return x, x @ params["w"] + jnp.exp(params["log_sigma"]) * jax.random.normal(key, x.shape[:1])

    def p_values(key, noise, n):
        k1, k2 = jax.random.split(key)
        batch = regression(k1, n, noise)
        found = bootstrap(gaussian_log_prob, gaussian_fit, simulate, batch, k2, draws=39)
        return found.p_value, stationarity(gaussian_log_prob, gaussian_fit(batch), batch).p_value

    rejected = {}
    for noise, n, count in ((well_specified, 60, sets), (heteroscedastic, 400, 40)):
        run = jax.jit(jax.vmap(lambda key: p_values(key, noise, n)))  # noqa: B023
        with jax.debug_key_reuse(False):  # it takes keys mapped over by scan under vmap for used ones
            rejected[noise] = [
                float(np.mean(np.asarray(p) <= 0.05)) for p in run(jax.random.split(jax.random.key(5), count))
            ]
    error = 3 * (0.05 * 0.95 / sets) ** 0.5
    assert abs(rejected[well_specified][0] - 0.05) < error
    assert rejected[well_specified][1] > 0.05 + error
    assert rejected[heteroscedastic][0] > 0.5
    with pytest.raises(InputError, match="draws"):
        bootstrap(gaussian_log_prob, gaussian_fit, simulate, None, jax.random.key(0), draws=5)


def poisson_log_prob(params, example):
    """Counts with a logarithmic link, up to a constant."""
    x, y = example
    eta = params[0] + params[1] * x
    return y * eta - jnp.exp(eta)


def poisson_fit(batch):
    def newton(t, _):
        mean = lambda t: jnp.mean(jax.vmap(poisson_log_prob, (None, 0))(t, batch))
        return t - jnp.linalg.solve(jax.hessian(mean)(t), jax.grad(mean)(t)), None

    return jax.lax.scan(newton, jnp.array([jnp.log(jnp.mean(batch[1])), 0.0]), length=12)[0]


def test_a_wrong_link_is_found(float64):
    """Counts whose mean is a logarithm-linear or a linear function of x, fitted with the logarithmic link."""

    def p_value(key, link):
        k1, k2 = jax.random.split(key)
        x = jax.random.uniform(k1, (8000,), minval=-1.0, maxval=1.0)
        batch = x, jax.random.poisson(k2, link(x)).astype(float64)
        return stationarity(poisson_log_prob, poisson_fit(batch), batch).p_value

    links = {"right": lambda x: jnp.exp(1.0 + x), "wrong": lambda x: 5.2 + 5 * x}
    keys = lambda: jax.random.split(jax.random.key(3), 100)
    share = {
        name: float(jnp.mean(jax.jit(jax.vmap(lambda k: p_value(k, link)))(keys()) < 0.05))  # noqa: B023
        for name, link in links.items()
    }
    assert share["right"] < 0.05 + 3 * 0.022
    assert share["wrong"] > 0.8


def test_probes_agree_with_the_matrices(float64):
    """All of the residual, at a parameter away from the optimum, within 4.5 standard errors of the probes."""
    log_prob, params, batch, _ = network_problem(float64, n=60)
    exact = stationarity(log_prob, params, batch, damping=1e-2)
    found = jax.jit(
        lambda p: probed_stationarity(log_prob, p, batch, jax.random.key(2), probes=200, krylov=16, damping=1e-2)
    )(params)
    assert abs(float(found.residual - exact.residual)) < 4.5 * float(found.standard_error)
    assert_close(found.drift, exact.drift, ulps=1e7)
    assert abs(float(exact.divergence)) > 4.5 * float(found.standard_error)  # without its divergence it would be seen
    with pytest.raises(InputError, match="probes"):
        probed_stationarity(log_prob, params, batch, jax.random.key(2), probes=1)
