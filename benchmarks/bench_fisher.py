"""Cost of one update of the Fisher family beside optax and beside the matrix products it needs: time and compile time.

    OPENBLAS_NUM_THREADS=1 python benchmarks/bench_fisher.py [--quick] [--rounds N]

Each sample makes as many jitted updates as there are between two refreshes of the bases (10, as by default), from a state that has made ten
already, so that one refresh is paid for. Gradients are random float32 and lie in memory, as a backward pass leaves them.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from harness import Contender, Row, compare, options, save

from learnlag_jax import fisher
from learnlag_jax.experiments.comparison import workloads

STEPS = 10  # the default `refresh`
SHORTER, BOTH = 2.0, float("inf")  # which sides of a matrix turn: those no longer than so many shorter ones
NAMES = {SHORTER: "shorter side", BOTH: "both sides"}


def leaves(shapes, count: int) -> dict[str, jax.Array]:
    """`count` leaves that cycle through `shapes`."""
    keys = jax.random.split(jax.random.key(0), count)
    return {f"{i:03d}": jax.random.normal(k, shapes[i % len(shapes)], jnp.float32) for i, k in enumerate(keys)}


class Ready(NamedTuple):
    """A compiled update, the state after its first STEPS updates, and the seconds it took to compile."""

    update: Callable
    state: Any
    seconds: float


def ready(optimiser: optax.GradientTransformation, rows: list) -> Ready:
    """The optimiser as a training loop meets it: one jitted update, its gradients already in memory."""
    state = optimiser.init(rows[0])
    start = time.perf_counter()
    compiled = jax.jit(optimiser.update).lower(rows[0], state, rows[0]).compile()
    took = time.perf_counter() - start
    return Ready(compiled, stepped(compiled, state, rows)[1], took)


def stepped(update: Callable, state, rows: list):
    """The last update and state after one update for each row of gradients."""
    out = None
    for gradients in rows:
        out, state = update(gradients, state, rows[0])
    return out, state


def product(a, b):
    return jnp.matmul(a, b, precision="highest")


def bare_leaf(x: jax.Array, aspect: float):
    """Both moments, and {axis: (moment, basis)} of the sides that turn: of a matrix those no longer than `aspect` shortest."""
    sides = [i for i, d in enumerate(x.shape) if x.ndim == 2 and d <= aspect * min(x.shape)]
    return jnp.zeros_like(x), jnp.zeros_like(x), {i: (jnp.zeros((d := x.shape[i], d)), jnp.eye(d)) for i in sides}


def on(matrix: jax.Array, x: jax.Array, side: int) -> jax.Array:
    return product(matrix, x) if side == 0 else product(x, matrix.T)


def seen(leaf, g):
    """The moments of the sides with one more gradient."""
    m, v, factors = leaf
    second = lambda side: product(g, g.T) if side == 0 else product(g.T, g)
    return m, v, {side: (0.999 * A + 0.001 * second(side), Q) for side, (A, Q) in factors.items()}


def turned(leaf):
    """Bases one QR further, and both moments carried into them."""
    m, v, factors = leaf
    bases = {}
    for side, (A, old) in factors.items():
        AQ = product(A, old)
        Q = jnp.linalg.qr(AQ)[0]
        R, fit = product(Q.T, old), product(old.T, AQ)
        m, v = on(R, m, side), on(R * R, v, side)
        bases[side] = A + 0 * fit[0, 0], Q
    return m, v, bases


def moved(leaf, g, count):
    """A product in on every side, Adam's formula, a product back."""
    m, v, factors = leaf
    for side, (_, Q) in factors.items():
        g = on(Q.T, g, side)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    u = (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)
    for side, (_, Q) in factors.items():
        u = on(Q, u, side)
    return u, (m, v, factors)


def bare(turning: Callable) -> Callable:
    """The arithmetic of "eigen" and nothing else, one leaf after the other; `turning(state, count)` gives the bases' turn."""

    def update(gradients, state, _):
        count, leaves = state[0] + 1, state[1]
        leaves = turning({name: seen(leaves[name], g) for name, g in gradients.items()}, count)
        out = {name: moved(leaves[name], g, count) for name, g in gradients.items()}
        return {name: x[0] for name, x in out.items()}, (count, {name: x[1] for name, x in out.items()})

    return update


def all_turned(leaves):
    return {name: turned(leaf) for name, leaf in leaves.items()}


def bare_state(gradients, aspect: float):
    return jnp.zeros((), jnp.int32), {name: bare_leaf(x, aspect) for name, x in gradients.items()}


def bare_ready(aspect: float, rows: list) -> Ready:
    """`bare` called as an optimiser is; its bases turn once in STEPS calls, by a program of its own."""
    start, state = time.perf_counter(), bare_state(rows[0], aspect)
    programs = [bare(lambda leaves, _: leaves), bare(lambda leaves, _: all_turned(leaves))]
    plain, turn = (jax.jit(program).lower(rows[0], state, None).compile() for program in programs)
    took = time.perf_counter() - start

    def update(gradients, state, _):
        k, inner = state
        out, inner = (turn if k % STEPS == 0 else plain)(gradients, inner, None)
        return out, (k + 1, inner)

    return Ready(update, stepped(update, (0, state), rows)[1], took)


def bare_optimiser(aspect: float) -> optax.GradientTransformation:
    """`bare` as one program, its bases turned in one branch: what no optimiser of this kind can compile without."""
    branch = lambda leaves, count: jax.lax.cond(count % STEPS == 0, all_turned, lambda same: same, leaves)
    return optax.GradientTransformation(lambda params: bare_state(params, aspect), bare(branch))


def one_sided_arithmetic(gradients):
    """Five steps of an odd quintic on the shorter side, STEPS times: 5 (4 m^2 n + 2 m^3) multiplications and additions."""

    def step(x, _):
        for _ in range(5):
            gram = x @ x.T
            x = 1.9 * x + (0.4 * (gram @ gram) - 1.3 * gram) @ x
        return x, None

    return jax.tree.map(lambda x: jnp.sum(jax.lax.scan(step, x / jnp.linalg.norm(x), length=STEPS)[0]), gradients)


def compile_remarks(what: str, compilers: dict[str, Callable], rounds: int) -> list[str]:
    """Seconds from Python to machine code over those of the first, in alternation, nothing cached."""
    took = {name: [] for name in compilers}
    for _ in range(rounds):
        for name, compiler in compilers.items():
            jax.clear_caches()
            start = time.perf_counter()
            compiler()
            took[name].append(time.perf_counter() - start)
    first, *_ = (statistics.median(times) for times in took.values())
    return [
        f"Compile time of {what} over {next(iter(took))}, medians of {rounds}: {name} "
        f"{statistics.median(times) / first:.2f} ({min(times) / first:.2f} to {max(times) / first:.2f})"
        for name, times in took.items()
    ]


def training_step(task, optimiser: optax.GradientTransformation) -> Callable:
    """Compiles what a user's loop runs: loss, its gradient, the update, and the parameters moved."""
    params, batch = task.init(jax.random.key(0)), task.batch(0, 0)
    state = jax.jit(optimiser.init)(params)

    def step(params, state, batch):
        value, gradient = jax.value_and_grad(task.loss)(params, batch, None)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return lambda: jax.jit(step, donate_argnums=(0, 1)).lower(params, state, batch).compile()


def main() -> None:
    chosen = options(__doc__.splitlines()[0])
    rows = []
    shape = (64, 256) if chosen.quick else (256, 1024)
    big = leaves([shape], 6)
    alone = fisher.FisherOptions(refresh=STEPS, skip_nonfinite=False)
    ours = fisher.FisherOptions(refresh=STEPS)

    def contend(group, optimisers, gradients, aspects=(), **alone):
        rows_of = [jax.tree.map(lambda g, k=k: g * (1 + 0.1 * k), gradients) for k in range(STEPS)]
        prepared = {name: ready(optimiser, rows_of) for name, optimiser in optimisers.items()}
        prepared |= {f"arithmetic of eigen, {NAMES[n]}, alone": bare_ready(n, rows_of) for n in aspects}
        contenders = [Contender(name, stepped, (r.update, r.state, rows_of), jit=False) for name, r in prepared.items()]
        contenders += [Contender(name, run, (gradients,)) for name, run in alone.items()]
        found = compare(group, contenders, rounds=chosen.rounds)
        found = [row._replace(compile=prepared[row.name].seconds) if row.name in prepared else row for row in found]
        rows.extend(found)
        return found

    adam, text = optax.scale_by_adam(), f"{STEPS} updates, 6 leaves {shape[0]} x {shape[1]}"
    contend(
        f"{text}: diagonal",
        {
            "optax.scale_by_adam": adam,
            "diagonal, no check of gradients": fisher.scale_by_fisher("diagonal", options=alone),
            "diagonal": fisher.scale_by_fisher("diagonal", options=ours),
            "optax.apply_if_finite(scale_by_adam)": optax.apply_if_finite(adam, 5),
        },
        big,
    )
    contend(
        f"{text}: matrices",
        {
            "optax.contrib.muon": optax.contrib.muon(1.0),
            "one_sided": fisher.scale_by_fisher("one_sided", options=ours),
            "eigen": fisher.scale_by_fisher("eigen", options=ours),
            "eigen, both sides": fisher.scale_by_fisher("eigen", options=ours._replace(aspect=None)),
        },
        big,
        aspects=(SHORTER, BOTH),
        **{"products of one_sided alone": one_sided_arithmetic},
    )
    for side in [] if chosen.quick else [(384, 256), (512, 512)]:
        contend(
            f"{STEPS} updates, 4 leaves {side[0]} x {side[1]}: matrices",
            {
                "optax.contrib.muon": optax.contrib.muon(1.0),
                "one_sided": fisher.scale_by_fisher("one_sided", options=ours),
                "eigen": fisher.scale_by_fisher("eigen", options=ours),
            },
            leaves([side], 4),
            aspects=(BOTH,),
        )
    many = leaves([(64, 64), (64, 256), (256, 64), (64,), (256,)], 100)
    structures = {name: fisher.scale_by_fisher(name, options=ours) for name in ("diagonal", "eigen", "one_sided")}
    every = {"optax.scale_by_adam": adam, "optax.contrib.muon": optax.contrib.muon(1.0), **structures}
    contend("100 leaves", every, many)
    rounds = 2 if chosen.quick else 9
    every["arithmetic of eigen alone"] = bare_optimiser(SHORTER)
    update = lambda optimiser: lambda: ready(optimiser, [many])
    remarks = compile_remarks(f"{len(many)} leaves", {name: update(x) for name, x in every.items()}, rounds)
    task = workloads.sotu(16).task
    whole = {"optax.adamw": optax.adamw(1e-2), "optax.contrib.muon": optax.contrib.muon(1e-2)}
    whole |= {"fisher_descent": fisher.fisher_descent(1e-2)}
    steps = {name: training_step(task, optimiser) for name, optimiser in whole.items()}
    remarks += compile_remarks("a training step of the language model", steps, rounds)
    remarks.append(
        f"Threads of LAPACK (OPENBLAS_NUM_THREADS): {os.environ.get('OPENBLAS_NUM_THREADS', 'its own choice')}"
    )
    save("bench_fisher", [Row(*row) for row in rows], remarks)


if __name__ == "__main__":
    main()
