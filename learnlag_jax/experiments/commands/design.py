"""`learnlag design POOL.csv -n 40 --criterion A --out chosen.csv`: choose which rows of a table to observe, with a certificate."""

import argparse
import csv
import importlib.util
import io
import math
import os
import stat
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks, fermat
from learnlag_jax.experiments import data, pool_table

PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg")
NAMED = 30  # chosen rows up to so many are numbered in the plot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `learnlag design`."""
    parser.add_argument(
        "pool",
        type=Path,
        metavar="POOL.csv",
        help="candidates, one a row, with a header line and a value in every cell; a column of words becomes categories (at most 50)",
    )
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
        help="where to write the chosen rows, pool_row counting data rows from 1 (default: chosen.csv)",
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
    writable(arguments)
    header, rows = pool_table.read_table(arguments.pool)
    known = pool_table.Table(*pool_table.read_table(arguments.fixed), str(arguments.fixed)) if arguments.fixed else None
    pool = pool_table.model_matrix(pool_table.Table(header, rows, str(arguments.pool)), known, arguments)
    F, fixed = jnp.asarray(pool.F[: len(rows)]), pool.F[len(rows) :]
    n = arguments.observations
    checks.require(n >= 1, "-n", n, "at least 1", "choose how many to observe")
    short = f"{n} with {len(fixed)} fixed rows for {F.shape[1]} terms"
    remedy = "raise -n, add rows with --fixed, or use fewer columns"
    checks.require(n + len(fixed) >= F.shape[1], "-n", short, "as many rows as terms", remedy)
    enough = arguments.replace or n <= len(rows)
    checks.require(enough, "-n", n, f"at most the {len(rows)} rows without replacement", "add --replace or rows")
    pool_table.estimable(np.asarray(F), pool.terms)
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
    picture = None
    if arguments.plot:
        weights = fermat.optimal_weights(F, phi, prior=None if prior is None else prior / n)
        title = f"{arguments.criterion}-optimal choice of {n}: certified efficiency {percent_down(exact.efficiency)}"
        picture = draw(arguments.plot.suffix[1:].lower(), F, phi, weights, chosen, prior, n, title)
    random = np.random.default_rng(arguments.seed)
    pick = [random.choice(len(rows), n, replace=arguments.replace) for _ in range(50)]
    base = jnp.zeros_like(F.T @ F) if prior is None else prior
    values = np.sort([float(phi(base + F[i].T @ F[i])) for i in pick])
    # last, and the picture first: whoever finds the rows finds all
    if picture:
        write(arguments.plot, picture)
    write(arguments.out, table_of(header, rows, chosen))
    distinct = len(set(chosen.tolist()))
    print(f"pool        {len(rows)} rows, {F.shape[1]} terms: {', '.join(' '.join(t.split()) for t in pool.terms)}")
    print(f"chosen      {plural(n, 'observation')} of {plural(distinct, 'row')}, written to {arguments.out}")
    print(f"criterion   {arguments.criterion} = {float(exact.value):.6g}")
    bound, percent = down(float(exact.value * exact.efficiency)), percent_down(exact.efficiency)
    print(f"certificate no {n} rows of this pool can be below {bound}: efficiency >= {percent}")
    if n < 2 * F.shape[1] and exact.efficiency < 0.9:
        print("            (the bound is that of fractional weights: loose where -n is small beside the terms)")
    print(
        f"random      median of 50 random choices {values[25]:.6g}, {values[25] / float(exact.value):.2f} times as large"
    )
    return 0


def writable(arguments: argparse.Namespace) -> None:
    """Refuse, before any work, an output that cannot be written or would write over an input."""
    inputs = [("the pool", arguments.pool), ("--fixed", arguments.fixed)]
    outputs = [("--out", arguments.out), ("--plot", arguments.plot)]
    for option, path in outputs:
        if path is None:
            continue
        checks.require(not path.is_dir(), option, f"{path}, a folder", "a file", "add a file name")
        place = path if _stands(path) else path.resolve().parent
        checks.require(place.exists(), option, path, f"a file in a folder that exists, not {place}", "make the folder")
        may = os.access(place, os.W_OK) and (place == path or place.is_dir())
        checks.require(may, option, path, "a folder that may be written", "choose another")
        others = [(name, other) for name, other in (*inputs, *outputs) if name != option and other is not None]
        same = [name for name, other in others if other.resolve() == path.resolve()]
        checks.require(
            not same, option, f"{path}, which is also {same[:1]}", "a file of its own", "choose another name"
        )
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        raise data.missing("matplotlib")
    picture = arguments.plot is None or arguments.plot.suffix.lower() in PICTURES
    checks.require(picture, "--plot", arguments.plot, f"a name that ends in {', '.join(PICTURES)}", "rename it")


def down(x: float) -> str:
    """Six digits, rounded down: a bound that is printed must still be one."""
    text = f"{x:.6g}"
    return text if float(text) <= x else f"{x - 5e-6 * abs(x):.6g}"


def percent_down(x) -> str:
    return f"{math.floor(1e4 * float(x)) / 100:.2f}%"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def table_of(header: list[str], rows: list[list[str]], chosen: np.ndarray) -> bytes:
    """CSV of the chosen rows, with their number in the pool (first data row is 1) and how often each is to be observed."""
    order, counts = np.unique(chosen, return_counts=True)
    table = [[i + 1, count, *rows[i]] for i, count in zip(order.tolist(), counts.tolist(), strict=True)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["pool_row", "observations", *header], *table])
    return text.getvalue().encode()


def write(path: Path, content: bytes) -> None:
    """Whole or not at all, where a link leads and with the mode of what stood there; into a pipe, a device or our output as it is."""
    if _stands(path):
        ours = _is_output(path)  # opened again, a redirected one would be written over by what is printed next
        with open(1 if ours else path, "wb", closefd=not ours) as file:
            file.write(content)
        return
    path = path.resolve()
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask()
    descriptor, draft = tempfile.mkstemp(prefix=".chosen-", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.chmod(draft, mode)  # a temporary file is its maker's alone
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def _stands(path: Path) -> bool:
    """What must not be replaced: a pipe, a device, or the file that our output goes to."""
    return path.exists() and (not path.is_file() or _is_output(path))


def _is_output(path: Path) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:  # it is closed
        return False


def _umask() -> int:
    """The permissions that new files of this process lack; they can only be read by setting them."""
    os.umask(mask := os.umask(0o077))
    return mask


def draw(kind: str, F, phi, weights, chosen: np.ndarray, prior, n: int, title: str) -> bytes:
    """The worth of every row at the optimum, against the bound, with the chosen rows marked and numbered, as a picture of that kind.

    Worth is how fast the criterion falls when weight goes to the row: at fractional weights no row exceeds the bound, and
    weight lies only where it is met.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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
    for x, row in zip(rank[picked], order[picked], strict=True) if picked.sum() <= NAMED else ():
        below = (0, -9) if x % 2 else (0, 5)
        ax.annotate(str(row + 1), (x, worth[row]), xytext=below, textcoords="offset points", ha="center", fontsize=6)
    ax.axhline(1, color="#b33a3a", lw=1, ls="--", label="bound at the optimum")
    ax.set(
        title=title,
        xlabel="rows of the pool, ordered by worth (chosen ones with their number)",
        ylabel="worth / bound",
        ylim=(0, max(1.1, math.ceil(10 * worth.max()) / 10)),
    )
    ax.legend(frameon=False)
    content = io.BytesIO()
    canvas.savefig(content, format=kind)
    return content.getvalue()
