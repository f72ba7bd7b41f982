"""SmolLM2 scoring against the matmul peak of this machine and a PyTorch implementation of the same weights; memory and scaling.

    python benchmarks/bench_information.py [--rounds N] [--quick]

FLOPs counted: 2 x the weights of the blocks and of the vocabulary projection per token, and 4 T d / 2 a layer for causal
attention's two products. The peak is a float32 matmul of this process (its faster quartile), interleaved with
the contenders; on a machine that others use at the same time the share means nothing.
"""

import os

import flax.nnx as nnx
import harness
import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import information
from learnlag_jax.experiments.language import models, smollm2
from learnlag_jax.information import chunked_surprisal, surprisal


def flops(model: smollm2.Model, windows: int, length: int) -> float:
    c, w = model.config, model.weights
    blocks = sum(w[key].size for key in ("qkv", "out", "gate_up", "down"))
    attention = c.layers * 2 * length * c.width  # two products of T / 2 keys on average, 2 FLOPs each
    return windows * length * (2.0 * (blocks + w["embedding"].size) + attention)


def torch_scorer(model: smollm2.Model, tokens: np.ndarray):
    """The same forward pass in PyTorch, its fused attention and cross-entropy; None where PyTorch is absent."""
    try:
        import torch
        from torch.nn import functional as F
    except ImportError:
        return None
    torch.set_num_threads(os.cpu_count() or 1)
    c = model.config
    w = {key: torch.from_numpy(np.asarray(x).copy()) for key, x in model.weights.items()}
    # PyTorch's own layout is (out, in)
    t = {key: w[key].transpose(1, 2).contiguous() for key in ("qkv", "out", "gate_up", "down")}
    ids = torch.from_numpy(tokens.astype(np.int64))
    before = torch.cat([torch.full((len(ids), 1), smollm2.START), ids[:, :-1]], 1)
    B, T = ids.shape
    head, kv = c.width // c.heads, c.width // c.heads * c.key_heads
    angle = torch.arange(T)[:, None] * c.base ** (-torch.arange(head // 2) / (head // 2))[None]
    cos, sin = angle.cos(), angle.sin()

    def turn(x):
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def run():
        with torch.inference_mode():
            x = F.embedding(before, w["embedding"])
            for i in range(c.layers):
                h = F.rms_norm(x, (c.width,), w["norm_in"][i], c.eps)
                q, k, v = F.linear(h, t["qkv"][i]).split((c.width, kv, kv), -1)
                heads = lambda y: y.view(B, T, -1, head).transpose(1, 2)
                o = F.scaled_dot_product_attention(
                    turn(heads(q)), turn(heads(k)), heads(v), is_causal=True, enable_gqa=True
                )
                x = x + F.linear(o.transpose(1, 2).reshape(B, T, -1), t["out"][i])
                gate, up = F.linear(F.rms_norm(x, (c.width,), w["norm_mid"][i], c.eps), t["gate_up"][i]).chunk(2, -1)
                x = x + F.linear(F.silu(gate) * up, t["down"][i])
            x = F.rms_norm(x, (c.width,), w["norm"], c.eps)
            return F.cross_entropy(F.linear(x, w["embedding"]).flatten(0, 1), ids.flatten(), reduction="none").numpy()

    return run


def scoring(model: smollm2.Model, windows: int, length: int, rounds: int) -> list[harness.Row]:
    """Ours, the same with the whole table of logits, PyTorch and the peak, in turn."""
    tokens = np.random.default_rng(0).integers(0, 49152, (windows, length)).astype(np.int32)
    work = flops(model, windows, length)
    n = 2048
    A = jnp.asarray(np.random.default_rng(1).standard_normal((n, n)), jnp.float32)
    arguments = model.weights, jnp.asarray(tokens)
    contenders = [
        harness.Contender("learnlag_jax, chunked vocabulary", ours(model), arguments, note=f"{work / 1e9:.0f} GFLOP"),
        harness.Contender("learnlag_jax, whole logits", plain(model), arguments),
        harness.Contender("matmul peak", lambda a: a @ a, (A,), note=f"{n}^3, {2 * n**3 / 1e9:.1f} GFLOP"),
    ]
    torch_run = torch_scorer(model, tokens)
    if torch_run:
        gap = np.abs(
            torch_run().reshape(tokens.shape) - np.asarray(jax.jit(ours(model))(*arguments)).reshape(tokens.shape)
        )
        assert gap.max() < 1e-2, gap.max()  # rounding: against float64 both are within 3e-4 on 256 tokens, more on more
        contenders.append(
            harness.Contender("PyTorch", torch_run, jit=False, note=f"largest difference {gap.max():.0e} nats")
        )
    rows = harness.compare(f"SmolLM2, {windows} windows x {length} tokens", contenders, rounds=rounds)
    peak = 2 * n**3 / rows[2].low
    speed = lambda r: (
        f"{r.note}; {windows * length / r.median:.0f} tokens/s, {work / r.median / peak:.0%} of peak".lstrip("; ")
    )
    named = [
        r._replace(note=f"{r.note}, {peak / 1e9:.0f} GFLOP/s" if r.name == "matmul peak" else speed(r)) for r in rows
    ]
    print(harness.markdown(named), flush=True)
    return named


def ours(model: smollm2.Model):
    return lambda w, x: smollm2.velocities(model.config, w, x)


def plain(model: smollm2.Model):
    return lambda w, x: jax.vmap(lambda h, y: surprisal(h @ w["embedding"].T, y))(
        smollm2.hidden(model.config, w, smollm2.started(x)), x
    )


def memory(model: smollm2.Model) -> list[str]:
    """Bytes the compiler sets aside: scoring a batch (a text of any length is scored in such batches), and gradients."""
    held = lambda f, *shapes: jax.jit(f).lower(*shapes).compile().memory_analysis().temp_size_in_bytes / 2**20
    batch = jax.ShapeDtypeStruct((8, 128), "int32")
    scored = [held(f(model), model.weights, batch) for f in (ours, plain)]
    rows, d, V = 1024, 576, 49152
    shapes = [jax.ShapeDtypeStruct(s, t) for s, t in (((rows, d), "float32"), ((V, d), "float32"), ((rows,), "int32"))]
    small = held(jax.grad(lambda h, E, x: chunked_surprisal(h, E, x).sum()), *shapes)
    whole = held(jax.grad(lambda h, E, x: surprisal(h @ E.T, x).sum()), *shapes)
    return [
        f"memory beside the weights, 1024 tokens at a time: chunked {scored[0]:.0f} MiB, whole logits {scored[1]:.0f} MiB",
        f"memory of a gradient, {rows} tokens x {V} words: chunked {small:.0f} MiB, whole table {whole:.0f} MiB",
    ]


def streaming(options) -> list[harness.Row]:
    """Cost of the streaming path, a GRU of width 128 read token by token, at lengths that double: linear in tokens."""
    _, params, step = models.gru(128, nnx.Rngs(0))
    logits = jnp.zeros(models.VOCABULARY, jnp.float32)
    start = information.start_stream(jnp.zeros(128, jnp.float32), logits)
    read = lambda params, x: information.read_stream(lambda state, token: step(params, state, token), start, x)[1]
    lengths = (1 << 10, 1 << 11) if options.quick else (1 << 12, 1 << 13, 1 << 14, 1 << 15)
    contenders = [harness.Contender(f"{n} tokens", read, (params, jnp.zeros(n, jnp.int32))) for n in lengths]
    rows = harness.compare("GRU, streaming", contenders, rounds=options.rounds)
    return [r._replace(note=f"{n / r.median:,.0f} tokens/s") for r, n in zip(rows, lengths, strict=True)]


if __name__ == "__main__":
    chosen = harness.options(__doc__.splitlines()[0])
    smol = smollm2.load()
    sizes = ((2, 32),) if chosen.quick else ((8, 128), (4, 256))
    rows = [row for size in sizes for row in scoring(smol, *size, chosen.rounds)] + streaming(chosen)
    if not chosen.quick:
        harness.save("bench_information", rows, memory(smol))
