"""How far a comparison is: a bar with the time left on a terminal, a plain line every ten seconds elsewhere."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Meter(NamedTuple):
    """`start(label)` a trial, `advance(steps, loss)` in it, `note(text)` what a person should know."""

    start: Callable[[str], None]
    advance: Callable[[int, float], None]
    note: Callable[[str], None]


SILENT = Meter(lambda label: None, lambda steps, loss: None, lambda text: None)


@contextlib.contextmanager
def meter(total: int) -> Iterator[Meter]:
    """A meter of `total` steps on standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    with _bar(total, console) if console.is_terminal else contextlib.nullcontext(_lines(total)) as chosen:
        yield chosen


@contextlib.contextmanager
def _bar(total: int, console) -> Iterator[Meter]:
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%")
    clocks = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    with Progress(*columns, *clocks, console=console) as progress:
        task, current = progress.add_task("reading", total=total), [""]

        def start(label):
            current[0] = escape(label)
            progress.update(task, description=current[0])

        def advance(steps, loss):
            told = f"  loss {loss:.3g}" if math.isfinite(loss) else ""
            progress.update(task, advance=steps, description=current[0] + told)

        yield Meter(start, advance, lambda text: progress.console.print(f"learnlag: {text}", markup=False))


def _lines(total: int, every: float = 10.0) -> Meter:
    now = time.monotonic()
    state = {"done": 0, "timed": 0, "spent": 0.0, "label": "", "told": now, "last": now, "fresh": True}
    tell = lambda text: print(f"learnlag: {text}", file=sys.stderr, flush=True)

    def start(label):
        state.update(label=label, last=time.monotonic(), fresh=True)
        tell(label)

    def advance(steps, loss):
        now = time.monotonic()
        state["done"] += steps
        if steps == 1 and not state["fresh"]:  # many at once were finished before; the first of a trial is compiled
            state["timed"], state["spent"] = state["timed"] + 1, state["spent"] + now - state["last"]
        state["last"], state["fresh"] = now, state["fresh"] and steps != 1
        if now - state["told"] >= every and state["timed"]:
            left = (total - state["done"]) * state["spent"] / state["timed"]
            loss = f" loss {loss:.4g}," if math.isfinite(loss) else ""  # none has come from the device yet
            share = 100 * state["done"] // total
            tell(f"{state['label']}:{loss} {share} % of all steps, about {_span(left)} left")
            state["told"] = now

    return Meter(start, advance, tell)


def _span(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{math.ceil(seconds)} s" if seconds < 90 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
