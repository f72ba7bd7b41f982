"""Cost of one update of the Fisher family beside optax and beside the matrix products it needs: time and compile time.

    python benchmarks/bench_fisher.py [--quick] [--rounds N]

Each sample makes as many jitted updates as there are between two refreshes of the bases (10, as by default), from a state that has made ten
already, so that one refresh is paid for. Gradients are random float32 and lie in memory, as a backward pass leaves them.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from harness import Contender, Row, compare, options, save

from learnlag_jax import fisher

STEPS = 10  # the default `refresh`


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


def _turned(A, Q):
    """One refresh of a basis: its products and its QR, and how well the old basis fits."""
    AQ = A @ Q
    fit, new = Q.T @ AQ, jnp.linalg.qr(AQ)[0]
    return new, (new.T @ Q) ** 2, fit


def eigen_arithmetic(gradients):
    """The matrix products of STEPS "eigen" updates with one refresh and nothing else, on the shorter side, one matrix after the other."""

    def one(x):
        m, n = x.shape
        A = x @ x.T / n + jnp.eye(m)
        P, carry, fit = _turned(A, jnp.eye(m))

        def step(state, _):
            x, v, A = state
            A = A + x @ x.T
            g, m = P.T @ x, P.T @ v
            return (P @ (m / (1 + jnp.abs(g))), v, A), None

        return jax.tree.map(jnp.sum, (jax.lax.scan(step, (x, carry @ (x * x), A), length=STEPS)[0], fit))

    return jax.tree.map(one, gradients)


def both_sides_arithmetic(gradients):
    """The same on both sides."""

    def one(x):
        m, n = x.shape
        A, B = x @ x.T / n + jnp.eye(m), x.T @ x / m + jnp.eye(n)
        (P, carry_m, fit_m), (Q, carry_n, fit_n) = _turned(A, jnp.eye(m)), _turned(B, jnp.eye(n))
        v = carry_m @ (x * x) @ carry_n.T

        def step(state, _):
            x, v, A, B = state
            A, B = A + x @ x.T, B + x.T @ x
            g, m = P.T @ (x @ Q), P.T @ (v @ Q)  # a gradient and a momentum into the bases, the step back
            return (P @ (m / (1 + jnp.abs(g))) @ Q.T, v, A, B), None

        return jax.tree.map(jnp.sum, (jax.lax.scan(step, (x, v, A, B), length=STEPS)[0], fit_m, fit_n))

    return jax.tree.map(one, gradients)


def one_sided_arithmetic(gradients):
    """Five steps of an odd quintic on the shorter side, STEPS times: 5 (4 m^2 n + 2 m^3) multiplications and additions."""

    def step(x, _):
        for _ in range(5):
            gram = x @ x.T
            x = 1.9 * x + (0.4 * (gram @ gram) - 1.3 * gram) @ x
        return x, None

    return jax.tree.map(lambda x: jnp.sum(jax.lax.scan(step, x / jnp.linalg.norm(x), length=STEPS)[0]), gradients)


def main() -> None:
    chosen = options(__doc__.splitlines()[0])
    rows = []
    shape = (64, 256) if chosen.quick else (256, 1024)
    big = leaves([shape], 6)
    alone = fisher.FisherOptions(refresh=STEPS, skip_nonfinite=False)
    ours = fisher.FisherOptions(refresh=STEPS)

    def contend(group, optimisers, gradients, **bare):
        rows_of = [jax.tree.map(lambda g, k=k: g * (1 + 0.1 * k), gradients) for k in range(STEPS)]
        prepared = {name: ready(optimiser, rows_of) for name, optimiser in optimisers.items()}
        contenders = [Contender(name, stepped, (r.update, r.state, rows_of), jit=False) for name, r in prepared.items()]
        contenders += [Contender(name, run, (gradients,)) for name, run in bare.items()]
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
        **{
            "products of one_sided alone": one_sided_arithmetic,
            "products of eigen alone": eigen_arithmetic,
            "products of eigen, both sides, alone": both_sides_arithmetic,
        },
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
        )
    many = leaves([(64, 64), (64, 256), (256, 64), (64,), (256,)], 100)
    compiled = contend(
        "100 leaves (compile column)",
        {
            "optax.scale_by_adam": adam,
            "optax.contrib.muon": optax.contrib.muon(1.0),
            "diagonal": fisher.scale_by_fisher("diagonal", options=ours),
            "eigen": fisher.scale_by_fisher("eigen", options=ours),
            "one_sided": fisher.scale_by_fisher("one_sided", options=ours),
        },
        many,
    )
    remarks = [
        f"Compile time of 100 leaves over Adam's: {r.name} {r.compile / compiled[0].compile:.2f}" for r in compiled[1:]
    ]
    save("bench_fisher", [Row(*row) for row in rows], remarks)


if __name__ == "__main__":
    main()
