"""E and G: criteria with corners, solved together with what certifies them.

    E  1 / lambda_min(M) = max over |u| = 1 of u' M^-1 u        G  max over the region of r' M^-1 r

Both are maxima of smooth criteria, and the bound of any one of these, or of a mixture, is a bound for the maximum: at a repeated
eigenvalue a matrix X of some rank certifies, one eigenvector alone would not. Weights and proof are found at once on a short list of
rows, for E by a semidefinite program, for G against a short list of the region; the worst rows of the pool, and of the region,
come in until the whole pool certifies.

    E  phi* >= 1 / (max_i f_i' X f_i + tr X prior),  tr K X = 1, K = B'B        G  the bound of the I-criterion of C = sum_j mu_j r_j r_j'

Comes from: `optimal_weights`. Reference: Pukelsheim (1993), chapters 6, 7; Vandenberghe and Boyd (1996) for E; MATH.md 4.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.extrema import largest, largest_size
from learnlag_jax.fermat.active_set import Design, add_violators, solve_weights, weighted_information
from learnlag_jax.fermat.criteria import Criterion, sensitivity
from learnlag_jax.fermat.equivalence import certificate
from learnlag_jax.fermat.matrices import inverse, regular
from learnlag_jax.fermat.minimax import minimax
from learnlag_jax.fermat.semidefinite import largest_eigenvalue_design
from learnlag_jax.trees import fill_where
from learnlag_jax.vocabulary import Array, Status, status_where

PATIENCE = 8  # rounds without a better bound


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def extreme_weights(F: Array, phi: Criterion, prior: Array | None, tol: Array, max_rounds: int) -> Design:
    """The E- or G-optimal design and its certificate; F (N, p) or (N, k, p) in the basis of `phi`."""
    return _solve(F, phi, prior, tol, max_rounds)


@extreme_weights.defjvp
def _extreme_weights_jvp(max_rounds, primals, tangents):
    got, remedy = (
        "the derivative of an E- or G-optimal design",
        "differentiate criterion('phi', q=20), which is close and has none",
    )
    raise checks.InputError(f"criterion: got {got}; expected a criterion without corners; {remedy}")


class Lists(NamedTuple):
    """Where weights are looked for, and against whom: pool indices (n,), their weights (n,); of the region, for G, some rows (m, p)
    and how they are mixed (m,)."""

    chosen: Array
    w: Array
    judges: Array
    mixture: Array


class Found(NamedTuple):
    """A certified design, the lists it was found on, and the worth of every row of the pool (N,)."""

    design: Design
    lists: Lists
    s: Array


class Search(NamedTuple):
    """The best so far, the lists of the next round, and rounds: all, and since the bound last improved."""

    best: Found
    lists: Lists
    rounds: Array
    stale: Array


@functools.partial(jax.jit, static_argnames="max_rounds")
def _solve(F: Array, phi: Criterion, prior: Array | None, tol: Array, max_rounds: int) -> Design:
    start = solve_weights(F, smooth(phi), prior, jnp.asarray(0.1, F.dtype), max_rounds)
    sound = (start.status == int(Status.converged)) | (start.status == int(Status.max_steps))
    lists = _first_lists(F, phi, prior, start, sound)
    nothing = Found(start._replace(gap=jnp.ones_like(start.gap)), lists, jnp.zeros_like(start.weights))
    pick = lambda flag, a, b: jax.tree.map(lambda x, y: jnp.where(flag, x, y), a, b)

    def cond(search):
        return sound & (search.best.design.gap > tol) & (search.rounds < max(max_rounds, 1)) & (search.stale < PATIENCE)

    def body(search):
        found = _certified(F, phi, prior, *_saddle(F, phi, prior, search.lists, tol))
        better = found.design.gap < search.best.design.gap
        stale = jnp.where(better, 0, search.stale + 1)
        return Search(
            pick(better, found, search.best), _with_violators(F, phi, prior, found, tol), search.rounds + 1, stale
        )

    search = jax.lax.while_loop(cond, body, Search(nothing, lists, jnp.int32(0), jnp.int32(0)))
    best, fewer = search.best.design, _pruned(F, phi, prior, search.best, tol).design
    best = pick(sound & ((fewer.gap < best.gap) | (fewer.gap <= tol)), fewer, best)
    status = jnp.where(sound, status_where(~(best.gap <= tol), Status.max_steps), start.status)
    return best._replace(weights=fill_where(~sound, best.weights), status=status, steps=start.steps + search.rounds)


def smooth(phi: Criterion) -> Criterion:
    """The mean in place of the maximum, A for E and I for G: where the lists come from."""
    if phi.kind == "E":
        return Criterion("A", basis=phi.basis)
    region = _region(phi)
    return Criterion("I", moment=region.T @ region / len(region))


def _region(phi: Criterion) -> Array:
    assert phi.region is not None
    return jnp.asarray(phi.region)


def _first_lists(F: Array, phi: Criterion, prior: Array | None, start: Design, sound: Array) -> Lists:
    """The support of the smooth design, the rows it likes next best, and where in the region it is worst."""
    N, p = F.shape[0], F.shape[-1]
    weights = jnp.where(sound, start.weights, 1 / N)
    M = _safe(weighted_information(F, weights, prior))
    s = certificate(smooth(phi), M, F, prior)[2]
    w, chosen = jax.lax.top_k(weights + s / jnp.max(s), _length(N, p))
    judges = _worst(phi, M, _length(len(_region(phi)), p)) if phi.kind == "G" else jnp.zeros((0, p), F.dtype)
    return Lists(chosen.astype(jnp.int32), w, judges, jnp.zeros(len(judges), F.dtype))


def _worst(phi: Criterion, M: Array, count: int) -> Array:
    """The rows of the region that the design predicts worst, (count, p)."""
    region = _region(phi).astype(M.dtype)
    return region[jax.lax.top_k(jnp.sum((region @ phi.covariance(M)) * region, 1), count)[1]]


def _length(count: int, p: int) -> int:
    """As many of the pool, or of the region, as an optimum may need (Caratheodory), and room for violators."""
    return min(count, max(200, p * (p + 1) // 2 + 8 * p))


def _saddle(F: Array, phi: Criterion, prior: Array | None, lists: Lists, tol: Array, keep: Array | None = None):
    """The lists with new weights, and the proof; light rows close to the support, together a tenth of the tolerance, are left out."""
    rows = F[lists.chosen]
    # far below the tolerance, or light rows that matter cannot be told from those that only lie close
    fine = jnp.maximum(jnp.minimum(tol / 1000, 1e-12), 20 * jnp.finfo(F.dtype).eps).astype(F.dtype)
    if keep is not None:
        rows = jnp.where(jnp.expand_dims(keep, tuple(range(1, F.ndim))), rows, 0)
    if phi.kind == "E":
        w, proof = largest_eigenvalue_design(rows, _metric(phi, F), prior, fine)
    else:
        w, mixture = minimax(rows, lists.judges, prior, fine)
        lists, proof = lists._replace(mixture=mixture), weighted_information(lists.judges, mixture, None)
    w = w if keep is None else jnp.where(keep, w, 0)
    return lists._replace(w=_without_light(phi, rows, prior, w, proof, tol)), proof


def _without_light(phi: Criterion, rows: Array, prior: Array | None, w: Array, proof: Array, tol: Array) -> Array:
    """Zero for rows that lack more worth than they weigh, the lightest first; never for one that M cannot do without."""
    s = _worth(phi, rows, weighted_information(rows, w, prior), proof)
    order = jnp.argsort(w)
    light = jnp.zeros(w.shape, bool).at[order].set(jnp.cumsum(w[order]) < tol / 10) & (w < 1 - s / jnp.max(s))
    fewer = jnp.where(light, 0, w)
    w = jnp.where(regular(weighted_information(rows, fewer, prior)), fewer, w)
    return w / jnp.sum(w)


def _worth(phi: Criterion, rows: Array, M: Array, proof: Array) -> Array:
    """f' X f, or f' M^-1 C M^-1 f."""
    if phi.kind == "E":
        return sensitivity(rows, proof)
    D = inverse(_safe(M))
    return sensitivity(rows, D @ proof @ D)


def _metric(phi: Criterion, F: Array) -> Array:
    """K: the identity of the parameters, in the basis of the pool."""
    return jnp.eye(F.shape[-1], dtype=F.dtype) if phi.basis is None else phi.basis.T @ phi.basis


def _pruned(F: Array, phi: Criterion, prior: Array | None, found: Found, tol: Array) -> Found:
    """Solved once more without the rows that only lie close to the support: those that lack more worth than they weigh."""
    keep = found.lists.w >= 1 - found.s[found.lists.chosen] / jnp.max(found.s)
    return _certified(F, phi, prior, *_saddle(F, phi, prior, found.lists, tol, keep))


def _certified(F: Array, phi: Criterion, prior: Array | None, lists: Lists, proof: Array) -> Found:
    """The design with its value, and the bound that the proof gives over the whole pool."""
    weights = jnp.zeros(len(F), F.dtype).at[lists.chosen].add(lists.w)
    M = weighted_information(F, weights, prior)
    value = phi(M)
    lower, residual, s = (_bound_of_e if phi.kind == "E" else _bound_of_g)(F, weights, _safe(M), prior, proof)
    ok = jnp.isfinite(value) & jnp.isfinite(lower)
    gap = jnp.where(ok, jnp.clip(1 - lower / value, 0, 1), 1)
    return Found(Design(weights, value, gap, weights > 0, residual, jnp.int32(0), jnp.int32(0)), lists, s)


def _bound_of_e(F: Array, weights: Array, M: Array, prior: Array | None, X: Array):
    """1 / lambda* is at least 1 / (max f' X f + tr X prior), for lambda <= tr X M where tr K X = 1 and M - lambda K is psd."""
    s = sensitivity(F, X)
    known = 0 if prior is None else jnp.sum(X * prior)
    hidden = largest_size(inverse(M) @ M - jnp.eye(len(M), dtype=M.dtype))  # rounding, as in `certificate`
    return (1 - hidden) / (largest(s) + known), largest(s) / jnp.sum(weights * s) - 1, s


def _bound_of_g(F: Array, weights: Array, M: Array, prior: Array | None, C: Array):
    """That of the I-criterion tr M^-1 C, which the worst variance is not below."""
    mixed = Criterion("I", moment=C)
    gap, residual, s = certificate(mixed, M, F, prior)
    return mixed(M) * (1 - gap), residual, s


def _safe(M: Array) -> Array:
    return jnp.where(regular(M), M, jnp.eye(len(M), dtype=M.dtype))


def _with_violators(F: Array, phi: Criterion, prior: Array | None, found: Found, tol: Array) -> Lists:
    """The worst rows of the pool in place of rows without weight; the worst of the region in place of those that count least."""
    lists, s = found.lists, found.s
    level = jnp.sum(lists.w * s[lists.chosen]) * (1 + tol / 2)
    chosen, w, _ = add_violators(s, level, lists.chosen, lists.w, F.shape[-1], jnp.zeros((), F.dtype))
    lists, count = lists._replace(chosen=chosen, w=w), len(lists.judges)
    if phi.kind == "E" or count == len(_region(phi)):
        return lists
    new = _worst(phi, _safe(weighted_information(F, found.design.weights, prior)), min(3 * F.shape[-1], count))
    return lists._replace(judges=lists.judges.at[jnp.argsort(lists.mixture)[: len(new)]].set(new))
