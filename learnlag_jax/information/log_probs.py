"""Surprisal from logits: the log-probability a model gave to what came, without ever normalising more than it must.

    v(t) = -log p(x_t | x_<t) = logsumexp(logits_t) - logits_t[x_t]                      (nats per token)

Comes from: any model, as logits or log-probabilities (log-probabilities are logits that are already normalised).
Goes to: `kinematics`. Reference: MATH.md section 1.
"""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.vocabulary import Array

NATS_PER_BIT = float(np.log(2.0))


def surprisal(logits: Array, tokens: Array, mask: Array | None = None) -> Array:
    """The information in every token, given the model's prediction of it.

        v(t) = logsumexp(logits[t]) - logits[t, tokens[t]]

    Args:
        logits: (T, V) real; row t is the prediction of token t, made before seeing it. Log-probabilities will do.
        tokens: (T,) integers in 0 .. V - 1.
        mask: (T,) boolean, True where the token counts; all if left out.

    Returns:
        (T,) nats per token, in at least float32; NaN where masked out and, inside jit, where a row predicts nothing.

    Raises:
        InputError: shapes that do not fit; on the host also an id out of range (a gather would clamp it) or a row that
            predicts nothing: NaN or +inf in it, or -inf everywhere.
        DTypeError: tokens that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import surprisal
        >>> v = surprisal(jnp.zeros((2, 4)), jnp.array([0, 3]))
        >>> [round(float(x), 6) for x in v]  # log 4
        [1.386294, 1.386294]

    Reference: MATH.md section 1; eq. 1.
    """
    checks.shape(logits, ("T", "V"), "logits")
    checks.floating(logits, "logits")
    _check_tokens(tokens, logits.shape)
    _check_rows(logits)
    wide = logits.astype(jnp.float32) if logits.dtype.itemsize < 4 else logits
    chosen = jnp.take_along_axis(wide, tokens[:, None], axis=1)[:, 0]
    return _masked(jax.nn.logsumexp(wide, axis=1) - chosen, mask)


def chunked_surprisal(states: Array, embedding: Array, tokens: Array, *, chunk: int = 1024, mask=None) -> Array:
    """Surprisal from hidden states and an output embedding, without the (T, V) table of logits.

        v(t) = log sum_j exp(h_t . E_j) - h_t . E_{x_t},   the sum taken `chunk` words of the vocabulary at a time

    Args:
        states: (T, d) hidden states h, each made before seeing the token of its row.
        embedding: (V, d) output embedding E.
        tokens: (T,) integers in 0 .. V - 1.
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
    checks.shape(states, ("T", "d"), "states")
    checks.shape(embedding, ("V", states.shape[1]), "embedding")
    checks.floating((states, embedding), "states, embedding")
    same = jnp.result_type(states) == jnp.result_type(embedding)
    checks.require(same, "embedding", checks.describe(embedding), f"{states.dtype}", "cast one", checks.DTypeError)
    checks.require(chunk >= 1, "chunk", chunk, "at least 1 word", "use for example 1024")
    vocabulary = embedding.shape[0]
    _check_tokens(tokens, (states.shape[0], vocabulary))
    pieces = -(-vocabulary // chunk)
    padded = jnp.pad(embedding, ((0, pieces * chunk - vocabulary), (0, 0))).reshape(pieces, chunk, -1)
    live = (jnp.arange(pieces * chunk) < vocabulary).reshape(pieces, chunk)

    wide = states.dtype if states.dtype.itemsize >= 4 else jnp.float32

    @jax.checkpoint
    def step(total, piece):
        rows, alive = piece
        logits = jnp.matmul(states, rows.T, preferred_element_type=wide)
        logits = jnp.where(alive[None, :], logits, -jnp.inf)
        return jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=1)), None

    start = jnp.full(states.shape[:1], -jnp.inf, wide)
    total, _ = jax.lax.scan(step, start, (padded, live))
    return _masked(total - jnp.sum(states.astype(wide) * embedding[tokens].astype(wide), axis=1), mask)


def _masked(v: Array, mask) -> Array:
    finite = jnp.where(jnp.isfinite(v) | (v == jnp.inf), v, jnp.nan)
    if mask is None:
        return finite
    checks.shape(mask, v.shape, "mask")
    return jnp.where(mask, finite, jnp.nan)


def _check_tokens(tokens, shape) -> None:
    checks.shape(tokens, shape[:1], "tokens")
    integral = jnp.issubdtype(jnp.result_type(tokens), jnp.integer)
    checks.require(integral, "tokens", checks.describe(tokens), "integer ids", "encode the text", checks.DTypeError)
    if not checks.is_traced(tokens):
        ids = np.asarray(tokens)
        bad = np.flatnonzero((ids < 0) | (ids >= shape[1]))
        got = "" if not len(bad) else f"{ids[bad[0]]} at index {bad[0]}"
        checks.require(not len(bad), "tokens", got, f"ids 0 .. {shape[1] - 1}", "use the model's own tokenizer")


def _check_rows(logits) -> None:
    """On the host: every row must be a prediction, so its largest logit is a finite number."""
    if not checks.is_traced(logits):
        largest = np.asarray(jnp.max(logits, axis=1)).astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(largest))
        kind = "" if not len(bad) else "-inf everywhere" if largest[bad[0]] < 0 else f"{largest[bad[0]]}"
        got = "" if not len(bad) else f"{kind} in row {bad[0]}"
        checks.require(not len(bad), "logits", got, "a finite largest logit in every row", "check the model")


def check_log_probs(log_probs, argument: str = "log_probs") -> np.ndarray:
    """Host gate for log-probabilities of observed tokens read from elsewhere: finite and not above zero.

    Args:
        log_probs: (..., T) array of log p(x_t | x_<t), nats.
        argument: the name to use in the error.

    Returns:
        The same numbers as a NumPy array.

    Raises:
        InputError: NaN, a row that is -inf everywhere, or a positive log-probability; names the largest.

    Example:
        >>> from learnlag_jax.information import check_log_probs
        >>> check_log_probs([-1.0, -0.5]).tolist()
        [-1.0, -0.5]

    Reference: MATH.md section 1.
    """
    array = np.asarray(log_probs, np.float64)
    checks.require(array.size, argument, "no entries", "at least one log-probability", "score a longer text")
    checks.require(not np.isnan(array).any(), argument, "NaN", "log-probabilities", "drop or mask the token")
    dead = np.flatnonzero(~np.isfinite(np.atleast_2d(array)).any(-1))
    got = "" if not len(dead) else f"-inf everywhere in row {dead[0]}"
    checks.require(not len(dead), argument, got, "some finite entry in every row", "check the model")
    largest = float(array.max())
    checks.require(
        largest <= 1e-6, argument, f"maximum {largest:g}", "at most 0", "pass log-probabilities in nats, not losses"
    )
    return array
