"""learnlag_jax: write one scalar function, derive its equations, solve them, prove the answer.

The hall and its rooms, each a module with a map of its own (`help(learnlag_jax.control)`):

    variation      a Lagrangian in; equations of motion, discrete mechanics, boundary values, fields out
    information    tokens in; position, velocity and acceleration of information out
    fermat         a design criterion in; least-time designs with certificates, learning times out
    control        reward and dynamics in; costates, regulators, optimal paths, Bellman values with bounds out
    fisher         a log-likelihood in; Fisher information, field residual, an optax transformation out
    testing        asserts for your own tests: stationary, costates, Bellman, maximum likelihood

The headline transforms, here for short:

    euler_lagrange, acceleration, legendre, stationary_path        from L(t, q, v): dS/dq, the motion, H, paths
    Problem, costates, lqr, solve, solve_mdp                       from r(s, a, k) and f(s, a, k): eq. 8-20
    optimal_weights, exact_design, tight_frame                     from a criterion of the information matrix: eq. 5-7
    surprisal, in_context_curve                                    from logits: eq. 1 and figure 1
    learning_lagrangian, scale_by_fisher, fisher_descent, audit    from log p(x | theta): eq. 22-32

Every solver returns `value, residual, status, steps` (`Solution`, `Status`); `raise_on_failure` turns a status into a
`SolveError` on the host. Bad input raises `InputError` or `DTypeError`; a command, also `ConfigError`, `RunDirError` or
`CheckpointError`. `checks` holds the exceptions, `trees` the arithmetic of pytrees.
"""

from learnlag_jax import checks, control, fermat, fisher, information, testing, trees, variation
from learnlag_jax.checks import (
    CheckpointError,
    ConfigError,
    DTypeError,
    InputError,
    RunDirError,
    SolveError,
    raise_on_failure,
)
from learnlag_jax.control import Problem, costates, lqr, solve, solve_mdp
from learnlag_jax.fermat import exact_design, optimal_weights, tight_frame
from learnlag_jax.fisher import audit, fisher_descent, learning_lagrangian, scale_by_fisher
from learnlag_jax.information import in_context_curve, surprisal
from learnlag_jax.variation import acceleration, euler_lagrange, legendre, stationary_path
from learnlag_jax.vocabulary import Solution, Status

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DTypeError",
    "InputError",
    "Problem",
    "RunDirError",
    "Solution",
    "SolveError",
    "Status",
    "acceleration",
    "audit",
    "checks",
    "control",
    "costates",
    "euler_lagrange",
    "exact_design",
    "fermat",
    "fisher",
    "fisher_descent",
    "in_context_curve",
    "information",
    "learning_lagrangian",
    "legendre",
    "lqr",
    "optimal_weights",
    "raise_on_failure",
    "scale_by_fisher",
    "solve",
    "solve_mdp",
    "stationary_path",
    "surprisal",
    "testing",
    "tight_frame",
    "trees",
    "variation",
]
