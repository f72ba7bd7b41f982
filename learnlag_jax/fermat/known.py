"""What is known or asked for before a design: matrices of the user's, found to be what they stand for, named if they are not.

Comes from: the arguments `prior`, `moment`, `region`, `vector`. Goes to: every design of the room.
"""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.vocabulary import Array


def known_information(prior, F: Array) -> Array:
    """The prior, found to be one: symmetric and positive semi-definite, to rounding."""
    p = F.shape[-1]
    checks.shape(prior, (p, p), "prior")
    checks.finite(prior, "prior")
    prior = jnp.asarray(prior, F.dtype)
    semidefinite(prior, "prior", "information is X' X")
    return prior


def semidefinite(S: Array, name: str, remedy: str) -> None:
    """Host gate: a finite square matrix is symmetric and has no negative eigenvalue, to rounding."""
    if checks.is_traced(S):
        return
    P = np.asarray(S, np.float64)
    scale = 100 * len(P) * float(jnp.finfo(S.dtype).eps) * np.abs(P).max(initial=0.0)
    apart = np.abs(P - P.T).max(initial=0.0)
    got = f"entries apart by {apart:g} from their mirror"
    checks.require(apart <= scale, name, got, "a symmetric matrix", "average it with its transpose")
    least = np.linalg.eigvalsh((P + P.T) / 2).min(initial=0.0)
    checks.require(least >= -scale, name, f"an eigenvalue of {least:g}", "no negative one", remedy)


def wanted(x, name: str, *sizes: str) -> Array:
    """What predictions are asked for: finite real numbers of this rank, integers made floats, not all of them 0."""
    x = jnp.asarray(x)
    x = x.astype(jnp.zeros(()).dtype) if jnp.issubdtype(x.dtype, jnp.integer) else x
    checks.floating(x, name)
    checks.shape(x, sizes, name)
    checks.finite(x, name)
    if not checks.is_traced(x):
        nothing = "nothing but zeros" if x.size else "no numbers"
        checks.require(bool(jnp.any(x != 0)), name, nothing, "a prediction that matters", "say what is to be predicted")
    return x


def exponent(q):
    """The q of phi: one positive number, finite if it can be seen."""
    number = isinstance(q, int | float | np.number | np.ndarray | jax.Array) and not isinstance(q, bool)
    checks.require(number, "q", repr(q), "a positive number", "use 'D' for the limit q -> 0")
    checks.shape(q, (), "q")
    if not checks.is_traced(q):
        checks.require(0 < float(q) < np.inf, "q", q, "a positive number", "use 'D' for q -> 0, 'E' for q -> infinity")
    return jnp.asarray(q)
