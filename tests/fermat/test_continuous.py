"""Designs on continuous regions: the sphere's closed forms, known optima between grid points, honest residuals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status
from learnlag_jax.fermat import continuous_design, criterion, exact_design, information_matrix

SQUARE = (jnp.array([-1.0, -1.0]), jnp.array([1.0, 1.0]))


def _quadratic(x):
    return jnp.concatenate([jnp.ones(1, x.dtype), x, x**2, x[:1] * x[1:]])


def test_the_sphere_reaches_the_bound_of_tight_frames(float64):
    design = continuous_design(lambda x: x, 4, 6, restarts=4)
    assert float(design.value) == pytest.approx(16 / 6, rel=1e-12)
    np.testing.assert_allclose(jnp.sum(design.points**2, 1), 1, rtol=1e-12)
    assert int(design.status) == 0
    assert float(design.efficiency) > 0.999


@pytest.mark.slow
def test_gradient_finds_what_three_levels_miss(float64):
    grid = jnp.asarray(list(itertools.product([-1.0, 0.0, 1.0], repeat=2)))
    levels = exact_design(jax.vmap(_quadratic)(grid), 7)
    polished = continuous_design(_quadratic, SQUARE, 7, restarts=1, start=grid[levels.rows])
    assert float(polished.value) < 0.99 * float(levels.value)  # three levels are not optimal here
    assert int(polished.status) == 0
    F = jax.vmap(_quadratic)(polished.points)
    assert float(criterion("A")(information_matrix(F))) == pytest.approx(float(polished.value), rel=1e-12)
    assert float(jnp.abs(polished.points).max()) <= 1


@pytest.mark.slow
def test_michaelis_menten_points_between_grid_points(float64):
    K, b = 1.5, 6.0
    row = lambda x: jnp.concatenate([x / (K + x), -2.0 * x / (K + x) ** 2])
    design = continuous_design(row, (jnp.array([0.01]), jnp.array([b])), 4, "D", restarts=4)
    np.testing.assert_allclose(np.sort(design.points[:, 0]), [K * b / (2 * K + b)] * 2 + [b] * 2, rtol=1e-6)
    assert float(design.efficiency) == pytest.approx(1, abs=1e-5)
    few = continuous_design(row, (jnp.array([0.01]), jnp.array([b])), 4, "D", restarts=4, max_steps=1)
    assert int(few.status) == Status.max_steps  # the control: one step is not presented as an optimum
    assert float(few.residual) > 1e-3


@pytest.mark.slow
def test_fixed_rows_are_counted(float64):
    line = lambda x: jnp.concatenate([jnp.ones(1, x.dtype), x])
    region = (jnp.array([-1.0]), jnp.array([1.0]))
    fixed = jnp.asarray([[1.0, 1.0], [1.0, 1.0]])
    design = continuous_design(line, region, 2, "D", fixed=fixed, restarts=2)
    np.testing.assert_allclose(design.points[:, 0], [-1, -1], atol=1e-6)
    alone = continuous_design(line, region, 2, "D", restarts=2)
    np.testing.assert_allclose(np.sort(alone.points[:, 0]), [-1, 1], atol=1e-6)  # the control: nothing known


def _line(x):
    return jnp.concatenate([jnp.ones(1, x.dtype), x])


def test_the_certificate_counts_what_is_known(float64):
    """D with unit prior: three points at -1, -1, 1 have det M = 4^2 - 1, and balanced weights would have 4^2."""
    region = (jnp.array([-1.0]), jnp.array([1.0]))
    design = continuous_design(_line, region, 3, "D", prior=jnp.eye(2), restarts=2)
    assert float(design.value) == pytest.approx(15**-0.5, rel=1e-9)
    assert float(design.efficiency) == pytest.approx((15 / 16) ** 0.5, rel=1e-6)


def test_the_residual_is_the_slope_in_units_of_the_box(float64):
    low, width = -1.0, 2.0
    start = jnp.array([[-0.5], [0.25], [0.5]])
    design = continuous_design(
        _line,
        (jnp.array([low]), jnp.array([low + width])),
        3,
        "D",
        prior=jnp.eye(2),
        start=start,
        restarts=1,
        max_steps=0,
    )

    def log_value(u):
        F = jax.vmap(_line)(low + width * u)
        return jnp.log(criterion("D")(jnp.eye(2) + F.T @ F))

    u = (design.points - low) / width
    feasible = u - jnp.clip(u - jax.grad(log_value)(u), 0, 1)
    assert float(design.residual) == pytest.approx(float(jnp.max(jnp.abs(feasible))), rel=1e-9)
    assert int(design.status) == Status.max_steps


def test_a_model_that_cannot_be_told_apart_is_named():
    dtype = jnp.float32
    twice = lambda x: jnp.concatenate([x, 2 * x])
    design = continuous_design(twice, (jnp.zeros(1, dtype), jnp.ones(1, dtype)), 3, restarts=2)
    assert int(design.status) == Status.rank_deficient
    assert np.isnan(design.points).all()
    assert float(design.value) == np.inf
    assert float(design.efficiency) == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: continuous_design(lambda x: x, 3, 2), "at least p = 3"),
        (lambda: continuous_design(lambda x: x, (jnp.ones(2), jnp.zeros(2)), 3), "low < high"),
        (lambda: continuous_design(lambda x: x[0], 3, 4), "model"),
        (lambda: continuous_design(lambda x: x, 2, 3, start=jnp.ones((2, 2))), "start"),
        (lambda: continuous_design(lambda x: x, 2, 3.0), "n: got 3.0"),
        (lambda: continuous_design(lambda x: x, 2, 3, restarts=0), "restarts: got 0"),
        (lambda: continuous_design(lambda x: x, 2.0, 3), "region: got float"),
        (lambda: continuous_design(lambda x: x, 0, 3), "region: got 0"),
        (lambda: continuous_design(_line, (jnp.array([-jnp.inf]), jnp.array([1.0])), 3), "region.*-inf"),
        (
            lambda: continuous_design(_line, (jnp.zeros(1), jnp.ones(1)), 2, start=jnp.array([[0.0], [3.0]])),
            "start: got 3",
        ),
        (lambda: continuous_design(lambda x: x, 2, 2, start=jnp.zeros((2, 2))), "start: .*length 0"),
        (lambda: continuous_design(lambda x: x, 2, 3, fixed=jnp.ones((1, 3))), "fixed"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_an_integer_of_numpy_is_a_sphere_too(dtype):
    design = continuous_design(lambda x: x, np.int64(2), 3, restarts=1)
    assert float(design.value) == pytest.approx(4 / 3, rel=1e-5)  # a tight frame: p^2 / n
