"""No answer depends on the units of the rows, on a dtype's edge, or on an entry that says nothing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status, fermat


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def slope(f, x, h=1e-5):
    return (f(x + h) - f(x - h)) / (2 * h)


@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1e4), ("float64", 1e7), ("float64", 1e-7)])
def test_exchange_finds_the_same_rows_in_any_unit(dtype, scale):
    F = normal((40, 4))
    plain, scaled = (fermat.exact_design((F * s).astype(dtype), 8, restarts=2) for s in (1.0, scale))
    assert plain.rows.tolist() == scaled.rows.tolist()


@pytest.mark.parametrize("kind", ["A", "D"])
def test_a_criterion_averaged_over_draws_is_exchanged_to_its_optimum(float64, kind):
    F, prior, phi = normal((7, 4), 2), 0.1 * np.eye(4), fermat.criterion(kind, draws=2)
    designs = (F[list(r)] for r in itertools.combinations_with_replacement(range(7), 5))
    best = min(float(phi(jnp.asarray(X.T @ X + prior))) for X in designs)
    assert float(fermat.exact_design(F, 5, phi, prior=prior).value) == pytest.approx(best, rel=1e-9)


def test_the_exponent_of_phi_has_a_derivative(float64):
    M = jnp.asarray(normal((4, 3), 1).T @ normal((4, 3), 1))
    value = lambda q: fermat.criterion("phi", q=q)(M)
    assert float(jax.grad(value)(2.0)) == pytest.approx(float(slope(value, 2.0)), rel=1e-7)
    slopes = lambda q: jax.grad(lambda M: fermat.criterion("phi", q=q)(M))(M)
    np.testing.assert_allclose(jax.jacfwd(slopes)(2.0), slope(slopes, 2.0), rtol=1e-6, atol=1e-9)
    F = normal((20, 3), 1)
    weights = lambda q: fermat.optimal_weights(F, fermat.criterion("phi", q=q)).weights
    np.testing.assert_allclose(jax.jacrev(weights)(2.0), slope(weights, 2.0, 1e-4), atol=1e-5)


def test_scales_that_differ_by_a_million_keep_the_digits_of_e_and_phi(float64):
    X = (normal((12, 4)) * np.array([1e5, 1.0, 30.0, 2e3])).astype(np.float32)
    M = X.T @ X
    for phi in (fermat.criterion("E"), fermat.criterion("phi", q=8.0), fermat.criterion("phi", q=0.5)):
        exact = float(phi(jnp.asarray(M, jnp.float64)))
        assert float(phi(jnp.asarray(M))) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("low", [0.0, 2.0, 3.0, 5.0])
@pytest.mark.parametrize("kind", ["A", "D"])
def test_a_single_precision_certificate_is_true_also_for_collinear_rows(float64, low, kind):
    x = low + np.linspace(0, 1, 60)
    F = np.stack([np.ones(60), x, x**2], 1).astype(np.float32)
    design = fermat.optimal_weights(F, kind)
    wide, w = F.astype(float), np.asarray(design.weights, float)
    true = fermat.equivalence_gap(jnp.asarray(wide.T @ (w[:, None] * wide)), wide, kind)
    assert float(design.gap) >= float(true) * (1 - 1e-3) - 4e-6  # its own rounding, 3 p eps of float32


def test_efficiency_is_a_bound_for_criteria_of_either_sign(float64):
    F = normal((25, 4)) * 2
    log_volume = lambda M: -jnp.linalg.slogdet(M)[1]
    found = [fermat.exact_design(F, 6, log_volume, restarts=1, key=jax.random.key(k)) for k in range(4)]
    assert all(int(d.status) == 0 for d in found)
    best = min(float(d.value) for d in found)
    assert max(float(d.value) for d in found) > best + 1e-3  # or nothing below is tested
    for d in found:
        assert best >= float(d.value) - float(d.residual) * abs(float(d.value))
    line = lambda x: jnp.concatenate([jnp.ones(1, x.dtype), x])
    box = (jnp.array([-1.0]), jnp.array([1.0]))
    design = fermat.continuous_design(line, box, 4, log_volume, restarts=2)
    assert int(design.status) == 0
    np.testing.assert_allclose(jnp.sort(jnp.abs(design.points[:, 0])), 1.0, atol=1e-6)


def test_efficiency_is_zero_where_nothing_is_certified(float64):
    x = jnp.linspace(-1.0, 1.0, 21)
    design = fermat.exact_design(jnp.stack([jnp.ones_like(x), x], 1), 4, fermat.criterion("c", [1.0, 1.0]))
    assert float(design.efficiency) == 0
    assert float(design.residual) == 1


def test_no_row_is_named_twice_where_no_design_is_regular(float64):
    F = jnp.asarray(normal((9, 3), 3)).at[:, 2].set(0.0)
    for objective in ("block", "deadline"):
        path = fermat.least_time_path(F, 6, objective=objective, replace=False)
        assert int(path.status) == Status.rank_deficient
        assert len(set(path.indices.tolist())) == 6
    with pytest.raises(InputError, match="block"):
        fermat.least_time_path(normal((12, 4)), 8, objective="block", block=2)


def test_a_deadline_path_begins_with_its_best_rows(float64):
    F = normal((30, 4))
    path = fermat.least_time_path(F, 10)
    rows = np.asarray(path.rows)
    subsets = (rows[list(r)] for r in itertools.combinations(range(10), 4))
    best = min(float(np.trace(np.linalg.inv(X.T @ X))) for X in subsets if np.linalg.cond(X) < 1e7)
    assert float(path.values[3]) == pytest.approx(best, rel=1e-9)
    assert float(fermat.least_time_path(4, 7).values[3]) < 6  # of the same frame in its own order: 48


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"prior": jnp.eye(4)}, "prior"), ({"criterion": fermat.criterion("I", moment=jnp.eye(4))}, "criterion")],
)
def test_the_sphere_refuses_what_it_does_not_plan_for(arguments, name):
    with pytest.raises(InputError, match=name):
        fermat.least_time_path(4, 7, **arguments)


def test_a_batch_is_regular_wherever_one_exists(float64):
    F = normal((20, 3), 5)
    F[:, 2], F[0] = 0, (0, 0, 1)
    batch = fermat.label_batch(F, 5, fermat.criterion("I", region=F[1:]))
    assert int(batch.status) == 0
    assert 0 in batch.rows


def test_confident_rows_keep_their_information_in_single_precision():
    row = fermat.softmax_rows(jnp.array([[20.0, 0.0]], jnp.float32), jnp.ones((1, 1), jnp.float32))
    p = 1 / (1 + np.exp(-20.0))
    assert float(row[0, 0]) == pytest.approx(np.sqrt(p * (1 - p)), rel=1e-5)


@pytest.mark.parametrize("eta", [120.0, -120.0, 0.3])
def test_information_of_a_certain_answer_has_a_slope(eta):
    model = lambda theta, x: theta * x
    row = lambda theta: fermat.fisher_information(model, theta, jnp.ones(1, jnp.float32), family="bernoulli")[0, 0]
    got = jax.grad(row)(jnp.float32(eta))
    small = np.exp(-abs(eta))  # d sqrt(p (1 - p)) / d eta
    assert float(got) == pytest.approx(-np.sign(eta) * np.sqrt(small) * (1 - small) / (1 + small) ** 2 / 2, rel=1e-4)


@pytest.mark.parametrize("noise", [0.0, -1.0, jnp.ones(3)])
def test_noise_must_be_a_deviation(noise):
    with pytest.raises(InputError, match="noise"):
        fermat.fisher_information(lambda theta, x: theta * x, jnp.ones(()), jnp.ones(2), noise=noise)


def test_points_that_coincide_add_no_length_and_no_slope():
    length = lambda points: fermat.optical_length(lambda x: 1.0 + 0 * x[0], points)
    assert jnp.array_equal(jax.grad(length)(jnp.zeros((3, 2))), jnp.zeros((3, 2)))


def test_a_medium_without_light_is_no_answer(float64):
    path = fermat.ray(lambda x: 0 * x[0] - 1, jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.0]), intervals=16)
    assert int(path.status) == Status.out_of_domain


def test_a_large_common_part_does_not_swallow_the_rows_to_add():
    X = fermat.complete_frame(1e9 * jnp.eye(3, dtype=jnp.float32), 3)
    np.testing.assert_allclose(X @ X.T, np.eye(3), atol=1e-6)
    for S in (jnp.diag(jnp.array([1.0, -1.0])), jnp.array([[1.0, 1.0], [0.0, 1.0]])):
        with pytest.raises(InputError, match="S0"):
            fermat.complete_frame(S, 2)
    with pytest.raises(InputError, match="C:"):
        fermat.v_optimal_frame(jnp.diag(jnp.array([1.0, 0.0])), 3)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_a_criterion_near_the_end_of_the_numbers_is_still_minimised(scale, float64):
    """D of columns of 1e150 is 1e-300: ratios of it must not overflow."""
    F = np.random.default_rng(1).normal(size=(30, 3))
    usual, design = fermat.optimal_weights(jnp.asarray(F), "D"), fermat.optimal_weights(jnp.asarray(F * scale), "D")
    assert int(design.status) == Status.converged
    assert float(design.value) * scale**2 == pytest.approx(float(usual.value), rel=1e-9)
