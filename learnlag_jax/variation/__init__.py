"""The hall: a Lagrangian in, its equations and their residuals out.

Paths: `lift`, `total_derivative`, `action`, `first_variation`. From L(t, q, v): `euler_lagrange` (the residual dS/dq),
`momentum`, `energy`, `motion` and `acceleration` (forces, constraints, `rayleigh`, `holonomic`), `pullback`, `damped`,
`noether`. Ready-made: `geodesic_lagrangian`, `jacobi_lagrangian`, `freidlin_wentzell`, `onsager_machlup`. Between L and H:
`legendre`, `conjugate_point`, `hamiltonian`, `lagrangian`, `hamilton_equations`, `poisson`, `canonical_defect`. Steps:
`discrete_lagrangian`, `discrete_action`, `discrete_momenta`, `discrete_euler_lagrange`, `discrete_noether`,
`discrete_force`, `first_step`, `integrate`. Between two points: `stationary_path`, with its Morse index. Fields:
`field_euler_lagrange`, `energy_momentum`, `field_current`, `lattice_residual`.

Solvers say how they ended by a `Status`: 0 is solved, `Status(n).sentence` tells the rest, and values that must not be used are
NaN. `stationary_path`, `first_step` and `integrate` compile at their first call for a function, a shape and a dtype; functions
that compute the same share it.

Conventions: L(t, q, v), H(t, q, p), density l(x, u, du); the residual is dL/dq - d/dt dL/dv = dS/dq, so forces add to it.
"""

from learnlag_jax.variation.boundary import StationaryPath as StationaryPath
from learnlag_jax.variation.boundary import stationary_path as stationary_path
from learnlag_jax.variation.discrete import discrete_action as discrete_action
from learnlag_jax.variation.discrete import discrete_euler_lagrange as discrete_euler_lagrange
from learnlag_jax.variation.discrete import discrete_lagrangian as discrete_lagrangian
from learnlag_jax.variation.discrete import discrete_momenta as discrete_momenta
from learnlag_jax.variation.field import energy_momentum as energy_momentum
from learnlag_jax.variation.field import field_current as field_current
from learnlag_jax.variation.field import field_euler_lagrange as field_euler_lagrange
from learnlag_jax.variation.field import lattice_residual as lattice_residual
from learnlag_jax.variation.geodesic import geodesic_lagrangian as geodesic_lagrangian
from learnlag_jax.variation.geodesic import jacobi_lagrangian as jacobi_lagrangian
from learnlag_jax.variation.hamilton import canonical_defect as canonical_defect
from learnlag_jax.variation.hamilton import hamilton_equations as hamilton_equations
from learnlag_jax.variation.hamilton import poisson as poisson
from learnlag_jax.variation.integrator import discrete_force as discrete_force
from learnlag_jax.variation.integrator import first_step as first_step
from learnlag_jax.variation.integrator import integrate as integrate
from learnlag_jax.variation.lagrange import damped as damped
from learnlag_jax.variation.lagrange import energy as energy
from learnlag_jax.variation.lagrange import euler_lagrange as euler_lagrange
from learnlag_jax.variation.lagrange import momentum as momentum
from learnlag_jax.variation.lagrange import pullback as pullback
from learnlag_jax.variation.lagrange import rayleigh as rayleigh
from learnlag_jax.variation.legendre import conjugate_point as conjugate_point
from learnlag_jax.variation.legendre import hamiltonian as hamiltonian
from learnlag_jax.variation.legendre import lagrangian as lagrangian
from learnlag_jax.variation.legendre import legendre as legendre
from learnlag_jax.variation.motion import Motion as Motion
from learnlag_jax.variation.motion import acceleration as acceleration
from learnlag_jax.variation.motion import holonomic as holonomic
from learnlag_jax.variation.motion import motion as motion
from learnlag_jax.variation.path import action as action
from learnlag_jax.variation.path import first_variation as first_variation
from learnlag_jax.variation.path import lift as lift
from learnlag_jax.variation.path import total_derivative as total_derivative
from learnlag_jax.variation.stochastic import freidlin_wentzell as freidlin_wentzell
from learnlag_jax.variation.stochastic import onsager_machlup as onsager_machlup
from learnlag_jax.variation.symmetry import discrete_noether as discrete_noether
from learnlag_jax.variation.symmetry import noether as noether

__all__ = [
    "Motion",
    "StationaryPath",
    "acceleration",
    "action",
    "canonical_defect",
    "conjugate_point",
    "damped",
    "discrete_action",
    "discrete_euler_lagrange",
    "discrete_force",
    "discrete_lagrangian",
    "discrete_momenta",
    "discrete_noether",
    "energy",
    "energy_momentum",
    "euler_lagrange",
    "field_current",
    "field_euler_lagrange",
    "first_step",
    "first_variation",
    "freidlin_wentzell",
    "geodesic_lagrangian",
    "hamilton_equations",
    "hamiltonian",
    "holonomic",
    "integrate",
    "jacobi_lagrangian",
    "lagrangian",
    "lattice_residual",
    "legendre",
    "lift",
    "momentum",
    "motion",
    "noether",
    "onsager_machlup",
    "poisson",
    "pullback",
    "rayleigh",
    "stationary_path",
    "total_derivative",
]
