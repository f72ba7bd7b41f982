"""The hall beside hand-derived equations, the Lagrangian-neural-network recipe, diffrax and sympy.

    python benchmarks/bench_variation.py [--quick] [--rounds N]      (needs the extra "bench")

Every group is one task in both precisions. The FLOP counts are the compiler's own.
"""

import time

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import sympy
from harness import Contender, Row, compare, options, save

from learnlag_jax import variation

GRAVITY = 9.81


def double(t, q, v):
    """The double pendulum as a textbook writes its Lagrangian, unit masses and lengths."""
    (a, b), (u, w) = (q[0], q[1]), (v[0], v[1])
    return u**2 + w**2 / 2 + u * w * jnp.cos(a - b) + GRAVITY * (2 * jnp.cos(a) + jnp.cos(b))


def pendulums(t, q, v):
    """A chain of unit pendulums in O(n): works for any number of links, two of them are the double pendulum."""
    x, y = jnp.cumsum(jnp.cos(q) * v), jnp.cumsum(jnp.sin(q) * v)
    return jnp.sum(x**2 + y**2) / 2 + GRAVITY * jnp.sum(jnp.cumsum(jnp.cos(q)))


def by_hand(q, v):
    """The double pendulum's accelerations as a textbook writes them, unit masses and lengths."""
    (a, b), (u, w) = (q[0], q[1]), (v[0], v[1])
    s, c = jnp.sin(a - b), jnp.cos(a - b)
    f = -(w**2) * s - 2 * GRAVITY * jnp.sin(a)
    g = u**2 * s - GRAVITY * jnp.sin(b)
    return jnp.stack([f - c * g, 2 * g - c * f]) / (2 - c**2)


def neural_recipe(L):
    """What Lagrangian neural networks do: all Hessian blocks and a pseudo-inverse."""

    def acceleration(q, v):
        autonomous = lambda q, v: L(0.0, q, v)
        mass = jax.hessian(autonomous, 1)(q, v)
        mixed = jax.jacobian(jax.jacobian(autonomous, 1), 0)(q, v)
        return jnp.linalg.pinv(mass) @ (jax.grad(autonomous, 0)(q, v) - mixed @ v)

    return acceleration


def symbolic():
    """The same accelerations from sympy's Lagrange equations, compiled to NumPy with shared subexpressions."""
    t = sympy.symbols("t")
    q = [sympy.Function(n)(t) for n in "ab"]
    v = [x.diff(t) for x in q]
    Q, V = sympy.symbols("a b"), sympy.symbols("u w")
    plain = list(zip(v, V, strict=True)) + list(zip(q, Q, strict=True))
    vx = [sympy.cos(x) * u for x, u in zip(q, v, strict=True)]
    vy = [sympy.sin(x) * u for x, u in zip(q, v, strict=True)]
    kinetic = (vx[0] ** 2 + vy[0] ** 2 + (vx[0] + vx[1]) ** 2 + (vy[0] + vy[1]) ** 2) / 2
    L = (kinetic + GRAVITY * (2 * sympy.cos(q[0]) + sympy.cos(q[1]))).subs(plain)
    slope = sympy.Matrix([L.diff(u) for u in V])
    mass = slope.jacobian(V)
    force = sympy.Matrix([L.diff(x) for x in Q]) - slope.jacobian(Q) * sympy.Matrix(V)
    return sympy.lambdify([*Q, *V], list(mass.LUsolve(force)), "numpy", cse=True)


def states(count: int, n: int, dtype):
    return tuple(jax.random.normal(jax.random.key(i), (count, n), dtype) for i in range(2))


def double_pendulum(dtype, count: int, rounds: int) -> list[Row]:
    q, v = states(count, 2, dtype)
    derived = lambda L: jax.vmap(lambda q, v: variation.acceleration(L)(jnp.zeros((), dtype), q, v))
    ours, chain = derived(double), derived(pendulums)
    hand, recipe, lambdified = jax.vmap(by_hand), jax.vmap(neural_recipe(double)), symbolic()
    columns = [np.asarray(x) for x in (q[:, 0], q[:, 1], v[:, 0], v[:, 1])]
    reference = np.asarray(hand(q, v))
    for name, found in (
        ("ours", ours(q, v)),
        ("chain", chain(q, v)),
        ("recipe", recipe(q[:1000], v[:1000])),
        ("sympy", np.stack(lambdified(*columns), 1)),
    ):
        error = np.max(np.abs(np.asarray(found) - reference[: len(found)])) / np.max(np.abs(reference))
        assert error < 1e3 * jnp.finfo(dtype).eps, (name, error)
    return compare(
        f"accelerations of a double pendulum, {count} states, {dtype.__name__}",
        [
            Contender("derived from L", ours, (q, v)),
            Contender("by hand", hand, (q, v)),
            Contender("Hessian and pinv", recipe, (q, v)),
            Contender("sympy, lambdified to NumPy", lambda: lambdified(*columns), (), jit=False, note="one thread"),
            Contender("derived from L with cumsum", chain, (q, v), note="L of a chain of n links, at n = 2"),
        ],
        rounds=rounds,
    )


def flops(f, *arguments) -> float:
    return jax.jit(f).lower(*arguments).compile().cost_analysis()["flops"]


def residual_work(dtype, links: int) -> tuple[list[Row], str]:
    """FLOPs of the residual as a multiple of those of L, and the time of a thousand points."""
    q, v = states(1000, links, dtype)
    t = jnp.zeros((), dtype)
    L = jax.vmap(lambda q, v: pendulums(t, q, v))
    E = jax.vmap(lambda q, v, a: variation.euler_lagrange(pendulums)(t, q, v, a))
    ratio = flops(E, q, v, q) / flops(L, q, v)
    rows = compare(
        f"residual of {links} links, 1000 points, {dtype.__name__}",
        [Contender("residual", E, (q, v, q), note=f"{ratio:.2f} x the FLOPs of L"), Contender("L alone", L, (q, v))],
        rounds=9,
    )
    return rows, f"{dtype.__name__}: residual FLOPs are {ratio:.2f} times those of L for {links} links (target 4.5)"


def coupled(t, q, v):
    """Masses that share their velocities with their neighbours: the mass matrix is tridiagonal."""
    return jnp.sum(v**2) + jnp.sum(v[1:] * v[:-1]) / 4 - jnp.sum((q[1:] - q[:-1]) ** 2) / 2 - jnp.sum(q**4) / 4


def large_mass(dtype, n: int, rounds: int) -> list[Row]:
    q, v = (x[0] for x in states(1, n, dtype))
    solve = lambda mass: lambda q, v: variation.acceleration(coupled, mass=mass)(jnp.zeros((), dtype), q, v)
    dense = solve("dense")(q, v)
    for mass in ("tridiagonal", "cg"):
        assert jnp.max(jnp.abs(solve(mass)(q, v) - dense)) < 1e4 * jnp.finfo(dtype).eps * jnp.max(jnp.abs(dense))
    contenders = [Contender(mass, solve(mass), (q, v)) for mass in ("tridiagonal", "cg", "dense")]
    return compare(f"acceleration of a chain of {n}, {dtype.__name__}", contenders, rounds=rounds)


def boundary(dtype, sizes, rounds: int) -> tuple[list[Row], list[str]]:
    """A pendulum between two angles: the same physical path with ever more intervals."""
    L = lambda t, q, v: v**2 / 2 + jnp.cos(q)
    ends = jnp.zeros((), dtype), jnp.ones((), dtype)
    solve = lambda n: lambda a, b: variation.stationary_path(L, a, b, 0.0, 2.0, intervals=n)[:5]
    answers = [jax.jit(solve(n))(*ends) for n in sizes]
    assert all((int(a[2]), int(a[4])) == (0, 0) for a in answers), "not solved, or not a minimum"
    middle = [float(a[0][n // 2]) for a, n in zip(answers, sizes, strict=True)]
    assert max(middle) - min(middle) < 10 / sizes[0] ** 2 + 100 * jnp.finfo(dtype).eps, middle
    steps = [int(a[3]) for a in answers]
    found = compare(
        f"boundary problem, {dtype.__name__}",
        [
            Contender(f"{n} intervals", solve(n), ends, note=f"{k} Newton steps")
            for n, k in zip(sizes, steps, strict=True)
        ],
        rounds=rounds,
    )
    each = [_cpu(jax.jit(solve(n)), ends) / n / k * 1e6 for n, k in zip(sizes, steps, strict=True)]
    text = ", ".join(f"{e:.3g} us at {n}" for e, n in zip(each, sizes, strict=True))
    return found, [f"{dtype.__name__}: processor time per interval and Newton step {text} (linear in N: the same)"]


def _cpu(call, arguments, repeats: int = 7) -> float:
    """Processor seconds of one call: what a busy machine does not change."""
    jax.block_until_ready(call(*arguments))
    times = []
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(call(*arguments))
        times.append(time.process_time() - start)
    return float(np.median(times))


def integration(rounds: int, stop: float) -> tuple[list[Row], list[str]]:
    """The double pendulum swinging, to the same final error, with diffrax on the accelerations the hall derives."""
    q0, rest = jnp.array([1.0, 1.2]), jnp.zeros(2)
    field = variation.acceleration(double)
    flow = diffrax.ODETerm(lambda t, y, _: (y[1], field(t, *y)))

    def peer(solver):
        def run(q0, tolerance):
            control = diffrax.PIDController(rtol=tolerance, atol=tolerance)
            solution = diffrax.diffeqsolve(
                flow, solver, 0.0, stop, 1e-3, (q0, rest), stepsize_controller=control, max_steps=1_000_000
            )
            return solution.ys[0][-1]

        return run

    def ours(steps, stages):
        Ld = variation.discrete_lagrangian(double, stop / steps, rule="gauss", stages=stages)

        def run(q0):
            q1 = variation.first_step(Ld, q0, rest).value
            return variation.integrate(Ld, q0, q1, steps - 1)[-1]

        return run

    truth = jax.jit(peer(diffrax.Dopri8()))(q0, 1e-13)
    tsit, steps, rows, remarks = jax.jit(peer(diffrax.Tsit5())), int(stop * 20), [], []
    distance = lambda q: float(jnp.max(jnp.abs(q - truth)))
    tolerances = 10.0 ** -np.arange(3, 13)
    reached = [distance(tsit(q0, t)) for t in tolerances]
    for stages in (1, 2):
        error = distance(jax.jit(ours(steps, stages))(q0))
        chosen = next(t for t, e in zip(tolerances, reached, strict=True) if e <= error)
        rows += compare(
            f"double pendulum for {stop:g} time units to an error of {error:.1e}",
            [
                Contender(f"integrate, gauss {stages} stages, {steps} steps", ours(steps, stages), (q0,)),
                Contender(f"diffrax Tsit5, tolerance {chosen:.0e}", peer(diffrax.Tsit5()), (q0, chosen)),
            ],
            rounds=rounds,
        )
        remarks.append(
            f"gauss {stages} stages against diffrax Tsit5 at the same error: diffrax takes {rows[-1].ratio:.2f} of our time"
        )
    last = (
        "Ours is symplectic (energy and momenta without drift); where that is not needed, use diffrax on `acceleration`"
    )
    return rows, [*remarks, last]


def main() -> None:
    chosen = options(__doc__.splitlines()[0])
    jax.config.update("jax_enable_x64", True)
    few = min(chosen.rounds, 9)
    rows: list[Row] = []
    remarks: list[str] = []

    def record(more, said=()):
        rows.extend(more)
        remarks.extend(said)
        save("bench_variation" + ("_quick" if chosen.quick else ""), rows, remarks)

    for dtype in (jnp.float32, jnp.float64):
        record(double_pendulum(dtype, 20_000 if chosen.quick else 200_000, few))
        more, remark = residual_work(dtype, 32)
        record(more, [remark])
        record(large_mass(dtype, 256 if chosen.quick else 1024, few))
        record(*boundary(dtype, (40, 400, 4000) if chosen.quick else (400, 4000, 40000), few))
    record(*integration(few, 2.0 if chosen.quick else 10.0))


if __name__ == "__main__":
    main()
