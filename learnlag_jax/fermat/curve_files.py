"""Curves of errors from files that training runs leave behind: CSV with a header, or JSON lines.

Goes to: `time_to_threshold`, one curve a run. Symbols: t and error are columns (CSV) or keys (JSON) by name.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from learnlag_jax import checks


class Curve(NamedTuple):
    """Errors at increasing times.

    Example:
        >>> from learnlag_jax.fermat import Curve
        >>> Curve._fields
        ('t', 'error')
    """

    t: np.ndarray
    error: np.ndarray


def read_curve(path, t: str = "step", error: str = "loss") -> Curve:
    """The error curve of a run from a CSV file or JSON lines.

    Records that lack one of the two, as training records lack an evaluation, are passed over. NaN and infinite errors stay: they
    count as above every threshold.

    Args:
        path: a file; `.jsonl`, `.ndjson` and `.json` hold one object a line, anything else is CSV with a header.
        t: name of the time: samples, steps or seconds.
        error: name of the error.

    Returns:
        `Curve(t, error)`, (n,) float64 each.

    Raises:
        InputError: no such column, no record with both, a word where a number should be, times that do not increase.
        OSError: no such file.

    Example:
        >>> import pathlib, tempfile
        >>> from learnlag_jax.fermat import read_curve, time_to_threshold
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "run.jsonl"
        >>> _ = file.write_text('{"step": 0, "loss": 4.0}\\n{"step": 8, "lr": 0.1}\\n{"step": 9, "loss": 1.5}\\n')
        >>> curve = read_curve(file)
        >>> curve.t.tolist(), float(time_to_threshold(*curve, 2.0).value)
        ([0.0, 9.0], 9.0)

    Reference: MATH.md 3.
    """
    path = Path(path)
    records = _json_records(path) if path.suffix in (".jsonl", ".ndjson", ".json") else _csv_records(path)
    pairs, seen = [], set()
    for line, record in _decoded(path, records):
        seen |= set(record)
        if record.get(t) not in (None, "") and record.get(error) not in (None, ""):
            pairs.append([_number(path, line, name, record[name]) for name in (t, error)])
    for name in (t, error):
        checks.require(
            name in seen, name, f"no such column in {path.name}", f"one of {sorted(map(str, seen))}", "name it"
        )
    checks.require(pairs, str(path.name), "no record", f"records that hold both {t} and {error}", "check the file")
    times, errors = np.array(pairs).T
    checks.increasing(times, t)
    return Curve(times, errors)


def _decoded(path: Path, records: Iterator[tuple[int, dict]]) -> Iterator[tuple[int, dict]]:
    try:
        yield from records
    except (UnicodeDecodeError, csv.Error) as error:
        raise checks.InputError(f"{path.name}: got {error}; expected text in UTF-8; export it again") from None


def _csv_records(path: Path) -> Iterator[tuple[int, dict]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        names = reader.fieldnames or []
        mark = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
        checks.require(mark is None, path.name, f"cells separated by {mark!r}", "commas", "export it with commas")
        for record in reader:
            surplus = record.get(None)
            where = f"{path.name} line {reader.line_num}"
            checks.require(
                surplus is None, where, f"{surplus} beyond the header", f"{len(names)} cells", "quote commas"
            )
            yield reader.line_num, {str(k).strip(): v.strip() if isinstance(v, str) else v for k, v in record.items()}


def _json_records(path: Path) -> Iterator[tuple[int, dict]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _json_object(path, number, line)


def _json_object(path: Path, number: int, line: str) -> dict:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        record = None
    if isinstance(record, dict):
        return record
    got = f"{path.name} line {number}: got {line.strip()[:60]}"
    raise checks.InputError(f"{got}; expected one JSON object a line; export it again")


def _number(path: Path, line: int, name: str, value) -> float:
    try:
        return float("a truth value is no number" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise checks.InputError(
            f"{path.name} line {line}: got {name} = {value!r}; expected a number; remove or correct the record"
        ) from None
