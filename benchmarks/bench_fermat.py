"""Fermat: certified A-optimal weights against plain multiplicative weights; exact designs; growth with N and p.

    python benchmarks/bench_fermat.py [--quick]

The full run holds the pool of a million rows (80 MB). Set XLA_FLAGS=--xla_cpu_multi_thread_eigen=false and pin to one core
(taskset -c 0) for the one-core figures.
"""

import jax
import jax.numpy as jnp
import numpy as np
from harness import Contender, compare, options, save

from learnlag_jax import fermat


def pool(N, p):
    return jnp.asarray(np.random.default_rng(0).normal(size=(N, p)))


def multiplicative(F, steps=2000):
    """The textbook algorithm, stopped at the same certificate or after `steps`."""
    N = F.shape[0]

    def body(carry):
        w, _, k = carry
        D = jnp.linalg.inv(F.T @ (F * w[:, None]))
        a = jnp.sum((F @ D) ** 2, 1)
        w = w * jnp.sqrt(a)
        return w / jnp.sum(w), 1 - jnp.trace(D) / jnp.max(a), k + 1

    going = lambda carry: (carry[1] > 1e-6) & (carry[2] < steps)
    return jax.lax.while_loop(going, body, (jnp.full(N, 1 / N), jnp.asarray(1.0), 0))


def main():
    jax.config.update("jax_enable_x64", True)
    arguments = options(__doc__)
    rows, remarks = [], []
    sizes = (
        [(1000, 5), (10_000, 10)]
        if arguments.quick
        else [(1000, 5), (10_000, 10), (100_000, 10), (10_000, 30), (1_000_000, 10)]
    )
    for N, p in sizes:
        F = pool(N, p)
        design = fermat.optimal_weights(F)
        remarks.append(
            f"{N} x {p}: certified gap {float(design.gap):.1e}, support {int(design.support.sum())}, {int(design.steps)} rounds"
        )
        contenders = [Contender("optimal_weights, gap <= 1e-9", fermat.optimal_weights, (F,))]
        if N <= 10_000 and p <= 10:
            contenders.append(
                Contender(
                    "multiplicative, gap <= 1e-6",
                    multiplicative,
                    (F,),
                    note=f"gap reached {float(multiplicative(F)[1]):.1e} in at most 2000 steps",
                )
            )
        rows += compare(
            f"A-optimal weights, {N} x {p}", contenders, rounds=3 if N > 10_000 else min(arguments.rounds, 7)
        )
    for factors, n in ((2, 10), (3, 14)):
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 3)] * factors, indexing="ij"), -1).reshape(-1, factors)
        cross = [grid[:, i] * grid[:, j] for i in range(factors) for j in range(i)]
        F = jnp.asarray(np.column_stack([np.ones(len(grid)), grid, grid**2, *cross]))
        exact = lambda F, n=n: fermat.exact_design(F, n, restarts=20)
        remarks.append(
            f"{factors} quadratic factors, n = {n}: A = {float(exact(F).value):.6f}, certified efficiency {float(exact(F).efficiency):.4f}"
        )
        rows += compare(
            f"exact A design, {factors} quadratic factors, n = {n}",
            [Contender("exact_design, 20 restarts", exact, (F,))],
            rounds=5,
        )
    save("bench_fermat", rows, remarks)


if __name__ == "__main__":
    main()
