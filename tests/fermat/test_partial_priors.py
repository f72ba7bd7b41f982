"""Priors of some directions only: what they know is used, what they leave unknown is seen first."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax.fermat import least_time_path
from learnlag_jax.fermat.matrices import rank

PRIOR = np.diag([1.0, 0.0, 0.0])


def _pool():
    return np.random.default_rng(1).normal(size=(9, 3))


def _values(rows):
    """tr M_k^-1 after every row of (..., n, p), +inf where singular, by NumPy."""
    M = PRIOR + np.cumsum(rows[..., :, None] * rows[..., None, :], -3)
    ok = np.linalg.cond(M) < 1e10
    return np.where(
        ok, np.trace(np.linalg.inv(np.where(ok[..., None, None], M, np.eye(3))), axis1=-2, axis2=-1), np.inf
    )


def test_a_row_seen_before_is_a_prior_in_any_basis(float64):
    """In the basis of the pool the third of a rank-one prior's eigenvalues is -6e-13: rounding of ours, not a fault of the user's."""
    x = jnp.linspace(3.0, 4.0, 41)
    F = jnp.stack([x**0, x, x**2], 1)
    prior = F[:1].T @ F[:1] / 10
    path = least_time_path(F, 5, objective="block", block=5, prior=prior, restarts=2)
    assert float(path.values[-1]) == pytest.approx(2569.575757576, rel=1e-9)  # by `exact_design`


def test_greedy_and_the_order_of_a_path_see_what_is_unknown_first(float64):
    F = jnp.asarray(_pool())
    greedy, planned = (least_time_path(F, 4, objective=o, prior=PRIOR, restarts=2) for o in ("greedy", "deadline"))
    for path in (greedy, planned):  # of the first value of greedy, rounding says 1e17
        np.testing.assert_allclose(path.values, _values(np.asarray(path.rows)), rtol=1e-9)
        assert np.isfinite(path.values[1:]).all()
        assert int(path.status) == 0
    best = min(_values(np.asarray(planned.rows)[list(pair)])[1] for pair in itertools.combinations(range(4), 2))
    assert float(planned.values[1]) == pytest.approx(best, rel=1e-9)


def test_anytime_counts_from_where_everything_can_be_known(float64):
    F = _pool()
    paths = F[np.array(list(itertools.product(range(9), repeat=4)))]
    best = _values(paths)[:, 1:].sum(1).min()
    got = least_time_path(F, 4, objective="anytime", prior=PRIOR, restarts=2).values[1:].sum()
    assert float(got) == pytest.approx(best, rel=1e-9)


def test_the_rank_of_a_prior_does_not_depend_on_units(dtype):
    rows = np.random.default_rng(0).normal(size=(500, 2)) @ np.random.default_rng(1).normal(size=(2, 4))
    rows = jnp.asarray(rows * np.array([1e-6, 1.0, 1e3, 1e6]), dtype)
    assert [int(rank(S)) for S in (rows.T @ rows, 0 * rows.T @ rows, jnp.eye(4, dtype=dtype))] == [2, 0, 4]


def test_under_jit_a_partial_prior_is_greedy_about_what_is_unknown(float64):
    F = jnp.asarray(_pool())
    path = lambda prior: least_time_path(F, 4, objective="greedy", prior=prior)
    np.testing.assert_array_equal(jax.jit(path)(jnp.asarray(PRIOR)).indices, path(jnp.asarray(PRIOR)).indices)
