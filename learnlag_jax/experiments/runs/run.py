"""The training loop: a host around a compiled `Program` that never loses work.

The batch is a pure function of the step, so the step is the data position, and a run killed at any moment and started again
is the run that was never disturbed, bit for bit (same kind of machine; the number of devices may change, see `summation`).
`patience` steps with a non-finite number in a row end the run with the last good parameters on disk. A signal finishes the
step, saves, and ends with exit code 75; a second one ends at once.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from learnlag_jax import checks
from learnlag_jax.experiments.runs import checkpoint
from learnlag_jax.experiments.runs.program import Carry, Program, Report, Task


class Interrupted(Exception):
    """Stopped by a signal or a lost peer after saving; the same command goes on from there (exit code 75)."""


class Plan(NamedTuple):
    """How long, and how often to look and to save. `patience`: how many skipped steps in a row end the run."""

    steps: int
    evaluate: int = 25
    save: int = 100
    patience: int = 10
    keep: int = 3

    @property
    def points(self) -> list[int]:
        """The steps after which the error is measured: 0, every `evaluate`, and the last."""
        return sorted({*range(0, self.steps, self.evaluate), self.steps})


class Curve(NamedTuple):
    """What a run has seen, on the host: the loss of every step, error and training seconds at `Plan.points`, seconds spent."""

    losses: np.ndarray
    errors: np.ndarray
    seconds: np.ndarray
    spent: np.ndarray


class Outcome(NamedTuple):
    """A finished run."""

    carry: Carry
    curve: Curve


def train(
    program: Program,
    task: Task,
    plan: Plan,
    directory: Path,
    *,
    settings: Mapping[str, float],
    seed: int,
    identity: Mapping[str, str],
    stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[int, Carry, Report], None] = lambda step, carry, report: None,
    on_save: Callable[[int], None] = lambda step: None,
    tell: Callable[[str], None] = lambda text: print(f"learnlag: {text}", file=sys.stderr),
) -> Outcome:
    """Train to the end, from the newest checkpoint if there is one.

    Args:
        program, task, plan: see there.
        directory: for the checkpoints of this run alone, held under `rundir.lock` by the caller.
        settings: the optimiser's numbers.
        seed: of the parameters, the batches and the loss's key.
        identity: what makes this run this run; a checkpoint of another is refused.
        stop: asked before every step; true saves and ends the run.
        on_step: told after every step; must not keep the carry.
        on_save: told which step is on disk, after it is.
        tell: where notices go.

    Returns:
        `Outcome`.

    Raises:
        Interrupted: after saving. SolveError: `plan.patience` non-finite steps in a row; the last good state is on disk
            and the `Outcome` so far in `.solution`.
        CheckpointError, RunDirError: see `checkpoint`.
    """
    carry, curve = _begin((program.init(seed, settings), _blank(plan)), directory, identity, tell)
    points, i = {point: index for index, point in enumerate(plan.points)}, int(carry.step)
    if i == 0:
        curve.errors[0], curve.seconds[0] = program.evaluate(carry), 0.0
    _patience(int(carry.in_a_row), plan, i, directory, Outcome(carry, curve))
    batch = program.place(task.batch(seed, i)) if i < plan.steps else None
    clock = time.perf_counter()
    while i < plan.steps:
        carry, report = program.advance(carry, batch, program.flag(stop()), settings)
        i += 1
        batch = program.place(task.batch(seed, i)) if i < plan.steps else None  # drawn while the step runs
        curve.losses[i - 1] = report.loss
        on_step(i, carry, report)
        halt = int(report.in_a_row) >= plan.patience
        pause = halt or bool(report.stop) or i in points or i % plan.save == 0
        if not pause:
            continue
        curve.spent[()] += time.perf_counter() - clock
        if i in points:
            curve.errors[points[i]], curve.seconds[points[i]] = program.evaluate(carry), curve.spent
        if halt or report.stop or i % plan.save == 0 or i == plan.steps:
            checkpoint.save(directory, i, (carry, curve), identity=identity, keep=plan.keep)
            on_save(i)
        _patience(int(report.in_a_row), plan, i, directory, Outcome(carry, curve))
        if report.stop and i < plan.steps:
            raise Interrupted(f"stopped after step {i}, saved in {directory}; run the same command to go on")
        clock = time.perf_counter()
    return Outcome(carry, curve)


def _begin(
    blank: tuple[Carry, Curve], directory: Path, identity: Mapping[str, str], tell: Callable
) -> tuple[Carry, Curve]:
    """From the newest checkpoint, or `blank`. On its own, so that nothing holds the restored carry beside the one that moves on."""
    found = checkpoint.restore(directory, blank, identity=identity)
    if not found:
        return blank
    for damage in found.passed_over:
        tell(f"{directory}: {damage}; going on from step {found.step}")
    carry, curve = found.tree
    return carry, Curve(*(np.array(x) for x in curve))


def _blank(plan: Plan) -> Curve:
    n = len(plan.points)
    return Curve(np.full(plan.steps, np.nan, np.float32), np.full(n, np.nan), np.full(n, np.nan), np.zeros(()))


def _patience(in_a_row: int, plan: Plan, i: int, directory: Path, so_far: Outcome) -> None:
    if in_a_row >= plan.patience:
        raise checks.SolveError(
            f"non-finite loss, gradient or update in {in_a_row} steps in a row, up to step {i}; the last good parameters are in "
            f"{directory}; lower the learning rate",
            so_far,
        )


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends what runs inside as Ctrl-C does, so that nothing half-written stays behind."""

    def stop(number, frame):
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], bool]]:
    """Gives `stop()`, true after the first SIGTERM or SIGINT; the second ends the process at once with code 75."""
    seen: list[int] = []

    def handle(number, frame):
        if seen:
            os._exit(75)  # the last checkpoint is whole; nothing may run after this
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, old in before.items():
            signal.signal(number, old)
