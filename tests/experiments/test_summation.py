"""One order of summation: a step has the same bits on any number of devices, and other orders are seen to have others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
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


QUIET = WIDE._replace(loss=lambda params, batch, key: _error(params, batch))


def _kept(settings):
    """Moves nothing and keeps the gradient it is given, whose size Adam would not show."""
    update = lambda gradient, state, params=None: (jax.tree.map(jnp.zeros_like, gradient), gradient)
    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


def _found(task, count, pieces):
    """Loss and gradient of the first step."""
    losses, _, _, out, w, _ = _run(_kept, count, 1, task, pieces=pieces)
    return losses[0], out, w


@pytest.mark.parametrize("count, pieces, examples", [(1, 1, 16), (1, 8, 16), (8, 8, 16), (2, 4, 12), (3, 8, 12)])
def test_the_mean_of_the_pieces_is_that_of_the_batch(count, pieces, examples):
    task = QUIET._replace(batch=lambda s, k: {n: x[:examples] for n, x in tiny.batch(s, k).items()})
    params = WIDE.init(jax.random.fold_in(jax.random.key(0), 0))
    loss, gradient = jax.jit(jax.value_and_grad(_error))(params, task.batch(0, 0))
    for got, wanted in zip(_found(task, count, pieces), (loss, gradient["out"], gradient["w"]), strict=True):
        if pieces == 1:
            np.testing.assert_array_equal(got, wanted)  # one piece is the batch, every bit
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("count", [1, 8])
def test_the_sum_overflows_no_sooner_than_the_mean(count):
    huge = jnp.float32(2.0**126)  # the sum of eight would be infinite
    flat = QUIET._replace(loss=lambda p, b, k: huge * (1 + 0 * jnp.mean(b["y"]) + p["out"][0] - p["out"][0] / 2))
    loss, out, _ = _found(flat._replace(init=lambda key: {"w": jnp.zeros((16, 5)), "out": jnp.zeros(16)}), count, 8)
    assert (loss, out[0]) == (2.0**126, 2.0**125)


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


@pytest.mark.parametrize(
    "batch, told",
    [
        ({}, "batch: got no arrays; expected arrays with a leading axis of examples"),
        ({"x": np.zeros(8), "y": np.zeros(())}, "batch['y']: got one ndarray without an axis"),
        ({"x": np.float32(1), "y": np.zeros(8)}, "batch['x']: got one float32 without an axis"),
        ({"x": np.zeros(8), "y": np.zeros(16)}, "batch['y']: got 16 examples; expected as many as batch['x'], 8"),
        ({"x": np.zeros((0, 3))}, "batch['x']: got no examples; expected at least one"),
        ({"x": np.zeros(9)}, "batch: got 9 examples for 2 devices; expected a multiple of the devices"),
    ],
)
def test_a_batch_that_is_none_is_refused_by_name(batch, told):
    with pytest.raises(InputError) as refused:
        summation.pieces_of(batch, 8, 2)
    assert str(refused.value).startswith(told)


def test_pieces_are_copies_of_what_the_user_may_refill():
    buffer = np.ones((16, 5), np.float32)
    compiled = program.compile_program(WIDE, tiny.make, tiny.SETTINGS, devices=jax.devices()[:1], pieces=1)
    kept = buffer.copy()
    cut = summation.cut({"x": buffer, "y": buffer.T[:4]}, 1)
    placed = compiled.place({"x": buffer, "y": buffer[:, 0]})
    buffer[:] = 2
    for x in jax.tree.leaves((cut, placed)):
        assert np.array_equal(np.unique(x), np.unique(kept))


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda b: b | {"x": b["x"][:8]}, "batch['x']: got float32[8,5]; expected float32[16,5], as at step 0"),
        (lambda b: b | {"y": b["y"].astype(np.int32)}, "batch['y']: got int32[16]; expected float32[16], as at step 0"),
        (lambda b: b | {"z": b["y"]}, "batch: got PyTreeDef"),
    ],
)
def test_a_batch_unlike_the_first_is_refused_by_name(change, told):
    with pytest.raises(InputError) as refused:
        summation.refuse_another(change(tiny.batch(0, 1)), tiny.batch(0, 0))
    assert str(refused.value).startswith(told)


def test_leaves_of_two_types_meet_each_in_its_own(monkeypatch):
    """float32 that is joined with float64 would be summed in it, and rounded once instead of three times."""
    mesh, rng = Mesh(np.array(jax.devices()[:8]), ("data",)), np.random.default_rng(0)
    tree = {"a": rng.normal(size=(8, 500)), "b": rng.normal(size=(8, 500)).astype(np.float32)}
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        met, _ = jax.jit(summation.butterfly(mesh))(tree, np.zeros(8, np.int32))
    pair = lambda x: x[0::2] + x[1::2]
    for name, x in tree.items():
        assert met[name].dtype == x.dtype
        np.testing.assert_array_equal(met[name][0], pair(pair(pair(x)))[0])
    assert not np.array_equal(pair(pair(pair(tree["b"].astype(float))))[0].astype(np.float32), met["b"][0])


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
    np.testing.assert_array_equal(total[1]["w"][0], np.full(3, 263 / 8, np.float32))  # 256 + 1 is 256 in bfloat16
    assert summation.mean_of(total, narrow)[1]["w"].dtype == jnp.bfloat16
    short = lambda params, batch, key: loss(params, batch, key).astype(jnp.bfloat16)
    mean = summation.mean(short, parts, jax.random.key(0))(narrow)
    np.testing.assert_array_equal(mean, np.float32(3 * 263 / 8))
