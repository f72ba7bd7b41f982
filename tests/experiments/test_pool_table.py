"""`learnlag design`: what it refuses before any work, and the names it gives to what is wrong."""

import numpy as np
import pytest

from learnlag_jax.experiments import cli

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


def test_a_printed_bound_is_never_above_the_certified_one():
    from learnlag_jax.experiments.commands.design import down, percent_down

    for x in np.random.default_rng(0).lognormal(0, 8, 500):
        assert float(down(x)) <= x
        assert float(down(x)) >= x * (1 - 2e-5)
    assert percent_down(0.99999) == "99.99%"
