"""`learnlag design` on a CSV: the chosen rows, the certificate, and every bad table refused by name."""

import argparse
import csv
import itertools
import re

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
        (_rows(), ("--columns", "dose", "-n", "1"), "for 2 terms"),
        (_rows(5), ("-n", "6"), "without replacement"),
        ([], (), "1 lines"),
    ],
)
def test_bad_tables_are_refused_by_name(tmp_path, rows, words, message):
    pool, out = _table(tmp_path / "pool.csv", rows), tmp_path / "chosen.csv"
    with pytest.raises(InputError, match=message):
        _run(pool, "-n", 8, "--out", out, *words)
    assert not out.exists()


def _printed(text, word):
    """The first number after a word of the answer."""
    return float(re.search(rf"{word}\D*?([-+]?\d[\d.]*(?:e[-+]?\d+)?|inf|nan)\b", text)[1])


def _numbers(rows):
    return np.array([[float(row[0]), float(row[1])] for row in rows])


def _least_total_variance(F, n, known):
    """min over weights of tr (n F' diag(w) F + known)^-1 by multiplicative steps: any weights bound it from above."""
    w = np.full(len(F), 1 / len(F))
    for _ in range(3000):
        D = np.linalg.inv(n * F.T @ (w[:, None] * F) + known)
        w = w * np.sqrt(np.sum((F @ D) ** 2, 1))
        w = w / w.sum()
    return np.trace(np.linalg.inv(n * F.T @ (w[:, None] * F) + known))


@pytest.mark.parametrize("raw", [True, False])
def test_every_printed_number_is_what_numpy_finds(tmp_path, capsys, raw, float64):
    """Two new rows beside ten that are known: y = b0 + b1 dose + b2 age + b3 dose^2 + b4 age^2."""
    rows, known, out = _rows(), _rows(40)[30:], tmp_path / "chosen.csv"
    pool, fixed = _table(tmp_path / "pool.csv", rows), _table(tmp_path / "known.csv", known)
    words = ("--columns", "dose,age", "--quadratic", "--fixed", fixed, "--restarts", 2, *["--raw"] * raw)
    assert _run(pool, "-n", 2, "--out", out, *words) == 0
    text = capsys.readouterr().out
    centre, scale = (0, 1) if raw else (_numbers(rows).mean(0), _numbers(rows).std(0))

    def model(rows):
        x = (_numbers(rows) - centre) / scale
        return np.column_stack([np.ones(len(x)), x, x**2])

    F, base = model(rows), model(known).T @ model(known)
    total = lambda i: np.trace(np.linalg.inv(base + F[i].T @ F[i]))
    with open(out) as file:
        chosen = [int(row[0]) - 1 for row in csv.reader(file) if row[0].isdigit()]
    best = min(total(list(pair)) for pair in itertools.combinations(range(30), 2))
    assert total(chosen) == pytest.approx(best, rel=1e-9)
    assert _printed(text, "criterion") == pytest.approx(best, rel=1e-5)  # six digits are printed
    bound = _least_total_variance(F, 2, base)
    assert bound < 0.999 * best
    assert _printed(text, "below") == pytest.approx(bound, rel=1e-4)
    assert best < _printed(text, "random choices") < total([])  # more rows than none can only help
