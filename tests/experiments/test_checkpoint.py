"""Checkpoints: what is saved comes back bit for bit or is refused by name; nothing damaged is ever restored silently."""

import json
import os
import resource
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from learnlag_jax import CheckpointError
from learnlag_jax.checks import RunDirError
from learnlag_jax.experiments.runs import checkpoint, rundir

IDENTITY = {"trial": "t", "data": "d"}


def _tree(seed=0):
    draw = np.random.default_rng(seed)
    return {
        "w": jnp.asarray(draw.normal(size=(40, 7)), jnp.float32),
        "half": jnp.asarray(draw.normal(size=9), jnp.bfloat16),
        "key": jax.random.key(seed),
        "keys": jax.random.split(jax.random.key(seed + 1), 3),
        "flags": jnp.asarray(draw.random(5) < 0.5),
        "count": jnp.int32(seed),
        "host": draw.normal(size=(3, 2)),
        "empty": jnp.zeros((0, 2), jnp.float32),
        "../../name": (jnp.ones(2, jnp.float32), None),
    }


def _bytes(tree):
    words = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [np.asarray(words(leaf)).tobytes() for leaf in jax.tree.leaves(tree)]


def _save(directory, *steps, keep=3):
    for step in steps:
        checkpoint.save(directory, step, _tree(step), identity=IDENTITY, keep=keep)


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    _save(tmp_path / "c", 1, 2, 3, 4)
    assert checkpoint.steps(tmp_path / "c") == [2, 3, 4]
    found = checkpoint.restore(tmp_path / "c", _tree(9), identity=IDENTITY)
    assert (found.step, found.passed_over) == (4, ())
    assert _bytes(found.tree) == _bytes(_tree(4))
    assert isinstance(found.tree["host"], np.ndarray)
    assert jax.tree.structure(found.tree) == jax.tree.structure(_tree())
    assert not list(tmp_path.parent.glob("name*"))


def test_nothing_saved_is_none(tmp_path):
    assert checkpoint.restore(tmp_path / "absent", _tree(), identity=IDENTITY) is None


def test_digest_sees_a_transposition():
    x = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    assert checkpoint.digest({"x": square}) != checkpoint.digest({"x": np.ascontiguousarray(square.T)})
    assert checkpoint.digest({"x": x}) != checkpoint.digest({"x": x[::-1].copy()})


def test_digest_sees_every_single_flip_and_no_device_count():
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    base = checkpoint.digest({"x": jnp.asarray(x)})["x"]
    bits = x.view(np.uint32)
    for flip in range(0, x.size * 32, 7):
        changed = bits.copy()
        changed.flat[flip // 32] ^= np.uint32(1 << flip % 32)
        assert checkpoint.digest({"x": changed.view(np.float32)})["x"] != base
    swapped = x[[1, 0, *range(2, 16)]]
    assert checkpoint.digest({"x": swapped})["x"] != base
    split = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    assert checkpoint.digest({"x": jax.device_put(x, split)})["x"] == base
    assert checkpoint.digest({"x": x})["x"] == base


def _damage(directory, rng):
    """One flip, truncation or deletion in one file of the newest step; what was done, as text."""
    files = sorted(path for path in (directory / "00000003").rglob("*") if path.is_file())
    weights = np.array([max(1, path.stat().st_size) for path in files], float)
    kind = rng.choice(["flip", "flip", "cut", "delete"])
    path = files[rng.choice(len(files), p=weights / weights.sum() if kind == "flip" else None)]
    content = bytearray(path.read_bytes())
    if kind == "delete" or not content:
        path.unlink()
    elif kind == "cut":
        path.write_bytes(content[: rng.integers(len(content))])
    else:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
    return f"{kind} {path.relative_to(directory)}"


def _outcomes(tmp_path, trials, seed):
    _save(tmp_path / "whole", 2, 3)
    truth = {step: _bytes(_tree(step)) for step in (2, 3)}
    rng, counts = np.random.default_rng(seed), {"harmless": 0, "older step, named": 0, "refused": 0, "silent": 0}
    for _ in range(trials):
        shutil.copytree(tmp_path / "whole", tmp_path / "hurt")
        _damage(tmp_path / "hurt", rng)
        try:
            found = checkpoint.restore(tmp_path / "hurt", _tree(), identity=IDENTITY)
            right = found is not None and _bytes(found.tree) == truth[found.step]
            named = found is not None and (found.step == 3 or "step 3" in found.passed_over[0])
            kind = "silent" if not (right and named) else "harmless" if found.step == 3 else "older step, named"
        except CheckpointError:
            kind = "refused"
        counts[kind] += 1
        shutil.rmtree(tmp_path / "hurt")
    print(f"{trials} flips, truncations and deletions: {counts}")
    return counts


def test_300_damages_none_silent(tmp_path):
    counts = _outcomes(tmp_path, 300, 0)
    assert sum(counts.values()) == 300
    assert counts["silent"] == 0
    assert counts["older step, named"] > 200  # the damage is real


def _flips_in_the_data(tmp_path, trials):
    """What restoring says after one flip each in the stored numbers, without the checksums of the files."""
    tree = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(64, 64)), jnp.float32)}
    checkpoint.save(tmp_path / "whole", 3, tree, identity=IDENTITY)
    rng = np.random.default_rng(1)
    for _ in range(trials):
        shutil.copytree(tmp_path / "whole", tmp_path / "hurt")
        data = max((tmp_path / "hurt").rglob("d/*"), key=lambda path: path.stat().st_size)
        content = bytearray(data.read_bytes())
        content[rng.integers(len(content) // 4, len(content) // 2)] ^= 1 << rng.integers(8)
        data.write_bytes(content)
        try:
            found = checkpoint.restore(tmp_path / "hurt", tree, identity=IDENTITY)
            yield "silent" if _bytes(found.tree) != _bytes(tree) else "harmless"
        except CheckpointError as error:
            yield str(error)
        shutil.rmtree(tmp_path / "hurt")


def test_the_leaf_digest_sees_what_orbax_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_whole_files", lambda path, wanted: None)
    said = list(_flips_in_the_data(tmp_path, 30))
    assert all("digest mismatch in ['w']" in text for text in said)


def test_orbax_alone_restores_wrong_numbers_silently(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_whole_files", lambda path, wanted: None)
    monkeypatch.setattr(checkpoint, "digest", lambda leaves: dict.fromkeys(leaves, ""))
    said = list(_flips_in_the_data(tmp_path, 10))
    print(f"negative control: {said.count('silent')} of 10 flips restored silently without the digests")
    assert said == ["silent"] * 10


def test_a_damaged_step_that_is_reached_again_is_replaced(tmp_path):
    _save(tmp_path, 1, 2)
    (tmp_path / "00000002" / "record.json").write_text("{}")
    assert checkpoint.restore(tmp_path, _tree(), identity=IDENTITY).step == 1
    _save(tmp_path, 2)  # announced as saved, so it must be there
    found = checkpoint.restore(tmp_path, _tree(), identity=IDENTITY)
    assert (found.step, found.passed_over) == (2, ())


def test_fewer_steps_than_are_kept_are_all_kept(tmp_path):
    _save(tmp_path / "c", 1, 2, keep=5)
    assert checkpoint.steps(tmp_path / "c") == [1, 2]
    checkpoint.remove(tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_all_steps_damaged_is_an_error_naming_each(tmp_path):
    _save(tmp_path, 2, 3)
    for step in (2, 3):
        (tmp_path / f"{step:08d}" / "record.json").write_text("{}")
    with pytest.raises(CheckpointError, match="step 3: damaged record.*step 2: damaged record"):
        checkpoint.restore(tmp_path, _tree(), identity=IDENTITY)


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda t: t | {"w": jnp.zeros((7, 40), jnp.float32)}, r"\['w'\]: float32\[40,7\] there, float32\[7,40\] here"),
        (lambda t: t | {"count": jnp.float32(0)}, r"\['count'\]: int32\[\] there, float32\[\] here"),
        (lambda t: {k: v for k, v in t.items() if k != "half"}, r"\['half'\]: bfloat16\[9\] there, absent here"),
        (lambda t: t | {"more": jnp.zeros(2, jnp.float32)}, r"\['more'\]: absent there, float32\[2\] here"),
    ],
    ids=["shape", "dtype", "leaf gone", "leaf new"],
)
def test_another_tree_is_refused_with_the_differences(tmp_path, change, told):
    _save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=told):
        checkpoint.restore(tmp_path, change(_tree()), identity=IDENTITY)


def test_another_run_is_refused(tmp_path):
    _save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="identity data: d there, other here"):
        checkpoint.restore(tmp_path, _tree(), identity=IDENTITY | {"data": "other"})


def test_a_newer_schema_is_refused_with_both_versions(tmp_path):
    _save(tmp_path, 1)
    path = tmp_path / "00000001" / "record.json"
    record = json.loads(path.read_text())["record"] | {"schema": 2, "writer": "learnlag_jax 9.9"}
    path.write_text(json.dumps(checkpoint.sealed(record)))
    with pytest.raises(CheckpointError, match=r"schema 2, written by learnlag_jax 9.9; expected schema 1"):
        checkpoint.restore(tmp_path, _tree(), identity=IDENTITY)


@pytest.mark.parametrize("where", ["00000001/state/d", "00000001/record.json", "00000001", "stray"])
def test_links_are_refused_unread(tmp_path, where):
    _save(tmp_path / "c", 1)
    place = tmp_path / "c" / where
    if place.exists():
        place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    for touch in (
        lambda: checkpoint.restore(tmp_path / "c", _tree(), identity=IDENTITY),
        lambda: checkpoint.save(tmp_path / "c", 2, _tree(), identity=IDENTITY),
    ):
        with pytest.raises(CheckpointError, match="got a link"):
            touch()


def test_a_pipe_in_the_directory_does_not_hang(tmp_path):
    _save(tmp_path, 1)
    os.mkfifo(tmp_path / "00000001" / "pipe")
    with pytest.raises(CheckpointError, match="special file"):
        checkpoint.restore(tmp_path, _tree(), identity=IDENTITY)


def test_a_lost_peer_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    def fail(*arguments):
        raise jax.errors.JaxRuntimeError("Gloo AllGather failed: Connection reset by peer")

    monkeypatch.setattr(checkpoint, "_write_state", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="reset by peer"):
        checkpoint.save(tmp_path, 1, {"x": jnp.ones(2)}, identity={})


def test_a_full_disk_is_an_error_at_once_and_the_step_before_is_intact(tmp_path):
    _save(tmp_path, 1)
    big = {"w": jnp.asarray(np.random.default_rng(0).normal(size=300_000), jnp.float32)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(RunDirError, match="free some and run the same command again"):
            checkpoint.save(tmp_path, 2, big, identity=IDENTITY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    rundir.tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]
    assert checkpoint.restore(tmp_path, _tree(), identity=IDENTITY).step == 1
    checkpoint.save(tmp_path, 2, _tree(2), identity=IDENTITY)
    assert checkpoint.restore(tmp_path, _tree(), identity=IDENTITY).step == 2


@pytest.mark.parametrize("where", ["/proc/learnlag", "occupied", "occupied/below", "nul\0byte", "x" * 300])
def test_an_unusable_directory_is_refused_before_anything_runs(tmp_path, where):
    (tmp_path / "occupied").write_text("mine")
    with pytest.raises(RunDirError, match="choose a writable directory"), rundir.lock(tmp_path / where):
        pytest.fail("held")
    assert (tmp_path / "occupied").read_text() == "mine"


def test_one_of_many_wins_the_lock_twenty_times(tmp_path):
    for round in range(20):
        start, over = threading.Barrier(4), threading.Barrier(4)
        wins, refusals = [], []

        def contend(start=start, over=over, wins=wins, refusals=refusals):
            start.wait()
            try:
                with rundir.lock(tmp_path):
                    wins.append(1)
                    over.wait()
            except RunDirError as error:
                refusals.append(str(error))
                over.wait()

        threads = [threading.Thread(target=contend) for _ in range(4)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert (len(wins), len(refusals)) == (1, 3), round
    assert f"pid {os.getpid()} on" in refusals[0] or "another process" in refusals[0]


def test_a_dead_process_s_lock_is_taken_over_and_a_link_is_not_followed(tmp_path):
    (tmp_path / "lock").write_text("pid 999999999 on nowhere\n")
    with rundir.lock(tmp_path):
        assert f"pid {os.getpid()} " in (tmp_path / "lock").read_text()
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(RunDirError), rundir.lock(tmp_path):
        pytest.fail("held")
    assert not (tmp_path / "victim").exists()


def test_leftovers_of_a_killed_save_are_swept_and_nothing_else(tmp_path):
    _save(tmp_path, 1)
    for name in (".new-00000002", ".old-00000000", "notes"):
        (tmp_path / name).mkdir()
    rundir.tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"00000001", "notes"}
