"""Least-time paths: in which order to observe, for one deadline, for every moment, or step by step.

    path r_1, r_2, ..., r_n;   value after k observations: phi(M_k),   M_k = prior + sum_{j <= k} f_{r_j} f_{r_j}'

greedy    each observation is the best next one
block     blocks of p observations, each planned as a whole given what came before
deadline  the n observations as a whole; then ordered so that early prefixes are good too
anytime   the sum of the values after p, p + 1, ..., n observations, p - r after a prior of rank r: good at every moment

No nested path is optimal at every n, so the objective must be said. On the sphere greedy is exactly optimal at multiples of p and within 12.5 %
in between; on real pools planning pays much more. Reference: MATH.md 4.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.fermat.anytime import exchanged_path, path_on_sphere
from learnlag_jax.fermat.basis import orthonormal
from learnlag_jax.fermat.criteria import Criterion, as_criterion, wide_rows
from learnlag_jax.fermat.exact import SWEEPS, searched, spanning_start, swapped_values
from learnlag_jax.fermat.frames import tight_frame
from learnlag_jax.fermat.known import known_information
from learnlag_jax.fermat.matrices import rank
from learnlag_jax.vocabulary import Array, Status, status_where

OBJECTIVES = ("greedy", "block", "deadline", "anytime")


class Path(NamedTuple):
    """Observations in order, and what is known after each.

    Attributes:
        rows: (n, p) the observations.
        indices: (n,) int32 where they are in the pool; -1 on the sphere.
        values: (n,) phi after 1 .. n observations; +inf while the information is singular.
        status: int32, a `Status`: `rank_deficient` if the whole path is singular.

    Example:
        >>> from learnlag_jax.fermat import Path
        >>> Path._fields
        ('rows', 'indices', 'values', 'status')
    """

    rows: Array
    indices: Array
    values: Array
    status: Array


def least_time_path(
    F,
    n: int,
    criterion: str | Callable = "A",
    *,
    objective: str = "deadline",
    block: int | None = None,
    prior=None,
    replace: bool = True,
    key=None,
    restarts: int = 8,
) -> Path:
    """A path of n observations that is short in the time of learning: the errors fall as fast as the objective says.

        greedy    each observation is the best next one
        block     blocks of p (or `block`) observations, each planned as a whole given what came before
        deadline  the n observations as a whole; then ordered: the best p of them first (p - r after a prior of rank r), then
                  the best next one
        anytime   the sum of the values after p, p + 1, ..., n observations: from p - r on with a prior of rank r, all for r = p

    Args:
        F: (N, p) pool of candidate rows; or an integer p: every unit vector of R^p is a candidate. There the criterion is
            A, D, E or phi, without a prior (`complete_frame` and `v_optimal_frame` know those cases).
        n: length of the path, at least p.
        criterion: a letter, a `Criterion`, or any convex phi(M). On the sphere "A", "D" and "E" have the same optimum.
        objective: "deadline", "anytime", "block" or "greedy".
        block: length of a block, at least p unless there is a prior; default p.
        prior: (p, p) information known beforehand, symmetric positive semi-definite; without it, or where it leaves something
            unknown, greedy and the order of a path start from 1e-6 of the pool's mean information, which vanishes from `values`.
        replace: True lets a row be observed more than once.
        key: typed random key of the exchange restarts.
        restarts: restarts of each exchange search.

    Returns:
        `Path`.

    Raises:
        InputError, DTypeError: unknown objective, n < p or no integer, a prior that is none (not checked while tracing), or an
            infeasible choice (see `exact_design`).

    Example:
        >>> from learnlag_jax.fermat import least_time_path
        >>> greedy, planned = (least_time_path(4, 6, objective=o).values[-1] for o in ("greedy", "deadline"))
        >>> round(float(greedy / planned), 6)  # 1 + rho (1 - rho) / (k (k + 1)) with k = 1, rho = 1/2
        1.125

    Reference: MATH.md 4.
    """
    checks.require(
        objective in OBJECTIVES, "objective", repr(objective), f"one of {', '.join(OBJECTIVES)}", "'deadline' is usual"
    )
    checks.whole(n, "n", 1, "the length of the path")
    checks.whole(restarts, "restarts", 1, "8 is usual")
    if isinstance(F, int | np.integer):
        checks.whole(F, "F", 1, "the dimension of the sphere")
        remedy = "use complete_frame(prior, n)"
        checks.require(prior is None, "prior", "a prior on the sphere", "None", remedy)
        return _on_sphere(int(F), n, as_criterion(criterion, int(F)), objective)
    F = wide_rows(F)
    checks.shape(F, ("N", "p"), "F")
    phi = as_criterion(criterion, F.shape[1])
    checks.finite(F, "F")
    N, p = F.shape
    checks.require(
        n >= p or prior is not None, "n", n, f"at least p = {p}", "fewer rows cannot estimate every parameter"
    )
    checks.require(replace or n <= N, "n", n, f"at most N = {N} without replacement", "pass replace=True")
    base = jnp.zeros((p, p), F.dtype) if prior is None else known_information(prior, F)
    if block is not None:
        checks.whole(block, "block", p if prior is None else 1, "a shorter first block leaves something unknown")
    options = {"replace": replace, "restarts": restarts, "key": checks.random_key(key)}
    own = orthonormal(F, phi if isinstance(phi, Criterion) else jax.tree_util.Partial(phi), base)
    unknown = p if prior is None else p - rank(base)
    chosen = _chosen(own.F, own.phi, own.prior, n, unknown, objective, p if block is None else block, options)
    return _path(F[chosen], own.F[chosen], own.phi, own.prior, chosen, unknown)


def _chosen(
    F: Array, phi: Callable, base: Array, n: int, unknown: Array | int, objective: str, block: int, options: dict
) -> Array:
    """The rows of the path, in order, of a pool in its own basis: raw powers of x would cost every search its digits.

    `unknown`: how many directions `base` leaves to be seen.
    """
    small = jnp.where(unknown > 0, base + (1e-6 if F.dtype == jnp.float64 else 1e-3) / len(F) * F.T @ F, base)
    if objective == "greedy":
        return greedy_rows(F, phi, small, n, options["replace"])
    if objective == "block":
        return _blocks(F, phi, base, small, n, block, options)
    if objective == "anytime":
        return _anytime_rows(F, phi, base, small, n, unknown, options)
    search, order = jax.random.split(options["key"])
    rows = _planned(F, n, phi, base, options | {"key": search})
    return rows[_ordered(F[rows], phi, base, small, unknown, options | {"key": order})]


def _anytime_rows(
    F: Array, phi: Callable, base: Array, small: Array, n: int, unknown: Array | int, options: dict
) -> Array:
    """The best of exchanges from greedy, from a planned first block, and from random rows that span."""
    (N, p), replace = F.shape, options["replace"]
    first_key, key = jax.random.split(options["key"])
    first = min(p, n)
    planned = _planned(F, first, phi, base, options | {"key": first_key})
    taken = jnp.zeros(N, bool).at[planned].set(not replace)
    known = small + F[planned].T @ F[planned]
    starts = [greedy_rows(F, phi, small, n, replace)]
    if n > first:
        starts.append(jnp.concatenate([planned, greedy_rows(F, phi, known, n - first, replace, taken)]))
    starts += [spanning_start(F, base, k, n, replace) for k in jax.random.split(key, options["restarts"])]
    return exchanged_path(F, phi, base, jnp.stack(starts), unknown, replace)


@jax.jit
def _path(rows: Array, turned: Array, phi: Callable, base: Array, chosen: Array, unknown: Array | int) -> Path:
    """`turned`: the rows in the basis that phi and base are given in; fewer than `unknown` cannot show all, whatever rounding says."""
    totals = base[None] + jnp.cumsum(turned[:, :, None] * turned[:, None, :], 0)
    values = jax.lax.map(phi, totals, batch_size=256)
    if isinstance(phi, Criterion):  # a phi of the user's may be finite before
        values = jnp.where(jnp.arange(1, len(rows) + 1) < unknown, jnp.inf, values)
    return Path(rows, chosen, values, status_where(~jnp.isfinite(values[-1]), Status.rank_deficient))


def _planned(F: Array, n: int, phi: Callable, base: Array, options: dict, fixed: Array | None = None) -> Array:
    """Rows of the exact design; rows that span what they can where no design is regular, so that none is named twice."""
    key, spare = jax.random.split(options["key"])
    seen = jnp.zeros((0, F.shape[1]), F.dtype) if fixed is None else fixed
    replace = options["replace"]
    rows, value, _, _ = searched(F, phi, base, seen, key, n, replace, options["restarts"], SWEEPS)
    return jnp.where(jnp.isfinite(value), rows, spanning_start(F, base + seen.T @ seen, spare, n, replace))


def _ordered(rows: Array, phi: Callable, base: Array, small: Array, unknown: Array | int, options: dict) -> Array:
    """An order of the rows: as many as there are things unknown first, the best, planned as a whole; then the best next one."""
    n = len(rows)
    first = 0 if checks.is_traced(unknown) else int(unknown)  # a length: of a traced prior greedy alone sees the rank
    if first == 0 or first >= n:
        return greedy_rows(rows, phi, small, n, False)
    best = _planned(rows, first, phi, base, options | {"replace": False})
    first = best[greedy_rows(rows[best], phi, small, first, False)]
    taken = jnp.zeros(n, bool).at[first].set(True)
    known = small + rows[first].T @ rows[first]
    return jnp.concatenate([first, greedy_rows(rows, phi, known, n - len(first), False, taken)])


def _on_sphere(p: int, n: int, phi: Callable, objective: str) -> Path:
    checks.require(n >= p >= 1, "n", n, f"at least p = {p}", "fewer rows cannot span the space")
    spectral = isinstance(phi, Criterion) and phi.kind in ("A", "D", "E", "phi") and phi.draws is None
    got = phi.kind if isinstance(phi, Criterion) else "a function"
    remedy = "use v_optimal_frame for I, or a pool of unit rows"
    checks.require(spectral, "criterion", got, "A, D, E or phi on the sphere", remedy)
    basis = jnp.eye(p)[jnp.arange(n) % p]  # the least eigenvector each time: a round-robin
    nothing = jnp.zeros((p, p), basis.dtype)
    rows = basis
    if objective == "deadline":
        rows, options = tight_frame(n, p), {"restarts": 8, "key": jax.random.key(0)}
        rows = rows[_ordered(rows, phi, nothing, 1e-3 / n * rows.T @ rows, p, options)]
    if objective == "anytime":
        rows = path_on_sphere(phi, basis)
    path = _path(rows, rows, phi, nothing, jnp.arange(n), p)
    return path._replace(indices=jnp.full(n, -1, jnp.int32))


@functools.partial(jax.jit, static_argnames=("n", "replace"))
def greedy_rows(F: Array, phi: Callable, base: Array, n: int, replace: bool, taken: Array | None = None) -> Array:
    """The best next row, n times."""

    def step(state, _):
        M, taken = state
        values = swapped_values(phi, M, jnp.zeros_like(F[0]), F)
        # where no row makes M regular the first that is left is taken, never one that is gone
        values = jnp.where(taken, jnp.inf, jnp.where(jnp.isfinite(values), values, jnp.finfo(F.dtype).max))
        j = jnp.argmin(values).astype(jnp.int32)
        return (M + jnp.outer(F[j], F[j]), taken.at[j].set(not replace)), j

    return jax.lax.scan(step, (base, jnp.zeros(F.shape[0], bool) if taken is None else taken), length=n)[1]


def _blocks(F: Array, phi: Callable, base: Array, small: Array, n: int, block: int, options: dict) -> Array:
    chosen, key = jnp.zeros(0, jnp.int32), options["key"]
    left = jnp.arange(F.shape[0], dtype=jnp.int32)
    while chosen.size < n:
        options = options | {"key": jax.random.fold_in(key, chosen.size)}
        size = min(block, n - chosen.size)
        fixed = F[chosen] if chosen.size else None
        rows = left[_planned(F[left], size, phi, base, options, fixed)]
        known = small + F[chosen].T @ F[chosen]
        chosen = jnp.concatenate([chosen, rows[greedy_rows(F[rows], phi, known, size, False)]])
        if not options["replace"]:
            left = jnp.setdiff1d(left, rows)
    return chosen
