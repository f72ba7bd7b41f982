"""A stranger's directory is refused before a byte is written to it; our own is known again; only our own pictures are removed."""

import json

import pytest

from learnlag_jax.checks import CheckpointError, RunDirError
from learnlag_jax.experiments import cli
from learnlag_jax.experiments.commands import compare
from learnlag_jax.experiments.runs import ownership
from tests.experiments.comparing import CONFIG, run_compare

SHORT = CONFIG.replace("steps = 20", "steps = 5").replace("seeds = [0, 1, 2]", "seeds = [0]").split("[[optimiser]]")[0]
SHORT += '[[optimiser]]\nname = "sgd"\nlearning_rate = 0.1\n'
HASH = "0123456789abcdef01234567"


def _files(directory):
    return {str(x.relative_to(directory)): x.read_bytes() for x in directory.rglob("*") if x.is_file()}


def _write(directory, names):
    for name, text in names.items():
        (directory / name / "x" if name.endswith("/") else directory / name).parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            (directory / name).write_text(text)


@pytest.mark.parametrize("command", ["compare", "audit"])
def test_a_folder_called_trials_gives_nobodys_files_away(tmp_path, installed, capsys, command):
    (tmp_path / "out" / "trials").mkdir(parents=True)
    _write(tmp_path / "out", {"figures/thesis.png": "mine", "figures/curves-0.png": "mine", "results.json": "mine"})
    before = _files(tmp_path / "out")
    (tmp_path / "c.toml").write_text(SHORT.replace("LABEL", "plain"))
    assert cli.run([command, str(tmp_path / "c.toml"), "--out", str(tmp_path / "out")]) == 4
    assert "which holds figures; expected an empty directory" in capsys.readouterr().err
    assert _files(tmp_path / "out") == before


def test_of_a_directory_of_ours_only_pictures_of_ours_are_replaced(tmp_path, installed):
    (tmp_path / "c.toml").write_text(SHORT.replace("LABEL", "plain"))
    for command in ("audit", "compare"):  # the second finds a directory that the first marked
        assert cli.run([command, str(tmp_path / "c.toml"), "--out", str(tmp_path / "out")]) == 0
    theirs = {"thesis.png", "curves.png", "profile.txt", "curves-0-a.csv"}
    stale = {"curves-9.png", "motion-9.svg", "curves-9-0.csv"}
    drawn = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert all(map(compare.DRAWN.fullmatch, drawn))
    _write(tmp_path / "out" / "figures", dict.fromkeys(theirs | stale, "mine"))
    run_compare(tmp_path, SHORT)
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == drawn | theirs


RECORD = json.dumps(dict.fromkeys(("schema", "configuration", "times", "trials")))
AUDITED = json.dumps(dict.fromkeys(("schema", "environment", "runs")))


@pytest.mark.parametrize(
    "held, ours",
    [
        ({}, True),
        ({".DS_Store": ""}, True),
        ({"lock": ""}, True),
        ({"lock": "pid 12 on here\n"}, True),
        ({"lock": "my key"}, False),
        ({ownership.MARK: ownership.TEXT, "notes.txt": ""}, True),
        ({ownership.MARK: "mine", "notes.txt": ""}, False),
        ({"results.json": RECORD, "notes.txt": ""}, True),
        ({"results.json": "[" * 100_000}, False),
        ({"results.json": '{"schema": 1, "chapters": []}'}, False),  # of learnlag report
        ({f"trials/{HASH}/result.json": "", "lock": ""}, True),
        ({f"trials/{HASH}/checkpoints/00000006": "", "lock": ""}, True),
        ({f"trials/{HASH}/notes.txt": ""}, False),
        ({"lock": "", f"trials/{HASH}/notes.txt": ""}, False),
        ({"lock": "", f"trials/{HASH}/": ""}, True),  # killed before its first checkpoint
        ({"lock": "", f"trials/{HASH}/": "", "notes.txt": ""}, False),
        ({"lock": "my key", f"trials/{HASH}/": ""}, False),
        ({f"trials/{HASH}/": ""}, False),
        ({"trials/first/result.json": ""}, False),
        ({"trials": "a list"}, False),
        ({"audit.json": AUDITED, "audit.html": ""}, True),
        ({"audit.json": AUDITED, "results.json": "mine"}, False),  # a record was audited beside them
    ],
)
def test_what_is_ours_is_known_by_what_it_holds(tmp_path, held, ours):
    _write(tmp_path, held)
    if ours:
        return ownership.refuse_foreign(tmp_path)
    with pytest.raises(RunDirError, match="expected an empty directory or one of an earlier comparison or audit"):
        ownership.refuse_foreign(tmp_path)


def test_an_interrupted_first_run_is_known_again_and_a_link_is_no_mark(tmp_path):
    with ownership.claimed(tmp_path / "out"):
        _write(tmp_path / "out", {"trials/half": ""})
    with ownership.claimed(tmp_path / "out"):
        pass
    _write(tmp_path, {"mine": ownership.TEXT, "linked/notes.txt": ""})
    (tmp_path / "linked" / ownership.MARK).symlink_to(tmp_path / "mine")
    with pytest.raises(RunDirError, match="which holds notes.txt"), ownership.claimed(tmp_path / "linked"):
        pass
    (tmp_path / "linked" / "notes.txt").unlink()
    with pytest.raises(CheckpointError, match="got a link"), ownership.claimed(tmp_path / "linked"):
        pass
