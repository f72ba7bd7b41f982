"""E and G: criteria with corners, solved with the mixture of directions that certifies them.

    E  1 / lambda_min(M) = max over |u| = 1 of u' M^-1 u        G  max over the region of r' M^-1 r

Both are maxima of I-criteria tr(M^-1 C), and so the bound of any one C is a bound for them: at a repeated eigenvalue the mixture over
its eigenspace certifies, one eigenvector alone would not. Weights and mixture are found together (`minimax`) on short lists;
the worst rows of the pool and the worst directions come in until the whole pool certifies. The directions of E are the eigenvectors
of M^-1 and what lies halfway between two of them: they span all forms on an eigenspace.

Comes from: `optimal_weights`. Reference: Pukelsheim (1993), chapters 6, 7; Overton and Womersley (1995); MATH.md 4.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.fermat.active_set import Design, add_violators, capacity, solve_weights, weighted_information
from learnlag_jax.fermat.criteria import Criterion
from learnlag_jax.fermat.equivalence import certificate
from learnlag_jax.fermat.matrices import regular
from learnlag_jax.fermat.minimax import minimax
from learnlag_jax.trees import fill_where
from learnlag_jax.vocabulary import Array, Status, status_where

PATIENCE = 8  # rounds without a better bound
CLUSTER = 12  # eigenvectors that are combined in pairs


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def extreme_weights(F: Array, phi: Criterion, prior: Array | None, tol: Array, max_rounds: int) -> Design:
    """The E- or G-optimal design and its certificate; F (N, p) or (N, k, p) in the basis of `phi`."""
    return _solve(F, phi, prior, tol, max_rounds)


@extreme_weights.defjvp
def _extreme_weights_jvp(max_rounds, primals, tangents):
    got, remedy = "the derivative of an E- or G-optimal design", "differentiate criterion('phi', q=...) with a large q"
    raise checks.InputError(f"criterion: got {got}; expected a criterion without corners; {remedy}")


class Lists(NamedTuple):
    """Where the saddle point is looked for: pool indices (K,), their weights (K,), directions (L, p), their mixture (L,)."""

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
        return sound & (search.best.design.gap > tol) & (search.rounds < max_rounds) & (search.stale < PATIENCE)

    def body(search):
        found = _certified(F, phi, prior, _saddle(F, search.lists, prior, tol))
        better = found.design.gap < search.best.design.gap
        stale = jnp.where(better, 0, search.stale + 1)
        return Search(
            pick(better, found, search.best), _with_violators(F, phi, prior, found, tol), search.rounds + 1, stale
        )

    search = jax.lax.while_loop(cond, body, Search(nothing, lists, jnp.int32(0), jnp.int32(0)))
    best, fewer = search.best.design, _pruned(F, phi, prior, search.best, tol).design
    best = pick(sound & (fewer.gap <= jnp.maximum(best.gap, tol)), fewer, best)
    status = jnp.where(sound, status_where(~(best.gap <= tol), Status.max_steps), start.status)
    return best._replace(weights=fill_where(~sound, best.weights), status=status, steps=start.steps + search.rounds)


def smooth(phi: Criterion) -> Criterion:
    """The mean in place of the maximum, A for E and I for G: where the lists come from."""
    if phi.kind == "E":
        return Criterion("A", basis=phi.basis)
    region = jnp.asarray(phi.region)
    return Criterion("I", moment=region.T @ region / len(region))


def _first_lists(F: Array, phi: Criterion, prior: Array | None, start: Design, sound: Array) -> Lists:
    """The support of the smooth design, the rows it likes next best, and the directions it estimates worst."""
    N, p = F.shape[0], F.shape[-1]
    weights = jnp.where(sound, start.weights, 1 / N)
    M = _safe(weighted_information(F, weights, prior))
    s = certificate(smooth(phi), M, F, prior)[2]
    w, chosen = jax.lax.top_k(weights + s / jnp.max(s), capacity(N, p))
    directions = worst_directions(phi, M)
    length = _judge_count(phi, p)
    some = directions[jnp.arange(length) % len(directions)]
    return Lists(chosen.astype(jnp.int32), w, some, jnp.full(length, 1 / length, F.dtype))


def _judge_count(phi: Criterion, p: int) -> int:
    if phi.kind == "E":
        return 2 * len(_pairs(p)[0])
    return min(len(phi.region), capacity(len(phi.region), p)) if phi.region is not None else 0


def _saddle(F: Array, lists: Lists, prior: Array | None, tol: Array, keep: Array | None = None) -> Lists:
    """Weights and mixture on the lists; the lightest rows, together less than a tenth of the tolerance, are left out."""
    rows = F[lists.chosen]
    if keep is not None:
        rows = jnp.where(jnp.expand_dims(keep, tuple(range(1, F.ndim))), rows, 0)
    w, mixture = minimax(rows, lists.judges, prior, jnp.maximum(tol / 1000, 20 * jnp.finfo(F.dtype).eps))
    order = jnp.argsort(w)
    light = jnp.zeros(w.shape, bool).at[order].set(jnp.cumsum(w[order]) < tol / 10)
    w = jnp.where(light if keep is None else light | ~keep, 0, w)
    return lists._replace(w=w / jnp.sum(w), mixture=mixture)


def _pruned(F: Array, phi: Criterion, prior: Array | None, found: Found, tol: Array) -> Found:
    """Solved once more, with the directions of the answer, and without rows that only lie close to its support.

    Those lack more worth than they weigh.
    """
    keep = found.lists.w >= 1 - found.s[found.lists.chosen] / jnp.max(found.s)
    lists = found.lists._replace(judges=_with_violators(F, phi, prior, found, tol).judges)
    return _certified(F, phi, prior, _saddle(F, lists, prior, tol, keep))


def _certified(F: Array, phi: Criterion, prior: Array | None, lists: Lists) -> Found:
    """The design with its value, and the bound that the mixture gives over the whole pool."""
    weights = jnp.zeros(len(F), F.dtype).at[lists.chosen].add(lists.w)
    M = _safe(weighted_information(F, weights, prior))
    moment = weighted_information(lists.judges, lists.mixture, None)
    mixed = Criterion("I", moment=moment)
    gap, residual, s = certificate(mixed, M, F, prior)
    value, lower = phi(M), mixed(M) * (1 - gap)
    ok = jnp.isfinite(value) & jnp.isfinite(lower)
    gap = jnp.where(ok, jnp.clip(1 - lower / value, 0, 1), 1)
    return Found(Design(weights, value, gap, weights > 0, residual, jnp.int32(0), jnp.int32(0)), lists, s)


def _safe(M: Array) -> Array:
    return jnp.where(regular(M), M, jnp.eye(len(M), dtype=M.dtype))


def _with_violators(F: Array, phi: Criterion, prior: Array | None, found: Found, tol: Array) -> Lists:
    """The worst rows of the pool in place of rows without weight; the worst directions in place of those that count least."""
    lists, s = found.lists, found.s
    level = jnp.sum(lists.w * s[lists.chosen]) * (1 + tol / 2)
    chosen, w, _ = add_violators(s, level, lists.chosen, lists.w, F.shape[-1], jnp.zeros((), F.dtype))
    new = worst_directions(phi, _safe(weighted_information(F[lists.chosen], lists.w, prior)))
    slots = jnp.argsort(lists.mixture)[: len(new)]
    return Lists(chosen, w, lists.judges.at[slots].set(new), lists.mixture)


def worst_directions(phi: Criterion, M: Array) -> Array:
    """Directions (k, p), in the basis of M, where the design is worst: of the region, or eigenvectors of M^-1 and their halfways."""
    if phi.kind == "G":
        region = jnp.asarray(phi.region, M.dtype)
        variance = jnp.sum((region @ phi.covariance(M)) * region, 1)
        length = _judge_count(phi, M.shape[-1])
        count = length if length == len(region) else min(3 * M.shape[-1], length)
        return region[jax.lax.top_k(variance, count)[1]]
    U = jnp.linalg.eigh(phi.covariance(M))[1][:, ::-1]
    first, second, sign = _pairs(M.shape[-1])
    halfway = U[:, first] + jnp.asarray(sign, M.dtype)[None, :] * U[:, second]
    directions = halfway / jnp.linalg.norm(halfway, axis=0, keepdims=True)
    return (directions if phi.basis is None else phi.basis.T @ directions).T


def _pairs(p: int):
    """Columns (first, second, sign): every eigenvector alone (sign 0), then u_i + u_j and u_i - u_j of the leading ones."""
    pairs = [(i, j, sign) for i, j in itertools.combinations(range(min(p, CLUSTER)), 2) for sign in (1, -1)]
    first, second, sign = np.array([(i, i, 0) for i in range(p)] + pairs).T
    return first, second, sign
