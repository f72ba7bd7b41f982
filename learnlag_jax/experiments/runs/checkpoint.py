"""Checkpoints that survive: whole or not there, checked file by file and leaf by leaf, several kept, one run a directory.

Orbax turns arrays into files; the commit, the digests, the schema, the lock and the fsync are ours, since orbax alone restores a
flipped bit as a wrong number. Layout: `DIRECTORY/00000040/{state/...,record.json}`, one directory a step, written under another
name and renamed when it is whole. `save` returns only when the step is on disk, so what was announced survives `kill -9`.
Nothing but this module touches orbax. Reference: the fault list, 44-52 and 62.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from learnlag_jax import checks
from learnlag_jax.experiments.runs import rundir
from learnlag_jax.experiments.runs.digest import digest
from learnlag_jax.vocabulary import Array, PyTree

SCHEMA = 1
STEP = re.compile(r"\d{8}")


class Restored(NamedTuple):
    """A step read back and verified; `passed_over` says which newer ones were damaged, and how."""

    step: int
    tree: PyTree
    passed_over: tuple[str, ...]


def save(directory: Path, step: int, tree: PyTree, *, identity: Mapping[str, str], keep: int = 3) -> None:
    """Write one step; it is on disk, whole, when this returns. Older steps beyond `keep` are removed.

    Args:
        directory: made if absent.
        step: names the checkpoint; one of the same step, which a run meets only if `restore` passed over it, is replaced.
        tree: pytree of JAX or NumPy arrays and typed keys.
        identity: what the run is (hash of its configuration, of its data): `restore` refuses another.
        keep: how many of the newest stay.

    Raises:
        RunDirError: the disk is full or cannot be written to; the steps before are intact.
        CheckpointError: a symbolic link stands in the directory.
        JaxRuntimeError: another process was lost while this one was saving.
    """
    target, draft = directory / f"{step:08d}", directory / f".new-{step:08d}"
    first = jax.process_index() == 0
    if first:
        rundir.refuse_links(directory)
    leaves = _named(tree)
    record = {
        "schema": SCHEMA,
        "writer": f"learnlag_jax {importlib.metadata.version('learnlag_jax')}",
        "step": step,
        "identity": dict(identity),
        "leaves": {name: _describe(leaf) for name, leaf in leaves.items()},
        "digest": digest(leaves),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write_state(draft / "state", _slots(leaves))
        if first:
            text = json.dumps(sealed(record | {"files": _checksums(draft)}), indent=1)
            (draft / "record.json").write_text(text, "utf-8")
            sync(*draft.rglob("*"), draft)
            if target.exists():
                _set_aside(target)
            os.rename(draft, target)
            sync(directory)  # a rename is atomic, but not durable until its parent is written
            _prune(directory, keep)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"saved {target.name}")
    except jax.errors.JaxRuntimeError:
        raise  # a collective that has lost its peer: the disk is not to blame
    except Exception as error:  # orbax and TensorStore raise many kinds for a full disk
        reason = " ".join(str(error).split())[:300]
        raise checks.RunDirError(
            f"{target}: got {type(error).__name__}: {reason}; expected a writable disk with room; "
            "free some and run the same command again"
        ) from None


def restore(directory: Path, like: PyTree, *, identity: Mapping[str, str]) -> Restored | None:
    """The newest step that is whole and verified, or None if there is none to read.

    Args:
        directory: as given to `save`.
        like: the tree to restore into: arrays, or `jax.ShapeDtypeStruct`s with shardings (of any device count).
        identity: as given to `save`.

    Returns:
        `Restored`. Damaged newer steps are passed over and named in `passed_over`, never silently.

    Raises:
        CheckpointError: every step is damaged; or one is of another run, tree, shape, dtype or newer schema; or a link.
    """
    rundir.refuse_links(directory)
    damage: list[str] = []
    for step in reversed(steps(directory)):
        try:
            return Restored(step, _restore_step(directory / f"{step:08d}", step, like, identity), tuple(damage))
        except _Damage as error:
            damage.append(f"step {step}: {error}")
    if damage:
        raise checks.CheckpointError(f"{directory}: no step can be restored; " + "; ".join(damage))
    return None


def steps(directory: Path) -> list[int]:
    """The committed steps, oldest first."""
    return sorted(int(path.name) for path in directory.glob("*") if STEP.fullmatch(path.name))


def remove(directory: Path) -> None:
    """Remove all steps of a run that needs them no more."""
    _prune(directory, 0)
    shutil.rmtree(directory, ignore_errors=True)


class _Damage(Exception):
    """One step cannot be trusted; an older one may."""


def _restore_step(path: Path, step: int, like: PyTree, identity: Mapping[str, str]) -> PyTree:
    record = _read_record(path)
    if record["schema"] > SCHEMA:
        raise checks.CheckpointError(
            f"{path}: got schema {record['schema']}, written by {record['writer']}; expected schema {SCHEMA} or older; upgrade learnlag_jax"
        )
    if record["step"] != step:
        raise _Damage(f"holds step {record['step']}")
    _whole_files(path, record["files"])
    leaves = _named(like)
    _same_run(path, record, leaves, identity)
    state = _read_state(path / "state", jax.tree.map(_abstract, _slots(leaves)))
    empty = lambda leaf: np.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, np.ndarray) else jnp.zeros_like(leaf)
    read = [state[f"{i:06d}"] if f"{i:06d}" in state else empty(leaf) for i, leaf in enumerate(leaves.values())]
    for name, value in digest(dict(zip(leaves, read, strict=True))).items():
        if value != record["digest"][name]:
            raise _Damage(f"digest mismatch in {name}")
    whole = [_as_key(got, wanted) for got, wanted in zip(read, jax.tree.leaves(like), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(like), whole)


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the SHA-256 of its canonical text, which `==` checks when it is read back."""
    text = json.dumps(record, sort_keys=True)
    return {"record": record, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _read_record(path: Path) -> dict[str, Any]:
    """What stands beside the state, with its seal unbroken."""
    try:
        found = json.loads((path / "record.json").read_text("utf-8"))
        if found != sealed(found["record"]):
            raise ValueError("the seal is broken")
        return found["record"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Damage(f"damaged record.json ({type(error).__name__})") from None


def _checksums(path: Path) -> dict[str, list[int]]:
    """Size and CRC-32 of every file, by relative name."""
    names = {str(entry.relative_to(path)): entry for entry in path.rglob("*") if entry.is_file()}
    return {name: [entry.stat().st_size, _crc(entry)] for name, entry in sorted(names.items())}


def _crc(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _whole_files(path: Path, wanted: Mapping[str, list[int]]) -> None:
    found = _checksums(path)
    found.pop("record.json", None)
    for name in sorted(wanted.keys() | found.keys()):
        if found.get(name) != wanted.get(name):
            why = "missing" if name not in found else "not of this step" if name not in wanted else "damaged"
            raise _Damage(f"{name} is {why}")


def _same_run(path: Path, record: dict, leaves: Mapping[str, Any], identity: Mapping[str, str]) -> None:
    here = {f"identity {key}": value for key, value in identity.items()}
    here |= {name: _describe(leaf) for name, leaf in leaves.items()}
    there = {f"identity {key}": value for key, value in record["identity"].items()} | record["leaves"]
    apart = [
        f"{key}: {there.get(key, 'absent')} there, {here.get(key, 'absent')} here"
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    ]
    if apart:
        more = f" and {len(apart) - 5} more" if len(apart) > 5 else ""
        raise checks.CheckpointError(
            f"{path}: got a checkpoint of another run ({'; '.join(apart[:5])}{more}); expected this one; choose another directory"
        )


def _write_state(path: Path, slots: dict[str, Any]) -> None:
    import orbax.checkpoint as ocp

    with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=ocp.args.StandardSave(slots), force=True)


def _read_state(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    try:
        with _quiet(), warnings.catch_warnings(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            warnings.simplefilter("ignore")  # orbax advises on shardings that are given here on purpose
            return checkpointer.restore(path.absolute(), args=ocp.args.StandardRestore(wanted))
    except Exception as error:
        raise _Damage(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax logs the traceback of what it also raises; here it becomes one line."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _named(tree: PyTree) -> dict[str, Any]:
    """Leaves by path, typed keys as their words."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): _as_words(leaf) for path, leaf in pairs}


def _slots(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Numbered, so that no name in a user's tree ever becomes a file name; empty leaves have nothing to store."""
    return {f"{i:06d}": leaf for i, leaf in enumerate(leaves.values()) if 0 not in leaf.shape}


def _as_words(leaf):
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return jax.random.key_data(leaf) if isinstance(leaf, Array) else jax.eval_shape(jax.random.key_data, leaf)


def _as_key(words, like):
    if not jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return words
    return jax.random.wrap_key_data(words, impl=jax.random.key_impl(like))


def _abstract(leaf):
    if isinstance(leaf, np.ndarray):
        return np.zeros_like(leaf)
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _describe(leaf) -> str:
    return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def sync(*paths: Path) -> None:
    """Files and directories are on disk, and not only in memory, when this returns."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _prune(directory: Path, keep: int) -> None:
    found = steps(directory)
    for step in found[: max(0, len(found) - keep)]:
        _set_aside(directory / f"{step:08d}")


def _set_aside(path: Path) -> None:
    """Remove a step; a kill meanwhile leaves no half of it under its name."""
    aside = path.with_name(f".old-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)
