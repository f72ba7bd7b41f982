"""Exact designs against brute force, greedy and the bound; never singular; and paths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status
from learnlag_jax.fermat import criterion, exact_design, information_matrix, least_time_path, optimal_weights


def _pool(seed, N, p):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(N, p)))


def _brute(F, n, phi, replace, base):
    choose = itertools.combinations_with_replacement if replace else itertools.combinations
    rows = np.array(list(choose(range(len(F)), n)))
    M = base[None] + jnp.einsum("kni,knj->kij", F[rows], F[rows])
    return float(jnp.min(jax.vmap(phi)(M)))


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("kind", ["A", "D", "E"])
def test_small_pools_by_brute_force(kind, replace, float64):
    phi = criterion(kind)
    nothing = jnp.zeros((2, 2))
    for seed in range(3):
        F = _pool(seed, 7, 2)
        design = exact_design(F, 4, kind, replace=replace)
        best = _brute(F, 4, phi, replace, nothing)
        assert float(design.value) == pytest.approx(best, rel=1e-9)
        assert float(design.value) == pytest.approx(float(phi(information_matrix(F[design.rows]))), rel=1e-9)
        assert float(design.efficiency) * float(design.value) <= best * (1 + 1e-9)  # a true bound
        assert replace or len(set(design.rows.tolist())) == 4


def test_rank_two_updates_equal_direct_evaluation(float64):
    from learnlag_jax.fermat.exact import swapped_values

    F = _pool(4, 12, 3)
    M = information_matrix(F[:6])
    C = jnp.diag(jnp.array([1.0, 2.0, 3.0]))
    for phi in (criterion("A"), criterion("D"), criterion("I", moment=C), criterion("c", jnp.array([1.0, 0.0, 2.0]))):
        direct = jnp.stack([phi(M - jnp.outer(F[2], F[2]) + jnp.outer(f, f)) for f in F])
        np.testing.assert_allclose(swapped_values(phi, M, F[2], F), direct, rtol=1e-9)


def test_saturated_designs_are_never_singular(float64):
    x = np.repeat(np.linspace(-1, 1, 5), 4)  # many copies: most random choices of three rows are singular
    F = jnp.asarray(np.stack([np.ones_like(x), x, x**2], 1))
    for kind in "ADE":
        design = exact_design(F, 3, kind, restarts=3)
        assert np.isfinite(float(design.value))
        assert int(design.status) == 0
    assert float(exact_design(F, 3, "A").value) == pytest.approx(
        _brute(F, 3, criterion("A"), True, jnp.zeros((3, 3))), rel=1e-9
    )


def test_augmenting_fixed_rows(float64):
    F = _pool(0, 7, 3)
    fixed = F[:2] * 2
    base = information_matrix(fixed)
    design = exact_design(F, 3, "A", fixed=fixed)
    assert float(design.value) == pytest.approx(_brute(F, 3, criterion("A"), True, base), rel=1e-9)
    alone = exact_design(F, 3, "A")
    ignoring = criterion("A")(base + information_matrix(F[alone.rows]))
    assert float(design.value) <= float(ignoring) * (1 + 1e-12)
    single = exact_design(F, 1, "A", fixed=fixed)  # two fixed rows and one new span three dimensions
    assert np.isfinite(float(single.value))


def test_many_rows_approach_the_bound(float64):
    F = _pool(1, 50, 3)
    efficiency = [float(exact_design(F, n, "A", restarts=4).efficiency) for n in (4, 40)]
    assert efficiency[1] > 0.995
    assert efficiency[0] < efficiency[1] <= 1


def test_failures_are_named(dtype):
    flat = jnp.ones((8, 2), dtype)
    design = exact_design(flat, 4)
    assert int(design.status) == Status.rank_deficient
    assert design.rows.tolist() == [-1] * 4
    assert float(design.value) == np.inf
    assert float(design.efficiency) == 0.0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda F: exact_design(F, 2), "at least p = 3"),
        (lambda F: exact_design(F, 9, replace=False), "without replacement"),
        (lambda F: exact_design(F, 0), "at least 1"),
        (lambda F: exact_design(F.at[2, 1].set(jnp.nan), 4), "F"),
        (lambda F: exact_design(F, 4, fixed=jnp.ones((2, 2))), "fixed"),
        (lambda F: least_time_path(F, 4, objective="fast"), "greedy, block"),
        (lambda F: least_time_path(F, 2), "at least p"),
        (lambda F: least_time_path(4, 3), "at least p"),
        (lambda F: least_time_path(F, 4.0), "n: got 4.0"),
        (lambda F: least_time_path(F, 0, prior=jnp.eye(3), objective="greedy"), "n: got 0"),
        (lambda F: least_time_path(0, 1), "F: got 0"),
        (lambda F: least_time_path(F, 4, objective="anytime", restarts=0), "restarts"),
        (lambda F: least_time_path(F, 4, objective="greedy", prior=jnp.ones(3)), "prior: .*shape"),
        (lambda F: least_time_path(F, 4, objective="greedy", prior=1.0), "prior: .*shape"),
        (lambda F: least_time_path(F, 4, objective="greedy", prior=-jnp.eye(3)), "prior: .*eigenvalue"),
        (lambda F: least_time_path(F, 4, objective="anytime", prior=jnp.nan * jnp.eye(3)), "prior: .*nan"),
        (lambda F: least_time_path(F, 4, objective="block", prior=jnp.triu(jnp.ones((3, 3)))), "prior: .*symmetric"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call(_pool(0, 8, 3))


@pytest.mark.slow
def test_paths_on_a_pool(float64):
    F = _pool(5, 40, 4)
    n = 9
    paths = {o: least_time_path(F, n, objective=o, replace=False) for o in ("greedy", "block", "deadline")}
    for path in paths.values():
        np.testing.assert_allclose(path.rows, F[path.indices])
        assert len(set(path.indices.tolist())) == n
        assert np.all(np.isinf(path.values[:3]))
        expected = [float(criterion("A")(information_matrix(F[path.indices[:k]]))) for k in range(4, n + 1)]
        np.testing.assert_allclose(path.values[3:], expected, rtol=1e-9)
        assert np.all(np.diff(path.values[3:]) <= 0)
    assert float(paths["deadline"].values[-1]) == pytest.approx(
        float(exact_design(F, n, replace=False).value), rel=1e-9
    )
    assert float(paths["deadline"].values[-1]) <= float(paths["greedy"].values[-1]) * (1 + 1e-12)
    assert float(paths["block"].values[3]) <= float(paths["greedy"].values[3]) * (1 + 1e-12)
    bound = optimal_weights(F).value / jnp.arange(4.0, n + 1)
    assert np.all(paths["greedy"].values[3:] >= bound)


def test_planning_beats_greedy_on_two_factor_quadratics(float64):
    x = np.array(list(itertools.product([-1.0, 0.0, 1.0], repeat=2)))
    F = jnp.asarray(np.column_stack([np.ones(9), x, x**2, x[:, 0] * x[:, 1]]))
    greedy, planned = (least_time_path(F, 6, objective=o).values[-1] for o in ("greedy", "deadline"))
    assert float(greedy / planned) > 1.09


def test_paths_on_the_sphere(float64):
    greedy, block, deadline = (least_time_path(5, 13, objective=o) for o in ("greedy", "block", "deadline"))
    assert float(deadline.values[-1]) == pytest.approx(25 / 13, rel=1e-12)
    np.testing.assert_allclose(greedy.values[jnp.array([4, 9])], [5.0, 2.5], rtol=1e-12)
    np.testing.assert_allclose(block.values, greedy.values)
    assert float(deadline.values[4]) > float(greedy.values[4]) * 1.01  # no nested path is optimal at every n
    assert set(greedy.indices.tolist()) == {-1}


@pytest.mark.slow
def test_anytime_beats_every_other_path_in_its_own_sum(float64):
    F = _pool(5, 20, 3)
    total = lambda objective: float(jnp.sum(least_time_path(F, 7, objective=objective, restarts=4).values[2:]))
    anytime = total("anytime")
    for other in ("greedy", "block", "deadline"):
        assert anytime <= total(other) * (1 + 1e-12)
    assert anytime < total("greedy") * 0.95


def test_anytime_beats_greedy_on_the_sphere_by_one_or_two_percent(float64):
    greedy, anytime = (least_time_path(3, 8, objective=o) for o in ("greedy", "anytime"))
    np.testing.assert_allclose(jnp.sum(anytime.rows**2, 1), 1, rtol=1e-12)
    ratio = float(jnp.sum(greedy.values[2:]) / jnp.sum(anytime.values[2:]))
    assert 1.005 < ratio < 1.03


def test_the_bound_counts_what_is_known_once(float64):
    """Weighing two things, the first twice weighed before: four more balance them as 1, 3, and no design can do better."""
    F, known = jnp.eye(2), jnp.diag(jnp.array([2.0, 0.0]))
    for options in ({"prior": known}, {"fixed": F[jnp.array([0, 0])]}):
        design = exact_design(F, 4, "A", restarts=2, **options)
        assert design.rows.tolist() == [0, 1, 1, 1]
        assert float(design.value) == pytest.approx(2 / 3, rel=1e-12)
        assert float(design.efficiency) == pytest.approx(1, abs=1e-8)


def test_the_bound_of_t_is_n_times_the_longest_row_and_what_is_known(float64):
    F, prior = jnp.diag(jnp.array([2.0, 1.0])), 0.5 * jnp.eye(2)
    design = exact_design(F, 2, "T", prior=prior, replace=False, restarts=2)
    assert float(design.value) == pytest.approx(1 / (4 + 1 + 1), rel=1e-12)
    assert float(design.efficiency) == pytest.approx((4 + 1 + 1) / (2 * 4 + 1), rel=1e-12)


def test_a_path_starts_from_what_is_known(float64):
    prior = jnp.diag(jnp.array([3.0, 1.0]))
    path = least_time_path(jnp.eye(2), 3, objective="greedy", prior=prior)
    assert path.indices[:2].tolist() == [1, 1]
    np.testing.assert_allclose(path.values, [1 / 3 + 1 / 2, 1 / 3 + 1 / 3, 1 / 3 + 1 / 4], rtol=1e-12)


def _far(at):
    u = np.sort(np.random.default_rng(0).uniform(size=20)).round(6)
    return tuple(jnp.asarray(np.stack([x**0, x, x**2], 1)) for x in (at + u, u))


@pytest.mark.parametrize("objective", ["greedy", "block", "deadline", "anytime"])
def test_paths_do_not_depend_on_where_the_axis_has_its_zero(objective, float64):
    """Shifting x turns 1, x, x^2 by a matrix of determinant 1: D is the same. In raw columns M^-1 keeps no digit at 300."""
    far, near = (least_time_path(F, 5, "D", objective=objective, restarts=2) for F in _far(300.0))
    assert int(far.status) == 0
    assert far.indices.tolist() == near.indices.tolist()
    np.testing.assert_allclose(far.values, near.values, rtol=1e-8)
    np.testing.assert_array_equal(far.rows, _far(300.0)[0][far.indices])


@pytest.mark.slow
def test_values_of_a_path_are_those_of_the_coordinates_given(float64):
    F, prior = _pool(3, 12, 3) * jnp.array([[1.0, 1e-4, 1e3]]), jnp.diag(jnp.array([1.0, 1e-8, 1e6]))
    C = information_matrix(_pool(4, 5, 3))
    for phi in ("A", criterion("I", moment=C)):
        path = least_time_path(F, 4, phi, objective="deadline", prior=prior, restarts=2)
        own = criterion(phi) if isinstance(phi, str) else phi
        expected = [own(information_matrix(F[path.indices[:k]], prior=prior)) for k in range(1, 5)]
        np.testing.assert_allclose(path.values, expected, rtol=1e-9)
        best = exact_design(F, 4, phi, prior=prior, restarts=2)
        assert float(path.values[-1]) <= float(best.value) * (1 + 1e-9)


def test_an_integer_of_numpy_is_a_sphere_too():
    np.testing.assert_array_equal(
        least_time_path(np.int64(3), 4, objective="greedy").rows, least_time_path(3, 4, objective="greedy").rows
    )
