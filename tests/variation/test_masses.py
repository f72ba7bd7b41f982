"""A mass matrix that is singular, or not of the structure it was said to have, is never a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import Status
from learnlag_jax.testing import assert_close
from learnlag_jax.variation import linear, motion, structured


@pytest.mark.parametrize("size", [2, 6])
def test_a_nearly_singular_mass_is_flagged(float64, size):
    """Both the written-out solve of small systems and LAPACK's; a large ratio of units alone is no fault."""

    def status(M):
        L = lambda t, q, v: v @ M @ v / 2 - q @ q
        return jax.jit(lambda q: motion(L)(0.0, q, q))(jnp.ones(size))

    one = jnp.eye(size)
    near = one.at[0, 1].set(1 - 1e-13).at[1, 0].set(1 - 1e-13)
    assert int(status(near).status) == Status.ill_conditioned
    exact = status(one.at[0, 1].set(1.0).at[1, 0].set(1.0))
    assert int(exact.status) == Status.singular
    assert bool(jnp.all(jnp.isnan(exact.value)))
    units = status(one.at[0, 0].set(1e-13))
    assert int(units.status) == 0


def _coupled(strength):
    return lambda t, q, v: jnp.sum(v**2) / 2 + strength * jnp.sum(v[1:] * v[:-1]) - jnp.sum(q**4)


@pytest.mark.parametrize("mass", ["diagonal", "tridiagonal"])
def test_a_mass_that_is_not_what_it_was_said_to_be_is_flagged(float64, mass):
    q = jnp.linspace(0.5, 1.0, 8)
    full = lambda t, q, v: _coupled(0.1)(t, q, v) + 0.05 * jnp.sum(v) ** 2
    solve = lambda L: jax.jit(lambda q: motion(L, mass=mass)(0.0, q, q))(q)
    answer = solve(full)
    assert int(answer.status) == Status.inconsistent
    assert bool(jnp.all(jnp.isnan(answer.value)))
    true = solve(_coupled(0.0 if mass == "diagonal" else 0.1))
    assert int(true.status) == 0
    assert bool(jnp.all(jnp.isfinite(true.value)))


def test_a_singular_tridiagonal_mass_is_flagged(float64):
    """The chain whose middle pivot vanishes to rounding: LAPACK's number would be 1e16."""
    L = lambda t, q, v: (v[0] + v[1]) ** 2 / 2 + v[2] ** 2 / 2 - q @ q
    answer = motion(L, mass="tridiagonal")(0.0, jnp.array([1.0, 2.0, 3.0]), jnp.ones(3))
    assert int(answer.status) == Status.singular
    assert bool(jnp.all(jnp.isnan(answer.value)))


def _quadratic(M, force):
    """L with the mass M whose accelerations solve M a = force."""
    return lambda t, q, v: v @ M @ v / 2 + q @ force


def _moved(M, force, mass):
    L = _quadratic(jnp.asarray(M), jnp.asarray(force))
    return jax.jit(lambda q: motion(L, mass=mass)(0.0, q, q))(jnp.zeros(len(M), M.dtype))


_PAIR = np.diag([1.0] * 8)
_PAIR[0, 1] = _PAIR[1, 0] = 1.0  # only q_0 + q_1 has a mass


@pytest.mark.parametrize(
    "mass, M", [("dense", _PAIR), ("tridiagonal", _PAIR), ("cg", _PAIR), ("diagonal", np.diag([0.0] + [1.0] * 7))]
)
def test_a_singular_mass_is_flagged_though_it_balances_the_forces(float64, mass, M):
    """Many accelerations solve the equation: none of them is the answer."""
    answer = _moved(M, M @ np.linspace(1.0, 2.0, 8), mass)
    assert int(answer.status) == Status.singular
    assert bool(jnp.all(jnp.isnan(answer.value)))
    regular = _moved(M + np.eye(8), np.ones(8), mass)
    assert int(regular.status) == 0


@pytest.mark.parametrize("mass", ["diagonal", "tridiagonal"])
def test_a_wrong_structure_is_flagged_though_this_answer_is_right(float64, mass):
    """a = (1, .., 1) solves row sums as well as M; its derivative in q would be wrong."""
    M = 2 * np.eye(9) + 0.1
    assert int(_moved(M, M @ np.ones(9), mass).status) == Status.inconsistent
    assert_close(_moved(M, M @ np.ones(9), "dense").value, jnp.ones(9), ulps=64)


@pytest.mark.parametrize("mass, n", [("dense", 3), ("dense", 6), ("diagonal", 6), ("tridiagonal", 6)])
def test_masses_in_unlike_units_are_regular(mass, n):
    """Ten powers of ten between neighbours, in single precision."""
    units = np.asarray([1.0, 1e-5, 1e5, 1e-3, 1.0, 1e4], np.float32)[:n]
    M = np.eye(n) + (0.0 if mass == "diagonal" else 0.25) * (np.eye(n, k=1) + np.eye(n, k=-1))
    M = (M * units * units[:, None]).astype(np.float32)
    a = np.linspace(1.0, 2.0, n) / units
    answer = _moved(M, (M.astype(np.float64) @ a).astype(np.float32), mass)
    assert int(answer.status) == 0
    np.testing.assert_allclose(np.asarray(answer.value) * units, a * units, rtol=64 * np.finfo(np.float32).eps)


def test_pivots_that_look_healthy_do_not_hide_a_singular_matrix(float64):
    """1 on the diagonal and -1 above it: every pivot is 1, the condition number is about n 2^(n - 1)."""
    solved = lambda n: linear.solve(jnp.eye(n) - jnp.triu(jnp.ones((n, n)), 1), jnp.ones(n))
    assert [int(solved(n)[1]) for n in (20, 38, 60)] == [0, Status.ill_conditioned, Status.singular]
    assert_close(solved(20)[0], jnp.exp2(jnp.arange(19.0, -1, -1)), ulps=2)


@pytest.mark.parametrize(
    "mass, size",
    [("dense", 1), ("dense", 2), ("dense", 3), ("dense", 6), ("diagonal", 6), ("tridiagonal", 6), ("cg", 6)],
)
def test_a_masked_failure_leaves_the_gradient_of_the_others_finite(float64, mass, size):
    """The first member of the batch has no mass at all."""
    L = lambda m: lambda t, q, v: m * v @ v / 2 - q @ q / 2

    def total(m):
        moved = jax.vmap(lambda m: motion(L(m), mass=mass)(0.0, jnp.ones(size), jnp.ones(size)))(m)
        return jnp.sum(jnp.where(moved.status[:, None] == 0, moved.value, 0.0))

    m = jnp.array([0.0, 2.0])
    value, slope = jax.jit(jax.value_and_grad(total))(m)  # a = -1 / m
    assert_close(value, jnp.asarray(-size / 2.0), ulps=16)
    assert_close(slope, jnp.array([0.0, size / 4.0]), ulps=16)


def test_a_written_out_system_agrees_with_lapack_whatever_its_pivots(float64):
    """Nothing but rounding on the diagonal needs the exchange of rows; columns of unlike size their scaling."""
    draw = np.random.default_rng(0)
    for n in (2, 3, 4):
        A = draw.normal(size=(20, n, n)) * np.where(np.eye(n), 1e-14, 1) * 10.0 ** np.arange(0, 12, 3)[:n]
        x, status = jax.vmap(linear.solve)(jnp.asarray(A), jnp.ones((20, n)))
        exact = np.linalg.solve(A, np.ones((20, n, 1)))[..., 0]
        assert not np.any(status)
        np.testing.assert_allclose(x, exact, rtol=1e-9)


def test_conjugate_gradients_that_stop_early_are_no_number(float64):
    apply, b = lambda x: jnp.arange(1.0, 9.0) * x, jnp.ones(8)
    early, status = structured.positive_definite(apply, b, steps=3)
    assert int(status) == Status.max_steps
    assert bool(jnp.all(jnp.isnan(early)))
    whole, status = structured.positive_definite(apply, b)
    assert int(status) == 0
    assert_close(whole, 1 / jnp.arange(1.0, 9.0), ulps=64)
