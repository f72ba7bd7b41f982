"""The certificate needs total weight 1: heavier matrices are refused, by proof, and everything else keeps its gap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError
from learnlag_jax.fermat import criterion, equivalence_gap, information_matrix, optimal_weights


def _quadratic(dtype=float):
    x = jnp.linspace(-1.0, 1.0, 21, dtype=dtype)
    return jnp.stack([x**0, x, x**2], 1)


def _criteria(F):
    return ["A", "D", "E", criterion("I", region=F), criterion("phi", q=2.0), lambda M: -jnp.linalg.slogdet(M)[1]]


@pytest.mark.parametrize("weight", [21.0, 1.05])
def test_no_matrix_above_total_weight_one_is_certified(weight, dtype):
    """At weight c the optimum has f' G f = tr(G M) / c at most: counted rows, or one weight too many, prove themselves."""
    F = _quadratic(dtype)
    best = jnp.zeros(21, dtype).at[jnp.array([0, 10, 20])].set(jnp.asarray([0.25, 0.5, 0.25], dtype))
    heavy = information_matrix(F) if weight == 21 else information_matrix(F, weight * best)
    for phi in _criteria(F) if weight == 21 else ["A"]:
        with pytest.raises(InputError, match="M: .*total weight 1.*divide"):
            equivalence_gap(heavy, F, phi)
        assert float(jax.jit(lambda M, phi=phi: equivalence_gap(M, F, phi))(heavy)) == 1
        assert 0 <= float(equivalence_gap(heavy / (21 if weight == 21 else weight), F, phi)) <= 1
    assert float(equivalence_gap(information_matrix(F, best), F)) < 100 * float(jnp.finfo(dtype).eps)


def test_an_over_weight_too_small_to_prove_is_not_forgotten(dtype):
    F, excess = _quadratic(dtype), 30 * float(jnp.finfo(dtype).eps)
    best = jnp.zeros(21, dtype).at[jnp.array([0, 10, 20])].set(jnp.asarray([0.25, 0.5, 0.25], dtype))
    assert float(equivalence_gap((1 + excess) * information_matrix(F, best), F)) >= excess / 2


def test_what_is_known_beforehand_has_no_weight(float64):
    F, prior = _quadratic(), 100.0 * jnp.eye(3)
    design = optimal_weights(F, prior=prior)
    M = information_matrix(F, design.weights, prior)
    assert float(equivalence_gap(M, F, prior=prior)) < 1e-8
    with pytest.raises(InputError, match="M: "):
        equivalence_gap(information_matrix(F, 3 * design.weights, prior), F, prior=prior)
    with pytest.raises(InputError, match="M: "):  # the prior not said is weight
        equivalence_gap(M, F)


@pytest.mark.parametrize(
    "prior", [np.ones(3), 1.0, np.eye(2), np.eye(3) * np.nan, -np.eye(3), np.triu(np.ones((3, 3)))]
)
def test_a_prior_that_is_none_is_named(prior):
    F = _quadratic()
    with pytest.raises(InputError, match="prior"):
        equivalence_gap(information_matrix(F) / 21, F, prior=prior)


def test_random_designs_of_weight_one_are_never_refused(dtype):
    rng = np.random.default_rng(0)
    for scale in (np.ones(3), np.array([1e-2, 1.0, 1e2])):
        F = jnp.asarray(rng.normal(size=(400, 3)) * scale, dtype)
        for w in rng.dirichlet(np.full(400, 0.02), 3):
            assert 0 < float(equivalence_gap(information_matrix(F, jnp.asarray(w, dtype)), F)) <= 1


@pytest.mark.parametrize("kind, low, best", [("E", -1, [0.2, 0.6, 0.2]), ("D", 6, [1 / 3, 1 / 3, 1 / 3])])
def test_a_design_rounded_in_single_precision_is_no_count(kind, low, best, float64):
    """M, or its weights, known to 1e-7 only: at the optimum they stand above the weight they can prove by as much."""
    x = jnp.linspace(low, low + 2.0, 21)
    F = jnp.stack([x**0, x, x**2], 1)
    w = jnp.zeros(21).at[jnp.array([0, 10, 20])].set(jnp.asarray(best))
    single = lambda x: x.astype(jnp.float32)
    rounded = information_matrix(single(F), single(w)), single(information_matrix(F, w))
    for M in (*rounded, information_matrix(F, single(w).astype(float))):
        assert 0 <= float(equivalence_gap(M, F, kind)) < 1e-2
    with pytest.raises(InputError, match="M: "):
        equivalence_gap(21 * rounded[0], F, kind)


def test_an_excess_of_a_thousandth_goes_to_the_gap(float64):
    F = _quadratic()
    M = information_matrix(F, optimal_weights(F).weights)
    assert float(equivalence_gap(1.0009 * M, F)) == pytest.approx(9e-4, rel=1e-6)
    with pytest.raises(InputError, match="M: "):
        equivalence_gap(1.002 * M, F)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("kind", ["A", "D"])
def test_the_certificate_does_not_depend_on_units(kind, scale):
    """In single precision: M^-2 of rows of 1e12 is 1e-48, no number."""
    F = jnp.asarray(np.random.default_rng(3).normal(size=(9, 2)), jnp.float32)
    M = lambda F: information_matrix(F, jnp.full(9, 1 / 9, jnp.float32))
    gap = float(equivalence_gap(M(F), F, kind))
    assert 0.1 < gap < 0.99
    assert float(equivalence_gap(M(F * scale), F * scale, kind)) == pytest.approx(gap, rel=1e-4)
    prior = 0.1 * jnp.eye(2, dtype=jnp.float32)
    known, scaled = prior + M(F), scale**2 * prior + M(F * scale)
    gap = float(equivalence_gap(known, F, kind, prior=prior))
    assert float(equivalence_gap(scaled, F * scale, kind, prior=scale**2 * prior)) == pytest.approx(gap, rel=1e-4)


@pytest.mark.parametrize("scale", [2.0, None])
def test_a_criterion_of_the_users_may_be_negative_or_zero_at_its_best(scale, dtype):
    """-log det of 1, x, x^2 is -log(4/27) at its optimum, a third each on -1, 0, 1; rows times c add -6 log c."""
    log_volume = lambda M: -jnp.linalg.slogdet(M)[1]
    scale = (27 / 4) ** (1 / 6) if scale is None else scale  # where the least value is 0
    F = (_quadratic() * scale).astype(dtype)
    eps = float(jnp.finfo(dtype).eps)
    design = optimal_weights(F, log_volume)
    assert int(design.status) == 0
    np.testing.assert_allclose(design.weights[jnp.array([0, 10, 20])], 1 / 3, atol=1e3 * eps**0.5)
    assert float(design.value) == pytest.approx(np.log(27 / 4) - 6 * np.log(scale), abs=100 * eps)
    uniform = information_matrix(F) / 21
    best, here = np.log(27 / 4) - 6 * np.log(scale), float(log_volume(uniform))
    size = max(abs(here), 3 * np.log(2))
    assert here - float(equivalence_gap(uniform, F, log_volume)) * size <= best + 100 * eps  # what the gap means there
