"""Chapter "control": from one discrete Lagrangian to Pontryagin's costates and Bellman's values (eq. 8-20).

Comes from: the gymnasium tables FrozenLake-v1 (8 x 8) and Taxi-v4, and a pendulum to be swung up. Goes to: the report.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import control, trees
from learnlag_jax.experiments import data
from learnlag_jax.experiments.chapters.control_figures import closing_figure, swing_figure
from learnlag_jax.experiments.chapters.control_values import (
    bellman_claims,
    claim,
    closing_bounds,
    continuous_limit,
    solver_table,
)
from learnlag_jax.experiments.claims import Chapter, Claim, Settings

EPS = float(np.finfo(np.float64).eps)
SECONDS = 4.0
GRAVITY = 9.81


def chapter(settings: Settings) -> Chapter:
    """Derive, solve and verify eq. 8-20; see `Chapter`."""
    lake = data.gymnasium_table("FrozenLake-v1", map_name="8x8", is_slippery=True)
    taxi = data.gymnasium_table("Taxi-v4")
    swing = _swing_up(40 if settings.quick else 80)
    hanging = _left_hanging(swing)
    closing = closing_bounds(control.mdp_from_gymnasium(lake.content, 0.99, dtype="float64"))
    claims = (
        *_lagrangian_claims(swing, settings),
        *_optimum_claims(swing),
        continuous_limit(settings),
        *bellman_claims(lake, taxi, closing, settings),
    )
    return Chapter(
        name="control",
        title="Control: one Lagrangian, Pontryagin's costates, Bellman's values",
        lead=(
            "From reward, dynamics and terminal reward alone, automatic differentiation gives the Lagrangian of a whole path, "
            "the Hamiltonian and the costates; Newton's method on that Lagrangian swings up a pendulum and proves it by a "
            "vanishing gradient. Over all states at once the same stationarity is Bellman's equation, solved here with lower and "
            "upper bounds that contain the optimum at every sweep."
        ),
        claims=claims,
        figures=(swing_figure(swing.best, swing.dt), closing_figure(closing)),
        tables=(solver_table(lake, taxi),),
        honest=(
            (
                "A stationary path of the Lagrangian (eq. 15) is the solution: a* = argmax H.",
                "dH/da = 0 is necessary, not sufficient: a path can be stationary and a saddle. The smallest pivot of the reduced "
                "Hessian is reported with every path; here it is "
                f"{float(swing.best.pivot):.3g} > 0 for the swing-up, and "
                f"{float(hanging.pivot):.3g} for the pendulum left hanging, which is stationary too "
                f"(residual {float(hanging.residual):.0e}).",
            ),
            (
                "Maximising each H_k over the action solves the discrete problem (eq. 15).",
                "In discrete time the maximum of H_k at the optimal costates is guaranteed only under convexity of the reachable "
                "set; stationarity is what holds in general, and what is verified.",
            ),
        ),
        inputs=(lake, taxi),
    )


class _Swing(NamedTuple):
    problem: control.Problem
    s0: jax.Array
    theta: jax.Array
    dt: float
    best: control.Trajectory


def _pendulum(dt: float) -> control.Problem:
    """State (angle from hanging in rad, rate in rad/s), action torque per inertia in rad/s^2, theta gravity / length."""

    def dynamics(s, a, k, theta):
        rate = s[1] + dt * (-theta * jnp.sin(s[0]) - 0.1 * s[1] + a[0])
        return jnp.stack([s[0] + dt * rate, rate])

    def cost(s, a, k, theta):
        return dt * (0.05 * a[0] ** 2 + 0.1 * (1 + jnp.cos(s[0])))

    return control.minimise(cost, dynamics, lambda s, theta: 50 * (1 + jnp.cos(s[0])) + 5 * s[1] ** 2)


def _swing_up(n: int) -> _Swing:
    problem = _pendulum(SECONDS / n)
    s0, theta = jnp.zeros(2, jnp.float64), jnp.asarray(GRAVITY, jnp.float64)
    guess = 0.1 * np.sin(24.0 * np.arange(n) / n)[:, None]
    return _Swing(problem, s0, theta, SECONDS / n, _solved(problem, s0, guess, theta))


@functools.partial(jax.jit, static_argnums=0)
def _solved(problem: control.Problem, s0, guess, theta) -> control.Trajectory:
    return control.solve(problem, s0, guess, theta, tol=1e-13)


def _left_hanging(swing: _Swing) -> control.Trajectory:
    """No torque at all: stationary by symmetry, and a saddle."""
    return _solved(swing.problem, swing.s0, np.zeros(swing.best.actions.shape), swing.theta)


def _relative(x, scale):
    return trees.max_abs(x) / (1 + trees.max_abs(scale))


def _lagrangian_claims(swing: _Swing, settings: Settings) -> list[Claim]:
    """Identities that hold on every path, checked on a random one (eq. 8-14)."""
    rng = np.random.default_rng(settings.seed)
    n = len(swing.best.actions)
    states, lam = (rng.normal(size=(n + 1, 2)) for _ in range(2))
    actions = rng.normal(size=(n, 1))
    tolerance, source = 64 * n * EPS, f"64 n eps, n = {n} steps, float64"
    identities = jax.jit(functools.partial(_identities, swing.problem))
    on_path, pairing, eq11, eq12, eq13, eq14, eq15 = identities(swing.s0, states, actions, lam, swing.theta)
    return [
        claim(
            "eq. 8, 9",
            "On a path that obeys the dynamics the Lagrangian is the total reward, whatever the multipliers",
            on_path,
            tolerance,
            source,
            "states that do not obey the dynamics",
        ),
        claim(
            "eq. 10",
            "H = r + f' lambda, the function that generates everything below",
            pairing,
            tolerance,
            source,
            "half the pairing",
        ),
        claim(
            "eq. 11",
            "The Lagrangian regroups into H_k - s_k' lambda_k and the two ends",
            eq11,
            tolerance,
            source,
            "H at other actions",
        ),
        claim(
            "eq. 12",
            "The stationarity residual is jax.grad of the whole Lagrangian, in states, actions and costates, on "
            "a random path",
            eq12,
            tolerance,
            source,
            "costates of the opposite sign",
        ),
        claim(
            "eq. 13",
            "The last costate is the gradient of the terminal reward",
            eq13,
            tolerance,
            source,
            "the costate before the last",
        ),
        claim(
            "eq. 14",
            "The first costate is the gradient of the total reward by the start",
            eq14,
            tolerance,
            source,
            "the costate one step late",
        ),
        claim(
            "eq. 14, 15",
            "The gradient of the total reward by each action is dH/da",
            eq15,
            tolerance,
            source,
            "costates one step late",
        ),
    ]


def _identities(problem: control.Problem, s0, states, actions, lam, theta) -> tuple:
    """Residuals of eq. 8 to 15 on any path, each beside that of a broken version."""
    n = len(actions)
    L, H = control.lagrangian(problem), control.hamiltonian(problem)
    path = control.rollout(problem, s0, actions, theta)
    J = control.total_reward(problem, s0, actions, theta)
    whole = L(s0, states, actions, lam, theta)

    def regrouped(actions_of_H):
        k = jnp.arange(n, dtype=jnp.int32)
        each = jax.vmap(lambda s, a, c, k: H(s, a, c, k, theta))(states[:-1], actions_of_H, lam[1:], k)
        ends = problem.terminal(states[-1], theta) - states[-1] @ lam[-1] + s0 @ lam[0]
        return ends + jnp.sum(each - jnp.sum(states[:-1] * lam[:-1], 1))

    def pairing(weight):
        s, a, c = states[0], actions[0], lam[1]
        by_hand = problem.reward(s, a, 0, theta) + weight * problem.dynamics(s, a, 0, theta) @ c
        return _relative(H(s, a, c, 0, theta) - by_hand, by_hand)

    parts = control.stationarity(problem, s0, states, actions, lam, theta)
    gradient = jax.grad(L, (3, 1, 2))(s0, states, actions, lam, theta)
    mirrored = jax.grad(L, (3, 1, 2))(s0, states, actions, -lam, theta)
    along = control.costates(problem, path, actions, theta)
    terminal_slope = jax.grad(problem.terminal)(path[-1], theta)
    by_state, by_action = jax.grad(control.total_reward, (1, 2))(problem, s0, actions, theta)
    dH = control.stationarity(problem, s0, path, actions, along, theta).action
    late = control.stationarity(problem, s0, path, actions, jnp.roll(along, -1, 0), theta).action
    return (
        [_relative(L(s0, p, actions, lam, theta) - J, J) for p in (path, states)],
        [pairing(1.0), pairing(0.5)],
        [_relative(regrouped(a) - whole, whole) for a in (actions, actions + 1)],
        [_relative(trees.subtract(tuple(parts), g), g) for g in (gradient, mirrored)],
        [_relative(x - terminal_slope, terminal_slope) for x in (along[-1], along[-2])],
        [_relative(x - by_state, by_state) for x in (along[0], along[1])],
        [_relative(x - by_action, by_action) for x in (dH, late)],
    )


def _optimum_claims(swing: _Swing) -> list[Claim]:
    """What holds at the optimum: stationarity, and costates as gradients of the optimal value (eq. 15-18)."""
    problem, s0, theta, best = swing.problem, swing.s0, swing.theta, swing.best
    n = len(best.actions)
    tolerance, source = 64 * n * EPS, f"64 n eps x (1 + largest costate), n = {n}, float64"

    @jax.jit
    def moved(shift):
        parts = control.stationarity(problem, s0, best.states, best.actions + shift, best.costates, theta)
        return _relative(parts, best.costates)

    eq15 = [moved(shift) for shift in (0.0, 1e-6)]
    slope = jax.jit(jax.grad(lambda s: control.solve(problem, s, best.actions, theta, tol=1e-13).value))(s0)
    costates, slope = np.asarray(best.costates), np.asarray(slope)
    apart = lambda x, y: np.max(np.abs(x - y)) / (1 + np.max(np.abs(y)))
    eq16 = [apart(costates[k], slope) for k in (0, 1)]

    half = n // 2
    rest = control.Problem(
        lambda s, a, k, th: problem.reward(s, a, k + half, th),
        lambda s, a, k, th: problem.dynamics(s, a, k + half, th),
        problem.terminal,
    )
    tail = jax.jit(jax.value_and_grad(lambda s: control.solve(rest, s, best.actions[half:], theta, tol=1e-13).value))
    middle = np.asarray(best.states[half])
    values, slopes = zip(*(map(np.asarray, tail(s)) for s in (middle, middle + 0.1)), strict=True)
    eq17 = [apart(slope, costates[half]) for slope in slopes]
    reward = jax.jit(jax.vmap(lambda s, a, k: problem.reward(s, a, k, theta)))
    k = np.arange(half, dtype=np.int32)
    before = np.sum(reward(np.asarray(best.states)[:half], np.asarray(best.actions)[:half], k))
    eq18 = [abs(float(best.value) - before - value) / (1 + abs(float(best.value))) for value in values]
    flow = 1e-13 * n / float(best.pivot)
    wide = f"solver tolerance 1e-13 x n = {n} / smallest pivot {float(best.pivot):.2g} of the reduced Hessian"
    return [
        claim(
            "eq. 13-15",
            "The pendulum's swing-up is stationary: every part of the Lagrangian's gradient vanishes",
            eq15,
            tolerance,
            source,
            "every action moved by 1e-6",
        ),
        claim(
            "eq. 16",
            "The first costate is jax.grad of the optimal value, differentiated through the solver",
            eq16,
            flow,
            wide,
            "the costate one step late",
        ),
        claim(
            "eq. 17",
            "Half-way, the costate is the gradient of the optimal value of what remains",
            eq17,
            flow,
            wide,
            "the value of a state 0.1 away",
        ),
        claim(
            "eq. 18",
            "Principle of optimality: reward so far plus the optimal value of the rest is the optimal value",
            eq18,
            flow,
            wide,
            "the rest from a state 0.1 away",
        ),
    ]
