"""Samples and seconds to a target loss: the Fisher family against tuned AdamW, NAdamW, Muon, Lion, schedule-free, SGD.

    python benchmarks/bench_optimisers.py --budget 600            run, for at most 600 seconds, what is still missing
    python benchmarks/bench_optimisers.py --task sotu --quick     one seed, short runs
    python benchmarks/bench_optimisers.py --table                 write the Markdown table from what is there

Restartable: every finished (task, optimiser, learning rate, seed) is one line of results/bench_optimisers.jsonl, and is
never run again. Protocol: each optimiser has its own log-spaced learning-rate grid, extended until the best rate is inside
it; equal trials, schedule (10 % warm-up, cosine to 5 %), batches, data order and initial parameters for all; the loss is
that of held-out data; the rate is chosen on seed 0 and the other seeds are run at that rate; seconds include everything in
the step, compile time apart.
"""

import argparse
import functools
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import learnlag_jax.fisher as fisher
from learnlag_jax.experiments import data

RESULTS = Path(__file__).parent / "results"
LOG = RESULTS / "bench_optimisers.jsonl"


# Tasks: params, loss(params, batch), batches(seed, steps), held-out batches, steps, target.


def transformer_init(key, width=96, layers=3, heads=4, context=96, vocabulary=256):
    def dense(key, *shape):
        return jax.random.normal(key, shape) / np.sqrt(shape[0])

    keys = iter(jax.random.split(key, 2 + 6 * layers))
    block = lambda: {
        "qkv": dense(next(keys), width, 3 * width),
        "out": dense(next(keys), width, width) / np.sqrt(2 * layers),
        "up": dense(next(keys), width, 4 * width),
        "down": dense(next(keys), 4 * width, width) / np.sqrt(2 * layers),
        "norm1": jnp.ones(width),
        "norm2": jnp.ones(width),
    }
    return {
        "embedding": 0.02 * jax.random.normal(next(keys), (vocabulary, width)),
        "position": 0.02 * jax.random.normal(next(keys), (context, width)),
        "blocks": [block() for _ in range(layers)],
        "norm": jnp.ones(width),
    }


def transformer_loss(params, tokens, heads=4):
    """Mean nats per byte of next-byte prediction; tokens (batch, context + 1); embeddings are tied."""
    x, y = tokens[:, :-1], tokens[:, 1:]
    h = params["embedding"][x] + params["position"][None]
    b, t, width = h.shape
    norm = lambda h, scale: scale * h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-6)
    for block in params["blocks"]:
        q, k, v = jnp.split(norm(h, block["norm1"]) @ block["qkv"], 3, axis=-1)
        split = lambda z: z.reshape(b, t, heads, width // heads)
        mixed = jax.nn.dot_product_attention(split(q), split(k), split(v), is_causal=True)
        h = h + mixed.reshape(b, t, width) @ block["out"]
        h = h + jax.nn.gelu(norm(h, block["norm2"]) @ block["up"]) @ block["down"]
    logits = norm(h, params["norm"]) @ params["embedding"].T
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


def sotu(steps=300, batch=16, context=96):
    documents = [np.frombuffer(text.encode(), np.uint8) for _, text in data.sotu().content]
    held = np.concatenate(documents[::10])
    train = np.concatenate([d for i, d in enumerate(documents) if i % 10])

    def windows(text, generator, *shape):
        start = generator.integers(0, len(text) - context - 1, shape)
        return text[start[..., None] + np.arange(context + 1)].astype(np.int32)

    test = windows(held, np.random.default_rng(1), 64)
    return {
        "init": transformer_init,
        "loss": transformer_loss,
        "batches": lambda seed: windows(train, np.random.default_rng(seed), steps, batch),
        "test": test,
        "samples": batch * context,
        "unit": "bytes",
    }


def mlp_loss(params, batch):
    x, y = batch
    for w, b in params[:-1]:
        x = jnp.tanh(x @ w + b)
    w, b = params[-1]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(x @ w + b, y))


def autoencoder_loss(params, batch):
    x, _ = batch
    h = x
    for i, (w, b) in enumerate(params):
        h = h @ w + b
        h = jnp.tanh(h) if i < len(params) - 1 else h
    return jnp.mean(jnp.sum(optax.sigmoid_binary_cross_entropy(h, x), -1))


def layers(*sizes):
    def init(key):
        keys = jax.random.split(key, len(sizes) - 1)
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        return [
            (jax.random.normal(k, (m, n)) / np.sqrt(m), jnp.zeros(n)) for k, (m, n) in zip(keys, pairs, strict=True)
        ]

    return init


def images(dataset, init, loss, steps, batch=64):
    x, y = dataset.content[0].astype(np.float32), dataset.content[1].astype(np.int32)
    order = np.random.default_rng(0).permutation(len(x))
    test, train = order[: len(x) // 5], order[len(x) // 5 :]

    def batches(seed):
        rows = train[np.random.default_rng(seed).integers(0, len(train), (steps, batch))]
        return x[rows], y[rows]

    return {
        "init": init,
        "loss": loss,
        "batches": batches,
        "test": (x[test], y[test]),
        "samples": batch,
        "unit": "images",
    }


def regression(steps=300, p=64, batch=32):
    """Least squares with covariance condition 1e4 in a random basis; the held-out loss is noise-free."""
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.normal(size=(p, p)))[0] * np.logspace(0, -2, p)
    truth = generator.normal(size=(p, 8))
    make = lambda g, n: (lambda x: (x, x @ truth))((g.normal(size=(n, p)) @ basis.T).astype(np.float32))

    def batches(seed):
        x, y = make(np.random.default_rng(seed), steps * batch)
        return x.reshape(steps, batch, p), y.reshape(steps, batch, 8).astype(np.float32)

    x, y = make(np.random.default_rng(1), 512)
    loss = lambda w, b: jnp.mean(jnp.sum((b[0] @ w - b[1]) ** 2, -1))
    init = lambda key: jnp.zeros((p, 8))
    return {
        "init": init,
        "loss": loss,
        "batches": batches,
        "test": (x, y.astype(np.float32)),
        "samples": batch,
        "unit": "rows",
    }


TASKS = {
    "sotu": sotu,
    "mnist": lambda: images(data.mnist_5000(), layers(784, 64, 10), mlp_loss, 400),
    "digits": lambda: images(data.digits(), layers(64, 64, 10), mlp_loss, 300),
    "autoencoder": lambda: images(data.mnist_5000(), layers(784, 128, 16, 128, 784), autoencoder_loss, 400),
    "regression": regression,
}
TARGETS = {"sotu": 2.4, "mnist": 0.3, "digits": 0.15, "autoencoder": 110.0, "regression": 0.05}


# Optimisers: a name -> (rate -> transformation, first grid).

GRID = tuple(float(f"{x:.3g}") for x in np.logspace(-3.5, -1.0, 6))
HIGH = tuple(float(f"{x:.3g}") for x in np.logspace(-2.5, 0.0, 6))
LOW = tuple(float(f"{x:.3g}") for x in np.logspace(-4.5, -2.0, 6))


def adamw(lr, **options):
    return optax.adamw(lr, **options)


OPTIMISERS = {
    "fisher": (fisher.fisher_descent, GRID),
    "adamw": (optax.adamw, GRID),
    "adamw-b2-.95": (functools.partial(optax.adamw, b2=0.95), GRID),
    "nadamw": (optax.nadamw, GRID),
    "muon": (optax.contrib.muon, GRID),
    "lion": (optax.lion, LOW),
    "sgd-momentum": (functools.partial(optax.sgd, momentum=0.9), HIGH),
    "fisher-one-sided": (functools.partial(fisher.fisher_descent, structure="one_sided", b1=0.95), GRID),
    "fisher-kronecker": (functools.partial(fisher.fisher_descent, structure="kronecker"), GRID),
    "fisher-diagonal": (functools.partial(fisher.fisher_descent, structure="diagonal"), GRID),
} | {
    f"fisher-eigen-a{a:g}": (functools.partial(fisher.fisher_descent, exponent=a, eps=1e-6), GRID)
    for a in (0.0, -0.25, -0.75, -1.0)
}


def schedule(rate: float, steps: int):
    return optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 10), steps, 0.05 * rate)


def run(task: dict, name: str, rate: float, seed: int, every: int = 10) -> dict:
    """One training run: held-out loss every `every` steps, seconds without compiling."""
    batches = jax.tree.map(jnp.asarray, task["batches"](seed))
    test = jax.tree.map(jnp.asarray, task["test"])
    steps = jax.tree.leaves(batches)[0].shape[0]
    optimiser = OPTIMISERS[name][0](schedule(rate, steps))
    params = task["init"](jax.random.key(seed))
    state = optimiser.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def block(params, state, rows):
        def step(carry, batch):
            params, state = carry
            loss, g = jax.value_and_grad(task["loss"])(params, batch)
            updates, state = optimiser.update(g, state, params)
            return (optax.apply_updates(params, updates), state), loss

        (params, state), losses = jax.lax.scan(step, (params, state), rows)
        return params, state, jnp.mean(losses)

    evaluate = jax.jit(task["loss"])
    parts = [jax.tree.map(lambda x, k=k: x[k : k + every], batches) for k in range(0, steps, every)]
    block = block.lower(params, state, parts[0]).compile()
    evaluate(params, test).block_until_ready()
    curve, seconds = [], 0.0
    for part in parts:
        start = time.perf_counter()
        params, state, loss = block(params, state, part)
        loss.block_until_ready()
        seconds += time.perf_counter() - start
        curve.append(float(evaluate(params, test)))
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    return {"every": every, "curve": curve, "seconds": seconds, "steps": steps, "state_bytes": size}


# The restartable log.


def finished() -> dict:
    rows = [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []
    return {(r["task"], r["optimiser"], r["rate"], r["seed"]): r for r in rows}


def final(row) -> float:
    last = row["curve"][-1]
    return last if np.isfinite(last) else np.inf


def best_rate(done: dict, task: str, name: str):
    rows = [r for (t, o, _, s), r in done.items() if (t, o, s) == (task, name, 0)]
    return min(rows, key=final)["rate"] if rows else None


def pending(done: dict, task: str, name: str, seeds: int):
    """The next (rate, seed): the grid on seed 0, then beyond the edge where the best rate lies, then the other seeds."""
    grid = OPTIMISERS[name][1]
    for rate in grid:
        if (task, name, rate, 0) not in done:
            return rate, 0
    tried = sorted(r for (t, o, r, s) in done if (t, o, s) == (task, name, 0))
    best = best_rate(done, task, name)
    factor = grid[1] / grid[0]
    if len(tried) < len(grid) + 4 and best in (tried[0], tried[-1]):
        return float(f"{(best / factor if best == tried[0] else best * factor):.3g}"), 0
    for seed in range(1, seeds):
        if (task, name, best, seed) not in done:
            return best, seed
    return None


def table(done: dict) -> str:
    """Markdown: samples and seconds to the target, final loss, state, at the best rate of each optimiser."""
    lines = []
    for task in TASKS:
        names = [n for n in OPTIMISERS if best_rate(done, task, n) is not None]
        if not names:
            continue
        lines += [
            f"### {task}: held-out loss, target {TARGETS[task]:g}",
            "",
            "| optimiser | learning rate | inside grid | seeds | steps to target (median, range) | seconds to target | final loss (median) | state, MB |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name in names:
            rate = best_rate(done, task, name)
            tried = sorted(r for (t, o, r, s) in done if (t, o, s) == (task, name, 0))
            rows = [r for (t, o, x, _), r in done.items() if (t, o, x) == (task, name, rate)]
            hit = [
                next((i + 1 for i, v in enumerate(r["curve"]) if v <= TARGETS[task]), np.inf) * r["every"] for r in rows
            ]
            when = [h / r["steps"] * r["seconds"] for h, r in zip(hit, rows, strict=True)]
            show = lambda x: f"{x:.3g}" if np.isfinite(x) else "not reached"
            steps = f"{show(np.median(hit))} ({show(min(hit))} to {show(max(hit))})"
            inside = "yes" if rate not in (tried[0], tried[-1]) else "no"
            losses = np.median([final(r) for r in rows])
            lines.append(
                f"| {name} | {rate:g} | {inside} | {len(rows)} | {steps} | {show(np.median(when))} | {losses:.4g} | {rows[0]['state_bytes'] / 1e6:.2f} |"
            )
        lines.append("")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=600.0, help="stop starting runs after this many seconds")
    parser.add_argument("--task", choices=tuple(TASKS), action="append", help="repeatable; all by default")
    parser.add_argument("--optimiser", choices=tuple(OPTIMISERS), action="append", help="repeatable; all by default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    start, seeds = time.perf_counter(), 1 if arguments.quick else arguments.seeds
    for task_name in () if arguments.table else arguments.task or TASKS:
        task = TASKS[task_name]()
        waiting = list(arguments.optimiser or OPTIMISERS)
        while waiting and time.perf_counter() - start < arguments.budget:
            name = waiting.pop(0)
            job = pending(finished(), task_name, name, seeds)
            if job is None:
                continue
            waiting.append(name)
            rate, seed = job
            row = {"task": task_name, "optimiser": name, "rate": rate, "seed": seed} | run(task, name, rate, seed)
            with LOG.open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(
                f"{task_name} {name} rate {rate:g} seed {seed}: {final(row):.4f} in {row['seconds']:.1f} s", flush=True
            )
    done = finished()
    summary = [{k: v for k, v in r.items() if k != "curve"} | {"final": r["curve"][-1]} for r in done.values()]
    (RESULTS / "bench_optimisers.json").write_text(json.dumps(summary, indent=1) + "\n")
    (RESULTS / "bench_optimisers.md").write_text(table(done))


if __name__ == "__main__":
    main()
