"""A table of candidates as a linear model: CSV in, named terms and their columns out, or a message that says what to mend.

Comes from: a user's files. Goes to: `learnlag design`.
"""

import argparse
import csv
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from learnlag_jax import checks

MISSING = ("", "na", "nan", "null", "none", "?")


class Table(NamedTuple):
    """A CSV file: its header, its rows as text, and its name."""

    header: list[str]
    rows: list[list[str]]
    name: str

    def column(self, name: str) -> list[str]:
        at = self.header.index(name)
        return [row[at] for row in self.rows]


class Pool(NamedTuple):
    """A table read from CSV: the header, the rows as text, and the model matrix with the names of its columns."""

    header: list[str]
    rows: list[list[str]]
    F: np.ndarray
    terms: list[str]


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV; every row must have as many cells as the header."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            reader = csv.reader(file)
            numbered = [(reader.line_num, row) for row in reader if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise checks.InputError(f"{path}: got {error}; expected a CSV file in UTF-8; export it again") from None
    lines, table = [line for line, _ in numbered], [row for _, row in numbered]
    checks.require(len(table) > 1, str(path), f"{len(table)} lines", "a header and at least one row", "check the file")
    separator = next((mark for mark in ";\t|" if len(table[0]) == 1 and mark in table[0][0]), None)
    checks.require(
        separator is None,
        str(path),
        f"cells separated by {separator!r}",
        "commas",
        "export it with commas, and points in numbers",
    )
    names = [name.strip() for name in table[0]]
    headless = all(numbers([name]) is not None for name in names)
    checks.require(
        not headless, str(path), f"numbers in the first line, {names[0]}", "column names", "add a header line"
    )
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    checks.require(not twice, str(path), f"column {twice[:1]} twice", "distinct column names", "rename one")
    for line, row in zip(lines[1:], table[1:], strict=True):
        few = len(row) < len(names)
        checks.require(
            len(row) == len(names),
            f"{path} line {line}",
            f"{len(row)} cells",
            f"{len(names)}, as in the header",
            "fill it up, or drop it" if few else "quote cells that hold a comma",
        )
    return names, [[cell.strip() for cell in row] for row in table[1:]]


def chosen_columns(pool: Table, known: Table | None, columns: str | None) -> list[str]:
    """The columns of the model, all of them by default, each in both tables."""
    names = pool.header if columns is None else [name.strip() for name in columns.split(",")]
    for i, name in enumerate(names):
        there = f"columns of the pool: {', '.join(pool.header)}"
        checks.require(name in pool.header, "--columns", repr(name), there, "check the spelling")
        checks.require(name not in names[:i], "--columns", f"{name} twice", "every column once", "drop one")
        has = known is None or name in known.header
        checks.require(
            has, f"--fixed {known.name if known else ''}", f"no column {name}", "the columns of the model", "add it"
        )
    return names


def categories(name: str, cells: list[str], known: list[str]) -> list[str]:
    """The words of a column in the pool, sorted; refused where they cannot be categories."""
    numeric = [numbers([cell]) is not None for cell in cells]
    odd = numeric.index(False)
    checks.require(
        2 * sum(numeric) < len(cells),
        f"column {name}",
        f"{cells[odd]!r} in data row {odd + 1}, where most cells are numbers",
        "numbers in every row, written like 1000.5, or words in every row",
        "correct the cell, or leave the column out with --columns",
    )
    levels, leave = sorted(set(cells)), "leave it out with --columns"
    checks.require(
        len(levels) <= 50,
        f"column {name}",
        f"{len(levels)} different words",
        "numbers, or at most 50 categories",
        leave,
    )
    distinct = len(levels) < len(cells) or len(cells) < 3
    checks.require(distinct, f"column {name}", "a different word in every row", "categories that repeat", leave)
    unseen = next((cell for cell in known if cell not in levels), None)
    checks.require(
        unseen is None,
        f"column {name} of --fixed",
        repr(unseen),
        f"a category of the pool: {', '.join(levels)}",
        "correct it",
    )
    return levels


def model_matrix(pool: Table, fixed: Table | None, options: argparse.Namespace) -> Pool:
    """Terms of the linear model: intercept, numeric columns, indicators of categories, squares and products."""
    header, rows = pool.header, pool.rows
    known = fixed.rows if fixed else []
    terms, blocks, numeric, whole = [], [], [], options.no_intercept
    for name in chosen_columns(pool, fixed, options.columns):
        cells = [*pool.column(name), *(fixed.column(name) if fixed else [])]
        bad = next((i for i, cell in enumerate(cells) if cell.lower() in MISSING), None)
        where = None if bad is None else f"an empty or missing cell in data row {bad + 1}"
        checks.require(
            bad is None,
            f"column {name}",
            where,
            "a value in every row",
            "drop the row, impute it, or leave the column out with --columns",
        )
        values = numbers(cells)
        if values is None:
            levels = categories(name, cells[: len(rows)], cells[len(rows) :])
            # without an intercept the first category column spans it, wherever it stands
            kept, whole = (levels, False) if whole else (levels[1:], whole)
            checks.require(
                kept, f"column {name}", "one category", "at least two", "leave the constant column out with --columns"
            )
            terms += [f"{name}={level}" for level in kept]
            blocks += [np.array([cell == level for cell in cells], float) for level in kept]
            continue
        wrong = np.flatnonzero(~np.isfinite(values))
        checks.require(
            not len(wrong),
            f"column {name}",
            f"{cells[wrong[0]] if len(wrong) else ''} in data row {wrong[0] + 1 if len(wrong) else 0}",
            "finite numbers",
            "remove or impute it",
        )
        shares = near_one(values)
        spread = shares[: len(rows)].std()
        constant = spread <= 1e-12 * np.abs(shares).max()
        checks.require(
            not constant or options.no_intercept,
            f"column {name}",
            "a constant",
            "a column that varies",
            "the intercept already holds it: leave it out with --columns",
        )
        scaled = values if options.raw or constant else (shares - shares[: len(rows)].mean()) / spread
        numeric.append((name, scaled))
        terms.append(name)
        blocks.append(scaled)
    if options.quadratic:
        curved = [(name, x) for name, x in numeric if len(set(x[: len(rows)].tolist())) > 2]
        terms += [f"{name}^2" for name, _ in curved]
        blocks += [x**2 for _, x in curved]
    if options.interactions:
        for (a, x), (b, y) in itertools.combinations(numeric, 2):
            terms.append(f"{a}*{b}")
            blocks.append(x * y)
    if not options.no_intercept:
        terms, blocks = ["1", *terms], [np.ones(len(rows) + len(known)), *blocks]
    return Pool(header, rows, np.column_stack(blocks), terms)


def near_one(x: np.ndarray) -> np.ndarray:
    """Each column times a power of two, exactly, so that its largest entry is near 1: squares of 1e200 are infinite, of 1e-200 zero."""
    return np.ldexp(x, -np.frexp(np.abs(x).max(0))[1])


def numbers(cells: list[str]) -> np.ndarray | None:
    """The cells as numbers, or None if any is a word."""
    try:
        return np.array([float(cell) for cell in cells])
    except ValueError:
        return None


def estimable(F: np.ndarray, terms: list[str]) -> None:
    """Refuse a pool on which some term is a combination of those before it, by its name."""
    F = near_one(F)
    scale = np.linalg.norm(F, axis=0)
    R = np.linalg.qr(F / np.where(scale > 0, scale, 1), mode="r")
    short = np.flatnonzero(np.abs(np.diag(R)) < 1e-7) if len(F) >= F.shape[1] else np.arange(len(F), F.shape[1])
    name = terms[short[0]] if len(short) else ""
    checks.require(
        not len(short),
        f"term {name}",
        "a combination of the terms before it",
        "terms that the pool can tell apart",
        "leave one out with --columns, or add rows",
    )
