"""Bounds against exact arithmetic on the numbers that are stored, where rounding of row sums is magnified most."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status
from learnlag_jax.control import bounds, mdp_dense, mdp_functions, solve_mdp
from learnlag_jax.control.bellman import factors

DISCOUNTS = (0.95, 0.99, 0.99999, 0.9999999)


def exactly(mdp) -> list[Fraction]:
    """The best values over all policies, by elimination in fractions."""
    P, R, g = np.asarray(mdp.transition.probability), np.asarray(mdp.reward), Fraction(float(mdp.discount))
    S, A = R.shape
    best = None
    for policy in itertools.product(range(A), repeat=S):
        rows = [[Fraction(i == j) - g * Fraction(float(P[i, policy[i], j])) for j in range(S)] for i in range(S)]
        rows = [[*row, Fraction(float(R[i, policy[i]]))] for i, row in enumerate(rows)]
        value = _eliminated(rows)
        best = value if best is None else [max(x, y) for x, y in zip(best, value, strict=True)]
    return best or []


def _eliminated(rows):
    """Diagonally dominant by rows: no pivoting needed."""
    for i in range(len(rows)):
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for j in range(len(rows)):
            if j != i:
                rows[j] = [x - rows[j][i] * y for x, y in zip(rows[j], rows[i], strict=True)]
    return [row[-1] for row in rows]


def encloses(got, exact) -> bool:
    """Infinite bounds prove nothing, and are not wrong."""
    low = all(x == -np.inf or Fraction(x) <= y for x, y in zip(map(float, got.lower), exact, strict=True))
    return low and all(x == np.inf or y <= Fraction(x) for x, y in zip(map(float, got.upper), exact, strict=True))


@pytest.mark.parametrize("discount", DISCOUNTS)
@pytest.mark.parametrize("traced", [False, True])
def test_equal_rows_that_do_not_quite_sum_to_one(dtype, discount, traced):
    """A reward of one in every state: V = 1 / (1 - discount x row sum), whatever the row."""
    build = lambda P: mdp_dense(P, jnp.ones((len(P), 1), dtype), discount)
    for S in (1, 3, 7):
        P = jnp.full((S, 1, S), 1 / S, dtype)
        mdp = build(P)
        exact = 1 / (1 - Fraction(float(mdp.discount)) * sum(Fraction(float(p)) for p in np.asarray(P)[0, 0]))
        got = jax.jit(lambda P: solve_mdp(build(P)))(P) if traced else solve_mdp(mdp)
        assert encloses(got, [exact] * S)
        gap = float(jnp.max(got.upper - got.lower))
        assert int(got.status) == (Status.converged if gap <= 1e-6 else Status.acceptable)
        if not traced:
            # roundings of 1 - g and of T v; row sums are known to the digits of a wider float
            wide = float(np.finfo(np.longdouble if dtype == "float64" else np.float64).eps)
            assert gap <= (64 * float(jnp.finfo(dtype).eps) + 8 * S * wide * float(exact)) * float(exact)


@pytest.mark.parametrize("discount", DISCOUNTS)
def test_random_processes_under_all_policies(dtype, discount):
    rng = np.random.default_rng(0)
    for ends in (False, True):
        P = rng.random((3, 2, 3))
        P = P / P.sum(-1, keepdims=True) * (rng.uniform(0.5, 0.99, (3, 2, 1)) if ends else 1)
        mdp = mdp_dense(jnp.asarray(P, dtype), jnp.asarray(rng.normal(size=(3, 2)), dtype), discount, ends=ends)
        exact = exactly(mdp)
        got = solve_mdp(mdp)
        assert int(got.status) in (Status.converged, Status.acceptable)
        assert encloses(got, exact)
        for v in (got.value, jnp.zeros(3, dtype), jnp.asarray([1e3, -1.0, 0.0], dtype)):
            assert encloses(bounds(mdp, v), exact)
        off = [x + Fraction(2 * float(jnp.max(got.upper - got.lower))) for x in exact]
        assert not encloses(got, off)


def test_row_sums_are_measured_finer_than_the_numbers_hold(float64):
    """Seven sevenths: 1 + 4.5e-8 in float32, where one more bit is 1.2e-7; a discount that forgives no more is not refused."""
    P = np.full((7, 1, 7), np.float32(1) / np.float32(7))
    mdp = mdp_dense(P, np.ones((7, 1), np.float32), 0.9999999)
    exact = float(7 * Fraction(float(P[0, 0, 0])) - 1)
    assert float(mdp.excess[0]) <= exact <= float(mdp.excess[1])
    assert float(mdp.excess[1] - mdp.excess[0]) <= 1e-6 * exact
    with pytest.raises(InputError, match="discount"):
        mdp_dense(P, np.ones((7, 1), np.float32), 1.0)


@pytest.mark.parametrize("total", [0.3, 1.0])
def test_row_sums_are_rounded_outward(dtype, total):
    """0.7 less than one has digits that only a wider float holds, and entries of unlike sizes have more than that has."""
    for seed in range(20):
        draw = np.random.default_rng(seed)
        P = draw.random((1, 1, 8)) * np.geomspace(1, 1e-12, 8) if total == 1 else draw.dirichlet(np.ones(3), (1, 1))
        P = (P / P.sum() * total).repeat(P.shape[-1], 0)
        mdp = mdp_dense(jnp.asarray(P, dtype), jnp.ones((len(P), 1), dtype), 0.9, ends=True)
        exact = sum(Fraction(float(p)) for p in np.asarray(mdp.transition.probability)[0, 0]) - 1
        low, high = (Fraction(float(x)) for x in mdp.excess)
        assert low <= exact <= high
        assert high - low <= Fraction(4 * float(jnp.finfo(dtype).eps))


def test_what_a_constant_increment_adds_up_to_is_enclosed(dtype):
    """g / (1 - g), without the rounding of T v, which hides what it loses itself."""
    P = jnp.full((3, 1, 3), 1 / 3, dtype)
    row = 3 * Fraction(float(P[0, 0, 0]))
    for discount in 1 - np.geomspace(0.5, 1e-5, 200):
        mdp = mdp_dense(P, jnp.ones((3, 1), dtype), jnp.asarray(discount, dtype))
        g = Fraction(float(mdp.discount)) * row
        below, above = (Fraction(float(x)) for x in factors(mdp))
        assert below <= g / (1 - g) <= above
        wide = np.longdouble if dtype == "float64" else np.float64  # in which row sums are taken
        known = 64 * Fraction(float(jnp.finfo(dtype).eps)) + 24 * Fraction(float(np.finfo(wide).eps)) * above
        assert above - below <= known * above


def test_functions_enclose_as_arrays_do(dtype):
    """The same seven sevenths from a function."""
    seventh = jnp.asarray(1 / 7, dtype)
    mdp = mdp_functions(
        lambda s, a, theta: jnp.ones((), dtype),
        lambda s, a, j, theta: (j, seventh),
        0.999,
        states=7,
        actions=1,
        outcomes=7,
        dtype=dtype,
    )
    exact = 1 / (1 - Fraction(float(mdp.discount)) * 7 * Fraction(float(seventh)))
    assert encloses(solve_mdp(mdp), [exact] * 7)


def test_many_outcomes_in_single_precision_lose_nothing():
    """Their sum is taken as exactly as on the host, though JAX may have no wider float: a discount of 0.99999 is not refused."""
    share, one = jnp.float32(1 / 500), jnp.float32(1)
    outcome = lambda s, a, j, theta: ((s + j) % 3, share)
    with jax.enable_x64(False):
        mdp = mdp_functions(lambda s, a, theta: one, outcome, 0.99999, states=3, actions=1, outcomes=500)
        P = jnp.zeros((600, 1, 600)).at[:, :, :2].set(0.5)
        halves = jax.jit(lambda P: mdp_dense(P, jnp.ones((600, 1)), 0.9).excess)(P)
    exact = 500 * Fraction(float(share)) - 1
    low, high = (Fraction(float(x)) for x in mdp.excess)
    assert low <= exact <= high
    assert high - low <= Fraction(1e-3) * abs(exact)
    assert float(jnp.max(jnp.abs(halves))) <= 1e-30
