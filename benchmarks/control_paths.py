"""Optimal paths of the control benchmark: Riccati sweeps, and the tasks that crocoddyl, trajax and primal_dual_ilqr also solve.

crocoddyl comes from PyPI and runs its own C++ models on one thread. trajax and primal_dual_ilqr are not on PyPI: they run if their
sources are on the path, jitted like ours, on the same cost and dynamics. Every residual is measured alike: the largest entry of
dJ/da along the path of the actions returned.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from harness import Contender, Row, compare

from learnlag_jax import control
from learnlag_jax.control.model import affine
from learnlag_jax.experiments.chapters.control_plants import swing_up


def lq_arrays(d: int, m: int, n: int):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(n, d, d)) / np.sqrt(d)
    B = rng.normal(size=(n, d, m))
    eye = lambda k: np.broadcast_to(np.eye(k), (n, k, k))
    return tuple(jnp.asarray(x) for x in (A, B, eye(d), eye(m)))


def riccati(quick: bool, rounds: int) -> list[Row]:
    """Cost per node, and growth with the horizon; sequential first."""
    rows = []
    sizes = {(4, 1): (100, 1000, 10_000, 100_000), (12, 4): (100, 1000, 10_000), (37, 12): (100,)}
    for (d, m), horizons in sizes.items():
        for n in horizons[: 1 if quick else None]:
            arrays = lq_arrays(d, m, n)
            contenders = [Contender("ours sequential", lambda *x: control.lqr(*x).K, arrays)]
            if n < 10_000:
                steps = int(control.lqr(*arrays, parallel=True).steps)
                tree = lambda *x: control.lqr(*x, parallel=True).K
                contenders.append(Contender("ours parallel", tree, arrays, note=f"{steps} sequential levels"))
            done = compare(f"Riccati d={d} m={m} n={n}", contenders, rounds=rounds)
            rows += [row._replace(note=f"{row.median / n * 1e6:.2f} us a node {row.note}".strip()) for row in done]
    return rows


def crocoddyl_unicycle(n: int, start) -> Callable | None:
    """Its unicycle: x, y, heading; speed and turn rate; dt 0.1; weights 10 on the state and 1 on the action, squared."""
    try:
        import crocoddyl
    except ImportError:
        return None
    model = crocoddyl.ActionModelUnicycle()
    return _crocoddyl(crocoddyl, crocoddyl.ShootingProblem(np.asarray(start), [model] * n, model))


def crocoddyl_lqr(arrays, start) -> Callable | None:
    try:
        import crocoddyl
    except ImportError:
        return None
    A, B, Q, R = (np.asarray(x) for x in arrays)
    d, m = B.shape[1:]
    zeros = np.zeros
    stages = [
        crocoddyl.ActionModelLQR(a, b, q, r, zeros((d, m)), zeros(d), zeros(d), zeros(m))
        for a, b, q, r in zip(A, B, Q, R, strict=True)
    ]
    return _crocoddyl(crocoddyl, crocoddyl.ShootingProblem(np.asarray(start), stages, stages[-1]))


def _crocoddyl(crocoddyl, problem) -> Callable:
    problem.nthreads = 1

    def run():
        solver = crocoddyl.SolverDDP(problem)
        solver.th_stop = 1e-16
        solver.solve([], [], 200)
        return solver

    return run


def jax_peers(problem: control.Problem, s0, guess) -> dict[str, Callable]:
    """trajax and primal_dual_ilqr on the same functions, as (s0) -> (actions, iterations)."""
    n = len(guess)
    # jax dropped this name; both peers still use it
    jax.tree_map = jax.tree.map  # pyright: ignore[reportAttributeAccessIssue]
    cost = lambda x, u, t: jnp.where(
        t == n, -problem.terminal(x, None), -problem.reward(x, u, jnp.asarray(t, jnp.int32), None)
    )
    dynamics = lambda x, u, t: problem.dynamics(x, u, jnp.asarray(t, jnp.int32), None)
    found: dict[str, Callable] = {}
    try:
        from trajax.optimizers import ilqr

        def shooting(s0):
            _, U, _, _, _, _, steps = ilqr(cost, dynamics, s0, guess, maxiter=500, grad_norm_threshold=1e-8)
            return U, steps

        found["trajax ilqr"] = shooting
        from primal_dual_ilqr.optimizers import primal_dual_ilqr

        def primal_dual(s0):
            X = control.rollout(problem, s0, guess)
            limits = {"max_iterations": 500, "slope_threshold": 1e-12, "c_sq_threshold": 1e-16}
            got = primal_dual_ilqr(cost, dynamics, s0, X, guess, jnp.zeros_like(X), **limits)
            return got[1], got[3]

        found["primal_dual_ilqr"] = primal_dual
    except ImportError:
        pass
    return found


def proof(problem: control.Problem, s0, actions) -> str:
    """Residual and cost of actions, whoever found them."""
    states = control.rollout(problem, s0, actions)
    slope = control.stationarity(problem, s0, states, actions, control.costates(problem, states, actions)).action
    cost = -float(control.total_reward(problem, s0, actions))
    return f"residual {float(jnp.max(jnp.abs(slope))):.0e}, cost {cost:.8g}"


def unicycle(n: int):
    """The task of crocoddyl's unicycle."""

    def dynamics(s, a, k, theta):
        return s + 0.1 * jnp.stack([jnp.cos(s[2]) * a[0], jnp.sin(s[2]) * a[0], a[1]])

    problem = control.minimise(
        lambda s, a, k, theta: 50 * jnp.sum(s**2) + 0.5 * jnp.sum(a**2), dynamics, lambda s, theta: 50 * jnp.sum(s**2)
    )
    return problem, jnp.array([-1.0, -1.0, 1.0]), jnp.zeros((n, 2))


def linear(d: int, m: int, n: int):
    """crocoddyl's size of a linear-quadratic problem, written as functions; a unit weight on the last state as well."""
    arrays = lq_arrays(d, m, n)
    A, B = arrays[:2]
    quadratic = lambda x: jnp.sum(x**2) / 2
    problem = control.minimise(
        lambda s, a, k, theta: quadratic(s) + quadratic(a),
        lambda s, a, k, theta: A[k] @ s + B[k] @ a,
        lambda s, theta: quadratic(s),
    )
    return problem, jnp.ones(d), jnp.zeros((n, m)), arrays


def _group(group: str, problem, s0, guess, croco: Callable | None, rounds: int, peers: bool = True) -> list[Row]:
    solve = lambda s0: control.solve(problem, s0, guess, max_steps=500)
    got = solve(s0)
    note = f"{proof(problem, s0, got.actions)}, {int(got.steps)} steps, status {int(got.status)}"
    contenders = [Contender("ours solve", solve, (s0,), note=note)]
    for name, run in jax_peers(problem, s0, guess).items() if peers else ():
        try:
            actions, steps = jax.jit(run)(s0)
        except Exception as error:  # a peer that does not run on this jax is said to, not hidden
            print(f"{name} on {group}: {type(error).__name__}: {str(error)[:200]}")
            continue
        note = f"{proof(problem, s0, actions)}, {int(steps)} steps"
        contenders.append(Contender(name, lambda s0, run=run: run(s0), (s0,), note=note))
    if croco is not None:
        solver = croco()
        note = f"{proof(problem, s0, jnp.asarray(np.array(solver.us)))}, {solver.iter} steps, 1 thread"
        contenders.append(Contender("crocoddyl DDP", lambda: croco().cost, jit=False, note=note))
    return compare(group, contenders, rounds=rounds)


def trajectories(quick: bool, rounds: int) -> list[Row]:
    n = 20
    problem, s0, a0 = unicycle(n)
    rows = _group(f"unicycle, {n} nodes", problem, s0, a0, crocoddyl_unicycle(n, s0), rounds)
    rows += batch(problem, s0, a0, max(3, rounds // 3))
    problem, s0, a0, arrays = linear(*((8, 2, 20) if quick else (37, 12, 100)))
    group = f"linear-quadratic {len(s0)} x {a0.shape[1]} x {len(a0)}"
    croco = crocoddyl_lqr(arrays, s0)
    done = _group(group, problem, s0, a0, croco, rounds, peers=not quick)

    def regulated(s0):
        got = control.lqr(*arrays, Qn=jnp.eye(len(s0)))
        return affine(arrays[0] + arrays[1] @ got.K, jnp.zeros((len(a0), len(s0))), s0)

    rows += done + [
        row._replace(ratio=row.median / done[0].median)
        for row in compare(group, [Contender("ours lqr and path", regulated, (s0,))], rounds=rounds)
    ]
    for name in ("cart-pole", "acrobot"):
        problem, s0, a0 = swing_up(name)
        rows += _group(f"{name} swing-up, {len(a0)} nodes", problem, s0, a0, None, max(3, rounds // 3))
    return rows


def batch(problem, s0, a0, rounds: int, many: int = 256) -> list[Row]:
    """Many starts at once, or one after the other in one program, on as many devices as there are; the peer loops."""
    starts = s0 + 0.1 * jax.random.normal(jax.random.key(0), (many, len(s0)))
    solve = lambda starts: jax.vmap(lambda s: control.solve(problem, s, a0))(starts)
    worst = float(jnp.max(jax.jit(solve)(starts).residual))
    mapped = lambda starts: jax.lax.map(lambda s: control.solve(problem, s, a0), starts)
    contenders = [
        Contender(f"ours, map of {many}", mapped, (starts,), note=f"largest residual {worst:.0e}"),
        Contender(f"ours, vmap of {many}", solve, (starts,)),
    ]
    if jax.device_count() > 1:
        mesh, split = jax.make_mesh((jax.device_count(),), ("start",)), jax.P("start")
        shared = jax.shard_map(mapped, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
        spread = jax.device_put(starts, jax.NamedSharding(mesh, split))
        contenders.append(Contender(f"ours, map on {jax.device_count()} devices", shared, (spread,)))
    runs = [crocoddyl_unicycle(len(a0), s) for s in np.asarray(starts)]
    if runs[0] is not None:
        loop = lambda: [run().cost for run in runs]
        contenders.append(Contender(f"crocoddyl, loop of {many}", loop, jit=False, note="1 thread"))
    return compare(f"unicycle, {len(a0)} nodes, {many} starts", contenders, rounds=rounds)
