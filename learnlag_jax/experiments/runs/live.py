"""Stationarity while a run is under way: an optax wrapper that records a few coordinates, and their audit.

    a row a step, k = 0, 1, ..:  ( q_k, g_k )    of every stride-th coordinate: where step k led to, and the gradient it took

The metric is diagonal, so the coordinates do not mix, and every `stride`-th is followed exactly; the norms of `fisher.audit`'s
terms are sums over them, weighted up. With stride 1 the numbers are those of `fisher.audit`. While the run is under way a row
is written into a ring and nothing is computed with it, but that the mean square of gradients takes in the rows that leave.
A step is what the parameters moved, v_k = q_k - q_{k-1}, and is known to eps |q| / |v|; the updates themselves are not looked
at, for then the compiler would write all of them out, which the optimiser alone never does.
Comes from: an optax optimiser. Goes to: `audit`, `compare`. Reference: MATH.md 7.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learnlag_jax import checks, trees
from learnlag_jax.fisher import Audit
from learnlag_jax.vocabulary import Array, PyTree

WATCHED = 128  # coordinates, if nobody says: n tell a norm to 1 / sqrt(2 n), 6 %
STEPS, BYTES = 1024, 2**26  # of the ring, if nobody says: so many steps, or what fits


class Ring(NamedTuple):
    """Rows that a count points into. One that is being written lies beyond the count: who takes a step back need not take it back.

    Attributes:
        rows: (memory + 3, 2 w), float32, or float64 where a parameter is: the row of step k, in row k mod (memory + 3).
    """

    rows: Array


class LiveState(NamedTuple):
    """What the wrapper carries.

    Attributes:
        inner: the state of the wrapped optimiser.
        count: steps so far, int32.
        b2: memory of the running mean of squared gradients.
        weights: (w,), how many coordinates of its leaf each watched one stands for.
        squares: (w,), that mean at the oldest row of the ring.
        ring: positions and gradients of the last steps.
    """

    inner: PyTree
    count: Array
    b2: Array
    weights: Array
    squares: Array
    ring: Ring


def watch_stationarity(
    optimiser: optax.GradientTransformation,
    *,
    b2: float = 0.999,
    stride: int | None = None,
    memory: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The same optimiser, watched: its updates are passed on untouched.

    What it watches are the parameters, before and after `optax.apply_updates`: a step that their dtype rounds away was not taken.

    Args:
        optimiser: any optax optimiser, whole: what it returns must be the step that is applied. What skips steps goes outside,
            as `optax.apply_if_finite(watch_stationarity(..))`: skipped inside, a step counts as one that stood still.
        b2: memory of the learning Lagrangian's metric, as in `fisher.audit`; the one part of it that is settled while the run is
            under way, the rest is said to `audited`.
        stride: every stride-th coordinate of each leaf is followed; 1 follows all; None about 128 in all, which tells a norm to 6 %.
        memory: how many of the last steps are kept, each in 8 bytes a watched coordinate (16 in double); None 1024 (1 MB at the default stride),
            or fewer where they would take more than 64 MB.

    Returns:
        An optax `GradientTransformationExtraArgs` with a `LiveState`; hand its state to `audited`. Its update needs `params`.

    Raises:
        InputError: b2 outside [0, 1); stride or memory no integer or below 1; an update without params; at init, a complex parameter, whose
            metric is not diagonal in its parts.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from learnlag_jax.experiments.runs.live import audited, watch_stationarity
        >>> optimiser, q = watch_stationarity(optax.adam(0.1), stride=1), jnp.ones(2, jnp.float32)
        >>> state = optimiser.init(q)
        >>> for _ in range(30):
        ...     with jax.numpy_dtype_promotion("standard"):
        ...         u, state = optimiser.update(jnp.array([1.0, 9.0], jnp.float32) * q, state, q)
        ...     q = optax.apply_updates(q, u)
        >>> bool(audited(state, learning_rate=0.1).unexplained.max() < 1e-3)
        True

    Reference: MATH.md 7; eq. 31, 32.
    """
    checks.require(0 <= b2 < 1, "b2", b2, "at least 0 and below 1", "0.999 is Adam's")
    whole = lambda x: x is None or (isinstance(x, (int, np.integer)) and x >= 1)
    checks.require(whole(stride), "stride", repr(stride), "an integer, at least 1", "1 follows every coordinate")
    checks.require(whole(memory), "memory", repr(memory), "a number of steps, an integer, at least 1", "1024 is usual")
    inner = optax.with_extra_args_support(optimiser)

    def init(params):
        for x in jax.tree.leaves(params):
            checks.require(not jnp.iscomplexobj(x), "params", jnp.result_type(x), "real leaves", "mask complex ones")
        position = _watched(params, _stride(params, stride))
        length = 3 + (memory or min(STEPS, max(3, BYTES // max(1, 2 * position.nbytes))))
        rows = jnp.zeros((length, 2 * len(position)), position.dtype).at[0, : len(position)].set(position)
        weights, squares = jnp.asarray(_weights(params, stride)), jnp.zeros_like(position)
        return LiveState(
            inner.init(params), jnp.zeros((), jnp.int32), jnp.asarray(b2, position.dtype), weights, squares, Ring(rows)
        )

    def update(updates, state, params: Any = None, **extra_args):
        checks.require(params is not None, "params", None, "the parameters", "call update(gradient, state, params)")
        gradient = updates
        step, new = inner.update(gradient, state.inner, params, **extra_args)
        moved = optax.apply_updates(params, step)
        # written out at once, by one kernel: as a part of what follows, it is computed by two threads, which costs more
        row = jax.lax.optimization_barrier(_watched((moved, gradient), _stride(params, stride)))
        count, length = state.count + jnp.int32(1), jnp.int32(len(state.ring.rows))
        rows = state.ring.rows.at[count % length].set(row)
        oldest = _finite(rows[(count + jnp.int32(2)) % length, len(state.squares) :])  # the one after next to go
        squares = state.b2 * state.squares + (1 - state.b2) * oldest * oldest
        return step, LiveState(new, count, state.b2, state.weights, squares, Ring(rows))

    return optax.GradientTransformationExtraArgs(init, update)


def _finite(gradient, xp=jnp):
    """Zero for what is not finite, or a step that the optimiser skips would spoil the mean square for good."""
    return xp.where(xp.isfinite(gradient), gradient, 0)


def _stride(tree: PyTree, stride: int | None) -> int:
    """Odd by default, so that rows of a power of two are swept and no column is favoured."""
    return stride or (trees.size(tree) // WATCHED) | 1


def _watched(tree: PyTree, stride: int) -> Array:
    """Every stride-th entry of each leaf, as one vector: float32, or float64 where a leaf is."""
    leaves = jax.tree.leaves(tree)
    kind = jnp.float64 if any(jnp.result_type(leaf) == jnp.float64 for leaf in leaves) else jnp.float32
    part = lambda leaf: jnp.ravel(leaf)[::stride].astype(kind)
    return jnp.concatenate([jnp.zeros(0, kind), *(part(leaf) for leaf in leaves)])


def _weights(tree: PyTree, stride: int | None) -> np.ndarray:
    """Number of coordinates of its leaf that each watched one stands for."""
    stride = _stride(tree, stride)
    sizes = [math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree)]
    counts = [-(-size // stride) for size in sizes]
    each = [size / count if count else 0.0 for size, count in zip(sizes, counts, strict=True)]
    return np.repeat(each, counts).astype(np.float32)


def find(state: PyTree) -> LiveState | None:
    """The `LiveState` inside an optimiser's state, if there is one."""
    is_live = lambda x: isinstance(x, LiveState)
    return next((x for x in jax.tree.leaves(state, is_leaf=is_live) if is_live(x)), None)


def audited(
    state: PyTree,
    *,
    learning_rate: float | None = None,
    schedule: Callable = np.ones_like,
    b1: float = 0.9,
    eps: float = 1e-8,
    exponent: float = -0.5,
    bias_correction: bool = True,
) -> Audit:
    """What the watched steps say: `fisher.audit` of the last `memory` of them.

    Args:
        state: of `watch_stationarity`, on the host, or one that holds it, as that of `optax.apply_if_finite` around it.
        learning_rate: eta; None fits the one that explains the steps best.
        schedule: `schedule(k)`, what part of eta is used at step k, k = 1 for the first. Where it changes, the momentum is
            rescaled by its ratio; that part is counted as correction.
        b1, eps, exponent, bias_correction: of the learning Lagrangian and its metric, as in `fisher.audit`.

    Returns:
        `fisher.Audit` (residual, unexplained, drift, correction, learning_rate, relative), NumPy float64, one entry a step;
        the first step has no predecessor and is left out. All NaN where nothing moved: there is no impulse to measure by.

    Raises:
        InputError: fewer than three steps were seen; nothing in the state was watched; b1 outside [0, 1), eps below 0.

    Example: see `watch_stationarity`.
    """
    seen = find(state)
    checks.require(seen is not None, "state", type(state).__name__, "a state of watch_stationarity", "watch the run")
    checks.require(0 <= b1 < 1, "b1", b1, "at least 0 and below 1", "0.9 is Adam's")
    checks.require(eps >= 0, "eps", eps, "at least 0", "1e-8 is Adam's")
    state = cast(LiveState, seen)
    n = int(state.count)
    checks.require(n >= 3, "state", f"{n} steps", "at least 3 steps", "run longer")
    k, v, gradient, inverse = _path(state, eps, exponent, bias_correction)
    carried, force = inverse[1:] / inverse[:-1] * v[:-1], inverse[1:] * gradient[1:]
    k, last, v = k[1:], v[:-1], v[1:]
    column = lambda x: np.asarray(x, np.float64)[:, None]
    c = (lambda k: 1 - b1**k) if bias_correction else np.ones_like
    now, ratio = column(c(k)), column(c(k - 1) / c(k))
    pace, paced = column(schedule(k)), column(schedule(k - 1))
    ratio = ratio * pace / np.maximum(paced, np.finfo(np.float32).tiny)
    pull, weights = (1 - b1) * pace * force, np.asarray(state.weights, np.float64)
    if learning_rate is None:
        explained, size = b1 * ratio * carried - v, np.sum(weights * (pull / now) ** 2)
        learning_rate = np.sum(weights * explained * pull / now) / (size or np.nan)
    eta, norm = np.float64(learning_rate), lambda x: np.sqrt(np.sum(weights * x**2, axis=1))
    impulse = np.sqrt(np.mean(norm(v - b1 * last) ** 2)) or np.float64(np.nan)
    residual = norm(v - b1 * last + eta * pull) / impulse
    return Audit(
        residual=residual,
        unexplained=norm(v - b1 * ratio * carried + eta * pull / now) / impulse,
        drift=norm(b1 * ratio * (carried - last)) / impulse,
        correction=norm(b1 * (ratio - 1) * last + eta * (1 - 1 / now) * pull) / impulse,
        learning_rate=np.asarray(eta),  # pyright: ignore[reportArgumentType]
        relative=np.sqrt(np.mean(residual**2)),
    )


def _path(state: LiveState, eps: float, exponent: float, bias_correction: bool) -> tuple[np.ndarray, ...]:
    """k, v_k, g_k and M_k^-1 = (sqrt(F_k) + eps)^(2a) of the steps whose rows the ring holds, but the oldest, which has no predecessor."""
    n, rows = int(state.count), np.asarray(state.ring.rows, np.float64)
    steps = np.arange(max(0, n + 2 - len(rows)), n + 1)
    q, g = np.split(rows[steps % len(rows)], 2, axis=1)
    k, b2, nu = 1.0 * steps[1:], np.float64(state.b2), np.asarray(state.squares, np.float64)
    g = _finite(g, np)
    squares = np.stack([nu := b2 * nu + (1 - b2) * row**2 for row in g[1:]])
    root = np.sqrt(squares / (1 - b2 ** k[:, None] if bias_correction else 1)) + eps
    return k, np.diff(q, axis=0), g[1:], root ** (2 * exponent)
