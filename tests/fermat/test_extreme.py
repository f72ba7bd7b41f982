"""E and G, criteria with corners: known optima, certificates worked out again by NumPy, other solvers, and where they end."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from learnlag_jax import InputError, Status
from learnlag_jax.fermat import criterion, equivalence_gap, information_matrix, optimal_weights
from learnlag_jax.fermat.extreme import Lists, _certified
from learnlag_jax.fermat.minimax import minimax
from learnlag_jax.fermat.semidefinite import _Vector


def _powers(x, degree):
    return np.vander(np.asarray(x), degree + 1, increasing=True)


def _chebyshev(degree):
    """Extrema of T_d on [-1, 1], its coefficients, and the weights of the E-optimal design on them."""
    x = np.cos(np.pi * np.arange(degree, -1, -1) / degree)
    c = np.polynomial.chebyshev.cheb2poly([0] * degree + [1])
    signs = (-1.0) ** np.arange(degree, -1, -1)
    return x, c, signs * np.linalg.solve(_powers(x, degree).T, c) / (c @ c)


@pytest.mark.parametrize("degree", [2, 3, 5])
def test_polynomials_are_e_optimal_at_chebyshev_points(degree, float64):
    """Pukelsheim and Studden (1993): 1 / lambda_min is the sum of the squared coefficients of T_d."""
    x, c, w = _chebyshev(degree)
    grid = np.unique(np.round(np.concatenate([np.linspace(-1, 1, 801), x]), 14))
    design = optimal_weights(jnp.asarray(_powers(grid, degree)), "E")
    assert int(design.status) == Status.converged
    assert float(design.gap) <= 1e-9
    assert float(design.value) == pytest.approx(c @ c, rel=1e-9)
    found = np.asarray(design.weights)
    assert found[np.min(np.abs(grid[:, None] - x), 1) > 1e-9].sum() < 1e-6
    near = [found[np.abs(grid - point) < 1e-9].sum() for point in x]
    np.testing.assert_allclose(near, w, atol=1e-6)
    uniform = float(
        criterion("E")(information_matrix(jnp.asarray(_powers(x, degree)), jnp.full(degree + 1, 1 / (degree + 1))))
    )
    assert uniform > c @ c * 1.01  # equal weights on the right points are not it


def test_the_support_is_exact(float64):
    """A fine grid tempts with neighbours of the three points; the answer does without them."""
    design = optimal_weights(jnp.asarray(_powers(np.linspace(-1, 1, 2001), 2)), "E")
    assert list(np.flatnonzero(np.asarray(design.support))) == [0, 1000, 2000]
    np.testing.assert_allclose(design.weights[design.support], [0.2, 0.6, 0.2], rtol=1e-5)  # value is flat there


def test_every_eigenvalue_the_same(float64):
    """Unit rows: the optimum is M = I / p, where only a mixture over the whole space certifies."""
    rows = np.random.default_rng(0).normal(size=(300, 4))
    F = jnp.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    design = optimal_weights(F, "E")
    M = information_matrix(F, design.weights)
    np.testing.assert_allclose(np.linalg.eigvalsh(M), 0.25, rtol=1e-9)
    assert float(design.gap) <= 1e-9
    assert float(equivalence_gap(M, F, "E")) > 0.3  # one eigenvector alone certifies nothing here


def test_extrapolation(float64):
    """Two points -1, 1 with weights 1/4, 3/4: the variance at 2, 9 / (4 (1 - a)) + 1 / (4 a), is least at a = 1/4, with value 4."""
    F = jnp.asarray(_powers(np.linspace(-1, 1, 21), 1))
    design = optimal_weights(F, criterion("G", region=jnp.asarray(_powers([1.0, 2.0], 1))))
    assert float(design.gap) <= 1e-9
    np.testing.assert_allclose(np.asarray(design.weights)[[0, -1]], [0.25, 0.75], atol=1e-7)
    assert float(design.value) == pytest.approx(4.0, rel=1e-9)


def test_extrapolation_to_a_fine_region_has_chebyshevs_value(float64):
    """Over [1, 2] the variance of a cubic's prediction is worst at 2: the c-optimal value T_3(2)^2 = 26^2 (Hoel and Levine, 1964)."""
    region = jnp.asarray(_powers(np.linspace(1, 2, 1501), 3))
    grid = np.union1d(np.linspace(-1, 1, 1001), [-0.5, 0.5])
    design = optimal_weights(jnp.asarray(_powers(grid, 3)), criterion("G", region=region))
    assert int(design.status) == Status.converged
    assert float(design.value) == pytest.approx(676.0, rel=1e-9)


@pytest.mark.slow
def test_too_few_rounds_are_said_and_their_bound_is_true(float64):
    """A region longer than the list of judges, worst at an end that the smooth design does not see."""
    F, region = (jnp.asarray(_powers(np.linspace(-1, end, 777), 2)) for end in (1.0, 1.2))
    solved = lambda rounds: optimal_weights(F, criterion("G", region=region), max_rounds=rounds)
    few, enough = solved(1), solved(60)
    assert int(few.status) == Status.max_steps
    assert int(enough.status) == Status.converged
    assert float(few.gap) > 1e-9
    assert float(few.value) * (1 - float(few.gap)) <= float(enough.value) <= float(few.value)


def test_symmetric_matrices_as_vectors(dtype):
    vector, draw = _Vector(4, dtype), np.random.default_rng(0)
    S, Y = (A + A.T for A in draw.normal(size=(2, 4, 4)))
    eps = 50 * float(jnp.finfo(dtype).eps)
    s, y = vector.of(jnp.asarray(S, dtype)), vector.of(jnp.asarray(Y, dtype))
    np.testing.assert_allclose(vector.matrix(s), S, atol=eps)
    assert float(s @ y) == pytest.approx(np.sum(S * Y), abs=eps)
    np.testing.assert_allclose(vector.matrix(vector.product(jnp.asarray(S, dtype)) @ y), (S @ Y + Y @ S) / 2, atol=eps)


@pytest.mark.slow
def test_twenty_directions(float64):
    """Most of them share the smallest eigenvalue."""
    F = np.random.default_rng(0).normal(size=(5000, 20))
    design = optimal_weights(jnp.asarray(F), "E")
    assert float(design.gap) <= 1e-9
    l = np.linalg.eigvalsh(F.T @ (np.asarray(design.weights)[:, None] * F))
    assert float(design.value) == pytest.approx(1 / l[0], rel=1e-12)
    assert np.sum(l < l[0] * (1 + 1e-6)) > 10


def _bound(F, judges, w, mixture, prior):
    """A lower bound on the worst variance of any design on F, by convexity of tr M^-1 C in M; and that of w."""
    M = F.T @ (w[:, None] * F) + prior
    D = np.linalg.inv(M)
    C = judges.T @ (mixture[:, None] * judges)
    worth = np.einsum("ia,ab,ib->i", F, D @ C @ D, F)
    return np.trace(D @ C) - (worth.max() - w @ worth), np.einsum("ja,ab,jb->j", judges, D, judges).max()


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.booleans())
def test_the_saddle_point_closes_the_gap(seed, informed):
    """The mixture's bound meets the worst variance: by NumPy, knowing nothing of Newton. Halfway to equal weights it does not."""
    with jax.enable_x64(True):
        draw = np.random.default_rng(seed)
        F, judges = draw.normal(size=(30, 4)), draw.normal(size=(12, 4))
        prior = np.diag(draw.uniform(0.1, 2, 4)) * informed
        w, mixture = minimax(
            jnp.asarray(F), jnp.asarray(judges), jnp.asarray(prior) if informed else None, jnp.asarray(1e-12)
        )
        w, mixture = np.asarray(w), np.asarray(mixture)
        lower, value = _bound(F, judges, w, mixture, prior)
        assert value - lower <= 1e-10 * value
        assert np.all(w > 0)
        np.testing.assert_allclose([w.sum(), mixture.sum()], 1, rtol=1e-12)
        lower, value = _bound(F, judges, (w + 1 / 30) / 2, mixture, prior)
        assert value - lower > 1e-3 * value


@pytest.mark.parametrize("kind", ["E", "G"])
def test_longer_than_the_lists_and_both_precisions(kind, dtype):
    draw = np.random.default_rng(2)
    F, region = jnp.asarray(draw.normal(size=(2000, 3)), dtype), jnp.asarray(draw.normal(size=(900, 3)), dtype)
    design = optimal_weights(F, criterion("G", region=region) if kind == "G" else "E")
    assert design.weights.dtype == dtype
    assert int(design.status) == Status.converged
    assert float(design.gap) <= max(1e-9, 300 * float(jnp.finfo(dtype).eps))
    X, w = np.asarray(F, np.float64), np.asarray(design.weights, np.float64)
    D = np.linalg.inv(X.T @ (X * w[:, None]))
    R = np.asarray(region, np.float64)
    worst = np.linalg.eigvalsh(D)[-1] if kind == "E" else np.einsum("ja,ab,jb->j", R, D, R).max()
    assert float(design.value) == pytest.approx(worst, rel=100 * float(jnp.finfo(dtype).eps))


def test_e_with_a_prior_and_a_pool_that_does_not_span_against_a_general_optimiser(float64):
    draw = np.random.default_rng(3)
    F = draw.normal(size=(12, 3)) * [1.0, 1.0, 0.0]
    prior = np.diag([0.05, 0.1, 0.3])
    design = optimal_weights(jnp.asarray(F), "E", prior=jnp.asarray(prior))
    slack = {"type": "ineq", "fun": lambda v: np.linalg.eigvalsh(F.T @ (F * v[:-1, None]) + prior)[0] - v[-1]}
    total = {"type": "eq", "fun": lambda v: v[:-1].sum() - 1}
    start = np.append(np.full(12, 1 / 12), 0.0)
    options = {"ftol": 1e-12, "maxiter": 500}
    other = minimize(
        lambda v: -v[-1],
        start,
        constraints=[slack, total],
        bounds=[(0, 1)] * 12 + [(0, None)],
        method="SLSQP",
        options=options,
    )
    assert float(design.gap) <= 1e-9
    assert float(design.value) <= -1 / other.fun * (1 + 1e-9)
    assert float(design.value) >= -1 / other.fun * (1 - 1e-3)
    assert -1 / (F.T @ F / 12 + prior)[2, 2] > -float(design.value) - 1e-9  # the third direction has the prior alone


def test_candidates_of_several_rows(float64):
    """Each candidate observes two responses: the certificate of a G-optimal design, worked out again."""
    draw = np.random.default_rng(5)
    F, R = draw.normal(size=(40, 2, 3)), draw.normal(size=(25, 3))
    design = optimal_weights(jnp.asarray(F), criterion("G", region=jnp.asarray(R)))
    assert float(design.gap) <= 1e-9
    M = np.einsum("i,ika,ikb->ab", np.asarray(design.weights), F, F)
    value = np.einsum("ja,ab,jb->j", R, np.linalg.inv(M), R).max()
    assert float(design.value) == pytest.approx(value, rel=1e-12)
    for seed in range(200):  # no design nearby is better
        other = np.asarray(design.weights) * np.exp(0.01 * np.random.default_rng(seed).normal(size=40))
        M = np.einsum("i,ika,ikb->ab", other / other.sum(), F, F)
        assert np.einsum("ja,ab,jb->j", R, np.linalg.inv(M), R).max() >= value * (1 - 1e-9)


@pytest.mark.parametrize("kind", ["E", "G"])
@pytest.mark.parametrize("informed", [False, True])
def test_the_gap_of_a_poor_design_is_its_bound_by_numpy(kind, informed, float64):
    draw = np.random.default_rng(8)
    F, R, w = draw.normal(size=(30, 3)), draw.normal(size=(7, 3)), draw.dirichlet(20 * np.exp(draw.normal(size=30)))
    prior, root = np.diag([0.03, 0.01, 0.02]) * informed, draw.normal(size=(3, 3))
    X = root @ root.T / np.trace(root @ root.T)
    M = F.T @ (w[:, None] * F) + prior
    D = np.linalg.inv(M)
    worst = np.linalg.eigvalsh(D)[-1] if kind == "E" else np.einsum("ja,ab,jb->j", R, D, R).max()
    C = R.T @ R / 7
    s = np.einsum("ia,ab,ib->i", F, X if kind == "E" else D @ C @ D, F)
    mean = np.trace(D @ C)  # homogeneous without a prior, convex with one
    lower = 1 / (s.max() + np.trace(X @ prior)) if kind == "E" else mean - (s.max() - w @ s)
    lower = mean**2 / s.max() if kind == "G" and not informed else max(lower, 0)
    lists = Lists(jnp.arange(30), jnp.asarray(w), jnp.asarray(R), jnp.full(7, 1 / 7))
    phi = criterion("E") if kind == "E" else criterion("G", region=jnp.asarray(R))
    given = jnp.asarray(prior) if informed else None
    design = _certified(jnp.asarray(F), phi, given, lists, jnp.asarray(X if kind == "E" else C)).design
    assert float(design.value) == pytest.approx(worst, rel=1e-12)
    assert float(design.gap) == pytest.approx(1 - lower / worst, rel=1e-9)
    best = optimal_weights(jnp.asarray(F), phi, prior=given)
    assert lower < float(best.value) < worst * 0.99


@pytest.mark.parametrize("kind, known", [("E", 0.0), ("E", 1e-9), ("G", 0.0)])
def test_a_light_row_that_the_design_needs_is_kept(kind, known, float64):
    """diag(1, 1e-3): the optimum gives the first row a millionth of the weight, a thousandth of the tolerance."""
    F = jnp.zeros((200, 2)).at[0, 0].set(1.0).at[1:, 1].set(1e-3)
    prior = known * jnp.eye(2) if known else None
    design = optimal_weights(F, criterion("G", region=jnp.eye(2)) if kind == "G" else "E", tol=1e-2, prior=prior)
    assert int(design.status) == Status.converged
    D = np.linalg.inv(information_matrix(F, design.weights, prior))
    assert float(design.value) == pytest.approx(np.linalg.eigvalsh(D)[-1], rel=1e-9)
    assert float(design.value) == pytest.approx(1e6 + 1, rel=1e-2)


def test_a_dominating_prior_is_not_certified_beyond_rounding(float64):
    for seed in range(6):
        draw = np.random.default_rng(seed)
        F, v = draw.normal(size=(30, 3)), draw.normal(size=3)
        prior = np.outer(v, v) * 1e11
        design = optimal_weights(jnp.asarray(F), "E", prior=jnp.asarray(prior))
        with mpmath.workdps(40):
            M = mpmath.matrix((F.T * np.asarray(design.weights)).tolist()) * mpmath.matrix(F.tolist())
            exact = float(1 / min(mpmath.eigsy(M + mpmath.matrix(prior.tolist()), eigvals_only=True)))
        assert float(design.value) * (1 - float(design.gap)) <= exact
        assert abs(float(design.value) / exact - 1) <= float(design.gap)


def test_derivatives_are_refused_by_name(float64):
    F = jnp.asarray(np.random.default_rng(6).normal(size=(9, 2)))
    with pytest.raises(InputError, match="without corners.*q=20"):
        jax.grad(lambda F: optimal_weights(F, "E").value)(F)
    with pytest.raises(InputError, match="without corners"):
        jax.grad(lambda R: optimal_weights(F, criterion("G", region=R)).value)(jnp.eye(2))


def test_pools_that_do_not_span_are_named(float64):
    flat = jnp.asarray(np.random.default_rng(7).normal(size=(9, 3)) * [1.0, 1.0, 0.0])
    for phi in ("E", criterion("G", region=jnp.eye(3))):
        design = optimal_weights(flat, phi)
        assert int(design.status) == Status.rank_deficient
        assert bool(jnp.all(jnp.isnan(design.weights)))
        assert float(design.gap) == 1.0


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"tol": 1.0}, "tol: got 1.0"),
        ({"tol": 0.0}, "tol: got 0.0"),
        ({"max_rounds": -1}, "max_rounds: got -1"),
        ({"prior": -0.1 * np.eye(2)}, "prior: got an eigenvalue of -0.1"),
        ({"prior": np.triu(np.ones((2, 2)))}, "prior: got entries apart by 1"),
        ({"prior": np.full((2, 2), np.nan)}, "prior: got nan"),
    ],
)
def test_bad_arguments_are_named(arguments, said, float64):
    with pytest.raises(InputError, match=said):
        optimal_weights(jnp.asarray(np.random.default_rng(9).normal(size=(9, 2))), "E", **arguments)


@pytest.mark.parametrize("region", [np.full((3, 2), np.nan), np.array([[1.0, np.inf]]), np.zeros((0, 2))])
def test_bad_regions_are_named(region, float64):
    with pytest.raises(InputError, match="region"):
        criterion("G", region=jnp.asarray(region))


@pytest.mark.parametrize("kind, p, k, seed, least", [("E", 3, 0, 0, 1e-5), ("G", 5, 2, 1, 1e-3), ("G", 3, 0, 5, 1e-5)])
def test_a_prior_that_outweighs_the_pool_a_million_times_costs_no_digits(kind, p, k, seed, least, float64):
    draw = np.random.default_rng(seed)
    F = jnp.asarray(draw.normal(size=(150, k, p) if k else (150, p)) * np.geomspace(1, least, p))
    phi = criterion("G", region=jnp.asarray(draw.normal(size=(40, p)))) if kind == "G" else criterion("E")
    design = optimal_weights(F, phi, prior=jnp.eye(p) * 0.01)
    assert int(design.status) == Status.converged
    assert float(design.gap) <= 1e-9
