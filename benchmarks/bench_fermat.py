"""Fermat: certified A-optimal weights, their growth with N and p, E and G, and exact designs beside pyoptex and pydoe.

    XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" taskset -c 0 python benchmarks/bench_fermat.py [--quick]

pins everything to one core; the largest pool, a million rows of ten columns, takes 80 MB. Peers that are not installed are left out and said so.
"""

import itertools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
from harness import HERE, Contender, compare, options, save

from learnlag_jax import fermat

os.environ.setdefault("TQDM_DISABLE", "1")  # pyoptex draws a progress bar


def pool(N, p):
    return jnp.asarray(np.random.default_rng(0).normal(size=(N, p)))


def multiplicative(F, steps=2000):
    """The textbook algorithm, stopped at a gap of 1e-6 or after `steps`."""
    N = F.shape[0]

    def body(carry):
        w, _, k = carry
        D = jnp.linalg.inv(F.T @ (F * w[:, None]))
        a = jnp.sum((F @ D) ** 2, 1)
        w = w * jnp.sqrt(a)
        return w / jnp.sum(w), 1 - jnp.trace(D) / jnp.max(a), k + 1

    going = lambda carry: (carry[1] > 1e-6) & (carry[2] < steps)
    return jax.lax.while_loop(going, body, (jnp.full(N, 1 / N), jnp.asarray(1.0), 0))


def quadratic(x):
    """The model matrix of all squares and products of the factors: the same columns for every contender."""
    k = x.shape[1]
    cross = [x[:, i] * x[:, j] for i, j in itertools.combinations(range(k), 2)]
    return np.column_stack([np.ones(len(x)), x, x**2, *cross])


def a_value(x):
    """tr (F'F)^-1 of the design, infinite where it is singular."""
    F = quadratic(np.asarray(x, float))
    return float(np.trace(np.linalg.inv(F.T @ F))) if np.linalg.matrix_rank(F) == F.shape[1] else np.inf


def pyoptex_design(factors, n, tries):
    """pyoptex's coordinate exchange at its default three levels, or None where it is not installed."""
    try:
        from pyoptex.doe.fixed_structure import Factor, create_fixed_structure_design, create_parameters, default_fn
        from pyoptex.doe.fixed_structure.metric import Aopt
        from pyoptex.utils.model import model2Y2X, partial_rsm_names
    except ImportError:
        return None
    names = [f"x{i}" for i in range(factors)]
    parts = [Factor(name) for name in names]
    Y2X = model2Y2X(partial_rsm_names(dict.fromkeys(names, "quad")), parts)
    parameters = create_parameters(parts, default_fn(parts, Aopt(), Y2X), nruns=n)
    return lambda: create_fixed_structure_design(parameters, n_tries=tries)[0].to_numpy()


def pydoe_design(grid, n, method):
    """pydoe's exchange over the same candidates, or None where it is not installed. It repeats no candidate."""
    try:
        from pydoe import optimal_design
    except ImportError:
        return None
    return lambda: optimal_design(grid, n, degree=2, criterion="A", method=method)[0]


def weights_benchmark(sizes, rounds):
    rows, remarks, seconds, memory = [], [], {}, {}
    for N, p in sizes:
        F = pool(N, p)
        clock = time.perf_counter()
        compiled = jax.jit(fermat.optimal_weights).lower(F).compile()
        compilation = time.perf_counter() - clock  # the harness's own finds it done
        design, analysis = compiled(F), compiled.memory_analysis()
        memory[N, p] = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
        remarks.append(
            f"{N} x {p}: certified gap {float(design.gap):.1e}, support {int(design.support.sum())}, {int(design.steps)} rounds, "
            f"compiled in {compilation:.1f} s"
        )
        contenders = [Contender("optimal_weights, gap <= 1e-9", fermat.optimal_weights, (F,))]
        if N <= 10_000 and p <= 10:
            reached = f"gap reached {float(multiplicative(F)[1]):.1e} in at most 2000 steps"
            contenders.append(Contender("multiplicative, gap <= 1e-6", multiplicative, (F,), note=reached))
        new = compare(f"A-optimal weights, {N} x {p}", contenders, rounds=3 if N * p > 100_000 else min(rounds, 7))
        seconds[N, p] = new[0].median
        rows += new
    for N, p in sizes:
        remarks.append(
            f"{N} x {p}: memory {memory[N, p] / 1e6:.1f} MB, {memory[N, p] / (8 * N * p):.1f} times the pool"
        )
    return rows, remarks, seconds


def semidefinite(F):
    """The E-optimal value by cvxpy and Clarabel, as a closure that solves anew, or None where they are not installed."""
    try:
        import cvxpy as cp
    except ImportError:
        return None
    F = np.asarray(F)
    w, level = cp.Variable(len(F), nonneg=True), cp.Variable()
    program = cp.Problem(cp.Maximize(level), [F.T @ cp.diag(w) @ F >> level * np.eye(F.shape[1]), cp.sum(w) == 1])
    return lambda: program.solve(solver="CLARABEL")


def corners_benchmark(sizes, rounds):
    """E and G, whose optimum has a corner; G is judged on a region of 2,000 rows that is not the pool."""
    rows, remarks = [], []
    for N, p in sizes:
        F, region = pool(N, p), jnp.asarray(np.random.default_rng(1).normal(size=(2000, p)))
        for kind, phi in (("E", fermat.criterion("E")), ("G", fermat.criterion("G", region=region))):
            ours = lambda F, phi=phi: fermat.optimal_weights(F, phi)
            design = ours(F)
            remarks.append(
                f"{kind}, {N} x {p}: certified gap {float(design.gap):.1e}, support {int(design.support.sum())}, "
                f"{int(design.steps)} rounds"
            )
            contenders = [Contender("optimal_weights, gap <= 1e-9", ours, (F,))]
            peer = semidefinite(F) if kind == "E" and N <= 1000 else None
            if peer is not None:
                off = abs(1 / peer() / float(design.value) - 1)
                contenders.append(Contender("cvxpy, Clarabel", peer, jit=False, note=f"value apart by {off:.0e}"))
            rows += compare(f"{kind}-optimal weights, {N} x {p}", contenders, rounds=min(rounds, 5), minimum=0)
    return rows, remarks


def exact_benchmark(problems, rounds, tries=20):
    rows, remarks = [], []
    for factors, n in problems:
        grid = np.array(list(itertools.product([-1.0, 0.0, 1.0], repeat=factors)))
        F = jnp.asarray(quadratic(grid))
        ours = lambda F, n=n: fermat.exact_design(F, n, restarts=tries)
        design = ours(F)
        group = f"exact A design, {factors} quadratic factors, n = {n}"
        note = f"A = {float(design.value):.6f}, certified efficiency {float(design.efficiency):.4f}"
        contenders = [Contender(f"exact_design, {tries} restarts", ours, (F,), note=note)]
        peers = {
            f"pyoptex, {tries} tries": pyoptex_design(factors, n, tries),
            "pydoe, fedorov, one start": pydoe_design(grid, n, "fedorov"),
            "pydoe, detmax, one start": pydoe_design(grid, n, "detmax"),
        }
        for name, peer in peers.items():
            if peer is None or (name.startswith("pydoe") and n > len(grid)):
                why = (
                    "is not installed"
                    if peer is None
                    else f"repeats no candidate, so it has no design of {n} of {len(grid)}"
                )
                remarks.append(f"{group}: {name.split(',')[0]} {why}")
                continue
            values = [a_value(peer()) for _ in range(2)]
            contenders.append(Contender(name, peer, jit=False, note=f"A = {min(values):.6f}, best of 2 runs"))
        rows += compare(group, contenders, rounds=rounds, minimum=0)
    return rows, remarks


def growth_figure(seconds):
    """Seconds against N and against p. An active set of about p^2 rows costs p^6 a Newton step in the worst case, the pool N p^2."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for ax, fixed, moving, label in ((left, 1, 0, "rows N (p = 10)"), (right, 0, 1, "columns p (N = 10,000)")):
        value = 10 if fixed == 1 else 10_000
        points = sorted((size[moving], t) for size, t in seconds.items() if size[fixed] == value)
        x, t = (np.array(column) for column in zip(*points, strict=True))
        slope = np.polyfit(np.log(x), np.log(t), 1)[0]
        ax.loglog(x, t, "o-", color="#2563a8", label=f"measured, slope {slope:.2f}")
        ax.set(xlabel=label, ylabel="seconds, one core")
        ax.grid(alpha=0.3, which="both", lw=0.5)
        ax.legend(frameon=False)
    figure.suptitle("A-optimal weights certified to 1 - 1e-9")
    figure.savefig(HERE / "results" / "bench_fermat_growth.png")


def main():
    jax.config.update("jax_enable_x64", True)
    arguments = options(__doc__)
    cores = f"processors this run may use: {len(os.sched_getaffinity(0))}; load when it ended: "
    sizes = [(1000, 10), (10_000, 5), (10_000, 10)]
    problems = [(2, 10), (3, 14)]
    if not arguments.quick:
        sizes += [(100_000, 10), (10_000, 20), (10_000, 30), (1_000_000, 10)]
        problems += [(3, 10)]
    rows, remarks = exact_benchmark(problems, min(arguments.rounds, 5))
    save("bench_fermat_exact", rows, [*remarks, cores + f"{os.getloadavg()[0]:.1f}"])
    rows, remarks = corners_benchmark([(1000, 5), *([] if arguments.quick else [(100_000, 10)])], arguments.rounds)
    save("bench_fermat_corners", rows, [*remarks, cores + f"{os.getloadavg()[0]:.1f}"])
    rows, remarks, seconds = weights_benchmark(sorted(sizes), arguments.rounds)
    growth_figure(seconds)
    save("bench_fermat", rows, [*remarks, cores + f"{os.getloadavg()[0]:.1f}"])


if __name__ == "__main__":
    main()
