"""Approximate designs: weights on a candidate pool, with a certificate over the whole pool.

    min over w >= 0, sum w = 1 of phi(M(w)),    M(w) = sum_i w_i f_i f_i' + prior

Equivalence theorem: with G = -d phi / dM, the design w is optimal exactly if f_i' G f_i <= tr(G M(w)) for every candidate i. How
far the largest exceeds it bounds the distance to the optimum, whatever the route that led there. The route: multiplicative
steps on the pool, a short active set, Newton on its weights, worst violators of the pool added, until certified; all in the basis in
which the pool is orthonormal, so that raw powers of x or columns in odd units cost no digits. Memory
O(N p). Goes to: `exact_design` (its bound), `least_time_path`. Reference: Kiefer and Wolfowitz (1960); Pukelsheim (1993); MATH.md 4.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.fermat.active_set import Design, weighted_information
from learnlag_jax.fermat.basis import Orthonormal, orthonormal
from learnlag_jax.fermat.criteria import Criterion, as_criterion, information_matrix, wide_rows
from learnlag_jax.fermat.extreme import extreme_weights
from learnlag_jax.fermat.implicit import differentiable_weights
from learnlag_jax.fermat.known import known_information
from learnlag_jax.fermat.matrices import inverse
from learnlag_jax.vocabulary import Array, Status

ROUNDS = 60


def optimal_weights(
    F, criterion: str | Callable = "A", *, prior=None, tol: float | None = None, max_rounds: int = ROUNDS
) -> Design:
    """The optimal approximate design on a candidate pool, certified over the whole pool.

        min over w >= 0, sum w = 1 of phi(sum_i w_i f_i f_i' + prior)

    Args:
        F: (N, p) candidate rows, float32 or float64, spanning R^p; or (N, m, p), m rows a candidate (see `information_matrix`).
        criterion: a letter, a `Criterion`, or any twice differentiable convex phi(M). Not "T": its optimum is one row.
        prior: (p, p) information known beforehand, in units of one observation of the design: for n observations after
            a set S0, S0 / n.
        tol: certified gap asked for; default 1e-9, 100 p eps if that is larger.
        max_rounds: most rounds of adding violators.

    Returns:
        `Design`; weights and value are differentiable in F, prior and the criterion's arrays, implicitly on the support (not E, G).
        Statuses: `rank_deficient` (weights NaN), `singular` (weights NaN: the optimum, of c perhaps, does not
            estimate every parameter; add a prior), `max_steps` (gap still above tol; it is true all the same),
        `nonfinite_input`.

    Raises:
        InputError, DTypeError: wrong shapes or dtypes, NaN in the pool, a prior that is none (neither is checked while tracing),
            criterion T, tol outside of (0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import optimal_weights
        >>> x = jnp.linspace(-1.0, 1.0, 101)
        >>> design = optimal_weights(jnp.stack([jnp.ones_like(x), x, x**2], 1), "A")
        >>> [round(float(w), 6) for w in design.weights[design.support]], round(float(design.value), 6)
        ([0.25, 0.5, 0.25], 8.0)
        >>> bool(design.gap < 1e-9)
        True

    Reference: Harman, Filova and Richtarik (2020) for the active set; MATH.md 4.
    """
    F = wide_rows(F)
    checks.finite(F, "F")
    p = F.shape[-1]
    phi = as_criterion(criterion, p)
    refused = isinstance(phi, Criterion) and phi.kind == "T"
    checks.require(
        not refused, "criterion", "T", "a criterion that asks for every parameter", "its optimum is the longest row"
    )
    if not checks.is_traced(tol):
        checks.require(tol is None or 0 < tol < 1, "tol", tol, "a gap between 0 and 1", "1e-9 is usual")
    checks.whole(max_rounds, "max_rounds", 0, "60 is usual")
    if prior is not None:
        prior = known_information(prior, F)
    limit = usual_tolerance(F) if tol is None else jnp.asarray(tol, F.dtype)
    own = prior is None and judged_there(phi, F)
    phi = phi if isinstance(phi, Criterion) else jax.tree_util.Partial(phi)
    return solved(orthonormal(F, phi, prior), limit, max_rounds, own)


def solved(problem: Orthonormal, limit: Array, max_rounds: int, own: bool) -> Design:
    """The certified design of a problem that has been checked; `own`: G judged on the pool itself."""
    p, kind = problem.F.shape[-1], getattr(problem.phi, "kind", None)
    if own:  # judged on its own pool, G has the D-optimal design (Kiefer and Wolfowitz), and value p there
        design = differentiable_weights(problem.F, as_criterion("D"), None, limit, max_rounds)
        value = problem.phi(information_matrix(problem.F, design.weights))
        design = design._replace(value=value, gap=jnp.where(design.gap < 1, jnp.clip(1 - p / value, 0, 1), 1))
    else:
        solve = extreme_weights if kind in ("E", "G") else differentiable_weights
        design = solve(problem.F, problem.phi, problem.prior, limit, max_rounds)
    return _returned(design, problem, limit)


def usual_tolerance(F: Array) -> Array:
    """1e-9, or what the precision allows."""
    return jnp.asarray(max(1e-9, 100 * F.shape[-1] * float(jnp.finfo(F.dtype).eps)), F.dtype)


def _returned(design: Design, problem: Orthonormal, tol: Array) -> Design:
    """The design, its gap with what the change of basis may hide: an error of M moves phi by that times the norm of M^-1, relatively."""
    hidden = problem.rounding
    if problem.prior is not None:
        M = weighted_information(problem.F, jax.lax.stop_gradient(design.weights), problem.prior)
        hidden = hidden + problem.blurred * jnp.max(jnp.sum(jnp.abs(inverse(M)), 1))
    gap = design.gap + jax.lax.stop_gradient(hidden)
    gap = jnp.where(jnp.isnan(gap), 1, jnp.clip(gap, 0, 1))
    missed = (design.status == int(Status.converged)) & ~(gap <= tol)
    status = jnp.where(missed, int(Status.max_steps), design.status).astype(design.status.dtype)
    return design._replace(gap=gap, status=status)


def judged_there(phi: Callable, F: Array) -> bool:
    """G on the pool itself, as far as can be seen."""
    region = phi.region if isinstance(phi, Criterion) and phi.kind == "G" else None
    if region is None or jnp.shape(region) != F.shape or checks.is_traced(region, F):
        return False
    return region is F or bool(jnp.array_equal(jnp.asarray(region, F.dtype), F))
