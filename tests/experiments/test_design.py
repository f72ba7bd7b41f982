"""`learnlag design` on a CSV: the chosen rows, the certificate, and every bad table refused by name."""

import argparse
import csv

import jax
import numpy as np
import pytest

from learnlag_jax import InputError
from learnlag_jax.experiments.commands import design


def _table(path, rows, header=("dose", "age", "ward")):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return str(path)


def _rows(n=30):
    rng = np.random.default_rng(0)
    return [[f"{a:.4f}", f"{b:.4f}", "north" if i % 3 else "south"] for i, (a, b) in enumerate(rng.normal(size=(n, 2)))]


def _run(*words):
    parser = argparse.ArgumentParser()
    design.add_arguments(parser)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return design.design(parser.parse_args([str(word) for word in words]))


def test_chooses_rows_writes_them_and_certifies(tmp_path, capsys):
    pool, out = _table(tmp_path / "pool.csv", _rows()), tmp_path / "chosen.csv"
    assert _run(pool, "-n", 8, "--out", out, "--quadratic", "--restarts", 2) == 0
    text = capsys.readouterr().out
    assert "certificate no 8 rows" in text
    assert "1, dose, age, ward=south, dose^2, age^2" in text
    with open(out) as file:
        table = list(csv.reader(file))
    assert table[0] == ["pool_row", "observations", "dose", "age", "ward"]
    assert sum(int(row[1]) for row in table[1:]) == 8
    assert all(row[2:] == _rows()[int(row[0]) - 1] for row in table[1:])


@pytest.mark.parametrize(
    "rows, words, message",
    [
        ([["1", "2", "a"], ["2", "", "b"]], (), "column age.*data row 2"),
        ([["1", "2", "a"], ["2", "inf", "b"]], (), "column age.*inf in data row 2"),
        ([["1", "2"], ["2", "3", "b"]], (), "line 2"),
        ([[f"{i}", "7", "ab"[i % 2]] for i in range(9)], (), "column age.*constant"),
        ([[f"{i}", f"{2 * i}", "ab"[i % 2]] for i in range(9)], (), "term age.*combination"),
        (_rows(), ("--columns", "doze"), "'doze'"),
        (_rows(), ("--columns", "dose", "-n", "1"), "at least p = 2"),
        (_rows(5), ("-n", "6"), "without replacement"),
        ([], (), "1 lines"),
    ],
)
def test_bad_tables_are_refused_by_name(tmp_path, rows, words, message):
    pool, out = _table(tmp_path / "pool.csv", rows), tmp_path / "chosen.csv"
    with pytest.raises(InputError, match=message):
        _run(pool, "-n", 8, "--out", out, *words)
    assert not out.exists()
