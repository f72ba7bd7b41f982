"""Coordinates: a design does not depend on them, and nearly collinear columns cost it no digits."""

from fractions import Fraction

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given
from numpy.polynomial import polynomial

from learnlag_jax import Status
from learnlag_jax.fermat import criterion, equivalence_gap, exact_design, information_matrix, optimal_weights
from learnlag_jax.fermat.basis import orthonormal

MIDDLE, HALF = 3.5, 0.5


def _columns(degree, dtype="float64"):
    """1, x, x^2, .. on [3, 4], the same of z = (x - 3.5) / 0.5, and T with x-columns = z-columns T'."""
    z = np.linspace(-1, 1, 301)
    powers = lambda x: jnp.asarray(np.stack([x**k for k in range(degree + 1)], 1), dtype)
    T = np.zeros((degree + 1, degree + 1))
    for k in range(degree + 1):
        T[k, : k + 1] = polynomial.polypow([MIDDLE, HALF], k)
    return powers(MIDDLE + HALF * z), powers(z), T


def _pairs(degree, kind):
    """The same criterion in x and in z."""
    raw, centred, T = _columns(degree)
    if kind == "A":
        S = np.linalg.inv(T)
        return criterion("A"), criterion("I", moment=jnp.asarray(S @ S.T))
    if kind == "c":
        c = np.arange(1.0, degree + 2)
        return criterion("c", vector=jnp.asarray(c)), criterion("c", vector=jnp.asarray(np.linalg.solve(T, c)))
    if kind == "D":
        return criterion("D"), criterion("D")
    return criterion(kind, region=raw), criterion(kind, region=centred)


@pytest.mark.parametrize("degree", [2, 3])
@pytest.mark.parametrize("kind", ["A", "D", "I", "c", "G"])
def test_raw_powers_cost_nothing(kind, degree, float64):
    raw, centred, T = _columns(degree)
    inside, outside = _pairs(degree, kind)
    found, known = optimal_weights(raw, inside), optimal_weights(centred, outside)
    assert int(found.status) == int(known.status) == Status.converged
    assert float(found.gap) < 1e-9
    scale = np.linalg.det(T) ** (-2 / (degree + 1)) if kind == "D" else 1.0
    np.testing.assert_allclose(float(found.value), float(known.value) * scale, rtol=1e-8)
    assert np.linalg.cond(information_matrix(raw, found.weights)) > 1e6  # or this proved nothing


@pytest.mark.parametrize("q", [0.3, 1.0, 2.0, 30.0])
def test_raw_powers_cost_kiefers_family_nothing(q, float64):
    raw, centred, T = _columns(2)
    design = optimal_weights(raw, criterion("phi", q=q))
    assert int(design.status) == Status.converged
    assert float(design.gap) < 1e-9
    # the eigenvalues of M^-1 = S' M_z^-1 S, S = T^-1, from the singular values of a root: small ones in proportion too
    root = np.linalg.solve(
        np.linalg.cholesky(np.asarray(information_matrix(centred, design.weights))), np.linalg.inv(T)
    )
    values = np.linalg.svd(root, compute_uv=False) ** 2
    np.testing.assert_allclose(float(design.value), np.mean(values**q) ** (1 / q), rtol=1e-9)


@pytest.mark.parametrize("degree", [2, 5])
def test_raw_powers_cost_the_worst_direction_nothing(degree, float64):
    raw, _, _ = _columns(degree)
    design = optimal_weights(raw, "E")
    assert int(design.status) == Status.converged
    assert float(design.gap) < 1e-9
    root = np.linalg.svd(np.sqrt(np.asarray(design.weights))[:, None] * np.asarray(raw), compute_uv=False)
    np.testing.assert_allclose(float(design.value), root[-1] ** -2, rtol=1e-8)


@given(st.integers(0, 10**6), st.sampled_from(["A", "D", "I", "c", "G"]))
def test_value_and_sensitivities_are_those_of_the_given_coordinates(seed, kind):
    draw = np.random.default_rng(seed)
    F, prior = jnp.asarray(draw.normal(size=(12, 3))), jnp.asarray(np.diag(draw.uniform(size=3)))
    options = {"I": {"region": F[:5]}, "c": {"vector": jnp.asarray(draw.normal(size=3))}, "G": {"region": F[:5]}}
    phi = criterion(kind, **options.get(kind, {}))
    problem = orthonormal(F, phi, prior)
    w = jnp.asarray(draw.dirichlet(np.ones(12)))
    here = information_matrix(F, w, prior)
    there = information_matrix(problem.F, w, problem.prior)
    np.testing.assert_allclose(problem.phi(there), phi(here), rtol=1e-9)
    np.testing.assert_allclose(information_matrix(problem.F) / 12 + problem.prior, np.eye(3), atol=1e-9)
    gaps = [equivalence_gap(M, F, phi, prior=P) for M, F, phi, P in ((here, F, phi, prior), (there, *_data(problem)))]
    np.testing.assert_allclose(*gaps, atol=1e-9)


def _data(problem):
    return problem.F, problem.phi, problem.prior


@pytest.mark.parametrize("degree, dtype", [(5, "float64"), (2, "float32")])
def test_rows_and_region_are_turned_to_the_rounding_that_is_said(degree, dtype, float64):
    raw, _, _ = _columns(degree, dtype)
    problem = orthonormal(raw, criterion("G", region=raw[::7]), None)
    rational = np.vectorize(Fraction)
    exact = (rational(np.asarray(raw, float)) @ rational(np.asarray(problem.B, float))).astype(float)
    for found, known, plain in ((problem.F, exact, raw), (problem.phi.region, exact[::7], raw[::7])):
        said = float(problem.rounding) * np.maximum(1, np.abs(known))
        assert np.all(np.abs(np.asarray(found, float) - known) <= said)
        assert np.any(np.abs(np.asarray(plain @ problem.B, float) - known) > 10 * said)  # plain sums are far from it


def test_what_depends_on_coordinates_in_other_ways_is_left_alone(float64):
    F = jnp.asarray(np.random.default_rng(0).normal(size=(9, 4)))
    for phi in (criterion("D", draws=2), jax.tree_util.Partial(lambda M: jnp.trace(jnp.linalg.inv(M)))):
        np.testing.assert_array_equal(orthonormal(F, phi, None).F, F)
    flat = F.at[:, 3].set(F[:, 2])  # does not span: nothing to be orthonormal in
    np.testing.assert_array_equal(orthonormal(flat, criterion("A"), None).F, flat)
    assert int(optimal_weights(flat, "A").status) == Status.rank_deficient


def test_a_single_precision_gap_is_a_bound_in_truth(float64):
    raw32, _, _ = _columns(2, "float32")
    exact = raw32.astype(jnp.float64)  # the very same pool, without rounding from here on
    for kind in ("A", "D"):
        design = optimal_weights(raw32, kind)
        w = design.weights.astype(jnp.float64)
        best = optimal_weights(exact, kind)
        efficiency = best.value / criterion(kind)(information_matrix(exact, w / jnp.sum(w)))
        assert 1 - float(efficiency) <= float(design.gap) < 0.01
        assert int(design.status) == Status.converged  # rows turned by plain products leave 1e-3 unknown
        closer = optimal_weights(raw32, kind, tol=1e-7)
        assert int(closer.status) == Status.max_steps  # single precision cannot know better, and says so


@pytest.mark.parametrize("kind", ["A", "I", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("D", "phi"))])
def test_derivatives_pass_through_the_change_of_basis(float64, kind):
    raw, _, _ = _columns(2)
    phi = {"I": criterion("I", region=raw), "phi": criterion("phi", q=2.0)}.get(kind, kind)
    turn = jnp.asarray(np.random.default_rng(1).normal(size=raw.shape)) * 1e-3
    value = lambda h: optimal_weights(raw + h * turn, phi).value
    slope = jax.grad(value)(0.0)
    h = 1e-5
    np.testing.assert_allclose(slope, (value(h) - value(-h)) / (2 * h), rtol=1e-4)


@pytest.mark.parametrize("degree, seed", [(3, 1), (5, 0), (5, 1)])
def test_a_prior_in_raw_powers_is_certified_no_closer_than_it_is_known(degree, seed, float64):
    """B' prior B cancels: the value of the answer, in 60 digits, is within the gap."""
    powers = lambda x: np.vander(x, degree + 1, increasing=True)
    F, S = powers(np.linspace(3, 4, 60)), powers(3 + np.random.default_rng(seed).random(4))
    prior = S.T @ S * 10
    for kind in ("A", "E"):
        design = optimal_weights(jnp.asarray(F), kind, prior=jnp.asarray(prior))
        with mpmath.workdps(60):
            weighted = mpmath.matrix((F.T * np.asarray(design.weights)).tolist())
            M = weighted * mpmath.matrix(F.tolist()) + mpmath.matrix(prior.tolist())
            D = M**-1
            values = mpmath.eigsy((D + D.T) / 2, eigvals_only=True)
            exact = float(sum(values) if kind == "A" else max(values))
        assert abs(float(design.value) / exact - 1) <= float(design.gap)


def test_fixed_rows_in_raw_powers_cost_no_digits(float64):
    """The rows are turned into the basis, not their products."""
    draw = np.random.default_rng(2)
    x, seen = np.linspace(3, 4, 60), 3 + draw.random(4)
    powers = lambda x: np.vander(x, 4, increasing=True)
    design = exact_design(jnp.asarray(powers(x)), 5, "A", fixed=jnp.asarray(powers(seen)))
    rows = np.concatenate([powers(x)[np.asarray(design.rows)], powers(seen)])
    root = np.linalg.svd(rows, compute_uv=False)
    assert float(design.value) == pytest.approx(np.sum(root**-2.0), rel=1e-10)


def _true_value(rows, kind, c=None):
    """tr (R'R)^-1, or c' (R'R)^-1 c, of the rows as they are, in 60 digits."""
    with mpmath.workdps(60):
        R = mpmath.matrix(np.asarray(rows, float).tolist())
        D = (R.T * R) ** -1
        if kind == "A":
            return float(sum(D[i, i] for i in range(R.cols)))
        c = mpmath.matrix(np.asarray(c, float).tolist())
        return float((c.T * D * c)[0])


@pytest.mark.parametrize("degree, seed", [(3, 0), (3, 1), (5, 0), (5, 1)])
def test_one_combination_in_raw_powers_is_certified_in_truth(degree, seed, float64):
    """c is turned as a row: its outer product has lost what cancels."""
    F = np.vander(np.linspace(3, 4, 41), degree + 1, increasing=True)
    x = 3 + np.random.default_rng(seed).random()
    c = np.array([k * x ** max(k - 1, 0) for k in range(degree + 1)])  # the slope of the polynomial at x
    design = optimal_weights(jnp.asarray(F), criterion("c", vector=jnp.asarray(c)))
    assert int(design.status) == Status.converged
    w = np.asarray(design.weights)
    assert abs(float(design.value) / _true_value(np.sqrt(w)[:, None] * F, "c", c) - 1) < 1e-9


@pytest.mark.parametrize("candidates", [1, 9])
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_no_design_beside_fixed_rows_beats_its_bound(candidates, seed, float64):
    """Value and bound in raw powers of degree 5, also where only pool and fixed rows together span."""
    draw = np.random.default_rng(seed)
    powers = lambda x: np.vander(x, 6, increasing=True)
    fixed, F = powers(3 + draw.random(8)), powers(np.linspace(3, 4, 9)[:candidates] + 0.01)
    design = exact_design(jnp.asarray(F), 5, "A", fixed=jnp.asarray(fixed))
    true = _true_value(np.concatenate([F[np.asarray(design.rows)], fixed]), "A")
    assert abs(float(design.value) / true - 1) < 1e-9
    known = (
        optimal_weights(jnp.asarray(F), "A", prior=jnp.asarray(fixed.T @ fixed / 5)).weights
        if candidates > 1
        else [1.0]
    )
    fractional = _true_value(np.concatenate([np.sqrt(5 * np.asarray(known))[:, None] * F, fixed]), "A")
    assert float(design.value * design.efficiency) <= fractional * (1 + 1e-9)
