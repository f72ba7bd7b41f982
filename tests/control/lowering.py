"""Every public function of the room on example arrays, for the house test that lowers them for cpu, cuda and tpu."""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import control
from tests.control.systems import garnet_arrays, nonlinear, nonlinear_path, scalar_regulator

S0, STATES, ACTIONS, COSTATES, THETA = nonlinear_path(jnp.float32)
ONE, ZEROS = jnp.ones((), jnp.float32), jnp.zeros(4, jnp.float32)
SUCCESSOR, PROBABILITY, REWARD = garnet_arrays(5, 2, 2)
NEXT, P, R = jnp.asarray(SUCCESSOR), jnp.asarray(PROBABILITY, jnp.float32), jnp.asarray(REWARD, jnp.float32)
V = jnp.zeros(5, jnp.float32)
DENSE = jnp.asarray(np.full((5, 2, 5), 0.2), jnp.float32)
LQ = tuple(jnp.ones((3, 1, 1), jnp.float32) for _ in range(4))


def sparse(P, R):
    return control.mdp_sparse(NEXT, P, R, 0.9)


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
    "mdp_dense": (lambda P, R: control.mdp_dense(P, R, 0.9), (DENSE, R)),
    "mdp_sparse": (sparse, (P, R)),
    "bellman": (lambda P, R, v: control.bellman(sparse(P, R))(v), (P, R, V)),
    "greedy": (lambda P, R, v: control.greedy(sparse(P, R), v), (P, R, V)),
    "bounds": (lambda P, R, v: control.bounds(sparse(P, R), v), (P, R, V)),
    "solve_mdp": (lambda P, R: control.solve_mdp(sparse(P, R)), (P, R)),
    "backward_induction": (lambda P, R: control.backward_induction(sparse(P, R), 3), (P, R)),
    "q_learning": (
        lambda seed, P, R: control.q_learning(jax.random.key(seed), sparse(P, R), steps=10),
        (jnp.int32(0), P, R),
    ),
}

NOT_JITTABLE = {
    "MDP": "container",
    "Bounds": "container",
    "Learned": "container",
    "Plan": "container",
    "Problem": "container of functions",
    "Regulator": "container",
    "Stationarity": "container",
    "Trajectory": "container",
    "Values": "container",
    "mdp_from_gymnasium": "reads a Python table on the host",
}
