"""Decision processes of the control benchmark: the tasks, and the peers that solve them (QuantEcon, mdpsolver, pymdptoolbox).

Each process is solved to a certified gap of 1e-6 (ours) or the peer's own epsilon, 1e-6, and the true error of every answer is
measured against ours at 1e-10. mdpsolver runs in a child process with a time limit, since its process does not always exit by
itself; its own clock around `solve` is reported.
"""

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from harness import Contender, Row, compare  # noqa: E402

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


def inventory(most: int = 12, mean: float = 4.0):
    """A perishable product (De Moor et al. 2022): two ages in stock, one order under way, first in first out.

    Cost 3 an item ordered, 5 an item of demand not met, 7 an item that perishes, 1 an item held; Poisson demand, cut at 2 most.
    """
    size, demands = most + 1, np.arange(2 * most + 1)
    chance = np.cumprod(np.concatenate([[np.exp(-mean)], mean / demands[1:]]))
    old, new, way = np.meshgrid(*[np.arange(size)] * 3, indexing="ij")
    old, new, way = (x.ravel()[:, None, None] for x in (old, new, way))
    order, demand = np.arange(size)[None, :, None], demands[None, None]
    spoiled = np.maximum(old - demand, 0)
    left = np.maximum(new - np.maximum(demand - old, 0), 0)
    missed = np.maximum(demand - old - new, 0)
    cost = 3 * order + 5 * missed + 7 * spoiled + left
    successor = (left * size + way) * size + order
    shape = (size**3, size, len(demands))
    probability = np.broadcast_to(chance / chance.sum(), shape)
    reward = -(np.broadcast_to(cost, shape) * probability).sum(-1)
    return np.broadcast_to(successor, shape).copy(), probability.copy(), reward


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


def toolbox_solver(arrays, discount: float) -> Callable | None:
    """pymdptoolbox's modified policy iteration on sparse matrices, one an action; its stopping rule is on the span."""
    try:
        from mdptoolbox.mdp import PolicyIterationModified
        from scipy.sparse import csr_matrix
    except ImportError:
        return None
    successor, probability, R = arrays
    S, A, K = successor.shape
    rows = np.repeat(np.arange(S), K)
    P = [csr_matrix((probability[:, a].ravel(), (rows, successor[:, a].ravel())), shape=(S, S)) for a in range(A)]

    def run():
        solver = PolicyIterationModified(P, R, discount, epsilon=GAP, max_iter=10**5)  # its checks included
        solver.run()
        return np.asarray(solver.V)

    return run


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


def tasks(quick: bool) -> dict[str, Callable]:
    """Arrays and discount of every process, made when asked for."""
    size, side = (1000, 40) if quick else (10_000, 200)
    return {
        f"garnet {size} x 10 x 10, .99": lambda: (garnet(size, 10, 10), 0.99),
        f"garnet {size} x 10 x 10, .999": lambda: (garnet(size, 10, 10), 0.999),
        f"forest {size}, .99": lambda: (forest(size), 0.99),
        "perishable inventory 13^3 x 13 x 25, .99": lambda: (inventory(), 0.99),
        "FrozenLake 8 x 8, .9999": lambda: (lake(), 0.9999),
        f"pendulum grid {side}^2, .99": lambda: (pendulum_grid(side, 0.99), 0.99),
    }


def processes(quick: bool, rounds: int, scratch: str) -> list[Row]:
    """Each process in a child of its own: what one leaves in the allocator costs the next up to half of its speed."""
    rows = []
    for group in tasks(quick):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
            rows += child.submit(_contest, group, quick, rounds, scratch).result()
    return rows


def _contest(group: str, quick: bool, rounds: int, scratch: str) -> list[Row]:
    """One process, ours and the peers interleaved."""
    arrays, discount = tasks(quick)[group]()
    mdp = control.mdp_sparse(*arrays, discount)
    exact = np.asarray(control.solve_mdp(mdp, tol=1e-10).value)

    def note(v, exact=exact):
        return f"error {np.abs(np.asarray(v) - exact).max():.0e}"

    contenders = []
    for method in ("auto", "modified_policy_iteration", "krylov", "value_iteration", "gauss_seidel"):
        swept = method in ("value_iteration", "gauss_seidel")
        if swept and "pendulum" in group and not quick or method == "gauss_seidel" and "Lake" not in group:
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
    run = toolbox_solver(arrays, discount)
    if run is not None and len(exact) < 3000:
        contenders.append(Contender("pymdptoolbox modified", run, jit=False, note=note(run())))
    done = compare(group, contenders, rounds=rounds)
    return done + mdpsolver_rows(group, arrays, discount, exact, done[0].median, min(rounds, 5), scratch)
