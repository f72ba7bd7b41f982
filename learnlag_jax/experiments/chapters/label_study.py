"""Buying labels: T_sample of designed batches against random ones and uncertainty sampling, on three real pools.

    python -m learnlag_jax.experiments.chapters.label_study [--splits N] [--out FILE.npz]

measures every strategy on the same splits (some minutes on two quiet cores) and writes `measured/labels.npz`; the report reads it. The threshold of a
task is a rule that no design's curve enters: the error with all labels, and a fifth of the way back up to random's first error.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import fermat
from learnlag_jax.experiments.chapters.label_tasks import TASKS, Task

MEASURED = Path(__file__).parents[1] / "measured" / "labels.npz"
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


def one_split(name: str, seed: int) -> dict[str, np.ndarray]:
    """Every strategy on one split: label counts, errors (strategies, purchases), and the error with all labels."""
    task = TASKS[name](seed)
    runs = [curve(task, rule, seed) for rule in STRATEGIES]
    everything = task.error(task.fit(np.arange(task.size)))
    return {"labels": runs[0][0], "error": np.array([error for _, error in runs]), "all": np.array(everything)}


def measure(out: Path, splits: int) -> None:
    """Measure at most `splits` splits a task, one at a time over all tasks; what `out` holds already is kept, so that it may be stopped."""
    with np.load(out) if out.exists() else nullcontext({}) as file:
        record = dict(file)
    for seed in range(splits):
        for name in TASKS:
            old = record.get(f"{name}/all", np.zeros(0))
            if not len(old) <= seed < SPLITS[name]:
                continue
            begin, new = time.perf_counter(), one_split(name, seed)
            joined = record.get(f"{name}/error", np.zeros((len(STRATEGIES), 0, len(new["labels"]))))
            record[f"{name}/labels"] = new["labels"]
            record[f"{name}/error"] = np.concatenate([joined, new["error"][:, None]], 1)
            record[f"{name}/all"] = np.append(old, new["all"])
            with open(out, "wb") as file:
                np.savez_compressed(file, **record)  # pyright: ignore[reportArgumentType]
            print(f"{name}, split {seed}: {time.perf_counter() - begin:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what buying labels by design saves.")
    parser.add_argument("--splits", type=int, default=max(SPLITS.values()), help="at most so many splits a task")
    parser.add_argument("--out", type=Path, default=MEASURED)
    arguments = parser.parse_args()
    with jax.enable_x64(True):
        measure(arguments.out, arguments.splits)


if __name__ == "__main__":
    main()
