"""Surprisal from logits: the log-probability a model gave to what came, without ever normalising more than it must.

    v(t) = -log p(x_t | x_<t) = logsumexp(logits_t) - logits_t[x_t]                      (nats per token)

Comes from: any model, as logits or log-probabilities (log-probabilities are logits that are already normalised).
Goes to: `kinematics`. Reference: MATH.md section 1.
"""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.information.arrays import as_ids, as_mask, looked_at, widened
from learnlag_jax.vocabulary import Array

NATS_PER_BIT = float(np.log(2.0))


def surprisal(logits: Array, tokens: Array, mask: Array | None = None) -> Array:
    """The information in every token, given the model's prediction of it.

        v(t) = logsumexp(logits[t]) - logits[t, tokens[t]]

    Args:
        logits: (T, V) real; row t is the prediction of token t, made before seeing it. Log-probabilities will do.
            A causal language model's row t predicts token t + 1: pass `logits[:-1]` and `tokens[1:]`.
        tokens: (T,) integers of any width in 0 .. V - 1.
        mask: (T,) boolean (on the host also zeros and ones), True where the token counts; all if left out. What is masked out
            may hold anything.

    Returns:
        (T,) nats per token, in at least float32; NaN where masked out and, inside jit, where an id is out of range or a row
        predicts nothing.

    Raises:
        InputError: shapes that do not fit; on the host also an id out of range or a row that predicts nothing: NaN or +inf in
            it, or -inf everywhere.
        DTypeError: tokens that are not integers, or a mask that is not boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import surprisal
        >>> v = surprisal(jnp.zeros((2, 4)), jnp.array([0, 3]))
        >>> [round(float(x), 6) for x in v]  # log 4
        [1.386294, 1.386294]

    Reference: MATH.md section 1; eq. 1.
    """
    logits = jnp.asarray(logits)
    checks.shape(logits, ("T", "V"), "logits")
    checks.floating(logits, "logits")
    tokens, live = check_tokens(tokens, logits.shape, mask)
    _check_rows(logits, live, "logits")
    wide = widened(logits)
    wide = (
        wide if mask is None else jnp.where(live[:, None], wide, jnp.zeros_like(wide))
    )  # else its NaN reach the gradient
    chosen = jnp.take_along_axis(wide, tokens[:, None], axis=1)[:, 0]
    top = jax.lax.stop_gradient(jnp.max(wide, axis=1))  # near it the logarithm of the sum keeps its digits
    return _masked((top - chosen) + jnp.log(jnp.sum(jnp.exp(wide - top[:, None]), axis=1)), live)


def chunked_surprisal(states: Array, embedding: Array, tokens: Array, *, chunk: int = 1024, mask=None) -> Array:
    """Surprisal from hidden states and an output embedding, without the (T, V) table of logits.

        v(t) = log sum_j exp(h_t . E_j) - h_t . E_{x_t},   the sum taken `chunk` words of the vocabulary at a time

    Args:
        states: (T, d) hidden states h, each made before seeing the token of its row.
        embedding: (V, d) output embedding E.
        tokens: (T,) integers of any width in 0 .. V - 1.
        chunk: words of the vocabulary at a time; memory grows as T x chunk.
        mask: (T,) boolean, as in `surprisal`.

    Returns:
        (T,) nats per token; differentiable in states and embedding with the same bound on memory.

    Raises:
        InputError, DTypeError: as `surprisal`.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import chunked_surprisal
        >>> v = chunked_surprisal(jnp.zeros((2, 3)), jnp.ones((10, 3)), jnp.array([0, 9]), chunk=4)
        >>> [round(float(x), 6) for x in v]  # log 10
        [2.302585, 2.302585]

    Reference: MATH.md section 1.
    """
    states, embedding = jnp.asarray(states), jnp.asarray(embedding)
    checks.shape(states, ("T", "d"), "states")
    checks.shape(embedding, ("V", states.shape[1]), "embedding")
    checks.floating((states, embedding), "states, embedding")
    same = jnp.result_type(states) == jnp.result_type(embedding)
    checks.require(same, "embedding", checks.describe(embedding), f"{states.dtype}", "cast one", checks.DTypeError)
    checks.whole(chunk, "chunk", 1, "use for example 1024 words")
    vocabulary = embedding.shape[0]
    tokens, live = check_tokens(tokens, (states.shape[0], vocabulary), mask)
    _check_rows(states, live, "states")
    checks.finite(embedding, "embedding")
    states = states if mask is None else jnp.where(live[:, None], states, jnp.zeros_like(states))
    pieces = -(-vocabulary // chunk)
    padded = jnp.pad(embedding, ((0, pieces * chunk - vocabulary), (0, 0))).reshape(pieces, chunk, -1)
    words = (jnp.arange(pieces * chunk) < vocabulary).reshape(pieces, chunk)

    wide = states.dtype if states.dtype.itemsize >= 4 else jnp.float32

    @jax.checkpoint
    def step(carry, piece):
        top, total, chosen = carry
        rows, alive, first = piece
        logits = jnp.matmul(states, rows.T, preferred_element_type=wide)
        logits = jnp.where(alive[None, :], logits, -jnp.inf)
        # the chosen logit comes from the same product as the sum, or rounding could make a probability above one
        here = (tokens - first)[:, None]
        inside = (here[:, 0] >= 0) & (here[:, 0] < chunk)
        own = jnp.take_along_axis(logits, jnp.clip(here, 0, chunk - 1), axis=1)[:, 0]
        higher = jax.lax.stop_gradient(jnp.maximum(top, jnp.max(logits, axis=1)))
        total = total * jnp.exp(top - higher) + jnp.sum(jnp.exp(logits - higher[:, None]), axis=1)
        return (higher, total, jnp.where(inside, own, chosen)), None

    nothing = jnp.zeros(states.shape[:1], wide)
    first = chunk * jnp.arange(pieces, dtype=tokens.dtype)
    (top, total, chosen), _ = jax.lax.scan(step, (nothing - jnp.inf, nothing, nothing), (padded, words, first))
    return _masked((top - chosen) + jnp.log(total), live)


def _masked(v: Array, live: Array) -> Array:
    return jnp.where(live & (v > -jnp.inf), v, jnp.nan)


def check_tokens(tokens, shape, mask=None) -> tuple[Array, Array]:
    """Ids in int32, and (T,) True where one counts and is of the vocabulary; on the host one that counts and is not is refused."""
    tokens = looked_at(tokens)  # a range has a length but no dtype
    checks.shape(tokens, shape[:1], "tokens")
    ids, counts = as_ids(tokens), as_mask(mask, shape[:1])
    known = (ids >= 0) & (ids < shape[1])
    if not checks.is_traced(tokens, counts):
        bad = np.flatnonzero(np.asarray(counts & ~known))
        got = "" if not len(bad) else f"{tokens[bad[0]]} at index {bad[0]}"
        checks.require(
            not len(bad), "tokens", got, f"ids 0 .. {shape[1] - 1}", "use the model's own tokenizer, or a mask"
        )
    return ids, counts & known


def _check_rows(rows, live, argument: str) -> None:
    """On the host: every row that counts must be a prediction, so its largest entry is a finite number."""
    if not checks.is_traced(rows, live):
        largest = np.asarray(jnp.where(live, jnp.max(rows, axis=1), 0)).astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(largest))
        kind = "" if not len(bad) else "-inf everywhere" if largest[bad[0]] < 0 else f"{largest[bad[0]]}"
        got = "" if not len(bad) else f"{kind} in row {bad[0]}"
        checks.require(
            not len(bad), argument, got, "a finite largest entry in every row", "check the model, or mask it"
        )


def check_log_probs(log_probs, argument: str = "log_probs") -> np.ndarray:
    """Host gate for log-probabilities of observed tokens read from elsewhere: numbers that are not above zero.

    Args:
        log_probs: (..., T) array of log p(x_t | x_<t), nats.
        argument: the name to use in the error.

    Returns:
        The same numbers as a NumPy array; -inf stays, the surprisal of what was held impossible is infinite.

    Raises:
        InputError: rows of unequal length, NaN, a row that is -inf everywhere, or a log-probability above zero by more than
            rounding (1e-6); says where.
        DTypeError: text, dates, truth values, complex numbers, objects: whatever is no real number.

    Example:
        >>> from learnlag_jax.information import check_log_probs
        >>> check_log_probs([-1.0, -0.5]).tolist()
        [-1.0, -0.5]

    Reference: MATH.md section 1.
    """
    array = _real(log_probs, argument)
    checks.require(array.size, argument, "no entries", "at least one log-probability", "score a longer text")
    nan = np.argwhere(np.isnan(array))
    got = "" if not len(nan) else f"NaN at index {tuple(map(int, nan[0]))}"
    checks.require(
        not len(nan), argument, got, "log-probabilities", "leave out what has no prediction (the first token)"
    )
    dead = np.flatnonzero(np.isneginf(np.atleast_2d(array)).all(-1))
    got = "" if not len(dead) else f"-inf everywhere in row {dead[0]}"
    checks.require(not len(dead), argument, got, "some finite entry in every row", "check the model")
    where = tuple(map(int, np.unravel_index(array.argmax(), array.shape)))
    got, remedy = f"{array.max():g} at index {where}", "pass log-probabilities in nats, not losses"
    checks.require(array.max() <= 1e-6, argument, got, "at most 0", remedy)
    return array


def _real(log_probs, argument: str) -> np.ndarray:
    """In float64; nothing that NumPy would merely be able to read as numbers."""
    try:
        array = np.asarray(log_probs)
    except ValueError:
        message = f"{argument}: got rows of unequal length; expected rows of equal length; cut equal windows"
        raise checks.InputError(message) from None
    real = jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    got, remedy = f"{array.dtype} of shape {array.shape}", "save natural logarithms as floats"
    checks.require(real, argument, got, "real numbers", remedy, checks.DTypeError)
    return array.astype(np.float64)
