"""Steps: momenta, forces, symmetries and symplecticity of discrete actions, on nonlinear problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnlag_jax import InputError
from learnlag_jax.testing import assert_close
from learnlag_jax.variation import (
    canonical_defect,
    discrete_action,
    discrete_euler_lagrange,
    discrete_force,
    discrete_lagrangian,
    discrete_momenta,
    discrete_noether,
    first_step,
    integrate,
)


def _planar(t, q, v):
    return v @ v / 2 - jnp.log(1 + q @ q)


def test_the_residual_is_the_gradient_of_the_sampled_action(float64):
    Ld = discrete_lagrangian(lambda t, q, v: jnp.exp(-t) * _planar(t, q, v), 0.3)
    path = jax.random.normal(jax.random.key(0), (6, 2))
    slope = jax.jit(jax.grad(lambda path: discrete_action(Ld, path)))(path)
    k = jnp.arange(1, 5)
    residual = jax.jit(jax.vmap(discrete_euler_lagrange(Ld)))
    assert_close(residual(k, path[:-2], path[1:-1], path[2:]), slope[1:-1], ulps=256)
    assert float(jnp.max(jnp.abs(residual(k - 1, path[:-2], path[1:-1], path[2:]) - slope[1:-1]))) > 1e-2  # wrong time
    with pytest.raises(InputError, match="two"):
        discrete_action(Ld, path[:1])


@pytest.mark.parametrize("rule", ["midpoint", "trapezoid"])
def test_forced_steps_have_order_two_with_the_impulse_of_the_start_and_one_without(float64, rule):
    """q'' = -q'^2 from q = 0, q' = 1: q = log(1 + t)."""

    def error(n, start_with_force=True):
        h = 1.0 / n
        Ld = discrete_lagrangian(lambda t, q, v: v**2 / 2, h, rule=rule)
        drag = discrete_force(lambda t, q, v: -(v**2), h, rule=rule)

        @jax.jit
        def end(q0):
            q1 = first_step(Ld, q0, q0 + 1, force=drag if start_with_force else None).value
            return integrate(Ld, q0, q1, n - 1, force=drag)[-1]

        return abs(float(end(jnp.zeros(()))) - np.log(2))

    slope = lambda **how: np.log2(error(8, **how) / error(16, **how))
    assert abs(slope() - 2) < 0.25
    assert abs(slope(start_with_force=False) - 1) < 0.25


def test_a_forced_path_has_no_residual_and_an_unforced_reading_of_it_has(float64):
    h = 0.1
    Ld = discrete_lagrangian(_planar, h)
    drag = discrete_force(lambda t, q, v: -0.5 * v + jnp.stack([jnp.sin(t), 0 * t]), h)
    q0 = jnp.array([1.0, 0.0])
    q = jnp.concatenate([q0[None], integrate(Ld, q0, q0 + 0.05, 20, force=drag)])
    k = jnp.arange(1, len(q) - 1)
    worst = lambda E: float(jnp.max(jnp.abs(jax.jit(jax.vmap(E))(k, q[:-2], q[1:-1], q[2:]))))
    assert worst(discrete_euler_lagrange(Ld, drag)) < 1e-13
    assert worst(discrete_euler_lagrange(Ld)) > 1e-2


@pytest.mark.parametrize(
    "rule, stages", [("midpoint", 1), ("trapezoid", 1), pytest.param("gauss", 2, marks=pytest.mark.slow)]
)
def test_a_symmetry_of_the_steps_is_kept_to_rounding(float64, rule, stages):
    h = 0.2
    Ld = discrete_lagrangian(_planar, h, rule=rule, stages=stages)
    turn = lambda s, k, q: jnp.stack([q[0] * jnp.cos(s) - q[1] * jnp.sin(s), q[0] * jnp.sin(s) + q[1] * jnp.cos(s)])
    q0 = jnp.array([1.0, 0.3])
    q = jnp.concatenate([q0[None], integrate(Ld, q0, q0 + jnp.array([0.1, 0.3]), 60)])
    spread = lambda F: float(jnp.ptp(jax.jit(jax.vmap(discrete_noether(Ld, F)))(jnp.arange(61), q[:-1], q[1:])))
    assert spread(turn) < 1e-12
    assert spread(lambda s, k, q: q + s) > 0.1  # the momentum is not kept: the potential is not flat


SMALL = st.floats(-1.5, 1.5, width=32)


@jax.jit
def _defects(q, p):
    h = 0.3
    Ld = discrete_lagrangian(_planar, h)

    def variational(t, q, p):
        q1 = first_step(Ld, q, p).value
        return q1, discrete_momenta(Ld)(0, q, q1)[1]

    euler = lambda t, q, p: (q + h * p, p - 2 * h * q / (1 + q @ q))
    return tuple(jnp.max(jnp.abs(canonical_defect(step)(0.0, q, p))) for step in (variational, euler))


@given(SMALL, SMALL, SMALL, SMALL)
def test_a_variational_step_is_a_canonical_transformation_and_eulers_is_not(a, b, c, d):
    variational, euler = _defects(jnp.array([a, b], jnp.float32), jnp.array([c, d], jnp.float32))
    assert float(variational) < 256 * np.finfo(np.float32).eps
    assert float(euler) > 1e-4


def test_momenta_solve_a_step_both_ways_and_a_step_that_does_not_exist_is_flagged(float64):
    Ld = discrete_lagrangian(_planar, 0.25)
    q0, p0 = jnp.array([1.0, 0.5]), jnp.array([0.3, -2.0])
    q1 = jax.jit(lambda p: first_step(Ld, q0, p))(p0)
    assert int(q1.status) == 0
    start, end = jax.jit(discrete_momenta(Ld))(0, q0, q1.value)
    assert_close(start, p0, ulps=128, scale=4.0)
    assert float(jnp.max(jnp.abs(end - p0))) > 1e-2
    bounded = discrete_lagrangian(lambda t, q, v: jnp.log(jnp.cosh(v)), 1.0)  # momenta lie below one
    nothing = jax.jit(jax.vmap(lambda p: first_step(bounded, 0.0 * p, p)))(jnp.array([0.5, 1.5]))
    assert [int(s) != 0 for s in nothing.status] == [False, True]
    assert jnp.isnan(nothing.value).tolist() == [False, True]
