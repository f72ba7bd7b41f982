"""Chapter "control", second half: values. Bellman's equation on the gymnasium tables (eq. 19, 20), with bounds at every sweep, and their gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import control
from learnlag_jax.experiments.claims import Claim, Settings, Table


def claim(equation, statement, pair, tolerance, source, control_text) -> Claim:
    """A claim from the residuals of the right and of the broken version."""
    return Claim(equation, statement, float(pair[0]), tolerance, source, control_text, float(pair[1]))


class Closing(NamedTuple):
    """Bounds at the start state of the lake, sweep by sweep, for value iteration."""

    sweeps: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    plain: np.ndarray
    exact: control.Values


def closing_bounds(mdp: control.MDP) -> Closing:
    exact = control.solve_mdp(mdp, tol=1e-11)

    @jax.jit
    def sweeps(mdp, v):
        T = control.bellman(mdp)
        return jax.lax.scan(lambda v, _: (T(v), (control.bounds(mdp, v), v)), v, length=200)[1]

    (lower, upper), v = sweeps(mdp, jnp.zeros_like(exact.value))
    return Closing(np.arange(1, 201), np.asarray(lower), np.asarray(upper), np.asarray(v), exact)


def bellman_claims(lake, taxi, closing: Closing, settings: Settings) -> list[Claim]:
    """The fixed point of eq. 19, its policy (eq. 20), its bounds, and learning it from samples."""
    exact = closing.exact
    mdp = control.mdp_from_gymnasium(lake.content, 0.99, dtype="float64")
    other = control.mdp_from_gymnasium(lake.content, 0.98, dtype="float64")
    hastier = control.solve_mdp(other, tol=1e-11)
    outside = [
        float(np.max(np.maximum(np.maximum(closing.lower - x, x - closing.upper), 0)))
        for x in (np.asarray(exact.value), np.asarray(hastier.value))
    ]
    largest = lambda x, y: float(np.max(np.abs(np.asarray(x) - np.asarray(y))))
    gap = max(largest(exact.upper, exact.lower), 1e-11)
    methods = ("value_iteration", "modified_policy_iteration")
    answers = [control.solve_mdp(mdp, method=method, tol=1e-9) for method in methods]
    apart = max(largest(answer.value, exact.value) for answer in answers)
    wrong = largest(hastier.value, exact.value)
    swept = jax.jit(lambda mdp, v: control.bellman(mdp)(v))
    fixed, unfixed = (largest(swept(process, exact.value), exact.value) for process in (mdp, other))
    policies = np.asarray(exact.policy), np.zeros(exact.policy.shape)
    success = [_success_rate(lake.content, mdp, policy) for policy in policies]

    discount = 0.9 if settings.quick else 0.99
    cab = control.mdp_from_gymnasium(taxi.content, discount, dtype="float64")
    sure = control.solve_mdp(cab, tol=1e-9)
    learn = jax.jit(
        lambda key, mdp: control.q_learning(key, mdp, steps=150_000, rate=0.0, explore=1.0, restart=0.2, tol=1e-6)
    )
    keys = jax.random.split(jax.random.key(settings.seed), 2)
    learned = [
        learn(key, process) for key, process in zip(keys, (cab, _bootstrapped(taxi.content, discount)), strict=True)
    ]
    reached = [largest(np.max(q.value, 1), sure.value) for q in learned]
    return [
        claim(
            "eq. 19",
            "FrozenLake 8 x 8: the values found are a fixed point of Bellman's operator",
            [fixed, unfixed],
            gap,
            "the certified gap between upper and lower bound",
            "the operator of another discount, 0.98",
        ),
        claim(
            "eq. 19",
            "Lower and upper bounds contain the optimal values at every one of 200 sweeps",
            outside,
            gap,
            "the certified gap of the reference values",
            "the optimum for the discount 0.98",
        ),
        claim(
            "eq. 19",
            "Value iteration and modified policy iteration reach the same values",
            [apart, wrong],
            1e-9 + gap,
            "half of both certified gaps",
            "the discount 0.98",
        ),
        claim(
            "eq. 20",
            "The greedy policy earns the optimal value when its chain is solved as a linear system",
            [abs(x - float(exact.value[0])) for x in success],
            gap,
            "its own lower bound: the certified gap",
            "the policy that always goes left",
        ),
        claim(
            "eq. 19, 20",
            "Taxi: Q-learning, which sees samples only, reaches the certified optimal values",
            reached,
            1e-8,
            "transitions are certain, so only rounding and the certified gap 1e-9 are left",
            "learning that bootstraps from terminal states",
        ),
    ]


def _bootstrapped(environment, discount: float) -> control.MDP:
    """The mistake to be caught: ends of episodes ignored."""
    table = {
        s: {a: [(p, after, r, False) for p, after, r, _ in outcomes] for a, outcomes in actions.items()}
        for s, actions in environment.P.items()
    }
    return control.mdp_from_gymnasium(table, discount, dtype="float64")


def _success_rate(environment, mdp: control.MDP, policy) -> float:
    """Discounted value of a policy at state 0 from the raw table and a dense linear solve: independent of the solver."""
    S = len(environment.P)
    P, r = np.zeros((S, S)), np.zeros(S)
    for s in range(S):
        for p, after, reward, ended in environment.P[s][int(policy[s])]:
            r[s] += p * reward
            P[s, after] += 0.0 if ended else p
    return float(np.linalg.solve(np.eye(S) - float(mdp.discount) * P, r)[0])


def solver_table(lake, taxi) -> Table:
    rows = []
    for name, dataset, discount in (
        ("FrozenLake 8 x 8", lake, 0.99),
        ("FrozenLake 8 x 8", lake, 0.9999),
        ("Taxi", taxi, 0.99),
    ):
        mdp = control.mdp_from_gymnasium(dataset.content, discount, dtype="float64")
        for method in ("value_iteration", "modified_policy_iteration"):
            got = control.solve_mdp(mdp, method=method, tol=1e-6)
            gap = float(np.max(np.asarray(got.upper) - np.asarray(got.lower)))
            rows.append((name, discount, method.replace("_", " "), int(got.steps), int(got.sweeps), f"{gap:.1e}"))
    header = ("process", "discount", "method", "sweeps of T", "sweeps of T_pi", "certified gap (reward)")
    return Table("Work until upper - lower is at most 1e-6 in every state.", header, tuple(rows))


def _regulator(dt: float):
    """ds/dt = a, cost s^2 + a^2 for all time: V = s^2, HJB gradient 2 s; the discrete costate at s = 1 after a long horizon."""
    one = np.ones((1, 1))
    steps = round(12 / dt)
    return 2 * float(control.lqr(one, dt * one, 2 * dt * one, 2 * dt * one, horizon=steps).P[0, 0, 0]) / 2


def continuous_limit(settings: Settings) -> Claim:
    """Continuous limit of eq. 16-18: the costate tends to the HJB gradient, at first order in the time step."""
    steps = np.array([0.2, 0.1, 0.05, 0.025] if settings.quick else [0.1, 0.05, 0.025, 0.0125, 0.00625])
    errors = np.array([abs(_regulator(dt) - 2.0) for dt in steps])
    order = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    stuck = np.polyfit(np.log(steps), np.log(errors + 0.05), 1)[0]
    return Claim(
        "eq. 16-18, dt to 0",
        "The costate of a regulator in discrete time tends to the Hamilton-Jacobi-Bellman gradient at first order in dt",
        float(order - 1),
        float(steps[0]),
        "second-order terms change the fitted slope by at most the largest step",
        "a costate with a constant error of 0.05",
        float(stuck - 1),
    )
