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


def equivalence_gap(M, F, criterion: str | Callable = "A", *, prior=None) -> Array:
    """Certified bound on 1 - efficiency of the information matrix of a design, from the whole pool.

        homogeneous phi, no prior:  phi* >= phi(M)^2 / max_i f_i' G f_i
        otherwise (convexity):      phi* >= phi(M) - (max_i f_i' G f_i - tr G (M - prior)),    G = -d phi / dM

    Rounding is added, as large as the entries of M^-1 M - I: nearly collinear rows in float32 certify little.

    Args:
        M: (p, p) information of a design of total weight 1, prior included: with n observations, their matrix over n.
        F: (N, p) or (N, m, p) the pool the design is compared with.
        criterion: a letter, a `Criterion`, or any differentiable convex phi(M). For E with a repeated smallest eigenvalue
            one gradient certifies little: the gap is true but not tight; `optimal_weights` certifies with a mixture.
        prior: (p, p) the part of M that is not the design's, symmetric positive semi-definite.

    Returns:
        The gap in [0, 1]; 1 where nothing is certified: M is singular, or proved over-weight, tr G (M - prior) > max_i f_i' G f_i,
        which no design of total weight 1 is.

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
    F = wide_rows(F)
    phi = as_criterion(criterion, F.shape[-1])
    checks.shape(M, (F.shape[-1], F.shape[-1]), "M")
    M, prior = jnp.asarray(M, F.dtype), None if prior is None else known_information(prior, F)
    over = _overweight(phi, M, F, prior)
    if not checks.is_traced(over):
        got, remedy = "more information than a total weight of 1 can give", "divide the design's part by n observations"
        checks.require(not bool(over), "M", got, "a design of total weight 1", remedy)
    return jnp.where(over, 1, certificate(phi, M, F, prior)[0])


def _overweight(phi: Callable, M: Array, F: Array, prior: Array | None) -> Array:
    """True where M is not of total weight 1, proved: sum_i w_i f_i' G f_i = tr G (M - prior), whatever G, is no more than the largest.

    Beyond rounding: entries of M, sums of as many products as there are rows, are known to that many eps of sqrt(M_ii M_jj).
    """
    ok = regular(M)
    G = slope(unguarded(phi), jnp.where(ok, M, jnp.eye(M.shape[0], dtype=M.dtype)))
    worst, spent = largest(sensitivity(F, G)), jnp.sum(G * (M if prior is None else M - prior))
    size = jnp.sqrt(jnp.abs(jnp.diagonal(M)))
    longest = largest(sensitivity(jnp.abs(F), jnp.abs(G)))
    terms = flat(F).shape[0] + M.shape[0]
    rounding = terms * jnp.finfo(M.dtype).eps * (size @ jnp.abs(G) @ size + longest)
    return ok & (worst < spent - rounding)


def certificate(phi: Callable, M: Array, F: Array, prior: Array | None):
    """The gap, the relative violation, and f' G f over the pool."""
    ok = regular(M)
    M = jnp.where(ok, M, jnp.eye(M.shape[0], dtype=M.dtype))
    value, G = unguarded(phi)(M), slope(unguarded(phi), M)
    s = sensitivity(F, G)
    worst, spent = largest(s), jnp.sum(G * (M if prior is None else M - jnp.asarray(prior, M.dtype)))
    tight = homogeneous(phi) and prior is None
    gap = 1 - value / worst if tight else (worst - spent) / jnp.abs(value)
    # what rounding may hide: everything here goes through M^-1, which is known as well as M^-1 M is the identity
    # (so a gap below zero, too little to prove M over-weight, counts with its size)
    gap = jnp.abs(gap) + largest_size(inverse(M) @ M - jnp.eye(M.shape[0], dtype=M.dtype))
    ok &= jnp.isfinite(value) & jnp.isfinite(worst)
    return jnp.where(ok, jnp.clip(gap, 0, 1), 1), jnp.where(ok, worst / spent - 1, jnp.inf), s
