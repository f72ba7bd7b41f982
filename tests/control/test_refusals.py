"""What cannot be answered is refused or flagged: ill-posed processes, sizes and regulators; rewards of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learnlag_jax import InputError, Status
from learnlag_jax.control import (
    Environment,
    Problem,
    average_reward,
    backward_induction,
    costates,
    dqn,
    lagrangian,
    lqr,
    mdp_dense,
    mdp_from_problem,
    path_values,
    q_learning,
    rollout,
    solve_constrained,
    solve_mdp,
)
from tests.control.systems import dense_arrays, random_lq

WALK = Problem(lambda s, a, k, theta: -jnp.sum(s**2) - jnp.sum(a**2), lambda s, a, k, theta: s + a)


def test_a_periodic_axis_needs_equal_spacings(dtype):
    build = lambda axis: mdp_from_problem(
        WALK, [jnp.asarray(axis, dtype)], jnp.zeros((1, 1), dtype), 0.9, periodic=[True]
    )
    with pytest.raises(InputError, match=r"axes\[0\]: got spacings from 1 to 3; expected equal spacings"):
        build([0.0, 1.0, 3.0, 6.0])
    for even in (np.linspace(-np.pi, np.pi, 200, endpoint=False), 1e3 + np.arange(7) / 7, np.arange(3)):
        assert build(even).reward.shape == (len(even), 1)


@pytest.mark.parametrize("name", ["Q", "R", "Qn"])
def test_only_the_symmetric_part_of_a_weight_counts(dtype, name):
    lq = random_lq(dtype)
    upper = np.triu(np.ones(lq[name].shape), 1)
    twisted = {**lq, name: lq[name] + jnp.asarray(upper - np.swapaxes(upper, -1, -2), dtype) * 0.7}
    got, right = lqr(**twisted), lqr(**lq)
    assert int(got.status) == 0
    assert float(got.residual) <= 64 * float(jnp.finfo(dtype).eps)  # of Q it is the residual that tells
    for x, y in ((got.P, right.P), (got.K, right.K)):
        np.testing.assert_allclose(x, y, rtol=0, atol=256 * float(jnp.finfo(dtype).eps) * float(jnp.max(jnp.abs(y))))


@pytest.mark.parametrize("parallel", [False, True])
def test_two_actions_that_do_the_same_have_no_unique_best(dtype, parallel):
    """R + B'PB of rank one: what rounding leaves of its second pivot has either sign."""
    eye, zero = jnp.eye(2, dtype=dtype), jnp.zeros((2, 2), dtype)
    for seed in range(20):
        b = np.random.default_rng(seed).normal(size=(2, 1))
        got = lqr(eye, jnp.asarray(np.c_[b, 0.7 * b], dtype), eye, zero, Qn=eye, horizon=1, parallel=parallel)
        assert int(got.status) == Status.not_positive_definite
        assert bool(jnp.all(jnp.isnan(got.K)))


def test_actions_in_very_different_units_are_no_such_case(dtype):
    """Pivots of 1e12 and 1e-12, each all of its own diagonal entry."""
    eye, unit = jnp.eye(2, dtype=dtype), jnp.asarray([1e6, 1e-6], dtype)
    got, right = (lqr(eye, jnp.diag(u), eye, jnp.diag(u**2), Qn=eye, horizon=4) for u in (unit, jnp.ones(2, dtype)))
    assert int(got.status) == int(right.status) == 0
    np.testing.assert_allclose(unit[:, None] * got.K[0], right.K[0], rtol=64 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("name", ["Qn", "qn"])
def test_nan_in_the_end_weight_of_a_regulator_is_bad_input(dtype, name):
    lq = random_lq(dtype)
    got = lqr(**{**lq, name: lq[name] * jnp.nan})
    assert int(got.status) == Status.nonfinite_input


@pytest.mark.parametrize("name", ["Q", "R", "Qn"])
def test_weights_that_are_not_square_are_refused(name):
    eye = jnp.eye(2, dtype=jnp.float32)
    for shape in ((1, 2), (2, 3)):
        weights = {"Q": eye, "R": eye, "Qn": eye, name: jnp.ones(shape, jnp.float32)}
        with pytest.raises(InputError, match=f"{name}: got"):
            lqr(eye, eye, **weights, horizon=1)


@pytest.mark.parametrize("horizon", [0, -1, 2.5, True])
def test_horizons_are_whole_numbers(horizon):
    lq, eye = random_lq(jnp.float32), jnp.eye(2, dtype=jnp.float32)
    constant: dict = {"A": eye, "B": eye, "Q": eye, "R": eye}
    for arrays in (lq, constant):
        with pytest.raises(InputError, match="horizon"):
            lqr(**arrays, horizon=horizon)
    with pytest.raises(InputError, match="horizon"):
        backward_induction(mdp_dense(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), 0.5), horizon)


def test_rewards_beyond_float32_have_values(float64):
    """V = (I - g P)^-1 r whatever the unit of r."""
    P, R = np.array([[[0.9, 0.1]], [[0.2, 0.8]]]), np.array([[1.0], [3.0]])
    exact = np.linalg.solve(np.eye(2) - 0.99 * P[:, 0], R[:, 0])
    for unit in (1e-200, 1e-40, 1.0, 1e40, 1e200):
        for method in ("auto", "modified_policy_iteration"):
            got = solve_mdp(mdp_dense(P, unit * R, 0.99), method=method, tol=1e-9 * unit)
            assert int(got.status) == 0
            np.testing.assert_allclose(np.asarray(got.value) / unit, exact, atol=1e-9)


def test_two_gains_are_not_one_however_long_it_takes(dtype):
    """Two classes that never meet, with gains 0 and 1: values drift apart, and their rounding is no floor."""
    P, R = np.kron(np.eye(2), np.full((50, 50), 1 / 50))[:, None], np.repeat([0.0, 1.0], 50)[:, None]
    got = average_reward(mdp_dense(jnp.asarray(P, dtype), jnp.asarray(R, dtype), 0.9), max_steps=60_000)
    assert int(got.status) == Status.max_steps
    assert float(got.lower) <= 0.0
    assert float(got.upper) >= 1.0


def coin():
    one = jnp.float32(1)
    step = lambda key, s, a: (s, a.astype(s.dtype), jnp.array(True), jnp.array(False))
    return Environment(lambda key: one, step, lambda s: s[None], 2)


@pytest.mark.parametrize(
    "options",
    [
        {"warmup": 400},
        {"warmup": 395, "every": 10},
        {"discount": 5.0},
        {"discount": -1.0},
        {"explore": (7.0, 0.1)},
        {"explore": (1.0, -3.0)},
        {"explore_steps": 0},
        {"blend": 2.0},
        {"batch": 2.5},
    ],
)
def test_deep_learning_that_cannot_learn_is_refused(options):
    network, start = lambda w, x: w * x[0], jnp.zeros(2, jnp.float32)
    with pytest.raises(InputError, match=next(iter(options))):
        dqn(jax.random.key(0), coin(), network, start, optax.sgd(0.2), steps=400, **{"warmup": 1, **options})


def test_records_of_paths_are_checked(dtype):
    states, rewards = jnp.asarray([[0, 1, 2], [1, 2, -1]]), jnp.asarray([[0.0, 0, 4], [0, 1, 0]], dtype)
    right = path_values(states, rewards, 1.0, count=3)
    for discount in (2.0, -1.0, jnp.nan):
        with pytest.raises(InputError, match="discount"):
            path_values(states, rewards, discount, count=3)
    with pytest.raises(InputError, match="path 0 that goes on at step 2 after -1"):
        path_values(jnp.asarray([[0, -1, 1]]), rewards[:1], 1.0, count=2)
    ended = path_values(states, rewards.at[1, 2].set(jnp.nan), 1.0, count=3)
    np.testing.assert_array_equal(ended.value, right.value)
    with pytest.raises(InputError, match="rewards"):
        path_values(states, rewards.at[1, 1].set(jnp.nan), 1.0, count=3)


def test_a_state_without_probability_is_never_visited():
    """Rows that sum to 1 - 9e-7 do not end, and a draw beyond them leads where the row does."""
    P = np.zeros((3, 1, 3), np.float32)
    P[:, 0, 0] = 1 - 9e-7
    mdp = mdp_dense(P, np.ones((3, 1), np.float32), 0.5)
    got = q_learning(jax.random.key(0), mdp, steps=2_000_000, restart=0.0, rate=0.0)
    assert got.visits.ravel().tolist() == [2_000_000, 0, 0]
    with pytest.raises(InputError, match="rate"):
        q_learning(jax.random.key(0), mdp, steps=3, rate=-1.0)


def test_a_start_of_another_shape_and_a_tolerance_of_nothing():
    s0, actions = jnp.ones(2), jnp.zeros((4, 2))
    states = rollout(WALK, s0, actions)
    prices = costates(WALK, states, actions)
    assert float(lagrangian(WALK)(s0, states, actions, prices)) == -8.0
    with pytest.raises(InputError, match="s0"):
        lagrangian(WALK)(jnp.asarray(1.0), states, actions, prices)
    for tol in (0.0, -1.0):
        with pytest.raises(InputError, match="tol"):
            solve_constrained(WALK, s0, actions, terminal=lambda s, theta: s, tol=tol)


def test_rows_and_discounts_that_are_seen_at_run_time_only(dtype):
    P, R = (jnp.asarray(x, dtype) for x in dense_arrays(6, 2, 3))
    solved = jax.jit(lambda P, g: solve_mdp(mdp_dense(P, R, g)))
    assert int(solved(P, 0.9).status) in (Status.converged, Status.acceptable)
    negative = P.at[0, 0].set(0).at[0, 0, :2].set(jnp.asarray([1.5, -0.5], dtype))
    for wrong in (2 * P, P / 2, negative):
        got = solved(wrong, 0.9)
        assert int(got.status) == Status.inconsistent
        assert bool(jnp.all(jnp.isnan(got.value)))
        planned = jax.jit(lambda P: backward_induction(mdp_dense(P, R, 0.9), 3))(wrong)
        assert int(planned.status) == Status.inconsistent
    assert int(solved(P * jnp.nan, 0.9).status) == Status.nonfinite_input
    statuses = jax.vmap(lambda g: solve_mdp(mdp_dense(P, R, g)).status)(jnp.asarray([0.5, 1.0, 1.5, -0.5], dtype))
    assert [int(x) for x in statuses[1:]] == [Status.inconsistent] * 3
    assert int(statuses[0]) in (Status.converged, Status.acceptable)
    gained = jax.jit(lambda P: average_reward(mdp_dense(P, R, 0.9)))
    assert int(gained(P).status) in (Status.converged, Status.acceptable)
    assert int(gained(P / 2).status) == Status.inconsistent
    ends = jax.jit(lambda P: solve_mdp(mdp_dense(P, R, 0.9, ends=True)))
    assert int(ends(P / 2).status) in (Status.converged, Status.acceptable)
