"""Stationarity while a run is under way: an optax wrapper that keeps one 4 x 4 triangle a step, and no trajectory.

    V_k = ( v_k, v_{k-1}, M_k^-1 M_{k-1} v_{k-1}, M_k^-1 g_k ) = Q_k R_k        |V_k x| = |R_k x|

Every term of `fisher.audit` is a combination V_k x of these four vectors, so its norm follows from R_k whatever the
learning rate turns out to be, to rounding (inner products would lose half of the digits). The metric is diagonal, so the coordinates do not mix, and every `stride`-th
coordinate is followed exactly; the norms are their sums, weighted up. With stride 1 the numbers are those of `fisher.audit`.
A step is what the parameters moved, v_k = q_{k+1} - q_k, and is known to eps |q| / |v|; the updates themselves are not looked
at, for then the compiler would write all of them out, which the optimiser alone never does.
Comes from: an optax optimiser. Goes to: `audit`, `compare`. Reference: MATH.md 7.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learnlag_jax import checks, trees
from learnlag_jax.fisher import Audit
from learnlag_jax.vocabulary import Array, PyTree

FEW, MANY = 64, 256  # watched coordinates, if nobody says: one in 1024, within these; w tell a norm to 1 / sqrt(2 w)


class LiveState(NamedTuple):
    """What the wrapper carries.

    Attributes:
        inner: the state of the wrapped optimiser.
        count: steps so far, int32.
        watched: (6, w), of the watched coordinates: the rows of V_k', the running mean of squared gradients, and the position
            that v_k led to.
        triangles: (memory, 4, 4), a ring: R_k of step k stands in row k mod memory.
    """

    inner: PyTree
    count: Array
    watched: Array
    triangles: Array


def watch_stationarity(
    optimiser: optax.GradientTransformation,
    *,
    b2: float = 0.999,
    eps: float = 1e-8,
    exponent: float = -0.5,
    bias_correction: bool = True,
    stride: int | None = None,
    memory: int = 1024,
) -> optax.GradientTransformationExtraArgs:
    """The same optimiser, watched: its updates are passed on untouched.

    What it watches are the parameters, before and after `optax.apply_updates`: a step that their dtype rounds away was not taken.

    Args:
        optimiser: any optax optimiser, whole: what it returns must be the step that is applied. What skips steps goes outside,
            as `optax.apply_if_finite(watch_stationarity(..))`: skipped inside, a step counts as one that stood still.
        b2, eps, exponent, bias_correction: of the learning Lagrangian's metric, as in `fisher.audit`.
        stride: every stride-th coordinate of each leaf is followed; 1 follows all; None about 64 to 256 in all, which tells a
            norm to 9 to 4 %.
        memory: how many of the last steps are kept.

    Returns:
        An optax `GradientTransformationExtraArgs` with a `LiveState`; hand its state to `audited`. Its update needs `params`.

    Raises:
        InputError: stride or memory below 1; an update without params.

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
    checks.require(stride is None or stride >= 1, "stride", stride, "at least 1", "1 follows every coordinate")
    checks.require(memory >= 1, "memory", memory, "at least 1 step", "1024 is usual")
    inner = optax.with_extra_args_support(optimiser)

    def init(params):
        w = _watched(params, stride)
        ring = jnp.zeros((memory, 4, 4), jnp.float32)
        start = jnp.stack([*[jnp.zeros_like(w)] * 5, w])
        return LiveState(inner.init(params), jnp.zeros((), jnp.int32), start, ring)

    def update(updates, state, params: Any = None, **extra_args):
        checks.require(params is not None, "params", None, "the parameters", "call update(gradient, state, params)")
        gradient = updates
        step, new = inner.update(gradient, state.inner, params, **extra_args)
        before, (last, _, _, _, earlier_nu, position) = state.count, state.watched
        g, q = jnp.split(_watched((gradient, optax.apply_updates(params, step)), _stride(gradient, stride)), 2)
        k, v = before + jnp.int32(1), q - position
        g = jnp.where(jnp.isfinite(g), g, 0)  # or a step that the optimiser skips would spoil nu for good
        nu = jnp.float32(b2) * earlier_nu + jnp.float32(1 - b2) * g * g
        inverse = _inverse(nu, k, b2, eps, exponent, bias_correction)
        earlier = _inverse(earlier_nu, jnp.maximum(before, 1), b2, eps, exponent, bias_correction)
        moved = jnp.where(before > 0, inverse / earlier * last, jnp.zeros_like(v))
        # one after the other: two that could run at once are given to two threads, which costs more than either
        watched = jax.lax.optimization_barrier(jnp.stack([v, last, moved, inverse * g, nu, q]))
        R = jnp.linalg.qr(watched[:4].T * _weights(gradient, stride)[:, None], mode="r")
        R = jnp.pad(R, ((0, 4 - len(R)), (0, 0)))  # fewer than four coordinates give fewer rows
        ring = state.triangles.at[k % jnp.int32(memory)].set(R)
        return step, LiveState(new, k, watched, ring)

    return optax.GradientTransformationExtraArgs(init, update)


def _stride(tree: PyTree, stride: int | None) -> int:
    """Odd by default, so that rows of a power of two are swept and no column is favoured."""
    size = trees.size(tree)
    return stride or (size // min(max(size // 1024, FEW), MANY)) | 1


def _watched(tree: PyTree, stride: int | None) -> Array:
    """Every stride-th entry of each leaf, as one float32 vector."""
    stride = _stride(tree, stride)
    part = lambda leaf: jnp.ravel(jnp.real(leaf))[::stride].astype(jnp.float32)
    return jnp.concatenate([jnp.zeros(0, jnp.float32), *(part(leaf) for leaf in jax.tree.leaves(tree))])


def _weights(tree: PyTree, stride: int | None) -> np.ndarray:
    """Root of the number of coordinates of its leaf that each watched one stands for."""
    stride = _stride(tree, stride)
    sizes = [math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree)]
    counts = [-(-size // stride) for size in sizes]
    each = [size / count if count else 0.0 for size, count in zip(sizes, counts, strict=True)]
    return np.sqrt(np.repeat(each, counts)).astype(np.float32)


def _inverse(nu: Array, k: Array, b2: float, eps: float, exponent: float, bias_correction: bool) -> Array:
    """M_k^-1 = (sqrt(F_k) + eps)^(2a)."""
    c = 1 - jnp.float32(b2) ** k.astype(jnp.float32) if bias_correction else jnp.float32(1)
    root = jnp.sqrt(nu / c) + jnp.float32(eps)
    return 1 / root if exponent == -0.5 else jnp.power(root, jnp.float32(2 * exponent))


def find(state: PyTree) -> LiveState | None:
    """The `LiveState` inside an optimiser's state, if there is one."""
    is_live = lambda x: isinstance(x, LiveState)
    return next((x for x in jax.tree.leaves(state, is_leaf=is_live) if is_live(x)), None)


def audited(
    state: LiveState,
    *,
    learning_rate: float | None = None,
    schedule: Callable = np.ones_like,
    b1: float = 0.9,
    bias_correction: bool = True,
) -> Audit:
    """What the watched steps say: `fisher.audit` of the last `memory` of them.

    Args:
        state: of `watch_stationarity`, on the host.
        learning_rate: eta; None fits the one that explains the steps best.
        schedule: `schedule(k)`, what part of eta is used at step k, k = 1 for the first. Where it changes, the momentum is
            rescaled by its ratio; that part is counted as correction.
        b1, bias_correction: friction and whether the running moments are divided by 1 - b^k, as in `fisher.audit`.

    Returns:
        `fisher.Audit` (residual, unexplained, drift, correction, learning_rate, relative), NumPy float64, one entry a step;
        the first step has no predecessor and is left out. All NaN where nothing moved: there is no impulse to measure by.

    Raises:
        InputError: fewer than three steps were seen.

    Example: see `watch_stationarity`.
    """
    n, memory = int(state.count), state.triangles.shape[0]
    checks.require(n >= 3, "state", f"{n} steps", "at least 3 steps", "run longer")
    k = np.arange(max(2, n - memory + 1), n + 1)
    R = np.asarray(state.triangles, np.float64)[k % memory]
    c = (lambda k: 1 - b1**k) if bias_correction else np.ones_like
    one, zero, now, ratio = np.ones(len(k)), np.zeros(len(k)), c(1.0 * k), c(k - 1.0) / c(1.0 * k)
    pace, paced = (np.asarray(schedule(1.0 * x), np.float64) for x in (k, k - 1))
    ratio = ratio * pace / np.maximum(paced, np.finfo(np.float32).tiny)
    apply = lambda *x: np.einsum("kij,jk->ki", R, np.stack(x))
    if learning_rate is None:
        explained, pull = apply(-one, zero, b1 * ratio, zero), apply(zero, zero, zero, (1 - b1) * pace / now)
        learning_rate = np.sum(explained * pull) / (np.sum(pull**2) or np.nan)
    eta = np.float64(learning_rate) * pace
    push, norm = eta * (1 - b1), lambda *x: np.linalg.norm(apply(*x), axis=1)
    impulse = np.sqrt(np.mean(norm(one, -b1 * one, zero, zero) ** 2)) or np.float64(np.nan)
    size = lambda *x: norm(*x) / impulse
    residual = size(one, -b1 * one, zero, push)
    return Audit(
        residual=residual,
        unexplained=size(one, zero, -b1 * ratio, push / now),
        drift=size(zero, -b1 * ratio, b1 * ratio, zero),
        correction=size(zero, b1 * (ratio - 1), zero, push * (1 - 1 / now)),
        learning_rate=np.asarray(learning_rate, np.float64),  # pyright: ignore[reportArgumentType]
        relative=np.sqrt(np.mean(residual**2)),
    )
