"""The order in which Newton's iteration tries its models, seen from inside, and what it is worth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax.control import minimise, solve
from learnlag_jax.control.model import model_at, straightened
from learnlag_jax.control.newton import Iterate, Tried, _factored
from learnlag_jax.control.riccati import sweep
from learnlag_jax.experiments.chapters.control_plants import held, unicycle
from tests.control.systems import nonlinear_path

N, D, M = 5, 2, 1


def _stack(action_cost):
    """H, W and Pn of a linear problem whose reduced Hessian has the sign of the action's cost."""
    H = np.zeros((N, M + D + 1, M + D + 1))
    H[:, range(M), range(M)] = action_cost
    W = np.zeros((N, D + 1, M + D + 1))
    W[:, :D, :M], W[:, range(D + 1), range(M, M + D + 1)] = 0.1, 1.0
    return jnp.asarray(H), jnp.asarray(W), jnp.eye(D + 1).at[-1, -1].set(0)


def _chosen(*, exact, straight, shift, far, good):
    """Shift and P of the sweep that is used, and whether a full step of the straight model came along."""
    H, W, Pn = _stack(exact)
    number, no = jnp.asarray(shift), jnp.asarray(False)
    st = Iterate(None, None, None, number, None, None, None, None, None, jnp.asarray(far), None)
    untried = Tried(jnp.asarray(2.0), jnp.zeros((N + 1, D)), jnp.zeros((N, M)), jnp.asarray(0.0), no)
    full = lambda P, K: untried._replace(alpha=jnp.asarray(1.0), accepted=jnp.asarray(good))
    shift, P, _, tried = _factored(H, lambda: _stack(straight)[0], W, Pn, st, jnp.asarray(2.0), full, untried)
    return float(shift), P, bool(tried.accepted)


@pytest.mark.parametrize("far", [True, False])
def test_the_straight_model_stands_in_for_an_indefinite_one(float64, far):
    shift, P, came = _chosen(exact=-1.0, straight=3.0, shift=0.0, far=far, good=True)
    H, W, Pn = _stack(3.0)
    assert (shift, came) == (0.0, True)
    np.testing.assert_array_equal(P, sweep(H, W, Pn, jnp.asarray(0.0))[0])


@pytest.mark.parametrize("far", [True, False])
def test_where_its_full_step_is_poor_or_it_is_indefinite_too_the_exact_one_is_shifted(float64, far):
    for straight, good in ((3.0, False), (-3.0, True)):
        shift, P, came = _chosen(exact=-0.3, straight=straight, shift=0.0, far=far, good=good)
        H, W, Pn = _stack(-0.3)
        assert 0.3 < shift <= 0.6  # twice what the pivot of the exact one that failed first says is missing
        assert not came
        np.testing.assert_array_equal(P, sweep(H, W, Pn, jnp.asarray(shift))[0])


def test_a_good_exact_model_is_used_near_a_solution_and_the_straight_one_far_away(float64):
    for far, cost in ((False, 1.0), (True, 3.0)):
        shift, P, came = _chosen(exact=1.0, straight=3.0, shift=0.0, far=far, good=True)
        H, W, Pn = _stack(cost)
        assert (shift, came) == (0.0, far)
        np.testing.assert_array_equal(P, sweep(H, W, Pn, jnp.asarray(0.0))[0])


def test_while_a_shift_is_in_force_the_straight_model_rests(float64):
    shift, _, came = _chosen(exact=-1.0, straight=3.0, shift=1e-3, far=True, good=True)
    assert shift > 0.9
    assert not came


def test_straight_dynamics_leave_the_rewards_own_curvature(float64):
    _, states, actions, _, theta = nonlinear_path(jnp.float64)
    X = jnp.concatenate([states["x"], states["y"][:, None]], 1)
    reward = lambda s, a, k, theta: -jnp.sum(jnp.exp(s)) - theta * jnp.sum(a**2) * s[0] + 0.1 * jnp.sin(3 * s[1])
    bent = lambda s, a, k, theta: jnp.sin(s) + s[::-1] * jnp.sum(a)
    flat = lambda s, a, k, theta: 2.0 * s + jnp.sum(a)

    def exact(dynamics):
        problem = minimise(lambda *x: -reward(*x), dynamics, lambda s, theta: jnp.sum(s**2))
        return problem, model_at(problem, X, actions, theta)

    (problem, model), (_, linear) = exact(bent), exact(flat)
    H = straightened(problem, model, X, actions, theta)
    np.testing.assert_allclose(H[:, :-1, :-1], linear.H[:, :-1, :-1], rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(H[:, -1], model.H[:, -1])  # slopes and all else stay
    assert jnp.max(jnp.abs(model.H - H)) > 0.1  # negative control: the curvature was there


def _unicycles(stay: float, end: float, effort: float, starts, guesses):
    """Paths to the origin with a cost on every state, on the last one, and on the actions."""
    size = lambda s: jnp.sum(s**2)
    cost = lambda s, a, k, theta: stay * size(s) + effort * size(a)
    problem = minimise(cost, held(unicycle, 0.1), lambda s, theta: end * size(s))
    one = lambda x: solve(problem, *x)
    return jax.jit(lambda *x: jax.lax.map(one, x))(jnp.asarray(starts), jnp.asarray(guesses))


def test_it_saves_steps(float64):
    """The cost on every state makes costates large, and the dynamics bend the exact model until it is indefinite."""
    starts = [-1.0, -1.0, 1.0] + 0.1 * np.random.default_rng(0).normal(size=(16, 3))
    got = _unicycles(50.0, 50.0, 0.5, starts, np.zeros((16, 20, 2)))
    assert int(jnp.max(got.status)) == 0
    assert float(jnp.min(got.pivot)) > 0
    assert float(jnp.mean(got.steps)) < 8.5  # 6.8; with shifts alone 10.1


def test_wild_guesses_do_not_lead_astray(float64):
    """A full step of the straight model is taken only where it keeps its promise; shortened ones lead one of these to a saddle at -13742."""
    starts = [-1.0, -1.0, 1.0] + np.random.default_rng(0).normal(size=(32, 3))
    got = _unicycles(0.0, 100.0, 0.01, starts, 10 * np.random.default_rng(2).normal(size=(32, 20, 2)))
    assert int(jnp.max(got.status)) == 0
    assert float(jnp.min(got.pivot)) > 0
    assert float(jnp.min(got.value)) > -4
