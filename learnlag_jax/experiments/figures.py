"""Figures as bytes: the same picture as PNG and SVG, byte for byte the same on every run."""

import csv
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from learnlag_jax.experiments.claims import Figure

STYLE: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "learnlag",
    "svg.fonttype": "none",
}


class Picture(NamedTuple):
    """A drawn figure: file bytes by ending, and one CSV text per series."""

    png: bytes
    svg: bytes
    tables: Mapping[str, str]


def draw(figure: Figure, *, width: float = 7.2, height: float = 3.6, dots: int = 160) -> Picture:
    """Draw once, off screen and without global state, and write the plotted numbers as CSV."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(width, height), dpi=dots)
        FigureCanvasAgg(canvas)
        figure.draw(canvas, figure.series)
        png, svg = io.BytesIO(), io.BytesIO()
        canvas.savefig(png, format="png", metadata={"Software": None})
        canvas.savefig(svg, format="svg", metadata={"Date": None})
    return Picture(png.getvalue(), svg.getvalue(), {key: _csv(columns) for key, columns in figure.series.items()})


def _csv(columns: Mapping[str, np.ndarray]) -> str:
    """Columns side by side; text that a spreadsheet would run as a formula is quoted with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_cell(name) for name in columns])
    writer.writerows([_cell(value) for value in row] for row in zip(*map(np.ravel, columns.values()), strict=True))
    return text.getvalue()


def _cell(value) -> str:
    if isinstance(value, str):
        return "'" + value if value[:1] in ("=", "+", "-", "@") else value
    return repr(value.item() if isinstance(value, np.generic) else value)
