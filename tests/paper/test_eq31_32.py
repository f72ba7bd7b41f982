"""Eq. 31, 32: RMSprop and Adam are the learning Lagrangian's particle with the diagonal batch Fisher."""

import jax
import jax.numpy as jnp
import optax

from learnlag_jax.fisher import FisherOptions, audit, descent_lagrangian, fisher_descent, record
from learnlag_jax.testing import assert_close


def quadratic(q, noise):
    return 0.5 * jnp.sum(jnp.array([1.0, 25.0]) * (q - noise) ** 2)


def run_of(optimiser, steps=60):
    noise = 0.1 * jax.random.normal(jax.random.key(1), (steps, 2))
    with jax.numpy_dtype_promotion("standard"):
        return record(quadratic, optimiser, jnp.array([1.0, -1.0]), noise)


def test_eq_31_rmsprop_is_the_diagonal_member_without_momentum(float64):
    ours = run_of(
        fisher_descent(1e-2, "diagonal", b1=0.0, b2=0.9, weight_decay=0.0, options=FisherOptions(bias_correction=False))
    )
    theirs = run_of(optax.rmsprop(1e-2, decay=0.9, eps=1e-8, eps_in_sqrt=False))
    assert_close(ours.positions, theirs.positions, ulps=256, scale=1.0)


def test_eq_32_adam_is_the_diagonal_member_with_momentum(float64):
    diagonal = lambda b2, **options: fisher_descent(
        1e-2, "diagonal", b2=b2, weight_decay=0.0, options=FisherOptions(**options)
    )
    ours, theirs = run_of(diagonal(0.999)), run_of(optax.adam(1e-2))
    assert_close(ours.positions, theirs.positions, ulps=64, scale=1.0)
    ahead = run_of(diagonal(0.999, nesterov=True))
    assert_close(ahead.positions, run_of(optax.nadam(1e-2)).positions, ulps=64, scale=1.0)
    other = run_of(diagonal(0.99))
    assert float(jnp.max(jnp.abs(other.positions - theirs.positions))) > 1e-3


def test_a_recorded_frozen_metric_run_is_a_discrete_stationary_path_and_sgd_is_not(float64):
    """The hall's discrete Euler-Lagrange equation of `descent_lagrangian`, on recorded positions."""
    beta, eta = 0.9, 1e-2
    mass = jnp.array([2.0, 40.0])
    frozen = optax.chain(
        optax.stateless(lambda g, p: g / mass), optax.ema(beta, debias=False), optax.scale_by_learning_rate(eta)
    )
    start, steps = jnp.array([1.0, -1.0]), 20
    with jax.numpy_dtype_promotion("standard"):
        runs = {
            name: record(lambda q, e: quadratic(q, e * q), optimiser, start, jnp.zeros((steps, 1)))
            for name, optimiser in {"frozen": frozen, "sgd": optax.sgd(1e-2)}.items()
        }
    Ld = descent_lagrangian(lambda q: quadratic(q, jnp.zeros(2)), mass, beta, eta)

    def residual(q):
        terms = [
            jax.grad(Ld, 2)(k, q[k], q[k + 1]) + jax.grad(Ld, 1)(k + 1, q[k + 1], q[k + 2]) for k in range(steps - 1)
        ]
        sizes = [jnp.max(jnp.abs(jax.grad(Ld, 2)(k, q[k], q[k + 1]))) for k in range(steps - 1)]
        return max(float(jnp.max(jnp.abs(t)) / s) for t, s in zip(terms, sizes, strict=True))

    assert residual(runs["frozen"].positions) < 1e-12
    assert residual(runs["sgd"].positions) > 0.1


def test_a_live_metric_leaves_exactly_the_drift_term(float64):
    found = audit(run_of(optax.adam(1e-2)), learning_rate=1e-2)
    assert float(jnp.max(found.unexplained)) < 1e-10 < float(jnp.max(found.drift))
    assert float(audit(run_of(optax.sgd(1e-3))).relative) > 0.1
