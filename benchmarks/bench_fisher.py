"""Cost of one update of the Fisher family beside optax: time and compile time.

    python benchmarks/bench_fisher.py [--quick] [--rounds N]

Each call makes as many updates as there are between two refreshes of the bases (5), so that refreshes are paid for. Gradients are
random float32; states follow one another inside a scan, as in training.
"""

import jax
import jax.numpy as jnp
import optax
from harness import Contender, Row, compare, options, save

from learnlag_jax import fisher

STEPS = 5


def leaves(shapes, count: int) -> dict[str, jax.Array]:
    """`count` leaves that cycle through `shapes`."""
    keys = jax.random.split(jax.random.key(0), count)
    return {f"{i:03d}": jax.random.normal(k, shapes[i % len(shapes)], jnp.float32) for i, k in enumerate(keys)}


def updates(optimiser: optax.GradientTransformation):
    """STEPS updates in a row from the first state; gradients differ from step to step."""

    def run(gradients):
        def step(state, k):
            varied = jax.tree.map(lambda g: g * (1 + 0.1 * k), gradients)
            update, state = optimiser.update(varied, state, gradients)
            return state, jax.tree.map(jnp.sum, update)

        return jax.lax.scan(step, optimiser.init(gradients), jnp.arange(STEPS, dtype=jnp.float32))[1]

    return run


def family() -> dict[str, optax.GradientTransformation]:
    options = fisher.FisherOptions(refresh=STEPS)
    return {
        "scale_by_fisher diagonal": fisher.scale_by_fisher("diagonal"),
        "scale_by_fisher eigen": fisher.scale_by_fisher("eigen", options=options),
        "scale_by_fisher one_sided": fisher.scale_by_fisher("one_sided", options=options),
    }


def main() -> None:
    chosen = options(__doc__.splitlines()[0])
    ours, rows = family(), []
    shape = (64, 256) if chosen.quick else (256, 1024)
    big = leaves([shape], 6)
    contend = lambda group, names, gradients: compare(
        group,
        [Contender(name, updates(optimiser), (gradients,)) for name, optimiser in names.items()],
        rounds=chosen.rounds,
    )
    text = f"{STEPS} updates, 6 leaves {shape[0]} x {shape[1]}"
    peers = {
        "optax.scale_by_adam": optax.scale_by_adam(),
        "optax.contrib.muon": optax.contrib.muon(1.0),
    }
    rows += contend(
        f"{text}: diagonal", {k: (peers | ours)[k] for k in ("optax.scale_by_adam", "scale_by_fisher diagonal")}, big
    )
    matrix = ("optax.contrib.muon", "scale_by_fisher one_sided", "scale_by_fisher eigen")
    rows += contend(f"{text}: matrices", {k: (peers | ours)[k] for k in matrix}, big)
    many = leaves([(64, 64), (64, 256), (256, 64), (64,), (256,)], 100)
    compiled = ("optax.scale_by_adam", *ours)
    rows += contend("100 leaves (compile column)", {k: (peers | ours)[k] for k in compiled}, many)
    adam = next(row.compile for row in rows[::-1] if row.name == "optax.scale_by_adam")
    remarks = [f"Compile time of 100 leaves over Adam's: {row.name} {row.compile / adam:.2f}" for row in rows[-3:]]
    save("bench_fisher", [Row(*row) for row in rows], remarks)


if __name__ == "__main__":
    main()
