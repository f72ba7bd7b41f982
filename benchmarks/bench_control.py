"""Control against named peers, interleaved: decision processes, optimal paths, Riccati sweeps, and ten million states.

    python benchmarks/bench_control.py {processes,paths,riccati,scale} [--quick] [--rounds N]

Each part is one table. Peers that are not installed are left out. `paths` is also worth a run with

    XLA_FLAGS="--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000000000 \
        --xla_force_host_platform_device_count=2"

which lets the CPU compiler turn whole loops into single kernels and shows two cores as two devices; that run is saved apart.
"""

import os
import sys
import tempfile
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
from control_paths import riccati, trajectories  # noqa: E402
from control_processes import processes  # noqa: E402
from harness import Row, options, save  # noqa: E402

from learnlag_jax import control  # noqa: E402

REMARKS = {
    "processes": [
        "Time to a certified gap of 1e-6 (ours) against the peers' own stopping rules at 1e-6; 'error' is the largest true "
        "error of the values returned. Compile time apart.",
        "Each decision process is timed in a child of its own; where its arrays come to lie matters, so compare several runs.",
        "mdpsolver runs in a child process; its own clock around solve, threads as it chooses: on a busy machine they spin.",
        "quantecon policy iteration is left out where one run takes seconds (sparse direct solves), pymdptoolbox above 3000 states.",
    ],
    "paths": [
        "Whole answers: path, costates, gains, residual and pivots. Residual: largest dJ/da, measured alike for all."
    ],
    "riccati": [
        "Median over the horizon is the cost of a node; the sequential levels are those of the associative scan."
    ],
    "scale": ["One run; peak memory of the whole process."],
}


def scale(quick: bool) -> list[Row]:
    """A process from functions with many states, in chunks: seconds, and the memory it took."""
    import resource

    S = 10**5 if quick else 10**7
    start = time.perf_counter()
    mdp = control.mdp_functions(
        lambda s, a, th: jnp.where(s % 1000 == 0, 1.0, 0.0).astype(jnp.float32) - 0.01 * a.astype(jnp.float32),
        lambda s, a, j, th: ((s * (2 + j) + a * 7 + j) % S, jnp.where(j == 0, 0.5, 0.25).astype(jnp.float32)),
        0.9,
        states=S,
        actions=4,
        outcomes=3,
        chunk=2**18,
        dtype="float32",
    )
    built = time.perf_counter() - start
    start = time.perf_counter()
    answer = jax.block_until_ready(control.solve_mdp(mdp, tol=1e-3))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    note = f"gap {float(jnp.max(answer.upper - answer.lower)):.0e}, {int(answer.steps)} sweeps, peak {peak:.1f} GiB of the process"
    row = Row(f"functions, {S:.0e} states x 4 x 3", "ours auto", 1.0, seconds, seconds, seconds, built, note)
    print(row, flush=True)
    return [row]


def main() -> None:
    part = sys.argv.pop(1) if len(sys.argv) > 1 and sys.argv[1] in REMARKS else "processes"
    chosen = options(__doc__.splitlines()[0])
    with tempfile.TemporaryDirectory() as scratch:
        rows = {
            "processes": lambda: processes(chosen.quick, chosen.rounds, scratch),
            "paths": lambda: trajectories(chosen.quick, chosen.rounds),
            "riccati": lambda: riccati(chosen.quick, chosen.rounds),
            "scale": lambda: scale(chosen.quick),
        }[part]()
    whole = "small_while_loop" in os.environ.get("XLA_FLAGS", "")
    if not chosen.quick:
        save(f"bench_control_{part}" + ("_whole_loops" if whole else ""), rows, REMARKS[part])


if __name__ == "__main__":
    main()
