"""Equation 4: H = p v - L with p = dL/dv, by solving for v; and equation 21 read backwards."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnlag_jax import Status
from learnlag_jax.testing import assert_close
from learnlag_jax.variation import conjugate_point, hamiltonian, lagrangian, legendre

CONVEX = {
    "quadratic": (lambda x: 2 * x**2, lambda w: w**2 / 8),
    "quartic": (lambda x: x**4 / 4 + x**2 / 2, None),
    "relativistic": (lambda x: -jnp.sqrt(1 - x**2), lambda w: jnp.sqrt(1 + w**2)),
    "exponential": (lambda x: jnp.exp(x), lambda w: w * jnp.log(w) - w),
    "cosh": (jnp.cosh, lambda w: w * jnp.arcsinh(w) - jnp.sqrt(1 + w**2)),
}


@pytest.mark.parametrize("name", [name for name, (_, G) in CONVEX.items() if G])
def test_closed_forms(name, dtype):
    F, G = CONVEX[name]
    w = jnp.asarray(1.7, dtype)
    assert_close(legendre(F)(w), G(w), ulps=512, scale=4.0)


def test_the_quadratic_shortcut_is_wrong_for_a_quartic(float64):
    """Newton's single step from zero, as peers do it, gives w^2/2; the solved transform is far from it."""
    F, w = CONVEX["quartic"][0], jnp.float64(2.0)
    assert_close(legendre(F)(w), jnp.float64(1.25))  # x = 1 solves x^3 + x = 2
    assert abs(float(w**2 / 2) - 1.25) > 0.5


def _cosh_and_square(stiffness):
    return lambda x: stiffness * jnp.cosh(x) + x**2 / 2


@jax.jit
def _twice(x, stiffness):
    return legendre(legendre(_cosh_and_square(stiffness)))(x)


@given(st.floats(-4, 4), st.floats(0.2, 2))
def test_transforming_twice_is_the_identity(x, stiffness):
    x, stiffness = jnp.float32(x), jnp.float32(stiffness)
    assert_close(_twice(x, stiffness), _cosh_and_square(stiffness)(x), ulps=2048, scale=60.0)


def test_derivatives_of_every_order_go_through_the_solve(float64):
    G, w = legendre(jnp.cosh), 0.9
    closed = lambda w: w * jnp.arcsinh(w) - jnp.sqrt(1 + w**2)
    for _ in range(4):
        assert_close(G(w), closed(w), ulps=1024, scale=2.0)
        G, closed = jax.grad(G), jax.grad(closed)


def test_outside_the_range_of_slopes_the_answer_is_flagged_and_never_a_number(float64):
    found = jax.vmap(lambda w: conjugate_point(jnp.exp, w))(jnp.array([-1.0, 2.0]))
    assert found.status.tolist() == [Status.out_of_domain, Status.converged]
    assert jnp.isnan(found.value).tolist() == [True, False]


def test_a_hamiltonian_of_a_tree_and_back(dtype):
    mass = jnp.array([[2.0, 0.5], [0.5, 1.0]], dtype)
    L = lambda t, q, v: v["x"] @ mass @ v["x"] / 2 + v["y"] ** 2 - q["y"] ** 2
    q = {"x": jnp.array([1.0, -1.0], dtype), "y": jnp.asarray(0.5, dtype)}
    H = hamiltonian(L)
    expected = q["x"] @ jnp.linalg.solve(mass, q["x"]) / 2 + q["y"] ** 2 / 4 + q["y"] ** 2
    assert_close(H(0.0, q, q), expected, ulps=512)
    assert_close(lagrangian(H)(0.0, q, q), L(0.0, q, q), ulps=2048)
