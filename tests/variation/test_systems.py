"""Every closed form under constraints and every field: zero residual, and what is bent, freed or rescaled has one."""

import jax
import jax.numpy as jnp
import pytest

from learnlag_jax import trees
from learnlag_jax.testing import assert_close
from learnlag_jax.variation import (
    acceleration,
    energy_momentum,
    field_current,
    field_euler_lagrange,
    lattice_residual,
    lift,
    motion,
)
from tests.systems import CONSTRAINED, FIELDS, SYSTEMS


def test_there_are_more_than_twenty_systems():
    assert len(SYSTEMS) + len(CONSTRAINED) + len(FIELDS) >= 20 + 14


@pytest.mark.parametrize("name", CONSTRAINED)
def test_constrained_motions_follow_their_closed_form(name, float64):
    system = CONSTRAINED[name]
    t, q, v, a = jax.jit(lift(system.path, 2))(jnp.float64(0.7))
    assert float(trees.max_abs(system.constraint(t, q, v))) < 1e-14
    answer = jax.jit(motion(system.lagrangian, constraint=system.constraint))(t, q, v)
    assert_close(answer.value, a, ulps=256, scale=4.0)
    assert_close(answer.residual, jnp.zeros_like(a), scale=4.0)
    assert (
        float(jnp.max(jnp.abs(jax.jit(acceleration(system.lagrangian))(t, q, v) - a))) > 0.1
    )  # the control: no constraint


@pytest.mark.parametrize("name", FIELDS)
def test_fields_are_stationary(name, float64):
    system = FIELDS[name]
    x = jnp.array(system.point)
    E = lambda field: jax.jit(field_euler_lagrange(system.density)(field))(x)
    assert float(trees.max_abs(E(system.field))) < 2e-14
    bent = lambda x: jax.tree.map(lambda u: u + 0.01 * x[1] ** 3, system.field(x))
    assert float(trees.max_abs(E(bent))) > 1e-3


@pytest.mark.parametrize("name", ["sine-Gordon breather", "phi^4 kink", "light", "nonlinear Schroedinger soliton"])
def test_energy_and_momentum_of_a_field_flow_without_sources(name, float64):
    system = FIELDS[name]
    x = jnp.array(system.point)
    divergence = lambda u: jnp.trace(jax.jit(jax.jacfwd(energy_momentum(system.density)(u)))(x), axis1=0, axis2=2)
    assert_close(divergence(system.field), jnp.zeros(2), scale=30.0)
    bent = lambda x: jax.tree.map(lambda u: u + 0.1 * x[1] ** 3, system.field(x))
    assert float(jnp.max(jnp.abs(divergence(bent)))) > 1e-3


def test_the_current_of_a_phase_is_conserved_and_not_off_the_solution(float64):
    system = FIELDS["nonlinear Schroedinger soliton"]
    x = jnp.array(system.point)

    def turn(s, x, u):
        return {
            "re": u["re"] * jnp.cos(s) - u["im"] * jnp.sin(s),
            "im": u["re"] * jnp.sin(s) + u["im"] * jnp.cos(s),
        }

    j = field_current(system.density, turn)(system.field)
    assert_close(jnp.trace(jax.jacfwd(j)(x)), jnp.float64(0), scale=4.0)
    assert_close(j(x)[0], -1 / jnp.cosh(x[1]) ** 2, scale=1.0)  # minus the density |psi|^2
    bent = lambda x: {**system.field(x), "re": system.field(x)["re"] + 0.1 * x[1] ** 3}
    assert abs(float(jnp.trace(jax.jacfwd(field_current(system.density, turn)(bent))(x)))) > 0.01

    boost = field_current(
        lambda x, u, du: (du[0] ** 2 - du[1] ** 2) / 2, lambda s, x, u: u + s * x[0], lambda x, u: jnp.stack([u, 0 * u])
    )
    wave = lambda x: jnp.sin(x[1] - x[0])
    assert_close(
        jnp.trace(jax.jacfwd(boost(wave))(x)), jnp.float64(0), scale=2.0
    )  # u -> u + s t changes l by d_t (s u)


def test_a_neural_field_has_a_residual_that_trains():
    """-laplace u of a small network, from the density alone, against the Hessian's trace; its gradient is finite."""
    dtype, keys = jnp.float32, jax.random.split(jax.random.key(0), 2)
    params = [jax.random.normal(k, s, dtype) for k, s in zip(keys, ((8, 2), (8,)), strict=True)]
    field = lambda params: lambda x: params[1] @ jnp.tanh(params[0] @ x)
    x = jax.random.normal(jax.random.key(2), (5, 2), dtype)
    flow = field_euler_lagrange(lambda x, u, du: jnp.sum(du**2) / 2)
    E = jax.jit(lambda params: jax.vmap(flow(field(params)))(x))
    by_hand = -jax.jit(jax.vmap(lambda x: jnp.trace(jax.hessian(field(params))(x))))(x)
    assert_close(E(params), by_hand, ulps=256, scale=8.0)
    slope = jax.jit(jax.grad(lambda params: jnp.sum(E(params) ** 2)))(params)
    assert bool(trees.all_finite(slope))
    assert float(trees.max_abs(slope)) > 1e-2


def test_lattices_of_vectors_and_trees_are_gradients_of_their_parts(float64):
    """A tree of a scalar and a vector field that do not interact: each leaf has the residual it has alone."""
    h = jnp.array([0.1, 0.2])
    u = {"a": jax.random.normal(jax.random.key(0), (5, 6)), "b": jax.random.normal(jax.random.key(1), (5, 6, 3))}
    scalar = lambda x, u, du: jnp.sum(du**2) / 2 - x[0] * jnp.cosh(u)
    both = lambda x, u, du: scalar(x, u["a"], du["a"]) + sum(scalar(x, u["b"][i], 2 * du["b"][i]) for i in range(3))
    found = lattice_residual(both, h)(u)
    assert_close(found["a"], lattice_residual(scalar, h)(u["a"]), ulps=512)
    stretched = lattice_residual(lambda x, u, du: scalar(x, u, 2 * du), h)
    assert_close(found["b"][..., 1], stretched(u["b"][..., 1]), ulps=512)
    assert float(jnp.max(jnp.abs(found["b"][..., 1] - lattice_residual(scalar, h)(u["b"][..., 1])))) > 1
    with pytest.raises(ValueError, match="one grid"):
        lattice_residual(both, h)({"a": u["a"], "b": u["b"][:4]})
