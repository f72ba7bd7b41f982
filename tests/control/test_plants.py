"""Optimal paths of real machines: stationary, positive pivots, at the goal; a car around an obstacle."""

import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax.control import costates, minimise, rollout, solve, solve_constrained, stationarity
from learnlag_jax.experiments.chapters.control_plants import acrobot, car, cart_pole, held, quadrotor, swing_up


def energy(rate, s):
    """Kinetic plus potential energy of the unforced machine, by its textbook."""
    if rate is cart_pole:
        x = np.array([s[2] + 0.5 * s[3] * np.cos(s[1]), 0.5 * s[3] * np.sin(s[1])])
        return 0.5 * s[2] ** 2 + 0.1 * x @ x - 0.2 * 9.81 * 0.5 * np.cos(s[1])
    first, second = s[0], s[0] + s[1]
    spin = s[2] + s[3]
    middle = np.array(
        [s[2] * np.cos(first) + 0.5 * spin * np.cos(second), s[2] * np.sin(first) + 0.5 * spin * np.sin(second)]
    )
    kinetic = (1 / 3) * s[2] ** 2 / 2 + middle @ middle / 2 + (1 / 12) * spin**2 / 2
    return kinetic - 9.81 * (0.5 * np.cos(first) + np.cos(first) + 0.5 * np.cos(second))


@pytest.mark.parametrize("rate", [cart_pole, acrobot])
def test_free_machines_keep_their_energy(float64, rate):
    """The dynamics are those of the drawing: RK4 conserves energy to fourth order, a wrong term does not."""
    problem = minimise(lambda s, a, k, th: jnp.sum(a**2), held(rate, 0.005))
    states = np.asarray(rollout(problem, jnp.array([0.3, 0.8, -0.4, 1.1]), jnp.zeros((200, 1))))
    drift = [energy(rate, s) - energy(rate, states[0]) for s in states]
    assert np.abs(drift).max() < 1e-6
    pushed = np.asarray(rollout(problem, jnp.array([0.3, 0.8, -0.4, 1.1]), jnp.full((200, 1), 0.1)))
    assert abs(energy(rate, pushed[-1]) - energy(rate, states[0])) > 1e-3


def test_quadrotor_hovers_and_falls_as_it_should(float64):
    rest = jnp.zeros(12)
    assert np.abs(quadrotor(rest, jnp.zeros(4))).max() < 1e-12
    assert abs(float(quadrotor(rest, jnp.full(4, -0.5 * 9.81 / 4))[8]) + 9.81) < 1e-12
    assert float(quadrotor(rest, jnp.array([0.0, 0.1, 0, 0]))[9]) > 1


TASKS = [
    "cart-pole",
    pytest.param("acrobot", marks=pytest.mark.slow),
    pytest.param("quadrotor", marks=pytest.mark.slow),
    pytest.param("unicycle", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", TASKS)
def test_machines_reach_their_goal_on_a_stationary_path(float64, name):
    problem, s0, guess = swing_up(name)
    got = solve(problem, s0, guess, max_steps=500)
    assert int(got.status) == 0
    assert got.pivot > 0
    size = 1 + float(jnp.max(jnp.abs(got.costates)))
    again = costates(problem, got.states, got.actions)
    parts = stationarity(problem, s0, rollout(problem, s0, got.actions), got.actions, again)
    assert float(jnp.max(jnp.abs(parts.action))) < 1e-9 * size
    assert float(jnp.max(jnp.abs(parts.costate))) < 1e-9 * size
    terminal = -float(problem.terminal(got.states[-1], None))
    assert terminal < -0.02 * float(problem.terminal(s0, None))
    before = stationarity(
        problem, s0, rollout(problem, s0, guess), guess, costates(problem, rollout(problem, s0, guess), guess)
    )
    assert float(jnp.max(jnp.abs(before.action))) > 1e-3


@pytest.mark.slow
def test_a_car_parks_past_an_obstacle(float64):
    """Bicycle model, a disc of radius 0.5 on the straight way, bounded steering; multipliers only where it is touched."""
    goal = jnp.array([3.0, 0.0, 0.0, 0.0])
    problem = minimise(
        lambda s, a, k, th: 0.05 * jnp.sum(a**2), held(car, 0.1), lambda s, th: 50 * jnp.sum((s - goal) ** 2)
    )
    s0, guess = (
        jnp.array([0.0, 0.05, 0.0, 0.5]),
        jnp.stack([jnp.full(40, 0.1), 0.1 * jnp.cos(0.15 * jnp.arange(40.0))], 1),
    )
    clear = lambda s, a, k, th: (0.25 - (s[0] - 1.5) ** 2 - s[1] ** 2)[None]
    bound = jnp.array([3.0, 0.6])
    got = solve_constrained(problem, s0, guess, path=clear, lower=-bound, upper=bound, tol=1e-6)
    assert int(got.status) == 0
    distance = jnp.hypot(got.states[:, 0] - 1.5, got.states[:, 1])
    assert jnp.min(distance) > 0.5 - 1e-5
    assert float(jnp.max(got.path_multiplier)) > 1e-3
    assert float(got.complementarity) < 1e-4
    assert jnp.max(jnp.abs(got.states[-1] - goal)) < 0.1
    free = solve(problem, s0, guess, lower=-bound, upper=bound)
    assert jnp.min(jnp.hypot(free.states[:, 0] - 1.5, free.states[:, 1])) < 0.4
