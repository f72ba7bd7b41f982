"""Optimal control and Bellman solvers from one scalar: reward, dynamics and terminal reward as pure functions.

Along a path (eq. 8-17): `Problem`, `minimise`, `hamiltonian`, `lagrangian`, `rollout`, `total_reward`, `costates`,
`stationarity`; optimal paths: `lqr`, `solve`, `solve_constrained`, `mpc_step`. Over all states (eq. 18-20): `MDP` built by `mdp_dense`, `mdp_sparse`,
`mdp_functions`, `mdp_from_problem`, `mdp_from_gymnasium`, spread over devices by `mdp_sharded`; `bellman`, `greedy`, `bounds`; `solve_mdp`, `backward_induction`,
`average_reward`; from samples: `q_learning`, `dqn`, `path_values`.

Reward is maximised. Costates have a leading axis n + 1, and lambda_k = grad V(s_k) on an optimal path. Every answer carries
its residual; every value of a decision process carries bounds that contain the optimum.

Single small problems on a CPU spend their time between operations, not in them. Set before JAX is imported,
`XLA_FLAGS=--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000000000` lets the compiler make one kernel of each
loop over time, about twice as fast for `solve`; nothing here sets it.
"""

from learnlag_jax.control.average import Gain as Gain
from learnlag_jax.control.average import average_reward as average_reward
from learnlag_jax.control.bellman import Bounds as Bounds
from learnlag_jax.control.bellman import bellman as bellman
from learnlag_jax.control.bellman import bounds as bounds
from learnlag_jax.control.bellman import greedy as greedy
from learnlag_jax.control.constrained import Constrained as Constrained
from learnlag_jax.control.constrained import solve_constrained as solve_constrained
from learnlag_jax.control.deep import Environment as Environment
from learnlag_jax.control.deep import Learner as Learner
from learnlag_jax.control.deep import dqn as dqn
from learnlag_jax.control.horizon import Plan as Plan
from learnlag_jax.control.horizon import backward_induction as backward_induction
from learnlag_jax.control.iteration import Values as Values
from learnlag_jax.control.iteration import solve_mdp as solve_mdp
from learnlag_jax.control.learning import Learned as Learned
from learnlag_jax.control.learning import q_learning as q_learning
from learnlag_jax.control.mdp import MDP as MDP
from learnlag_jax.control.mdp import mdp_dense as mdp_dense
from learnlag_jax.control.mdp import mdp_sparse as mdp_sparse
from learnlag_jax.control.path import Stationarity as Stationarity
from learnlag_jax.control.path import costates as costates
from learnlag_jax.control.path import rollout as rollout
from learnlag_jax.control.path import stationarity as stationarity
from learnlag_jax.control.path import total_reward as total_reward
from learnlag_jax.control.problem import Problem as Problem
from learnlag_jax.control.problem import hamiltonian as hamiltonian
from learnlag_jax.control.problem import lagrangian as lagrangian
from learnlag_jax.control.problem import minimise as minimise
from learnlag_jax.control.receding import mpc_step as mpc_step
from learnlag_jax.control.regulator import Regulator as Regulator
from learnlag_jax.control.regulator import lqr as lqr
from learnlag_jax.control.returns import Averages as Averages
from learnlag_jax.control.returns import path_values as path_values
from learnlag_jax.control.sharding import mdp_sharded as mdp_sharded
from learnlag_jax.control.sources import mdp_from_gymnasium as mdp_from_gymnasium
from learnlag_jax.control.sources import mdp_from_problem as mdp_from_problem
from learnlag_jax.control.sources import mdp_functions as mdp_functions
from learnlag_jax.control.trajectory import Trajectory as Trajectory
from learnlag_jax.control.trajectory import solve as solve

__all__ = [
    "MDP",
    "Averages",
    "Bounds",
    "Constrained",
    "Environment",
    "Gain",
    "Learned",
    "Learner",
    "Plan",
    "Problem",
    "Regulator",
    "Stationarity",
    "Trajectory",
    "Values",
    "average_reward",
    "backward_induction",
    "bellman",
    "bounds",
    "costates",
    "dqn",
    "greedy",
    "hamiltonian",
    "lagrangian",
    "lqr",
    "mdp_dense",
    "mdp_from_gymnasium",
    "mdp_from_problem",
    "mdp_functions",
    "mdp_sharded",
    "mdp_sparse",
    "minimise",
    "mpc_step",
    "path_values",
    "q_learning",
    "rollout",
    "solve",
    "solve_constrained",
    "solve_mdp",
    "stationarity",
    "total_reward",
]
