"""`learnlag design POOL.csv -n 40 --criterion A --out chosen.csv`: choose which rows of a table to observe, with a certificate."""

import argparse
import csv
import itertools
import math
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks, fermat

MISSING = ("", "na", "nan", "null", "none", "?")


class Pool(NamedTuple):
    """A table read from CSV: the header, the rows as text, and the model matrix with the names of its columns."""

    header: list[str]
    rows: list[list[str]]
    F: np.ndarray
    terms: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `learnlag design`."""
    parser.add_argument("pool", type=Path, metavar="POOL.csv", help="candidates, one a row, with a header line")
    parser.add_argument("-n", "--observations", type=int, required=True, metavar="N", help="how many to choose")
    parser.add_argument(
        "--criterion",
        choices=("A", "D", "E", "I"),
        default="A",
        help="A total variance, D volume, E worst direction, I mean prediction variance over the pool (default: A)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("chosen.csv"),
        metavar="CSV",
        help="where to write the chosen rows (default: chosen.csv)",
    )
    parser.add_argument("--columns", metavar="A,B,...", help="columns of the model (default: all)")
    parser.add_argument("--no-intercept", action="store_true", help="leave out the constant term")
    parser.add_argument("--quadratic", action="store_true", help="add the square of every numeric column")
    parser.add_argument("--interactions", action="store_true", help="add the product of every two numeric columns")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="keep the units of numeric columns (default: each is centred and scaled to variance 1)",
    )
    parser.add_argument("--replace", action="store_true", help="a row may be observed more than once")
    parser.add_argument("--fixed", type=Path, metavar="CSV", help="rows already observed, with the same columns")
    parser.add_argument(
        "--restarts", type=int, default=8, metavar="K", help="random starts of the exchange (default: 8)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the starts (default: 0)")
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw the certificate: the worth of every row against the bound"
    )


def design(arguments: argparse.Namespace) -> int:
    """Choose rows of a CSV, write them, and print the certificate.

    Returns:
        0 if a design was found, 3 (by `SolveError`) if the pool does not determine the model.

    Raises:
        InputError, OSError: bad table, option or path, before anything is written.
    """
    checks.require(arguments.restarts >= 1, "--restarts", arguments.restarts, "at least 1", "8 is usual")
    checks.require(0 <= arguments.seed < 2**31, "--seed", arguments.seed, "0 <= seed < 2**31", "choose another seed")
    header, rows = read_table(arguments.pool)
    known = read_table(arguments.fixed, header)[1] if arguments.fixed else []
    pool = model_matrix(header, rows, known, arguments)
    F, fixed = jnp.asarray(pool.F[: len(rows)]), pool.F[len(rows) :]
    n = arguments.observations
    enough = arguments.replace or n <= len(rows)
    checks.require(enough, "-n", n, f"at most the {len(rows)} rows without replacement", "add --replace or rows")
    estimable(np.asarray(F), pool.terms)
    phi = fermat.criterion("I", region=F) if arguments.criterion == "I" else fermat.criterion(arguments.criterion)
    prior = jnp.asarray(fixed.T @ fixed) if known else None
    exact = fermat.exact_design(
        F,
        n,
        phi,
        replace=arguments.replace,
        fixed=jnp.asarray(fixed) if known else None,
        restarts=arguments.restarts,
        key=jax.random.key(arguments.seed),
    )
    checks.raise_on_failure(exact)
    chosen = np.asarray(exact.rows)
    write_rows(arguments.out, header, rows, chosen)
    if arguments.plot:
        weights = fermat.optimal_weights(F, phi, prior=None if prior is None else prior / n)
        draw(arguments.plot, F, phi, weights, chosen, prior, n)
    random = np.random.default_rng(arguments.seed)
    pick = [random.choice(len(rows), n, replace=arguments.replace) for _ in range(50)]
    base = jnp.zeros_like(F.T @ F) if prior is None else prior
    values = np.sort([float(phi(base + F[i].T @ F[i])) for i in pick])
    print(f"pool        {len(rows)} rows, {F.shape[1]} terms: {', '.join(pool.terms)}")
    print(f"chosen      {n} observations of {len(set(chosen.tolist()))} rows, written to {arguments.out}")
    print(f"criterion   {arguments.criterion} = {float(exact.value):.6g}")
    print(
        f"certificate no {n} rows of this pool can be below {float(exact.value * exact.efficiency):.6g}: efficiency >= {float(exact.efficiency):.2%}"
    )
    print(
        f"random      median of 50 random choices {values[25]:.6g}, {values[25] / float(exact.value):.2f} times as large"
    )
    return 0


def read_table(path: Path, header: list[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV; every row must have as many cells as the header."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            table = [row for row in csv.reader(file) if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise checks.InputError(f"{path}: got {error}; expected a CSV file in UTF-8; export it again") from None
    checks.require(len(table) > 1, str(path), f"{len(table)} lines", "a header and at least one row", "check the file")
    names = [name.strip() for name in table[0]]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    checks.require(not twice, str(path), f"column {twice[:1]} twice", "distinct column names", "rename one")
    checks.require(
        header is None or names == header,
        str(path),
        names,
        f"the columns of the pool, {header}",
        "reorder or rename them",
    )
    for i, row in enumerate(table[1:], 2):
        checks.require(
            len(row) == len(names),
            f"{path} line {i}",
            f"{len(row)} cells",
            f"{len(names)}, as in the header",
            "quote cells that hold a comma",
        )
    return names, [[cell.strip() for cell in row] for row in table[1:]]


def model_matrix(header: list[str], rows: list[list[str]], known: list[list[str]], options: argparse.Namespace) -> Pool:
    """Terms of the linear model: intercept, numeric columns, indicators of categories, squares and products."""
    names = [name.strip() for name in options.columns.split(",")] if options.columns else header
    for name in names:
        checks.require(
            name in header, "--columns", repr(name), f"columns of the pool: {', '.join(header)}", "check the spelling"
        )
    terms, blocks, numeric = [], [], []
    for name in names:
        cells = [row[header.index(name)] for row in (*rows, *known)]
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
            levels = sorted(set(cells))
            checks.require(
                len(levels) <= 50,
                f"column {name}",
                f"{len(levels)} different words",
                "numbers, or at most 50 categories",
                "leave it out with --columns",
            )
            kept = levels if options.no_intercept and not terms else levels[1:]
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
        spread = values[: len(rows)].std()
        constant = spread <= 1e-12 * np.abs(values).max()
        checks.require(
            not constant or options.no_intercept,
            f"column {name}",
            "a constant",
            "a column that varies",
            "the intercept already holds it: leave it out with --columns",
        )
        scaled = values if options.raw or constant else (values - values[: len(rows)].mean()) / spread
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


def numbers(cells: list[str]) -> np.ndarray | None:
    """The cells as numbers, or None if any is a word."""
    try:
        return np.array([float(cell) for cell in cells])
    except ValueError:
        return None


def estimable(F: np.ndarray, terms: list[str]) -> None:
    """Refuse a pool on which some term is a combination of those before it, by its name."""
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


def write_rows(path: Path, header: list[str], rows: list[list[str]], chosen: np.ndarray) -> None:
    """The chosen rows, with their number in the pool (first data row is 1) and how often each is to be observed; whole or not at all."""
    order, counts = np.unique(chosen, return_counts=True)
    with tempfile.NamedTemporaryFile(
        "w", newline="", encoding="utf-8", dir=path.resolve().parent, delete=False
    ) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["pool_row", "observations", *header])
        writer.writerows([i + 1, count, *rows[i]] for i, count in zip(order.tolist(), counts.tolist(), strict=True))
    os.replace(file.name, path)


def draw(path: Path, F, phi, weights, chosen: np.ndarray, prior, n: int) -> None:
    """The worth of every row at the optimum, against the bound, with the chosen rows marked."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ModuleNotFoundError(
            "matplotlib is not installed; run: python -m pip install 'learnlag_jax[report]'"
        ) from None
    M = fermat.information_matrix(F, weights.weights, None if prior is None else prior / n)
    G = -jax.grad(phi)(M)
    worth = np.asarray(jnp.sum((F @ G) * F, 1))
    worth = worth / float(np.nansum(np.asarray(weights.weights) * worth))
    order = np.argsort(-worth, kind="stable")
    picked = np.isin(order, chosen)
    canvas = Figure(figsize=(7.2, 3.6), dpi=160, layout="constrained")
    FigureCanvasAgg(canvas)
    ax = canvas.subplots()
    rank = np.arange(1, len(order) + 1)
    ax.plot(rank, worth[order], color="#2563a8", label="every row of the pool")
    ax.plot(rank[picked], worth[order][picked], "o", ms=4, color="#d9822b", label="chosen")
    ax.axhline(1, color="#b33a3a", lw=1, ls="--", label="bound at the optimum")
    ax.set(xlabel="row, ordered by worth", ylabel="worth / bound", ylim=(0, max(1.1, math.ceil(10 * worth.max()) / 10)))
    ax.legend(frameon=False)
    canvas.savefig(path)
