"""Approximate designs: known optima, the equivalence theorem on fine grids, other solvers, and honest failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from learnlag_jax import InputError, Status
from learnlag_jax.fermat import criterion, equivalence_gap, information_matrix, optimal_weights


def _grid(n=201):
    return jnp.linspace(-1.0, 1.0, n)


def _polynomial(x, degree):
    return jnp.stack([x**k for k in range(degree + 1)], 1)


def _points(x, design):
    on = np.asarray(design.weights) > 1e-9
    return np.asarray(x)[on], np.asarray(design.weights)[on]


def test_quadratic_regression_a_optimal(float64):
    x = _grid()
    design = optimal_weights(_polynomial(x, 2), "A")
    where, weight = _points(x, design)
    np.testing.assert_allclose(where, [-1, 0, 1], atol=1e-12)
    np.testing.assert_allclose(weight, [0.25, 0.5, 0.25], atol=1e-9)
    assert float(design.value) == pytest.approx(8.0, rel=1e-12)
    assert int(design.status) == 0
    assert float(design.gap) <= 1e-9


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_polynomial_regression_d_optimal_at_the_roots_of_legendre_derivative(degree, float64):
    roots = np.polynomial.legendre.Legendre.basis(degree).deriv().roots().real if degree > 1 else np.array([])
    support = np.sort(np.concatenate([[-1.0, 1.0], roots]))
    x = jnp.asarray(np.sort(np.concatenate([np.linspace(-1, 1, 101), roots])))
    design = optimal_weights(_polynomial(x, degree), "D")
    where, weight = _points(x, design)
    np.testing.assert_allclose(np.unique(np.round(where, 9)), np.round(support, 9), atol=1e-9)
    total = [weight[np.abs(where - s) < 1e-9].sum() for s in support]  # a root may also be a grid point
    np.testing.assert_allclose(total, 1 / (degree + 1), atol=1e-7)


def test_trigonometric_regression_is_uniform_for_every_criterion(float64):
    angle = jnp.arange(12.0) * (2 * jnp.pi / 12)
    F = jnp.stack([jnp.ones(12), jnp.sqrt(2.0) * jnp.cos(angle), jnp.sqrt(2.0) * jnp.sin(angle)], 1)
    uniform = information_matrix(F, jnp.full(12, 1 / 12))
    for phi in ("A", "D", criterion("phi", q=3.0)):
        assert float(equivalence_gap(uniform, F, phi)) < 1e-12
        assert float(optimal_weights(F, phi).value) == pytest.approx(
            float((criterion(phi) if isinstance(phi, str) else phi)(uniform)), rel=1e-9
        )


def test_weighing_designs_take_hadamard_rows(float64):
    signs = jnp.asarray([[(1.0 if (i >> k) & 1 else -1.0) for k in range(4)] for i in range(16)])
    for phi in "ADE":
        value = float(optimal_weights(signs, phi).value)
        assert value == pytest.approx({"A": 4.0, "D": 1.0, "E": 1.0}[phi], rel=1e-8)


def test_scheffe_mixture_quadratic(float64):
    """Kiefer (1961): the D-optimal design for the quadratic mixture model is uniform on vertices and edge midpoints."""
    m = 12
    z = np.array([[i, j, m - i - j] for i in range(m + 1) for j in range(m + 1 - i)]) / m
    F = jnp.asarray(np.column_stack([z, z[:, 0] * z[:, 1], z[:, 0] * z[:, 2], z[:, 1] * z[:, 2]]))
    D = optimal_weights(F, "D")
    on = np.asarray(D.weights) > 1e-9
    assert on.sum() == 6
    np.testing.assert_allclose(np.asarray(D.weights)[on], 1 / 6, atol=1e-8)
    A = optimal_weights(F, "A")
    centroid = np.all(np.abs(z - 1 / 3) < 1e-9, axis=1)
    assert float(A.weights[np.flatnonzero(centroid)[0]]) > 0.01  # the trap: A needs the centroid, D does not
    assert float(A.gap) <= 1e-9


def test_g_equals_d_and_has_value_p(float64):
    F = _polynomial(_grid(), 3)
    G = optimal_weights(F, criterion("G", region=F))
    assert float(G.value) == pytest.approx(4.0, rel=1e-8)
    np.testing.assert_allclose(G.weights, optimal_weights(F, "D").weights, atol=1e-9)


@pytest.mark.parametrize("kind", ["A", "D", "I", "c"])
def test_against_a_general_optimiser(kind, float64):
    rng = np.random.default_rng(1)
    F = jnp.asarray(rng.normal(size=(30, 3)))
    option = {"I": {"moment": jnp.diag(jnp.array([1.0, 2.0, 5.0]))}, "c": {"vector": jnp.array([1.0, 1.0, -2.0])}}
    phi = criterion(kind, **option.get(kind, {}))
    design = optimal_weights(F, phi)
    softmax = lambda u: phi(information_matrix(F, jax.nn.softmax(u)))
    other = minimize(
        jax.jit(jax.value_and_grad(softmax)),
        rng.normal(size=30) * 0.1,
        jac=True,
        method="BFGS",
        options={"gtol": 1e-7, "maxiter": 3000},
    )
    assert float(design.value) <= other.fun * (1 + 1e-9)
    assert float(design.value) >= other.fun * (1 - 1e-2)  # that optimiser is only near
    assert float(design.gap) <= 1e-9


def test_pool_longer_than_the_active_set_and_both_precisions(dtype):
    F = jnp.asarray(np.random.default_rng(2).normal(size=(3000, 3)), dtype)
    design = optimal_weights(F)
    assert design.weights.dtype == dtype
    assert int(design.status) == 0
    assert float(jnp.sum(design.weights)) == pytest.approx(1, rel=1e-5)
    # the certificate, once more, by NumPy in double precision
    X, w = np.asarray(F, np.float64), np.asarray(design.weights, np.float64)
    D = np.linalg.inv(X.T @ (X * w[:, None]))
    bound = np.trace(D) ** 2 / np.max(np.sum((X @ D) ** 2, 1))
    assert bound >= np.trace(D) * (1 - 2 * max(1e-9, 300 * float(jnp.finfo(dtype).eps)))
    uniform = information_matrix(F) / 3000
    assert float(equivalence_gap(uniform, F)) > 0.3


def test_duplicated_rows_share_their_weight(float64):
    x = _grid(21)
    F = _polynomial(x, 2)
    many = jnp.repeat(F, 200, 0)
    design = optimal_weights(many)
    assert float(design.value) == pytest.approx(8.0, rel=1e-9)
    np.testing.assert_allclose(
        design.weights.reshape(21, 200).sum(1)[jnp.array([0, 10, 20])], [0.25, 0.5, 0.25], atol=1e-8
    )


def test_prior_information_shifts_the_design_and_is_certified(float64):
    F = _polynomial(_grid(41), 1)
    prior = jnp.diag(jnp.array([10.0, 0.0]))
    design = optimal_weights(F, "A", prior=prior)
    assert float(design.gap) <= 1e-9
    # intercept nearly known: all weight on the ends; tr = 1/(1 + 10) + 1
    assert float(design.value) == pytest.approx(1 / 11 + 1, rel=1e-9)
    assert float(equivalence_gap(prior + information_matrix(F) / 41, F, prior=prior)) > 0.1


def test_the_certificate_with_a_prior_is_its_definition_and_true(float64):
    """Weights (h, 1 - h) on unit vectors, the first known once: M = diag(1 + h, 1 - h), and h = 0 is best, with value 2."""
    F, prior = jnp.eye(2), jnp.diag(jnp.array([1.0, 0.0]))
    for h in (0.5, 0.1, 0.01):
        m, w = np.array([1 + h, 1 - h]), np.array([h, 1 - h])
        value, G = np.sum(1 / m), 1 / m**2
        gap = float(equivalence_gap(jnp.diag(jnp.asarray(m)), F, "A", prior=prior))
        assert gap == pytest.approx((G.max() - G @ w) / value, rel=1e-9)
        assert value * (1 - gap) <= 2 * (1 + 1e-12)


def test_no_design_of_a_fine_simplex_beats_the_certified_bound_with_a_prior(float64):
    F = np.random.default_rng(0).normal(size=(3, 2))
    prior = np.diag([0.5, 0.1])
    i, j = np.meshgrid(np.arange(61), np.arange(61))
    w = np.stack([i, j, 60 - i - j], -1)[i + j <= 60] / 60
    M = prior + np.einsum("ki,ia,ib->kab", w, F, F)
    values = np.trace(np.linalg.inv(M), axis1=1, axis2=2)
    gaps = jax.vmap(lambda M: equivalence_gap(M, jnp.asarray(F), "A", prior=jnp.asarray(prior)))(jnp.asarray(M))
    assert np.max(values * (1 - np.asarray(gaps))) <= values.min() * (1 + 1e-12)
    best = optimal_weights(jnp.asarray(F), "A", prior=jnp.asarray(prior))
    assert float(best.value) == pytest.approx(values.min(), rel=1e-3)  # the step of the grid, squared
    assert float(best.value) <= values.min()


def test_any_convex_function_of_the_user(float64):
    F = _polynomial(_grid(41), 2)
    weighted = lambda M: jnp.sum(jnp.diagonal(jnp.linalg.inv(M)) * jnp.array([1.0, 0.0, 4.0]))
    design = optimal_weights(F, weighted)
    same = optimal_weights(F, criterion("I", moment=jnp.diag(jnp.array([1.0, 0.0, 4.0]))))
    assert float(design.gap) <= 1e-9
    np.testing.assert_allclose(design.weights, same.weights, atol=1e-6)


def test_batches_of_pools(float64):
    F = jnp.asarray(np.random.default_rng(0).normal(size=(3, 25, 3)))
    together = jax.vmap(lambda F: optimal_weights(F))(F)
    assert np.all(np.asarray(together.gap) <= 1e-9)
    np.testing.assert_allclose(together.value[1], optimal_weights(F[1]).value, rtol=1e-9)


def test_failures_are_named_and_no_number_passes_for_an_answer(dtype):
    flat = jnp.ones((8, 2), dtype)
    design = optimal_weights(flat)
    assert int(design.status) == Status.rank_deficient
    assert np.isnan(design.weights).all()
    assert float(design.value) == np.inf
    assert float(design.gap) == 1.0
    few = optimal_weights(jnp.asarray(np.random.default_rng(2).normal(size=(3000, 3)), dtype), max_rounds=0)
    assert int(few.status) == Status.max_steps
    assert float(few.gap) > 1e-3


def test_an_optimum_that_does_not_estimate_everything_is_refused(float64):
    x = jnp.linspace(-1.0, 1.0, 21)
    F = jnp.stack([jnp.ones_like(x), x], 1)
    point = optimal_weights(F, criterion("c", jnp.asarray([1.0, 1.0])))
    assert int(point.status) == Status.singular  # predicting at x = 1 needs x = 1 only
    assert np.isnan(point.weights).all()
    assert int(optimal_weights(F, criterion("c", jnp.asarray([1.0, 0.5]))).status) == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: optimal_weights(jnp.ones((4, 2)).at[1, 1].set(jnp.nan)), "F.*nan"),
        (lambda: optimal_weights(jnp.ones(4)), "F"),
        (lambda: optimal_weights(jnp.eye(3), "T"), "longest row"),
        (lambda: optimal_weights(jnp.eye(3), prior=jnp.eye(2)), "prior"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
