"""Eight devices give what one gives, also where they do not divide the states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError
from learnlag_jax.control import mdp_dense, mdp_sharded, solve_mdp
from tests.control.systems import dense_arrays, garnet


def mesh():
    if jax.device_count() < 8:
        pytest.skip("needs eight devices")
    return jax.make_mesh((8,), ("states",), axis_types=(jax.sharding.AxisType.Auto,))


@pytest.mark.parametrize("S", [32, 37])
@pytest.mark.parametrize("method", ["auto", "value_iteration"])
def test_sharded_states_give_the_same_certified_values(float64, S, method):
    alone = garnet(S, 3, 4, 0.95, float64)
    spread = mdp_sharded(alone, mesh(), "states")
    assert len(spread.reward.sharding.device_set) == 8
    assert spread.reward.addressable_shards[0].data.shape[0] == -(-S // 8)
    one, eight = (solve_mdp(m, method=method, tol=1e-9) for m in (alone, spread))
    assert int(eight.status) == 0
    assert float(jnp.max(jnp.abs(eight.value[:S] - one.value))) <= 1e-9
    assert np.array_equal(eight.policy[:S], one.policy)
    other = solve_mdp(mdp_sharded(garnet(S, 3, 4, 0.95, float64, seed=1), mesh(), "states"), method=method)
    assert float(jnp.max(jnp.abs(other.value[:S] - one.value))) > 0.1


def test_dense_processes_shard_too_and_wrong_axes_are_refused(float64):
    P, R = (jnp.asarray(x) for x in dense_arrays(13, 2, 3))
    mdp = mdp_dense(P, R, 0.9)
    got = solve_mdp(mdp_sharded(mdp, mesh(), "states"), tol=1e-9)
    assert float(jnp.max(jnp.abs(got.value[:13] - solve_mdp(mdp, tol=1e-9).value))) <= 1e-9
    with pytest.raises(InputError, match="axis"):
        mdp_sharded(mdp, mesh(), "rows")
