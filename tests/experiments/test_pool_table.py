"""`learnlag design`: what it refuses before any work, and the names it gives to what is wrong."""

import importlib.util
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from learnlag_jax import InputError, fermat
from learnlag_jax.experiments import cli
from learnlag_jax.experiments.commands import design
from learnlag_jax.experiments.pool_table import estimable

TABLE = "a,b,colour\n" + "".join(f"{i},{i * i % 7},{'red' if i % 2 else 'blue'}\n" for i in range(12))


def run(capsys, folder, *options, text=TABLE, **files):
    (folder / "pool.csv").write_text(text, encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.csv").write_text(content, encoding="utf-8")
    words = [str(folder / o) if o.endswith((".csv", ".png", ".txt")) else o for o in options]
    code = cli.run(["design", str(folder / "pool.csv"), *words])
    return code, "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("-n", "5", "--out", "pool.csv"), "--out"),
        (("-n", "5", "--out", "c.csv", "--plot", "c.txt"), "--plot"),
        (("-n", "5", "--out", "none/c.csv"), "exists"),
        (("-n", "2", "--out", "c.csv"), "-n: got 2 with 0 fixed rows for 4 terms"),
        (("-n", "5", "--out", "c.csv", "--columns", "a,a"), "a twice"),
        (("-n", "5", "--out", "c.csv", "--columns", "z"), "--columns"),
    ],
)
def test_what_cannot_be_written_or_chosen_is_refused_and_nothing_is_lost(capsys, tmp_path, options, match):
    code, text = run(capsys, tmp_path, *options)
    assert code == 2
    assert match in text
    assert (tmp_path / "pool.csv").read_text() == TABLE
    assert not (tmp_path / "c.csv").exists()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (TABLE.replace(",", ";"), "separated by ';'"),
        (
            TABLE.replace("\n3,", "\n\n\n3,").replace(",0,red\n8", ",0\n8"),
            "line 11: got 2 cells; expected 3, as in the header; fill it up",
        ),
        (
            TABLE.replace("\n3,", "\n3,5,"),
            "line 5: got 4 cells; expected 3, as in the header; quote cells that hold a comma",
        ),
        (TABLE.replace("\n3,", "\nx,"), "column a: got 'x' in data row 4"),
        ("1,2\n3,4\n5,7\n", "column names"),
        ("a,id\n" + "".join(f"{i},w{i}\n" for i in range(9)), "column id: got a different word in every row"),
    ],
)
def test_the_column_at_fault_is_named(capsys, tmp_path, text, match):
    code, said = run(capsys, tmp_path, "-n", "4", "--out", "c.csv", text=text)
    assert code == 2
    assert match in said


def test_fixed_rows_may_stand_in_another_order_and_their_new_categories_are_named(capsys, tmp_path):
    fixed = "colour,b,a\nred,1,3\nblue,2,5\n"
    code, said = run(capsys, tmp_path, "-n", "3", "--out", "c.csv", "--fixed", "f.csv", f=fixed)
    assert code == 0
    straight = run(
        capsys, tmp_path, "-n", "3", "--out", "c.csv", "--fixed", "f.csv", f="a,b,colour\n3,1,red\n5,2,blue\n"
    )
    assert said == straight[1]
    code, said = run(
        capsys, tmp_path, "-n", "3", "--out", "c.csv", "--fixed", "f.csv", f=fixed.replace("blue", "green")
    )
    assert code == 2
    assert "--fixed: got 'green'" in said


@pytest.mark.parametrize("columns", ["a,colour", "colour,a"])
def test_without_an_intercept_the_categories_span_it_wherever_they_stand(capsys, tmp_path, columns):
    code, said = run(capsys, tmp_path, "-n", "4", "--out", "c.csv", "--no-intercept", "--columns", columns)
    assert code == 0
    assert "3 terms" in said
    assert "colour=blue" in said
    assert "colour=red" in said


@pytest.mark.parametrize("unit", ["e-200", "e200", "e-310", "e306"])
def test_the_unit_of_a_column_changes_nothing(capsys, tmp_path, unit):
    line = lambda i, end: f"{i}{end},{i * i % 7},{'red' if i % 2 else 'blue'}\n"
    plain, other = ("a,b,colour\n" + "".join(line(i, end) for i in range(12)) for end in ("", unit))
    said = [run(capsys, tmp_path, "-n", "5", "--out", "c.csv", text=text) for text in (plain, other)]
    assert said[0] == said[1]
    assert said[0][0] == 0
    constant = "a,b\n" + "".join(f"7{unit},{i}\n" for i in range(9))  # the control
    assert "column a: got a constant" in run(capsys, tmp_path, "-n", "4", "--out", "c.csv", text=constant)[1]
    raw = np.array([[float(f"{i}{unit}"), i * i] for i in range(9)])
    estimable(raw, ["a", "b"])
    with pytest.raises(InputError, match="term b: got a combination"):
        estimable(raw[:, :1] * np.array([[1.0, 0.5]]), ["a", "b"])


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o027, 0o640), (0o000, 0o666)])
def test_the_chosen_rows_may_be_read_by_whom_the_umask_lets(capsys, tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        assert run(capsys, tmp_path, "-n", "5", "--out", "c.csv")[0] == 0
        assert stat.S_IMODE((tmp_path / "c.csv").stat().st_mode) == mode
        assert os.umask(mask) == mask
    finally:
        os.umask(before)


def test_a_pipe_or_device_is_written_into_and_never_replaced(capsys, tmp_path):
    os.mkfifo(tmp_path / "c.csv")
    reader = os.open(tmp_path / "c.csv", os.O_RDONLY | os.O_NONBLOCK)
    assert run(capsys, tmp_path, "-n", "5", "--out", "c.csv")[0] == 0
    assert os.read(reader, 4096).startswith(b"pool_row,observations,a,b,colour\n")
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "c.csv").stat().st_mode)
    design.write(Path("/dev/null"), b"rows")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert run(capsys, tmp_path, "-n", "5", "--out", "/dev/null", "--columns", "z")[1].startswith("learnlag: --columns")


def test_our_own_output_holds_the_rows_and_what_is_printed(capfd):
    """Its file descriptor leads to a regular file here, as after `> all.txt`."""
    design.write(Path("/dev/stdout"), b"rows\n")
    print("said")
    assert capfd.readouterr().out == "rows\nsaid\n"


def test_a_link_stays_and_its_file_is_replaced_beside_itself(capsys, tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    (tmp_path / "c.csv").symlink_to(tmp_path / "far" / "real.csv")
    replace, moved = os.replace, []
    monkeypatch.setattr(os, "replace", lambda a, b: moved.append((Path(a), Path(b))) or replace(a, b))
    assert run(capsys, tmp_path, "-n", "5", "--out", "c.csv")[0] == 0
    ((draft, target),) = moved
    assert draft.parent == target.parent == (tmp_path / "far").resolve()  # across file systems nothing else will do
    assert (tmp_path / "c.csv").is_symlink()
    assert (tmp_path / "far" / "real.csv").read_text().startswith("pool_row")


def test_a_private_file_stays_private(capsys, tmp_path):
    (tmp_path / "c.csv").write_text("secret")
    (tmp_path / "c.csv").chmod(0o600)
    assert run(capsys, tmp_path, "-n", "5", "--out", "c.csv")[0] == 0
    assert stat.S_IMODE((tmp_path / "c.csv").stat().st_mode) == 0o600
    assert (tmp_path / "c.csv").read_text().startswith("pool_row")


def test_interrupted_while_it_draws_it_has_written_nothing(capsys, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fermat, "optimal_weights", stop)
    code, said = run(capsys, tmp_path, "-n", "5", "--out", "c.csv", "--plot", "p.png")
    assert (code, said) == (130, "learnlag: interrupted; nothing was written\n")
    assert [path.name for path in tmp_path.iterdir()] == ["pool.csv"]


def test_without_matplotlib_a_plot_is_refused_before_any_work(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(fermat, "exact_design", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, said = run(capsys, tmp_path, "-n", "5", "--out", "c.csv", "--plot", "p.png")
    assert (code, said.split(";")[0]) == (2, "learnlag: matplotlib is not installed")
    assert not (tmp_path / "c.csv").exists()


def test_a_failed_write_leaves_no_half_of_it(capsys, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    code, said = run(capsys, tmp_path, "-n", "5", "--out", "c.csv")
    assert code == 4
    assert "No space left" in said
    assert [path.name for path in tmp_path.iterdir()] == ["pool.csv"]


def test_a_printed_bound_is_never_above_the_certified_one():
    from learnlag_jax.experiments.commands.design import down, percent_down

    for x in np.random.default_rng(0).lognormal(0, 8, 500):
        assert float(down(x)) <= x
        assert float(down(x)) >= x * (1 - 2e-5)
    assert percent_down(0.99999) == "99.99%"
