"""Equation 3: stationary action gives Newton's law, from a sum of steps as well as from an integral."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax.testing import assert_close
from learnlag_jax.variation import acceleration, discrete_euler_lagrange, discrete_lagrangian, energy, integrate


def _pendulum(t, q, v):
    return jnp.sum(v**2) / 2 + jnp.sum(jnp.cos(q))


def test_m_a_is_minus_grad_v(dtype):
    V = lambda q: jnp.sum(jnp.sin(q)) + q[0] * q[1] ** 2
    q, v = jnp.array([0.3, -0.7], dtype), jnp.array([1.0, 2.0], dtype)
    a = acceleration(lambda t, q, v: 3 * jnp.sum(v**2) / 2 - V(q))(0.0, q, v)
    assert_close(3 * a, -jax.grad(V)(q))
    assert float(jnp.max(jnp.abs(a + jax.grad(V)(q)))) > 0.1  # the control: the mass forgotten


@pytest.mark.parametrize(
    "rule, stages, order",
    [("midpoint", 1, 2), ("trapezoid", 1, 2), ("gauss", 2, 4)],
)
def test_integrators_have_their_order_on_a_nonlinear_problem(float64, rule, stages, order):
    q0 = jnp.array([1.0])

    @jax.jit
    def first(h):
        """The position after one step, by 64 small ones of order four, whose own start is a Taylor series."""
        fine = discrete_lagrangian(_pendulum, h / 64, rule="gauss", stages=2)
        q1 = q0 - (h / 64) ** 2 / 2 * jnp.sin(q0) + (h / 64) ** 4 / 24 * jnp.sin(q0) * jnp.cos(q0)
        return integrate(fine, q0, q1, 63)[-1]

    def end(n):
        Ld = discrete_lagrangian(_pendulum, 1.0 / n, rule=rule, stages=stages)
        return float(integrate(Ld, q0, first(jnp.asarray(1.0 / n)), n - 1)[-1, 0])

    exact = end(64)
    errors = np.abs([end(n) - exact for n in (4, 8, 16)])
    slopes = np.diff(np.log(errors)) / np.log(0.5)
    assert np.all(np.abs(slopes - order) < 0.35), (errors, slopes)


def test_every_step_is_stationary_and_symplectic_and_energy_does_not_drift(float64):
    h = 0.1
    Ld = discrete_lagrangian(_pendulum, h)
    q0 = jnp.array([1.0, -0.5])
    flow = lambda q0, q1: integrate(Ld, q0, q1, 200)
    q = jnp.concatenate([q0[None], flow(q0, q0 + 0.01)])
    k = jnp.arange(1, len(q) - 1)
    E = jax.vmap(discrete_euler_lagrange(Ld))(k, q[:-2], q[1:-1], q[2:])
    assert float(jnp.max(jnp.abs(E))) < 1e-12
    v, middle = jnp.diff(q, axis=0) / h, (q[1:] + q[:-1]) / 2
    total = jax.vmap(lambda q, v: energy(_pendulum)(0.0, q, v))(middle, v)
    assert float(jnp.ptp(total)) < 5 * h**2
    kicked = q.at[50].add(1e-6)
    assert (
        float(jnp.max(jnp.abs(jax.vmap(discrete_euler_lagrange(Ld))(k, kicked[:-2], kicked[1:-1], kicked[2:])))) > 1e-6
    )

    # symplectic: the form D_1 D_2 L_d is carried unchanged by the step (q0, q1) -> (q1, q2)
    step = lambda z: jnp.concatenate([z[2:], integrate(Ld, z[:2], z[2:], 1)[-1]])
    z = jnp.concatenate([q0, q0 + 0.03])

    def form(z):
        B = jax.jacfwd(jax.grad(lambda a, b: Ld(0, a, b), 0), 1)(z[:2], z[2:])
        return jnp.block([[jnp.zeros((2, 2)), B], [-B.T, jnp.zeros((2, 2))]])

    D = jax.jacfwd(step)(z)
    assert_close(D.T @ form(step(z)) @ D, form(z), ulps=1e4)
    damped = 0.99 * D
    assert float(jnp.max(jnp.abs(damped.T @ form(step(z)) @ damped - form(z)))) > 1e-2
