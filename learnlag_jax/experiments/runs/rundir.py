"""A run's directory: one run at a time, no links, nothing half-written left behind."""

import contextlib
import fcntl
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from learnlag_jax import checks


def refuse_links(directory: Path) -> None:
    """TensorStore follows symbolic links out of a checkpoint; so none may stand in it.

    Raises:
        CheckpointError: names the link.
    """
    for path in (directory, *directory.rglob("*")) if os.path.lexists(directory) else ():
        try:
            kind = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
            raise checks.CheckpointError(
                f"{path}: got a link or a special file; expected files and directories; remove it"
            )


def tidy(directory: Path) -> None:
    """Remove what an interrupted save or removal left; call it under the lock."""
    for path in directory.glob("*") if directory.is_dir() else ():
        if path.name.startswith((".old-", ".new-")):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """One run a directory: the second is refused by name; the lock of a process that died is taken over.

    Raises:
        RunDirError: another process holds it (names pid and host), or the directory cannot be written to.
    """
    path = directory / "lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise checks.RunDirError(f"{directory}: cannot write ({reason}); choose a writable directory") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("ascii", "replace").strip() or "another process"
            raise checks.RunDirError(
                f"{directory}: in use by {holder}; expected a directory of its own for every run; wait for it or choose another"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode("ascii", "replace"), 0)
        os.fsync(descriptor)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)  # the kernel drops the lock with the last descriptor, also after kill -9
