"""Average reward: gains against stationary distributions. Receding horizon: one compilation, warm starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status
from learnlag_jax.control import average_reward, mdp_dense, mpc_step, solve, solve_mdp
from tests.control.systems import dense_arrays, garnet, pendulum, pendulum_start

S, A, K = 8, 3, 3


def gain_of(P, R, policy) -> float:
    """Stationary distribution of the chain under the policy, then its mean reward."""
    n, rows = len(R), np.arange(len(R))
    chain = P[rows, policy]
    system = np.vstack([chain.T - np.eye(n), np.ones(n)])
    weights = np.linalg.lstsq(system, np.append(np.zeros(n), 1.0), rcond=None)[0]
    return float(weights @ R[rows, policy])


def test_gain_is_that_of_the_policy_and_no_policy_has_more(float64):
    P, R = dense_arrays(S, A, K, 2)
    P = 0.9 * P + 0.1 / S
    got = average_reward(mdp_dense(jnp.asarray(P), jnp.asarray(R), 0.5), tol=1e-9)
    assert int(got.status) == 0
    assert abs(gain_of(P, R, np.asarray(got.policy)) - float(got.value)) <= 1e-9
    rng = np.random.default_rng(0)
    others = [gain_of(P, R, rng.integers(0, A, S)) for _ in range(50)]
    assert max(others) <= float(got.upper)
    assert min(others) < float(got.lower) - 0.1


def test_gain_is_the_limit_of_the_discounted_value_and_bounds_hold_at_any_cap(float64):
    mdp = garnet(S, A, K, 0.9999, float64, 2)
    best = average_reward(mdp, tol=1e-9)
    assert abs(float(solve_mdp(mdp).value[0]) * (1 - 0.9999) - float(best.value)) < 0.01
    for cap in (1, 2, 5):
        early = average_reward(mdp, max_steps=cap, tol=1e-9)
        assert int(early.status) == Status.max_steps
        assert float(early.lower) <= float(best.value) <= float(early.upper)


def test_periodic_chains_converge_and_ending_ones_are_refused(dtype):
    P = jnp.asarray([[[0.0, 1.0]], [[1.0, 0.0]]], dtype)
    R = jnp.asarray([[2.0], [0.0]], dtype)
    assert abs(float(average_reward(mdp_dense(P, R, 0.9), tol=1e-4).value) - 1) < 1e-4
    with pytest.raises(InputError, match="row that sums to 0.5"):
        average_reward(mdp_dense(P / 2, R, 0.9, ends=True))


def test_receding_horizon_follows_a_disturbed_pendulum_with_one_trace(float64):
    s0, a0, theta = pendulum_start(float64)
    problem, traces = pendulum(), []

    def upright(s, a, k, th):
        traces.append(1)
        return -(1 + jnp.cos(s["q"])) - 0.01 * s["w"] ** 2 - 1e-3 * a**2

    counted = problem._replace(reward=upright)
    start = {"q": s0["q"] + 2.7, "w": s0["w"]}
    first = solve(counted, start, a0[:15], theta)
    step = jax.jit(lambda s, plan: mpc_step(counted, s, plan, theta, max_steps=20))
    before = None
    for seed in range(4):
        rng, s, plan, statuses = np.random.default_rng(seed), start, first, []
        for _ in range(40):
            s = problem.dynamics(s, plan.actions[0], jnp.int32(0), theta)
            s = {"q": s["q"], "w": s["w"] + 0.02 * rng.normal()}
            plan = step(s, plan)
            before = before or len(traces)
            statuses.append(int(plan.status))
        # near the top the reward, 1 + cos q, is all rounding, and steps may not be judged by it
        assert set(statuses[20:]) <= {Status.converged, Status.acceptable}
        assert 1 + float(jnp.cos(s["q"])) < 0.05
    assert len(traces) == before
    lowest = 0.0
    for _ in range(15):
        start = problem.dynamics(start, jnp.array(0.0), jnp.int32(0), theta)
        lowest = max(lowest, 1 + float(jnp.cos(start["q"])))
    assert lowest > 1


def test_a_warm_start_needs_fewer_steps_than_a_cold_one(float64):
    s0, a0, theta = pendulum_start(float64)
    plan = solve(pendulum(), s0, a0, theta)
    s = {"q": plan.states["q"][1] + 0.01, "w": plan.states["w"][1]}
    warm = mpc_step(pendulum(), s, plan, theta, max_steps=50)
    cold = solve(pendulum(), s, a0, theta)
    assert int(warm.status) == int(cold.status) == 0
    assert int(warm.steps) * 2 < int(cold.steps)
