"""Frames: identities at random (n, p), both precisions, and the wrong ones rejected."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import DTypeError, InputError
from learnlag_jax.fermat import (
    complete_frame,
    criterion,
    frame_with_spectrum,
    greedy_ratio,
    tight_frame,
    v_optimal_frame,
)

sizes = st.integers(1, 24).flatmap(lambda p: st.tuples(st.integers(p, 80), st.just(p)))


def _defect(X, S):
    X = np.asarray(X, np.float64)
    return max(np.abs(X.T @ X - S).max(), np.abs(np.sum(X**2, 1) - 1).max())


@hypothesis.given(sizes)
@hypothesis.settings(max_examples=60)
def test_tight_frames_exist_at_every_n_at_least_p(size):
    n, p = size
    assert _defect(tight_frame(n, p, np.float64), n / p * np.eye(p)) < 8 * n * np.finfo(float).eps


def test_tight_frame_keeps_its_digits_in_single_precision_at_large_n():
    X = np.asarray(tight_frame(5000, 3, jnp.float32), np.float64)
    assert np.abs(X.T @ X - 5000 / 3 * np.eye(3)).max() < 5000 * np.finfo(np.float32).eps


def test_integer_frequencies_alone_would_not_do():
    p = 4  # even p with k = 1, 2 is a frame too, but not for n = p: the control
    j, k = np.arange(p), np.arange(1, p // 2 + 1)
    angle = 2 * np.pi * np.outer(j, k) / p
    assert _defect(np.sqrt(2 / p) * np.hstack([np.cos(angle), np.sin(angle)]), np.eye(p)) > 0.5


@hypothesis.given(st.integers(0, 10_000))
def test_any_spectrum_by_givens_rotations(seed):
    rng = np.random.default_rng(seed)
    p, n = 5, 9  # one compilation
    spectrum = rng.exponential(size=p) * (rng.random(p) < 0.8) + 1e-12
    spectrum *= n / spectrum.sum()
    X = frame_with_spectrum(jnp.asarray(spectrum), n)
    assert _defect(X, np.diag(spectrum)) < 100 * n * np.finfo(float).eps


def test_spectrum_with_fewer_rows_than_columns(dtype):
    X = frame_with_spectrum(jnp.asarray([0.0, 2.5, 0.0, 0.5], dtype), 3)
    assert _defect(X, np.diag([0.0, 2.5, 0.0, 0.5])) < 300 * float(jnp.finfo(dtype).eps)
    with pytest.raises(InputError, match="at most 2 positive"):
        frame_with_spectrum(jnp.asarray([1.0, 0.5, 0.5], dtype), 2)
    with pytest.raises(InputError, match="sum 3"):
        frame_with_spectrum(jnp.asarray([1.0, 1.0, 0.5], dtype), 3)
    assert bool(
        jnp.all(jnp.isnan(jax.jit(frame_with_spectrum, static_argnums=1)(jnp.asarray([1.0, 1.0, 0.5], dtype), 3)))
    )


@pytest.mark.parametrize("m", [1, 2, 4, 9])
def test_completion_fills_like_water_and_beats_random_rows(m, float64):
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(6, 4))
    S0 = Z.T @ Z
    X = complete_frame(jnp.asarray(S0), m)
    assert np.abs(np.sum(np.asarray(X) ** 2, 1) - 1).max() < 1e-13
    best = float(criterion("A")(jnp.asarray(S0) + X.T @ X))
    l, places = np.linalg.eigvalsh(S0), min(m, 4)
    from scipy.optimize import brentq

    level = brentq(lambda h: np.maximum(h - l[:places], 0).sum() - m, 0, l[-1] + m, xtol=1e-14)
    filled = np.concatenate([np.maximum(l[:places], level), l[places:]])
    assert best == pytest.approx(np.sum(1 / filled), rel=1e-12)
    Y = rng.normal(size=(300, m, 4))
    Y /= np.linalg.norm(Y, axis=2, keepdims=True)
    assert best <= np.trace(np.linalg.inv(S0 + np.swapaxes(Y, 1, 2) @ Y), axis1=1, axis2=2).min()


def test_completing_nothing_is_a_tight_frame(dtype):
    X = complete_frame(jnp.zeros((3, 3), dtype), 7)
    assert _defect(X, 7 / 3 * np.eye(3)) < 500 * float(jnp.finfo(dtype).eps)


def test_ridge_prior_closed_form(float64):
    tau, p, n = 0.3, 4, 10
    X = complete_frame(tau * jnp.eye(p), n)
    assert float(criterion("A")(tau * jnp.eye(p) + X.T @ X)) == pytest.approx(p**2 / (n + tau * p), rel=1e-12)
    few = complete_frame(tau * jnp.eye(p), 3)
    assert float(criterion("A")(tau * jnp.eye(p) + few.T @ few)) == pytest.approx(3 / (1 + tau) + 1 / tau, rel=1e-12)


def test_v_optimality_reaches_its_bound_and_no_gradient_is_left(float64):
    rng = np.random.default_rng(1)
    Z = rng.normal(size=(6, 4))
    C = jnp.asarray(Z.T @ Z / 6)
    n = 7
    X = v_optimal_frame(C, n)
    value = lambda X: criterion("I", moment=C)(X.T @ X)
    bound = np.sum(np.sqrt(np.linalg.eigvalsh(C))) ** 2 / n
    assert float(value(X)) == pytest.approx(bound, rel=1e-12)
    G = jax.grad(value)(X)
    assert float(jnp.abs(G - jnp.sum(G * X, 1, keepdims=True) * X).max()) < 1e-12
    assert float(value(tight_frame(n, 4))) > bound * 1.01  # the A-optimal frame is not V-optimal


@hypothesis.given(sizes)
def test_greedy_is_a_round_robin_with_the_closed_form_ratio(size):
    n, p = size
    counts = np.full(p, n // p) + (np.arange(p) < n % p)
    ratio = np.sum(1 / counts) * n / p**2
    assert float(greedy_ratio(n, p)) == pytest.approx(ratio, rel=1e-5)
    assert 1 <= float(greedy_ratio(n, p)) <= 1.125 + 1e-6


def test_the_best_next_row_is_the_eigenvector_of_the_smallest_eigenvalue(float64):
    rng = np.random.default_rng(2)
    Z = rng.normal(size=(6, 4))
    S = Z.T @ Z
    best = np.trace(np.linalg.inv(S + np.outer(*(2 * [np.linalg.eigh(S)[1][:, 0]]))))
    x = rng.normal(size=(5000, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert best <= np.trace(np.linalg.inv(S[None] + x[:, :, None] * x[:, None, :]), axis1=1, axis2=2).min()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tight_frame(2, 3), "n >= p"),
        (lambda: v_optimal_frame(jnp.eye(3), 2), "at least p"),
        (lambda: complete_frame(jnp.ones((2, 3)), 2), "S0"),
        (lambda: complete_frame(jnp.eye(2), 0), "m"),
        (lambda: complete_frame(jnp.eye(2) * jnp.nan, 2), "S0"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(("n", "p"), [(7, 3), (100, 3), (1000, 4)])
def test_rows_are_unit_to_a_few_eps_at_any_length(n, p, dtype):
    """What n rotations round away must not be left in the lengths of the last rows; X'X is right beside its largest eigenvalue."""
    eps, rng = float(jnp.finfo(dtype).eps), np.random.default_rng(0)
    C = np.cov(rng.normal(size=(p, 20)))
    spectrum = np.asarray(rng.dirichlet(np.ones(p)) * n, dtype)
    root = np.sqrt(np.linalg.eigvalsh(C))
    makers = [
        (lambda: frame_with_spectrum(jnp.asarray(spectrum), n), np.sort(spectrum)),
        (lambda: v_optimal_frame(jnp.asarray(C, dtype), n), root * n / root.sum()),
        (lambda: complete_frame(jnp.asarray(C, dtype), n), None),
        (lambda: jax.jit(frame_with_spectrum, static_argnums=1)(jnp.asarray(spectrum), n), np.sort(spectrum)),
    ]
    for make, l in makers:
        X = np.asarray(make(), np.float64)
        assert np.abs(np.sum(X**2, 1) - 1).max() < 4 * p * eps
        G = X.T @ X
        l, G = (np.full(p, (np.trace(C) + n) / p), G + C) if l is None else (l, G)
        np.testing.assert_allclose(np.linalg.eigvalsh(G), l, atol=2 * np.sqrt(n) * eps * n)


def test_a_sum_that_is_not_n_is_refused_in_single_precision_too():
    with pytest.raises(InputError, match="sum 1000"):
        frame_with_spectrum(jnp.asarray([600.0, 400.01], jnp.float32), 1000)


def test_half_precision_is_computed_in_single():
    for X in (complete_frame(jnp.eye(2, dtype=jnp.float16), 3), v_optimal_frame(jnp.eye(2, dtype=jnp.bfloat16), 3)):
        assert X.dtype == jnp.float32
        assert _defect(X, 1.5 * np.eye(2)) < 1e-6
    assert _defect(v_optimal_frame([[1.0, 0.0], [0.0, 1.0]], 3), 1.5 * np.eye(2)) < 1e-6


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tight_frame(5, 2, int), "dtype"),
        (lambda: tight_frame(5.5, 2), "n"),
        (lambda: greedy_ratio(4.5, 2), "n: "),
        (lambda: greedy_ratio(4, 0), "p: "),
        (lambda: complete_frame(jnp.eye(2), 2.0), "m: "),
        (lambda: v_optimal_frame(jnp.eye(2), 3.0), "n: "),
        (lambda: v_optimal_frame(jnp.eye(2).at[0, 0].set(jnp.nan), 2), "C: .*nan"),
        (lambda: frame_with_spectrum(jnp.ones(2), 2.0), "n: "),
    ],
)
def test_numbers_that_are_not_whole_and_dtypes_that_are_not_floating_are_named(call, message):
    with pytest.raises((InputError, DTypeError), match=message):
        call()
