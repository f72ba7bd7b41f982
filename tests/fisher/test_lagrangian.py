"""From Lagrangian to optimiser and back: the discrete Euler-Lagrange equation is the recursion."""

import jax
import jax.numpy as jnp
import optax
import pytest

from learnlag_jax import InputError, trees
from learnlag_jax.fisher import Run, audit, descent_lagrangian, learning_lagrangian, particle_lagrangian, record
from learnlag_jax.fisher.operators import FullFisher
from learnlag_jax.testing import assert_close


def rosenbrock(q):
    return (1 - q[0]) ** 2 + 5 * (q[1] - q[0] ** 2) ** 2


def equation(Ld, k, q_prev, q, q_next):
    return trees.add(jax.grad(Ld, 2)(k - 1, q_prev, q), jax.grad(Ld, 1)(k, q, q_next))


@pytest.mark.parametrize("kind", ["diagonal", "matrix", "function", "operator"])
def test_stationary_steps_are_momentum_descent_in_the_metric(float64, kind):
    full = jnp.array([[2.0, 0.3], [0.3, 0.5]]) if kind != "diagonal" else jnp.diag(jnp.array([2.0, 0.5]))
    forms = {"diagonal": jnp.diag(full), "matrix": full, "function": lambda v: full @ v}
    forms["operator"] = FullFisher(full, jnp.zeros(2))
    beta, eta, k = 0.9, 1e-2, 7
    Ld = descent_lagrangian(rosenbrock, forms[kind], beta, eta)
    a, b = jnp.array([-1.0, 1.0]), jnp.array([-0.9, 1.1])
    c = b + beta * (b - a) - eta * (1 - beta) * jnp.linalg.solve(full, jax.grad(rosenbrock)(b))
    scale = beta**-k * float(jnp.max(jnp.abs(full @ (b - a)))) / (eta * (1 - beta))
    assert_close(equation(Ld, k, a, b, c), jnp.zeros(2), scale=scale)
    plain = b + beta * (b - a) - eta * (1 - beta) * jax.grad(rosenbrock)(b)
    off = full @ (c - plain) * beta**-k / (eta * (1 - beta))
    assert_close(
        jnp.abs(equation(Ld, k, a, b, plain)), jnp.abs(off), scale=scale
    )  # the control misses by a known amount
    assert float(jnp.max(jnp.abs(off))) > 1.0


def test_discrete_lagrangian_takes_pytrees(float64):
    mass = {"a": jnp.array(2.0), "b": jnp.ones(3)}
    loss = lambda q: q["a"] ** 2 + jnp.sum(jnp.cos(q["b"]))
    Ld = descent_lagrangian(loss, mass, 0.5, 0.1)
    q0 = {"a": jnp.array(1.0), "b": jnp.arange(3.0)}
    q1 = trees.axpy(1.1, q0, q0)
    g = jax.tree.map(jnp.divide, jax.grad(loss)(q1), mass)
    q2 = trees.axpy(-0.05, g, trees.axpy(0.5, trees.subtract(q1, q0), q1))
    assert_close(equation(Ld, 1, q0, q1, q2), trees.zeros_like(q0), scale=100.0)


def test_mass_of_another_structure_is_refused():
    Ld = descent_lagrangian(lambda q: jnp.sum(q["a"]), {"b": jnp.ones(2)}, 0.5, 0.1)
    with pytest.raises(InputError, match="mass"):
        Ld(0, {"a": jnp.ones(2)}, {"a": jnp.ones(2)})


def test_particle_without_friction_keeps_its_energy(float64):
    L = particle_lagrangian(rosenbrock, jnp.array([2.0, 0.5]))
    q, v = jnp.array([0.5, -0.2]), jnp.array([0.1, 0.4])
    force = jax.grad(L, 1)(0.0, q, v)
    momentum = jax.grad(L, 2)(0.0, q, v)
    assert_close(force, -jax.grad(rosenbrock)(q))
    assert_close(momentum, jnp.array([2.0, 0.5]) * v)


def test_learning_lagrangian_momentum_is_the_natural_gradient_per_parameter(float64):
    F = jnp.array([[2.0, 0.3], [0.3, 0.5]])
    density = learning_lagrangian(lambda theta: F)
    du = jnp.array([0.7, -1.1])
    flux = jax.grad(density, 2)(jnp.zeros(2), jnp.float64(0.0), du)
    assert_close(flux, jnp.linalg.solve(F, du) / 2)
    assert float(jax.grad(density, 1)(jnp.zeros(2), jnp.float64(0.3), du)) == -1.0


def run_of(optimiser, steps=40, scale=1.0):
    noise = jax.random.normal(jax.random.key(0), (steps, 2))
    loss = lambda q, e: scale * (rosenbrock(q) + 0.1 * jnp.dot(e, q))
    with jax.numpy_dtype_promotion("standard"):
        return record(loss, optimiser, jnp.array([-1.0, 1.0]), noise)


def test_adam_is_explained_to_rounding_by_drift_and_bias_correction(float64):
    found = audit(run_of(optax.adam(1e-2)), learning_rate=1e-2)
    assert float(jnp.max(found.unexplained)) < 1e-10
    assert float(jnp.max(found.drift)) > 1e-3  # a live metric is not a constant one
    free = audit(run_of(optax.adam(1e-2)))
    assert_close(free.learning_rate, jnp.float64(1e-2), ulps=1e6)


def test_rmsprop_is_the_massive_particle_without_momentum(float64):
    run = run_of(optax.rmsprop(1e-2, decay=0.999, eps=1e-8, eps_in_sqrt=False, bias_correction=True))
    found = audit(run, b1=0.0, learning_rate=1e-2)
    assert float(found.relative) < 1e-10


def test_sgd_is_stationary_for_the_unit_metric_and_not_for_the_fisher_metric(float64):
    run = run_of(optax.sgd(1e-3))
    assert float(audit(run, exponent=0.0, b1=0.0).relative) < 1e-10
    assert float(audit(run).relative) > 0.05
    assert float(audit(run, b1=0.0).relative) > 0.05


def test_heavy_ball_is_stationary_for_the_unit_metric(float64):
    run = run_of(optax.sgd(1e-3, momentum=0.9))
    found = audit(run, exponent=0.0, bias_correction=False, learning_rate=1e-2)  # eta (1 - b1) = 1e-3
    assert float(found.relative) < 1e-10
    assert float(audit(run).relative) > 0.05


def test_what_adamw_does_beyond_the_lagrangian_is_its_weight_decay(float64):
    rate, decay = 1e-2, 0.1
    run = run_of(optax.adamw(rate, weight_decay=decay))
    found, plain = audit(run, learning_rate=rate), audit(run_of(optax.adam(rate)), learning_rate=rate)
    q, nu, k = run.positions, optax_second_moments(run.gradients), jnp.arange(1.0, len(run.gradients) + 1)[:, None]
    mass, c = jnp.sqrt(nu / (1 - 0.999**k)) + 1e-8, 1 - 0.9**k
    transported = 0.9 * (c[:-1] / c[1:]) * mass[:-1] / mass[1:]
    missing = -rate * decay * (q[1:-1] - transported * q[:-2])
    v = jnp.diff(q, axis=0)
    impulse = jnp.sqrt(jnp.mean(jnp.sum((v[1:] - 0.9 * v[:-1]) ** 2, 1)))
    assert_close(found.unexplained, jnp.linalg.norm(missing, axis=1) / impulse, ulps=1e8)
    assert float(jnp.max(plain.unexplained)) < 1e-10 < float(jnp.min(found.unexplained))


def optax_second_moments(g):
    return jnp.stack([sum(0.001 * 0.999 ** (n - j) * g[j] ** 2 for j in range(n + 1)) for n in range(len(g))])


@pytest.mark.parametrize("optimiser", [optax.lion(1e-3), optax.contrib.muon(2e-2)], ids=["lion", "muon"])
def test_lion_and_muon_are_not_stationary_even_at_the_rate_that_suits_them_best(float64, optimiser):
    noise = jax.random.normal(jax.random.key(0), (40, 2, 2))
    loss = lambda q, e: sum(rosenbrock(row) for row in q) + 0.1 * jnp.vdot(e, q)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run = record(loss, optimiser, jnp.array([[-1.0, 1.0], [0.5, 0.0]]), noise)
        adam = record(loss, optax.adam(1e-2), jnp.array([[-1.0, 1.0], [0.5, 0.0]]), noise)
    assert float(jnp.sqrt(jnp.mean(audit(run).unexplained ** 2))) > 0.05
    assert float(jnp.max(audit(adam).unexplained)) < 1e-9


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_adams_residual_does_not_depend_on_the_units_of_the_loss(float64, scale):
    reference = audit(run_of(optax.adam(1e-2, eps=0.0)), learning_rate=1e-2, eps=0.0)
    found = audit(run_of(optax.adam(1e-2, eps=0.0), scale=scale), learning_rate=1e-2, eps=0.0)
    assert_close(found.relative, reference.relative, ulps=1e7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_run_in_half_precision_is_audited_in_single(dtype):
    """b2 = 0.999 rounds to 1 in bfloat16, and 0 / 0 was the answer."""
    loss = lambda q, _: jnp.sum(q**4) / 4
    with jax.numpy_dtype_promotion("standard"):
        run = record(loss, optax.adam(0.125), jnp.array([1.0, -2.0, 3.0], dtype), jnp.zeros((8, 1), dtype))
    assert run.positions.dtype == dtype
    seen = audit(run)
    assert_close(seen, audit(jax.tree.map(lambda x: x.astype(jnp.float32), run)))
    assert 0 < float(seen.relative) < 1


def test_a_short_run_is_refused():
    with pytest.raises(InputError, match="at least 3"):
        audit(run_of(optax.sgd(1e-3), steps=2))


@pytest.mark.parametrize("name", ["b1", "b2"])
def test_a_decay_of_one_is_refused(name):
    """It divides by 1 - b^k = 0: every number was NaN."""
    with pytest.raises(InputError, match=f"^{name}: got 1.0"):
        audit(run_of(optax.sgd(1e-3), steps=4), **{name: 1.0})


def test_complex_parameters_are_refused():
    path = jnp.ones((5, 2), jnp.complex64)
    with pytest.raises(InputError, match="real positions"):
        audit(Run(path, path[1:], jnp.ones(4)))
