"""Criteria: definitions against eigenvalues, homogeneity, convexity, derivatives, and infinity on singular matrices."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import DTypeError, InputError
from learnlag_jax.fermat import criterion, information_matrix
from learnlag_jax.testing import assert_close

P = 4


def _rows(seed, n, dtype):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, P)), dtype)


def _all(dtype):
    c = jnp.asarray([1.0, -2.0, 0.5, 0.0], dtype)
    C = information_matrix(_rows(9, 8, dtype)) / 8
    letters = [criterion(k) for k in "ADET"]
    options = [
        criterion("c", c),
        criterion("I", moment=C),
        criterion("G", region=_rows(8, 7, dtype)),
        criterion("phi", q=3.0),
    ]
    return letters + options


def test_each_letter_is_its_definition(dtype):
    F = _rows(0, 12, dtype)
    M = information_matrix(F)
    l = np.linalg.eigvalsh(np.asarray(M, np.float64))
    inverse = np.linalg.inv(np.asarray(M, np.float64))
    region, c = np.asarray(_rows(8, 7, dtype), np.float64), np.array([1.0, -2.0, 0.5, 0.0])
    C = np.asarray(information_matrix(_rows(9, 8, dtype)) / 8, np.float64)
    expected = [
        np.sum(1 / l),
        np.prod(l) ** (-1 / P),
        1 / l[0],
        1 / np.sum(l),
        c @ inverse @ c,
        np.trace(inverse @ C),
        np.max(np.einsum("ip,pq,iq->i", region, inverse, region)),
        np.mean(l**-3.0) ** (1 / 3),
    ]
    got = [float(phi(M)) for phi in _all(dtype)]
    condition = l[-1] / l[0]
    np.testing.assert_allclose(got, expected, rtol=100 * P * condition * float(jnp.finfo(dtype).eps))


def test_trace_of_information_is_not_a_optimality(dtype):
    M = jnp.diag(jnp.asarray([1.0, 2.0, 3.0, 4.0], dtype))
    assert float(criterion("A")(M)) == pytest.approx(1 + 1 / 2 + 1 / 3 + 1 / 4, rel=1e-5)
    assert float(criterion("A")(M)) != pytest.approx(float(jnp.trace(M)))


@hypothesis.given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_homogeneous_of_degree_minus_one(seed, c):
    M = information_matrix(_rows(seed, 9, float))
    for phi in _all(float):
        np.testing.assert_allclose(float(phi(c * M)) * c, float(phi(M)), rtol=1e-9)


@hypothesis.given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_convex_and_never_better_with_less_information(seed, a):
    M0, M1 = (information_matrix(_rows(seed + k, 9, float)) for k in range(2))
    for phi in _all(float):
        mixed = float(phi(a * M0 + (1 - a) * M1))
        assert mixed <= (a * float(phi(M0)) + (1 - a) * float(phi(M1))) * (1 + 1e-9)
        assert float(phi(M0 + M1)) <= float(phi(M0)) * (1 + 1e-9)


def test_infinite_on_singular_matrices_at_any_scale(dtype):
    F = _rows(0, 3, dtype)  # three rows in four dimensions
    copied = _rows(0, 9, dtype).at[:, 3].set(_rows(0, 9, dtype)[:, 0])
    for phi in _all(dtype):
        for scale in (1e-6, 1.0, 1e6):
            assert float(phi(scale * information_matrix(F))) == np.inf
            assert float(phi(scale * information_matrix(copied))) == np.inf
        assert np.isfinite(float(phi(1e-6 * information_matrix(_rows(0, 9, dtype)))))
        assert float(phi(jnp.full((P, P), jnp.nan, dtype))) == np.inf


def test_regularity_does_not_depend_on_units(dtype):
    units = jnp.asarray([1e-3, 1.0, 1e3, 30.0], dtype)
    assert np.isfinite(float(criterion("D")(information_matrix(_rows(0, 9, dtype) * units[None, :]))))


def test_gradient_is_minus_the_textbook_slope(float64):
    M = information_matrix(_rows(0, 12, float64))
    D = jnp.linalg.inv(M)
    assert_close(jax.grad(criterion("A"))(M), -D @ D, ulps=1e4)
    G = jax.grad(criterion("D"))(M)
    assert_close((G + G.T) / 2, -criterion("D")(M) / P * D, ulps=1e4)
    assert not np.allclose(jax.grad(criterion("A"))(M), -D)  # negative control


def test_derivatives_against_finite_differences(float64):
    M = information_matrix(_rows(0, 12, float64))
    S = information_matrix(_rows(1, 3, float64))
    h = 1e-4
    for phi in _all(float64):
        along = lambda t, phi=phi: phi(M + t * S)
        first = jax.grad(along)
        np.testing.assert_allclose(first(0.0), (along(h) - along(-h)) / (2 * h), rtol=1e-6)
        np.testing.assert_allclose(jax.grad(first)(0.0), (first(h) - first(-h)) / (2 * h), rtol=1e-5)


def test_phi_is_smooth_at_repeated_eigenvalues_and_runs_from_d_to_e(float64):
    M = jnp.diag(jnp.asarray([2.0, 2.0, 2.0, 5.0]))
    phi = criterion("phi", q=2.0)
    S = information_matrix(_rows(1, 3, float64))
    second = jax.hessian(lambda t: phi(M + t * S))(0.0)
    h = 1e-3
    numeric = (phi(M + h * S) - 2 * phi(M) + phi(M - h * S)) / h**2
    np.testing.assert_allclose(second, numeric, rtol=1e-4)
    # (tr M^-q / p)^(1/q) is 1/lambda_min (3/4)^(1/q): three of four share the minimum
    np.testing.assert_allclose(float(criterion("phi", q=1e4)(M)), 0.5 * 0.75**1e-4, rtol=1e-9)
    np.testing.assert_allclose(float(criterion("phi", q=1e-5)(M)), float(criterion("D")(M)), rtol=1e-4)


def test_information_matrix(dtype):
    F, w = _rows(0, 6, dtype), jnp.arange(1, 7).astype(dtype)
    expected = sum(float(w[i]) * np.outer(F[i], F[i]) for i in range(6))
    assert_close(information_matrix(F, w), jnp.asarray(expected, dtype), ulps=64)
    assert_close(information_matrix(F, w, jnp.eye(P, dtype=dtype)), jnp.asarray(expected + np.eye(P), dtype), ulps=64)
    assert information_matrix(F.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: criterion("B"), "one of A, D"),
        (lambda: criterion("I"), "moment"),
        (lambda: criterion("G"), "region"),
        (lambda: criterion("c"), "vector"),
        (lambda: criterion("A", q=2.0), "drop it"),
        (lambda: criterion("phi", q=-1.0), "positive"),
        (lambda: information_matrix(jnp.ones(3)), "F"),
        (lambda: information_matrix(jnp.ones((3, 2)), jnp.ones(2)), "w"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
    with pytest.raises(DTypeError, match="F"):
        information_matrix(jnp.ones((3, 2), jnp.int32))


def test_i_over_a_region_is_the_mean_variance_of_its_predictions(dtype):
    M, region = information_matrix(_rows(0, 12, dtype)), _rows(8, 7, dtype)
    inverse = np.linalg.inv(np.asarray(M, np.float64))
    variance = [f @ inverse @ f for f in np.asarray(region, np.float64)]
    tolerance = 100 * P * np.linalg.cond(inverse) * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(criterion("I", region=region)(M), np.mean(variance), rtol=tolerance)
    assert abs(np.sum(variance) / np.mean(variance) - 1) > tolerance  # the control: their sum


def test_collinear_to_rounding_is_singular_and_a_little_less_is_not(dtype):
    """The second pivot of [[1, r], [r, 1]] is 1 - r^2: a few units of rounding say nothing, a thousand do."""
    eps = float(jnp.finfo(dtype).eps)
    pair = lambda pivot: jnp.asarray([[1.0, np.sqrt(1 - pivot)], [np.sqrt(1 - pivot), 1.0]], dtype)
    assert float(criterion("A")(pair(4 * eps))) == np.inf
    np.testing.assert_allclose(criterion("A")(pair(1e3 * eps)), 2 / (1e3 * eps), rtol=0.01)  # r rounds at eps


@pytest.mark.parametrize("q", [1e-300, 1e-20, 1e-16, 1e-12, 1e-8, 1e-4, 1e-2])
def test_a_small_exponent_gives_d_and_its_slope(q, dtype):
    """log phi_q = log D + q var(log l) / 2 + O(q^2), l the eigenvalues of the covariance."""
    if q < float(jnp.finfo(dtype).tiny):
        pytest.skip("no number of this dtype")
    M, D = jnp.diag(jnp.asarray([1.0, 4.0, 9.0], dtype)), criterion("D")
    logs = -np.log([1.0, 4.0, 9.0])
    eps, order = float(jnp.finfo(dtype).eps), q * np.var(logs) / 2
    phi = criterion("phi", q=jnp.asarray(q, dtype))
    assert np.log(float(phi(M))) == pytest.approx(np.mean(logs) + order, abs=16 * eps + q**2)
    S = information_matrix(_rows(1, 3, dtype)[:, :3])
    along = lambda phi: lambda t: phi(M + t * S)
    zero = jnp.zeros((), dtype)
    first, second = jax.grad(along(phi))(zero), jax.grad(jax.grad(along(phi)))(zero)
    assert float(first) == pytest.approx(float(jax.grad(along(D))(zero)), rel=100 * eps + 10 * q)
    assert float(second) == pytest.approx(float(jax.grad(jax.grad(along(D)))(zero)), rel=1000 * eps + 20 * q)
    slope = jax.grad(lambda q: jnp.log(criterion("phi", q=q)(M)))(jnp.asarray(q, dtype))
    assert float(slope) == pytest.approx(np.var(logs) / 2, rel=100 * eps + q)


def test_the_exponent_has_its_slope_at_any_size(float64):
    l = np.array([1.0, 1 / 4, 1 / 9])
    M = jnp.diag(jnp.asarray(1 / l))
    for q in (1e-3, 3e-3, 1e-2, 0.1, 1.0, 7.0, 40.0):
        w = l**q / np.sum(l**q)
        exact = (np.sum(w * np.log(l)) - np.log(np.mean(l**q)) / q) / q
        got = jax.grad(lambda q: jnp.log(criterion("phi", q=q)(M)))(q)
        assert float(got) == pytest.approx(exact, rel=1e-11 / min(q, 1) ** 2)


def test_integers_are_numbers_too(dtype):
    M, vector, region = information_matrix(_rows(0, 12, dtype)), [0, 0, 1, 2], [[1, 0, 0, 2], [0, 1, 0, 0]]
    for make, x in (
        (lambda x: criterion("c", x), vector),
        (lambda x: criterion("I", region=x), region),
        (lambda x: criterion("G", region=x), region),
        (lambda x: criterion("I", moment=x), np.diag([1, 0, 2, 3])),
    ):
        expected = float(make(jnp.asarray(x, dtype))(M))
        assert (
            float(make(np.asarray(x))(M)) == float(make(np.asarray(x).tolist())(M)) == pytest.approx(expected, rel=1e-6)
        )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: criterion("c", jnp.zeros(3)), "vector: .*zeros"),
        (lambda: criterion("c", [True, False]), "vector: .*bool"),
        (lambda: criterion("c", jnp.ones((2, 2))), "vector: .*shape"),
        (lambda: criterion("G", region=jnp.zeros((2, 3))), "region: .*zeros"),
        (lambda: criterion("G", region=jnp.zeros((0, 3))), "region: "),
        (lambda: criterion("I", moment=jnp.zeros((3, 3))), "moment: .*zeros"),
        (lambda: criterion("I", moment=jnp.diag(jnp.array([1.0, -1.0, 1.0]))), "moment: .*eigenvalue of -1"),
        (lambda: criterion("I", moment=jnp.triu(jnp.ones((3, 3)))), "moment: .*symmetric"),
        (lambda: criterion("I", moment=jnp.ones((2, 3))), "moment: .*shape"),
        (lambda: criterion("I", moment=jnp.eye(2) * jnp.nan), "moment: .*nan"),
        (lambda: criterion("phi", q="2"), "q: got '2'"),
        (lambda: criterion("phi", q=jnp.ones(3)), "q: .*shape"),
        (lambda: criterion("phi", q=jnp.nan), "q: got nan"),
        (lambda: criterion("phi", q=jnp.inf), "q: got inf"),
        (lambda: criterion("A", draws=2.0), "draws: got 2.0"),
        (lambda: criterion("A", draws=0), "draws: got 0"),
        (lambda: criterion("E", draws=2), "draws: .*use phi"),
    ],
)
def test_what_is_asked_for_is_refused_by_its_own_name(call, message):
    with pytest.raises((InputError, DTypeError), match=message):
        call()
