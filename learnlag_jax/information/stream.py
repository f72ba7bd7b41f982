"""Long texts in bounded memory: one token in, its velocity out, the position kept in a compensated sum.

    v(t) = surprisal of x_t under the logits made before it;   I(t) = I(t-1) + v(t)

A model is `step(state, token) -> (state, logits)`: a recurrent net, or a transformer with a ring of keys. Nothing grows
with the text but the velocities handed out. Reference: MATH.md section 1; Neumaier 1974 (compensated sum).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.information.log_probs import check_tokens, surprisal
from learnlag_jax.vocabulary import Array, PyTree


class Stream(NamedTuple):
    """Where a reading stands: all that must be kept to go on.

    Attributes:
        state: the model's memory, any pytree.
        logits: (V,) the prediction of the next token.
        position: nats so far; its rounding error is in `lost`, so `position + lost` in a wider dtype is better still.
        lost: what the sum could not hold.
        tokens: how many were read, int32.

    Example:
        >>> from learnlag_jax.information import Stream
        >>> Stream._fields
        ('state', 'logits', 'position', 'lost', 'tokens')
    """

    state: PyTree
    logits: Array
    position: Array
    lost: Array
    tokens: Array


def start_stream(state: PyTree, logits: Array) -> Stream:
    """The beginning of a text: position zero.

    Args:
        state: the model's memory before the first token.
        logits: (V,) its prediction of the first token.

    Returns:
        `Stream`.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import start_stream
        >>> float(start_stream((), jnp.zeros(4)).position)
        0.0

    Reference: MATH.md section 1.
    """
    checks.shape(logits, ("V",), "logits")
    checks.floating(logits, "logits")
    zero = lambda: jnp.zeros((), logits.dtype if logits.dtype.itemsize >= 4 else jnp.float32)
    return Stream(
        state, logits, zero(), zero(), jnp.zeros((), jnp.int32)
    )  # its own buffer each: a stream may be donated


def read_stream(step: Callable, stream: Stream, tokens: Array) -> tuple[Stream, Array]:
    """Read on: the velocities of the next tokens, and where the reading stands after them.

    Reading a text in pieces gives the same velocities as reading it at once. To keep memory in place:
    `read = jax.jit(read_stream, static_argnums=0, donate_argnums=1)`, then `stream, v = read(step, stream, tokens)`.

    Args:
        step: `step(state, token) -> (state, logits)` with the shapes and dtypes it was given.
        stream: from `start_stream` or the last `read_stream`.
        tokens: (T,) integers of any width in 0 .. V - 1.

    Returns:
        The stream after the tokens, and their velocities (T,), nats per token; NaN for an id out of range seen under `jit`.

    Raises:
        InputError: a step whose state or logits are not like those it was given; on the host an id out of range.
        DTypeError: tokens that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.information import read_stream, start_stream
        >>> repeat = lambda state, token: (state, 2.0 * jnp.arange(4.0).at[token].set(9.0))
        >>> stream, v = read_stream(repeat, start_stream((), jnp.zeros(4)), jnp.array([1, 1, 1]))
        >>> [round(float(x), 4) for x in v], round(float(stream.position), 4), int(stream.tokens)
        ([1.3863, 0.0, 0.0], 1.3863, 3)

    Reference: MATH.md section 1.
    """
    checks.shape(tokens, ("T",), "tokens")
    ids, _ = check_tokens(tokens, (len(tokens), len(stream.logits)))
    tokens = jnp.asarray(tokens)  # the model sees them in their own dtype
    after = jax.eval_shape(step, stream.state, jax.ShapeDtypeStruct((), tokens.dtype))
    before = stream.state, stream.logits
    checks.same_structure(after, before, "step(state, token)", "(state, logits)")
    checks.same_dtypes(after, before, "step(state, token)", "(state, logits)")

    def one(s: Stream, read):
        token, number = read
        v = surprisal(s.logits[None, :], number[None])[0]
        total = s.position + v
        larger, smaller = jnp.maximum(s.position, v), jnp.minimum(s.position, v)
        lost = jnp.where(jnp.isfinite(total), s.lost + ((larger - total) + smaller), s.lost)
        state, logits = step(s.state, token)
        return Stream(state, logits, total, lost, s.tokens + jnp.int32(1)), v

    return jax.lax.scan(one, stream, (tokens, ids))
