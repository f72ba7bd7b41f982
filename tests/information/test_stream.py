"""Streams and runs: reading in pieces equals reading at once; parabolas are smoothed exactly."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import DTypeError, InputError, Status
from learnlag_jax.information import (
    LossMotion,
    bits_per_byte,
    learning_time,
    loss_motion,
    position,
    read_stream,
    start_stream,
    surprisal,
)
from learnlag_jax.testing import assert_close


def _chain(dtype, states=5):
    return jnp.log(jax.nn.softmax(2 * jax.random.normal(jax.random.key(0), (states + 1, states), dtype)))


def test_reading_in_pieces_equals_reading_at_once_and_the_whole_table(dtype):
    log_P = _chain(dtype)
    x = jax.random.randint(jax.random.key(1), (40,), 0, 5)
    step = lambda state, token: (state + 1, log_P[token])
    start = start_stream(jnp.int32(0), log_P[5])
    end, v = read_stream(step, start, x)
    half, first = read_stream(step, start, x[:17])
    rest, second = read_stream(step, half, x[17:])
    assert jnp.array_equal(jnp.concatenate([first, second]), v)
    assert float(rest.position) == float(end.position)
    assert int(end.tokens) == int(end.state) == 40
    whole = surprisal(log_P[jnp.concatenate([jnp.array([5], x.dtype), x[:-1]])], x)
    assert_close(v, whole)
    assert_close(end.position + end.lost, position(whole)[-1], ulps=128)
    _, forgetful = read_stream(step, start, x[17:])  # the control: starting anew forgets the token before
    assert not jnp.array_equal(forgetful, second)


def test_the_compensated_position_keeps_digits_that_a_plain_sum_loses():
    """2^15 equal velocities in float32 against exact arithmetic: at most two roundings, where a plain sum loses many."""
    n = 1 << 15
    logits = jnp.zeros(10, jnp.float32)
    end, v = jax.jit(lambda x: read_stream(lambda s, _: (s, logits), start_stream((), logits), x))(
        jnp.zeros(n, jnp.int32)
    )
    exact = n * float(v[0])
    unit = exact * np.finfo(np.float32).eps
    assert abs(float(end.position) + float(end.lost) - exact) < unit
    assert abs(float(end.position) - exact) > 4 * unit


def test_memory_does_not_grow_with_the_text():
    logits = jnp.zeros(512, jnp.float32)
    read = jax.jit(lambda x: read_stream(lambda s, _: (s, logits), start_stream((), logits), x))
    held = [
        read.lower(jnp.zeros(n, jnp.int32)).compile().memory_analysis().temp_size_in_bytes for n in (1 << 8, 1 << 14)
    ]
    # at most a few words a token (the velocities), never a row of logits each
    assert held[1] - held[0] <= 16 * ((1 << 14) - (1 << 8))


def test_a_parabola_is_smoothed_exactly_to_its_ends(dtype):
    n = jnp.arange(60, dtype=dtype)
    motion = loss_motion(3 - 0.02 * n + 1e-4 * n * n, bandwidth=6.0)
    assert_close(motion.loss, 3 - 0.02 * n + 1e-4 * n * n, ulps=512, scale=3.0)
    assert_close(motion.speed, 0.02 - 2e-4 * n, ulps=512, scale=3.0)
    assert_close(motion.acceleration, jnp.full(60, 2e-4, dtype), ulps=512, scale=3.0)
    wiggle = loss_motion(jnp.cos(n), bandwidth=6.0)  # the control: faster than the bandwidth is not reproduced
    assert float(jnp.max(jnp.abs(wiggle.loss - jnp.cos(n))[20:40])) > 0.5


def test_smoothing_lowers_noise_by_the_bandwidth(float64):
    noise = jax.random.normal(jax.random.key(3), (2000,))
    rms = {h: float(jnp.std(loss_motion(noise, bandwidth=h).loss[200:-200])) for h in (5.0, 20.0)}
    # local quadratic with a Gaussian kernel: variance 27 / (32 sqrt(pi) h); 1600 points hold about 1600 / (2 h sqrt pi) draws
    for h, found in rms.items():
        expected = np.sqrt(27 / (32 * np.sqrt(np.pi) * h))
        assert abs(found / expected - 1) < 4 / np.sqrt(2 * 1600 / (2 * h * np.sqrt(np.pi)))


def test_learning_time_is_the_integral_of_d_eps_over_eta(float64):
    """An exponential fall, eps = exp(-n / 50), needs 50 log 2 steps to a half; halving the step quarters the error."""
    errors = []
    for refine in (1, 2, 4):
        n = jnp.arange(300 * refine, dtype=float64) / refine
        exact = LossMotion(n, jnp.exp(-n / 50), jnp.exp(-n / 50) / 50 / refine, jnp.exp(-n / 50))
        found = learning_time(exact, 0.5)
        assert int(found.status) == Status.converged
        errors.append(abs(float(found.value) / refine - 50 * np.log(2)))
    assert all(3.5 < a / b < 4.5 for a, b in pairwise(errors))
    constant = learning_time(exact._replace(speed=jnp.full(1200, exact.speed[0])), 0.5)
    assert (
        int(constant.status) == Status.inconsistent
    )  # the control: without deceleration it would take 25 steps, not 35


def test_learning_time_agrees_with_the_first_crossing_of_a_noisy_run(dtype):
    n = jnp.arange(400, dtype=dtype)
    noise = 0.02 * jax.random.normal(jax.random.key(4), (400,), dtype)
    motion = loss_motion(1 + 2 * jnp.exp(-n / 60) + noise, bandwidth=15.0)
    found = learning_time(motion, 1.6)
    crossing = int(jnp.argmax(motion.loss <= 1.6))
    assert abs(float(found.value) - crossing) < 15  # one bandwidth
    assert abs(float(found.value) - 60 * np.log(2 / 0.6)) < 15


def test_a_threshold_not_reached_and_a_loss_that_rises_say_so(dtype):
    n = jnp.arange(100, dtype=dtype)
    falling, bump = (loss_motion(x, bandwidth=4.0) for x in (jnp.exp(-n / 30), jnp.exp(-n / 30) + 0.3 * jnp.sin(n / 9)))
    never = learning_time(falling, 0.01)
    assert int(never.status) == Status.not_reached
    assert abs(float(never.value) - 99) < 4  # one bandwidth: the smoothed ends lean on one side
    assert float(learning_time(falling, 2.0).value) == 0
    stuck = jax.jit(jax.vmap(lambda x: learning_time(bump, x)))(jnp.asarray([1.05, 0.2], dtype))
    assert jnp.isnan(stuck.value).tolist() == [False, True]  # before and after it first rises
    assert stuck.status.tolist() == [Status.converged, Status.stagnated]


def test_bits_per_byte_counts_only_what_is_scored(dtype):
    v = jnp.asarray([[np.log(8), np.nan, np.log(2)]], dtype)
    assert_close(bits_per_byte(v, jnp.array([[3, 9, 1]])), jnp.ones(1, dtype))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: loss_motion(jnp.ones(4)), "at least 5 steps"),
        (lambda: loss_motion(jnp.ones(9), bandwidth=0.5), "bandwidth: got 0.5"),
        (lambda: loss_motion(jnp.ones(9).at[3].set(jnp.nan)), "nan at index"),
        (lambda: bits_per_byte(jnp.ones(3), jnp.ones(2)), "sizes"),
        (lambda: start_stream((), jnp.ones((2, 2))), "logits"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()


def _weighted_least_squares(losses, n, h):
    """Value, slope and curvature at n of a parabola fitted with Gaussian weights that end at 4 h, by NumPy's lstsq."""
    m = np.arange(len(losses))
    near = np.abs(m - n) <= int(4 * h)
    u, w = (m - n)[near], np.exp(-(((m - n)[near] / h) ** 2) / 4)  # the root of the weight
    return np.linalg.lstsq(np.stack([np.ones_like(u), u, u * u / 2], 1) * w[:, None], losses[near] * w, rcond=None)[0]


@pytest.mark.parametrize("h", [1.0, 4.0, 7.5])
def test_smoothing_is_weighted_least_squares(float64, h):
    losses = np.random.default_rng(0).normal(size=90) + 1000
    motion = loss_motion(jnp.asarray(losses), bandwidth=h)
    for n in (0, 1, 13, 45, 88, 89):
        l, s, a = _weighted_least_squares(losses, n, h)
        np.testing.assert_allclose(
            [motion.loss[n], -motion.speed[n], motion.acceleration[n]], [l, s, a], rtol=1e-8, atol=1e-9
        )


def test_a_large_loss_costs_the_derivatives_no_digits():
    n = np.arange(200.0)
    losses = 1000 + np.exp(-n / 30)
    exact = loss_motion(jnp.asarray(losses, jnp.float32), bandwidth=15.0)
    wide = [_weighted_least_squares(np.asarray(losses, np.float32).astype(float), k, 15.0) for k in (50, 100)]
    assert np.max(np.abs(np.asarray(exact.speed)[[50, 100]] + [w[1] for w in wide])) < 2e-6


def test_learning_time_says_when_it_was_not_reached_stopped_or_smoothed_away(float64):
    n = np.arange(400.0)
    short = learning_time(loss_motion(jnp.asarray(1 + 2 * np.exp(-n / 80))), 0.5)
    assert (int(short.status), float(short.value)) == (Status.not_reached, 399)
    bent = jnp.asarray(1 + 5 / (n + 10))  # falls by half within ten steps: bandwidth 20 decides the answer
    far, near = (learning_time(loss_motion(bent, bandwidth=h), 1.05) for h in (20.0, 2.0))
    assert int(far.status) == Status.inconsistent
    assert bool(jnp.isnan(far.value))
    assert int(near.status) == 0
    assert abs(float(near.value) - 90) < 0.05 * 90
    t = jnp.arange(5.0)
    stops = LossMotion(t, 4.0 - t, jnp.array([1.0, 1.0, 1.0, -1.0, 1.0]), t)
    assert int(learning_time(stops, 1.5).status) == Status.stagnated  # the speed at the threshold is zero
    assert int(learning_time(stops, 2.5).status) == 0
    coarse = LossMotion(t, 8 * 0.5**t, 8 * 0.5**t * np.log(2), t)
    exact, found = np.log2(8 / 3), float(learning_time(coarse, 3.0).value)
    assert abs(found - exact) < 0.1  # a trapezoid a step; the speed of the step's end alone gives 1.7
    with pytest.raises(InputError, match="threshold"):
        learning_time(coarse, float("nan"))
    with pytest.raises(InputError, match="LossMotion"):
        learning_time(bent, 1.5)


def test_a_stream_can_be_donated_and_refuses_what_does_not_fit():
    step = lambda state, token: (state + 1, jnp.zeros(4))
    read = jax.jit(read_stream, static_argnums=0, donate_argnums=1)
    stream, v = read(step, start_stream(jnp.int32(0), jnp.ones(4)), jnp.array([1, 2]))
    stream, v = read(step, stream, jnp.array([3, 9]))
    assert int(stream.tokens) == 4
    assert jnp.isnan(v).tolist() == [False, True]
    fresh = lambda: start_stream(jnp.int32(0), jnp.ones(4))
    with pytest.raises(InputError, match="tokens: got 9 at index 1"):
        read_stream(step, fresh(), jnp.array([0, 9]))
    with pytest.raises(DTypeError, match="tokens"):
        read_stream(step, fresh(), jnp.array([0.0]))
    with pytest.raises(InputError, match=r"step\(state, token\)"):
        read_stream(lambda state, token: (state, jnp.zeros(5)), fresh(), jnp.array([0]))
    impossible = start_stream(jnp.int32(0), jnp.array([0.0, -jnp.inf, 0.0, 0.0]))
    after, _ = read_stream(step, impossible, jnp.array([1, 2]))
    assert float(after.position + after.lost) == jnp.inf


def test_bytes_are_counted_for_each_text_apart():
    v = jnp.log(jnp.array([[8.0, 2.0], [4.0, 4.0]]))
    assert_close(bits_per_byte(v, jnp.array([[3, 1], [1, 1]])), jnp.array([1.0, 2.0]))
    for sizes in ([[3, -1], [1, 1]], [[0, 0], [1, 1]]):
        with pytest.raises(InputError, match="sizes: got"):
            bits_per_byte(v, jnp.array(sizes))


def test_a_traced_bandwidth_gives_what_a_known_one_does(float64):
    losses = jnp.exp(-jnp.arange(60.0) / 20) + 0.1 * jnp.cos(jnp.arange(60.0))
    many = jax.jit(jax.vmap(lambda h: loss_motion(losses, bandwidth=h)))(jnp.array([1.3, 5.0, 1e200]))
    for i, h in enumerate((1.3, 5.0, 1e200)):
        assert_close(jax.tree.map(lambda x, i=i: x[i], many)[1:], loss_motion(losses, bandwidth=h)[1:], ulps=2**12)
    parabola = jnp.polyfit(jnp.arange(60.0), losses, 2)  # a bandwidth beyond the run: the parabola of all of it
    assert_close(many.acceleration[2], jnp.full(60, 2 * parabola[0]), ulps=2**24)
