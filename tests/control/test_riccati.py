"""The regulator: against one big linear system, the golden ratio, and the solver that knows nothing of Riccati."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, Status
from learnlag_jax.control import lqr, solve, total_reward
from learnlag_jax.control.parallel import levels, parallel_sweep
from learnlag_jax.control.riccati import Quadratic, bordered, homogeneous, sweep
from learnlag_jax.testing import assert_close
from tests.compiling import AS_USERS
from tests.control.systems import lq_problem, random_lq

ONE = np.ones((1, 1))


def kkt_solution(lq: dict, s0: np.ndarray):
    """States, actions and multipliers of the same problem from one dense linear system, in float64."""
    x = {name: np.asarray(value, np.float64) for name, value in lq.items()}
    n, d, m = x["B"].shape
    S, U, L = (n + 1) * d, n * m, (n + 1) * d
    K, b = np.zeros((S + U + L, S + U + L)), np.zeros(S + U + L)
    for k in range(n + 1):
        s, lam = slice(k * d, (k + 1) * d), slice(S + U + k * d, S + U + (k + 1) * d)
        K[s, s], b[s] = (x["Q"][k], -x["q"][k]) if k < n else (x["Qn"], -x["qn"])
        K[s, lam] -= np.eye(d)
        if k < n:
            a, after = slice(S + k * m, S + (k + 1) * m), slice(S + U + (k + 1) * d, S + U + (k + 2) * d)
            K[a, a], b[a] = x["R"][k], -x["r"][k]
            K[s, a], K[a, s] = x["M"][k], x["M"][k].T
            K[s, after], K[a, after] = x["A"][k].T, x["B"][k].T
            b[after] = -x["c"][k]
    b[S + U : S + U + d] = -s0
    K[S + U :, : S + U] = K[: S + U, S + U :].T
    z = np.linalg.solve(K, b)
    return z[:S].reshape(n + 1, d), z[S : S + U].reshape(n, m), z[S + U :].reshape(n + 1, d)


@pytest.mark.parametrize("m", [2, 5])
def test_gains_reproduce_the_dense_kkt_solution(dtype, m):
    lq = random_lq(dtype, m=m)
    got = lqr(**lq)
    s0 = np.array([1.0, -0.5, 0.3])
    states, actions, multipliers = kkt_solution(lq, s0)
    assert int(got.status) == 0
    scale = float(np.abs(states).max() + np.abs(actions).max() + np.abs(multipliers).max())
    for k in range(len(actions)):
        s = jnp.asarray(states[k], dtype)
        assert_close(got.K[k] @ s + got.k[k], jnp.asarray(actions[k], dtype), ulps=4096, scale=scale)
        assert_close(got.P[k] @ s + got.p[k], jnp.asarray(multipliers[k], dtype), ulps=4096, scale=scale)
    assert got.residual <= 64 * jnp.finfo(dtype).eps
    assert np.abs(np.asarray(got.K[0]) @ s0 - np.asarray(got.k[0]) - actions[0]).max() > 1e-2


def test_cost_to_go_constant_is_the_cost_of_the_best_path(float64):
    lq = random_lq(float64)
    got, s0 = lqr(**lq), jnp.array([1.0, -0.5, 0.3])
    _, actions, _ = kkt_solution(lq, np.asarray(s0))
    cost = -total_reward(lq_problem(lq), s0, jnp.asarray(actions), lq)
    assert_close(s0 @ got.P[0] @ s0 / 2 + got.p[0] @ s0 + got.value[0], cost, ulps=4096)


def test_golden_ratio_and_free_actions_and_singular_weight(dtype):
    one = jnp.ones((1, 1), dtype)
    golden = lqr(one, one, one, one, horizon=40)
    assert_close(golden.P[0, 0, 0], jnp.asarray((1 + np.sqrt(5)) / 2, dtype), ulps=8)
    assert_close(golden.K[0, 0, 0], jnp.asarray(-(np.sqrt(5) - 1) / 2, dtype), ulps=8)
    free = lqr(one, one, one, 0 * one, Qn=one, horizon=3)
    assert_close((free.P[:, 0, 0], free.K[:, 0, 0]), (jnp.ones(4, dtype), -jnp.ones(3, dtype)), ulps=4)


def test_a_cost_without_minimum_is_flagged_and_nan(dtype):
    one = jnp.ones((1, 1), dtype)
    bad = lqr(one, one, one, -3 * one, Qn=one, horizon=3)
    assert int(bad.status) == Status.not_positive_definite
    assert bad.pivot < 0
    assert jnp.isnan(bad.K).all()
    assert int(lqr(one * jnp.nan, one, one, one, horizon=3).status) == Status.nonfinite_input
    large = jnp.eye(5, dtype=dtype)
    assert int(lqr(large, large, large, -3 * large, Qn=large, horizon=2).status) == Status.not_positive_definite


def test_last_weight_may_ride_in_Q_and_time_axes_must_agree():
    one = jnp.ones((1, 1))
    stacked = jnp.array([1.0, 2.0, 3.0])[:, None, None]
    given = lqr(jnp.ones((2, 1, 1)), one, stacked[:2], one, Qn=stacked[2])
    assert_close(lqr(jnp.ones((2, 1, 1)), one, stacked, one).P, given.P)
    for arrays in ((one, one, one, one), (jnp.ones((2, 1, 1)), jnp.ones((3, 1, 1)), one, one), (one, one[0], one, one)):
        with pytest.raises(InputError):
            lqr(*arrays)


def test_regulator_and_newton_agree_and_gradients_flow(float64):
    lq = random_lq(float64)
    s0, start = jnp.array([1.0, -0.5, 0.3]), jnp.zeros((6, 2))
    answer, got = solve(lq_problem(lq), s0, start, lq), lqr(**lq)
    assert int(answer.steps) == 1
    assert_close(answer.K, got.K, ulps=4096)
    assert_close(answer.costates[0], -(got.P[0] @ s0 + got.p[0]), ulps=4096)
    cost = lambda lq: s0 @ lqr(**lq).P[0] @ s0 / 2 + lqr(**lq).p[0] @ s0 + lqr(**lq).value[0]
    ours = jax.grad(lambda lq: -solve(lq_problem(lq), s0, start, lq).value)(lq)
    assert_close(ours["B"], jax.grad(cost)(lq)["B"], ulps=2**14)


def test_parallel_equals_sequential_and_is_shallow(dtype):
    lq = random_lq(dtype, n=37)
    one, other = lqr(**lq), lqr(**lq, parallel=True)
    assert int(other.status) == 0
    assert int(other.steps) == 12
    scale = float(jnp.max(jnp.abs(one.P)) + jnp.max(jnp.abs(one.p)))
    for x, y in ((one.P, other.P), (one.p, other.p), (one.K, other.K)):
        assert_close(y, x, ulps=2**13, scale=scale)
    assert_close(other.value, one.value, ulps=2**15, scale=float(jnp.max(jnp.abs(one.value))))
    assert other.residual <= 256 * jnp.finfo(dtype).eps


def test_span_of_the_compiled_scan_is_logarithmic(float64):
    """Counted in the compiled program: factorisations one after the other, against the trip count of the loop over time."""

    def program(n, parallel):
        lq = random_lq(float64, n=n, d=2, m=1)
        stages, ends = Quadratic(**{x: lq[x] for x in lq if x not in ("Qn", "qn")}), (lq["Qn"], lq["qn"])
        at_once = lambda stages, Qn, qn: parallel_sweep(stages, Qn, qn)[0].P
        one_by_one = lambda stages, Qn, qn: sweep(*jax.vmap(homogeneous)(stages), bordered(Qn, qn, Qn[0, 0]), Qn[0, 0])[
            0
        ]
        lowered = jax.jit(at_once if parallel else one_by_one).lower(stages, *ends)
        return lowered.compile(AS_USERS).as_text()

    trips = lambda text: [int(x) for x in re.findall(r"known_trip_count\W+n\W+(\d+)", text)]
    for n in (7, 31):
        tree = program(n, True)
        assert tree.count('custom_call_target="lapack_dgetrf') == levels(n)
        assert max(trips(tree)) <= 2
        assert trips(program(n, False)) == [n]


def test_parallel_falls_back_when_control_is_cheap_and_keeps_its_digits():
    lq = random_lq(jnp.float32, n=37)
    cheap = {**lq, "R": lq["R"] * 1e-6, "M": lq["M"] * 0, "r": lq["r"] * 0}
    exact = lqr(**{name: jnp.asarray(np.asarray(x), jnp.float64) for name, x in cheap.items()})
    got = lqr(**cheap, parallel=True)
    assert int(got.steps) == 37
    assert_close(got.P, jnp.asarray(exact.P, jnp.float32), ulps=512)
    singular = lqr(**{**cheap, "R": cheap["R"] * 0}, parallel=True)
    assert int(singular.status) == 0
    assert int(singular.steps) == 37
    stages = {name: x for name, x in cheap.items() if name not in ("Qn", "qn")}
    (P, *_), misfit = parallel_sweep(Quadratic(**stages), cheap["Qn"], cheap["qn"])
    assert misfit > 64 * 3 * jnp.finfo(jnp.float32).eps
