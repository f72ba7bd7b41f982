"""`learnlag compare CONFIG.toml`: optimisers on workloads by time to target, never losing a finished trial.

One directory holds everything: the kept trials, `compare.html`, `results.json`, `times.md` and the figures. The same command
goes on where it was stopped or killed, on the same or another number of devices.
"""

import argparse
import contextlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax

from learnlag_jax import checks
from learnlag_jax.experiments import data, figures, page
from learnlag_jax.experiments.claims import Dataset, Table
from learnlag_jax.experiments.commands import report
from learnlag_jax.experiments.comparison import kept, progress
from learnlag_jax.experiments.comparison import standings as standing
from learnlag_jax.experiments.comparison.standings import Entry
from learnlag_jax.experiments.comparison.standings_figures import figures as pictures_of
from learnlag_jax.experiments.comparison.trials import Comparison, Runner, fingerprint, read, run_all
from learnlag_jax.experiments.runs import compiled, ownership, processes, run, rundir

# what this command calls its pictures and series: nothing else in figures/ is ever removed
DRAWN = re.compile(r"(profile|(curves|motion)-\d+)\.(png|svg)|(profile-profile|(curves|motion)-\d+-\d+)\.csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `learnlag compare`."""
    parser.add_argument("config", type=Path, metavar="CONFIG.toml", help="workloads, optimisers, seeds and budget")
    parser.add_argument("--out", type=Path, default=Path("comparison"), metavar="DIR", help="default: comparison")
    parser.add_argument("--check", action="store_true", help="check the configuration, say what would run, and end")
    processes.add_arguments(parser)


def compare(arguments: argparse.Namespace) -> int:
    """Run what is missing and write what all of it says.

    Returns:
        0; 3 if an optimiser was lost (diverged, or its error is no number) in every trial of a workload (the page is written and shows it); 75 if stopped.

    Raises:
        ConfigError, InputError, ModuleNotFoundError, RunDirError: before anything is computed.
    """
    processes.check(arguments)
    with jax.enable_x64(False):
        comparison = read(arguments.config)
        if arguments.check:
            return _say(comparison)
        if importlib.util.find_spec("matplotlib") is None:
            raise data.missing("matplotlib")
        if arguments.processes and arguments.heartbeat is None:
            return processes.supervise(arguments.words, arguments.limit)
        with processes.joined(arguments) as group:
            return _run(comparison, arguments.out, group)


def _say(comparison: Comparison) -> int:
    names = lambda found: ", ".join(x.label for x in found)
    steps, measured = comparison.options["steps"], " ".join(map(str, comparison.measured))
    chooses = "" if comparison.tuning is None else f"seed {comparison.tuning} chooses each point and "
    print(
        f"{names(comparison.optimisers)} on {names(comparison.workloads)}: at most {comparison.trials} trials of {steps} steps; "
        f"{chooses}seed{'s' * (len(comparison.measured) > 1)} {measured} measure"
    )
    return 0


def _run(comparison: Comparison, out: Path, group: processes.Group) -> int:
    processes.same("the configuration", fingerprint(comparison))
    alike = (
        "copies of the parameters would drift apart by rounding: export NPROC=N, the largest number, on every process"
    )
    processes.same("the number of CPU threads", processes.threads(), alike)
    total = comparison.trials * comparison.options["steps"]
    with run.signals() as stop, _held(out, group), contextlib.ExitStack() as stack:
        meter = stack.enter_context(progress.meter(total)) if group.first else progress.SILENT
        stack.enter_context(compiled.persistent_cache(meter.note))
        inputs: list[Dataset] = []
        units: dict[str, str] = {}
        runner = Runner(out / "trials", group, meter, stop)
        found = list(run_all(comparison, runner, inputs, units))
        stack.close()
        if not group.first:
            return 0
        entries = enter(comparison, [result for result, measured in found if measured])
        first = comparison.options["seeds"][0]  # the other seeds measure, and no grid is of theirs
        tuned = [r for r, _ in found if r.seed == first and len(_points(comparison, r)) > 1]
        with report.output_directory(out) as stage:
            tables = write(stage, comparison, entries, tuned, inputs, units)
            pictures = {path.name for path in (stage / "figures").iterdir()}
        for path in (out / "figures").iterdir():  # one of an earlier run would pass for this one's
            if path.is_file() and path.name not in pictures and DRAWN.fullmatch(path.name):
                path.unlink()
    audited = next((table for table in tables if table.header == standing.STATIONARITY), None)
    show({"steps to target": tables[0]} | ({"stationarity: 0 is a stationary path": audited} if audited else {}), out)
    fallen = [e for e in entries if all(map(kept.lost, e.results))]
    for entry in fallen:
        how = "diverged" if any(r.status == "diverged" for r in entry.results) else "ended without a finite error"
        remedy = "lower its learning rate, or look at the workload's evaluate"
        print(f"learnlag: {entry.optimiser} {how} in every trial of {entry.workload}; {remedy}", file=sys.stderr)
    return 3 if fallen else 0


@contextlib.contextmanager
def _held(out: Path, group: processes.Group) -> Iterator[None]:
    """The directory under the lock of the first process; the others learn whether it was had."""
    with contextlib.ExitStack() as stack:
        refusal = None
        if group.first:
            try:
                stack.enter_context(ownership.claimed(out))
                for place in (out / "trials").glob("*"):
                    rundir.tidy(place / "checkpoints")
            except (checks.RunDirError, checks.CheckpointError) as error:
                refusal = error
        if not processes.agree(refusal is None):
            raise refusal or checks.InputError(f"--out: process 0 cannot use {out}; see what it says")
        yield


def _points(comparison: Comparison, result: kept.Result):
    return next(o.points for o in comparison.optimisers if o.label == result.optimiser)


def enter(comparison: Comparison, measured: Sequence[kept.Result]) -> list[Entry]:
    """Results by workload and optimiser, in the order of the configuration."""
    entries = []
    for choice in comparison.workloads:
        for optimiser in comparison.optimisers:
            own = tuple(r for r in measured if (r.workload, r.optimiser) == (choice.label, optimiser.label))
            entries.append(Entry(choice.label, optimiser.label, own[0].point, choice.targets, own))
    return entries


def write(
    stage: Path,
    comparison: Comparison,
    entries: Sequence[Entry],
    tuned: Sequence[kept.Result],
    inputs: Sequence[Dataset],
    units: Mapping[str, str],
) -> list[Table]:
    """The page, the numbers, the table of times as Markdown, every picture as PNG and SVG, every series as CSV."""
    budget = comparison.options["steps"]
    standings = standing.stand(entries, budget)
    scores = standing.profile(standings)
    tables = standing.tables(standings, entries, tuned, budget)
    drawn = [(figure, figures.draw(figure)) for figure in pictures_of(entries, dict(units), scores)]
    (stage / "figures").mkdir()
    for figure, picture in drawn:
        (stage / "figures" / f"{figure.name}.png").write_bytes(picture.png)
        (stage / "figures" / f"{figure.name}.svg").write_bytes(picture.svg)
        for key, table in picture.tables.items():
            (stage / "figures" / f"{figure.name}-{key}.csv").write_text(table, "utf-8")
    facts = report.environment(False, 0)
    facts = {"steps": str(budget), "seeds": " ".join(map(str, comparison.options["seeds"]))} | {
        key: value for key, value in facts.items() if key not in ("run", "seed")
    }
    record = results(comparison, entries, tuned, tables, inputs, facts)
    (stage / "results.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", "utf-8")
    (stage / "times.md").write_text(markdown(tables[0]), "utf-8")
    (stage / "compare.html").write_text(html(comparison, tables, drawn, inputs, facts), "utf-8")
    return tables


def results(comparison: Comparison, entries, tuned, tables: Sequence[Table], inputs, facts: Mapping[str, str]) -> dict:
    """Everything as plain data; non-finite numbers are text. `times` is the same on every run, `trials` holds the clocks."""
    rows = lambda table: [dict(zip(table.header, row, strict=True)) for row in table.rows]
    plain = {
        "schema": 1,
        "environment": dict(facts),
        "configuration": json.loads(fingerprint(comparison)),
        "inputs": [{key: value for key, value in d._asdict().items() if key != "content"} for d in inputs],
        "times": rows(tables[0]),
        "tables": [{"caption": t.caption, "rows": rows(t)} for t in tables[1:]],
        "trials": [r._asdict() for e in entries for r in e.results],
        "tuning": [r._asdict() for r in tuned],
    }
    return kept.plain(plain)


def html(
    comparison: Comparison, tables: Sequence[Table], drawn, inputs: Sequence[Dataset], facts: Mapping[str, str]
) -> str:
    """The page: what a reader looks at first stands first."""
    text = _how_chosen(comparison)
    header = f'<h1>Time to target</h1><p class="lead">{page.escape(text)}</p>'
    shown = lambda wanted: "".join(page.figure_html(f, p) for f, p in drawn if f.name.startswith(wanted))
    head, score, *rest = (page.table_html(table) for table in tables)
    main = f"<h2>Times</h2>{head}{score}{shown('profile')}<h2>Learning curves</h2>{shown('curves')}{shown('motion')}<h2>Errors, speed, memory</h2>{''.join(rest)}"
    return page.frame("learnlag compare", header, main, facts, list(inputs))


def _how_chosen(comparison: Comparison) -> str:
    seed, grids = comparison.tuning, any(len(o.points) > 1 for o in comparison.optimisers)
    start = f"Every trial has {comparison.options['steps']} steps of {comparison.options['batch']} examples; the error is that of held-out data, measured every {comparison.options['evaluate']} steps. "
    if seed is not None:
        return (
            start
            + f"Each optimiser's point was chosen on seed {seed}, which no other table uses: the point that reaches the hardest target first."
        )
    if grids:
        return (
            start
            + "There is one seed, so the best point was chosen and measured on the same trials: these times are optimistic."
        )
    return start + "Nothing was tuned here."


def markdown(table: Table) -> str:
    """A table of text as Markdown."""
    line = lambda cells: "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
    return "\n".join([line(table.header), line(["---"] * len(table.header)), *map(line, table.rows)]) + "\n"


def show(tables: Mapping[str, Table], out: Path) -> None:
    """Tables on the terminal, each under its title."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Shown

    console = Console()
    console = console if console.is_terminal else Console(width=140)
    cell = lambda x: f"{x:.3g}" if isinstance(x, float) else escape(str(x))
    for title, table in tables.items():
        shown = Shown(title=title, box=box.SIMPLE_HEAD)
        for name in table.header:
            shown.add_column(name)
        for row in table.rows:
            shown.add_row(*map(cell, row))
        console.print(shown)
    console.print(f"{out / 'compare.html'}", markup=False)
