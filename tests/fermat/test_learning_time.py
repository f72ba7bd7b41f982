"""Times to a threshold: monotone curves agree, others part, censored runs are named, derivatives follow the chord."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status
from learnlag_jax.fermat import soft_learning_time, time_by_rate, time_to_threshold
from learnlag_jax.testing import assert_close


def _three(t, error, threshold):
    return [float(time_to_threshold(t, error, threshold, kind).value) for kind in ("first", "last", "occupation")]


@hypothesis.given(st.integers(0, 10_000))
def test_all_three_agree_on_monotone_curves_and_count_from_zero(seed):
    rng = np.random.default_rng(seed)
    error = jnp.asarray(np.sort(rng.exponential(size=20))[::-1].copy())
    t = jnp.asarray(np.cumsum(rng.exponential(size=20)))
    threshold = float(rng.uniform(error[-1], error[0]))
    first, last, occupation = _three(t, error, threshold)
    assert first == last
    assert occupation == pytest.approx(first, rel=1e-5)
    assert first == float(t[int(np.argmax(np.asarray(error) <= threshold))])


def test_they_part_when_the_curve_comes_back(dtype):
    t, error = jnp.arange(6, dtype=dtype), jnp.asarray([5, 1, 4, 4, 1, 0], dtype)
    assert _three(t, error, 2.0) == [1.0, 4.0, 3.0]


def test_not_reached_is_censored_not_dropped(dtype):
    t, error = jnp.arange(1, 5, dtype=dtype), jnp.asarray([5, 1, 4, jnp.nan], dtype)
    never = time_to_threshold(t, error, 0.5)
    assert (float(never.value), bool(never.reached), float(never.lower), int(never.status)) == (
        np.inf,
        False,
        4.0,
        Status.not_reached,
    )
    for kind, lower in (("last", 4.0), ("occupation", 3.0)):  # ends above; above at t = 0..2 and 3..4
        end = time_to_threshold(t, error, 2.0, kind)
        assert (bool(end.reached), float(end.value), float(end.lower)) == (False, np.inf, lower)
    assert bool(time_to_threshold(t, error, 2.0).reached)


def test_nan_counts_as_above(dtype):
    t, error = jnp.arange(4, dtype=dtype), jnp.asarray([jnp.inf, jnp.nan, 3.0, 1.0], dtype)
    assert _three(t, error, 2.0) == [3.0, 3.0, 3.0]


def test_already_there_takes_no_time(dtype):
    t, error = jnp.arange(3, dtype=dtype), jnp.asarray([1.0, 0.5, 0.2], dtype)
    assert _three(t, error, 2.0) == [0.0, 0.0, 0.0]
    assert float(time_by_rate(t, error, 2.0).value) == 0.0


@hypothesis.given(st.integers(0, 10_000))
def test_both_integrals_of_eq_5_are_one_number(seed):
    rng = np.random.default_rng(seed)
    error = jnp.asarray(np.sort(rng.exponential(size=20) + 0.01 * np.arange(20))[::-1].copy())
    t = jnp.asarray(np.concatenate([[0.0], np.cumsum(rng.exponential(size=19) + 0.1)]))
    threshold = float(rng.uniform(error[-1], error[0]))
    rate = float(time_by_rate(t, error, threshold).value)
    assert rate == pytest.approx(float(time_to_threshold(t, error, threshold, interpolate=True).value), rel=1e-4)
    assert rate != pytest.approx(float(time_by_rate(t, error**2, threshold).value), rel=1e-4)  # control: another eta


def test_rate_integral_refuses_curves_that_rise(dtype):
    t, error = jnp.arange(4, dtype=dtype), jnp.asarray([4.0, 2.0, 3.0, 1.0], dtype)
    bad = time_by_rate(t, error, 1.5)
    assert np.isnan(float(bad.value))
    assert int(bad.status) == Status.out_of_domain
    short = time_by_rate(t, jnp.asarray([4.0, 3.0, 2.0, 1.0], dtype), 0.5)
    assert (float(short.value), float(short.lower), int(short.status)) == (np.inf, 3.0, Status.not_reached)


def test_gradient_of_an_interpolated_crossing_is_implicit(dtype):
    t, error = jnp.arange(5, dtype=dtype), jnp.asarray([8, 4, 3, 1.5, 1], dtype)
    crossing = lambda e, theta: time_to_threshold(t, e, theta, interpolate=True).value
    assert_close(crossing(error, 2.0), jnp.asarray(2 + 1 / 1.5, dtype), ulps=8)
    d_error, d_theta = jax.grad(crossing, (0, 1))(error, jnp.asarray(2.0, dtype))
    slope = -1.5  # of the chord through the crossing
    assert_close(d_theta, jnp.asarray(1 / slope, dtype), ulps=8)
    share = (3 - 2) / 1.5
    assert_close(d_error, jnp.asarray([0, 0, (1 - share) / -slope, share / -slope, 0], dtype), ulps=32)


def test_batches_and_jit(dtype):
    t = jnp.arange(5, dtype=dtype)
    errors = jnp.asarray([[5, 4, 3, 2, 1], [5, 5, 5, 5, 5]], dtype)
    times = jax.jit(jax.vmap(lambda e: time_to_threshold(t, e, 2.5)))(errors)
    assert times.value.tolist() == [3.0, np.inf]
    assert times.status.tolist() == [0, int(Status.not_reached)]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: time_to_threshold(jnp.arange(3.0), jnp.ones(2), 0.5), "error"),
        (lambda: time_to_threshold(jnp.array([0.0, 2.0, 1.0]), jnp.ones(3), 0.5), "increasing"),
        (lambda: time_to_threshold(jnp.arange(3.0), jnp.ones(3), 0.5, "never"), "first, last, occupation"),
        (lambda: time_to_threshold(jnp.arange(3.0), jnp.ones(3), 0.5, "occupation", interpolate=True), "interpolate"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_soft_time_converges_at_fourth_order_and_at_second_without_richardson(float64):
    t = jnp.linspace(0.0, 12.0, 4001)
    error, theta = 0.1 + jnp.exp(-t), 0.6
    truth = np.log(2.0)
    miss = lambda tau, richardson: abs(float(soft_learning_time(t, error, theta, tau, richardson=richardson)) - truth)
    plain = [miss(tau, False) for tau in (0.03, 0.015)]
    assert plain[0] / plain[1] == pytest.approx(4.0, rel=0.1)
    np.testing.assert_allclose(plain[1], np.pi**2 / 6 * 0.015**2 / 0.5**2, rtol=0.05)  # t'' = 1 / (theta - 0.1)^2
    assert miss(0.015, True) < plain[1] / 20


def test_soft_time_tends_to_the_interpolated_crossing(float64):
    t, error = jnp.arange(5.0), jnp.array([8.0, 4.0, 3.0, 1.5, 1.0])
    sharp = time_to_threshold(t, error, 2.0, interpolate=True).value
    assert float(soft_learning_time(t, error, 2.0, 1e-6)) == pytest.approx(float(sharp), abs=1e-5)
    infinite = error.at[0].set(jnp.inf)
    g = jax.grad(lambda e: soft_learning_time(t, e, 2.0, 0.1))(infinite)
    assert np.all(np.isfinite(g))


def test_soft_time_has_a_gradient_where_the_threshold_is_missed(dtype):
    t = jnp.linspace(0, 5, 51, dtype=dtype)
    missed = lambda floor: soft_learning_time(t, floor + jnp.exp(-t), jnp.asarray(0.5, dtype), jnp.asarray(0.1, dtype))
    assert float(jax.grad(missed)(jnp.asarray(0.6, dtype))) > 0
    with pytest.raises(InputError, match="tau"):
        soft_learning_time(t, jnp.exp(-t), 0.5, 0.0)


def test_a_later_clock_shifts_every_time_by_as_much(dtype):
    t, error = jnp.arange(5, dtype=dtype), jnp.asarray([8, 4, 3, 1.5, 1], dtype)
    clocks = (
        lambda t: time_by_rate(t, error, 2.0).value,
        lambda t: soft_learning_time(t, error, 2.0, 0.01),
        lambda t: time_to_threshold(t, error, 2.0, interpolate=True).value,
    )
    for clock in clocks:
        early, late = clock(t), clock(t + 7)
        assert_close(early, jnp.asarray(2 + 2 / 3, dtype), ulps=64)
        assert_close(late - early, jnp.asarray(7, dtype), ulps=64)


def test_an_infinite_first_error_is_above_for_the_whole_step(dtype):
    t, error = jnp.asarray([0, 2, 3, 5], dtype), jnp.asarray([jnp.inf, 4, 3, 1], dtype)
    crossing = lambda e: time_to_threshold(t, e, 2.0, interpolate=True).value
    for time in (crossing(error), time_by_rate(t, error, 2.0).value, soft_learning_time(t, error, 2.0, 0.01)):
        assert_close(time, jnp.asarray(4, dtype), ulps=64)
    fallen = jnp.asarray([jnp.inf, 1, 0.5, 0.25], dtype)  # no chord comes down from infinity: the crossing is t_1
    for time in (crossing(fallen), time_by_rate(t, fallen, 2.0).value):
        assert float(time) == 2.0
    assert np.all(np.isfinite(jax.grad(crossing)(fallen)))


def _dense(dtype):
    t = np.linspace(0, 1, 2001)
    return jnp.asarray(t, dtype), jnp.asarray((1 + 0.9 * np.exp(-2 * t)).astype(np.float32), dtype)


def test_the_gradient_of_a_dense_curve_is_no_rounding_noise(dtype):
    """d T / d error_k is, to the square of the spacing, the spacing times the slope of the sigmoid at error_k."""
    t, error = _dense(dtype)
    theta, tau = jnp.asarray(1.0, dtype), jnp.asarray(0.05, dtype)
    g = jax.grad(lambda e: soft_learning_time(t, e, theta, tau, richardson=False))(error)
    x = (np.asarray(error, np.float64) - 1) / 0.05
    exact = np.diff(np.asarray(t, np.float64)).mean() / (0.05 * 4 * np.cosh(x / 2) ** 2)
    spacing = np.abs(np.diff(x)).max()
    tolerance = spacing**2 / 2 + 1e4 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(g[1:-1], exact[1:-1], atol=tolerance * exact.max())


def test_single_and_double_precision_agree_on_every_slope(float64):
    for spread in (1e-3, 0.05, 0.2, 0.3, 1.0, 30.0):  # of neighbours in units of tau, on both sides of the switch
        x = np.random.default_rng(0).normal(size=300) * spread + np.linspace(-20, 20, 300)
        slopes = {}
        for dtype in ("float32", "float64"):
            error, t = jnp.asarray(x.astype(np.float32), dtype), jnp.arange(300, dtype=dtype)
            slopes[dtype] = jax.grad(lambda e, t=t: soft_learning_time(t, e, 0.0, 1.0, richardson=False))(error)
        single, double = slopes["float32"], slopes["float64"]
        np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-5 * float(jnp.max(jnp.abs(double))))


def test_the_mean_of_the_sigmoid_is_its_integral_at_any_distance(dtype):
    nodes, weights = np.polynomial.legendre.leggauss(60)
    eps = float(jnp.finfo(dtype).eps)
    for middle in (-30.0, -1.0, 0.0, 0.7, 30.0):
        for d in (0.0, 1e-6, 1e-3, 4e-3, 0.1, 0.22, 0.3, 1.0, 8.0):
            a, b = middle - d / 2, middle + d / 2
            exact = np.sum(weights / (1 + np.exp(-(middle + d / 2 * nodes)))) / 2
            for ends in ((a, b), (b, a)):
                t, error = jnp.arange(2, dtype=dtype), jnp.asarray(ends, dtype)
                got = soft_learning_time(t, error, 0.0, 1.0, richardson=False)
                assert float(got) == pytest.approx(exact, rel=300 * eps)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("time", [time_to_threshold, time_by_rate, lambda *a: soft_learning_time(*a, 0.1)])
def test_several_thresholds_are_not_compared_entry_by_entry(time, size):
    with pytest.raises(InputError, match="threshold: .*shape"):
        time(jnp.arange(3.0), jnp.array([3.0, 2.0, 1.0]), jnp.full(size, 1.5))


def test_several_temperatures_are_refused():
    with pytest.raises(InputError, match="tau: .*shape"):
        soft_learning_time(jnp.arange(3.0), jnp.array([3.0, 2.0, 1.0]), 1.5, jnp.full(2, 0.1))
