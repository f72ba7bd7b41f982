"""The outside of the house: the names, call shapes and fields that users' code relies on, each on a case known in closed form."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learnlag_jax
from learnlag_jax import control, fermat, fisher, information, variation
from learnlag_jax.testing import assert_close

NAMES = {
    variation: "lift action euler_lagrange momentum energy acceleration legendre hamiltonian lagrangian hamilton_equations "
    "poisson pullback noether damped discrete_lagrangian discrete_euler_lagrange integrate stationary_path "
    "field_euler_lagrange",
    information: "surprisal position velocity acceleration in_context_curve decay_fit deceleration_test",
    fermat: "information_matrix criterion fisher_information optimal_weights equivalence_gap exact_design tight_frame "
    "complete_frame least_time_path time_to_threshold soft_learning_time learning_time_summary performance_profile ray",
    control: "Problem minimise lagrangian hamiltonian rollout total_reward costates stationarity lqr solve mpc_step MDP "
    "mdp_dense mdp_sparse mdp_functions mdp_from_problem mdp_from_gymnasium bellman bounds greedy solve_mdp "
    "backward_induction average_reward q_learning dqn",
    fisher: "scores fisher_information stationarity learning_lagrangian descent_lagrangian scale_by_fisher fisher_descent "
    "audit",
}


@pytest.mark.parametrize("room", NAMES, ids=lambda room: room.__name__.rsplit(".")[-1])
def test_every_promised_name_is_public(room):
    missing = set(NAMES[room].split()) - set(room.__all__)
    assert not missing


def harmonic(t, q, v):
    return (v**2 - q**2) / 2


def test_a_discrete_lagrangian_is_called_with_step_and_two_positions(float64):
    h = 0.1
    Ld = variation.discrete_lagrangian(harmonic, h, rule="midpoint")
    q0, q1 = jnp.array(0.3, float64), jnp.array(0.5, float64)
    assert_close(Ld(0, q0, q1), h * (((q1 - q0) / h) ** 2 - ((q0 + q1) / 2) ** 2) / 2)
    after = variation.integrate(Ld, q0, q1, 5)
    assert after.shape == (6,), "q1 and the five after it"
    path = jnp.concatenate([q0[None], after])
    residual = variation.discrete_euler_lagrange(Ld)
    on = [residual(k, *path[k - 1 : k + 2]) for k in range(1, 6)]
    assert_close(jnp.stack(on), jnp.zeros(5), scale=float(1 / h))
    assert abs(residual(1, path[0], path[1], path[2] + 0.01)) > 0.05, "a bent path is not stationary"


def test_a_boundary_path_says_its_index(float64):
    q = jnp.array([0.3], float64)
    found = variation.stationary_path(lambda t, q, v: jnp.sum(harmonic(t, q, v)), q, q, 0.0, 4.0, intervals=64)
    assert int(found.status) == 0
    assert int(found.index) == 1, "one conjugate point, at pi"


def test_fields_take_their_gradient_by_component_and_direction(float64):
    x = jnp.array([0.4, -0.2], float64)
    scalar = lambda x, u, du: jnp.sum(du**2) / 2
    assert_close(variation.field_euler_lagrange(scalar)(lambda x: x[0] ** 2 - x[1] ** 2)(x), 0.0, scale=4.0)
    assert_close(variation.field_euler_lagrange(scalar)(lambda x: x @ x)(x), -4.0)
    vector = lambda x, u, du: du[0, 1] ** 2 / 2  # component 0 by direction 1
    found = variation.field_euler_lagrange(vector)(lambda x: jnp.stack([x[1] ** 2, x[0] ** 3]))(x)
    assert_close(found, jnp.array([-2.0, 0.0], float64))


def test_control_answers_by_field_and_costates_have_both_ends(float64):
    problem = control.minimise(
        lambda s, a, k, theta: s @ s + a @ a,
        lambda s, a, k, theta: s + 0.1 * jnp.stack([s[1], a[0]]),
        lambda s, theta: s @ s,
    )
    s0, n = jnp.array([1.0, -0.5], float64), 12
    found = control.solve(problem, s0, jnp.zeros((n, 1), float64))
    assert int(found.status) == 0
    assert found.states.shape == (n + 1, 2)
    assert found.actions.shape == (n, 1)
    assert found.costates.shape == (n + 1, 2)
    A, B = jnp.array([[1.0, 0.1], [0.0, 1.0]], float64), jnp.array([[0.0], [0.1]], float64)
    Q, R = jnp.eye(2, dtype=float64), jnp.eye(1, dtype=float64)
    gain = control.lqr(*(jnp.broadcast_to(x, (n, *x.shape)) for x in (A, B, Q, R)), Qn=Q)
    assert gain.P.shape == (n + 1, 2, 2)
    assert gain.K.shape == (n, 1, 2)
    assert gain.k.shape == (n, 1)
    assert_close(found.value, -s0 @ gain.P[0] @ s0, ulps=1e3)  # the cost form is x'Qx, without a half
    assert_close(control.total_reward(problem, s0, found.actions), found.value)
    assert_close(control.costates(problem, found.states, found.actions), found.costates, ulps=1e3)
    parts = control.stationarity(problem, s0, found.states, found.actions, found.costates)
    for part in (parts.dynamics, parts.costate, parts.action):
        assert float(jnp.max(jnp.abs(part))) < 1e-12
    bent = control.stationarity(problem, s0, found.states, found.actions + 0.01, found.costates)
    assert float(jnp.max(jnp.abs(bent.action))) > 0.01


def test_a_decision_process_is_indexed_state_action_successor(float64):
    P = jnp.array([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]], float64)  # action 0 goes to 1, action 1 to 0
    R = jnp.array([[0.0, 0.0], [1.0, 0.0]], float64)  # paid for staying in state 1
    found = control.solve_mdp(control.mdp_dense(P, R, 0.9), tol=1e-10)
    assert int(found.status) == 0
    np.testing.assert_allclose(found.value, [9.0, 10.0], atol=1e-10)
    np.testing.assert_array_equal(found.policy, [0, 0])
    assert bool(jnp.all((found.lower <= found.value) & (found.value <= found.upper)))
    assert float(jnp.max(jnp.abs(found.residual))) < 1e-10


def test_fermat_answers_by_field(float64):
    x = jnp.linspace(-1.0, 1.0, 21, dtype=float64)
    F = jnp.stack([x**0, x, x**2], 1)  # D-optimal: a third at -1, 0, 1
    found = fermat.optimal_weights(F, fermat.criterion("D"))
    np.testing.assert_allclose(found.weights[np.array([0, 10, 20])], 1 / 3, atol=1e-9)
    assert float(found.gap) < 1e-9
    assert np.flatnonzero(found.support).tolist() == [0, 10, 20]
    design = fermat.exact_design(F, 6, fermat.criterion("D"), replace=True)
    assert sorted(np.asarray(design.rows).tolist()) == [0, 0, 10, 10, 20, 20]
    assert float(design.efficiency) == pytest.approx(1.0, abs=1e-9)
    X = fermat.tight_frame(7, 3)
    assert_close(X.T @ X, 7 / 3 * jnp.eye(3, dtype=X.dtype), ulps=1e3)


def test_learning_times_say_whether_they_were_reached(float64):
    t, error = jnp.arange(5.0, dtype=float64), jnp.array([4.0, 3.0, 2.0, 1.0, 0.5], float64)
    found = fermat.time_to_threshold(t, error, 1.5, kind="first")
    assert bool(found.reached)
    assert 2.0 < float(found.value) <= 3.0
    missed = fermat.time_to_threshold(t, error, 0.1)
    assert not bool(missed.reached)
    assert float(missed.lower) == 4.0
    summary = fermat.learning_time_summary(jnp.array([1.0, 2.0, 3.0, 9.0]), jnp.array([True, True, True, False]), 9.0)
    assert float(summary.median) == 2.0, "the first time by which half have arrived"
    assert float(summary.restricted_mean) == 15 / 4
    profile = fermat.performance_profile(jnp.array([[1.0, 1.0], [2.0, 4.0]]), 4.0)
    assert np.argmax(np.asarray(profile.score)) == 0


def test_fisher_answers_by_field(float64):
    x = jnp.array(np.random.default_rng(0).normal(size=400) * 2, float64)
    log_prob = lambda p, x: -((x - p[0]) ** 2) * jnp.exp(-2 * p[1]) / 2 - p[1]
    params = jnp.stack([x.mean(), jnp.log(x.std())])
    F = fisher.fisher_information(log_prob, params, x, estimator="empirical", structure="full")
    g = jnp.array([1.0, -2.0], float64)
    assert_close(F.mv(F.solve(g)), g, ulps=1e4)
    root = F.power(-0.5)
    assert_close(root.mv(root.mv(g)), F.solve(g), ulps=1e4)
    assert_close(F.trace(), jnp.trace(F.dense()))
    found = fisher.stationarity(log_prob, params, x)
    assert abs(float(found.residual)) < 0.5
    assert 0.01 < float(found.p_value) <= 1.0
    assert float(found.kinetic) == pytest.approx(0.5, abs=1e-6)
    assert np.isfinite(float(found.tic))


def test_the_optimiser_takes_the_place_of_adamw():
    optimiser = learnlag_jax.fisher_descent(0.05)
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    state = optimiser.init(params)
    loss = lambda p: jnp.sum((p["w"] - 2.0) ** 2) + jnp.sum((p["b"] + 1.0) ** 2)
    before = loss(params)
    for _ in range(20):
        updates, state = optimiser.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert loss(params) < before / 4


def test_curves_of_information_by_field(float64):
    t = np.arange(1, 257)
    v = 2.0 + 3.0 * t**-0.5 + 0.1 * np.random.default_rng(1).normal(size=(200, 256))
    curve = information.in_context_curve(jnp.array(v, float64))
    assert curve.t.shape == curve.mean.shape == curve.low.shape == curve.high.shape
    assert curve.acceleration.shape[0] in (len(curve.t), len(curve.t) - 1)
    fit = information.decay_fit(curve)
    assert float(fit.v_inf) == pytest.approx(2.0, abs=0.2)
    for field in ("c", "t0", "b"):
        assert np.isfinite(float(getattr(fit, field)))
    assert float(information.deceleration_test(curve).p_value) < 1e-3
    flat = information.in_context_curve(
        jnp.array(2.0 + 0.1 * np.random.default_rng(2).normal(size=(200, 256)), float64)
    )
    assert float(information.deceleration_test(flat).p_value) > 1e-3


def test_every_signature_of_the_outside_is_documented_with_its_arguments():
    for room, names in NAMES.items():
        for name in names.split():
            thing = getattr(room, name)
            if inspect.isfunction(thing):
                text = inspect.getdoc(thing)
                missing = [a for a in inspect.signature(thing).parameters if a not in text]
                assert not missing, f"{name}: {missing}"
