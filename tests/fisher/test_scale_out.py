"""Two processes on loopback, and a checkpoint by orbax: the same numbers, to rounding and to the last bit."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from learnlag_jax.fisher import FisherOptions, scale_by_fisher

OPTIMISER = scale_by_fisher(options=FisherOptions(refresh=2))


def gradients(step):
    k1, k2 = jax.random.split(jax.random.key(step))
    return {
        "w": jax.random.normal(k1, (8, 4), jnp.float32),
        "b": jax.random.normal(k2, (8,), jnp.float32),
        "none": None,
    }


PROCESS = """
import sys, jax, numpy as np
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from jax.experimental import multihost_utils
from tests.fisher.test_scale_out import OPTIMISER, gradients
assert jax.process_count() == 2 and len(jax.devices()) == 8
mesh = jax.make_mesh((4, 2), ("fsdp", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
spec = {"w": jax.P("fsdp", "model"), "b": jax.P("fsdp"), "none": None}
def place(tree):
    put = lambda x, s: jax.make_array_from_callback(x.shape, jax.NamedSharding(mesh, s), lambda i: np.asarray(x)[i])
    return jax.tree.map(put, tree, spec)
state = jax.jit(OPTIMISER.init)(place(gradients(0)))
update = jax.jit(OPTIMISER.update)
for step in range(5):
    found, state = update(place(gradients(step)), state)
found = multihost_utils.process_allgather(found, tiled=True)
if jax.process_index() == 0:
    np.savez(sys.argv[3], w=found["w"], b=found["b"], skipped=np.asarray(state.diagnostics.skipped))
"""


def test_two_processes_give_the_single_device_result(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROCESS, address]
    start = lambda rank: subprocess.Popen(
        [*command, str(rank), str(tmp_path / "found.npz")],
        env=os.environ | flags,
        stderr=subprocess.PIPE,
        text=True,
    )
    processes = [start(rank) for rank in range(2)]
    errors = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    found = np.load(tmp_path / "found.npz")
    state = OPTIMISER.init(gradients(0))
    update = jax.jit(OPTIMISER.update)
    for step in range(5):
        expected, state = update(gradients(step), state)
    for name in ("w", "b"):
        np.testing.assert_allclose(found[name], expected[name], atol=4096 * np.finfo(np.float32).eps)
        assert np.max(np.abs(found[name] - np.sign(expected[name]))) > 0.1
    assert int(found["skipped"]) == 0


@pytest.mark.parametrize("structure", ["eigen", "kronecker", "diagonal"])
def test_an_orbax_checkpoint_restores_every_bit(tmp_path, structure):
    optimiser = scale_by_fisher(structure, options=FisherOptions(refresh=2))
    update, state = jax.jit(optimiser.update), optimiser.init(gradients(0))
    for step in range(3):
        _, state = update(gradients(step), state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", optimiser.init(gradients(0)))
    bits = lambda tree: [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]
    assert bits(restored) == bits(state)
    assert bits(update(gradients(3), restored)) == bits(update(gradients(3), state))
    assert bits(optimiser.init(gradients(0))) != bits(state)
