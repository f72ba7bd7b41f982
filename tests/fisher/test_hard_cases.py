"""Fisher matrices and tests at the edges: large and small, singular, not finite, and where nothing can be said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status, testing
from learnlag_jax.fisher import (
    bootstrap,
    categorical_outcomes,
    fisher_information,
    information,
    learning_lagrangian,
    probed_stationarity,
    stationarity,
)
from learnlag_jax.fisher.operators import FullFisher, pseudo_inverse
from learnlag_jax.testing import assert_close
from tests.fisher.models import normal, softmax_problem

STRUCTURES = ("full", "diagonal", "kronecker", "matrix_free")


def linear(theta, x):
    """Its score is x, whatever theta."""
    return jnp.vdot(theta, x)


def half_square(theta, example):
    x, y = example
    return -((y - x @ theta) ** 2) / 2


def status(found):
    return Status(int(found.status))


@pytest.mark.parametrize("of", ["exact", "sampled"])
def test_outcomes_and_samples_that_read_a_changed_number_are_read_again(float64, of):
    """Like log_prob itself: JAX would keep what was compiled for the old number."""
    width = {"of": jnp.ones(2, float64)}
    quartic = lambda m, x: -((x - m) ** 4) / 4
    nodes = lambda m, x: (m + jnp.array([-1.0, 1.0]) * width["of"], jnp.full(2, 0.5))
    draw = lambda m, x, key: m + width["of"][0] * jax.random.rademacher(key, (), float64)
    drawn = lambda: {"sample": draw, "key": jax.random.key(0)} if of == "sampled" else {"outcomes": nodes}
    x, zero = jnp.zeros(3), jnp.zeros(())
    for size in (1.0, 2.0):
        width["of"] = size * jnp.ones(2, float64)
        assert_close(fisher_information(quartic, zero, x, estimator=of, **drawn()).trace(), jnp.float64(size**6))
        found = stationarity(quartic, zero, x + 1, estimator=of, **drawn())
        assert_close(found.curvature, jnp.float64(-3 / size**6))
        if of == "sampled":
            probed = probed_stationarity(quartic, zero, x + 1, jax.random.key(1), probes=2, estimator=of, sample=draw)
            assert_close(probed.curvature, found.curvature)


def test_outcomes_made_again_for_the_same_model_compile_nothing(float64):
    log_prob, params, batch, _ = softmax_problem(float64)
    make = lambda: fisher_information(
        log_prob, params, batch, estimator="exact", outcomes=categorical_outcomes(log_prob, 3)
    )
    make()
    programs = information._fisher_information._cache_size()
    make()
    assert information._fisher_information._cache_size() == programs


def test_a_small_entry_of_a_large_diagonal_is_no_rounding():
    """The cut was P eps of the largest: of 100,000 parameters it dropped all below 1 %."""
    w = jnp.logspace(-3, 0, 100_000, dtype=jnp.float32)
    F = fisher_information(linear, jnp.zeros_like(w), jnp.sqrt(w)[None], structure="diagonal")
    assert_close(F.solve(w), jnp.ones_like(w), ulps=16)
    assert not np.any(np.asarray(F.power(-0.5).mv(jnp.zeros_like(w).at[0].set(0))))


def test_a_small_eigenvalue_of_a_large_matrix_free_fisher_is_no_rounding():
    def rows(*values):
        scores = jnp.zeros((len(values), 100_000), jnp.float32)
        return scores.at[jnp.arange(len(values)), jnp.arange(len(values))].set(
            jnp.sqrt(jnp.float32(len(values))) * jnp.array(values, jnp.float32)
        )

    F = fisher_information(linear, jnp.zeros(100_000, jnp.float32), rows(1.0, 0.1), structure="matrix_free")
    v = jnp.zeros(100_000, jnp.float32).at[:2].set(1)
    assert_close(F.solve(v), jnp.zeros_like(v).at[:2].set(jnp.array([1.0, 100.0], jnp.float32)), scale=100.0, ulps=1e4)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("bad", [jnp.nan, 1e200])
def test_what_is_not_finite_is_not_solved(float64, structure, bad):
    """Eigenvalues that are no numbers were dropped like those that are zero: the solution was 0."""
    x = normal((5, 3)).at[0, 0].set(bad)
    F = fisher_information(linear, jnp.zeros(3), x, structure=structure)
    for a in (-1.0, -0.5, 0.5):
        assert not np.isfinite(np.asarray(F.power(a).mv(jnp.ones(3)))).all()


@pytest.mark.parametrize("scale", [1e-8, 1e-6, 1.0, 1e6])
def test_kronecker_factors_of_any_rank_scale_with_the_scores(scale):
    """Products of four traces are zero or infinite in float32."""
    x = normal((6, 3, 3, 4, 4), dtype=jnp.float32)
    of = lambda c: fisher_information(linear, jnp.zeros_like(x[0]), c * x, structure="kronecker", damping=0.01)
    F, one, v = of(jnp.float32(scale)), of(jnp.float32(1)), x[0]
    c2 = jnp.float32(scale**2)
    assert_close(F.trace() / c2, one.trace(), ulps=64)
    assert_close(F.mv(v) / c2, one.mv(v), ulps=1e3)
    assert_close(F.solve(v) * c2, one.solve(v), ulps=1e5)


def test_damping_of_kronecker_factors_is_what_the_docstring_says(float64):
    x = {"w": normal((9, 4, 3)), "b": normal((9,), 1)}
    sum_of = lambda theta, e: jnp.sum(theta["w"] * e["w"]) + theta["b"] * e["b"]
    zero = jax.tree.map(lambda a: jnp.zeros_like(a[0]), x)
    for d in (0.0, 0.1, 1.0):
        F = fisher_information(sum_of, zero, x, structure="kronecker", damping=d)
        w, b = jnp.mean(jnp.sum(x["w"] ** 2, (1, 2))), jnp.mean(x["b"] ** 2)
        assert_close(F.trace(), (1 + d) ** 2 * w + (1 + d) * b, ulps=64)


def test_what_cannot_be_is_refused_by_name(float64):
    log_prob, params, batch, _ = softmax_problem(float64)
    wrong = [("damping", -0.5), ("krylov", 0), ("batch_size", 0), ("batch_size", -3)]
    for name, value in wrong:
        with pytest.raises(InputError, match=f"^{name}: got {value}"):
            fisher_information(log_prob, params, batch, estimator="batch", **{name: value})


def test_the_trace_has_a_derivative_where_a_score_is_zero(float64):
    x, y = normal((6, 3)).at[0].set(0), normal((6,), 1)
    trace = lambda structure: lambda t: fisher_information(half_square, t, (x, y), structure=structure).trace()
    t = normal((3,), 2)
    assert_close(jax.grad(trace("matrix_free"))(t), jax.grad(trace("full"))(t), ulps=1e3)
    assert int(probed_stationarity(half_square, t, (x, y), jax.random.key(0), krylov=3).status) == Status.converged


def test_the_learning_lagrangian_has_a_derivative_where_eigenvalues_are_equal(float64):
    density = learning_lagrangian(lambda t: FullFisher(jnp.diag(jnp.exp(t)), t))
    t = jnp.array([0.5, 0.5])
    assert_close(jax.grad(density)(t, jnp.zeros(()), jnp.ones(2)), -jnp.exp(-t) / 4)


@pytest.mark.parametrize("rank", [2, 4])
def test_the_derivative_of_a_pseudo_inverse_is_that_of_its_closed_form(float64, rank):
    """(B B')^+ = B (B'B)^-2 B' for B of full column rank, differentiated by JAX."""
    B, dB = normal((4, rank)), normal((4, rank), 1)
    closed = lambda B: B @ jnp.linalg.inv(B.T @ B) @ jnp.linalg.inv(B.T @ B) @ B.T
    found = jax.jvp(lambda B: pseudo_inverse(B @ B.T), (B,), (dB,))
    expected = jax.jvp(closed, (B,), (dB,))
    assert_close(found[0], expected[0], ulps=1e5)
    assert_close(found[1], expected[1], ulps=1e6)


def test_the_derivative_of_a_pseudo_inverse_is_that_of_the_function_whatever_the_tangent(float64):
    """Eigenvalues are taken of the symmetric part; a tangent that is none has to be seen so, too."""
    F, E, h = normal((4, 4)) @ normal((4, 4)).T, jnp.zeros((4, 4)).at[0, 1].set(1.0), 1e-6
    slope = (pseudo_inverse(F + h * E) - pseudo_inverse(F - h * E)) / (2 * h)
    assert_close(jax.jvp(pseudo_inverse, (F,), (E,))[1], slope, ulps=1e9)
    gradient = jax.grad(lambda F: pseudo_inverse(F)[0, 1])(F)
    assert_close(gradient, gradient.T, ulps=1e4)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_python_numbers_are_parameters_too(float64, structure):
    F = fisher_information(
        lambda t, x: -((t["a"] - x) ** 2) / 2, {"a": 1.0}, jnp.array([0.0, 3.0]), structure=structure
    )
    assert_close(F.solve({"a": 5.0})["a"], jnp.float64(2.0))


@pytest.mark.parametrize("kinds", [("float32", "float64"), ("bfloat16", "bfloat16")])
def test_matrix_free_powers_of_mixed_and_half_precision_are_those_of_the_whole_matrix(float64, kinds):
    """Rank 5 of 7: beyond the rounding of the coarser leaf the Krylov space is noise."""
    x = normal((5, 7))
    a, b = jnp.dtype(kinds[0]), jnp.dtype(kinds[1])
    log_prob = lambda t, e: jnp.vdot(t["a"].astype(float64), e[:3]) + jnp.vdot(t["b"].astype(float64), e[3:])
    zero, v = {"a": jnp.zeros(3, a), "b": jnp.zeros(4, b)}, {"a": jnp.ones(3, a), "b": jnp.ones(4, b)}
    with jax.numpy_dtype_promotion("standard"):
        found = fisher_information(log_prob, zero, x, structure="matrix_free").solve(v)
    whole = np.linalg.pinv(np.asarray(x.T @ x / 5)) @ np.ones(7)
    got = np.concatenate([np.asarray(found["a"], float), np.asarray(found["b"], float)])
    coarsest = float(max(jnp.finfo(k).eps for k in (a, b)))
    assert np.linalg.norm(got - whole) < 300 * coarsest * np.linalg.norm(whole)


def bernoulli(theta, y):
    return y * theta[0] - jnp.logaddexp(0.0, theta[0])


@pytest.mark.parametrize(("n", "k"), [(200, 74), (200, 63), (200, 44)])
def test_a_saturated_model_is_not_tested(float64, n, k):
    """Its fit makes the residual zero for whatever data; the quotient of two roundings rejected two of three."""
    y = jnp.where(jnp.arange(n) < k, 1.0, 0.0)
    theta = jnp.log(jnp.array([k / (n - k)]))
    found = stationarity(bernoulli, theta, y)
    assert status(found) == Status.undetermined
    assert np.isnan(found.p_value)
    assert np.isnan(found.statistic)
    fit = lambda y: jnp.log(jnp.mean(y) / (1 - jnp.mean(y)))[None]
    redraw = lambda t, y, key: jax.random.bernoulli(key, jax.nn.sigmoid(t[0]), y.shape).astype(y.dtype)
    assert np.isnan(bootstrap(bernoulli, fit, redraw, y, jax.random.key(0), draws=19).p_value)
    slope = lambda t, e: e[1] * (t[0] + t[1] * e[0]) - jnp.logaddexp(0.0, t[0] + t[1] * e[0])
    x = normal((n,), 1)
    line = jnp.zeros(2)
    for _ in range(20):
        mean = lambda t: jnp.mean(jax.vmap(slope, (None, 0))(t, (x, y)))
        line = line - jnp.linalg.solve(jax.hessian(mean)(line), jax.grad(mean)(line))
    other = stationarity(slope, line, (x, y))
    assert status(other) == Status.converged
    assert 0 < float(other.p_value) < 1


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_data_to_vary_are_not_tested(float64, n):
    x = normal((n,))
    found = stationarity(lambda t, x: -((x - t[0]) ** 2) / 2, x.mean()[None] + 1e-9, x)
    assert status(found) == Status.undetermined
    assert np.isnan(found.p_value)


def test_a_point_that_is_no_maximum_has_no_covariance(float64):
    log_prob, params, batch, _ = softmax_problem(float64, n=60)
    assert status(stationarity(log_prob, params, batch, damping=0.01)) == Status.singular  # the gauge of a softmax
    well = lambda t, x: -((t[0] ** 2 - 1 - 0 * x) ** 2) + t[0] * x
    x = normal((40,)) - jnp.mean(normal((40,)))
    assert status(stationarity(well, jnp.zeros(1), x)) == Status.not_positive_definite
    assert status(stationarity(well, jnp.ones(1), x)) == Status.converged


def test_what_is_not_finite_has_a_status(float64):
    x = normal((9,))
    minus_infinity = lambda t, x: jnp.where(x == jnp.max(x), -jnp.inf, 0.0) - (x - t[0]) ** 2 / 2
    assert status(stationarity(minus_infinity, jnp.zeros(1), x)) == Status.nonfinite_function
    kink = lambda t, x: -((t[0] - x) ** 2) / 2 - jnp.sqrt(jnp.abs(t[0] - x) ** 3)
    found = stationarity(kink, x[:1], x)
    assert status(found) in (Status.nonfinite_derivative, Status.nonfinite_function)


def test_probes_say_when_the_krylov_space_is_too_small_and_when_there_is_no_inverse(float64):
    size = 60
    w = jnp.logspace(-4, 0, size)
    x = jnp.sqrt(w)[None, :] * jnp.linalg.qr(normal((400, size)))[0] * 20
    y = normal((400,), 1)
    at = jnp.linalg.lstsq(x, y)[0] + 0.1
    run = lambda x, y, k: probed_stationarity(half_square, at, (x, y), jax.random.key(0), probes=8, krylov=k)
    assert status(run(x, y, 16)) == Status.max_steps
    assert status(run(x, y, size)) == Status.converged
    assert status(run(x[:30], y[:30], size)) == Status.rank_deficient


def test_units_of_the_parameters_are_no_rank(float64):
    """In float32 a ratio of 1e4 between columns was a rank lost."""
    unit = jnp.array([1.0, 100.0, 0.01, 1.0], jnp.float32)
    x = normal((500, 4), dtype=jnp.float32) * unit[None, :]
    y = normal((500,), 1, jnp.float32)
    fit = jnp.linalg.lstsq(x / unit[None, :], y)[0] / unit
    found = stationarity(half_square, fit, (x, y))
    assert status(found) == Status.converged
    assert int(found.rank) == 4


def test_what_no_larger_krylov_space_can_mend_is_not_laid_to_its_size():
    """A condition of 1e6 is no inverse in float32, with a space as large as there is."""
    w, size = jnp.logspace(-6, 0, 60, dtype=jnp.float32), 60
    x = jnp.sqrt(w)[None, :] * jnp.linalg.qr(normal((400, size), dtype=jnp.float32))[0] * 20
    run = lambda k: probed_stationarity(half_square, 0 * w, (x, x[:, 0]), jax.random.key(0), probes=4, krylov=k)
    assert status(run(size)) == Status.rank_deficient
    assert status(run(16)) == Status.max_steps


@pytest.mark.parametrize("unit", [1.0, 1e-4, 1e-9])
def test_a_maximum_is_told_from_what_is_none_in_any_unit(float64, unit):
    """Seven standard errors off in a small unit were lost to the cut of a pseudo-inverse."""
    x = jnp.stack([jnp.ones(200), unit * jnp.tile(jnp.array([1.0, -1.0]), 100)], 1)
    y = normal((200,)) + x @ jnp.array([1.0, 1 / unit])
    units = jnp.array([1.0, unit])
    fit = jnp.linalg.lstsq(x / units[None, :], y)[0] / units
    testing.assert_maximum_likelihood(half_square, fit, (x, y))
    with pytest.raises(AssertionError, match="standard errors"):
        testing.assert_maximum_likelihood(half_square, fit + jnp.array([0.0, 0.5 / unit]), (x, y))
