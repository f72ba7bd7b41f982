"""SmolLM2 scoring against the matmul peak of this machine and a PyTorch implementation of the same weights; memory and scaling.

    python benchmarks/bench_information.py [--rounds N] [--quick]

FLOPs counted: 2 x the weights of the blocks and of the vocabulary projection per token, and 4 T d / 2 a layer for causal
attention's two products. The peak is a float32 matmul of this process (its faster quartile), interleaved with
the contenders; on a machine that others use at the same time the share means nothing.
"""

import os

import harness
import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import information
from learnlag_jax.experiments import smollm2
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


def scoring(options) -> list[harness.Row]:
    model = smollm2.load()
    windows, length = (2, 64) if options.quick else (8, 256)
    tokens = np.random.default_rng(0).integers(0, 49152, (windows, length)).astype(np.int32)
    work = flops(model, windows, length)
    ours = lambda w, x: smollm2.velocities(model.config, w, x)
    plain = lambda w, x: jax.vmap(lambda h, y: surprisal(h @ w["embedding"].T, y))(
        smollm2.hidden(model.config, w, smollm2.started(x)), x
    )
    n = 2048
    A = jnp.asarray(np.random.default_rng(1).standard_normal((n, n)), jnp.float32)
    arguments = model.weights, jnp.asarray(tokens)
    contenders = [
        harness.Contender("chunked", ours, arguments, note=f"{windows} x {length} tokens, {work / 1e9:.0f} GFLOP"),
        harness.Contender("whole logits", plain, arguments),
        harness.Contender("matmul peak", lambda a: a @ a, (A,), note=f"{n}^3, {2 * n**3 / 1e9:.1f} GFLOP"),
    ]
    torch_run = torch_scorer(model, tokens)
    if torch_run:
        gap = np.abs(torch_run().reshape(tokens.shape) - np.asarray(jax.jit(ours)(*arguments))).max()
        assert gap < 1e-2, gap
        contenders.append(harness.Contender("PyTorch", torch_run, jit=False, note=f"largest difference {gap:.1e} nats"))
    rows = harness.compare("SmolLM2 scoring", contenders, rounds=options.rounds)
    peak = 2 * n**3 / rows[2].low
    for row in rows:
        if row.name != "matmul peak":
            print(f"{row.name}: {windows * length / row.median:.0f} tokens/s, {work / row.median / peak:.0%} of peak")
    return [
        r
        if r.name == "matmul peak"
        else r._replace(
            note=f"{r.note}; {windows * length / r.median:.0f} tokens/s, {work / r.median / peak:.0%} of peak"
        )
        for r in rows
    ]


def memory() -> list[str]:
    """Bytes the compiler sets aside, gradients included: chunked against whole."""
    rows, d, V = 1024, 576, 49152
    shapes = [jax.ShapeDtypeStruct(s, t) for s, t in (((rows, d), "float32"), ((V, d), "float32"), ((rows,), "int32"))]
    held = lambda f: jax.jit(jax.grad(f)).lower(*shapes).compile().memory_analysis().temp_size_in_bytes / 2**20
    small = held(lambda h, E, x: chunked_surprisal(h, E, x).sum())
    whole = held(lambda h, E, x: surprisal(h @ E.T, x).sum())
    return [f"memory of a gradient, {rows} tokens x {V} words: chunked {small:.0f} MiB, whole table {whole:.0f} MiB"]


def streaming(options) -> list[harness.Row]:
    """Cost of the streaming path at lengths that double: linear in tokens."""
    logits = jnp.zeros((257, 256), jnp.float32)
    read = lambda x: information.read_stream(
        lambda state, token: (state, logits[token]), information.start_stream((), logits[256]), x
    )[1]
    lengths = (1 << 12, 1 << 13) if options.quick else (1 << 14, 1 << 15, 1 << 16)
    contenders = [harness.Contender(f"{n} tokens", read, (jnp.zeros(n, jnp.int32),)) for n in lengths]
    return harness.compare("streaming", contenders, rounds=options.rounds)


if __name__ == "__main__":
    chosen = harness.options(__doc__.splitlines()[0])
    rows = scoring(chosen) + streaming(chosen)
    harness.save("bench_information", rows, memory())
