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
