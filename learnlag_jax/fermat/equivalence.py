"""The equivalence theorem: is a design optimal, and if not, how far from it can it be?

With G = -d phi / dM, the design w is optimal over a pool exactly if f_i' G f_i <= tr(G M(w)) for every candidate i. How far the largest
exceeds it bounds the distance to the optimum, whatever made the design. Reference: Kiefer and Wolfowitz (1960); Pukelsheim (1993),
chapter 7; MATH.md 4.
"""

from collections.abc import Callable

import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.extrema import largest, largest_size
from learnlag_jax.fermat.criteria import as_criterion, flat, homogeneous, sensitivity, slope, unguarded, wide_rows
from learnlag_jax.fermat.known import known_information
from learnlag_jax.fermat.matrices import inverse, regular
from learnlag_jax.vocabulary import Array

SLACK = 1e-3


def equivalence_gap(M, F, criterion: str | Callable = "A", *, prior=None) -> Array:
    """Certified bound on 1 - efficiency of the information matrix of a design, from the whole pool.

        homogeneous phi, no prior:  phi* >= phi(M)^2 / max_i f_i' G f_i
        otherwise (convexity):      phi* >= phi(M) - (max_i f_i' G f_i - tr G (M - prior)),    G = -d phi / dM

    The gap is how far that is below phi(M), in units of phi(M); for a phi of the user's, whose values may be negative or 0, in units of the
    larger of |phi(M)| and |phi(2 M) - phi(M)|.
    Rounding is added, as large as the entries of M^-1 M - I: nearly collinear rows in float32 certify little.

    Args:
        M: (p, p) information of a design of total weight 1, prior included: with n observations, their matrix over n.
        F: (N, p) or (N, m, p) the pool the design is compared with.
        criterion: a letter, a `Criterion`, or any differentiable convex phi(M). For E with a repeated smallest eigenvalue
            one gradient certifies little: the gap is true but not tight; `optimal_weights` certifies with a mixture.
        prior: (p, p) the part of M that is not the design's, symmetric positive semi-definite.

    Returns:
        The gap in [0, 1]; 1 where nothing is certified: M is singular, or proved over-weight, tr G (M - prior) > max_i f_i' G f_i
        by a thousandth and what the precision of M and F may hide, which no design of total weight 1 is.

    Raises:
        InputError, DTypeError: wrong shapes or dtypes, a prior that is none, an over-weight M (the last two not while tracing).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import equivalence_gap, information_matrix
        >>> x = jnp.linspace(-1.0, 1.0, 21)
        >>> F = jnp.stack([jnp.ones_like(x), x, x**2], 1)
        >>> best = jnp.zeros(21).at[jnp.array([0, 10, 20])].set(jnp.array([0.25, 0.5, 0.25]))
        >>> uniform = jnp.full(21, 1 / 21)
        >>> [round(float(equivalence_gap(information_matrix(F, w), F)), 4) for w in (best, uniform)]
        [0.0, 0.6737]

    Reference: Pukelsheim (1993), chapter 7; MATH.md 4.
    """
    given, F = F, wide_rows(F)
    phi = as_criterion(criterion, F.shape[-1])
    checks.shape(M, (F.shape[-1], F.shape[-1]), "M")
    eps = _coarser(jnp.asarray(given), jnp.asarray(M))
    M, prior = jnp.asarray(M, F.dtype), None if prior is None else known_information(prior, F)
    if homogeneous(phi):  # in units in which M^-2 stays among the numbers of single precision too
        unit = _unit(M)
        M, F, prior = M * unit**2, F * unit, None if prior is None else prior * unit**2
    over = _overweight(phi, M, F, prior, eps)
    if not checks.is_traced(over):
        got, remedy = "more information than a total weight of 1 can give", "divide the design's part by n observations"
        checks.require(not bool(over), "M", got, "a design of total weight 1", remedy)
    return jnp.where(over, 1, certificate(phi, M, F, prior)[0])


def _unit(M: Array) -> Array:
    """The power of two that turns rows of information M into rows of about unit length."""
    largest = jnp.max(jnp.abs(M))
    known = jnp.isfinite(largest) & (largest > 0)
    return jnp.ldexp(jnp.ones_like(largest), jnp.where(known, -(jnp.frexp(largest)[1] // 2), 0))


def _coarser(*arrays: Array) -> float:
    """eps of the least precise of the arrays."""
    floating = [x.dtype for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    return max(float(jnp.finfo(dtype).eps) for dtype in floating)


def _overweight(phi: Callable, M: Array, F: Array, prior: Array | None, eps: float) -> Array:
    """True where M is not of total weight 1, proved: sum_i w_i f_i' G f_i = tr G (M - prior), whatever G, is no more than the largest.

    Beyond rounding: entries of M, sums of as many products as there are rows, are known to that many eps of sqrt(M_ii M_jj). And beyond a
    thousandth: so little is a design rounded in another precision, not one of counts, and the gap grows by it instead.
    """
    ok = regular(M)
    G = slope(unguarded(phi), jnp.where(ok, M, jnp.eye(M.shape[0], dtype=M.dtype)))
    worst, spent = largest(sensitivity(F, G)), jnp.sum(G * (M if prior is None else M - prior))
    size = jnp.sqrt(jnp.abs(jnp.diagonal(M)))
    longest = largest(sensitivity(jnp.abs(F), jnp.abs(G)))
    terms = flat(F).shape[0] + M.shape[0]
    rounding = terms * jnp.asarray(eps, M.dtype) * (size @ jnp.abs(G) @ size + longest)
    return ok & (worst < (1 - SLACK) * spent - rounding)


def magnitude(phi: Callable, M: Array) -> Array:
    """What a difference of values is measured by: |phi(M)|, or for a phi of the user's, which may be 0, its change from M to 2 M if larger.

    For a phi that is homogeneous of degree -1 that change is half of |phi(M)|; for -log det M it is p log 2, wherever the value is 0.
    """
    value = unguarded(phi)(M)
    size = jnp.abs(value)
    if homogeneous(phi):
        return size
    change = jnp.abs(phi(2 * M) - value)
    return jnp.where(jnp.isfinite(change), jnp.maximum(size, change), size)


def certificate(phi: Callable, M: Array, F: Array, prior: Array | None):
    """The gap, the relative violation, and f' G f over the pool."""
    ok = regular(M)
    M = jnp.where(ok, M, jnp.eye(M.shape[0], dtype=M.dtype))
    value, G = unguarded(phi)(M), slope(unguarded(phi), M)
    s = sensitivity(F, G)
    worst, spent = largest(s), jnp.sum(G * (M if prior is None else M - jnp.asarray(prior, M.dtype)))
    tight = homogeneous(phi) and prior is None
    gap = 1 - value / worst if tight else (worst - spent) / magnitude(phi, M)
    # what rounding may hide: everything here goes through M^-1, which is known as well as M^-1 M is the identity
    # (so a gap below zero, too little to prove M over-weight, counts with its size)
    gap = jnp.abs(gap) + largest_size(inverse(M) @ M - jnp.eye(M.shape[0], dtype=M.dtype))
    ok &= jnp.isfinite(value) & jnp.isfinite(worst)
    return jnp.where(ok, jnp.clip(gap, 0, 1), 1), jnp.where(ok, worst / spent - 1, jnp.inf), s
