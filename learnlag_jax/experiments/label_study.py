"""Buying labels: T_sample of designed batches against random ones and uncertainty sampling, on three real pools.

    python -m learnlag_jax.experiments.label_study [--seeds N] [--out FILE.npz]

measures every strategy on the same splits (some minutes on two cores) and writes `measured/labels.npz`; the report reads it. The threshold of a
task is set before looking at any design: the error with all labels, and a fifth of the way back up to random's first error.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import fermat
from learnlag_jax.experiments.label_tasks import TASKS, Task

MEASURED = Path(__file__).parent / "measured" / "labels.npz"
STRATEGIES = ("random", "uncertainty", "A-optimal", "V-optimal, planned once", "V-optimal, replanned")
SPLITS = {"linear, diabetes": 40, "logistic, digits": 20, "last layer, MNIST-5000": 10}
SHARE = 0.2  # of the way from the error with all labels up to random's first error


def designed(task: Task, kind: str, model, rows: np.ndarray, n: int) -> np.ndarray:
    """The next n labels by design: what a model's Fisher rows say is best beside the rows that are known."""
    F = jnp.asarray(np.asarray(task.information(model)), float)
    phi = fermat.criterion("A") if kind == "A" else fermat.criterion("I", region=F)
    prior = jnp.diag(jnp.asarray(task.prior(F.shape[1])))
    return np.asarray(fermat.label_batch(F, n, phi, labelled=rows, prior=prior, max_sweeps=1).rows)


def strategy(name: str, task: Task, seed: int) -> tuple[np.ndarray, Callable]:
    """The first batch, and the rule that chooses every later one."""
    rng = np.random.default_rng([seed, 7])
    nothing = np.zeros(0, int)
    any_rows = rng.permutation(task.size)[: task.first]
    left = lambda rows: np.setdiff1d(np.arange(task.size), rows)
    if name == "random":
        return any_rows, lambda model, rows: rng.permutation(left(rows))[: task.batch]
    if name == "uncertainty":

        def doubtful(model, rows):
            doubt = task.doubt(model, rows)
            doubt[rows] = -np.inf
            return np.argsort(-doubt, kind="stable")[: task.batch]

        return any_rows, doubtful
    kind = name[0]
    replanned = name != "V-optimal, planned once"
    first = designed(task, kind, None, nothing, task.first)
    return first, lambda model, rows: designed(task, kind, model if replanned else None, rows, task.batch)


def curve(task: Task, name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels bought and test error after each purchase."""
    first, choose = strategy(name, task, seed)
    path = fermat.active_learning(task.fit, choose, first, (task.budget - task.first) // task.batch)
    return path.counts, np.array([task.error(model) for model in path.models])


def threshold(random: np.ndarray, everything: np.ndarray) -> float:
    """The error to reach, from random choice and the whole pool alone."""
    full = float(np.mean(everything))
    return full + SHARE * (float(np.mean(random[:, 0])) - full)


def measure(seeds: int) -> dict[str, np.ndarray]:
    """Errors (strategies, seeds, purchases) of every task, label counts, and the error with all labels; at most `seeds` splits."""
    record: dict[str, np.ndarray] = {}
    for name, make in TASKS.items():
        begin, runs, everything = time.perf_counter(), [], []
        for seed in range(min(seeds, SPLITS[name])):
            task = make(seed)
            runs.append([curve(task, rule, seed) for rule in STRATEGIES])
            everything.append(task.error(task.fit(np.arange(task.size))))
        error = np.array([[errors for _, errors in split] for split in runs]).swapaxes(0, 1)
        record |= {f"{name}/labels": runs[0][0][0], f"{name}/error": error, f"{name}/all": np.array(everything)}
        means = ", ".join(f"{rule} {e:.4f}" for rule, e in zip(STRATEGIES, error.mean((1, 2)), strict=True))
        print(f"{name}: {time.perf_counter() - begin:.0f} s; mean error over purchases: {means}", flush=True)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what buying labels by design saves.")
    parser.add_argument("--seeds", type=int, default=max(SPLITS.values()), help="at most so many splits a task")
    parser.add_argument("--out", type=Path, default=MEASURED)
    arguments = parser.parse_args()
    with jax.enable_x64(True):
        record = measure(arguments.seeds)
    with open(arguments.out, "wb") as file:
        np.savez_compressed(file, **record)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
