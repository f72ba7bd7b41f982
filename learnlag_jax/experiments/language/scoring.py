"""Scoring text in pieces: windows that do not overlap, and work that survives an interruption.

Every batch of windows is named by the hash of the model and of its tokens; a batch that was scored before is read back. So is
a training run, by the hash of its text and settings.
Comes from: documents as ids. Goes to: `information.in_context_curve`.
"""

import contextlib
import os
import secrets
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from learnlag_jax import checks
from learnlag_jax.experiments import data
from learnlag_jax.experiments.language import models
from learnlag_jax.experiments.language.models import Windows

STALE = 3600.0  # seconds: a file takes moments to write


def tiles(documents: Sequence[np.ndarray], length: int, count: int, rng: np.random.Generator) -> Windows:
    """At most `count` windows of `length` ids that never overlap, at random places, every place as likely.

    Each document is cut into windows from a random offset (openings are formulas, so none starts at every opening).

    Args:
        documents: arrays of ids.
        length: ids in a window.
        count: most windows wanted.
        rng: of the offsets and the choice.

    Raises:
        InputError: no document has `length` ids.
    """
    places = []
    for i, ids in enumerate(documents):
        whole = len(ids) // length
        offset = int(rng.integers(len(ids) - whole * length + 1)) if whole else 0
        places += [(i, offset + j * length) for j in range(whole)]
    longest = max((len(ids) for ids in documents), default=0)
    checks.require(places, "--text", f"{longest} tokens in the longest text", f"at least {length}", "lower --length")
    chosen = rng.permutation(len(places))[:count]
    cut = [documents[i][s : s + length] for i, s in (places[j] for j in chosen)]
    return Windows(np.stack(cut).astype(np.int32), np.array([places[j][0] for j in chosen]))


class Scored(NamedTuple):
    """Velocities (W, T) in nats per token, and tokens per second of the batches scored now (NaN if all were cached)."""

    v: np.ndarray
    speed: float


def score(
    scorer: Callable[[np.ndarray], np.ndarray], tokens: np.ndarray, identity: str, folder: Path, *, batch: int, track
) -> Scored:
    """Velocities of all windows, `batch` at a time; each batch is stored as soon as it is done.

    Args:
        scorer: windows (B, T) -> velocities (B, T), always called with B = `batch`.
        tokens: (W, T) ids.
        identity: names the model: a hash of its weights.
        folder: where batches are kept; made if absent.
        batch: windows at a time; the last batch is filled up and cut again.
        track: `track(items, label)`, the progress bar.
    """
    parts, seconds, scored = [], 0.0, 0
    for start in track(range(0, len(tokens), batch), f"scoring {tokens.size:,} tokens"):
        piece = tokens[start : start + batch]
        place = folder / f"{data.sha256(identity.encode(), repr(piece.shape).encode(), piece)}.npy"
        v = _stored(place, piece.shape)
        if v is None:
            clock = time.perf_counter()
            v = scorer(np.resize(piece, (batch, piece.shape[1])))[: len(piece)]
            seconds, scored = seconds + time.perf_counter() - clock, scored + piece.size
            _store(place, v)
        parts.append(v)
    return Scored(np.concatenate(parts), scored / seconds if scored else float("nan"))


def memory(place: Path) -> models.Memory:
    """A training run kept in one file; the file's name must hold the hash of everything the run depends on."""

    def load(like):
        leaves, form = jax.tree.flatten(like)
        damage = contextlib.suppress(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile)
        with damage, place.open("rb") as raw, np.load(raw) as file:  # opened here: numpy leaves a damaged file open
            kept = [file[str(i)] for i in range(len(leaves))]
            same = all(
                k.shape == np.shape(x) and k.dtype == np.asarray(x).dtype for k, x in zip(kept, leaves, strict=True)
            )
            return jax.tree.unflatten(form, kept) if same else None
        return None

    def save(tree):
        leaves: Any = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
        _whole(place, lambda file: np.savez(file, **leaves))

    return models.Memory(load, save)


def _stored(place: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A batch scored before; a file that is damaged counts as absent and is scored again."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        v = np.load(place)
        return v if v.shape == shape and v.dtype == np.float32 and np.isfinite(v).all() else None
    return None


def _store(place: Path, v: np.ndarray) -> None:
    _whole(place, lambda file: np.save(file, v.astype(np.float32)))


def _whole(place: Path, write: Callable) -> None:
    """Written beside and moved into place, so that an interruption leaves no half file, and two commands at once none that is mixed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for left in place.parent.glob("*.partial"):  # by a killed run, if it is not being written now
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE:
                left.unlink()
    partial = place.with_suffix(f".{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            write(file)
        os.replace(partial, place)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
