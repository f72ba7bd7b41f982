"""The engine of approximate designs: Newton on an active set of candidates, fed with the worst violators of the pool.

    multiplicative steps on the pool -> the heaviest candidates -> burn-in and trimming -> Newton on their weights
    -> certificate over the pool -> worst violators in, and again

The active set has a fixed length (twice the support that Caratheodory allows), so one compilation serves a pool shape and memory
is O(N p). Comes from: `optimal_weights`. Reference: Harman, Filova and Richtarik (2020); MATH.md 4.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax.fermat.criteria import Criterion, block_size, flat, sensitivity, slope, unguarded
from learnlag_jax.fermat.equivalence import certificate, magnitude
from learnlag_jax.fermat.matrices import inverse, regular
from learnlag_jax.trees import fill_where
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where


class Design(NamedTuple):
    """An approximate design and its certificate.

    Attributes:
        weights: (N,) shares of the observations, sum 1; NaN if the pool does not span the space.
        value: phi(M(weights)), for one observation in all.
        gap: certified bound on 1 - efficiency: the optimum is at least (1 - gap) value; for a phi of the user's, at least
            value - gap s, where s is the larger of |value| and |phi(2 M) - value|, for values may be negative or 0.
        support: (N,) True where the weight is positive.
        residual: largest relative violation of the equivalence theorem over the whole pool; for E and G that of their proof.
        status: int32, a `Status`.
        steps: int32, rounds in which violators were added; for E and G with those of the smooth design they start from.

    Example:
        >>> from learnlag_jax.fermat import Design
        >>> Design._fields[:3]
        ('weights', 'value', 'gap')
    """

    weights: Array
    value: Array
    gap: Array
    support: Array
    residual: Array
    status: Array
    steps: Array


def capacity(N: int, p: int) -> int:
    """Length of the active set: twice the support Caratheodory allows, and room for violators."""
    return min(N, max(200, p * (p + 1) + 8 * p))


def _normalised(w: Array) -> Array:
    return w / jnp.sum(w)


def _support_size(w: Array) -> Array:
    return jnp.sum((w > 0).astype(w.dtype))


def weighted_information(rows: Array, w: Array, prior: Array | None) -> Array:
    weighted = rows * jnp.expand_dims(w, tuple(range(1, rows.ndim)))
    M = flat(rows).T @ flat(weighted)
    return M if prior is None else M + prior


def _multiplicative(rows: Array, w: Array, phi: Callable, prior: Array | None) -> Array:
    """w <- w (f' G f)^a, renormalised: keeps zeros at zero, and descends for a = 1 / (q + 1) in Kiefer's family."""
    s = jnp.maximum(sensitivity(rows, slope(unguarded(phi), weighted_information(rows, w, prior))), 0)
    q = getattr(phi, "q", None)
    order = 0.0 if getattr(phi, "kind", "") == "D" else 1.0 if q is None else q.astype(w.dtype)
    return _normalised(w * (s / jnp.max(s)) ** jnp.asarray(1 / (order + 1), w.dtype))


def _first_set(F: Array, w: Array, length: int) -> Array:
    """Indices to start from: half drawn evenly along the mass of w (so the list spans), the rest the heaviest."""
    if length == F.shape[0]:
        return jnp.arange(length, dtype=jnp.int32)
    marks = (jnp.arange(length // 2).astype(w.dtype) + 0.5) / (length // 2)
    even = jnp.clip(jnp.searchsorted(jnp.cumsum(w), marks), 0, F.shape[0] - 1)
    return jax.lax.top_k(w.at[even].set(jnp.inf), length)[1].astype(jnp.int32)


def _burn_in(rows: Array, w: Array, phi: Callable, prior: Array | None) -> Array:
    """Multiplicative steps and trimming, until nearly optimal on a support that Newton can take."""
    p = rows.shape[-1]

    def cond(carry):
        w, efficiency, k = carry
        return (k < 30) & ((efficiency < 0.999) | (jnp.sum(w > 0) > p * (p + 1) // 2 + p))

    def body(carry):
        w, _, k = carry
        w = jax.lax.fori_loop(0, 20, lambda _, w: _multiplicative(rows, w, phi, prior), w)
        trimmed = jnp.where(w < 5e-5 / _support_size(w), 0, w)
        keep = regular(weighted_information(rows, trimmed, prior))
        w = _normalised(jnp.where(keep, trimmed, w))
        s = sensitivity(rows, slope(unguarded(phi), weighted_information(rows, w, prior)))
        return w, jnp.sum(w * s) / jnp.max(s), k + 1

    return jax.lax.while_loop(cond, body, (w, jnp.zeros((), w.dtype), 0))[0]


def weight_hessian(rows: Array, M: Array, phi: Callable) -> Array:
    """d^2 phi / dw_i dw_j = tr(M_i (dG along M_j)), with M_i = f_i f_i' and G = d phi / dM, by one jvp a candidate."""
    if isinstance(phi, Criterion) and phi.kind in ("A", "D", "I", "c") and phi.draws is None and rows.ndim == 2:
        return _rank_one_hessian(rows, inverse(M), phi, M)
    outer = jnp.einsum("i...a,i...b->iab", rows, rows)
    turn = lambda dM: jax.jvp(jax.grad(unguarded(phi)), (M,), (dM,))[1]
    K = rows.shape[0]
    H = outer.reshape(K, -1) @ jax.vmap(turn)(outer).reshape(K, -1).T
    return (H + H.T) / 2


def _rank_one_hessian(rows: Array, D: Array, phi: Criterion, M: Array) -> Array:
    """The same for single rows, entry by entry: 2 (f_i' D f_j)(f_i' D C D f_j) for tr C D; p times fewer products."""
    cross = rows @ D @ rows.T
    if phi.kind == "D":
        p, s = M.shape[0], jnp.diagonal(cross)
        return phi.unguarded(M) / p * (cross**2 + s[:, None] * s[None, :] / p)
    B = D @ phi.spread(M) @ D
    return 2 * cross * (rows @ ((B + B.T) / 2) @ rows.T)


def _newton(rows: Array, w: Array, phi: Callable, prior: Array | None) -> Array:
    """Newton on the weights of the active set with sum fixed; weights that reach zero leave."""
    eps = jnp.finfo(w.dtype).eps
    value = lambda w: phi(weighted_information(rows, w, prior))

    def direction(w):
        on = w > 0
        M = weighted_information(rows, w, prior)
        size = magnitude(phi, M)
        size = jnp.where(size > 0, size, 1)  # a criterion of 1e-300, in large units, would overflow the ratios below
        s = jnp.where(on, sensitivity(rows, slope(unguarded(phi), M)) / size, 0)
        H = jnp.where(on[:, None] & on[None, :], weight_hessian(rows, M, phi) / size, 0)
        ridge = max(1e-9, 10 * float(eps)) * jnp.trace(H) / _support_size(w)  # H is singular on too large a support
        H = H + jnp.diag(jnp.where(on, ridge, 1))
        both = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(H), jnp.stack([s, on.astype(w.dtype)], 1))
        mu = jnp.sum(both[:, 0]) / jnp.sum(both[:, 1])
        d = jnp.where(on, both[:, 0] - mu * both[:, 1], 0)
        return d, jnp.sum(s * d) * size, size, s > jnp.sum(w * s)

    def cond(carry):
        _, progress, k = carry
        return progress & (k < 300)

    def body(carry):
        w, _, k = carry
        d, fall, size, worthy = direction(w)
        room = jnp.where(d < 0, w / jnp.where(d < 0, -d, 1), jnp.inf)
        # a row of more than average worth must not leave because Newton overshot: it keeps a tenth of its weight
        limit = jnp.min(jnp.where(worthy, 0.9 * room, room))
        at_wall = limit < 1
        start = value(w)
        step = jnp.minimum(limit, 1)

        def too_long(state):
            step, halvings = state
            return (value(w + step * d) > start - 1e-4 * step * fall + 8 * eps * size) & (halvings < 40)

        step, halvings = jax.lax.while_loop(too_long, lambda state: (state[0] / 2, state[1] + 1), (step, 0))
        ok = (halvings < 40) & jnp.isfinite(fall)
        moved = jnp.where((w + step * d <= 1e-12) | (at_wall & (halvings == 0) & (room <= limit)), 0, w + step * d)
        small = (fall <= 50 * eps * size) & ~at_wall
        return jnp.where(ok, _normalised(moved), w), ok & ~small, k + 1

    return jax.lax.while_loop(cond, body, (w, jnp.asarray(True), 0))[0]


def add_violators(s: Array, level: Array, chosen: Array, w: Array, p: int, mass: Array):
    """The worst violators of the pool take the places of weightless rows, with a little of the mass."""
    places = min(3 * p, chosen.size)
    worst, index = jax.lax.top_k(s, places)
    index = index.astype(chosen.dtype)
    listed = jnp.any((index[:, None] == chosen[None, :]) & (w > 0)[None, :], 1)
    slots = jnp.argsort(w)[:places]
    enter = (worst > level) & ~listed & (w[slots] == 0)
    entering = enter.astype(w.dtype)
    share = mass * entering / jnp.maximum(jnp.sum(entering), 1)
    w = (w * jnp.where(jnp.any(enter), 1 - mass, 1)).astype(w.dtype)
    return chosen.at[slots].set(jnp.where(enter, index, chosen[slots])), w.at[slots].add(share), jnp.any(enter)


@functools.partial(jax.jit, static_argnames="max_rounds")
def solve_weights(F: Array, phi: Callable, prior: Array | None, tol: Array, max_rounds: int) -> Design:
    N, p = F.shape[0], F.shape[-1]
    spans = regular(weighted_information(F, jnp.full(N, 1 / N, F.dtype), prior))
    length = capacity(N, block_size(phi, p))
    mass = jnp.asarray(0.03, F.dtype)
    spread = jax.lax.fori_loop(0, 8, lambda _, w: _multiplicative(F, w, phi, prior), jnp.full(N, 1 / N, F.dtype))
    chosen = _first_set(F, spread, length)
    w = _normalised(_normalised(spread[chosen]) + 1 / chosen.size)

    def cond(carry):
        _, _, gap, going, k = carry
        return going & (gap > tol) & (k < max_rounds)

    def body(carry):
        chosen, w, _, _, k = carry
        rows = F[chosen]
        w = _newton(rows, _burn_in(rows, w, phi, prior), phi, prior)
        M = weighted_information(rows, w, prior)
        gap, _, s = certificate(phi, M, F, prior)
        more = add_violators(s, jnp.sum(w * s[chosen]) * (1 + tol / 2), chosen, w, p, mass)
        done = gap <= tol
        keep = lambda new, old: jnp.where(done, old, new)
        return keep(more[0], chosen), keep(more[1], w), gap, more[2], k + 1

    carry = (chosen, w, jnp.asarray(1, F.dtype), spans, jnp.int32(0))
    chosen, w, _, _, rounds = jax.lax.while_loop(cond, body, carry)
    # the last round may have added weight that no Newton step has seen: the certificate is of what is returned
    gap, residual, _ = certificate(phi, weighted_information(F[chosen], w, prior), F, prior)
    weights = jnp.zeros(N, F.dtype).at[chosen].add(w)
    finite = jnp.all(jnp.isfinite(F))
    status = first_failure(
        status_where(~finite, Status.nonfinite_input),
        status_where(~spans, Status.rank_deficient),
        status_where(~regular(weighted_information(F[chosen], w, prior)), Status.singular),
        status_where(~(gap <= tol), Status.max_steps),
    )
    failed = (status != 0) & (status != int(Status.max_steps))
    weights = fill_where(failed, weights)
    value = jnp.where(failed, jnp.inf, phi(weighted_information(F, weights, prior)))
    return Design(weights, value, gap, weights > 0, residual, status, rounds)
