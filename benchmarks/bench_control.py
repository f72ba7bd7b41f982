"""Control against named peers, interleaved: decision processes (QuantEcon, mdpsolver) and trajectories (crocoddyl).

    python benchmarks/bench_control.py [--quick] [--rounds N]

Peers that are not installed are left out. mdpsolver runs in a child process with a time limit, since its process does not always
exit by itself; its own clock around `solve` is reported. Each decision process is solved to a certified gap of 1e-6 (ours) or the
peer's own epsilon, 1e-6, and the true error of every answer is measured against ours at 1e-10.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from harness import Contender, Row, compare, options, save  # noqa: E402

from learnlag_jax import control  # noqa: E402

GAP = 1e-6


def garnet(S: int, A: int, K: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, S, (S, A, K)), rng.dirichlet(np.ones(K), (S, A)), rng.normal(size=(S, A))


def forest(S: int, fire: float = 0.1):
    successor, probability, R = np.zeros((S, 2, 2), int), np.zeros((S, 2, 2)), np.zeros((S, 2))
    successor[:, 0, 1] = np.minimum(np.arange(S) + 1, S - 1)
    probability[:, 0], probability[:, 1] = (fire, 1 - fire), (1, 0)
    R[S - 1, 0], R[1:, 1], R[S - 1, 1] = 4.0, 1.0, 2.0
    return successor, probability, R


def pendulum_grid(n: int, discount: float):
    """Angle x rate x 7 torques, bilinear interpolation."""

    def dynamics(s, a, k, theta):
        return jnp.stack([s[0] + 0.05 * s[1], s[1] + 0.05 * (-9.81 * jnp.sin(s[0]) - 0.1 * s[1] + a[0])])

    def reward(s, a, k, theta):
        return -(1 + jnp.cos(s[0])) - 0.01 * a[0] ** 2 - 0.01 * s[1] ** 2

    axes = [jnp.arange(n) * 2 * np.pi / n, jnp.linspace(-8, 8, n)]
    torques = jnp.linspace(-3, 3, 7)[:, None]
    problem = control.Problem(reward, dynamics)
    mdp = control.mdp_from_problem(problem, axes, torques, discount, periodic=[True, False])
    return np.asarray(mdp.transition.successor), np.asarray(mdp.transition.probability), np.asarray(mdp.reward)


def lake():
    import gymnasium

    mdp = control.mdp_from_gymnasium(gymnasium.make("FrozenLake-v1", map_name="8x8").unwrapped, 0.99, dtype="float64")
    successor, probability, R = (np.asarray(x) for x in (*mdp.transition, mdp.reward))
    # peers want rows that sum to one: what ends goes to an extra state that pays nothing
    S, A, K = successor.shape
    ended = 1 - probability.sum(-1, keepdims=True)
    successor = np.concatenate([successor, np.full((S, A, 1), S)], -1)
    probability = np.concatenate([probability, np.maximum(ended, 0)], -1)
    sink = np.full((1, A, K + 1), S), np.eye(K + 1)[np.zeros((1, A), int)]
    return np.concatenate([successor, sink[0]]), np.concatenate([probability, sink[1]]), np.concatenate([R, 0 * R[:1]])


def quantecon_solver(arrays, discount: float, method: str) -> Callable | None:
    try:
        from quantecon.markov import DiscreteDP
        from scipy.sparse import csr_matrix
    except ImportError:
        return None
    successor, probability, R = arrays
    S, A, K = successor.shape
    rows = np.repeat(np.arange(S * A), K)
    Q = csr_matrix((probability.ravel(), (rows, successor.ravel())), shape=(S * A, S))
    process = DiscreteDP(R.ravel(), Q, discount, np.repeat(np.arange(S), A), np.tile(np.arange(A), S))
    return lambda: process.solve(method=method, epsilon=GAP, max_iter=10**6).v


CHILD = """
import sys, json, time, numpy as np, mdpsolver
data = np.load(sys.argv[1]); s, p, R, g = data["s"], data["p"], data["R"], float(data["g"])
times = []
for _ in range(int(sys.argv[3])):
    model = mdpsolver.model()
    model.mdp(discount=g, rewards=R.tolist(), tranMatProbs=p.tolist(), tranMatColumns=s.tolist())
    start = time.perf_counter(); model.solve(algorithm=sys.argv[2], tolerance=1e-6, verbose=False)
    times.append(time.perf_counter() - start)
v = [model.getValue(i) for i in range(len(R))]
print(json.dumps([times, list(map(float, v))]), flush=True)
import os; os._exit(0)
"""


def mdpsolver_rows(
    group: str, arrays, discount: float, exact, reference: float, rounds: int, scratch: str
) -> list[Row]:
    """Run in a child with a limit; its own clock around `solve`."""
    try:
        import mdpsolver  # noqa: F401
    except ImportError:
        return []
    successor, probability, R = arrays
    path = f"{scratch}/process.npz"
    np.savez(path, s=successor, p=probability, R=R, g=discount)
    rows = []
    for algorithm in ("mpi", "pi"):
        command = [sys.executable, "-c", CHILD, path, algorithm, str(rounds)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            times, v = json.loads(done.stdout.splitlines()[-1])
        except (subprocess.SubprocessError, ValueError, IndexError) as error:
            print(f"mdpsolver {algorithm}: {type(error).__name__}")
            continue
        low, median, high = np.quantile(times, [0.25, 0.5, 0.75])
        note = f"error {np.abs(np.asarray(v) - exact).max():.0e}"
        rows.append(Row(group, f"mdpsolver {algorithm}", median / reference, median, low, high, 0.0, note))
    return rows


def processes(quick: bool, rounds: int, scratch: str) -> list[Row]:
    size = 1000 if quick else 10_000
    tasks = {
        "garnet 2000 x 10 x 10, .99": (garnet(2000, 10, 10), 0.99),
        f"garnet {size} x 10 x 10, .99": (garnet(size, 10, 10), 0.99),
        f"garnet {size} x 10 x 10, .999": (garnet(size, 10, 10), 0.999),
        f"forest {size}, .99": (forest(size), 0.99),
        "FrozenLake 8 x 8, .9999": (lake(), 0.9999),
        f"pendulum grid {40 if quick else 200}^2, .99": (pendulum_grid(40 if quick else 200, 0.99), 0.99),
    }
    rows = []
    for group, (arrays, discount) in tasks.items():
        mdp = control.mdp_sparse(*arrays, discount)
        exact = np.asarray(control.solve_mdp(mdp, tol=1e-10).value)

        def note(v, exact=exact):
            return f"error {np.abs(np.asarray(v) - exact).max():.0e}"

        contenders = []
        for method in ("auto", "modified_policy_iteration", "krylov", "value_iteration"):
            if method == "value_iteration" and "pendulum" in group and not quick:
                continue
            answer = control.solve_mdp(mdp, method=method, tol=GAP)
            work = f"{int(answer.steps)} sweeps of T, {int(answer.sweeps)} of T_pi, gap {float(jnp.max(answer.upper - answer.lower)):.0e}"
            run = lambda mdp, method=method: control.solve_mdp(mdp, method=method, tol=GAP).value
            contenders.append(Contender(f"ours {method}", run, (mdp,), note=f"{note(answer.value)}, {work}"))
        for method in ("modified_policy_iteration", "value_iteration", "policy_iteration"):
            run = quantecon_solver(arrays, discount, method)
            slow = method == "policy_iteration" and (len(exact) > 2001 or "garnet" in group)
            slow |= method == "value_iteration" and (len(exact) > 3000 or discount > 0.995)
            if run is not None and not slow:
                contenders.append(Contender(f"quantecon {method}", run, jit=False, note=note(run())))
        done = compare(group, contenders, rounds=rounds)
        rows += done + mdpsolver_rows(group, arrays, discount, exact, done[0].median, min(rounds, 5), scratch)
    return rows


def lq_arrays(d: int, m: int, n: int, dtype=np.float64):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(n, d, d)) / np.sqrt(d)
    B = rng.normal(size=(n, d, m))
    eye = lambda k: np.broadcast_to(np.eye(k), (n, k, k))
    return tuple(jnp.asarray(x, dtype) for x in (A, B, eye(d), eye(m)))


def riccati(quick: bool, rounds: int) -> list[Row]:
    """Cost per node, and growth with the horizon; sequential first."""
    rows = []
    for d, m in ((4, 1), (12, 4), (37, 12)):
        for n in (100, 1000, 10_000):
            if n > 1000 and (quick or d > 4) or n > 100 and d == 37:
                continue
            arrays = lq_arrays(d, m, n)
            gains = lambda *x: control.lqr(*x).K
            tree = lambda *x: control.lqr(*x, parallel=True).K
            steps = int(control.lqr(*arrays, parallel=True).steps)
            contenders = [
                Contender("ours sequential", gains, arrays, note=f"per node below: median / {n}"),
                Contender("ours parallel", tree, arrays, note=f"{steps} sequential levels"),
            ]
            rows += compare(f"Riccati d={d} m={m} n={n}", contenders, rounds=rounds)
    return rows


def unicycle(n: int):
    """crocoddyl's unicycle: x, y, heading; speed and turn rate; dt 0.1; weights 10 on the state and 1 on the action."""

    def dynamics(s, a, k, theta):
        return s + 0.1 * jnp.stack([jnp.cos(s[2]) * a[0], jnp.sin(s[2]) * a[0], a[1]])

    problem = control.minimise(
        lambda s, a, k, theta: 50 * jnp.sum(s**2) + 0.5 * jnp.sum(a**2), dynamics, lambda s, theta: 50 * jnp.sum(s**2)
    )
    return problem, jnp.array([-1.0, -1.0, 1.0]), jnp.zeros((n, 2))


def crocoddyl_unicycle(n: int):
    try:
        import crocoddyl
    except ImportError:
        return None
    model = crocoddyl.ActionModelUnicycle()
    problem = crocoddyl.ShootingProblem(np.array([-1.0, -1.0, 1.0]), [model] * n, model)
    problem.nthreads = 1

    def run(iterations=200):
        solver = crocoddyl.SolverDDP(problem)
        solver.th_stop = 1e-16
        solver.solve([], [], iterations)
        return solver

    return run


def trajectories(rounds: int) -> list[Row]:
    n = 20
    problem, s0, a0 = unicycle(n)
    solve = lambda s, a: control.solve(problem, s, a)
    answer = solve(s0, a0)
    ours = f"residual {float(answer.residual):.0e}, {int(answer.steps)} steps, cost {-float(answer.value):.10g}"
    contenders = [Contender("ours solve", lambda s, a: solve(s, a).actions, (s0, a0), note=ours)]
    run = crocoddyl_unicycle(n)
    starts = s0 + 0.1 * jax.random.normal(jax.random.key(0), (256, 3))
    batch = lambda s: jax.vmap(lambda s: solve(s, a0).actions)(s)
    worst = float(jnp.max(jax.jit(jax.vmap(lambda s: solve(s, a0).residual))(starts)))
    many = [Contender("ours, vmap of 256", batch, (starts,), note=f"largest residual {worst:.0e}")]
    if run is not None:
        solver = run()
        actions = jnp.asarray(np.array(solver.us))
        states = control.rollout(problem, s0, actions)
        lam = control.costates(problem, states, actions)
        residual = float(jnp.max(jnp.abs(control.stationarity(problem, s0, states, actions, lam).action)))
        note = f"residual {residual:.0e}, {solver.iter} steps, cost {solver.cost:.10g}, 1 thread"
        contenders.append(Contender("crocoddyl DDP", lambda: run().cost, jit=False, note=note))
        single = lambda: [run().cost for _ in range(256)]
        many.append(Contender("crocoddyl, loop of 256", single, jit=False, note="1 thread"))
    rows = compare(f"unicycle, {n} nodes", contenders, rounds=rounds)
    return rows + compare(f"unicycle, {n} nodes, 256 starts", many, rounds=max(3, rounds // 3))


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
    import tempfile

    chosen = options(__doc__.splitlines()[0])
    with tempfile.TemporaryDirectory() as scratch:
        rows = processes(chosen.quick, chosen.rounds, scratch)
    rows += riccati(chosen.quick, chosen.rounds) + trajectories(chosen.rounds) + scale(chosen.quick)
    remarks = [
        "Time to a certified gap of 1e-6 (ours) against the peers' own stopping rules at 1e-6; 'error' is the largest true "
        "error of the values returned. Compile time apart.",
        "mdpsolver runs in a child process; its own clock around solve, threads as it chooses: on a busy machine they spin.",
        "quantecon policy iteration is left out where one run takes seconds (sparse direct solves).",
    ]
    if not chosen.quick:
        save("bench_control", rows, remarks)


if __name__ == "__main__":
    main()
