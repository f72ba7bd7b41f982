"""A persistent cache of compiled code in a directory that is this user's alone: what stands in it is run, so nobody else may write it."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import jax


def place() -> Path:
    """`$XDG_CACHE_HOME/learnlag_jax/compiled`, or the same under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "learnlag_jax" / "compiled"


@contextlib.contextmanager
def persistent_cache(tell: Callable[[str], None], directory: Path | None = None) -> Iterator[bool]:
    """Compiled code is kept between runs inside; a cache that the user has set for JAX is left in use.

    Gives whether a cache is in use. A directory that another could write to is not used, which is said and no error.
    """
    from jax.experimental.compilation_cache import compilation_cache

    if jax.config.values["jax_compilation_cache_dir"]:
        yield True
        return
    directory = directory or place()
    if complaint := _unsafe(directory):
        tell(f"compiled code is not kept: {directory} {complaint}")
        yield False
        return
    compilation_cache.set_cache_dir(str(directory))
    try:
        yield True
    finally:
        compilation_cache.set_cache_dir(None)
        compilation_cache.reset_cache()


def _unsafe(directory: Path) -> str:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except (OSError, ValueError, RuntimeError) as error:
        return f"cannot be made ({getattr(error, 'strerror', None) or error})"
    if not stat.S_ISDIR(found.st_mode):
        return "is a link"
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        return "is open to others; chmod 700 it"
    return "" if os.access(directory, os.W_OK) else "cannot be written to"
