"""Small language models trained here: a transformer and a GRU on bytes (flax nnx), and the k-gram, which looks back k - 1.

Text is UTF-8 bytes, so the vocabulary is 256 and nothing needs a tokenizer. A model is a function tokens (T,) -> logits
(T, 256): row t predicts token t from the tokens before it (a start symbol stands before the first).
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from learnlag_jax import checks
from learnlag_jax.vocabulary import Array, PyTree

VOCABULARY = 256


class Config(NamedTuple):
    """Sizes of the transformer."""

    width: int = 96
    layers: int = 3
    heads: int = 4
    context: int = 96


def rotation(length: int, head: int, base: float = 1e4, dtype=jnp.float32) -> tuple[Array, Array]:
    """Cosine and sine (T, 1, head / 2) of the angle of every position and pair; made once for all layers."""
    half = head // 2
    angle = jnp.arange(length, dtype=dtype)[:, None] * base ** (-jnp.arange(half, dtype=dtype) / half)[None, :]
    return jnp.cos(angle)[:, None, :], jnp.sin(angle)[:, None, :]


def rotary(x: Array, angles: tuple[Array, Array]) -> Array:
    """Rotate the halves of each head (T, heads, head) by angles that grow with position: attention sees distances only."""
    cos, sin = angles
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class Block(nnx.Module):
    """Pre-norm attention and a gelu layer of four times the width."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width = config.width
        self.heads = config.heads
        self.norm_in, self.norm_mid = nnx.RMSNorm(width, rngs=rngs), nnx.RMSNorm(width, rngs=rngs)
        self.mix = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, use_bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        q, k, v = jnp.split(self.mix(self.norm_in(x)).reshape(len(x), self.heads, -1), 3, axis=-1)
        angles = rotation(*q.shape[::2], dtype=q.dtype)
        attended = jax.nn.dot_product_attention(rotary(q, angles), rotary(k, angles), v, is_causal=True)
        x = x + self.out(attended.reshape(x.shape))
        return x + self.down(jax.nn.gelu(self.up(self.norm_mid(x))))


class Transformer(nnx.Module):
    """A causal transformer on bytes with rotary positions and a start symbol."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        self.embed = nnx.Embed(VOCABULARY + 1, config.width, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.layers)])
        self.norm = nnx.RMSNorm(config.width, rngs=rngs)
        self.head = nnx.Linear(config.width, VOCABULARY, use_bias=False, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        """Logits (T, 256); row t sees the tokens before t only."""
        before = jnp.concatenate([jnp.full((1,), VOCABULARY, tokens.dtype), tokens[:-1]])
        x = self.embed(before)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def transformer(config: Config, rngs: nnx.Rngs) -> tuple[Callable, PyTree]:
    """The model as a pure function: `apply(params, tokens) -> logits`, and its initial parameters."""
    graph, params = nnx.split(nnx.jit(lambda rngs: Transformer(config, rngs))(rngs))  # one compilation for all leaves
    return lambda params, tokens: nnx.merge(graph, params)(tokens), params


class GRU(nnx.Module):
    """A gated recurrent net on bytes: one state of fixed size carries all that is remembered."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.embed = nnx.Embed(VOCABULARY + 1, width, rngs=rngs)
        self.cell = nnx.GRUCell(width, width, rngs=rngs)
        self.head = nnx.Linear(width, VOCABULARY, use_bias=False, rngs=rngs)

    def __call__(self, state: Array, token: Array) -> tuple[Array, Array]:
        state, out = self.cell(state, self.embed(token))
        return state, self.head(out)


def gru(width: int, rngs: nnx.Rngs) -> tuple[Callable, PyTree, Callable]:
    """`apply(params, tokens) -> logits` as of `transformer`, the initial parameters, and one step of reading.

    `step(params, state, token) -> (state, logits)` from `state = zeros(width)`, first token VOCABULARY: for `read_stream`.
    """
    graph, params = nnx.split(nnx.jit(lambda rngs: GRU(width, rngs))(rngs))
    step = lambda params, state, token: nnx.merge(graph, params)(state, token)

    def apply(params, tokens):
        before = jnp.concatenate([jnp.full((1,), VOCABULARY, tokens.dtype), tokens[:-1]])
        start = jnp.zeros(width, jax.tree.leaves(params)[0].dtype)
        return jax.lax.scan(lambda state, token: step(params, state, token), start, before)[1]

    return apply, params, step


def is_held_out(name: str, share: float = 0.1) -> bool:
    """Whether a document is for testing: decided by a stable hash of its name, never by its neighbours."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) < share * 2**32


def split_documents(documents: Iterable[tuple[str, str]], share: float = 0.1) -> tuple[list[bytes], list[bytes]]:
    """Training and held-out documents as UTF-8 bytes."""
    train, test = [], []
    for name, text in documents:
        (test if is_held_out(name, share) else train).append(text.encode("utf-8"))
    return train, test


def year(name: str) -> int:
    """The year a document's name begins with, as in "1790-Washington-1.txt"."""
    checks.require(
        name[:4].isdecimal(), "name", name, "a name that begins with a year", "rename it, or split by document"
    )
    return int(name[:4])


def split_years(documents: Iterable[tuple[str, str]], first: int) -> tuple[list[bytes], list[bytes]]:
    """Documents from before the year `first`, and from that year on: a real shift between training and test."""
    before, after = [], []
    for name, text in documents:
        (before if year(name) < first else after).append(text.encode("utf-8"))
    return before, after


class Windows(NamedTuple):
    """Random windows of text: tokens (W, T) int32, and the document each was cut from (W,)."""

    tokens: np.ndarray
    documents: np.ndarray


def windows(documents: list[bytes], length: int, count: int, rng: np.random.Generator) -> Windows:
    """`count` windows of `length` bytes at random places; a document is chosen in proportion to its places."""
    places = np.array([max(0, len(text) - length + 1) for text in documents])
    checks.require(places.sum(), "documents", f"none of {length} bytes", f"length <= {length}", "use shorter windows")
    ids = rng.choice(len(documents), size=count, p=places / places.sum())
    starts = (rng.random(count) * places[ids]).astype(int)
    cut = [np.frombuffer(documents[i], np.uint8, length, s) for i, s in zip(ids, starts, strict=True)]
    return Windows(np.stack(cut).astype(np.int32), ids)


def cross_entropy(apply: Callable, params: PyTree, tokens: Array) -> Array:
    """Mean surprisal of a batch (B, T), nats per byte."""
    logits = jax.vmap(apply, (None, 0))(params, tokens)
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens).mean()


class Fitted(NamedTuple):
    """Trained parameters, the training loss of every step, and the held-out loss of every window on the way.

    Attributes:
        params: the model's parameters after the last step.
        losses: (steps,) mean surprisal of each batch before its step, nats per byte.
        held_out: (E, W) mean surprisal of each held-out window, nats per byte.
        at: (E,) steps taken when the held-out windows were scored, from 0.
    """

    params: PyTree
    losses: np.ndarray
    held_out: np.ndarray
    at: np.ndarray


class Memory(NamedTuple):
    """Where a training run is kept: `load(like)` the kept pytree of that form or None, and `save(pytree)`."""

    load: Callable[[PyTree], PyTree | None] = lambda like: None
    save: Callable[[PyTree], None] = lambda tree: None


def train(
    apply: Callable,
    params: PyTree,
    optimiser,
    batches: np.ndarray,
    track: Callable,
    label: str,
    *,
    held_out: np.ndarray | None = None,
    memory: Memory | None = None,
) -> Fitted:
    """Minimise the cross-entropy over `batches` (steps, B, T), one optimiser step a batch.

    About every 20 steps progress is shown, the windows `held_out` (W, T) are scored, and the run is saved in `memory`, from
    which the same call goes on after an interruption, to the same bits.
    """
    pieces = np.array_split(batches, max(1, len(batches) // 20))
    unread = batches[0][:0] if held_out is None else held_out
    memory = memory or Memory()

    @jax.jit
    def chunk(params, state, batches):
        def step(carry, tokens):
            params, state = carry
            loss, gradient = jax.value_and_grad(lambda p: cross_entropy(apply, p, tokens))(params)
            updates, state = optimiser.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), loss

        (params, state), losses = jax.lax.scan(step, (params, state), batches)
        return params, state, losses

    @jax.jit
    def on_held_out(params):
        return jax.lax.map(
            lambda tokens: cross_entropy(apply, params, tokens[None]), jnp.asarray(unread), batch_size=64
        )

    at = np.cumsum([0, *map(len, pieces)])
    losses = np.zeros(len(batches), np.float32)
    seen = np.zeros((len(at), len(unread)), np.float32)
    seen[0] = on_held_out(params)
    start = {
        "done": np.int64(0),
        "params": params,
        "state": jax.jit(optimiser.init)(params),
        "losses": losses,
        "seen": seen,
    }
    run = memory.load(start) or start
    for i in track(range(len(pieces)), label):
        if i < run["done"]:
            continue
        params, state, loss = chunk(run["params"], run["state"], pieces[i])
        losses, seen = np.array(run["losses"]), np.array(run["seen"])
        losses[at[i] : at[i + 1]], seen[i + 1] = loss, on_held_out(params)
        run = {"done": np.int64(i + 1), "params": params, "state": state, "losses": losses, "seen": seen}
        memory.save(run)
    return Fitted(run["params"], run["losses"], run["seen"], at)


def fit(
    apply: Callable, params: PyTree, batches: np.ndarray, rate: float, track: Callable, label: str, **more
) -> Fitted:
    """`train` by Muon with 20 steps of warm-up and a cosine schedule from `rate` down to a twentieth."""
    steps = len(batches)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, min(20, steps // 2), steps, rate / 20)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.contrib.muon(schedule))
    return train(apply, params, optimiser, batches, track, label, **more)


def batches(documents: list[bytes], length: int, steps: int, batch: int, rng: np.random.Generator) -> np.ndarray:
    """Random windows of the documents in training batches (steps, batch, length)."""
    return windows(documents, length, steps * batch, rng).tokens.reshape(steps, batch, length)


def score(apply: Callable, params: PyTree, tokens: np.ndarray, surprisal: Callable, batch: int = 64) -> np.ndarray:
    """Velocities (W, T), nats per byte, of windows of text under a model."""
    one = lambda x: surprisal(apply(params, x), x)
    return np.asarray(jax.jit(lambda all_tokens: jax.lax.map(one, all_tokens, batch_size=batch))(jnp.asarray(tokens)))


def kgram(documents: list[bytes], k: int, smoothing: float = 0.1) -> tuple[Callable, PyTree]:
    """A k-gram: `apply(tables, tokens) -> log-probabilities (T, 256)` from the k - 1 bytes before, and its tables.

    p(x | context) = (count(context, x) + smoothing) / (count(context) + 256 smoothing), for each context length; shorter
    contexts at the start of a window.
    """
    text = np.frombuffer(b"\n\n".join(documents), np.uint8).astype(np.int64)

    def table(order):
        code = np.zeros(len(text) - order, np.int64)
        for i in range(order + 1):
            code = code * VOCABULARY + text[i : len(text) - order + i]
        counts = np.bincount(code, minlength=VOCABULARY ** (order + 1)).reshape(-1, VOCABULARY).astype(np.float32)
        counts += np.float32(smoothing)
        return jnp.log(counts / counts.sum(1, keepdims=True))

    def apply(tables, tokens):
        at = jnp.arange(len(tokens))
        rows = tables[0][jnp.zeros_like(tokens)]
        context = jnp.zeros_like(tokens)
        for order in range(1, k):
            context = context + jnp.roll(tokens, order) * VOCABULARY ** (order - 1)
            rows = jnp.where((at >= order)[:, None], tables[order][context], rows)
        return rows

    return apply, [table(order) for order in range(k)]
