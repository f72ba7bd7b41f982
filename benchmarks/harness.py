"""One way to time everything: peers interleaved in one process, compile apart from run, median and spread.

    from harness import Contender, compare, save
    rows = compare("residual of 32 links", [Contender("ours", f, (x,)), Contender("peer", g, (x,))])
    save("bench_variation", rows)

The first contender is the reference of every ratio (time / time of the first, so above 1 is slower than ours).
The machine is noisy: rounds alternate between contenders, so a slow moment hits all of them alike.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

HERE = Path(__file__).parent


class Contender(NamedTuple):
    """A named function and its arguments; `setup` seconds (compile, build) are measured apart when `jit` is set."""

    name: str
    run: Callable
    arguments: tuple = ()
    jit: bool = True
    note: str = ""


class Row(NamedTuple):
    """One line of a table: seconds for one call, and the ratio to the first contender of its group."""

    group: str
    name: str
    ratio: float
    median: float
    low: float
    high: float
    compile: float
    note: str


def seconds(call: Callable[[], Any]) -> float:
    """Wall clock of one call, waiting for the device."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def _prepared(contender: Contender) -> tuple[Callable[[], Any], float]:
    if not contender.jit:
        return lambda: contender.run(*contender.arguments), 0.0
    start = time.perf_counter()
    compiled = jax.jit(contender.run).lower(*contender.arguments).compile()
    return lambda: compiled(*contender.arguments), time.perf_counter() - start


def compare(group: str, contenders: Sequence[Contender], *, rounds: int = 15, minimum: float = 0.02) -> list[Row]:
    """Time the contenders in alternation.

    Args:
        group: the name of the task.
        contenders: the first is the reference.
        rounds: samples for each contender.
        minimum: seconds one sample should last; short calls are repeated inside a sample.

    Returns:
        One row a contender: median and quartiles of seconds per call.
    """
    prepared = [_prepared(contender) for contender in contenders]
    once = [min(seconds(call), seconds(call)) for call, _ in prepared]
    repeats = [max(1, round(minimum / max(t, 1e-7))) for t in once]
    samples: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for (call, _), repeat, times in zip(prepared, repeats, samples, strict=True):
            times.append(seconds(lambda call=call, repeat=repeat: [call() for _ in range(repeat)][-1]) / repeat)
    reference = statistics.median(samples[0])
    rows = []
    for contender, (_, compile_seconds), times in zip(contenders, prepared, samples, strict=True):
        low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
        row = Row(group, contender.name, median / reference, median, low, high, compile_seconds, contender.note)
        rows.append(row)
    print(markdown(rows), flush=True)
    return rows


def machine() -> str:
    """The machine line: enough to judge a ratio, no name and no path."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    versions = f"Python {platform.python_version()}, jax {jax.__version__}"
    return f"{os.cpu_count()} cores, {model}, {jax.default_backend()}, {versions}"


def _time(x: float) -> str:
    unit, factor = next(
        (u, f) for u, f, top in (("us", 1e6, 1e-3), ("ms", 1e3, 1.0), ("s", 1.0, float("inf"))) if x < top
    )
    return f"{x * factor:.3g} {unit}"


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, ratio first."""
    lines = [
        "| task | contender | ratio | median | quartiles | compile | note |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        spread = f"{_time(r.low)} to {_time(r.high)}"
        compiled = _time(r.compile) if r.compile else "-"
        lines.append(f"| {r.group} | {r.name} | {r.ratio:.2f} | {_time(r.median)} | {spread} | {compiled} | {r.note} |")
    return "\n".join(lines)


def save(name: str, rows: Sequence[Row], remarks: Sequence[str] = ()) -> None:
    """Write `results/<name>.json` and `results/<name>.md` beside the benchmarks."""
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    record = {"machine": machine(), "rows": [row._asdict() for row in rows], "remarks": list(remarks)}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    notes = "".join(f"\n- {remark}" for remark in remarks)
    (folder / f"{name}.md").write_text(f"# {name}\n\n{machine()}\n\n{markdown(rows)}\n{notes}\n")


def options(description: str) -> argparse.Namespace:
    """The options every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=15, help="samples for each contender")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    return parser.parse_args()
