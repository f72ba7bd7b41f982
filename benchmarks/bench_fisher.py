"""Cost of one update of the Fisher family beside optax and beside the matrix products it needs: time and compile time.

    python benchmarks/bench_fisher.py [--quick] [--rounds N]

Each call makes as many updates as there are between two refreshes of the bases (5), so that refreshes are paid for. Gradients are
random float32; states follow one another inside a scan, as in training.
"""

import jax
import jax.numpy as jnp
import optax
from harness import Contender, Row, compare, options, save

from learnlag_jax import fisher

STEPS = 5


def leaves(shapes, count: int) -> dict[str, jax.Array]:
    """`count` leaves that cycle through `shapes`."""
    keys = jax.random.split(jax.random.key(0), count)
    return {f"{i:03d}": jax.random.normal(k, shapes[i % len(shapes)], jnp.float32) for i, k in enumerate(keys)}


def updates(optimiser: optax.GradientTransformation):
    """STEPS updates in a row from the first state; gradients differ from step to step."""

    def run(gradients):
        def step(state, k):
            varied = jax.tree.map(lambda g: g * (1 + 0.1 * k), gradients)
            update, state = optimiser.update(varied, state, gradients)
            return state, jax.tree.map(jnp.sum, update)

        return jax.lax.scan(step, optimiser.init(gradients), jnp.arange(STEPS, dtype=jnp.float32))[1]

    return run


def eigen_arithmetic(gradients):
    """The matrix products of STEPS "eigen" updates and nothing else: two moments, three rotations on both sides, one QR step."""

    def one(x):
        m, n = x.shape
        left, right = jnp.eye(m) + x @ x.T / n, jnp.eye(n) + x.T @ x / m

        def step(x, _):
            a, b = x @ x.T, x.T @ x
            for _ in range(3):
                x = left @ (x @ right)
            return x / jnp.max(jnp.abs(x)) + a[:, :1] + b[:1], None

        q, r = jnp.linalg.qr(left @ left)[0], jnp.linalg.qr(right @ right)[0]
        return jnp.sum(jax.lax.scan(step, x, length=STEPS)[0]) + jnp.sum(q) + jnp.sum(r)

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
        contenders = [Contender(name, updates(optimiser), (gradients,)) for name, optimiser in optimisers.items()]
        contenders += [Contender(name, run, (gradients,)) for name, run in bare.items()]
        found = compare(group, contenders, rounds=chosen.rounds)
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
            "eigen, shorter side": fisher.scale_by_fisher("eigen", options=ours._replace(aspect=2)),
        },
        big,
        **{"products of one_sided alone": one_sided_arithmetic, "products of eigen alone": eigen_arithmetic},
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
