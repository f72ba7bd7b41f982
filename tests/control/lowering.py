"""Every public function of the room on example arrays, for the house test that lowers them for cpu, cuda and tpu."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learnlag_jax import control
from tests.control.systems import garnet_arrays, nonlinear, nonlinear_path, scalar_regulator
from tests.control.test_deep import chain

S0, STATES, ACTIONS, COSTATES, THETA = nonlinear_path(jnp.float32)
ONE, ZEROS = jnp.ones((), jnp.float32), jnp.zeros(4, jnp.float32)
SUCCESSOR, PROBABILITY, REWARD = garnet_arrays(5, 2, 2)
NEXT, P, R = jnp.asarray(SUCCESSOR), jnp.asarray(PROBABILITY, jnp.float32), jnp.asarray(REWARD, jnp.float32)
V = jnp.zeros(5, jnp.float32)
DENSE = jnp.asarray(np.full((5, 2, 5), 0.2), jnp.float32)
LQ = tuple(jnp.ones((3, 1, 1), jnp.float32) for _ in range(4))


def sparse(P, R):
    return control.mdp_sparse(NEXT, P, R, 0.9)


def by_function():
    return control.mdp_functions(
        lambda s, a, th: 1.0, lambda s, a, j, th: (s, 1.0), 0.9, states=5, actions=2, dtype="float32"
    )


def on_line():
    return control.Problem(lambda s, a, k, th: s[0], lambda s, a, k, th: s + a)


CASES = {
    "hamiltonian": (
        lambda s, a, c: control.hamiltonian(nonlinear())(s, a, c, 0, THETA),
        (S0, ACTIONS[0], S0),
    ),
    "lagrangian": (control.lagrangian(nonlinear()), (S0, STATES, ACTIONS, COSTATES, THETA)),
    "minimise": (
        lambda s, a: control.total_reward(control.minimise(lambda s, a, k, th: s**2, lambda s, a, k, th: s + a), s, a),
        (ONE, ZEROS),
    ),
    "rollout": (lambda s, a: control.rollout(nonlinear(), s, a, THETA), (S0, ACTIONS)),
    "total_reward": (lambda s, a: control.total_reward(nonlinear(), s, a, THETA), (S0, ACTIONS)),
    "costates": (lambda s, a: control.costates(nonlinear(), s, a, THETA), (STATES, ACTIONS)),
    "stationarity": (
        lambda *paths: control.stationarity(nonlinear(), *paths, THETA),
        (S0, STATES, ACTIONS, COSTATES),
    ),
    "lqr": (control.lqr, LQ),
    "solve": (lambda s, a: control.solve(scalar_regulator(), s, a), (ONE, ZEROS)),
    "solve_constrained": (
        lambda s, a: control.solve_constrained(scalar_regulator(), s, a, terminal=lambda s, th: s[None]),
        (ONE, ZEROS),
    ),
    "mdp_dense": (lambda P, R: control.mdp_dense(P, R, 0.9), (DENSE, R)),
    "mdp_sparse": (sparse, (P, R)),
    "bellman": (lambda P, R, v: control.bellman(sparse(P, R))(v), (P, R, V)),
    "greedy": (lambda P, R, v: control.greedy(sparse(P, R), v), (P, R, V)),
    "bounds": (lambda P, R, v: control.bounds(sparse(P, R), v), (P, R, V)),
    "solve_mdp": (lambda P, R: control.solve_mdp(sparse(P, R)), (P, R)),
    "backward_induction": (lambda P, R: control.backward_induction(sparse(P, R), 3), (P, R)),
    "average_reward": (lambda P, R: control.average_reward(sparse(P, R)), (P, R)),
    "mdp_functions": (lambda v: control.bellman(by_function())(v), (V,)),
    "mdp_from_problem": (
        lambda axis: control.mdp_from_problem(on_line(), [axis], jnp.ones((2, 1), jnp.float32), 0.9),
        (jnp.linspace(0.0, 1.0, 4).astype(jnp.float32),),
    ),
    "dqn": (
        lambda seed, w: control.dqn(
            jax.random.key(seed), chain(), lambda w, x: x @ w, w, optax.sgd(0.1), steps=4, warmup=1, every=1
        ),
        (jnp.int32(0), jnp.zeros((6, 2), jnp.float32)),
    ),
    "path_values": (
        lambda s, r: control.path_values(s, r, 0.9, count=4, blend=0.5),
        (jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 3), jnp.float32)),
    ),
    "mpc_step": (
        lambda s, a: control.mpc_step(scalar_regulator(), s, control.solve(scalar_regulator(), s, a)),
        (ONE, ZEROS),
    ),
    "q_learning": (
        lambda seed, P, R: control.q_learning(jax.random.key(seed), sparse(P, R), steps=10),
        (jnp.int32(0), P, R),
    ),
}

NOT_JITTABLE = {
    "MDP": "container",
    "Averages": "container",
    "Bounds": "container",
    "Constrained": "container",
    "Environment": "container of functions",
    "Gain": "container",
    "Learned": "container",
    "Learner": "container",
    "Plan": "container",
    "Problem": "container of functions",
    "Regulator": "container",
    "Stationarity": "container",
    "Trajectory": "container",
    "Values": "container",
    "mdp_from_gymnasium": "reads a Python table on the host",
    "mdp_sharded": "places arrays on devices",
}
