"""What trials say: times to targets with intervals, scores, speeds and memory, as tables of text and numbers.

    T(target) = the first evaluated step with error <= target; a trial that never gets there stays in as a lower bound

The median is Kaplan and Meier's: the first step by which half of the trials have got there. Medians, means and intervals are those of `fermat.learning_time_summary`, scores of `fermat.performance_profile`. Steps decide,
for they are the same on every machine; seconds stand in a table of their own. Comes from: `trials`. Goes to: `compare`.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import fermat
from learnlag_jax.experiments.claims import Table
from learnlag_jax.experiments.comparison.kept import Result, first_crossing, lost

R_MAX = 4.0
BOUND = {(False, False): "", (True, False): ">= ", (False, True): "<= ", (True, True): "about "}
NEITHER = "neither reached it"
STATIONARITY = (
    "workload",
    "optimiser",
    "residual",
    "unexplained",
    "metric in motion",
    "bias correction and schedule",
    "fitted rate",
)


class Entry(NamedTuple):
    """One optimiser on one workload: the trials at its chosen point, one a seed."""

    workload: str
    optimiser: str
    point: str
    targets: tuple[float, ...]
    results: tuple[Result, ...]


class Standing(NamedTuple):
    """An entry's times to one target; `None` in `ratio` for the first optimiser of the configuration.

    `bound`: what the ratio is where trials did not get there: ">= " (its own), "<= " (the reference's), "about " (of both
    some), or NEITHER, where no trial of either did and there is nothing to compare.
    """

    entry: Entry
    target: float
    times: tuple[float, ...]
    seconds: tuple[float, ...]
    summary: fermat.Summary
    ratio: fermat.Ratio | None
    bound: str = ""


def stand(entries: Sequence[Entry], budget: int) -> list[Standing]:
    """Every entry at every target; `budget` in steps."""
    found: list[Standing] = []
    with jax.enable_x64(True):
        for entry in entries:
            reference = next(e for e in entries if e.workload == entry.workload)
            for target in entry.targets:
                times, others = (_times(e, target) for e in (entry, reference))
                summary = fermat.learning_time_summary(*_arrays(times), float(budget))
                apart = entry is not reference and len(times) == len(others)
                ratio = fermat.learning_time_ratio(*_arrays(times), *_arrays(others), float(budget)) if apart else None
                seconds = tuple(first_crossing(r, target, r.seconds) for r in entry.results)
                some = any(map(math.isfinite, (*times, *others)))
                bound = BOUND[math.inf in times, math.inf in others] if some else NEITHER
                found.append(Standing(entry, target, times, seconds, jax.tree.map(np.asarray, summary), ratio, bound))
    return found


def _times(entry: Entry, target: float) -> tuple[float, ...]:
    """Steps, at least 1: a target below which a run starts is reached at once."""
    return tuple(max(1.0, first_crossing(r, target, r.at)) for r in entry.results)


def _arrays(times: Sequence[float]):
    return jnp.asarray(times, jnp.float64), jnp.isfinite(jnp.asarray(times, jnp.float64))


class Profile(NamedTuple):
    """Scores of optimisers over all (workload, target) pairs, and how far each is behind the best of a pair."""

    optimisers: tuple[str, ...]
    score: np.ndarray
    ratio: np.ndarray


def profile(standings: Sequence[Standing]) -> Profile:
    """Performance profiles of the median times."""
    names = tuple(dict.fromkeys(s.entry.optimiser for s in standings))
    pairs = list(dict.fromkeys((s.entry.workload, s.target) for s in standings))
    times = np.full((len(names), len(pairs)), np.inf)
    for s in standings:
        times[names.index(s.entry.optimiser), pairs.index((s.entry.workload, s.target))] = s.summary.median
    with jax.enable_x64(True):
        found = fermat.performance_profile(jnp.asarray(times), R_MAX)
    return Profile(names, np.asarray(found.score), np.asarray(found.ratio))


# Tables.


def tables(
    standings: Sequence[Standing], entries: Sequence[Entry], tuned: Sequence[Result], budget: int
) -> list[Table]:
    """Everything a reader compares, in the order of reading."""
    scores = profile(standings)
    rows = tuple(sorted(zip(scores.optimisers, map(float, scores.score), strict=True), key=lambda row: -row[1]))
    score = Table("Score: area under the performance profile, 1 is best everywhere", ("optimiser", "score"), rows)
    found = [times_table(standings, budget), score, _errors(entries), _speeds(standings, entries)]
    audits = [r for e in entries for r in e.results if r.audit]
    return found + ([_stationarity(entries)] if audits else []) + ([_tuning(tuned)] if tuned else [])


def times_table(standings: Sequence[Standing], budget: int) -> Table:
    """Times in steps: the same on every machine of a kind, killed or not."""

    def row(s: Standing):
        several, missed = len(s.times) > 1, math.inf in s.times
        within = lambda ends: f" [{' to '.join(f'{float(x):.4g}' for x in ends)}]" if several else ""
        value = lambda ratio: f"{s.bound}{float(ratio.value):.4g}{within(ratio.interval)}"
        ratio = "reference" if s.ratio is None else NEITHER if s.bound == NEITHER else value(s.ratio)
        mean = f"{'>= ' * missed}{float(s.summary.restricted_mean):.4g}{within(s.summary.restricted_mean_interval)}"
        count = f"{sum(map(math.isfinite, s.times))} of {len(s.times)}"
        median = _median(s, budget) if several else _steps(s.summary.median)
        return s.entry.workload, f"{s.target:g}", s.entry.optimiser, s.entry.point, count, median, mean, ratio

    caption = (
        f"Steps to target. Median: the first by which half of the seeds had reached it. Mean: of min(T, {budget}), so '>=' where "
        "seeds did not reach it. Ratio: of the means to the first optimiser, seed by seed; below 1 is faster. 95 % bootstrap "
        "intervals; a single seed has none"
    )
    header = ("workload", "target", "optimiser", "point", "reached", "median", "mean", "ratio")
    return Table(caption, header, tuple(row(s) for s in standings))


def _steps(x) -> str:
    return "not reached" if not math.isfinite(x) else f"{float(x):.4g}"


def _median(s: Standing, budget: int) -> str:
    """The median with its interval; what lies beyond the budget is not known."""
    beyond = lambda x: not math.isfinite(x) or (x >= budget and budget not in s.times)
    ends = [f"over {budget}" if beyond(x) else f"{float(x):.4g}" for x in s.summary.median_interval]
    told = "" if all(map(beyond, s.summary.median_interval)) else f" [{' to '.join(ends)}]"
    return _steps(s.summary.median) + told


def _errors(entries: Sequence[Entry]) -> Table:
    def row(e: Entry):
        last = [r.errors[-1] for r in e.results]
        diverged = sum(map(lost, e.results))
        middle = statistics.median(last) if all(map(math.isfinite, last)) else math.nan
        skipped = sum(r.skipped for r in e.results)
        return e.workload, e.optimiser, len(last), middle, min(last), max(last), skipped, diverged

    header = ("workload", "optimiser", "seeds", "median", "least", "most", "skipped steps", "diverged")
    return Table("Error after the last step, over seeds", header, tuple(row(e) for e in entries))


def _speeds(standings: Sequence[Standing], entries: Sequence[Entry]) -> Table:
    def row(e: Entry):
        speed = statistics.median(len(r.losses) / r.spent if r.spent else math.nan for r in e.results)
        hardest = next((s for s in standings if s.entry is e and s.target == min(e.targets)), None)
        seconds = statistics.median_low(hardest.seconds) if hardest else math.nan
        r = e.results[0]
        told = f"{seconds:.3g}" if math.isfinite(seconds) else "not reached"
        return e.workload, e.optimiser, speed, told, r.state_bytes, r.parameters

    header = (
        "workload",
        "optimiser",
        "steps per second",
        "seconds to the hardest target",
        "state (bytes)",
        "parameters",
    )
    caption = "Speed and memory on this machine: medians over seeds, without compiling and evaluating"
    return Table(caption, header, tuple(row(e) for e in entries))


def _stationarity(entries: Sequence[Entry]) -> Table:
    terms = ("relative", "unexplained", "drift", "correction", "learning_rate")

    def row(e: Entry):
        found = [r.audit for r in e.results if r.audit]
        return (
            e.workload,
            e.optimiser,
            *(statistics.median(a[term] for a in found) if found else math.nan for term in terms),
        )

    caption = (
        "Stationarity under the learning Lagrangian with the diagonal metric, RMS over the run in units of the RMS impulse: "
        "0 is a stationary path, 1 means the force explains nothing"
    )
    return Table(caption, STATIONARITY, tuple(row(e) for e in entries))


def _tuning(tuned: Sequence[Result]) -> Table:
    rows = tuple((r.workload, r.optimiser, r.point, r.errors[-1], r.status) for r in tuned)
    header = ("workload", "optimiser", "point", "last error", "status")
    return Table(f"The grids, on seed {tuned[0].seed}", header, rows)
