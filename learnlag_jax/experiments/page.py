"""The report as one page: no script, nothing fetched, readable on a phone and on paper; and the table as Markdown."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

from learnlag_jax.experiments.claims import Chapter, Claim, Dataset, Figure, Table
from learnlag_jax.experiments.figures import Picture

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

STYLE = """
:root { --ink: #1d2430; --soft: #5b6675; --line: #dde3ea; --paper: #ffffff; --wash: #f6f8fa;
  --blue: #2563a8; --green: #1f7a43; --red: #b3372f; --amber: #9a6200; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.55 Charter, "Bitstream Charter", "Iowan Old Style", Georgia, "DejaVu Serif", serif; }
main, header, footer { max-width: 46rem; margin: 0 auto; padding: 0 1.1rem; }
header { padding-top: 2.4rem; }
h1 { font-size: 1.9rem; line-height: 1.15; margin: 0 0 .4rem; }
h2 { font-size: 1.45rem; line-height: 1.2; margin: 3rem 0 .6rem; padding-top: 1.2rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
p { margin: 0 0 .9rem; }
small, .facts, .numbers, figcaption, td, th, nav, .key, .legend { font-family: system-ui, "DejaVu Sans", sans-serif; }
.lead { color: var(--soft); }
.verdict { font: 600 1.05rem/1.4 system-ui, "DejaVu Sans", sans-serif; padding: .7rem 1rem; border-radius: .4rem;
  background: #e9f5ee; color: var(--green); border-left: 5px solid var(--green); }
.verdict.bad { background: #fbecea; color: var(--red); border-color: var(--red); }
nav { font-size: .92rem; display: flex; flex-wrap: wrap; gap: .35rem 1.1rem; margin: 1rem 0; }
a { color: var(--blue); }
.claim { border: 1px solid var(--line); border-radius: .45rem; padding: .75rem .9rem .6rem; margin: .8rem 0; break-inside: avoid; }
.claim p { margin: 0 0 .35rem; }
.claim.bad { border-color: var(--red); background: #fdf4f3; }
.tag { font: 600 .78rem/1 system-ui, "DejaVu Sans", sans-serif; color: var(--blue); margin-right: .5rem; white-space: nowrap; }
.mark { float: right; font: 600 .78rem/1.5 system-ui, "DejaVu Sans", sans-serif; color: var(--green); margin-left: .8rem; }
.bad .mark { color: var(--red); }
.numbers { font-size: .82rem; color: var(--soft); line-height: 1.45; overflow-wrap: anywhere; }
.numbers b { color: var(--ink); font-weight: 600; }
.scale { width: 100%; height: auto; display: block; margin: .2rem 0; font-family: system-ui, "DejaVu Sans", sans-serif; }
figure { margin: 1.6rem 0; break-inside: avoid; }
figure img { width: 100%; height: auto; display: block; }
figcaption { font-size: .85rem; color: var(--soft); margin-top: .4rem; }
.honest { background: var(--wash); border-left: 4px solid var(--amber); padding: .6rem .9rem; margin: .8rem 0; break-inside: avoid; }
.honest p { margin: 0 0 .3rem; }
.key { font-size: .75rem; font-weight: 600; letter-spacing: .04em; text-transform: uppercase; color: var(--amber); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; min-width: 60%; margin: .3rem 0 1rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; font-family: system-ui, "DejaVu Sans", sans-serif; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th.n { text-align: right; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.facts { font-size: .82rem; color: var(--soft); overflow-wrap: anywhere; }
footer { padding-bottom: 3rem; }
@media print { body { font-size: 10.5pt; } nav { display: none; } main, header, footer { max-width: none; padding: 0; }
  h2 { break-after: avoid; } }
"""


def html(chapters: Sequence[Chapter], pictures: Mapping[str, Picture], facts: Mapping[str, str]) -> str:
    """The whole page as text."""
    sections = "\n".join(_chapter(chapter, pictures) for chapter in chapters)
    links = "".join(f'<a href="#{escape(c.name)}">{escape(c.title)}</a>' for c in chapters)
    header = f"""<h1>Learning as stationary paths: what was derived, and the residuals that prove it</h1>
<p class="lead">Each statement below is an equation of “Physics of Learning” (Guo and Schölkopf, arXiv 2509.21049), derived from
one scalar function by automatic differentiation and checked on real data. Beside each stands a <em>negative control</em>:
the same check on a formula broken on purpose, which must fail.</p>
{_verdict(chapters)}<nav>{links}</nav>{_legend()}"""
    inputs = [dataset for chapter in chapters for dataset in chapter.inputs]
    return frame("learnlag report", header, sections, facts, inputs)


def frame(title: str, header: str, main: str, facts: Mapping[str, str], inputs: Sequence[Dataset]) -> str:
    """A whole page around HTML that is already escaped."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<header>{header}</header>
<main>{main}</main>
<footer><h2 id="run">This run</h2>{_facts(facts)}{_inputs(inputs)}</footer></body></html>
"""


def _verdict(chapters: Sequence[Chapter]) -> str:
    claims = [claim for chapter in chapters for claim in chapter.claims]
    held, rejected = sum(c.holds for c in claims), sum(c.control_rejected for c in claims)
    good = all(chapter.verified for chapter in chapters)
    text = f"{held} of {len(claims)} claims hold; {rejected} of {len(claims)} negative controls were rejected."
    return f'<p class="verdict{"" if good else " bad"}">{text}</p>'


def _legend() -> str:
    text = "Each bar is logarithmic: ● the residual, ┃ the tolerance, ○ the negative control. Right means: ● left of ┃, ○ right of it."
    return f'<p class="legend"><small>{text}</small></p>'


def _chapter(chapter: Chapter, pictures: Mapping[str, Picture]) -> str:
    parts = [f'<section id="{escape(chapter.name)}"><h2>{escape(chapter.title)}</h2><p>{escape(chapter.lead)}</p>']
    parts += [figure_html(figure, pictures[figure.name]) for figure in chapter.figures]
    parts += [table_html(table) for table in chapter.tables]
    parts += ["<h3>Claims</h3>", *map(_claim, chapter.claims)]
    if chapter.honest:
        parts += ["<h3>Where the paper and the mathematics differ</h3>", *(_honest(*pair) for pair in chapter.honest)]
    return "\n".join([*parts, "</section>"])


def _claim(claim: Claim) -> str:
    mark = "✓ verified" if claim.verified else "✗ control accepted" if claim.holds else "✗ fails"
    return f"""<div class="claim{"" if claim.verified else " bad"}"><span class="mark">{mark}</span>
<p><span class="tag">{escape(claim.equation)}</span>{escape(claim.statement)}</p>{_scale(claim)}
<p class="numbers"><b>residual {number(claim.residual)}</b>, tolerance {number(claim.tolerance)} ({escape(claim.tolerance_source)})</p>
<p class="numbers"><b>control {number(claim.control_residual)}</b>: {escape(claim.control)}</p></div>"""


def _scale(claim: Claim, low: float = -18.0, high: float = 4.0) -> str:
    """Residual, tolerance and control on one logarithmic axis, so that the margin is seen and not read."""

    def place(x: float) -> float:
        exponent = math.log10(abs(x)) if x and math.isfinite(x) else (low if not x else high)
        return 12 + 456 * (min(max(exponent, low), high) - low) / (high - low)

    r, t, c = (place(float(x)) for x in (claim.residual, claim.tolerance, claim.control_residual))
    ticks = "".join(
        f'<line x1="{place(10.0**e):.1f}" x2="{place(10.0**e):.1f}" y1="12" y2="20" stroke="#c4ccd6"/>'
        f'<text x="{place(10.0**e):.1f}" y="33" font-size="10" fill="#5b6675" text-anchor="middle">1e{e}</text>'
        for e in range(-16, 5, 4)
    )
    colour = "#1f7a43" if claim.holds else "#b3372f"
    label = f"residual {number(claim.residual)}, tolerance {number(claim.tolerance)}, control {number(claim.control_residual)}"
    return f"""<svg class="scale" viewBox="0 0 480 36" role="img" aria-label="{label}">
<line x1="12" x2="468" y1="16" y2="16" stroke="#c4ccd6"/>{ticks}
<line x1="{t:.1f}" x2="{t:.1f}" y1="6" y2="25" stroke="#1d2430" stroke-width="2.5"/>
<circle cx="{c:.1f}" cy="16" r="5.5" fill="#fff" stroke="#b3372f" stroke-width="2"/>
<circle cx="{r:.1f}" cy="16" r="5.5" fill="{colour}"/></svg>"""


def figure_html(figure: Figure, picture: Picture) -> str:
    """One figure with its caption, the picture inside the page."""
    source = base64.b64encode(picture.png).decode()
    return (
        f'<figure><img alt="{escape(figure.alt)}" src="data:image/png;base64,{source}">'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def table_html(table: Table) -> str:
    """One table; columns of numbers stand right."""
    numeric = [bool(column) and not any(isinstance(x, str) for x in column) for column in zip(*table.rows, strict=True)]
    kind = [' class="n"' if right else "" for right in numeric or [False] * len(table.header)]
    head = "".join(f"<th{k}>{escape(cell)}</th>" for k, cell in zip(kind, table.header, strict=True))
    text = lambda x: escape(x) if isinstance(x, str) else number(x)
    row = lambda cells: "".join(f"<td{k}>{text(x)}</td>" for k, x in zip(kind, cells, strict=True))
    rows = "".join(f"<tr>{row(cells)}</tr>" for cells in table.rows)
    return f'<div class="wide"><table><caption>{escape(table.caption)}</caption><tr>{head}</tr>{rows}</table></div>'


def _honest(says: str, true: str) -> str:
    return (
        f'<div class="honest"><p><span class="key">The paper says</span> {escape(says)}</p>'
        f'<p><span class="key">What holds</span> {escape(true)}</p></div>'
    )


def _facts(facts: Mapping[str, str]) -> str:
    return '<p class="facts">' + " · ".join(f"{escape(key)} {escape(value)}" for key, value in facts.items()) + "</p>"


def _inputs(datasets: Sequence[Dataset]) -> str:
    inputs = {dataset.name: dataset for dataset in datasets}
    row = lambda d: (
        f"<tr><td>{escape(d.name)}</td><td>{escape(d.source)} ({escape(d.licence)})</td><td class='facts'>{d.sha256}</td></tr>"
    )
    rows = "".join(map(row, inputs.values()))
    head = "<tr><th>input</th><th>source</th><th>sha256 of what was read</th></tr>"
    return f'<div class="wide"><table>{head}{rows}</table></div>' if rows else ""


def number(x) -> str:
    """A number as a reader wants it: integers whole, the rest with three digits."""
    value = x.item() if hasattr(x, "item") else x
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e6):
        return str(int(value))
    return f"{value:.3g}"


def markdown(chapters: Sequence[Chapter]) -> str:
    """The residual table as Markdown, one row a claim."""
    rows = [
        "| chapter | equation | claim | residual | tolerance | negative control |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for chapter in chapters:
        for c in chapter.claims:
            cells = (
                chapter.name,
                c.equation,
                c.statement,
                number(c.residual),
                number(c.tolerance),
                number(c.control_residual),
            )
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"
