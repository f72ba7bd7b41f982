"""Exact designs: n whole observations from a pool, by exchange, never singular where the pool allows it.

    min over rows r_1 .. r_n of phi(M),    M = sum_k f_{r_k} f_{r_k}' + fixed' fixed + prior

Start: rows picked for the largest residual outside the span so far, so the first design is regular. Then every row in turn
is exchanged for the best candidate until no exchange improves; restarts run side by side. The approximate optimum bounds what any
exact design can reach. Goes to: `least_time_path`. Reference: Fedorov (1972); MATH.md 4.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.fermat.active_set import weighted_information
from learnlag_jax.fermat.approximate import ROUNDS, judged_there, solved, usual_tolerance
from learnlag_jax.fermat.basis import orthonormal
from learnlag_jax.fermat.criteria import Criterion, as_criterion, wide_rows
from learnlag_jax.fermat.equivalence import magnitude
from learnlag_jax.fermat.known import known_information
from learnlag_jax.fermat.matrices import inverse, regular
from learnlag_jax.vocabulary import Array, Status, first_failure, status_where

SWEEPS = 100


class ExactDesign(NamedTuple):
    """n observations, what they are worth, and how much better any others could be.

    Attributes:
        rows: (n,) int32 indices into the pool, increasing; -1 where no regular design was found.
        value: phi of the total information of the n rows (and the fixed ones); +inf where none was found.
        efficiency: certified: no n rows of the pool have a value below value - (1 - efficiency) |value|, for the positive
            criteria here efficiency * value. 0 certifies nothing. The bound is that of fractional weights: where n is
            small beside p even the best n rows stay well below 1.
        residual: 1 - efficiency, the gap to the approximate bound (of this size also for a perfect exact design).
        status: int32, a `Status`.
        steps: int32, sweeps of exchanges of the best restart.

    Example:
        >>> from learnlag_jax.fermat import ExactDesign
        >>> ExactDesign._fields[:3]
        ('rows', 'value', 'efficiency')
    """

    rows: Array
    value: Array
    efficiency: Array
    residual: Array
    status: Array
    steps: Array


def exact_design(
    F,
    n: int,
    criterion: str | Callable = "A",
    *,
    replace: bool = True,
    fixed=None,
    prior=None,
    restarts: int = 8,
    key=None,
    max_sweeps: int = SWEEPS,
) -> ExactDesign:
    """Choose n observations from a pool so that a criterion of their total information is least.

        min over r in {1..N}^n of phi(sum_k f_{r_k} f_{r_k}' + fixed' fixed + prior)

    Args:
        F: (N, p) candidate rows.
        n: how many observations to choose.
        criterion: a letter, a `Criterion`, or any convex phi(M).
        replace: True lets a row be observed more than once.
        fixed: (m, p) rows already observed, which the design augments.
        prior: (p, p) information known beforehand.
        restarts: random starts; the best is returned.
        key: typed random key of the starts; None takes `jax.random.key(0)`.
        max_sweeps: most passes over the n rows.

    Returns:
        `ExactDesign`, at a local optimum of single exchanges. Statuses: `rank_deficient` (rows -1), `max_steps`.

    Raises:
        InputError: n + m < p without a prior; n > N without replacement; NaN in the pool (not checked while tracing).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import exact_design
        >>> x = jnp.linspace(-1.0, 1.0, 5)
        >>> design = exact_design(jnp.stack([jnp.ones_like(x), x, x**2], 1), 4, "A")
        >>> [int(i) for i in design.rows], round(float(design.value), 6), round(float(design.efficiency), 6)
        ([0, 2, 2, 4], 2.0, 1.0)

    Reference: Fedorov (1972); MATH.md 4.
    """
    F = wide_rows(F)
    single = "candidates of several rows, as of fisher_information with draws, go to optimal_weights"
    checks.require(F.ndim == 2, "F", checks.describe(F), "one row a candidate, shape (N, p)", single)
    checks.finite(F, "F")
    (N, p), phi = F.shape, as_criterion(criterion, F.shape[1])
    m = 0 if fixed is None else jnp.shape(fixed)[0]
    checks.whole(n, "n", 1, "choose how many to observe")
    checks.whole(restarts, "restarts", 1, "8 is usual")
    enough = prior is not None or n + m >= p
    checks.require(
        enough,
        "n",
        f"n = {n} with {m} fixed rows",
        f"at least p = {p} rows",
        "fewer rows cannot estimate every parameter; raise n or pass a prior",
    )
    checks.require(
        replace or n <= N, "n", n, f"at most N = {N} without replacement", "pass replace=True or a larger pool"
    )
    base = jnp.zeros((p, p), F.dtype) if prior is None else known_information(prior, F)
    if fixed is not None:
        checks.shape(fixed, (m, p), "fixed")
        checks.finite(fixed, "fixed")
    seen = jnp.zeros((0, p), F.dtype) if fixed is None else jnp.asarray(fixed, F.dtype)
    key = checks.random_key(key)
    phi = phi if isinstance(phi, Criterion) else jax.tree_util.Partial(phi)
    rows, value, sweeps, settled = searched(F, phi, base, seen, key, n, replace, restarts, max_sweeps)
    bound = approximate_bound(F, phi, None if prior is None else base, n, None if fixed is None else seen)
    found, efficiency = jnp.isfinite(value), certified_efficiency(value, bound)
    status = first_failure(status_where(~found, Status.rank_deficient), status_where(~settled, Status.max_steps))
    return ExactDesign(jnp.where(found, rows, -1), value, efficiency, 1 - efficiency, status, sweeps)


def searched(F, phi, base, seen, key, n: int, replace: bool, restarts: int, max_sweeps: int):
    """Rows, value, sweeps and whether they settled, of a problem that has been checked; value +inf where no design is regular."""
    own = orthonormal(F, phi, base, seen)  # raw powers of x would cost the exchanges their digits
    return _search(own.F, own.phi, own.prior, key, n, replace, restarts, max_sweeps)


def approximate_bound(F: Array, phi: Callable, prior: Array | None, n: int, seen: Array | None = None) -> Array:
    """A certified lower bound on phi over n rows beside those `seen`: n times the information of the best weights."""
    if isinstance(phi, Criterion) and phi.kind == "T":
        known = (0 if prior is None else jnp.trace(prior)) + (0 if seen is None else jnp.sum(seen**2))
        return 1 / (n * jnp.max(jnp.sum(F**2, 1)) + known)
    of_n = jax.tree_util.Partial(_scaled, jax.tree_util.Partial(phi), jnp.asarray(n, F.dtype))
    total = phi if isinstance(phi, Criterion) else of_n
    own = prior is None and seen is None and judged_there(phi, F)
    problem = orthonormal(F, total, prior, seen, float(n))
    design = solved(problem, usual_tolerance(F), ROUNDS, own)
    known = jnp.isfinite(design.value) & (design.gap < 1)  # a gap of 1 certifies nothing
    M = weighted_information(problem.F, design.weights, problem.prior)
    size = magnitude(problem.phi, jnp.where(known, M, jnp.eye(len(M), dtype=M.dtype)))
    lower = jnp.where(known, design.value - design.gap * size, -jnp.inf)
    return jnp.maximum(lower, 0) / n if isinstance(phi, Criterion) else lower


def certified_efficiency(value: Array, bound: Array) -> Array:
    """1 - (value - bound) / |value|, bound / value for positive criteria; 0 where nothing is certified."""
    finite = jnp.isfinite(value) & jnp.isfinite(bound)
    value, bound = jnp.where(finite, value, 1), jnp.where(finite, bound, 0)
    size = jnp.where(value == 0, 1, jnp.abs(value))
    return jnp.where(finite, jnp.clip(1 - (value - bound) / size, 0, 1), 0)


def _scaled(phi: Callable, n: Array, M: Array) -> Array:
    return phi(n * M)


def spanning_start(F: Array, base: Array, key: Array, n: int, replace: bool, taken: Array | None = None) -> Array:
    """n rows, none of `taken`: while some direction is unseen, a row with a large residual outside the span so far; then any row."""
    N, p = F.shape
    eps = jnp.finfo(F.dtype).eps
    l, U = jnp.linalg.eigh(base)
    seen = U * (l > p * eps * jnp.max(jnp.abs(l))).astype(F.dtype)[None, :]
    size = jnp.sqrt(jnp.sum(F**2, 1))
    size = jnp.where(size > 0, size, 1)

    def pick(k, state):
        rows, residual, taken = state
        luck = jax.random.uniform(jax.random.fold_in(key, k), (N,), F.dtype, minval=0.01)
        left = jnp.sum(residual**2, 1)
        unseen = jnp.any(jnp.sqrt(left) > 1e3 * p * eps * size)
        score = jnp.where(unseen, left * luck, luck)
        j = jnp.argmax(jnp.where(taken, -1, score))
        q = residual[j] * jax.lax.rsqrt(jnp.where(left[j] > 0, left[j], 1))
        rest = residual - (residual @ q)[:, None] * q[None, :]
        return rows.at[k].set(j.astype(jnp.int32)), jnp.where(unseen, rest, residual), taken.at[j].set(not replace)

    start = (jnp.zeros(n, jnp.int32), F - (F @ seen) @ seen.T, jnp.zeros(N, bool) if taken is None else taken)
    return jax.lax.fori_loop(0, n, pick, start)[0]


def swapped_values(phi: Callable, M: Array, out: Array, F: Array) -> Array:
    """phi(M - out out' + f_j f_j') for every j, by rank-two updates where they are known."""
    kind = phi.kind if isinstance(phi, Criterion) and phi.draws is None else None
    if kind not in ("A", "D", "I", "c"):
        return jax.vmap(lambda f: phi(M - jnp.outer(out, out) + jnp.outer(f, f)))(F)
    D = inverse(M)
    v = D @ out
    d_in, d_out, d_both = jnp.sum((F @ D) * F, 1), out @ v, F @ v
    ratio = (1 + d_in) * (1 - d_out) + d_both**2  # det M' / det M
    floor = 10 * M.shape[0] * jnp.finfo(M.dtype).eps
    regular_after = ratio > floor
    safe = jnp.where(regular_after, ratio, 1)
    if kind == "D":
        value = phi(M) * safe ** (-1 / M.shape[0])
    else:
        B = D @ phi.spread(M) @ D
        u = B @ out
        a_in, a_out, a_both = jnp.sum((F @ B) * F, 1), out @ u, F @ u
        value = phi(M) - ((1 - d_out) * a_in + 2 * d_both * a_both - (1 + d_in) * a_out) / safe
    return jnp.where(regular_after, value, jnp.inf)


def lowered(phi: Callable, M: Array) -> Array:
    """phi(M) less what rounding may pretend, in the criterion's own units."""
    value = phi(M)
    return jnp.where(jnp.isfinite(value), value - 100 * jnp.finfo(M.dtype).eps * magnitude(phi, M), value)


@functools.partial(jax.jit, static_argnames=("replace", "max_sweeps"))
def exchanged(
    F: Array, phi: Callable, base: Array, rows: Array, replace: bool, max_sweeps: int, taken: Array | None = None
):
    """Sweeps of single exchanges until one full sweep changes nothing; rows of `taken` may not enter."""
    n = rows.size
    information = lambda rows: base + F[rows].T @ F[rows]

    def exchange(i, state):
        rows, M, changed = state
        values = swapped_values(phi, M, F[rows[i]], F)
        if not replace:
            values = values.at[rows].set(jnp.inf)
        if taken is not None:
            values = jnp.where(taken, jnp.inf, values)
        j = jnp.argmin(values)
        better = values[j] < lowered(phi, M)
        moved = rows.at[i].set(j.astype(jnp.int32))
        swap = jnp.outer(F[j], F[j]) - jnp.outer(F[rows[i]], F[rows[i]])
        return jnp.where(better, moved, rows), jnp.where(better, M + swap, M), changed | better

    def sweep(state):
        rows, _, k = state
        rows, _, changed = jax.lax.fori_loop(0, n, exchange, (rows, information(rows), jnp.asarray(False)))
        return rows, changed, k + 1

    going = lambda state: state[1] & (state[2] < max_sweeps)
    rows, changed, sweeps = jax.lax.while_loop(going, sweep, (rows, jnp.asarray(True), jnp.int32(0)))
    rows = jnp.sort(rows)
    M = information(rows)
    return rows, jnp.where(regular(M), phi(M), jnp.inf), sweeps, ~changed


@functools.partial(jax.jit, static_argnames=("n", "replace", "restarts", "max_sweeps"))
def _search(F, phi, base, key, n, replace, restarts, max_sweeps):
    def one(key):
        return exchanged(F, phi, base, spanning_start(F, base, key, n, replace), replace, max_sweeps)

    rows, values, sweeps, settled = jax.lax.map(one, jax.random.split(key, restarts), batch_size=min(restarts, 8))
    best = jnp.argmin(values)
    return rows[best], values[best], sweeps[best], settled[best]
