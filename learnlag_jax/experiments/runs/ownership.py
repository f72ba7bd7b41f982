"""Whose directory is this? A comparison or a live audit writes only where nothing of others is, or where one wrote before.

A directory is ours if it bears our mark, written under its lock before anything else, or if it is what an earlier version left:
a record of ours, or trials named by a hash. A folder that happens to be called `trials` says nothing. Goes to: `compare`, `audit`.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from learnlag_jax import checks
from learnlag_jax.experiments.runs import rundir

MARK, TEXT = ".learnlag", "a directory of learnlag compare or learnlag audit\n"
OURS = ("", "pid ")  # how a lock of ours begins
AUDIT = {"audit.html", "audit.json", "audit.png"}  # all that the audit of a recorded run writes, in whatever directory


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """A directory of ours under its lock, free of links and marked.

    Raises:
        RunDirError: it holds files of others, another process has it, or it cannot be written to. CheckpointError: a link.
    """
    refuse_foreign(directory)
    with rundir.lock(directory):
        rundir.refuse_links(directory)
        mark(directory)
        yield


def refuse_foreign(directory: Path) -> None:
    """Refuse a directory that holds anything and is not ours, before a single byte is written to it.

    Raises:
        RunDirError: names a file that it holds.
    """
    held = sorted(x.name for x in directory.iterdir() if not x.name.startswith(".")) if directory.is_dir() else []
    empty = not held or held == ["lock"] and _starts(directory / "lock", OURS)
    if not empty and not _marked(directory) and not _earlier(directory, set(held)):
        raise checks.RunDirError(
            f"--out: got {directory}, which holds {held[0]}; expected an empty directory or one of an earlier comparison or audit; choose another"
        )


def mark(directory: Path) -> None:
    """Say whose it is; call it under the lock, so that a run that is killed at once is known again.

    Raises:
        RunDirError: it cannot be written to.
    """
    try:
        (directory / MARK).write_text(TEXT, "utf-8")
    except OSError as error:
        raise checks.RunDirError(f"{directory}: cannot write ({error.strerror}); choose a writable directory") from None


def _marked(directory: Path) -> bool:
    return _starts(directory / MARK, (TEXT,))


def _starts(path: Path, ours: tuple[str, ...]) -> bool:
    """A small regular file that is empty where that is ours, or begins as one of ours does."""
    try:
        text = "" if path.is_symlink() else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return any(text.startswith(each) if each else not text for each in ours)


def _earlier(directory: Path, held: set[str]) -> bool:
    """What versions without a mark left: a record with our keys, a trial named by its hash, or under our lock none that got far."""
    compared = _record(directory / "results.json", {"schema", "configuration", "times", "trials"})
    audited = held <= AUDIT and _record(directory / "audit.json", {"schema", "runs"})
    trials = directory / "trials"
    begun = held == {"lock", "trials"} and _starts(directory / "lock", OURS) and trials.is_dir()
    killed = begun and all(_named(path) and path.is_dir() and not any(path.iterdir()) for path in trials.iterdir())
    return compared or audited or killed or trials.is_dir() and any(map(_trial, trials.iterdir()))


def _named(path: Path) -> bool:
    return bool(re.fullmatch("[0-9a-f]{24}", path.name))


def _trial(path: Path) -> bool:
    return _named(path) and any((path / name).exists() for name in ("result.json", "checkpoints"))


def _record(path: Path, keys: set[str]) -> bool:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and keys <= found.keys()
