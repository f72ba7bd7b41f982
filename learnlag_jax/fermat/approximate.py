"""Approximate designs: weights on a candidate pool, with a certificate over the whole pool.

    min over w >= 0, sum w = 1 of phi(M(w)),    M(w) = sum_i w_i f_i f_i' + prior

Equivalence theorem: with G = -d phi / dM, the design w is optimal exactly if f_i' G f_i <= tr(G M(w)) for every candidate i. How
far the largest exceeds it bounds the distance to the optimum, whatever the route that led there. The route: multiplicative
steps on the pool, a short active list, Newton on its weights, worst violators of the pool added, until certified. Memory
O(N p). Goes to: `exact_design` (its bound), `least_time_path`. Reference: Kiefer and Wolfowitz (1960); Pukelsheim (1993); MATH.md 4.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.fermat.criteria import (
    Criterion,
    as_criterion,
    homogeneous,
    regular,
    sensitivity,
    slope,
    unguarded,
    wide_rows,
)
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where


class Design(NamedTuple):
    """An approximate design and its certificate.

    Attributes:
        weights: (N,) shares of the observations, sum 1; NaN if the pool does not span the space.
        value: phi(M(weights)), for one observation in all.
        gap: certified bound on 1 - efficiency: the optimum is at least (1 - gap) value.
        support: (N,) True where the weight is positive.
        residual: largest relative violation of the equivalence theorem over the whole pool.
        status: int32, a `Status`.
        steps: int32, rounds in which violators were added.

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


def equivalence_gap(M, F, criterion: str | Callable = "A", *, prior=None) -> Array:
    """Certified bound on 1 - efficiency of the information matrix of a design, from the whole pool.

        homogeneous phi, no prior:  phi* >= phi(M)^2 / max_i f_i' G f_i
        otherwise (convexity):      phi* >= phi(M) - (max_i f_i' G f_i - tr G (M - prior)),    G = -d phi / dM

    Args:
        M: (p, p) information of a design of total weight 1, prior included.
        F: (N, p) the pool the design is compared with.
        criterion: a letter, a `Criterion`, or any differentiable convex phi(M). For E with a repeated smallest eigenvalue
            one gradient certifies little: the gap is true but not tight; `optimal_weights` certifies with a mixture.
        prior: (p, p) the part of M that is not the design's.

    Returns:
        The gap in [0, 1]; 1 where M is singular, so that nothing is certified.

    Raises:
        InputError, DTypeError: wrong shapes or dtypes.

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
    F, phi = wide_rows(F), as_criterion(criterion)
    checks.shape(M, (F.shape[1], F.shape[1]), "M")
    return certificate(phi, jnp.asarray(M, F.dtype), F, prior)[0]


def certificate(phi: Callable, M: Array, F: Array, prior: Array | None):
    """The gap, the relative violation, and f' G f over the pool."""
    ok = regular(M)
    M = jnp.where(ok, M, jnp.eye(M.shape[0], dtype=M.dtype))
    value, G = unguarded(phi)(M), slope(unguarded(phi), M)
    s = sensitivity(F, G)
    worst, spent = jnp.max(s), jnp.sum(G * (M if prior is None else M - jnp.asarray(prior, M.dtype)))
    tight = homogeneous(phi) and prior is None
    gap = 1 - value / worst if tight else (worst - spent) / jnp.abs(value)
    ok &= jnp.isfinite(value) & jnp.isfinite(worst)
    return jnp.where(ok, jnp.clip(gap, 0, 1), 1), jnp.where(ok, worst / spent - 1, jnp.inf), s


def optimal_weights(
    F, criterion: str | Callable = "A", *, prior=None, tol: float | None = None, max_rounds: int = 60
) -> Design:
    """The optimal approximate design on a candidate pool, certified over the whole pool.

        min over w >= 0, sum w = 1 of phi(sum_i w_i f_i f_i' + prior)

    Args:
        F: (N, p) candidate rows, float32 or float64, spanning R^p.
        criterion: a letter, a `Criterion`, or any twice differentiable convex phi(M). Not "T": its optimum is one row.
        prior: (p, p) information known beforehand, in units of one observation of the design: for n observations after
            a set S0, S0 / n.
        tol: certified gap asked for; default 1e-9 in float64, 100 p eps if that is larger.
        max_rounds: most rounds of adding violators.

    Returns:
        `Design`. Statuses: `rank_deficient` (weights NaN), `max_steps` (gap still above tol; it is true all the same),
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

    Reference: Harman, Filova and Richtarik (2020) for the active list; MATH.md 4.
    """
    F, phi = wide_rows(F), as_criterion(criterion)
    checks.finite(F, "F")
    N, p = F.shape
    refused = isinstance(phi, Criterion) and phi.kind == "T"
    checks.require(
        not refused, "criterion", "T", "a criterion that asks for every parameter", "its optimum is the longest row"
    )
    if prior is not None:
        checks.shape(prior, (p, p), "prior")
        prior = jnp.asarray(prior, F.dtype)
    if tol is None:
        tol = max(1e-9, 100 * p * float(jnp.finfo(F.dtype).eps))
    phi = phi if isinstance(phi, Criterion) else jax.tree_util.Partial(phi)
    return _solve(F, phi, prior, jnp.asarray(tol, F.dtype), max_rounds)


def _capacity(N: int, p: int) -> int:
    """Length of the active list: twice the support Caratheodory allows, and room for violators."""
    return min(N, max(200, p * (p + 1) + 8 * p))


def _normalised(w: Array) -> Array:
    return w / jnp.sum(w)


def _support_size(w: Array) -> Array:
    return jnp.sum((w > 0).astype(w.dtype))


def _information(rows: Array, w: Array, prior: Array | None) -> Array:
    M = rows.T @ (rows * w[:, None])
    return M if prior is None else M + prior


def _multiplicative(rows: Array, w: Array, phi: Callable, prior: Array | None) -> Array:
    """w <- w sqrt(f' G f), renormalised: descends, keeps zeros at zero."""
    s = sensitivity(rows, slope(unguarded(phi), _information(rows, w, prior)))
    return _normalised(w * jnp.sqrt(jnp.maximum(s, 0)))


def _first_list(F: Array, w: Array, capacity: int) -> Array:
    """Indices to start from: half drawn evenly along the mass of w (so the list spans), the rest the heaviest."""
    if capacity == F.shape[0]:
        return jnp.arange(capacity, dtype=jnp.int32)
    marks = (jnp.arange(capacity // 2).astype(w.dtype) + 0.5) / (capacity // 2)
    even = jnp.clip(jnp.searchsorted(jnp.cumsum(w), marks), 0, F.shape[0] - 1)
    return jax.lax.top_k(w.at[even].set(jnp.inf), capacity)[1].astype(jnp.int32)


def _burn_in(rows: Array, w: Array, phi: Callable, prior: Array | None) -> Array:
    """Multiplicative steps and trimming, until nearly optimal on a support that Newton can take."""
    p = rows.shape[1]

    def cond(carry):
        w, efficiency, k = carry
        return (k < 30) & ((efficiency < 0.999) | (jnp.sum(w > 0) > p * (p + 1) // 2 + p))

    def body(carry):
        w, _, k = carry
        w = jax.lax.fori_loop(0, 20, lambda _, w: _multiplicative(rows, w, phi, prior), w)
        trimmed = jnp.where(w < 5e-5 / _support_size(w), 0, w)
        keep = regular(_information(rows, trimmed, prior))
        w = _normalised(jnp.where(keep, trimmed, w))
        s = sensitivity(rows, slope(unguarded(phi), _information(rows, w, prior)))
        return w, jnp.sum(w * s) / jnp.max(s), k + 1

    return jax.lax.while_loop(cond, body, (w, jnp.zeros((), w.dtype), 0))[0]


def weight_hessian(rows: Array, M: Array, phi: Callable) -> Array:
    """d^2 phi / dw_i dw_j = f_i' (dG along f_j f_j') f_i, with G = d phi / dM, by one jvp a row."""
    outer = rows[:, :, None] * rows[:, None, :]
    turn = lambda dM: jax.jvp(jax.grad(unguarded(phi)), (M,), (dM,))[1]
    K = rows.shape[0]
    H = outer.reshape(K, -1) @ jax.vmap(turn)(outer).reshape(K, -1).T
    return (H + H.T) / 2


def _newton(rows: Array, w: Array, phi: Callable, prior: Array | None) -> Array:
    """Newton on the weights of the active list with sum fixed; weights that reach zero leave."""
    eps = jnp.finfo(w.dtype).eps
    value = lambda w: phi(_information(rows, w, prior))

    def direction(w):
        on = w > 0
        M = _information(rows, w, prior)
        s = jnp.where(on, sensitivity(rows, slope(unguarded(phi), M)), 0)
        H = jnp.where(on[:, None] & on[None, :], weight_hessian(rows, M, phi), 0)
        ridge = 4e6 * eps * jnp.trace(H) / _support_size(w)  # 1e-9 in float64: H is singular on too large a support
        H = H + jnp.diag(jnp.where(on, ridge, 1))
        both = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(H), jnp.stack([s, on.astype(w.dtype)], 1))
        mu = jnp.sum(both[:, 0]) / jnp.sum(both[:, 1])
        d = jnp.where(on, both[:, 0] - mu * both[:, 1], 0)
        return d, jnp.sum(s * d)

    def cond(carry):
        _, progress, k = carry
        return progress & (k < 300)

    def body(carry):
        w, _, k = carry
        d, fall = direction(w)
        room = jnp.where(d < 0, w / jnp.where(d < 0, -d, 1), jnp.inf)
        limit = jnp.min(room)
        at_wall = limit < 1
        start = value(w)
        step = jnp.minimum(limit, 1)

        def too_long(state):
            step, halvings = state
            return (value(w + step * d) > start - 1e-4 * step * fall + 8 * eps * start) & (halvings < 40)

        step, halvings = jax.lax.while_loop(too_long, lambda state: (state[0] / 2, state[1] + 1), (step, 0))
        ok = (halvings < 40) & jnp.isfinite(fall)
        moved = jnp.where((w + step * d <= 1e-12) | (at_wall & (halvings == 0) & (room <= limit)), 0, w + step * d)
        small = (fall <= 50 * eps * start) & ~at_wall
        return jnp.where(ok, _normalised(moved), w), ok & ~small, k + 1

    return jax.lax.while_loop(cond, body, (w, jnp.asarray(True), 0))[0]


def _add_violators(s: Array, level: Array, chosen: Array, w: Array, p: int):
    """The worst violators of the pool take the places of weightless rows, with 3 % of the mass."""
    places = min(3 * p, chosen.size)
    worst, index = jax.lax.top_k(s, places)
    index = index.astype(chosen.dtype)
    listed = jnp.any((index[:, None] == chosen[None, :]) & (w > 0)[None, :], 1)
    slots = jnp.argsort(w)[:places]
    enter = (worst > level) & ~listed & (w[slots] == 0)
    entering = enter.astype(w.dtype)
    share = 0.03 * entering / jnp.maximum(jnp.sum(entering), 1)
    w = (w * jnp.where(jnp.any(enter), 0.97, 1)).astype(w.dtype)
    return chosen.at[slots].set(jnp.where(enter, index, chosen[slots])), w.at[slots].add(share), jnp.any(enter)


@functools.partial(jax.jit, static_argnames="max_rounds")
def _solve(F: Array, phi: Callable, prior: Array | None, tol: Array, max_rounds: int) -> Design:
    N, p = F.shape
    spans = regular(_information(F, jnp.full(N, 1 / N, F.dtype), prior))
    start = jax.lax.fori_loop(0, 8, lambda _, w: _multiplicative(F, w, phi, prior), jnp.full(N, 1 / N, F.dtype))
    chosen = _first_list(F, start, _capacity(N, p))
    w = _normalised(_normalised(start[chosen]) + 1 / chosen.size)

    def cond(carry):
        _, _, gap, going, k = carry
        return going & (gap > tol) & (k < max_rounds)

    def body(carry):
        chosen, w, _, _, k = carry
        rows = F[chosen]
        w = _newton(rows, _burn_in(rows, w, phi, prior), phi, prior)
        M = _information(rows, w, prior)
        gap, _, s = certificate(phi, M, F, prior)
        more = _add_violators(s, jnp.sum(w * s[chosen]) * (1 + tol / 2), chosen, w, p)
        done = gap <= tol
        keep = lambda new, old: jnp.where(done, old, new)
        return keep(more[0], chosen), keep(more[1], w), gap, more[2], k + 1

    carry = (chosen, w, jnp.asarray(1, F.dtype), spans, jnp.int32(0))
    chosen, w, _, _, rounds = jax.lax.while_loop(cond, body, carry)
    # the last round may have added weight that no Newton step has seen: the certificate is of what is returned
    gap, residual, _ = certificate(phi, _information(F[chosen], w, prior), F, prior)
    weights = jnp.zeros(N, F.dtype).at[chosen].add(w)
    finite = jnp.all(jnp.isfinite(F))
    status = first_failure(
        status_where(~finite, Status.nonfinite_input),
        status_where(~spans, Status.rank_deficient),
        status_where(~(gap <= tol), Status.max_steps),
    )
    weights = jnp.where(spans & finite, weights, jnp.nan)
    value = jnp.where(spans & finite, phi(_information(F, weights, prior)), jnp.inf)
    return Design(weights, value, gap, weights > 0, residual, status, rounds)
