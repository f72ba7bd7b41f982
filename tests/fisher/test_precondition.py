"""The optax transformation: equal to Adam bit for bit, its degree in the loss, dtypes, and injected exponents."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learnlag_jax.fisher import FisherOptions, fisher_descent, scale_by_fisher
from learnlag_jax.testing import assert_close


def gradients(dtype, steps=20):
    rows = jax.random.normal(jax.random.key(0), (steps, 5, 3), dtype)
    return [{"w": row[:4], "b": 1e-3 * row[4]} for row in rows]


def walk(optimiser, grads):
    state = optimiser.init(grads[0])
    with jax.numpy_dtype_promotion("standard"):
        update = jax.jit(optimiser.update)
        out = []
        for g in grads:
            u, state = update(g, state, g)
            out.append(u)
    return out


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("options", [{}, {"b1": 0.5, "b2": 0.9, "eps": 1e-3}])
def test_diagonal_is_adam_bit_for_bit(dtype, options):
    grads = gradients(dtype)
    ours = walk(scale_by_fisher("diagonal", **options), grads)
    assert bits(ours) == bits(walk(optax.scale_by_adam(**options), grads))
    assert bits(ours) != bits(walk(optax.scale_by_adam(**options | {"b2": 0.99}), grads))


def test_diagonal_without_momentum_is_rmsprop(dtype):
    grads = gradients(dtype)
    ours = walk(scale_by_fisher("diagonal", b1=0.0, b2=0.9, options=FisherOptions(bias_correction=False)), grads)
    rms = walk(optax.scale_by_rms(decay=0.9, eps=1e-8, eps_in_sqrt=False), grads)
    assert_close(ours, rms, ulps=4)  # a division against a product with a reciprocal
    corrected = walk(scale_by_fisher("diagonal", b1=0.0, b2=0.9), grads)
    assert_close(corrected, walk(optax.scale_by_rms(decay=0.9, eps_in_sqrt=False, bias_correction=True), grads), ulps=4)


@pytest.mark.parametrize("exponent", [-1.0, -0.75, -0.5, -0.25, 0.0])
def test_scaling_the_loss_scales_the_update_by_c_to_the_one_plus_two_alpha(float64, exponent):
    grads = gradients(float64)
    c = 8.0
    plain = walk(scale_by_fisher("diagonal", exponent=exponent, eps=0.0), grads)[-1]
    scaled = walk(
        scale_by_fisher("diagonal", exponent=exponent, eps=0.0), [jax.tree.map(lambda x: c * x, g) for g in grads]
    )[-1]
    assert_close(scaled, jax.tree.map(lambda x: c ** (1 + 2 * exponent) * x, plain), ulps=256)


def test_an_injected_exponent_gives_the_same_steps_and_can_be_scheduled(dtype):
    grads = gradients(dtype)
    for a in (-0.5, -0.3):
        with jax.numpy_dtype_promotion("standard"):
            injected = optax.inject_hyperparams(scale_by_fisher)(exponent=a)
        assert_close(walk(injected, grads), walk(scale_by_fisher(exponent=a), grads), ulps=256)
    with jax.numpy_dtype_promotion("standard"):
        schedule = optax.linear_schedule(0.0, -0.5, 10)
        moving = optax.inject_hyperparams(scale_by_fisher)(exponent=schedule)
    assert_close(walk(moving, grads)[0], walk(scale_by_fisher(exponent=0.0), grads)[0], ulps=16)
    assert_close(walk(moving, grads)[15], walk(scale_by_fisher(), grads)[15], ulps=16)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "float64", "complex64"])
def test_updates_keep_the_dtype_and_the_state_is_float32_at_least(kind):
    g = jnp.asarray([1.0, -2.0], jnp.dtype(kind))
    optimiser = scale_by_fisher(eps=0.0)
    u, state = optimiser.update(g, optimiser.init(g))
    assert u.dtype == g.dtype
    assert state.nu.dtype == (jnp.float64 if kind == "float64" else jnp.float32)
    assert_close(jnp.abs(u), jnp.abs(jnp.ones_like(u)), ulps=4)


def test_none_is_momentum_alone(dtype):
    grads = gradients(dtype)
    assert bits(walk(scale_by_fisher("none", b1=0.0), grads)) == bits(grads)


def test_fisher_descent_is_adamw(dtype):
    grads = gradients(dtype)
    ours = walk(fisher_descent(1e-2, "diagonal", b2=0.999, options=FisherOptions()), grads)
    assert bits(ours) == bits(walk(optax.adamw(1e-2), grads))


@pytest.mark.parametrize("rows", [64, 320])  # below and above what is measured in full
def test_equipartition_holds_to_the_digit_where_every_gradient_is_one_deviation(rows):
    g = jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, (rows, 256)), 1.0, -1.0).astype(jnp.float32)
    optimiser = scale_by_fisher("diagonal", options=FisherOptions(refresh=1))
    _, state = optimiser.update(g, optimiser.init(g))
    assert float(state.diagnostics.kinetic) == pytest.approx(0.5, rel=1e-5)
