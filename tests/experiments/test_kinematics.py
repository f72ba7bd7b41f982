"""The command `learnlag kinematics`: what it writes, and one line for every kind of bad input."""

import argparse
import json
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from learnlag_jax import InputError
from learnlag_jax.experiments import cli
from learnlag_jax.experiments.commands import kinematics
from learnlag_jax.experiments.language import models, readings, scoring


@pytest.fixture(autouse=True)
def _defaults():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        yield


def _run(*words) -> int:
    parser = argparse.ArgumentParser()
    kinematics.add_arguments(parser)
    return kinematics.kinematics(parser.parse_args([str(word) for word in words]))


def test_log_probs_of_another_program_give_the_curve_that_was_put_in(tmp_path):
    t = np.arange(1.0, 33)
    rng = np.random.default_rng(0)
    v = np.abs(1 + 2 / t + 0.05 * rng.standard_normal((50, 32)))
    np.savez(tmp_path / "mine.npz", log_probs=-v)
    assert _run("--model", tmp_path / "mine.npz", "--out", tmp_path / "out") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert abs(summary["decay"]["v_inf"] - 1) < 0.1
    assert summary["test"]["p_value"] < 1e-6
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "kinematics.png",
        "kinematics.svg",
        "velocity.csv",
        "velocity-binned.csv",
        "fit.csv",
        "acceleration.csv",
        "summary.json",
    }
    lines = [json.dumps({"log_probs": (-row).tolist(), "document": str(i)}) for i, row in enumerate(v)]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    assert _run("--model", tmp_path / "mine.jsonl", "--out", tmp_path / "again") == 0
    assert json.loads((tmp_path / "again" / "summary.json").read_text())["mean"] == summary["mean"]


def test_a_users_own_text_is_read_by_a_model_trained_on_it(tmp_path):
    (tmp_path / "a.txt").write_text("to be or not to be, that is the question. " * 60)
    words = "--text", tmp_path / "a.txt", "--out", tmp_path / "out", "--steps", 3, "--windows", 8, "--length", 16
    assert _run(*words) == 0
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cache").iterdir()}
    assert kept
    assert _run(*words) == 0  # the same run is read back
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cache").iterdir()}


def test_a_killed_run_goes_on_where_it_stopped_and_ends_the_same(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("to be or not to be, that is the question. " * 60)
    options = "--text", tmp_path / "a.txt", "--steps", 200, "--windows", 8, "--length", 16
    words = [str(word) for word in ("kinematics", *options, "--out", tmp_path / "out")]
    program = f"from learnlag_jax.experiments import cli; cli.run({words!r})"
    child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("out/cache/*.npz")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    (kept,) = tmp_path.glob("out/cache/*.npz")
    with np.load(kept) as file:
        done = int(file["0"])
    assert 0 < done < 10  # of ten pieces of twenty steps
    written, write = [], scoring._whole
    monkeypatch.setattr(scoring, "_whole", lambda place, how: written.append(place.suffix) or write(place, how))
    assert _run(*options, "--out", tmp_path / "out") == 0
    assert written.count(".npz") == 10 - done
    assert _run(*options, "--out", tmp_path / "whole") == 0  # the control: it was never interrupted
    assert written.count(".npz") == 10 - done + 10
    for name in ("velocity.csv", "fit.csv", "acceleration.csv", "summary.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_interrupted_command_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    (tmp_path / "a.txt").write_text("words " * 200)
    monkeypatch.setattr(readings, "read", stop)
    assert _run("--text", tmp_path / "a.txt", "--out", tmp_path / "out") == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_damaged_or_foreign_training_file_counts_as_absent(tmp_path):
    kept = scoring.memory(tmp_path / "run.npz")
    tree = {"done": np.int64(3), "w": np.arange(4.0)}
    assert kept.load(tree) is None
    kept.save(tree)
    assert kept.load(tree)["w"].tolist() == [0, 1, 2, 3]
    assert kept.load({"done": np.int64(0), "w": np.zeros(5)}) is None
    whole = (tmp_path / "run.npz").read_bytes()
    (tmp_path / "run.npz").write_bytes(whole[: len(whole) // 2])
    assert kept.load(tree) is None


def test_progress_counts_and_passes_every_item_on(capsys):
    with kinematics.progress() as track:
        assert list(track(range(5), "scoring", tokens=100)) == list(range(5))
        assert list(track("ab", "other")) == ["a", "b"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "0 bytes"),
        (b"x", "1 bytes"),
        (b"abc\xff" * 20, "byte 0xff at 3"),
        (b"a short text", "--length"),
    ],
)
def test_bad_text_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        _run("--text", tmp_path / "a.txt", "--out", tmp_path / "out", "--steps", 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "rows, message",
    [
        ([[0.5, -1.0], [-1.0, -1.0]], "0.5 at index"),
        ([[np.nan, -1.0], [-1.0, -1.0]], "NaN"),
        ([[-np.inf, -1.0], [-1.0, -1.0]], "-inf at index"),
        ([[-np.inf] * 2] * 2, "-inf everywhere"),
        ([-1.0, -1.0], "shape"),
    ],
)
def test_bad_log_probs_are_refused_by_name(tmp_path, rows, message):
    np.savez(tmp_path / "x.npz", log_probs=np.array(rows))
    with pytest.raises(InputError, match=message):
        _run("--model", tmp_path / "x.npz", "--out", tmp_path / "out")


def test_damaged_files_wrong_models_and_missing_text_are_refused(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 no")
    (tmp_path / "y.jsonl").write_text('{"log_probs": [-1]}\n{"log_probs": [-1, -2]}')
    (tmp_path / "z.jsonl").write_text('{"log": 1}')
    (tmp_path / "null.jsonl").write_text('{"log_probs": [null, -1]}')
    (tmp_path / "empty.jsonl").write_text("")
    np.savez(tmp_path / "w.npz", other=np.zeros(2))
    for name, message in (
        ("x.npz", "damaged"),
        ("y.jsonl", "unequal|rows of"),
        ("z.jsonl", "line 1"),
        ("w.npz", "log_probs"),
        ("null.jsonl", "line 1: got null at index 0"),
        ("empty.jsonl", "no lines"),
    ):
        with pytest.raises(InputError, match=message):
            readings.log_probs(tmp_path / name)
    for words, message in (
        (("--model", "gpt"), "--model: got gpt"),
        (("--model", "trained"), "--text: got nothing"),
        (("--windows", 1, "--text", "a"), "--windows: got 1"),
        (("--text", tmp_path / "no.txt"), "--text: got .*no.txt"),
        (("--model", tmp_path / "no.npz"), "--model: got .*no.npz"),
        (("--model", tmp_path / "w.npz", "--text", "a"), "--text: got a; expected no text beside"),
        (("--model", tmp_path / "w.npz", "--windows", 3), "--windows: got 3; expected no --windows beside .*w.npz"),
        (("--model", tmp_path / "w.npz", "--length", 4), "--length: got 4; expected no --length beside"),
        (("--model", tmp_path / "y.jsonl", "--steps", 4), "--steps: got 4; expected no --steps beside"),
        (("--model", "smollm2", "--text", "a", "--steps", 4), "--steps: got 4; expected no --steps beside smollm2"),
    ):
        with pytest.raises(InputError, match=message):
            _run(*words, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"log_probs": np.full((4, 4), "a")}, "log_probs: got <U1 of shape .*expected real numbers"),
        ({"log_probs": np.full((4, 4), "-1")}, "log_probs: got <U2"),
        ({"log_probs": np.zeros((4, 4), "M8[s]")}, "log_probs: got datetime64"),
        ({"log_probs": -np.ones((4, 4)) + 1j}, "log_probs: got complex128"),
        ({"log_probs": np.zeros((4, 4), bool)}, "log_probs: got bool"),
        ({"log_probs": np.array([[-1.0], [-1.0, -2.0]], object)}, "log_probs: got Python objects; .* equal length"),
        (
            {"log_probs": -np.ones((4, 4)), "documents": np.array(list("abcd"), object)},
            r"documents: got Python objects; .*save them as text, documents.astype\(str\)",
        ),
    ],
)
def test_an_npz_of_what_is_no_real_number_is_refused_by_name(tmp_path, capsys, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    assert cli.run(["kinematics", "--model", str(tmp_path / "x.npz"), "--out", str(tmp_path / "out")]) == 2
    assert re.fullmatch(f"learnlag: x.npz: {message}.*", capsys.readouterr().err.strip())  # one line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"log_probs": [false, -1]}', "line 2: got false at index 0; expected numbers"),
        ('{"log_probs": ["-1", "-2"]}', 'line 2: got "-1" at index 0; expected numbers'),
        ('{"log_probs": [-1, [-2]]}', r"line 2: got \[-2\] at index 1"),
        ('{"log_probs": [-1, -1%s]}' % ("0" * 400), "line 2: got -10+ at index 1"),
        ('{"log_probs": {"-1": 2, "-3": 1}}', 'line 2: got {"log_probs": {.*expected {"log_probs": '),
        ('{"log_probs": "-1"}', "line 2: got {"),
        ('{"log_probs": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 2: got {"),
        ("3", "line 2: got 3; expected"),
    ],
)
def test_a_line_of_what_is_no_list_of_numbers_is_refused_by_name(tmp_path, capsys, line, message):
    (tmp_path / "x.jsonl").write_text('{"log_probs": [-1, -2]}\n' + line + "\n")
    assert cli.run(["kinematics", "--model", str(tmp_path / "x.jsonl"), "--out", str(tmp_path / "out")]) == 2
    assert re.fullmatch(f"learnlag: x.jsonl {message}.*", capsys.readouterr().err.strip())  # one line


def test_blank_lines_are_no_rows_and_a_bare_array_is_no_npz(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"log_probs": [-1, -2]}\n{"log_probs": [-1, -3]}\n\n')
    assert readings.log_probs(tmp_path / "x.jsonl").v.tolist() == [[1, 2], [1, 3]]
    with (tmp_path / "bare.npz").open("wb") as file:
        np.save(file, -np.ones((2, 2)))
    with pytest.raises(InputError, match="bare.npz: got a damaged file"):
        readings.log_probs(tmp_path / "bare.npz")


@pytest.mark.parametrize("level", [0.0, -0.1, -2.2])
def test_constant_log_probs_have_no_limit_and_no_best_form(level):
    for v in (np.full((5, 8), -level), np.full((12, 33), -level)):
        reading = readings.Reading(v, None, "token", np.nan, np.nan, "constant")
        lines = dict(kinematics.motion(reading, 0)[2])
        for name in ("limit v_inf", "exponent b", "best form"):
            assert lines[name] == "not determined by these tokens"


def test_what_was_learned_is_not_what_is_scored():
    one = [("a", "0123456789" * 10)]
    learned, rest = readings._split(one)
    assert (learned[0] + rest[0]).decode() == one[0][1]
    assert len(rest[0]) == 20
    many = [(f"{i}.txt", f"document {i} " * 30) for i in range(40)]
    learned, rest = readings._split(many)
    assert len(learned) + len(rest) == 40
    assert not {*learned} & {*rest}
    assert min(len(learned), len(rest)) > 0


def test_documents_widen_the_error_and_the_table_knows_bytes(tmp_path):
    """Twenty documents of five equal windows each: drawn by window the error would be sqrt 5 too small."""
    rng = np.random.default_rng(0)
    v = np.repeat(2 + 1 / np.arange(1.0, 17) + 0.3 * rng.standard_normal((20, 16)), 5, axis=0)
    names = np.repeat([f"d{i}" for i in range(20)], 5)
    np.savez(tmp_path / "by.npz", log_probs=-np.abs(v), documents=names)
    reading = readings.log_probs(tmp_path / "by.npz")
    apart = reading._replace(documents=None)
    errors = [kinematics.motion(r, 0)[0]["test"]["standard_error"] for r in (reading, apart)]
    assert 1.7 < errors[0] / errors[1] < 2.9
    few = readings.log_probs(tmp_path / "by.npz")._replace(bytes_per_token=4.0)
    summary, figure, lines = kinematics.motion(few, 0)
    per_byte = float(dict(lines)["per byte"].split()[0])
    assert abs(per_byte - np.abs(v).mean() / np.log(2) / 4) < 1e-3
    fit = summary["decay"]
    t, fitted = figure.series["fit"].values()
    assert np.allclose(fitted, fit["v_inf"] + fit["c"] * (t + fit["t0"]) ** -fit["b"])


def test_windows_start_anywhere_and_long_documents_more_often():
    exact = models.windows([b"abcdefgh"], 8, 3, np.random.default_rng(0))
    assert exact.tokens.shape == (3, 8)
    drawn = models.windows([bytes(50), bytes(5000)], 8, 2000, np.random.default_rng(0))
    share = np.mean(drawn.documents == 0)
    assert abs(share - 43 / (43 + 4993)) < 4 * np.sqrt(0.0085 / 2000)
    last = models.windows([bytes(range(10))], 8, 200, np.random.default_rng(0)).tokens[:, 0]
    assert set(last.tolist()) == {0, 1, 2}
    starts = {
        int(scoring.tiles([np.arange(27)], 10, 1, np.random.default_rng(s)).tokens[0, 0]) % 10 for s in range(200)
    }
    assert starts == set(range(8))
