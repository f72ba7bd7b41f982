"""`learnlag audit FILE`: is a training run a stationary path of the learning Lagrangian? From a record, or while it runs.

    learnlag audit RUN.npz        a trajectory written by `recorded.save(path, fisher.record(...))`
    learnlag audit CONFIG.toml    every optimiser of a comparison, its first point and seed, watched live

The residual is that of `fisher.audit`; live it comes from `live.watch_stationarity`. Writes `audit.html` and `audit.json`.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from learnlag_jax import checks, fisher
from learnlag_jax.experiments import figures, page
from learnlag_jax.experiments.claims import Dataset, Figure, Table
from learnlag_jax.experiments.commands import report
from learnlag_jax.experiments.comparison import config, kept, progress, trials
from learnlag_jax.experiments.comparison.standings_figures import COLOURS, label
from learnlag_jax.experiments.runs import compiled, live, ownership, recorded, run

TERMS = ("relative", "unexplained", "drift", "correction", "learning_rate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `learnlag audit`."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="RUN.npz, written as docs/compare.md shows, or CONFIG.toml"
    )
    parser.add_argument("--out", type=Path, default=Path("audit"), metavar="DIR", help="default: audit")
    add = lambda name, default, what: parser.add_argument(name, type=float, default=default, metavar="X", help=what)
    add("--learning-rate", None, "eta of a recorded run; default: the one that explains it best")
    add("--b1", 0.9, "friction (default: 0.9)")
    add("--b2", 0.999, "memory of the metric (default: 0.999)")
    add("--eps", 1e-8, "added to the metric's root (default: 1e-8)")
    add("--exponent", -0.5, "of the metric; -0.5 is the learning Lagrangian, 0 is Euclidean")
    help = "live: every N-th coordinate is watched (default: about 128 of them in all)"
    parser.add_argument("--stride", type=int, metavar="N", help=help)


def audit(arguments: argparse.Namespace) -> int:
    """Audit a record or a configuration, print the table, write page and numbers.

    Returns:
        0; the residual is a measurement and not a verdict. 75 if a live run was stopped.

    Raises:
        InputError, ConfigError, RunDirError.
    """
    metric = _metric(arguments)
    known = arguments.file.suffix in (".npz", ".toml")
    checks.require(known, "FILE", arguments.file.name, "RUN.npz or CONFIG.toml", "see learnlag audit --help")
    _refuse_flags(arguments)
    if arguments.file.suffix == ".npz":
        found, inputs = {"recorded run": _recorded(arguments, metric)}, []
    else:
        found, inputs = _live(arguments, metric)
    table = _table(found)
    for name in (name for name, x in found.items() if not math.isfinite(x["relative"])):
        print(
            f"learnlag: {name}: the parameters did not move, or not finitely: there is nothing to explain",
            file=sys.stderr,
        )
    with report.output_directory(arguments.out) as stage:
        _write(stage, found, table, metric, inputs)
    _show(table, arguments.out)
    return 0


def _refuse_flags(arguments: argparse.Namespace) -> None:
    """A flag of the other kind of file would be passed over, and the page would state it as if it had counted."""
    recording = arguments.file.suffix == ".npz"
    name, remedy = ("stride", "it watches live") if recording else ("learning_rate", "the configuration has its own")
    given, flag = getattr(arguments, name), "--" + name.replace("_", "-")
    checks.require(given is None, flag, given, f"no {flag} beside {arguments.file.name}", f"leave it out: {remedy}")


def _metric(arguments: argparse.Namespace) -> dict[str, Any]:
    def within(name: str, low: float, high: float):
        value = getattr(arguments, name)
        ok = value is None or (math.isfinite(value) and low <= value <= high)
        checks.require(ok, f"--{name}", value, f"{low:g} to {high:.9g}", "see learnlag audit --help")
        return value

    bounds = {"b1": (0, 1 - 1e-9), "b2": (0, 1 - 1e-9), "eps": (0, 1), "exponent": (-2, 2), "stride": (1, 10**9)}
    return {name: within(name, *span) for name, span in bounds.items()}


def _recorded(arguments: argparse.Namespace, metric: Mapping[str, Any]) -> dict[str, Any]:
    rate = arguments.learning_rate
    ok = rate is None or (math.isfinite(rate) and rate > 0)
    checks.require(ok, "--learning-rate", rate, "a positive number", "leave it out to fit one")
    trajectory = recorded.load(arguments.file)
    kind = np.result_type(*(x.dtype for x in jax.tree.leaves(trajectory)))
    trajectory = jax.tree.map(lambda x: jax.numpy.asarray(x, kind), trajectory)
    options = {key: metric[key] for key in ("b1", "b2", "eps", "exponent")}
    found = jax.jit(lambda run, rate: fisher.audit(run, learning_rate=rate, **options))(trajectory, rate)
    rms = {key: float(np.sqrt(np.mean(np.asarray(getattr(found, key)) ** 2))) for key in TERMS[1:4]}
    numbers = {"relative": float(found.relative), **rms, "learning_rate": float(found.learning_rate)}
    residual = [float(x) for x in found.residual]
    return numbers | {"last_step": len(residual) + 1, "residual": residual}


def _live(arguments: argparse.Namespace, metric: Mapping[str, Any]) -> tuple[dict[str, dict], list[Dataset]]:
    with jax.enable_x64(False):
        comparison = first_of_each(trials.read(arguments.file), metric)
        every, inputs = comparison.options["evaluate"], []
        with (
            run.signals() as stop,
            ownership.claimed(arguments.out),
            progress.meter(comparison.trials * comparison.plan.steps) as meter,
        ):

            def look(trial, step, carry):
                watched = live.find(carry.state) if step % every == 0 else None
                told = trials.audit_of(watched, trial.point, metric) if watched else None
                if told:
                    meter.note(
                        f"{trial.label}: step {step}, residual {told['relative']:.3g}, unexplained {told['unexplained']:.3g}"
                    )

            runner = trials.Runner(arguments.out / "trials", meter=meter, stop=stop, look=look)
            with compiled.persistent_cache(meter.note):
                found = [result for result, _ in trials.run_all(comparison, runner, inputs, {})]
    short = [r for r in found if r.audit is None]
    checks.require(not short, "steps", comparison.plan.steps, "at least 3 steps", "give the run a larger budget")
    return {f"{r.workload}: {r.optimiser} {r.point}": dict(r.audit or {}) for r in found}, inputs


def first_of_each(comparison: trials.Comparison, metric: Mapping[str, Any]) -> trials.Comparison:
    """The same workloads and optimisers, one point and one seed each, watched."""
    options = comparison.options | {"audit": dict(metric), "seeds": comparison.options["seeds"][:1]}
    optimisers = [o._replace(points=o.points[:1]) for o in comparison.optimisers]
    return trials.Comparison(options, comparison.workloads, optimisers)


def _table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    caption = (
        "RMS over the run, in units of the RMS impulse: 0 is a stationary path, 1 means the force explains nothing"
    )
    header = ("run", "residual", "unexplained", "metric in motion", "bias correction and schedule", "fitted rate")
    return Table(caption, header, tuple((name, *(float(x[term]) for term in TERMS)) for name, x in found.items()))


def _write(stage: Path, found: Mapping[str, Mapping], table: Table, metric: Mapping, inputs: Sequence[Dataset]) -> None:
    figure = _figure(found)
    picture = figures.draw(figure)
    facts = {key: str(value) for key, value in metric.items() if value is not None} | report.environment(False, 0)
    facts = {key: value for key, value in facts.items() if key not in ("run", "seed")}
    record = {"schema": 1, "environment": facts, "runs": {name: dict(x) for name, x in found.items()}}
    (stage / "audit.json").write_text(json.dumps(kept.plain(record), indent=1, allow_nan=False) + "\n", "utf-8")
    (stage / "audit.png").write_bytes(picture.png)
    lead = (
        "How far each training run is from a stationary path of the learning Lagrangian, step by step. The residual splits into "
        "what the moving metric, bias correction and the schedule account for, and what nothing does."
    )
    header = f'<h1>Stationarity of training runs</h1><p class="lead">{page.escape(lead)}</p>'
    main = page.table_html(table) + page.figure_html(figure, picture)
    (stage / "audit.html").write_text(page.frame("learnlag audit", header, main, facts, list(inputs)), "utf-8")


def _figure(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    steps = lambda x: np.arange(x["last_step"] - len(x["residual"]) + 1, x["last_step"] + 1)
    series = {f"{i}": {"step": steps(x), "residual": np.array(x["residual"])} for i, x in enumerate(found.values())}

    def draw(figure, series):
        axes = figure.subplots()
        for i, (name, x) in enumerate(zip(found, series.values(), strict=True)):
            axes.plot(
                x["step"],
                x["residual"],
                label=label(config.printable(name)),
                color=COLOURS[i % len(COLOURS)],
                linewidth=1,
            )
        axes.set_xlabel("step")
        axes.set_ylabel("residual over RMS impulse")
        axes.set_yscale("log")
        axes.legend()

    return Figure("audit", "The stationarity residual of every step.", "Residual over steps.", series, draw)


def _show(table: Table, out: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Shown

    console = Console()
    console = console if console.is_terminal else Console(width=140)
    shown = Shown(title="stationarity", box=box.SIMPLE_HEAD)
    for name in table.header:
        shown.add_column(name)
    for row in table.rows:
        shown.add_row(escape(str(row[0])), *(page.number(x) for x in row[1:]))
    console.print(shown)
    console.print(f"{out / 'audit.html'}", markup=False)
