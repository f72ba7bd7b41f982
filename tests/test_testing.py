"""The public asserts: each passes on a true answer and fails on one broken on purpose."""

import jax
import jax.numpy as jnp
import pytest

from learnlag_jax import control, testing


def _oscillator(t, q, v):
    return (jnp.sum(v**2) - jnp.sum(q**2)) / 2


def test_assert_stationary(dtype):
    times = jnp.linspace(0, 3, 9, dtype=dtype)
    testing.assert_stationary(_oscillator, jnp.cos, times)
    with pytest.raises(AssertionError, match=r"not stationary: .* at times\["):
        testing.assert_stationary(_oscillator, lambda t: jnp.cos(1.01 * t), times)
    with pytest.raises(AssertionError, match="nan"):
        testing.assert_stationary(_oscillator, lambda t: jnp.sqrt(t - 1), times)


def _path(dtype):
    problem = control.Problem(
        lambda s, a, k, theta: -(s**2) - a**2 * (1 + k.astype(s.dtype)), lambda s, a, k, theta: jnp.sin(s) + a
    )
    actions = jnp.array([-0.5, 0.25, 0.1], dtype)
    return problem, control.rollout(problem, jnp.asarray(1, dtype), actions), actions


def test_assert_costates(dtype):
    problem, states, actions = _path(dtype)
    costates = control.costates(problem, states, actions)
    testing.assert_costates(problem, states, actions, costates)
    with pytest.raises(AssertionError, match=r"costates\[1\] is not the gradient"):
        testing.assert_costates(problem, states, actions, costates.at[1].multiply(1.01))


def test_assert_bellman(dtype):
    P = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]], dtype)
    mdp = control.mdp_dense(P, jnp.array([[0.0, 0.0], [1.0, 0.0]], dtype), 0.5)
    testing.assert_bellman(mdp, jnp.array([1.0, 2.0], dtype), tol=1e-4)
    with pytest.raises(AssertionError, match="may be wrong by"):
        testing.assert_bellman(mdp, jnp.array([1.0, 2.1], dtype), tol=1e-4)


def test_assert_maximum_likelihood(dtype):
    x = jax.random.normal(jax.random.key(0), (200,), dtype)

    def log_prob(q, x):
        return -0.5 * jnp.exp(-2 * q["log_scale"]) * (x - q["mean"]) ** 2 - q["log_scale"]

    fitted = {"mean": x.mean(), "log_scale": jnp.log(x.std())}
    testing.assert_maximum_likelihood(log_prob, fitted, x)
    with pytest.raises(AssertionError, match="standard errors from the maximum"):
        testing.assert_maximum_likelihood(log_prob, fitted | {"mean": x.mean() + 0.01}, x)
    saddle = lambda q, x: (x - q) ** 2
    with pytest.raises(AssertionError, match="curves upward"):
        testing.assert_maximum_likelihood(saddle, x.mean(), x)


def test_infinity_is_close_to_itself_alone():
    testing.assert_close(jnp.array([1.0, jnp.inf]), jnp.array([1.0, jnp.inf]))
    for actual, expected in ((1.0, jnp.inf), (jnp.inf, 1.0), (jnp.inf, -jnp.inf), ([7.0, jnp.inf], [1.0, jnp.inf])):
        with pytest.raises(AssertionError, match="error"):
            testing.assert_close(jnp.asarray(actual), jnp.asarray(expected))
    with pytest.raises(AssertionError, match="not stationary"):
        testing.assert_stationary(_oscillator, lambda t: jnp.exp(1000 * t), jnp.array([0.0, 5.0]))


def test_assert_within_se_wants_the_shape_of_the_mean():
    x = jax.random.normal(jax.random.key(0), (100, 3))
    testing.assert_within_se(x, jnp.zeros(3))
    with pytest.raises(AssertionError, match=r"expected has shape \(5, 1\), the mean \(3,\)"):
        testing.assert_within_se(x, jnp.zeros((5, 1)))


def test_a_maximum_with_a_redundant_direction_is_one(dtype):
    """Three free logits: adding a number to all changes nothing, and rounding decides the sign of that curvature."""
    counts = jnp.array([60, 90, 150])
    x = jnp.repeat(jnp.arange(3), counts, total_repeat_length=300)
    for shift in range(6):
        logits = jnp.log(counts.astype(dtype)) + jnp.asarray(0.37 * shift, dtype)
        testing.assert_maximum_likelihood(lambda q, x: jax.nn.log_softmax(q)[x], logits, x)
