"""Eq. 19, 20: with random transitions the value is the fixed point of Bellman's operator, and greedy actions attain it."""

import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax.control import bellman, greedy, mdp_from_gymnasium, solve_mdp
from tests.control.systems import dense_arrays, exact_values, garnet

gymnasium = pytest.importorskip("gymnasium")


def test_eq19_is_the_expectation_over_successors(float64):
    P, R = dense_arrays(9, 3, 3)
    v = np.linspace(-1, 1, 9)
    expected = (R + 0.9 * np.einsum("sat,t->sa", P, v)).max(1)
    got = np.asarray(bellman(garnet(9, 3, 3, 0.9, float64))(jnp.asarray(v)))
    assert np.abs(got - expected).max() < 16 * np.finfo(float).eps
    best_guess = (R + 0.9 * v[P.argmax(2)]).max(1)
    assert np.abs(got - best_guess).max() > 0.01


def test_eq19_eq20_optimal_values_dominate_every_policy_and_greedy_attains_them(float64):
    P, R = dense_arrays(9, 3, 3)
    mdp = garnet(9, 3, 3, 0.9, float64)
    best = solve_mdp(mdp, tol=1e-10)
    assert np.abs(np.asarray(best.value) - exact_values(P, R, 0.9)).max() <= 1e-10

    def own(policy):
        rows = np.arange(9)
        return np.linalg.solve(np.eye(9) - 0.9 * P[rows, policy], R[rows, policy])

    rng = np.random.default_rng(0)
    for _ in range(20):
        assert np.all(own(rng.integers(0, 3, 9)) <= np.asarray(best.upper))
    chosen = np.array(greedy(mdp, best.value))
    assert np.all(own(chosen) >= np.asarray(best.lower))
    chosen[0] = (chosen[0] + 1) % 3
    assert own(chosen)[0] < float(best.lower[0])


def test_frozen_lake_success_probability_is_the_published_one(float64):
    """Discount near 1: the value of the start tends to the best chance to reach the goal, 0.8235 on the 4 x 4 map."""
    lake = gymnasium.make("FrozenLake-v1", map_name="4x4").unwrapped
    got = solve_mdp(mdp_from_gymnasium(lake, 0.99999, dtype="float64"), tol=1e-7)
    assert int(got.status) == 0
    assert abs(float(got.value[0]) - 14 / 17) < 1e-3
    assert abs(float(solve_mdp(mdp_from_gymnasium(lake, 0.99, dtype="float64")).value[0]) - 14 / 17) > 0.1


def test_taxi_values_are_whole_journeys(float64):
    """A state next to delivery is worth the delivery reward; terminal states add nothing."""
    taxi = gymnasium.make("Taxi-v4").unwrapped
    got = solve_mdp(mdp_from_gymnasium(taxi, 0.99, dtype="float64"), tol=1e-9)
    riding_home = taxi.encode(0, 0, 4, 0)
    assert abs(float(got.value[riding_home]) - 20) < 1e-9
    waiting = taxi.encode(0, 0, 0, 0)
    assert float(got.value[waiting]) < 20
