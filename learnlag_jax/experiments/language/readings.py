"""What `learnlag kinematics` reads: texts and a model that scores them, or log-probabilities from elsewhere.

Batches scored and the training run are kept under DIR/cache by content hash, so an interrupted command goes on where it stopped
when it is given again. Comes from: the user's files. Goes to: `kinematics.motion`.
"""

import functools
import json
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks, information
from learnlag_jax.experiments import data
from learnlag_jax.experiments.language import models, scoring, smollm2

LEAST = 5  # documents from which on a split by document leaves something on both sides
CORPORA = {"sotu": data.sotu, "king_james": data.king_james}


class Reading(NamedTuple):
    """Velocities (W, T) nats per token, the document of each window, what a token is, and bytes a token (NaN: unknown)."""

    v: np.ndarray
    documents: np.ndarray | None
    token: str
    bytes_per_token: float
    speed: float
    note: str


def texts(names: Sequence[str]) -> list[tuple[str, str]]:
    """The documents, each (name, text); UTF-8 checked."""
    if len(names) == 1 and names[0] in CORPORA:
        return list(CORPORA[names[0]]().content)
    found = []
    for name in names:
        checks.require(Path(name).is_file(), "--text", name, "a file, or the word sotu or king_james", "check the path")
        raw = Path(name).read_bytes()
        try:
            found.append((name, raw.decode("utf-8")))
        except UnicodeDecodeError as error:
            got = f"byte 0x{raw[error.start]:02x} at {error.start}"
            checks.require(False, name, got, "UTF-8 text", "convert it, for example with iconv")
        checks.require(len(raw) >= 2, name, f"{len(raw)} bytes", "at least two tokens of text", "give a longer text")
    return found


def read(arguments, texts, track) -> Reading:
    """Score the texts with the model that was asked for; `track(items, label, tokens)` shows progress and speed."""
    return (trained if arguments.model == "trained" else pretrained)(arguments, texts, track)


def pretrained(arguments, texts, track) -> Reading:
    """SmolLM2, or another llama-type GGUF file, on the texts."""
    model = smollm2.load(None if arguments.model == "smollm2" else arguments.model)
    codes = smollm2.encode(model, [text for _, text in texts])
    cut = scoring.tiles(codes, arguments.length, arguments.windows, np.random.default_rng(arguments.seed))
    batch = max(1, min(1024 // arguments.length, len(cut.tokens)))  # its activations stay in cache
    scorer = smollm2.scorer(model)
    folder = arguments.out / "cache"
    shown = functools.partial(track, tokens=batch * arguments.length)
    done = scoring.score(scorer, cut.tokens, model.sha256, folder, batch=batch, track=shown)
    size = float(smollm2.sizes(model)[cut.tokens].mean())
    note = "4-bit, instruction-tuned model" if arguments.model == "smollm2" else "model from a GGUF file"
    return Reading(done.v, _ids(cut.documents), "token", size, done.speed, note)


def trained(arguments, texts, track) -> Reading:
    """A byte transformer trained on part of the texts and scored on the rest."""
    learned, rest = _split(texts)
    rng = np.random.default_rng(arguments.seed)
    config = models.Config(width=64, layers=2, heads=4, context=arguments.length)
    codes = [np.frombuffer(text, np.uint8).astype(np.int32) for text in rest]
    cut = scoring.tiles(codes, arguments.length, arguments.windows, rng)
    batches = models.batches(learned, arguments.length, arguments.steps, 16, rng)
    identity = data.sha256(repr((config, arguments.seed)).encode(), batches)
    kept = scoring.memory(arguments.out / "cache" / f"{identity}.npz")
    apply, params = models.transformer(config, nnx.Rngs(arguments.seed))
    shown = functools.partial(track, tokens=batches.size // max(1, len(batches) // 20))
    fitted = models.fit(apply, params, batches, 0.03, shown, "training the transformer", memory=kept)
    fingerprint = data.sha256(*(np.asarray(leaf) for leaf in jax.tree.leaves(fitted.params)))
    one = jax.jit(jax.vmap(lambda x: information.surprisal(apply(fitted.params, x), x)))
    scorer = lambda tokens: np.asarray(one(jnp.asarray(tokens, jnp.int32)))
    shown = functools.partial(track, tokens=32 * arguments.length)
    done = scoring.score(scorer, cut.tokens, fingerprint, arguments.out / "cache", batch=32, track=shown)
    return Reading(done.v, _ids(cut.documents), "byte", 1.0, done.speed, f"trained here for {arguments.steps} steps")


def _split(texts) -> tuple[list[bytes], list[bytes]]:
    """By document where there are enough; else the first four fifths of each text against its last fifth."""
    if len(texts) >= LEAST:
        learned, rest = models.split_documents(texts, 0.2)
        if learned and rest:
            return learned, rest
    raw = [text.encode() for _, text in texts]
    return [text[: len(text) * 4 // 5] for text in raw], [text[len(text) * 4 // 5 :] for text in raw]


def _ids(documents: np.ndarray) -> np.ndarray | None:
    """Documents as 0 .. D - 1; with fewer than ten of them windows are drawn one by one (and the table says so)."""
    names, ids = np.unique(documents, return_inverse=True)
    return ids if len(names) >= 10 else None


def log_probs(path: Path) -> Reading:
    """Velocities from log-probabilities that another program wrote.

    Raises:
        InputError, DTypeError: no array `log_probs`, no real numbers, rows of unequal length, NaN, or log-probabilities above zero.
    """
    checks.require(path.is_file(), "--model", path, "a file", "check the path")
    rows, documents = _npz(path) if path.suffix == ".npz" else _jsonl(path)
    numbers = information.check_log_probs(rows, f"{path.name}: log_probs")
    checks.shape(numbers, ("W", "T"), f"{path.name}: log_probs")
    checks.finite(numbers, f"{path.name}: log_probs")
    if documents is not None:
        _, documents = np.unique(documents, return_inverse=True)
        checks.shape(documents, (len(numbers),), f"{path.name}: documents")
    ids = None if documents is None else _ids(documents)
    return Reading(-numbers, ids, "token", math.nan, math.nan, "log-probabilities from a file")


def _npz(path: Path):
    try:
        with path.open("rb") as raw, np.load(raw) as file:  # opened here: numpy leaves a damaged file open
            checks.require("log_probs" in file, path.name, sorted(file), "an array log_probs", "save it by that name")
            documents = _member(file, "documents", path, "save them as text, documents.astype(str)")
            return _member(file, "log_probs", path, "save rows of equal length as floats"), documents
    except (zipfile.BadZipFile, zlib.error, ValueError, TypeError, EOFError) as error:
        if isinstance(error, checks.InputError):
            raise
        raise checks.InputError(
            f"{path.name}: got a damaged file; expected numbers in an .npz; write it with numpy.savez"
        ) from None


def _member(file, name: str, path: Path, remedy: str):
    """An array of the file, None if absent; Python objects are not read, for reading them would run what they say."""
    try:
        return file.get(name)
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        checks.require(False, f"{path.name}: {name}", "Python objects", "an array of text or numbers", remedy)


def _jsonl(path: Path):
    lines = [(number, line) for number, line in enumerate(path.read_bytes().splitlines(), 1) if line.strip()]
    checks.require(lines, path.name, "no lines", "one object a line", "write the log-probabilities first")
    rows, names = zip(*(_line(line, number, path) for number, line in lines), strict=True)
    lengths = sorted({len(row) for row in rows})
    equal = len(lengths) == 1
    checks.require(equal, path.name, f"rows of {lengths[:5]} tokens", "rows of equal length", "cut equal windows")
    return np.array(rows, np.float64), np.array(names)


def _line(line: bytes, number: int, path: Path) -> tuple[list, str]:
    """The log-probabilities of one line, and the document it names, which is the line's number if it names none."""
    try:
        entry = json.loads(line)
        values, name = entry["log_probs"], str(entry.get("document", number))
    except (ValueError, KeyError, TypeError, RecursionError):
        values, name = None, ""
    where, start = f"{path.name} line {number}", line[:40].decode("utf-8", "replace")
    checks.require(isinstance(values, list), where, start, '{"log_probs": [...]}', "one object a line")
    odd = next((i for i, x in enumerate(values or ()) if not _is_number(x)), None)
    got = "" if odd is None else f"{json.dumps((values or ())[odd])[:40]} at index {odd}"
    checks.require(odd is None, where, got, "numbers", "leave out what has no prediction (the first token)")
    return values or [], name


def _is_number(x) -> bool:
    """Of JSON: neither a truth value, nor text, nor an integer that no float holds."""
    return isinstance(x, float) or type(x) is int and abs(x) < 2**1023
