"""The nouns every room shares: how a solver answers, and how it says what happened.

A solver never raises inside `jax.jit`: it returns its best value beside a `Status`, one int32 per batch
member. Zero means solved; everything else names what went wrong, and `checks.raise_on_failure` turns it into
an exception on the host.
"""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
PyTree = Any


class Status(enum.IntEnum):
    """What happened to a solve. The numbers are append-only: old results stay readable.

    Example:
        >>> from learnlag_jax import Status
        >>> Status(9).sentence
        'the linear system is singular; the residual is still valid, the solution is not'
    """

    converged = 0
    acceptable = 1
    max_steps = 2
    stagnated = 3
    diverged = 4
    line_search_failed = 5
    nonfinite_input = 6
    nonfinite_function = 7
    nonfinite_derivative = 8
    singular = 9
    ill_conditioned = 10
    not_positive_definite = 11
    rank_deficient = 12
    infeasible = 13
    out_of_domain = 14
    not_reached = 15
    inconsistent = 16
    undetermined = 17

    @property
    def sentence(self) -> str:
        """The status in plain words: the cause, then the remedy."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.converged: "the residual is below its tolerance",
    Status.acceptable: "the residual is at the rounding floor of the dtype but above the tolerance asked for",
    Status.max_steps: "the step limit was reached first; allow more steps or start closer",
    Status.stagnated: "the residual stopped falling above its tolerance; start closer, rescale the problem, or use float64",
    Status.diverged: "the residual grew without bound; start closer or continue from an easier problem",
    Status.line_search_failed: "no step length reduced the residual; check the derivatives at this point",
    Status.nonfinite_input: "an input is NaN or infinite; clean the data",
    Status.nonfinite_function: "the user's function returned NaN or infinity; guard its domain",
    Status.nonfinite_derivative: "the value is finite but a derivative is not; use a double `where` in the function",
    Status.singular: "the linear system is singular; the residual is still valid, the solution is not",
    Status.ill_conditioned: "the linear system is nearly singular; digits were lost, use float64 or rescale",
    Status.not_positive_definite: "a matrix that must be positive definite is not; raise the damping",
    Status.rank_deficient: "the design does not span the space; add rows or drop columns",
    Status.infeasible: "no admissible choice exists; relax the constraints",
    Status.out_of_domain: "no point of the function's domain has the slope asked for",
    Status.not_reached: "the threshold was not reached within the budget; the time is a lower bound",
    Status.inconsistent: "the answer does not solve the equation: the structure declared is not the one there is",
    Status.undetermined: "the data cannot tell: what is tested does not vary; use a model with fewer free parameters, or more data",
}


class Solution(NamedTuple):
    """A solver's answer: the value, the stationarity residual that proves it, and what happened.

    Attributes:
        value: the answer, any pytree; filled with NaN where it must not be used.
        residual: the left side of the equation that was to vanish, evaluated at `value`.
        status: int32, a `Status`, one per batch member.
        steps: int32, iterations taken.

    Example:
        >>> from learnlag_jax import Solution, Status
        >>> Solution(value=1.0, residual=0.0, status=Status.converged, steps=3).steps
        3
    """

    value: PyTree
    residual: PyTree
    status: Array | int
    steps: Array | int


def status_where(bad, status: Status) -> Array:
    """`status` where `bad` is true, `converged` elsewhere: int32 with the shape of `bad`."""
    return jnp.where(bad, jnp.int32(int(status)), jnp.int32(0))


def first_failure(*statuses) -> Array:
    """The first status that is not `converged`, elementwise: the cause, not its consequences."""
    first = jnp.asarray(statuses[0], jnp.int32)
    for status in statuses[1:]:
        first = jnp.where(first == 0, jnp.asarray(status, jnp.int32), first)
    return first
