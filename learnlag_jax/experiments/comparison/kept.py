"""The result of a finished trial, kept on disk: whole or not there, sealed, and never taken from a damaged file."""

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from learnlag_jax import checks
from learnlag_jax.experiments.runs import checkpoint


class Result(NamedTuple):
    """What is kept of a trial; errors and losses are infinite or NaN where the numbers were.

    Attributes:
        workload, optimiser, point: as the tables call them. `seed`.
        status: "finished" or "diverged".
        at, errors, seconds: the steps after which the error was measured, the error, and training seconds so far.
        losses: of every step.
        spent: training seconds without compiling and evaluating.
        skipped: steps with a non-finite number.
        parameters, state_bytes: how many, and the optimiser's memory.
        audit: relative stationarity residual, its parts (RMS), and the residual of the last steps, if watched.
    """

    workload: str
    optimiser: str
    point: str
    seed: int
    status: str
    at: tuple[int, ...]
    errors: tuple[float, ...]
    seconds: tuple[float, ...]
    losses: tuple[float, ...]
    spent: float
    skipped: int
    parameters: int
    state_bytes: int
    audit: dict[str, Any] | None


def first_crossing(result: Result, target: float, clock: Sequence[float]) -> float:
    """The entry of `clock` at the first evaluation at or below the target; infinite if there is none.

    An error of minus infinity is a fault and reaches nothing.
    """
    reached = lambda e: math.isfinite(e) and e <= target
    return next((float(t) for t, e in zip(clock, result.errors, strict=True) if reached(e)), math.inf)


def lost(result: Result) -> bool:
    """A trial that diverged, or whose last error is no number."""
    return result.status == "diverged" or not math.isfinite(result.errors[-1])


def save(path: Path, result: Result) -> None:
    """Write a result, sealed, whole or not at all.

    Raises:
        RunDirError: the disk is full or cannot be written to.
    """
    text = json.dumps(checkpoint.sealed(plain(result._asdict())), allow_nan=False)
    draft = path.with_name(".result")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text + "\n", "utf-8")
        checkpoint.sync(draft)
        os.replace(draft, path)
        checkpoint.sync(path.parent)
    except OSError as error:
        raise checks.RunDirError(
            f"{path}: cannot write ({error.strerror}); free some room and run the same command again"
        ) from None


def load(path: Path, tell: Callable[[str], None] = lambda text: None) -> Result | None:
    """A kept result, or None; a damaged one is named and not used."""
    if not os.path.lexists(path):
        return None
    try:
        if path.is_symlink():
            raise ValueError("a link")
        read = json.loads(path.read_text("utf-8"))
        if read != checkpoint.sealed(read["record"]):
            raise ValueError("the seal is broken")
        return Result(**_number(read["record"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        tell(f"{path}: not used ({type(error).__name__}: {str(error)[:80]}); the trial runs again")
        return None


NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def plain(x: Any) -> Any:
    """JSON has no infinity: non-finite numbers are text."""
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    if isinstance(x, tuple | list):
        return [plain(value) for value in x]
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x


def _number(x):
    if isinstance(x, dict):
        return {key: _number(value) for key, value in x.items()}
    if isinstance(x, list):
        return tuple(map(_number, x))
    return NUMBERS.get(x, x) if isinstance(x, str) else x
