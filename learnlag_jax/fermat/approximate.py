"""Approximate designs: weights on a candidate pool, with a certificate over the whole pool.

    min over w >= 0, sum w = 1 of phi(M(w)),    M(w) = sum_i w_i f_i f_i' + prior

Equivalence theorem: with G = -d phi / dM, the design w is optimal exactly if f_i' G f_i <= tr(G M(w)) for every candidate i. How
far the largest exceeds it bounds the distance to the optimum, whatever the route that led there. The route: multiplicative
steps on the pool, a short active set, Newton on its weights, worst violators of the pool added, until certified; all in the basis in
which the pool is orthonormal, so that raw powers of x or columns in odd units cost no digits. Memory
O(N p). Goes to: `exact_design` (its bound), `least_time_path`. Reference: Kiefer and Wolfowitz (1960); Pukelsheim (1993); MATH.md 4.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.fermat.active_set import Design, solve_weights, weighted_information
from learnlag_jax.fermat.basis import Orthonormal, orthonormal
from learnlag_jax.fermat.criteria import Criterion, as_criterion, information_matrix, wide_rows
from learnlag_jax.fermat.equivalence import certificate
from learnlag_jax.fermat.implicit import differentiable_weights
from learnlag_jax.fermat.matrices import regular
from learnlag_jax.vocabulary import Array, Status, status_where


def optimal_weights(
    F, criterion: str | Callable = "A", *, prior=None, tol: float | None = None, max_rounds: int = 60
) -> Design:
    """The optimal approximate design on a candidate pool, certified over the whole pool.

        min over w >= 0, sum w = 1 of phi(sum_i w_i f_i f_i' + prior)

    Args:
        F: (N, p) candidate rows, float32 or float64, spanning R^p; or (N, m, p), m rows a candidate (see `information_matrix`).
        criterion: a letter, a `Criterion`, or any twice differentiable convex phi(M). Not "T": its optimum is one row.
        prior: (p, p) information known beforehand, in units of one observation of the design: for n observations after
            a set S0, S0 / n.
        tol: certified gap asked for; default 1e-9 (1e-5 for E and G, which have corners), 100 p eps if that is larger.
        max_rounds: most rounds of adding violators.

    Returns:
        `Design`; weights and value are differentiable in F, prior and the criterion's arrays, implicitly on the support (not E, G).
        Statuses: `rank_deficient` (weights NaN), `singular` (weights NaN: the optimum, of c perhaps, does not
            estimate every parameter; add a prior), `max_steps` (gap still above tol; it is true all the same),
        `nonfinite_input`.

    Raises:
        InputError, DTypeError: wrong shapes or dtypes, NaN in the pool (not checked while tracing), criterion T.

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
    if prior is not None:
        checks.shape(prior, (p, p), "prior")
        prior = jnp.asarray(prior, F.dtype)
    extreme = isinstance(phi, Criterion) and phi.kind in ("E", "G") and phi.q is None
    if tol is None:
        tol = max(1e-5 if extreme else 1e-9, 100 * p * float(jnp.finfo(F.dtype).eps))
    limit = jnp.asarray(tol, F.dtype)
    own = extreme and phi.kind == "G" and prior is None and _same(phi.region, F)
    phi = phi if isinstance(phi, Criterion) else jax.tree_util.Partial(phi)
    problem = orthonormal(F, phi, prior)
    if own:  # judged on its own pool, G has the D-optimal design (Kiefer and Wolfowitz), and value p there
        design = differentiable_weights(problem.F, as_criterion("D"), None, limit, max_rounds)
        value = problem.phi(information_matrix(problem.F, design.weights))
        design = design._replace(value=value, gap=jnp.where(design.gap < 1, jnp.clip(1 - p / value, 0, 1), 1))
    else:
        solve = _extreme_weights if extreme else differentiable_weights
        design = solve(problem.F, problem.phi, problem.prior, limit, max_rounds)
    return _returned(design, problem, limit)


def _returned(design: Design, problem: Orthonormal, tol: Array) -> Design:
    """The design, its gap with what the change of basis may hide."""
    gap = jnp.clip(design.gap + jax.lax.stop_gradient(problem.rounding), 0, 1)
    missed = (design.status == int(Status.converged)) & ~(gap <= tol)
    status = jnp.where(missed, int(Status.max_steps), design.status).astype(design.status.dtype)
    return design._replace(gap=gap, status=status)


def _same(region, F: Array) -> bool:
    if jnp.shape(region) != F.shape or checks.is_traced(region, F):
        return False
    return region is F or bool(jnp.array_equal(jnp.asarray(region, F.dtype), F))


def softened(phi: Criterion, q: Array) -> Criterion:
    """E and G with their maximum replaced by a q-norm: smooth, convex, and equal in the limit of large q."""
    return dataclasses.replace(phi, kind="phi" if phi.kind == "E" else "G", q=q)


def worst_mixture(phi: Criterion, M: Array) -> Array:
    """The second moment C, of trace-one directions (E) or points of the region (G), that the q-norm weighs at M.

    E and G are maxima of I-criteria tr(M^-1 C), so the bound of any one of them, also of a mixture, is a bound for them. At a
    repeated eigenvalue the mixture over its eigenspace is what certifies; one eigenvector alone would not.
    """
    assert phi.q is not None
    q = phi.q.astype(M.dtype)
    if phi.kind == "phi":
        l, U = jnp.linalg.eigh(phi.covariance(M))
        share = (jnp.maximum(l, 0) / l[-1]) ** (q - 1)
        return (U * (share / jnp.sum(share))[None, :]) @ U.T
    region = jnp.asarray(phi.region, M.dtype)
    variance = jnp.sum((region @ phi.covariance(M)) * region, 1)
    share = (variance / jnp.max(variance)) ** (q - 1)
    return weighted_information(region, share / jnp.sum(share), None)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _extreme_weights(F: Array, phi: Criterion, prior: Array | None, tol: Array, max_rounds: int) -> Design:
    return _solve_extreme(F, phi, prior, tol, max_rounds)


@_extreme_weights.defjvp
def _extreme_weights_jvp(max_rounds, primals, tangents):
    got, remedy = "the derivative of an E- or G-optimal design", "differentiate criterion('phi', q=...) with a large q"
    raise checks.InputError(f"criterion: got {got}; expected a criterion without corners; {remedy}")


@functools.partial(jax.jit, static_argnames="max_rounds")
def _solve_extreme(F: Array, phi: Criterion, prior: Array | None, tol: Array, max_rounds: int) -> Design:
    """E and G by q-norms with q = 4, 8, ...: each solution starts the next, until the certificate is tight."""
    N = F.shape[0]

    def certified(design, q):
        M = weighted_information(F, design.weights, prior)
        moment = worst_mixture(softened(phi, q), jnp.where(regular(M), M, jnp.eye(len(M), dtype=M.dtype)))
        mixture = Criterion("I", moment=moment, basis=phi.basis)
        gap, residual, _ = certificate(mixture, M, F, prior)
        value = phi(M)
        lower = mixture(M) * (1 - gap)
        ok = jnp.isfinite(value) & jnp.isfinite(lower)
        return design._replace(value=value, gap=jnp.where(ok, jnp.clip(1 - lower / value, 0, 1), 1), residual=residual)

    def cond(carry):
        best, _, q = carry
        return (best.gap > tol) & (q < 2**20) & jnp.isfinite(best.value)

    def body(carry):
        best, last, q = carry
        q = 2 * q
        new = certified(solve_weights(F, softened(phi, q), prior, tol / 10, 20, last.weights), q)
        new = new._replace(steps=last.steps + new.steps)
        pick = lambda flag, a, b: jax.tree.map(lambda x, y: jnp.where(flag, x, y), a, b)
        return pick(new.gap < best.gap, new, best), pick(jnp.isfinite(new.value), new, last), q

    q = jnp.asarray(4, F.dtype)
    first = certified(solve_weights(F, softened(phi, q), prior, tol / 10, max_rounds), q)
    design, last, _ = jax.lax.while_loop(cond, body, (first, first, q))
    design = design._replace(steps=last.steps)
    keep = (design.status != int(Status.max_steps)) & (design.status != int(Status.converged))
    status = jnp.where(keep, design.status, status_where(~(design.gap <= tol), Status.max_steps))
    return design._replace(status=status, weights=jnp.where(keep, jnp.full(N, jnp.nan, F.dtype), design.weights))
