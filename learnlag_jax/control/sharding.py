"""Processes spread over devices by states: each device holds its rows of P and R; values travel, transitions do not."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from learnlag_jax import checks
from learnlag_jax.control.mdp import MDP, Dense, Functions


def mdp_sharded(mdp: MDP, mesh: Mesh, axis: str) -> MDP:
    """The same process with its states divided over the devices of a mesh axis.

    Args:
        mdp: a process held as arrays, dense or sparse.
        mesh: a device mesh with Auto axis types.
        axis: the name of the mesh axis to divide the states over.

    Returns:
        An `MDP` for `solve_mdp` and every other solver; `jit` then partitions each sweep, and one gather of the values, S
        numbers, is all that travels. Where the devices do not divide S, copies of state 0 (which nothing leads to) are
        added at the end, so answers have S + padding entries: the first S are those of the process.

    Raises:
        InputError: an axis that the mesh does not have, or a process from functions (which holds no transitions).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from learnlag_jax.control import mdp_dense, mdp_sharded, solve_mdp
        >>> mesh = jax.make_mesh((1,), ("states",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> one = mdp_sharded(mdp_dense(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), 0.5), mesh, "states")
        >>> round(float(solve_mdp(one, tol=1e-9).value[0]), 6)
        2.0

    Reference: MATH.md section 5.
    """
    held = mdp.transition
    checks.require(axis in mesh.axis_names, "axis", repr(axis), f"one of {mesh.axis_names}", "name a mesh axis")
    arrays = not isinstance(held, Functions)
    checks.require(arrays, "mdp", "transitions from functions", "dense or sparse ones", "they need no sharding")
    extra = -mdp.reward.shape[0] % mesh.shape[axis]
    divided, whole = NamedSharding(mesh, Spec(axis)), NamedSharding(mesh, Spec())

    def rows(x):
        copies = jnp.broadcast_to(x[:1], (extra, *x.shape[1:]))
        return jax.device_put(jnp.concatenate([x, copies]), divided)

    if isinstance(held, Dense):
        held = Dense(jnp.pad(held.probability, ((0, 0), (0, 0), (0, extra))))
    rest = jax.device_put((mdp.discount, mdp.excess), whole)
    return MDP(rows(mdp.reward), jax.tree.map(rows, held), *rest)
