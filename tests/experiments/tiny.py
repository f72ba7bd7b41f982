"""A run of a second: a tanh regression with Adam. As a script it is a nursery: it imports once and forks a fresh process for
every line `DIRECTORY` on standard input, so that a test can kill many runs without paying for many imports."""

import gzip
import os
import struct
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learnlag_jax.experiments.runs import program as programs
from learnlag_jax.experiments.runs import run, rundir

X = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
Y = np.tanh(X @ np.arange(5, dtype=np.float32)) + 0.1 * X[:, 0]
SETTINGS = {"learning_rate": 0.05}
IDENTITY = {"trial": "tiny"}
PLAN = run.Plan(steps=30, evaluate=10, save=2, patience=4)


def init(key):
    w = jax.random.normal(key, (5, 3), jnp.float32)
    return {"w": w, "out": jnp.ones(3, jnp.float32)}


def error(params, data):
    return jnp.mean((jnp.tanh(data["x"] @ params["w"]) @ params["out"] - data["y"]) ** 2)


def loss(params, batch, key):
    noise = jax.random.normal(key, batch["y"].shape, jnp.float32)  # so that a key restored wrongly would show
    return error(params, {"x": batch["x"], "y": batch["y"] + jnp.float32(0.01) * noise})


def batch(seed, step):
    rows = np.random.default_rng([seed, step]).integers(0, 64, 16)
    return {"x": X[rows], "y": Y[rows]}


TASK = programs.Task(init, loss, batch, error, {"x": X, "y": Y})


def make(settings):
    return optax.adam(settings["learning_rate"])


def program(task=TASK, **options):
    return programs.compile_program(task, make, SETTINGS, **options)


def train(directory, compiled, task=TASK, plan=PLAN, **options):
    keys = {"settings": SETTINGS, "seed": 3, "identity": IDENTITY} | options
    with rundir.lock(directory):
        rundir.tidy(directory / "checkpoints")
        return run.train(compiled, task, plan, directory / "checkpoints", **keys)


def same_bits(a, b):
    """Everything but the clock."""
    drop = lambda outcome: (outcome.carry, outcome.curve._replace(seconds=0, spent=0))
    return all(
        np.array_equal(np.asarray(_words(x)).view(np.uint8), np.asarray(_words(y)).view(np.uint8))
        for x, y in zip(jax.tree.leaves(drop(a)), jax.tree.leaves(drop(b)), strict=True)
    )


def _words(x):
    x = jax.random.key_data(x) if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return np.atleast_1d(np.asarray(x))


def write_pictures(directory, seed=0):
    """Random pictures in the files of Fashion-MNIST: 30 to train on, 20 held out."""
    draw = np.random.default_rng(seed)
    for part, n in (("train", 30), ("t10k", 20)):
        for kind, shape in (("images-idx3", (n, 28, 28)), ("labels-idx1", (n,))):
            x = draw.integers(0, 10, shape).astype(np.uint8)
            head = struct.pack(">BBBB" + "I" * len(shape), 0, 0, 8, len(shape), *shape)
            (directory / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + x.tobytes()))


def _child(directory):
    announce = lambda text: os.write(1, text.encode() + b"\n")
    try:
        compiled = program(devices=jax.devices()[:1])
        announce("ready")
        with run.signals() as stop:
            train(Path(directory), compiled, stop=stop, on_save=lambda step: announce(f"saved {step}"))
    except run.Interrupted:
        os._exit(75)
    except BaseException as problem:
        os.write(2, repr(problem).encode())
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    import orbax.checkpoint  # noqa: F401  (imported before the fork, so that no child pays for it)

    for line in sys.stdin:
        child = os.fork()
        if not child:
            _child(line.strip())
        os.write(1, f"pid {child}\n".encode())
        _, status = os.waitpid(child, 0)
        os.write(1, f"end {os.waitstatus_to_exitcode(status)}\n".encode())
