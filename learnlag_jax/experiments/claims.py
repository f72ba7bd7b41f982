"""The nouns of the report: a claim with its tolerance and negative control, a figure, a table, a chapter."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Settings(NamedTuple):
    """How a chapter should run: `quick` for a smoke-sized run, `seed` for every random draw.

    `track(items, label)` yields the items and shows a progress bar; wrap any loop longer than a second in it.
    """

    quick: bool = False
    seed: int = 0
    track: Callable[[Iterable, str], Iterable] = lambda items, label: items


class Dataset(NamedTuple):
    """A real input: its arrays or text, where it came from, and the hash of exactly what was read."""

    name: str
    content: Any
    sha256: str
    source: str
    licence: str


class Claim(NamedTuple):
    """One numbered statement, the residual that was derived for it, and a wrong version that must be rejected.

    Attributes:
        equation: which equation, as in "eq. 13-15".
        statement: one sentence in plain words.
        residual: what should vanish, made dimensionless where possible.
        tolerance: the most it may be.
        tolerance_source: where the tolerance comes from: dtype, Monte Carlo standard error, or discretisation order.
        control: what was broken on purpose.
        control_residual: the same residual for the broken version; must exceed the tolerance.
    """

    equation: str
    statement: str
    residual: float
    tolerance: float
    tolerance_source: str
    control: str
    control_residual: float

    @property
    def holds(self) -> bool:
        return bool(abs(self.residual) <= self.tolerance)

    @property
    def control_rejected(self) -> bool:
        return bool(abs(self.control_residual) > self.tolerance) and not math.isnan(self.control_residual)

    @property
    def verified(self) -> bool:
        return self.holds and self.control_rejected


class Figure(NamedTuple):
    """A picture and the numbers in it.

    Attributes:
        name: file name without ending.
        caption: what is seen, with units.
        alt: what a reader who cannot see the picture must know.
        series: one CSV file per entry: column name -> values; `draw` plots these and nothing else.
        draw: `draw(matplotlib_figure, series)`.
    """

    name: str
    caption: str
    alt: str
    series: Mapping[str, Mapping[str, np.ndarray]]
    draw: Callable[[Any, Mapping[str, Mapping[str, np.ndarray]]], None]


class Table(NamedTuple):
    """A small table: header cells and rows of text or numbers."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | float | int, ...], ...]


class Chapter(NamedTuple):
    """One chapter of the report.

    Attributes:
        name: the word after `--only`.
        title: the heading.
        lead: two or three sentences: what is derived here and from which scalar.
        claims: the statements, each with its control.
        figures, tables: what a person looks at.
        honest: pairs (what the paper says, what is true), where the two differ.
        inputs: the real data used.
    """

    name: str
    title: str
    lead: str
    claims: tuple[Claim, ...]
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    honest: tuple[tuple[str, str], ...] = ()
    inputs: tuple[Dataset, ...] = ()

    @property
    def verified(self) -> bool:
        return bool(self.claims) and all(claim.verified for claim in self.claims)
