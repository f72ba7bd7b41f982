"""Learning from samples: deep Q-learning against certified values and a known score; values as averages over paths."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learnlag_jax import InputError, Status
from learnlag_jax.control import Environment, dqn, mdp_dense, path_values, solve_mdp
from learnlag_jax.testing import assert_within_se
from tests.control.systems import dense_arrays

S, A = 6, 2


def chain(dtype=jnp.float32) -> Environment:
    """Walk on 0 .. 5, start anywhere; the right end pays 1 and ends; a time limit cuts without ending."""

    def step(key, state, action):
        s, t = state
        after = jnp.clip(s + 2 * action - 1, 0, S - 1)
        ended = after == S - 1
        return (after, t + 1), ended.astype(dtype), ended, t >= 4

    reset = lambda key: (jax.random.randint(key, (), 0, S - 1, jnp.int32), jnp.int32(0))
    return Environment(reset, step, lambda state: jax.nn.one_hot(state[0], S, dtype=dtype), A)


def chain_values(discount: float) -> np.ndarray:
    P, R = np.zeros((S, A, S)), np.zeros((S, A))
    for s in range(S - 1):
        for a in range(A):
            after = min(max(s + 2 * a - 1, 0), S - 1)
            P[s, a, after], R[s, a] = float(after != S - 1), float(after == S - 1)
    answer = solve_mdp(mdp_dense(P, R, discount, ends=True), tol=1e-9)
    return np.asarray(answer.value)


@pytest.mark.parametrize("discount", [0.8, 0.9])
def test_dqn_with_a_table_for_a_network_finds_the_certified_values(float64, discount):
    """Time limits are not ends: with a limit of five steps the values must still be those without it."""
    got = dqn(
        jax.random.key(0),
        chain(),
        lambda w, x: x @ w,
        jnp.zeros((S, A), jnp.float32),
        optax.sgd(1.0),
        steps=12_000,
        discount=discount,
        every=1,
        sync=20,
        warmup=100,
        explore=(1.0, 1.0),
    )
    assert int(got.status) == 0
    best = chain_values(discount)[:-1]
    error = np.abs(np.asarray(got.value[:-1]).max(1) - best).max()
    assert error < 0.01
    assert np.abs(best - chain_values(discount - 0.1)[:-1]).max() > 0.05
    assert np.nanmax(np.asarray(got.returns)) == 1


def test_dqn_input_is_checked_and_divergence_is_flagged():
    network, w = lambda w, x: x @ w, jnp.zeros((S, A), jnp.float32)
    with pytest.raises(InputError, match="network"):
        dqn(jax.random.key(0), chain(), network, w[:, :1], optax.sgd(1.0), steps=10)
    with pytest.raises(InputError, match="steps"):
        dqn(jax.random.key(0), chain(), network, w, optax.sgd(1.0), steps=0)
    got = dqn(jax.random.key(0), chain(), network, w, optax.sgd(jnp.inf), steps=300, warmup=10, every=1)
    assert int(got.status) == Status.nonfinite_derivative


@pytest.mark.slow
def test_dqn_balances_gymnasium_cart_pole_beyond_the_classic_score():
    """Trained on a pure transcription of the published equations, played in gymnasium: mean return at least 195."""
    gymnasium = pytest.importorskip("gymnasium")

    def step(key, state, action):
        x, v, angle, rate, t = state
        force = jnp.where(action == 1, 10.0, -10.0).astype(x.dtype)
        c, s = jnp.cos(angle), jnp.sin(angle)
        push = (force + 0.05 * rate**2 * s) / 1.1
        turn = (9.8 * s - c * push) / (0.5 * (4 / 3 - 0.1 * c**2 / 1.1))
        after = (
            x + 0.02 * v,
            v + 0.02 * (push - 0.05 * turn * c / 1.1),
            angle + 0.02 * rate,
            rate + 0.02 * turn,
            t + 1,
        )
        ended = (jnp.abs(after[0]) > 2.4) | (jnp.abs(after[2]) > 12 * np.pi / 180)
        return after, jnp.float32(1), ended, t >= 499

    def reset(key):
        return *jax.random.uniform(key, (4,), jnp.float32, -0.05, 0.05), jnp.float32(0)

    scale = jnp.array([1 / 2.4, 0.5, 5.0, 0.5], jnp.float32)
    environment = Environment(reset, step, lambda s: jnp.stack(s[:4]) * scale, 2)

    def network(params, x):
        for w, b in params[:-1]:
            x = jax.nn.relu(x @ w + b)
        return x @ params[-1][0] + params[-1][1]

    rng, sizes = np.random.default_rng(0), (4, 64, 64, 2)
    layer = lambda i, o: (jnp.asarray(rng.uniform(-1, 1, (i, o)) / np.sqrt(i), jnp.float32), jnp.zeros(o, jnp.float32))
    params = [layer(i, o) for i, o in zip(sizes, sizes[1:], strict=False)]
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.linear_schedule(1e-3, 0.0, 40_000)))
    with jax.numpy_dtype_promotion("standard"):
        got = dqn(
            jax.random.key(0),
            environment,
            network,
            params,
            optimiser,
            steps=80_000,
            explore_steps=20_000,
            warmup=1000,
            every=2,
            sync=200,
            discount=0.97,
        )
    act = jax.jit(lambda w, x: jnp.argmax(network(w, x * scale)))

    def score(w, seed):
        game, total, over = gymnasium.make("CartPole-v1"), 0.0, False
        seen, _ = game.reset(seed=seed)
        while not over:
            seen, reward, ended, cut, _ = game.step(int(act(w, jnp.asarray(seen))))
            total, over = total + reward, ended or cut
        return total

    assert np.mean([score(got.value, seed) for seed in range(10)]) >= 195
    assert np.mean([score(params, seed) for seed in range(10)]) < 100


def recorded(N: int, T: int, seed: int):
    """Paths of the uniformly random policy in a small ending process, its exact values, and the process."""
    P, R = dense_arrays(S, A, 3, 3, 0.6)
    chain, reward = P.mean(1), R.mean(1)
    rng = np.random.default_rng(seed)
    states, rewards = np.full((N, T), -1), np.zeros((N, T))
    states[:, 0] = rng.integers(0, S, N)
    for t in range(T):
        for i in np.flatnonzero(states[:, t] >= 0):
            rewards[i, t] = reward[states[i, t]]
            draw = rng.random()
            after = int(np.searchsorted(np.cumsum(chain[states[i, t]]), draw, side="right"))
            if t + 1 < T:
                states[i, t + 1] = after if after < S else -1
    exact = np.linalg.solve(np.eye(S) - 0.9 * chain, reward)
    return jnp.asarray(states), jnp.asarray(rewards), exact


def test_monte_carlo_td_and_between_average_the_same_futures(float64):
    seeds, T = range(16), 40
    values = {blend: [] for blend in (1.0, 0.7, 0.0)}
    for seed in seeds:
        states, rewards, exact = recorded(60, T, seed)
        for blend, found in values.items():
            got = path_values(states, rewards, 0.9, count=S, blend=blend, tol=1e-10)
            assert int(got.status) == 0
            found.append(np.asarray(got.value))
    for found in values.values():
        assert_within_se(np.array(found), exact)
    with pytest.raises(AssertionError):
        assert_within_se(np.array(values[0.0]) + 0.5, exact)
    spread = {blend: np.var(found, 0).mean() for blend, found in values.items()}
    assert spread[0.0] <= spread[1.0] * 1.1


def test_td_is_the_certainty_equivalent_of_the_recorded_transitions(float64):
    states, rewards, _ = recorded(40, 30, 0)
    got = path_values(states, rewards, 0.9, count=S, blend=0.0, tol=1e-12)
    count, moves, gained = np.zeros(S), np.zeros((S, S)), np.zeros(S)
    for row, gain in zip(np.asarray(states), np.asarray(rewards), strict=True):
        for t in np.flatnonzero(row >= 0):
            count[row[t]] += 1
            gained[row[t]] += gain[t]
            if t + 1 < len(row) and row[t + 1] >= 0:
                moves[row[t], row[t + 1]] += 1
    exact = np.linalg.solve(np.eye(S) - 0.9 * moves / count[:, None], gained / count)
    assert np.abs(np.asarray(got.value) - exact).max() < 1e-10
    monte_carlo = path_values(states, rewards, 0.9, count=S)
    assert np.abs(np.asarray(monte_carlo.value) - exact).max() > 1e-3
    assert int(monte_carlo.steps) == 2


def test_records_are_checked():
    states, rewards = jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 3), jnp.float32)
    for arguments, word in (
        ((states + 5, rewards), "states"),
        ((states.astype(jnp.float32), rewards), "states"),
        ((states, rewards[:1]), "rewards"),
        ((states, rewards * jnp.nan), "rewards"),
    ):
        with pytest.raises((InputError, TypeError), match=word):
            path_values(*arguments, 0.9, count=4)
    with pytest.raises(InputError, match="blend"):
        path_values(states, rewards, 0.9, count=4, blend=2.0)
