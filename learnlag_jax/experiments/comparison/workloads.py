"""Workloads by name: what `compare` trains on. A user's own is an installed entry point of the group `learnlag_jax.workloads`.

An entry point is a function `(batch, **options) -> Workload`; its options are its keyword arguments, typed by their defaults.
A configuration can name it and nothing else: no path in a file is ever imported.
"""

import functools
import gzip
import importlib.metadata
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from learnlag_jax import checks
from learnlag_jax.experiments import data
from learnlag_jax.experiments.claims import Dataset
from learnlag_jax.experiments.comparison import config
from learnlag_jax.experiments.comparison.behaviour import told
from learnlag_jax.experiments.comparison.config import Key
from learnlag_jax.experiments.language import models
from learnlag_jax.experiments.runs import program

GROUP = "learnlag_jax.workloads"
DEBIAN = "/usr/share/datasets/fashion-mnist"
COMMON = {"name": Key(str), "label": config.LABEL, "targets": Key(float, low=0.0, high=1e12, many=True)}


class Workload(NamedTuple):
    """A task with the unit of its error and the data it was made from."""

    task: program.Task
    unit: str
    data: Dataset


class Choice(NamedTuple):
    """One `[[workload]]` of a configuration; `make()` reads the data. `kind` is all that decides its numbers, as text."""

    label: str
    kind: str
    targets: tuple[float, ...]
    make: Callable[[], Workload]


def sotu(batch: int, width: int = 64, layers: int = 2, heads: int = 4, context: int = 64) -> Workload:
    """A byte-level transformer on the State of the Union messages; error: held-out surprisal, nats per byte."""
    checks.require(
        width % (2 * heads) == 0, "width", width, f"a multiple of {2 * heads}", "rotary heads need even sizes"
    )
    source = data.sotu()
    train, test = models.split_documents(source.content)
    size = models.Config(width, layers, heads, context)
    apply, _ = models.transformer(size, nnx.Rngs(0))
    held_out = models.windows(test, context, 128, np.random.default_rng(0)).tokens
    draw = lambda seed, step: models.windows(train, context, batch, np.random.default_rng([seed, step])).tokens
    task = program.Task(
        init=lambda key: models.transformer(size, nnx.Rngs(key))[1],
        loss=lambda params, tokens, key: models.cross_entropy(apply, params, tokens),
        batch=draw,
        evaluate=lambda params, tokens: models.cross_entropy(apply, params, tokens),
        held_out=held_out,
    )
    return Workload(task, "nats per byte", source)


def classifier(source: Dataset, train, test, batch: int, hidden: int, measure: str) -> Workload:
    """A layer of tanh units and a softmax; error: held-out surprisal in nats, or the share of mistakes."""
    inputs, classes = train[0].shape[1], int(train[1].max()) + 1

    def init(key):
        a, b = jax.random.split(key)
        normal = lambda key, m, n: jax.random.normal(key, (m, n), jnp.float32) / np.sqrt(m).astype(np.float32)
        zeros = lambda n: jnp.zeros(n, jnp.float32)
        return {
            "in": normal(a, inputs, hidden),
            "b": zeros(hidden),
            "out": normal(b, hidden, classes),
            "c": zeros(classes),
        }

    logits = lambda p, x: jnp.tanh(x @ p["in"] + p["b"][None, :]) @ p["out"] + p["c"][None, :]
    surprisal = lambda p, z: optax.softmax_cross_entropy_with_integer_labels(logits(p, z[0]), z[1]).mean()
    mistakes = lambda p, z: jnp.mean((jnp.argmax(logits(p, z[0]), 1) != z[1]).astype(jnp.float32))

    def draw(seed, step):
        rows = np.random.default_rng([seed, step]).integers(0, len(train[0]), batch)
        return train[0][rows], train[1][rows]

    error = mistakes if measure == "mistakes" else surprisal
    task = program.Task(init, lambda p, z, key: surprisal(p, z), draw, error, test)
    return Workload(task, "share of mistakes" if measure == "mistakes" else "nats per label", source)


def _split(source: Dataset, every: int = 5):
    """Every fifth example is held out, after one fixed shuffle."""
    X, y = (np.asarray(part) for part in source.content)
    order = np.random.default_rng(0).permutation(len(X))
    held = np.arange(len(X)) % every == 0
    part = lambda rows: (X[rows].astype(np.float32), y[rows].astype(np.int32))
    return part(order[~held]), part(order[held])


def digits(batch: int, hidden: int = 64, measure: str = "loss") -> Workload:
    """8 x 8 digits, 1797 of them."""
    source = data.digits()
    return classifier(source, *_split(source), batch, hidden, measure)


def mnist_5000(batch: int, hidden: int = 128, measure: str = "loss") -> Workload:
    """28 x 28 digits, 5000 of them."""
    source = data.mnist_5000()
    return classifier(source, *_split(source), batch, hidden, measure)


def fashion_mnist(batch: int, hidden: int = 128, measure: str = "loss", path: str = DEBIAN) -> Workload:
    """28 x 28 pictures of clothes, 60000 and 10000, from Debian's package `dataset-fashion-mnist` or a directory like it."""
    names = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    missing = [name for name in names if not (Path(path) / name).is_file()]
    checks.require(
        not missing,
        "path",
        f"no {missing[:1]} in {path}",
        "Fashion-MNIST",
        "apt-get install dataset-fashion-mnist, or give path",
        ModuleNotFoundError,
    )
    X, y, A, b = (idx(Path(path) / name) for name in names)
    flat = lambda images: images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
    source = Dataset(
        "fashion-mnist", None, data.sha256(X, y, A, b), "Xiao et al. 2017, Debian dataset-fashion-mnist", "MIT"
    )
    return classifier(source, (flat(X), y.astype(np.int32)), (flat(A), b.astype(np.int32)), batch, hidden, measure)


def idx(path: Path) -> np.ndarray:
    """A gzipped IDX file of bytes; its size must be what its header says."""
    try:
        with gzip.open(path) as file:
            raw = file.read(1 << 30)
        shape = struct.unpack(">" + "I" * raw[3], raw[4 : 4 + 4 * raw[3]])
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, struct.error) as error:
        raise checks.InputError(
            f"{path}: got {type(error).__name__}; expected gzipped IDX bytes; reinstall it"
        ) from None


OURS: dict[str, Callable[..., Workload]] = {
    "sotu": sotu,
    "digits": digits,
    "mnist-5000": mnist_5000,
    "fashion-mnist": fashion_mnist,
}
MEASURES = {"measure": Key(str, "loss", choices=("loss", "mistakes"))}


def read(source: config.Source, batch: int) -> list[Choice]:
    """The workloads of a configuration; their data is read only when they are made."""
    chosen: list[Choice] = []
    for index, found in enumerate(config.array(source, "workload")):
        installed = {} if found.get("name") in tuple(OURS) else _installed()
        name = config.choose(source, "workload", index, found, (*OURS, *installed), f"or an entry point of {GROUP}")
        function = OURS[name] if name in OURS else _load(installed[name])
        own = config.options(function, skip=("batch",))
        own |= {key: rule for key, rule in MEASURES.items() if key in own and name in OURS}
        own |= {key: rule._replace(low=1) for key, rule in own.items() if rule.kind is int and name in OURS}
        values = config.values(source, "workload", index, found, COMMON | own)
        label = config.label(source, "workload", index, values["label"], name, [x.label for x in chosen])
        given = {key: values[key] for key in own}
        kind = json.dumps({"name": name, "batch": batch, **given}, sort_keys=True)
        make = functools.partial(_made, name, function, batch, given)
        chosen.append(Choice(label, kind, tuple(sorted(values["targets"], reverse=True)), make))
    return chosen


def _installed() -> dict[str, importlib.metadata.EntryPoint]:
    """The entry points of other packages; looking them up reads the whole environment, so only if a name is not ours."""
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def _load(point: importlib.metadata.EntryPoint) -> Callable[..., Workload]:
    try:
        return point.load()
    except Exception as error:  # a user's module may raise anything
        raise checks.ConfigError(
            f"workload {point.name}: {point.value} raises {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error


def _made(name: str, function: Callable[..., Workload], batch: int, given: dict[str, Any]) -> Workload:
    try:
        made = function(batch, **given)
    except (checks.InputError, ModuleNotFoundError):  # ours, in one line already
        raise
    except Exception as error:  # a user's function may raise anything
        raise told(f"workload {name}", error) from error
    got = type(made).__name__
    checks.require(isinstance(made, Workload), f"workload {name}", got, "a workloads.Workload", "return one")
    return made
