"""Eq. 23, 24: Fisher information as outer product of scores and as minus the expected Hessian."""

import jax
import jax.numpy as jnp

from learnlag_jax import trees
from learnlag_jax.fisher import fisher_information
from learnlag_jax.testing import assert_close
from tests.fisher.models import network_problem


def expected_hessian(log_prob, outcomes, params, batch):
    """E over x and y ~ model of the Hessian, at fixed probabilities."""
    flat, fold = trees.ravel(params)

    def one(example):
        examples, p = outcomes(params, example)
        hessians = jax.vmap(lambda e: jax.hessian(lambda t: log_prob(fold(t), e))(flat))(examples)
        return jnp.tensordot(p, hessians, axes=1)

    return jnp.mean(jax.vmap(one)(batch), 0)


def test_both_definitions_agree_under_the_model(dtype):
    log_prob, params, batch, outcomes = network_problem(dtype)
    F = fisher_information(log_prob, params, batch, estimator="exact", outcomes=outcomes).dense()
    assert_close(F, -expected_hessian(log_prob, outcomes, params, batch), ulps=256, scale=1.0)


def test_they_disagree_under_other_labels(dtype):
    log_prob, params, batch, outcomes = network_problem(dtype)
    F = fisher_information(log_prob, params, batch).dense()  # the labels seen are not the model's
    assert float(jnp.max(jnp.abs(F + expected_hessian(log_prob, outcomes, params, batch)))) > 1e-2
