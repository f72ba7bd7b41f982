"""Which exponent a in theta' = F^a grad l needs the fewest samples, each learning rate tuned? Measured, not postulated."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import fisher, trees
from learnlag_jax.experiments.chapters.estimation import network, network_log_prob, network_loss
from learnlag_jax.experiments.claims import Figure, Settings, Table

EXPONENTS = (0.0, -0.25, -0.5, -0.75, -1.0)
COLOURS = ("#777777", "#2e8b57", "#2563a8", "#d9822b", "#b33a3a")


SOURCES = ("batch", "per_example", "sampled")


class Sweep(NamedTuple):
    """Samples to the target for every exponent, learning rate and seed (infinite where it was not reached)."""

    samples: np.ndarray
    rates: np.ndarray
    best: np.ndarray
    curves: np.ndarray
    axis: np.ndarray
    target: float
    batch: int


class Sizes(NamedTuple):
    """How much is trained: steps of `batch`, evaluated every `every`, to a held-out loss of `target` nats."""

    steps: int
    hidden: int
    seeds: int
    target: float
    rates: int
    batch: int = 64
    every: int = 5


def exponent_sweep(images, settings: Settings) -> Sweep:
    """Every exponent with the batch Fisher of Adam."""
    sizes = Sizes(300, 16, 2, 0.2, 8) if settings.quick else Sizes(600, 32, 3, 0.35, 10)
    return sweep(images, "batch", sizes, settings)


def estimator_sweep(digits, settings: Settings) -> dict[str, Sweep]:
    """Every exponent with every estimator of F; the full report only."""
    sources = () if settings.quick else SOURCES
    return {source: sweep(digits, source, Sizes(200, 16, 3, 0.25, 9), settings) for source in sources}


def gradients(params, batch, source: str, key):
    """The gradient of the loss, and the gradients whose second moment is F, None where they are the same."""
    if source == "batch":
        return jax.grad(network_loss)(params, batch), None
    each = lambda batch: jax.vmap(jax.grad(lambda p, e: -network_log_prob(p, e)), (None, 0))(params, batch)
    if source == "per_example":
        own = each(batch)
        return jax.tree.map(lambda g: jnp.mean(g, 0), own), own
    logits = jnp.tanh(batch[0] @ params["in"].T) @ params["out"].T
    return jax.grad(network_loss)(params, batch), each((batch[0], jax.random.categorical(key, logits)))


def root_mean_square(tree):
    return trees.norm(tree) / np.sqrt(trees.size(tree)).astype(np.float32)


def sweep(images, source: str, sizes: Sizes, settings: Settings) -> Sweep:
    """Train with every exponent and learning rate on the same batches; count samples to a held-out loss."""
    dtype, batch, every, target = np.float32, sizes.batch, sizes.every, sizes.target
    x, y = images.content[0].astype(dtype), images.content[1].astype(np.int32)
    order = np.random.default_rng(settings.seed).permutation(len(x))
    test, train = order[: len(x) // 5], order[len(x) // 5 :]
    held_out = jnp.asarray(x[test]), jnp.asarray(y[test])
    x, y = jnp.asarray(x[train]), jnp.asarray(y[train])
    rates = np.logspace(-3.5, 0.0 if source == "batch" else 0.5, sizes.rates).astype(dtype)

    def train_one(exponent, rate, params, rows):
        g, own = gradients(params, (x[:512], y[:512]), source, jax.random.key(0))
        scale, size = root_mean_square(g), root_mean_square(g if own is None else own)
        options = {"exponent": exponent, "b1": 0.9, "b2": 0.99, "eps": dtype(0.01) * size, "fisher": source}
        optimiser = fisher.scale_by_fisher("diagonal", **options)
        eta = rate * scale**-1 * size ** (-2 * exponent)  # `rate` is the size of the first step, whatever the exponent

        def step(carry, row):
            params, state = carry
            key = jax.random.fold_in(jax.random.key(settings.seed), state.count)
            g, own = gradients(params, (x[row], y[row]), source, key)
            update, state = optimiser.update(g, state, fisher_grads=own)
            return (trees.axpy(-eta, update, params), state), None

        def block(carry, rows):
            carry, _ = jax.lax.scan(step, carry, rows)
            return carry, network_loss(carry[0], held_out)

        return jax.lax.scan(block, (params, optimiser.init(params)), rows)[1]

    @jax.jit
    def grid(exponents, rates, params, rows):  # one after another: batches of small products are slower on a CPU
        return jax.lax.map(lambda a: jax.lax.map(lambda rate: train_one(a, rate, params, rows), rates), exponents)

    curves = []
    for seed in settings.track(range(sizes.seeds), f"exponents x learning rates, {source}"):
        rows = np.random.default_rng((settings.seed, seed)).integers(
            0, len(train), (sizes.steps // every, every, batch)
        )
        params = network(jax.random.key(seed), x.shape[1], sizes.hidden, dtype)
        curves.append(np.asarray(grid(jnp.asarray(EXPONENTS, dtype), jnp.asarray(rates), params, jnp.asarray(rows))))
    losses = np.stack(curves)  # seed, exponent, rate, time
    below = np.where(np.isfinite(losses), losses, np.inf) < target
    first = np.where(below.any(-1), below.argmax(-1) + 1, np.inf) * every * batch
    typical = np.median(first, axis=0)
    best = np.argmin(np.where(np.isinf(typical), 1e12 + np.median(losses, 0)[..., -1], typical), axis=1)
    chosen = np.median(losses, 0)[np.arange(len(EXPONENTS)), best]
    axis = np.arange(1, sizes.steps // every + 1) * every * batch
    return Sweep(first, rates, best, chosen, axis, target, batch)


def sweep_figure(sweep: Sweep, name: str) -> Figure:
    chosen = sweep.samples[:, np.arange(len(EXPONENTS)), sweep.best]
    series = {
        "samples": {
            "exponent": np.array(EXPONENTS),
            "median": np.median(chosen, 0),
            "low": chosen.min(0),
            "high": chosen.max(0),
        },
        "curves": {"samples": sweep.axis} | {f"loss at {a:g}": c for a, c in zip(EXPONENTS, sweep.curves, strict=True)},
    }

    def draw(fig, series):
        left, right = fig.subplots(1, 2)
        s = series["samples"]
        finite = np.isfinite(s["median"])
        left.vlines(
            s["exponent"][finite],
            s["low"][finite],
            np.where(np.isfinite(s["high"]), s["high"], sweep.axis[-1])[finite],
            color="#777777",
        )
        left.plot(s["exponent"][finite], s["median"][finite], "o-", color="#2563a8")
        left.set_xlabel("exponent a in F$^a$ grad l")
        left.set_ylabel("samples to target loss")
        left.set_ylim(bottom=0)
        left.set_xticks(EXPONENTS)
        left.set_title(f"T_sample to {sweep.target:g} nats")
        columns = series["curves"]
        for colour, a in zip(COLOURS, EXPONENTS, strict=True):
            right.plot(columns["samples"], columns[f"loss at {a:g}"], color=colour, label=f"{a:g}")
        right.axhline(sweep.target, color="#777777", linewidth=0.8, linestyle=":")
        right.set_yscale("log")
        right.set_xlabel("samples")
        right.set_ylabel("held-out loss (nats)")
        right.legend(title="exponent")

    return Figure(
        "fisher-exponent",
        f"Which exponent learns fastest? A one-layer network on {name}, diagonal batch Fisher, each learning rate tuned; "
        "bars span the seeds.",
        "Samples to the target loss against the exponent, and held-out loss curves for the best learning rate of each.",
        series,
        draw,
    )


def sweep_table(sweep: Sweep) -> Table:
    rows = []
    for i, a in enumerate(EXPONENTS):
        t = sweep.samples[:, i, sweep.best[i]]
        interior = 0 < sweep.best[i] < len(sweep.rates) - 1
        rows.append(
            (
                a,
                float(np.median(t)),
                float(t.min()),
                float(t.max()),
                float(sweep.rates[sweep.best[i]]),
                "yes" if interior else "edge",
            )
        )
    return Table(
        f"Samples to {sweep.target:g} nats held out; the update costs the same for every exponent, so T_compute is proportional",
        ("exponent", "median", "least", "most", "first step size", "rate interior"),
        tuple(rows),
    )


def estimator_table(sweeps: dict[str, Sweep]) -> Table:
    """Median samples for each estimator and exponent, the learning rate tuned for each cell; `edge` marks a rate at the grid's end."""

    def cell(sweep: Sweep, i: int) -> str:
        t = sweep.samples[:, i, sweep.best[i]]
        edge = "" if 0 < sweep.best[i] < len(sweep.rates) - 1 else ", edge"
        return f"{np.median(t):.0f} ({t.min():.0f} to {t.max():.0f}){edge}"

    rows = tuple((source, *(cell(s, i) for i in range(len(EXPONENTS)))) for source, s in sweeps.items())
    target = next(iter(sweeps.values())).target
    return Table(
        f"Samples to {target:g} nats held out on digits: whose second moment is F, and which power of it (median, least to most of the seeds)",
        ("gradients in F", *(f"a = {a:g}" for a in EXPONENTS)),
        rows,
    )
