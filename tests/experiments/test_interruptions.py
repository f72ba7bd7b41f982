"""Signals and neighbours leave nothing half-written."""

import os
import signal

import jax
import pytest

from learnlag_jax import fermat
from learnlag_jax.experiments import cli
from learnlag_jax.experiments.language import readings, scoring


@pytest.fixture(autouse=True)
def _defaults():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        yield


@pytest.mark.parametrize("command", ["kinematics", "design"])
def test_sigterm_ends_a_command_as_an_interrupt_does(tmp_path, monkeypatch, capsys, command):
    def stop(*_, **__):
        signal.raise_signal(signal.SIGTERM)

    def killed(*_):
        raise AssertionError("as it would have been")

    table = "a,b\n" + "".join(f"{i},{i * i}\n" for i in range(9))
    (tmp_path / "a.txt").write_text(table if command == "design" else "words " * 200)
    words = {"kinematics": ("--text", "a.txt", "--out", "out"), "design": ("a.txt", "-n", "5", "--out", "out")}[command]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(readings, "read", stop)
    monkeypatch.setattr(fermat, "exact_design", stop)
    before = signal.signal(signal.SIGTERM, killed)
    try:
        assert cli.run([command, *words]) == 130
        assert signal.getsignal(signal.SIGTERM) is killed
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err.startswith(("learnlag: interrupted; nothing", "\nlearnlag: interrupted; the same"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_two_commands_that_write_one_file_at_once_do_not_mix(tmp_path):
    place = tmp_path / "cache" / "batch.npy"

    def write(file):
        file.write(b"first, ")
        scoring._whole(place, lambda other: other.write(b"of another command"))
        assert place.read_bytes() == b"of another command"
        file.write(b"whole")

    scoring._whole(place, write)
    assert place.read_bytes() == b"first, whole"
    (tmp_path / "cache" / "killed.partial").write_bytes(b"half")
    scoring._whole(place, lambda file: file.write(b"again"))
    assert len(list(place.parent.iterdir())) == 2  # it may be being written
    os.utime(tmp_path / "cache" / "killed.partial", (0, 0))
    with pytest.raises(ZeroDivisionError):
        scoring._whole(place, lambda file: 1 // 0)
    assert [path.name for path in place.parent.iterdir()] == ["batch.npy"]
    assert place.read_bytes() == b"again"
