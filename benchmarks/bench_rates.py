"""How the best learning rate moves from AdamW to the Fisher family: held-out loss on digits at every rate, two seeds.
And what the optimiser's diagnostics are at the end, at a rate of 0.01.

    python benchmarks/bench_rates.py [--quick]

A network of 64-64-64-10 after 150 constant-rate steps of 64 digits. "sampled" has F from single examples with labels drawn
from the model. Nothing is timed.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from harness import HERE, machine, options

from learnlag_jax import fisher
from learnlag_jax.experiments import data

SIZES, BATCH, SEEDS = (64, 64, 64, 10), 64, (0, 1)


class Method(NamedTuple):
    """`make(rate)`, an optax transformation, the rates it is run at, and whether it takes drawn labels."""

    make: Callable
    rates: tuple[float, ...]
    sampled: bool = False


def natural(eps: float) -> Callable:
    named = fisher.preset("natural_gradient") | {"eps": eps, "fisher": "sampled"}
    return lambda rate: optax.chain(fisher.scale_by_fisher(**named), optax.scale_by_learning_rate(rate))


SELDOM = fisher.FisherOptions(refresh=10, nesterov=True)
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
METHODS = {
    "optax.adamw": Method(optax.adamw, RATES),
    "fisher_descent": Method(fisher.fisher_descent, RATES),
    "fisher_descent, refresh 10": Method(lambda rate: fisher.fisher_descent(rate, options=SELDOM), RATES),
    "fisher_descent, sampled": Method(lambda rate: fisher.fisher_descent(rate, fisher="sampled"), RATES, True),
    "natural gradient, eps 0.1": Method(natural(0.1), (*RATES, 0.3), True),
    "natural gradient, eps 0.01": Method(natural(0.01), (*RATES, 0.3), True),
}


def initial(key) -> list:
    scale = lambda m: jnp.sqrt(jnp.float32(2 / m))
    keys = jax.random.split(key, len(SIZES) - 1)
    return [
        (scale(m) * jax.random.normal(k, (m, n), jnp.float32), jnp.zeros(n, jnp.float32))
        for k, m, n in zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    ]


def logits(params, x):
    *hidden, (w, b) = params
    for v, c in hidden:
        x = jax.nn.relu(x @ v + c)
    return x @ w + b


def loss(params, x, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), label).mean()


def trained(method: Method, train, held_out, steps: int):
    """(rate, seed) -> held-out loss and the optimiser's state, compiled once."""
    x, labels = train

    @jax.jit
    def run(rate, seed):
        optimiser, params = method.make(rate), initial(jax.random.key(seed))

        def step(carry, key):
            params, state = carry
            choose, draw = jax.random.split(key)
            rows = jax.random.randint(choose, (BATCH,), 0, len(x))
            extra = {}
            if method.sampled:
                drawn = jax.random.categorical(draw, logits(params, x[rows]))
                extra["fisher_grads"] = jax.vmap(jax.grad(loss), (None, 0, 0))(params, x[rows], drawn)
            gradient = jax.grad(loss)(params, x[rows], labels[rows])
            updates, state = optimiser.update(gradient, state, params, **extra)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(5), steps)
        (params, state), _ = jax.lax.scan(step, (params, optimiser.init(params)), keys)
        return loss(params, *held_out), state

    return run


def main() -> None:
    chosen = options(__doc__.splitlines()[0])
    x, labels = (jnp.asarray(part) for part in data.digits().content)
    order = jax.random.permutation(jax.random.key(9), len(x))
    x, labels = x[order].astype(jnp.float32), labels[order].astype(jnp.int32)
    train, held_out = (x[:1400], labels[:1400]), (x[1400:], labels[1400:])
    rates = sorted({rate for method in METHODS.values() for rate in method.rates})
    remarks: list[str] = []
    lines = [f"| rate | {' | '.join(map(str, rates))} |", f"| --- |{' --- |' * len(rates)}"]
    for name, method in METHODS.items():
        run = trained(method, train, held_out, 10 if chosen.quick else 150)
        found = {rate: [run(jnp.float32(rate), seed) for seed in SEEDS] for rate in method.rates}
        cell = lambda ends: ", ".join(f"{float(end):.2g}" for end, _ in ends)
        lines.append(f"| {name} | {' | '.join(cell(found.get(rate, [])) for rate in rates)} |")
        print(lines[-1], flush=True)
        if name.startswith("fisher_descent"):
            at_end = found[0.01][0][1][0].diagnostics
            remarks.append(f"- {name}: " + ", ".join(f"{k} {float(v):.2g}" for k, v in at_end._asdict().items()))
    text = f"# bench_rates\n\n{machine()}\n\nHeld-out loss, two seeds.\n\n" + "\n".join(lines)
    text += "\n\nDiagnostics after the last step at 0.01, first seed:\n\n" + "\n".join(remarks) + "\n"
    if not chosen.quick:
        (HERE / "results" / "bench_rates.md").write_text(text)


if __name__ == "__main__":
    main()
