"""What a comparison runs: every optimiser's grid on the first seed, its best point on the others; finished trials are kept.

    [run]
    steps = 400            the budget of every trial
    seeds = [0, 1, 2]      with a grid, the first seed chooses the point and the others measure it

A trial is named by a hash of all that decides its numbers, so a changed file reruns what it changed and nothing else, and a
trial killed half-way goes on from its checkpoint. Comes from: `config`, `workloads`, `optimisers`. Goes to: `standings`.
"""

import functools
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from learnlag_jax import checks
from learnlag_jax.experiments.comparison import config, kept, optimisers, progress, workloads
from learnlag_jax.experiments.comparison.behaviour import behaviour, movement
from learnlag_jax.experiments.comparison.config import Key
from learnlag_jax.experiments.comparison.optimisers import Optimiser, Point
from learnlag_jax.experiments.runs import checkpoint, live, processes, program, run, summation

RUN = {
    "steps": Key(int, low=1, high=10**7),
    "batch": Key(int, 32, low=1, high=10**6),
    "seeds": Key(int, (0, 1, 2), low=0, high=2**31 - 1, many=True),
    "evaluate": Key(int, 25, low=1, high=10**7),
    "save": Key(int, 100, low=1, high=10**7),
    "patience": Key(int, 10, low=1, high=10**6),
    "shard": Key(str, "batch", choices=("batch", "parameters")),
    "pieces": Key(int, program.PIECES, low=1, high=2**20),
    "audit": Key(bool, False),
    "keep_checkpoints": Key(bool, False),
}
METRIC = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "exponent": -0.5, "stride": None}  # of the learning Lagrangian
PACKAGES = ("learnlag_jax", "jax", "jaxlib", "optax", "flax", "numpy")


class Comparison(NamedTuple):
    """A checked configuration."""

    options: dict[str, Any]
    workloads: list[workloads.Choice]
    optimisers: list[Optimiser]

    @property
    def plan(self) -> run.Plan:
        return run.Plan(*(self.options[key] for key in ("steps", "evaluate", "save", "patience")))

    @property
    def tuning(self) -> int | None:
        """The seed that chooses among points, if it is apart from those that measure."""
        apart = len(self.options["seeds"]) > 1 and any(len(o.points) > 1 for o in self.optimisers)
        return self.options["seeds"][0] if apart else None

    @property
    def measured(self) -> tuple[int, ...]:
        """The seeds whose trials go into the tables."""
        return self.options["seeds"][1:] if self.tuning is not None else self.options["seeds"]

    @property
    def trials(self) -> int:
        """How many trials there are at most."""
        each = [
            len(o.points) + len(self.measured) - (self.tuning is None) if len(o.points) > 1 else len(self.measured)
            for o in self.optimisers
        ]
        return len(self.workloads) * sum(each)


class Trial(NamedTuple):
    """One run: `identity` is all that decides its numbers."""

    label: str
    point: Point
    seed: int
    identity: dict[str, str]

    @property
    def name(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:24]


def read(path: Path) -> Comparison:
    """A configuration, checked whole before anything runs.

    Raises:
        ConfigError: names file, line, key and the nearest right word. OSError: cannot be read.
    """
    source = config.read(path)
    config.only(source, ("run", "workload", "optimiser"))
    options = config.table(source, "run", RUN)
    options["audit"] = dict(METRIC) if options["audit"] else None
    if "evaluate" not in source.tables.get("run", {}):
        options["evaluate"] = min(options["evaluate"], options["steps"])
    if options["evaluate"] > options["steps"]:
        raise source.refuse("run", 0, "evaluate", str(options["evaluate"]), f"at most the {options['steps']} steps")
    if options["pieces"].bit_count() != 1:
        raise source.refuse("run", 0, "pieces", str(options["pieces"]), "a power of two")
    comparison = Comparison(
        options, workloads.read(source, options["batch"]), optimisers.read(source, options["steps"])
    )
    if comparison.trials > 10**5:
        raise source.refuse("run", 0, "seeds", f"{comparison.trials} trials", "at most 100000")
    return comparison


def fingerprint(comparison: Comparison) -> str:
    """All of a configuration and the packages that decide its numbers, as text."""
    points = [[o.label, [[p.kind, p.settings] for p in o.points]] for o in comparison.optimisers]
    choices = [[c.label, c.kind, c.targets] for c in comparison.workloads]
    return json.dumps([comparison.options, choices, points, _versions()], sort_keys=True)


def _versions() -> str:
    return " ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)


class Runner(NamedTuple):
    """Where and how trials run: the directory of all, the processes, the meter, `stop()`, and who looks on."""

    directory: Path
    group: processes.Group = processes.ALONE
    meter: progress.Meter = progress.SILENT
    stop: Callable[[], bool] = lambda: False
    look: Callable[[Trial, int, program.Carry], None] = lambda trial, step, carry: None


def run_all(
    comparison: Comparison, runner: Runner, inputs: list, units: dict[str, str]
) -> Iterator[tuple[kept.Result, bool]]:
    """Every trial in turn, as (result, whether it is the chosen point measured); processes but the first give nothing.

    `inputs` receives the data that was read, `units` the unit of each workload's error.
    """
    for choice in comparison.workloads:
        runner.group.beat(processes.BUSY)
        workload = choice.make()
        code = behaviour(choice.label, workload.task)
        pieces = summation.pieces_of(workload.task.batch(0, 0), comparison.options["pieces"], len(jax.devices()))
        processes.same(f"the data of workload {choice.label}", workload.data.sha256 + code)
        inputs.append(workload.data)
        units[choice.label] = workload.unit
        for optimiser in comparison.optimisers:
            kinds = {point.kind: point for point in optimiser.points}
            codes = {kind: code + movement(optimiser.label, workload.task, point) for kind, point in kinds.items()}
            one = functools.partial(_one, comparison, runner, choice, workload, codes, pieces, optimiser, {})
            several = len(optimiser.points) > 1
            alone = several and comparison.tuning is None  # one seed chooses and measures
            tried = [one(point, comparison.options["seeds"][0]) for point in optimiser.points] if several else []
            tuned = [result for result in tried if result]
            best = processes.agree(choose(tuned, choice.targets) if tuned else 0)
            yield from ((result, alone and i == best) for i, result in enumerate(tuned))
            for seed in comparison.measured[1:] if alone else comparison.measured:
                if result := one(optimiser.points[best], seed):
                    yield result, True


def choose(results: Sequence[kept.Result], targets: Sequence[float]) -> int:
    """The point that reaches the hardest target first; ties go to the next target, then to the lowest last error.

    Points whose trial was lost come after all others.
    """

    def rank(result: kept.Result):
        times = [kept.first_crossing(result, target, result.at) for target in sorted(targets)]
        return kept.lost(result), *times, result.errors[-1] if math.isfinite(result.errors[-1]) else math.inf

    return min(range(len(results)), key=lambda i: rank(results[i]))


def _one(
    comparison,
    runner: Runner,
    choice,
    workload,
    codes: Mapping[str, str],
    pieces: int,
    optimiser: Optimiser,
    compiled: dict,
    point,
    seed: int,
):
    """One trial: kept, gone on with, or begun; `pieces`: as many as there will be, for a random loss differs with them."""
    options = {key: comparison.options[key] for key in ("steps", "evaluate", "patience", "shard", "audit")}
    identity = {
        "workload": choice.kind,
        "data": workload.data.sha256,
        "code": codes[point.kind],
        "optimiser": point.kind,
        "settings": json.dumps(point.settings, sort_keys=True),
        "seed": str(seed),
        "run": json.dumps(options | {"pieces": pieces}, sort_keys=True),
        "packages": _versions(),
    }
    trial = Trial(f"{choice.label}: {optimiser.label} {point.text}, seed {seed}", point, seed, identity)
    home = runner.directory / trial.name
    found = kept.load(home / "result.json", runner.meter.note) if runner.group.first else None
    runner.meter.start(f"{trial.label}: kept" if found else trial.label)
    if processes.agree(found is not None):
        runner.meter.advance(comparison.plan.steps, math.nan)
        return found and found._replace(workload=choice.label, optimiser=optimiser.label, point=point.text)
    if point.kind not in compiled:
        runner.group.beat(processes.BUSY)
        compiled[point.kind] = _compile(comparison, workload.task, point)
    outcome, status = _train(comparison, runner, compiled[point.kind], workload.task, trial, home)
    facts = _facts(comparison, point, outcome)  # on every process, for it gathers
    if not runner.group.first:
        return None
    curve, done = outcome.curve, int(outcome.carry.step)
    seen = [(k, *row) for k, *row in zip(comparison.plan.points, curve.errors, curve.seconds, strict=True) if k <= done]
    at, errors, seconds = zip(*seen, strict=True)
    numbers = lambda x: tuple(float(value) for value in x)
    result = kept.Result(
        choice.label,
        optimiser.label,
        point.text,
        seed,
        status,
        tuple(int(k) for k in at),
        numbers(errors),
        numbers(seconds),
        numbers(curve.losses[:done]),
        float(curve.spent),
        **facts,
    )
    kept.save(home / "result.json", result)
    if not comparison.options["keep_checkpoints"] and status == "finished":
        checkpoint.remove(home / "checkpoints")
    return result


def _compile(comparison: Comparison, task: program.Task, point: Point) -> program.Program:
    make = point.make
    if comparison.options["audit"]:
        watch = {key: value for key, value in comparison.options["audit"].items() if key in ("b2", "stride")}
        make = lambda settings: live.watch_stationarity(point.make(settings), **watch)
    options = {"shard_parameters": comparison.options["shard"] == "parameters", "pieces": comparison.options["pieces"]}
    return program.compile_program(task, make, point.settings, view=optimisers.evaluation_params, **options)


def _train(comparison, runner: Runner, compiled, task, trial: Trial, home: Path) -> tuple[Any, str]:
    told = [0]

    def on_step(step, carry, report):
        runner.group.beat(processes.STEP)
        runner.meter.advance(step - told[0], float(report.loss))
        told[0] = step
        runner.look(trial, step, carry)

    try:
        outcome = run.train(
            compiled,
            task,
            comparison.plan,
            home / "checkpoints",
            settings=trial.point.settings,
            seed=trial.seed,
            identity=trial.identity,
            stop=runner.stop,
            on_step=on_step,
            on_save=lambda step: runner.group.beat(processes.STEP),
            tell=runner.meter.note,
        )
        status = "finished"
    except checks.SolveError as error:
        runner.meter.note(f"{trial.label}: {error}")
        outcome, status = error.solution, "diverged"
    runner.meter.advance(comparison.plan.steps - told[0], math.nan)
    runner.group.beat(processes.BUSY)
    return outcome, status


def _facts(comparison: Comparison, point: Point, outcome: run.Outcome) -> dict[str, Any]:
    carry, watched = outcome.carry, live.find(outcome.carry.state)
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(carry.params))
    own = carry.state if watched is None else watched.inner
    state = program.state_bytes(carry._replace(state=own))
    found = None if watched is None else audit_of(watched, point, comparison.options["audit"])
    return {"skipped": int(carry.skipped), "parameters": size, "state_bytes": state, "audit": found}


def audit_of(watched: live.LiveState, point: Point, metric: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the live audit says, as plain numbers; None before the third step. Every process must call it."""
    seen = processes.gather(watched._replace(inner=()))
    if int(seen.count) < 3:
        return None
    metric = {key: value for key, value in metric.items() if key in ("b1", "eps", "exponent")}
    found = live.audited(seen, schedule=lambda k: np.asarray(point.share(np.asarray(k) - 1)), **metric)
    rms = {key: float(np.sqrt(np.mean(getattr(found, key) ** 2))) for key in ("unexplained", "drift", "correction")}
    numbers = {"relative": float(found.relative), **rms, "learning_rate": float(found.learning_rate)}
    return numbers | {"last_step": int(seen.count), "residual": [float(x) for x in found.residual]}
