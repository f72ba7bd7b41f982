"""One order of summation: a step has the same bits on any number of devices, and other orders are seen to have others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from learnlag_jax import InputError, fisher
from learnlag_jax.experiments.runs import program, summation
from tests.experiments import tiny


def _init(key):
    return {"w": jax.random.normal(key, (16, 5), jnp.float32), "out": jnp.ones(16, jnp.float32) / 4}


def _error(params, data):
    return jnp.mean((jnp.tanh(data["x"] @ params["w"].T) @ params["out"] - data["y"]) ** 2)


def _noisy(params, batch, key):
    noise = jax.random.normal(key, batch["y"].shape, jnp.float32)  # each piece has a key of its own, on any device
    return _error(params, batch | {"y": batch["y"] + jnp.float32(0.1) * noise})


WIDE = program.Task(_init, _noisy, tiny.batch, _error, tiny.TASK.held_out)
TURNING = fisher.FisherOptions(refresh=5)


def _make(settings):
    return fisher.fisher_descent(settings["learning_rate"], options=TURNING)  # its turning basis amplifies rounding


def _run(make, count, steps=60, task=WIDE, **options):
    """Every loss, the last parameters and state, and the last error."""
    compiled = program.compile_program(task, make, tiny.SETTINGS, devices=jax.devices()[:count], **options)
    carry, losses = compiled.init(0, tiny.SETTINGS), []
    for k in range(steps):
        placed, flag = compiled.place(task.batch(0, k)), compiled.flag(False)
        carry, report = compiled.advance(carry, placed, flag, tiny.SETTINGS)
        losses.append(float(report.loss))
    whole = jax.tree.map(np.asarray, (carry.params, carry.state))
    return losses, *jax.tree.leaves(whole), compiled.evaluate(carry)


def _same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@functools.cache
def _alone():
    return _run(_make, 1)


def test_any_number_of_devices_gives_the_same_bits():
    for count, split in ((8, True), (2, False)):
        assert _same(_run(_make, count, shard_parameters=split), _alone()), count
    print("fisher_descent: 60 losses, parameters, state and error of 1, 2 and 8 devices: every bit the same")


def _by_psum(mesh):
    meet = lambda tree, flag: (jax.lax.psum(tree, "data"), jax.lax.pmax(flag, "data"))
    return jax.shard_map(meet, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=(P(), P()), check_vma=False)


def test_sums_in_another_order_have_other_bits(monkeypatch):
    """The control: what a reduction that does not fix its order gives, and another number of pieces."""
    monkeypatch.setattr(summation, "butterfly", _by_psum)
    other = _run(_make, 8)
    monkeypatch.undo()
    alone = _alone()
    apart = np.abs(np.array(other[0]) / alone[0] - 1)
    assert apart[0] < 1e-6
    assert not _same(other, alone)
    print(f"fisher_descent, pieces summed by psum: losses apart by up to {apart.max():.1e} after 60 steps")


def test_a_sum_of_pieces_is_a_balanced_tree():
    x = np.random.default_rng(0).normal(size=(8, 1, 50)).astype(np.float32)
    total = jax.jit(lambda number: summation.tree_sum(lambda i: {"x": jnp.asarray(x)[i]}, number, 8))
    pairs = x[0::2] + x[1::2]
    fours = pairs[0::2] + pairs[1::2]
    for number, wanted in ((1, x[0]), (2, pairs[0]), (4, fours[0]), (8, fours[0] + fours[1])):
        assert np.array_equal(total(np.int32(number))["x"], wanted)
    assert not np.array_equal(np.cumsum(x, 0)[-1], fours[0] + fours[1])  # one after the other is another number


def test_the_mean_of_the_pieces_is_that_of_the_batch():
    quiet = WIDE._replace(loss=lambda params, batch, key: _error(params, batch))
    whole, cut = (_run(tiny.make, 1, 5, quiet, pieces=pieces) for pieces in (1, 8))
    np.testing.assert_allclose(cut[0], whole[0], rtol=1e-5)


def test_how_many_pieces():
    batch = lambda n: {"x": np.zeros((n, 3)), "y": np.zeros(n)}
    for examples, asked, devices, pieces in (
        (32, 8, 1, 8),
        (32, 8, 8, 8),
        (12, 8, 2, 4),
        (32, 8, 16, 16),
        (12, 8, 3, 3),
        (7, 8, 1, 1),
    ):
        assert summation.pieces_of(batch(examples), asked, devices) == pieces
    with pytest.raises(InputError, match="pieces: got 6; expected a power of two"):
        summation.pieces_of(batch(32), 6, 1)


def test_devices_that_divide_no_power_of_two_agree_to_rounding():
    task = WIDE._replace(
        loss=lambda p, b, k: _error(p, b), batch=lambda s, k: {n: x[:12] for n, x in tiny.batch(s, k).items()}
    )
    three, one = _run(tiny.make, 3, 10, task), _run(tiny.make, 1, 10, task)
    np.testing.assert_allclose(three[0], one[0], rtol=1e-5)


def _elsewhere(settings):
    """Gradient descent on the loss that the optimiser is given as a function: it must be that of the whole batch."""

    def update(updates, state, params=None, *, value, value_fn, **extra):
        there, gradient = jax.value_and_grad(value_fn)(params)
        return jax.tree.map(lambda g: jnp.float32(-0.05) * g, gradient), jnp.stack([value, there])

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(2, jnp.float32), update)


def test_the_loss_elsewhere_is_that_of_the_whole_batch():
    alone, spread = (_run(_elsewhere, count, 20) for count in (1, 8))
    assert _same(alone, spread)
    np.testing.assert_allclose(*alone[-2], rtol=1e-6)
    assert alone[0][-1] < 0.9 * alone[0][0]  # 0.77: its gradient descends


def test_narrow_gradients_are_summed_in_float32():
    narrow = {"w": jnp.ones(3, jnp.bfloat16)}
    loss = lambda params, batch, key: jnp.mean(batch * jnp.sum(params["w"]).astype(jnp.float32))
    parts = np.array([[256.0]] + [[1.0]] * 7, np.float32)
    total = summation.branch(loss, 8)((narrow, jax.random.key(0), jnp.int32(0)), parts, jnp.int32(0), jnp.int32(8))
    assert total[1]["w"].dtype == jnp.float32
    np.testing.assert_array_equal(total[1]["w"][0], np.full(3, 263, np.float32))  # 256 + 1 is 256 in bfloat16
    assert summation.mean_of(total, 8, narrow)[1]["w"].dtype == jnp.bfloat16
