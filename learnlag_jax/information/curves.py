"""In-context learning curves: the expected velocity at every position, its band, and whether it slows down.

    v(t) = mean over windows of -log p(x_t | x_<t)              band: bootstrap over windows or documents, never tokens

Tokens of one window are dependent, so whole windows (or all windows of one document) are drawn again. Few documents know their
own spread badly: draws are widened by sqrt(D / (D - 1)), D the effective number of documents that reach a position. Comes from:
an array of velocities (windows, T). Goes to: the report's figure 1. Reference: MATH.md section 1, eq. 1; figure 1 of the paper.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.information.arrays import as_mask, widened
from learnlag_jax.information.student import student_band
from learnlag_jax.vocabulary import Array

# chance of a draw that holds no token at a position, up to which it is left out: of three documents it is at most exp(-3)
RARE = 0.05


class Curve(NamedTuple):
    """An in-context learning curve.

    Attributes:
        t: (T,) tokens, from 1.
        mean: (T,) expected velocity, nats per token.
        low, high: (T,) band of the mean.
        acceleration: (T - 1,) difference of `mean`, nats per token squared (eq. 1).
        acceleration_low, acceleration_high: (T - 1,) its band.
        replicates: (R, T) bootstrap means, spread about `mean` by sqrt(D / (D - 1)), from which every later standard error comes.
        sources: (T,) D, the effective number of documents at each position (Kish): (sum of n)^2 / (sum of n^2), n the windows of
            each that count there. Of a bin it is the least of its positions, and fits and tests use the least of all.

    Example:
        >>> from learnlag_jax.information import Curve
        >>> Curve._fields[:2]
        ('t', 'mean')
    """

    t: Array
    mean: Array
    low: Array
    high: Array
    acceleration: Array
    acceleration_low: Array
    acceleration_high: Array
    replicates: Array
    sources: Array


def in_context_curve(
    v: Array, *, mask=None, documents=None, replicates: int = 400, level: float = 0.95, key=None
) -> Curve:
    """The expected velocity and acceleration at every position, with bootstrap bands.

        v(t) = mean over the windows w that count at t of v[w, t],   a(t) = v(t+1) - v(t)

    Args:
        v: (W, T) velocities of W windows, nats per token; not finite only where masked out.
        mask: (W, T) boolean (on the host also zeros and ones), True where a token counts, at least twice at every position; all
            if left out. Draws that hold no token at a position are left out where their chance, (1 - L / D)^D if L of D
            documents reach it, is at most 5 %, as it is for three; where it is more, the band is NaN: cut the windows shorter.
        documents: (W,) labels, all text or all numbers, the document each window was cut from, two or more; windows of one
            document are drawn together. Each window its own document if left out.
        replicates: bootstrap draws R.
        level: coverage of the band.
        key: typed JAX key of the draws; `jax.random.key(0)` if left out.

    Returns:
        `Curve`, in at least float32.

    Raises:
        InputError: fewer than 2 windows, tokens or documents, labels of several kinds, a level that is no fraction, too few
            replicates for it, labels that are traced, a key that is not typed, or (on the host) a velocity that is not finite.
        DTypeError: velocities that are not real floats, or a mask that is not boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import in_context_curve
        >>> curve = in_context_curve(jnp.array([[3.0, 2.0, 1.0], [5.0, 2.0, 1.0]]))
        >>> curve.mean.tolist(), curve.acceleration.tolist()
        ([4.0, 2.0, 1.0], [-2.0, -1.0])

    Reference: MATH.md section 1; figure 1 of the paper; Hesterberg 2015 (what few documents do to a bootstrap).
    """
    v = jnp.asarray(v)
    checks.shape(v, ("W", "T"), "v")
    checks.floating(v, "v")
    checks.fraction(level, "level")
    checks.whole(replicates, "replicates", int(np.ceil(2 / (1 - level))), "draw more: each tail must hold one")
    checks.require(min(v.shape) >= 2, "v", checks.describe(v), "at least 2 windows of 2 tokens", "cut more windows")
    live = as_mask(mask, v.shape)
    seen = widened(jnp.where(live, v, jnp.zeros_like(v)))
    checks.finite(seen, "v")
    _check_counts(live)
    ids = np.arange(v.shape[0]) if documents is None else _documents(documents, v.shape[0])
    key = checks.random_key(key)
    return _in_context_curve(seen, live, jnp.asarray(ids), key, int(ids.max()) + 1, replicates, level)


def _documents(documents, windows: int) -> np.ndarray:
    """The labels as 0 .. D - 1."""
    seen, remedy = not checks.is_traced(documents), "pass them from outside jit and vmap, as NumPy's or as a list"
    checks.require(seen, "documents", "labels inside a transformation", "labels that can be counted", remedy)
    try:
        labels = np.asarray(documents)
        names, ids = np.unique(labels, return_inverse=True)
    except (TypeError, ValueError):  # labels that have no order, or rows of them
        kinds = " and ".join(sorted({type(label).__name__ for label in documents}))
        message = f"documents: got labels of {kinds}; expected all text or all numbers; name every window's document"
        raise checks.InputError(message) from None
    checks.require(
        labels.shape == (windows,), "documents", f"shape {labels.shape}", f"{windows} labels", "one a window"
    )
    checks.require(len(names) >= 2, "documents", f"{len(names)} document", "2 or more", "leave it out: draw windows")
    return ids


def _check_counts(live: Array) -> None:
    if not checks.is_traced(live):
        counts = np.asarray(live).sum(0)
        got = f"{counts.min()} at position {counts.argmin() + 1}"
        checks.require(
            counts.min() >= 2, "mask", got, "at least 2 windows at every position", "cut the windows shorter"
        )


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _in_context_curve(v, live, ids: Array, key: Array, total: int, replicates: int, level: float) -> Curve:
    draws, live = _counts(key, ids, total, replicates).astype(v.dtype), live.astype(v.dtype)
    t = jnp.arange(1, v.shape[1] + 1, dtype=jnp.int32)
    windows = jax.ops.segment_sum(live, ids, total)  # of each document at each position
    sources = jnp.sum(windows, axis=0) ** 2 / jnp.sum(windows**2, axis=0)
    mean = jnp.sum(v, axis=0) / jnp.sum(live, axis=0)
    held, reach = draws @ live, jnp.mean((windows > 0).astype(v.dtype), axis=0)
    spread = ((draws @ v) / held - mean[None, :])[_whole(held > 0, (1 - reach) ** total)]
    return _curve(t, mean, mean[None, :] + spread * jnp.sqrt(sources / (sources - 1))[None, :], sources, level)


@functools.partial(jax.jit, static_argnums=4)
def _curve(t: Array, mean: Array, replicates: Array, sources: Array, level: float) -> Curve:
    slope = lambda x: jnp.diff(x, axis=-1) / jnp.expand_dims(jnp.diff(t).astype(x.dtype), range(x.ndim - 1))
    both = jnp.minimum(sources[1:], sources[:-1])
    low, high = student_band(replicates, level, sources, mean)
    a_low, a_high = student_band(slope(replicates), level, both, slope(mean))
    return Curve(t, mean, low, high, slope(mean), a_low, a_high, replicates, sources)


def check_curve(curve, *, whole: bool = False) -> None:
    """A `Curve`, not binned where `whole`; on the host one whose draws are numbers at every position."""
    checks.require(isinstance(curve, Curve), "curve", type(curve).__name__, "a Curve", "make one with in_context_curve")
    binned = whole and jnp.issubdtype(curve.t.dtype, jnp.floating)
    checks.require(not binned, "curve", "a binned curve", "the whole curve", "pass what in_context_curve gave")
    if not checks.is_traced(curve.replicates):
        empty = np.isnan(np.asarray(curve.replicates)).any(0)
        got = f"no draw at position {int(np.argmax(empty)) + 1}"
        remedy = f"too few windows are that long: cut them to {int(np.argmax(empty))} tokens"
        checks.require(not empty.any(), "curve", got, "some token in every draw at every position", remedy)


def log_bins(curve: Curve, *, per_octave: int = 1, level: float = 0.95) -> Curve:
    """The curve averaged over positions whose bins grow in proportion: 1, 2, 3-4, 5-8, 9-16, ...

        v(bin) = mean of v over the bin,   t(bin) = mean of t over the bin,   a = difference of v / difference of t

    Args:
        curve: from `in_context_curve`.
        per_octave: bins in each doubling of t; bins that hold no token are left out.
        level: coverage of the bands, from the binned replicates (which know how tokens of one window depend).

    Returns:
        `Curve` of B bins; t is real. Fits and tests take it as they take the whole curve.

    Raises:
        InputError: a curve that is binned already, or (on the host) has no draw at some position.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import in_context_curve, log_bins
        >>> v = jnp.array([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
        >>> binned = log_bins(in_context_curve(v))
        >>> binned.t.tolist(), binned.mean.tolist(), [round(float(a), 6) for a in binned.acceleration]
        ([1.0, 2.0, 3.5], [4.0, 3.0, 1.5], [-1.0, -1.0])

    Reference: MATH.md section 1.
    """
    check_curve(curve, whole=True)
    checks.whole(per_octave, "per_octave", 1, "use 1 for doublings")
    checks.fraction(level, "level")
    t = np.arange(1, curve.mean.shape[0] + 1)
    label = np.ceil(per_octave * np.log2(t) - 1e-9)
    member = label[None, :] == np.unique(label)[:, None]
    average = jnp.asarray(member / member.sum(1, keepdims=True), curve.mean.dtype)
    t = average @ curve.t.astype(average.dtype)
    least = jnp.min(jnp.where(jnp.asarray(member), curve.sources[None, :], jnp.inf), axis=1)
    return _curve(t, average @ curve.mean, curve.replicates @ average.T, least, level)


class Score(NamedTuple):
    """A difference of velocities and its standard error, nats per token.

    Example:
        >>> from learnlag_jax.information import Score
        >>> Score(-0.4, 0.1).value
        -0.4
    """

    value: Array | float
    standard_error: Array | float


def in_context_score(curve: Curve, *, early: int = 50, late: int = 500) -> Score:
    """How much better late tokens are predicted than early ones.

        score = v(late) - v(early)          negative where the model learns in context

    Args:
        curve: from `in_context_curve`, not binned.
        early, late: positions from 1, early < late <= T.

    Returns:
        `Score`, its standard error from the bootstrap replicates.

    Raises:
        InputError: positions outside the window or in the wrong order.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import in_context_curve, in_context_score
        >>> curve = in_context_curve(jnp.array([[3.0, 2.0, 1.0], [5.0, 2.0, 1.0]]))
        >>> float(in_context_score(curve, early=1, late=3).value)
        -3.0

    Reference: Olsson et al. 2022, In-context learning and induction heads (early = 50, late = 500).
    """
    check_curve(curve, whole=True)
    T = curve.mean.shape[0]
    checks.whole(early, "early", 1, "a position from 1")
    got = f"early={early}, late={late} of {T} tokens"
    checks.require(1 <= early < late <= T, "early, late", got, "1 <= early < late <= T", "use positions in the window")
    gap = curve.replicates[:, late - 1] - curve.replicates[:, early - 1]
    return Score(curve.mean[late - 1] - curve.mean[early - 1], jnp.std(gap, ddof=1))


def _counts(key, ids: Array, total: int, replicates: int) -> Array:
    """How often each window appears in each draw of `total` documents, (R, W)."""
    drawn = jax.random.randint(key, (replicates, total), 0, total)
    times = jax.vmap(lambda row: jnp.bincount(row, length=total))(drawn)
    return times[:, ids]


def _whole(held: Array, chance: Array) -> Array:
    """(R,) which draws to take: those that hold a token wherever the chance to miss is small, the first of them twice to make R.

    Where it is larger a position keeps its empty draws; and so do all, where fewer than half of the draws would be left.
    """
    whole = jnp.all(held | (chance > RARE)[None, :], axis=1)
    kept, every = jnp.sum(whole), jnp.arange(len(whole))
    ours = jnp.argsort(~whole)[every % jnp.maximum(kept, 1)]  # stable: those that are whole, in order
    return jnp.where(2 * kept >= len(whole), ours, every)
