"""The public asserts: each passes on a true answer and fails on one broken on purpose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, control, testing


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


def test_a_light_body_off_its_path_is_seen_beside_a_heavy_one(dtype):
    """Fifteen powers of ten between the forces: t^3 solves nothing."""

    def L(t, q, v):
        return 1e6 * (v[0] ** 2 - q[0] ** 2) / 2 + 1e-9 * (v[1] ** 2 - q[1] ** 2) / 2

    times = jnp.linspace(0, 3, 7, dtype=dtype)
    testing.assert_stationary(L, lambda t: jnp.stack([jnp.cos(t), jnp.sin(t)]), times)
    with pytest.raises(AssertionError, match=r"not stationary: .* in entry 1 at times\["):
        testing.assert_stationary(L, lambda t: jnp.stack([jnp.cos(t), t**3]), times)


def test_what_stands_still_is_stationary(dtype):
    """By symmetry (three springs pull along an axis), at the top of a pendulum, and in a circle, r as well as the rate of it."""
    angle, times = jnp.arange(3, dtype=dtype) * 2 * jnp.pi / 3, jnp.linspace(0, 3, 7, dtype=dtype)
    e, still, w = (
        jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1),
        jnp.asarray(np.pi, dtype),
        jnp.asarray(np.sqrt(1.5), dtype),
    )
    springs = lambda t, q, v: v @ v / 2 - jnp.sum((e @ q) ** 2) / 2
    testing.assert_stationary(springs, lambda t: jnp.stack([jnp.cos(w * t), 0 * t]), times)
    testing.assert_stationary(lambda t, q, v: v**2 / 2 + jnp.cos(q), lambda t: still + 0 * t, times)
    kepler = lambda t, q, v: (v[0] ** 2 + (q[0] * v[1]) ** 2) / 2 + 1 / q[0]
    testing.assert_stationary(kepler, lambda t: jnp.stack([t * 0 + 1, t]), times)
    with pytest.raises(AssertionError, match="in entry 1"):
        testing.assert_stationary(springs, lambda t: jnp.stack([jnp.cos(w * t), 1e-2 * t**3]), times)


def test_there_is_a_time_to_look_at():
    with pytest.raises(InputError, match=r"times: got float32\[0\]; expected one time or more"):
        testing.assert_stationary(_oscillator, jnp.cos, jnp.zeros(0, jnp.float32))


def test_integers_are_compared_as_integers_and_a_scale_is_a_size():
    a = np.array([2**53, 3])
    testing.assert_close(a, a.copy())
    testing.assert_close(jnp.array([True, False]), jnp.array([True, False]))
    with pytest.raises(AssertionError, match="error 1"):
        testing.assert_close(a, a + [1, 0])
    for scale in (np.inf, np.nan, -1.0):
        with pytest.raises(InputError, match="scale"):
            testing.assert_close(1.0, 2.0, scale=scale)


def test_zero_has_no_rounding_however_steep_the_force_is(float64):
    times = jnp.linspace(0.0, 1.0, 5)
    testing.assert_stationary(lambda t, q, v: v**2 / 2 + jnp.sqrt(t) * q, lambda t: 4 / 15 * t**2.5, times)
    testing.assert_stationary(lambda t, q, v: v**2 / 2 - jnp.abs(q) ** 1.5, lambda t: 0 * t, times)


def test_a_late_hour_excuses_its_own_rounding_alone(float64):
    driven, times = (lambda t, q, v: v**2 / 2 + jnp.sin(t) * q), 1e6 + jnp.linspace(0.0, 1.0, 5)
    testing.assert_stationary(driven, lambda t: -jnp.sin(t), times)
    with pytest.raises(AssertionError, match="not stationary"):
        testing.assert_stationary(driven, lambda t: -jnp.sin(t) + 5e-9 * t**2, times)
