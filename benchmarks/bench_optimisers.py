"""Samples and seconds to a target loss: the Fisher family beside AdamW, NAdamW, Muon, Lion, schedule-free and PSGD Kron.

    python benchmarks/bench_optimisers.py --budget 600      run, for at most 600 seconds, what is still missing
    python benchmarks/bench_optimisers.py --task digits     one task only (repeatable)
    python benchmarks/bench_optimisers.py --clock           time one training step of every optimiser; run it alone
    python benchmarks/bench_optimisers.py --table           write the tables from what is there

Every finished (task, optimiser, rate, seed) is one line of results/bench_optimisers.jsonl and is never run again.
Protocol: each optimiser has its own grid of learning rates (factor 2), extended until the best rate is inside; the same
schedule (10 % warm-up, cosine to 5 %; constant for schedule-free), batches, order and initial parameters for all. The rate
is chosen on seed 0 by samples to the target, then by final loss; other seeds are run at that rate and only they are
reported. T_sample is the first evaluation from which the held-out loss stays at or below the target; on sotu and the autoencoder that is near
what the best AdamW reaches at the very end of its schedule. T_compute is T_sample times the time of a step, measured apart (--clock).
"""

import argparse
import functools
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Contender, compare, machine

from learnlag_jax import fisher, trees
from learnlag_jax.experiments import data
from learnlag_jax.experiments.comparison import workloads
from learnlag_jax.experiments.runs.program import Task

RESULTS = Path(__file__).parent / "results"
LOG, CLOCK = RESULTS / "bench_optimisers.jsonl", RESULTS / "bench_optimisers_clock.json"
SEEDS = 6  # the first chooses the rate, the others are reported


class Problem(NamedTuple):
    """A task, its horizon, how often the held-out loss is taken, and the target (in the unit of the loss)."""

    make: Callable[[], Task]
    steps: int
    batch: int
    every: int
    target: float


def layers(*sizes: int):
    """Initial weights and biases of a multilayer perceptron."""

    def init(key):
        keys, pairs = jax.random.split(key, len(sizes) - 1), zip(sizes[:-1], sizes[1:], strict=True)
        return [
            (jax.random.normal(k, (m, n)) / np.sqrt(m), jnp.zeros(n)) for k, (m, n) in zip(keys, pairs, strict=True)
        ]

    return init


def autoencoder(batch: int = 64) -> Task:
    """MNIST-5000 through 16 numbers; loss: cross-entropy, nats per image."""
    x = data.mnist_5000().content[0].astype(np.float32)
    held, train = x[::5], np.delete(x, np.s_[::5], 0)

    def loss(params, x, key=None):
        h = x
        for i, (w, b) in enumerate(params):
            h = (lambda z: z if i == len(params) - 1 else jnp.tanh(z))(h @ w + b)
        return jnp.mean(jnp.sum(optax.sigmoid_binary_cross_entropy(h, x), -1))

    draw = lambda seed, step: train[np.random.default_rng([seed, step]).integers(0, len(train), batch)]
    return Task(layers(784, 64, 16, 64, 784), loss, draw, loss, held)


def regression(batch: int = 32, p: int = 64) -> Task:
    """Least squares in a random basis with singular values from 1 to 1/100; no noise; loss: squared error."""
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.normal(size=(p, p)))[0] * np.logspace(0, -2, p)
    truth = generator.normal(size=(p, 8))

    def rows(generator, n):
        x = generator.normal(size=(n, p)) @ basis.T
        return x.astype(np.float32), (x @ truth).astype(np.float32)

    loss = lambda w, batch, key=None: jnp.mean(jnp.sum((batch[0] @ w - batch[1]) ** 2, -1))
    draw = lambda seed, step: rows(np.random.default_rng([seed, step]), batch)
    return Task(lambda key: jnp.zeros((p, 8)), loss, draw, loss, rows(np.random.default_rng(1), 512))


PROBLEMS = {
    "sotu": Problem(lambda: workloads.sotu(16).task, 250, 16, 10, 2.05),
    "mnist": Problem(lambda: workloads.mnist_5000(64, 64).task, 200, 64, 5, 0.30),
    "digits": Problem(lambda: workloads.digits(64, 64).task, 200, 64, 5, 0.15),
    "autoencoder": Problem(autoencoder, 300, 64, 10, 165.0),
    "regression": Problem(regression, 300, 32, 10, 0.05),
}

Rate = Callable[[jax.Array], jax.Array]


class Optimiser(NamedTuple):
    """`make(rate, scale)` -> optax transformation; `scale` is the RMS gradient at the start, for exponents with units."""

    make: Callable[[Rate, jax.Array], optax.GradientTransformation]
    grid: tuple[float, ...]
    constant: bool = False
    evaluated: Callable = lambda state, params: params


def schedule_free(rate: Rate, scale) -> optax.GradientTransformation:
    del scale
    return optax.contrib.schedule_free(optax.adamw(rate, b1=0.0, b2=0.95), rate, b1=0.9)


def psgd_kron(rate: Rate, scale) -> optax.GradientTransformation:
    """PSGD with Kronecker factors; its package imports a module that optax no longer has, and never uses it."""
    del scale
    sys.modules.setdefault("optax._src.clipping", types.ModuleType("clipping"))
    optax._src.clipping = sys.modules["optax._src.clipping"]
    from psgd_jax.kron import kron

    return kron(rate, weight_decay=1e-4)


def power(a: float, source: str = "eigen"):
    """F^a m with the step of the first gradient independent of its units, and a damping of 1 % of its size."""

    def make(rate: Rate, scale):
        return optax.chain(
            fisher.scale_by_fisher(
                source, exponent=a, b1=0.9, b2=0.9, eps=0.01 * scale, options=fisher.FisherOptions(refresh=1, aspect=2)
            ),
            optax.scale_by_learning_rate(lambda k: rate(k) * scale ** -(1 + 2 * a)),
        )

    return make


def plain(make, **options):
    return lambda rate, scale: make(rate, **options)


MIDDLE, HIGH, LOW = (0.005, 0.01, 0.02), (0.02, 0.04, 0.08), (0.0005, 0.001, 0.002)
SELDOM, BOTH = (fisher.FisherOptions(refresh=5, nesterov=True, aspect=aspect) for aspect in (2, None))
OPTIMISERS = {
    "fisher_descent": Optimiser(plain(fisher.fisher_descent), MIDDLE),
    "adamw b2=.95": Optimiser(plain(optax.adamw, b2=0.95), MIDDLE),
    "muon": Optimiser(plain(optax.contrib.muon), (0.01, 0.02, 0.04)),
    "adamw": Optimiser(plain(optax.adamw), MIDDLE),
    "nadamw b2=.95": Optimiser(plain(optax.nadamw, b2=0.95), MIDDLE),
    "lion": Optimiser(plain(optax.lion), LOW),
    "schedule-free adamw": Optimiser(
        schedule_free, MIDDLE, constant=True, evaluated=optax.contrib.schedule_free_eval_params
    ),
    "psgd kron": Optimiser(psgd_kron, (0.001, 0.002, 0.004)),
    "fisher refresh 5": Optimiser(plain(fisher.fisher_descent, options=SELDOM), MIDDLE),
    "fisher both sides, refresh 5": Optimiser(plain(fisher.fisher_descent, options=BOTH), MIDDLE),
    "fisher one_sided": Optimiser(plain(fisher.fisher_descent, structure="one_sided", b1=0.95), MIDDLE),
    "fisher diagonal": Optimiser(plain(fisher.fisher_descent, structure="diagonal"), MIDDLE),
    "F^0 m": Optimiser(power(0.0), HIGH),
    "F^-1/4 m": Optimiser(power(-0.25), MIDDLE),
    "F^-1/2 m": Optimiser(power(-0.5), MIDDLE),
    "F^-3/4 m": Optimiser(power(-0.75), MIDDLE),
    "F^-1 m": Optimiser(power(-1.0), LOW),
}


def shape(steps: int, constant: bool) -> Rate:
    warm = max(1, steps // 10)
    if constant:
        return optax.warmup_constant_schedule(0.0, 1.0, warm)
    return optax.warmup_cosine_decay_schedule(0.0, 1.0, warm, steps, 0.05)


def trial(problem: Problem, task: Task, optimiser: Optimiser):
    """`run(rate, params, batches) -> held-out losses`, compiled once for every rate and seed."""
    relative, held_out = shape(problem.steps, optimiser.constant), jax.tree.map(jnp.asarray, task.held_out)

    @jax.jit
    def run(rate, params, batches):
        first = jax.tree.map(lambda x: x[0, 0], batches)
        gradient = jax.grad(task.loss)(params, first, None)
        scale = trees.norm(gradient) / trees.size(gradient) ** 0.5
        method = optimiser.make(lambda k: rate * relative(k), scale)

        def step(carry, batch):
            params, state = carry
            updates, state = method.update(jax.grad(task.loss)(params, batch, None), state, params)
            return (optax.apply_updates(params, updates), state), None

        def block(carry, rows):
            carry, _ = jax.lax.scan(step, carry, rows)
            params, state = carry
            return carry, task.evaluate(optimiser.evaluated(state, params), held_out)

        return jax.lax.scan(block, (params, method.init(params)), batches)[1]

    return run


@functools.cache
def batches(name: str, seed: int):
    problem, task = PROBLEMS[name], made(name)
    rows = [task.batch(seed, k) for k in range(problem.steps)]
    blocks = lambda *x: jnp.asarray(np.stack(x).reshape(-1, problem.every, *x[0].shape))
    return jax.tree.map(blocks, *rows)


@functools.cache
def made(name: str) -> Task:
    return PROBLEMS[name].make()


# The restartable log.


def finished() -> dict:
    rows = [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []
    return {(r["task"], r["optimiser"], r["rate"], r["seed"]): r["curve"] for r in rows}


def steps_to_target(problem: Problem, curve) -> float:
    """Steps to the first evaluation from which the held-out loss stays at or below the target."""
    above = [k for k, value in enumerate(curve) if value is None or value > problem.target]
    first = above[-1] + 1 if above else 0
    return (first + 1) * problem.every if first < len(curve) else np.inf


def final(curve) -> float:
    return np.inf if curve[-1] is None else curve[-1]


def tried(done: dict, task: str, name: str) -> dict[float, list]:
    return {r: c for (t, o, r, s), c in sorted(done.items()) if (t, o, s) == (task, name, 0)}


def best_rate(done: dict, task: str, name: str) -> float | None:
    curves = tried(done, task, name)
    score = lambda rate: (steps_to_target(PROBLEMS[task], curves[rate]), final(curves[rate]))
    return min(curves, key=score) if curves else None


def pending(done: dict, task: str, name: str) -> tuple[float, int] | None:
    """The next (rate, seed): the grid on seed 0, beyond an edge where the best rate lies, then the other seeds."""
    rates, grid = list(tried(done, task, name)), OPTIMISERS[name].grid
    for rate in grid:
        if rate not in rates:
            return rate, 0
    best = best_rate(done, task, name)
    if best in (min(rates), max(rates)) and len(rates) < len(grid) + 6:
        return float(f"{best / 2 if best == min(rates) else best * 2:.4g}"), 0
    missing = [seed for seed in range(1, SEEDS) if (task, name, best, seed) not in done]
    return (best, missing[0]) if missing and best is not None else None


def work(names, chosen, deadline: float) -> None:
    """Run what is missing, an optimiser at a time, so that each is compiled once."""
    for task_name in names:
        for name in chosen:
            run = trial(PROBLEMS[task_name], made(task_name), OPTIMISERS[name])
            while time.monotonic() < deadline and (job := pending(finished(), task_name, name)):
                rate, seed = job
                start = time.monotonic()
                params = jax.jit(made(task_name).init)(jax.random.key(seed))
                curve = np.asarray(run(jnp.float32(rate), params, batches(task_name, seed)))
                curve = [round(float(v), 5) if np.isfinite(v) else None for v in curve]
                row = {"task": task_name, "optimiser": name, "rate": rate, "seed": seed, "curve": curve}
                with LOG.open("a") as log:
                    log.write(json.dumps(row) + "\n")
                print(
                    f"{task_name} {name} {rate:g} seed {seed}: {curve[-1]} ({time.monotonic() - start:.0f} s)",
                    flush=True,
                )


def training(task: Task, method: optax.GradientTransformation):
    """`run(params, state, rows)`: one gradient and one update for every batch in `rows`."""

    def step(carry, batch):
        params, state = carry
        updates, state = method.update(jax.grad(task.loss)(params, batch, None), state, params)
        return (optax.apply_updates(params, updates), state), None

    return lambda params, state, rows: jax.lax.scan(step, (params, state), rows)[0]


def clock(names, chosen, rounds: int) -> None:
    """Seconds of one training step (gradient and update, refreshes included), optimisers interleaved."""
    times = json.loads(CLOCK.read_text()) if CLOCK.exists() else {}
    for task_name in names:
        task = made(task_name)
        rows = jax.tree.map(lambda x: x[:2].reshape(-1, *x.shape[2:])[:10], batches(task_name, 0))
        params = jax.jit(task.init)(jax.random.key(0))
        methods = {n: OPTIMISERS[n].make(lambda k: jnp.float32(1e-3), jnp.float32(1e-2)) for n in chosen}
        states = {n: jax.jit(method.init)(params) for n, method in methods.items()}
        contenders = [Contender(n, training(task, methods[n]), (params, states[n], rows)) for n in chosen]
        size = {n: sum(x.nbytes for x in jax.tree.leaves(state)) for n, state in states.items()}
        found = compare(f"{task_name}: 10 training steps", contenders, rounds=rounds)
        line = lambda row, size=size: {"ms": 1e2 * row.median, "bytes": size[row.name], "compile": row.compile}
        times |= {task_name: {row.name: line(row) for row in found}, "machine": machine()}
        CLOCK.write_text(json.dumps(times, indent=1) + "\n")


# Tables.


def interval(values: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """A 95 % bootstrap interval of the median."""
    rows = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    return tuple(np.quantile(np.median(values[rows], 1), (0.025, 0.975), method="nearest"))


def show(x: float) -> str:
    return "-" if np.isnan(x) else f"{x:.3g}" if np.isfinite(x) else "not reached"


HEAD = (
    "optimiser | rate | interior | seeds | T_sample, steps (95 %) | of AdamW | ms a step | T_compute, s | of AdamW | "
    "final loss (95 %) | state, MB"
)


class Result(NamedTuple):
    """Runs of one optimiser at its best rate, on the seeds that did not choose it."""

    rate: float
    inside: bool
    hits: np.ndarray
    losses: np.ndarray
    clock: dict

    @property
    def steps(self) -> float:
        return float(np.median(self.hits))

    @property
    def seconds(self) -> float:
        return self.steps * self.clock.get("ms", np.nan) / 1e3


def results(done: dict, task_name: str, times: dict) -> dict[str, Result]:
    problem, found = PROBLEMS[task_name], {}
    for name in OPTIMISERS:
        rate, rates = best_rate(done, task_name, name), tried(done, task_name, name)
        curves = [curve for (t, o, r, s), curve in done.items() if (t, o, r) == (task_name, name, rate) and s]
        if curves:
            hits = np.array([steps_to_target(problem, c) for c in curves])
            inside = min(rates) < rate < max(rates)
            clock = times.get(task_name, {}).get(name, {})
            found[name] = Result(rate, inside, hits, np.array([final(c) for c in curves]), clock)
    return found


def table(done: dict) -> str:
    times = json.loads(CLOCK.read_text()) if CLOCK.exists() else {}
    protocol = " ".join(__doc__.split("Protocol: ")[1].split())
    lines = ["# bench_optimisers", "", times.get("machine", ""), "", protocol, ""]
    for task_name, problem in PROBLEMS.items():
        found = results(done, task_name, times)
        if not found:
            continue
        title = f"## {task_name}: target {problem.target:g}, {problem.steps} steps of {problem.batch}"
        lines += [title, "", f"| {HEAD} |", "|" + "---|" * len(HEAD.split(" | "))]
        adam = [r for name, r in found.items() if name.startswith("adamw")]
        steps, seconds = (min((getattr(r, key) for r in adam), default=np.nan) for key in ("steps", "seconds"))
        for name, r in found.items():
            (low, high), (bottom, top) = interval(r.hits), interval(r.losses)
            cells = (
                name,
                f"{r.rate:g}",
                "yes" if r.inside else "no",
                str(len(r.hits)),
                f"{show(r.steps)} ({show(low)} to {show(high)})",
                show(r.steps / steps if np.isfinite(steps) else np.nan),
                show(r.clock.get("ms", np.nan)),
                show(r.seconds),
                show(r.seconds / seconds if np.isfinite(seconds) else np.nan),
                f"{np.median(r.losses):.4g} ({bottom:.4g} to {top:.4g})",
                show(r.clock.get("bytes", np.nan) / 1e6),
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=600.0, help="stop starting runs after this many seconds")
    parser.add_argument("--task", choices=tuple(PROBLEMS), action="append", help="repeatable; all by default")
    parser.add_argument("--optimiser", choices=tuple(OPTIMISERS), action="append", help="repeatable; all by default")
    parser.add_argument("--clock", action="store_true", help="time one step of every optimiser instead")
    parser.add_argument("--rounds", type=int, default=9, help="samples for each optimiser under --clock")
    parser.add_argument("--table", action="store_true", help="only write the tables")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    names, chosen = arguments.task or list(PROBLEMS), arguments.optimiser or list(OPTIMISERS)
    if arguments.clock:
        clock(names, chosen, arguments.rounds)
    elif not arguments.table:
        work(names, chosen, time.monotonic() + arguments.budget)
    (RESULTS / "bench_optimisers.md").write_text(table(finished()))


if __name__ == "__main__":
    main()
