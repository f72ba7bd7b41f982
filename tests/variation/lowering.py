"""Every public name of the hall, as a function of arrays that must lower everywhere, or why it cannot."""

import jax.numpy as jnp

from learnlag_jax import variation as hall

T, Q, V, A = (
    jnp.float32(0.5),
    jnp.array([0.3, -0.2], jnp.float32),
    jnp.array([0.1, 0.4], jnp.float32),
    jnp.zeros(2, jnp.float32),
)


def _pendulums(t, q, v):
    return jnp.sum(v**2) / 2 + jnp.sum(jnp.cos(q))


def _energy(t, q, p):
    return jnp.sum(p**2) / 2 - jnp.sum(jnp.cos(q))


def _path(t):
    return jnp.stack([jnp.sin(t), t])


def _density(x, u, du):
    return jnp.sum(du**2) / 2 - u**2


def _step(rule):
    return hall.discrete_lagrangian(_pendulums, 0.1, rule=rule, stages=3 if rule == "gauss" else 1)


CASES = {
    "acceleration": (hall.acceleration(_pendulums), (T, Q, V)),
    "action": (lambda t: hall.action(_pendulums, _path, jnp.float32(0), t), (T,)),
    "canonical_defect": (hall.canonical_defect(lambda t, q, p: (p, -q)), (T, Q, V)),
    "conjugate_point": (lambda w: hall.conjugate_point(lambda x: jnp.sum(jnp.cosh(x)), w), (Q,)),
    "damped": (hall.damped(_pendulums, 0.1), (T, Q, V)),
    "discrete_action": (lambda a: hall.discrete_action(_step("midpoint"), jnp.stack([a, a, 2 * a])), (Q,)),
    "discrete_euler_lagrange": (lambda a, b, c: hall.discrete_euler_lagrange(_step("midpoint"))(1, a, b, c), (Q, Q, V)),
    "discrete_lagrangian": (lambda a, b: _step("gauss")(0, a, b), (Q, V)),
    "discrete_force": (hall.discrete_force(lambda t, q, v: -v, 0.1), (1, Q, V)),
    "discrete_momenta": (hall.discrete_momenta(_step("midpoint")), (1, Q, V)),
    "discrete_noether": (hall.discrete_noether(_step("midpoint"), lambda s, k, q: q + s), (1, Q, V)),
    "energy": (hall.energy(_pendulums), (T, Q, V)),
    "energy_momentum": (hall.energy_momentum(_density)(lambda x: jnp.sin(x[0]) * x[1]), (Q,)),
    "euler_lagrange": (hall.euler_lagrange(_pendulums), (T, Q, V, A)),
    "field_current": (
        hall.field_current(_density, lambda s, x, u: u + s)(lambda x: jnp.sin(x[0]) * x[1]),
        (Q,),
    ),
    "field_euler_lagrange": (hall.field_euler_lagrange(_density)(lambda x: jnp.sin(x[0]) * x[1]), (Q,)),
    "first_variation": (lambda t: hall.first_variation(_pendulums, _path, _path, jnp.float32(0), t), (T,)),
    "first_step": (lambda a, b: hall.first_step(_step("midpoint"), a, b), (Q, V)),
    "freidlin_wentzell": (
        hall.freidlin_wentzell(lambda t, q: -q, lambda t, q: jnp.eye(2, dtype=q.dtype) + q[0] ** 2),
        (T, Q, V),
    ),
    "geodesic_lagrangian": (hall.geodesic_lagrangian(lambda q: jnp.eye(2, dtype=q.dtype) * q[0] ** 2), (T, Q, V)),
    "hamilton_equations": (hall.hamilton_equations(_energy), (T, Q, V)),
    "hamiltonian": (hall.hamiltonian(_pendulums), (T, Q, V)),
    "holonomic": (hall.holonomic(lambda t, q: jnp.sum(q**2)), (T, Q, V)),
    "integrate": (lambda a, b: hall.integrate(_step("trapezoid"), a, b, 3), (Q, Q)),
    "jacobi_lagrangian": (hall.jacobi_lagrangian(_pendulums, 5.0), (T, Q, V)),
    "lagrangian": (hall.lagrangian(_energy), (T, Q, V)),
    "lattice_residual": (hall.lattice_residual(_density, jnp.ones(2, jnp.float32)), (jnp.ones((4, 5), jnp.float32),)),
    "legendre": (hall.legendre(lambda x: jnp.sum(jnp.cosh(x))), (Q,)),
    "lift": (hall.lift(_path, 2), (T,)),
    "momentum": (hall.momentum(_pendulums), (T, Q, V)),
    "motion": (hall.motion(_pendulums), (T, Q, V)),
    "noether": (hall.noether(_pendulums, lambda s, t, q: q + s), (T, Q, V)),
    "poisson": (hall.poisson(_energy, lambda t, q, p: jnp.sum(q)), (T, Q, V)),
    "onsager_machlup": (hall.onsager_machlup(lambda t, q: -(q**3)), (T, Q, V)),
    "pullback": (hall.pullback(_pendulums, lambda t, x: jnp.sin(x) + t), (T, Q, V)),
    "rayleigh": (hall.rayleigh(lambda t, q, v: jnp.sum(v**2)), (T, Q, V)),
    "stationary_path": (lambda a, b: hall.stationary_path(_pendulums, a, b, 0.0, 1.0, intervals=4), (Q, V)),
    "total_derivative": (hall.total_derivative(lambda t, q, v: t * jnp.sum(q * v)), (T, Q, V, A)),
}

NOT_JITTABLE = {"Motion": "a NamedTuple", "StationaryPath": "a NamedTuple"}
