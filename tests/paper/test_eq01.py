"""Equation 1: position is the sum of velocities, acceleration their difference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnlag_jax import InputError
from learnlag_jax.information import acceleration, bits, position, surprisal, velocity
from learnlag_jax.testing import assert_close


def _markov(key, dtype, states=5, length=40):
    """A Markov chain: its joint probability is known without any chain rule of ours."""
    a, b = jax.random.split(key)
    P = jax.nn.softmax(2 * jax.random.normal(a, (states + 1, states), dtype))  # the last row starts the chain
    x = jax.random.randint(b, (length,), 0, states)
    before = jnp.concatenate([jnp.array([states], x.dtype), x[:-1]])
    return jnp.log(P), x, before


def test_position_is_minus_the_log_of_the_joint_probability(dtype):
    log_P, x, before = _markov(jax.random.key(0), dtype)
    joint = float(np.prod(np.exp(np.asarray(log_P, np.float64))[np.asarray(before), np.asarray(x)]))
    v = surprisal(log_P[before], x)
    assert_close(position(v)[-1], jnp.asarray(-np.log(joint), dtype), ulps=256)
    shifted = surprisal(log_P[jnp.roll(before, 1)], x)  # the control: each token judged from the wrong past
    assert abs(float(position(shifted)[-1]) + np.log(joint)) > 1.0


@given(st.integers(0, 1000))
def test_velocity_undoes_position_and_acceleration_telescopes(seed):
    v = jax.random.uniform(jax.random.key(seed), (30,), jnp.float32, 0.0, 8.0)
    assert_close(velocity(position(v)), v, scale=240.0)
    assert_close(acceleration(v).sum(), v[-1] - v[0], scale=8.0 * 30)
    assert_close(acceleration(v), velocity(v)[1:], scale=8.0)


def test_acceleration_is_the_next_minus_this(dtype):
    v = jnp.array([3.0, 2.5, 2.25], dtype)
    assert acceleration(v).tolist() == [-0.5, -0.25]
    assert_close(bits(jnp.log(jnp.asarray(8, dtype))), jnp.asarray(3, dtype))


def test_masked_tokens_count_as_zero_in_position():
    assert position(jnp.array([1.0, jnp.nan, 2.0])).tolist() == [1.0, 1.0, 3.0]


def test_short_and_integer_sequences_are_refused():
    with pytest.raises(InputError, match="at least one token"):
        position(jnp.zeros(0))
    with pytest.raises(InputError, match="at least two tokens"):
        acceleration(jnp.zeros(1))
    with pytest.raises(TypeError, match="real floating-point"):
        position(jnp.arange(3))


def test_time_is_the_last_axis_of_any_batch(dtype):
    v = jax.random.uniform(jax.random.key(9), (2, 3, 5), dtype)
    assert_close(position(v), jnp.asarray(np.cumsum(np.asarray(v), axis=-1)), scale=5.0)
    assert_close(velocity(v), jnp.asarray(np.diff(np.asarray(v), axis=-1, prepend=0)), scale=1.0)
    assert_close(acceleration(v), jnp.asarray(np.diff(np.asarray(v), axis=-1)), scale=1.0)
