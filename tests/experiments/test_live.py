"""The live audit is `fisher.audit`, step by step, and it watches without touching."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learnlag_jax import InputError, fisher
from learnlag_jax.experiments.runs import program
from learnlag_jax.experiments.runs.live import _weights, audited, find, watch_stationarity

DATA = np.random.default_rng(0).normal(size=(60, 16, 24)).astype(np.float32)
TERMS = ("residual", "unexplained", "drift", "correction")


def _loss(q, x):
    return jnp.mean((jnp.tanh(x @ q["w"]) @ q["out"] - jnp.sin(x[:, :3]).sum(1)) ** 2) + 0 * jnp.sum(q["empty"])


def _start():
    draw = np.random.default_rng(1)
    weights = {"w": draw.normal(size=(24, 40)) / 5, "out": draw.normal(size=40) / 6, "empty": np.zeros((0, 2))}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weights)


def _train(optimiser, steps=60):
    q, state = _start(), optimiser.init(_start())
    with jax.numpy_dtype_promotion("standard"):

        def step(carry, x):
            q, state = carry
            u, state = optimiser.update(jax.grad(_loss)(q, x), state, q)
            return (optax.apply_updates(q, u), state), None

        return jax.jit(lambda q, state: jax.lax.scan(step, (q, state), DATA[:steps])[0])(q, state)


def _recorded(optimiser, **options):
    with jax.numpy_dtype_promotion("standard"):
        run = fisher.record(_loss, optimiser, _start(), jnp.asarray(DATA))
    return fisher.audit(run, **options)


@pytest.mark.parametrize("rate", [0.01, None])
@pytest.mark.parametrize("name", ["adam", "sgd", "lion"])
def test_every_coordinate_watched_is_the_recorded_audit(name, rate):
    optimiser = getattr(optax, name)(0.01)
    _, state = _train(watch_stationarity(optimiser, stride=1))
    live, whole = audited(state, learning_rate=rate), _recorded(optimiser, learning_rate=rate)
    for term in TERMS:
        # the record's velocities are differences of float32 positions: eps |q| / |v| each
        np.testing.assert_allclose(getattr(live, term), getattr(whole, term), rtol=1e-4, atol=1e-4, err_msg=term)
    np.testing.assert_allclose(live.learning_rate, whole.learning_rate, rtol=1e-3)
    other = audited(state, learning_rate=rate, b1=0.5)  # negative control: another Lagrangian
    assert abs(other.relative - float(whole.relative)) > 0.02


def test_every_part_of_the_metric_is_that_of_the_recorded_audit():
    metric = {"b1": 0.8, "eps": 0.05, "exponent": -0.3, "bias_correction": False}
    live = audited(_train(watch_stationarity(optax.adam(0.01), stride=1, b2=0.9))[1], **metric)
    whole = _recorded(optax.adam(0.01), b2=0.9, **metric)
    for term in TERMS:
        np.testing.assert_allclose(getattr(live, term), getattr(whole, term), rtol=1e-4, atol=1e-4, err_msg=term)
    np.testing.assert_allclose(live.learning_rate, whole.learning_rate, rtol=1e-4)


def test_adam_is_explained_and_sgd_is_not():
    adam = audited(_train(watch_stationarity(optax.adam(0.01)))[1], learning_rate=0.01)
    sgd = audited(_train(watch_stationarity(optax.sgd(0.01)))[1])
    assert adam.unexplained.max() < 1e-4
    assert sgd.unexplained.mean() > 0.1


def test_a_schedule_is_taken_step_by_step():
    schedule = lambda count: 1 / (1 + 0.1 * count)
    _, state = _train(watch_stationarity(optax.adam(lambda count: 0.01 * schedule(count))))
    told = audited(state, schedule=lambda k: schedule(k - 1))
    assert told.unexplained.max() < 1e-4
    np.testing.assert_allclose(told.learning_rate, 0.01, rtol=1e-4)
    assert audited(state, learning_rate=0.01).unexplained.max() > 0.1


def test_the_watched_stand_for_all():
    tree = {"a": jnp.zeros((7, 9)), "b": jnp.zeros(50), "c": jnp.zeros(()), "empty": jnp.zeros((0, 3))}
    weights = _weights(tree, 4)
    np.testing.assert_allclose([weights[:16].sum(), weights[16:29].sum(), weights[29:].sum()], [63, 50, 1], rtol=1e-6)


def test_a_step_skipped_inside_does_not_spoil_the_rest():
    bad = DATA.copy()
    bad[20, 0, 0] = np.nan

    def told(optimiser):
        q, state = _start(), optimiser.init(_start())
        with jax.numpy_dtype_promotion("standard"):
            update = jax.jit(optimiser.update)
            for x in bad[:40]:
                updates, state = update(jax.grad(_loss)(q, x), state, q)
                q = optax.apply_updates(q, updates)
        return audited(state, learning_rate=0.01).unexplained

    inside = told(watch_stationarity(optax.apply_if_finite(optax.adam(0.01), 3)))
    outside = told(optax.apply_if_finite(watch_stationarity(optax.adam(0.01)), 3))
    assert np.isfinite(told(watch_stationarity(optax.apply_if_finite(optax.adam(0.01), 3), memory=4))).all()
    assert len(inside) == len(outside) + 1
    assert outside.max() < 1e-4
    assert inside[:19].max() < 1e-4
    assert inside[19] > 0.1  # step 21 stood still
    assert np.isfinite(inside).all()


def test_a_stride_estimates_the_whole():
    whole = audited(_train(watch_stationarity(optax.adamw(0.01), stride=1))[1])
    part = audited(_train(watch_stationarity(optax.adamw(0.01), stride=7))[1])
    # 1000 coordinates, 143 watched: a relative standard error of a few parts in sqrt(2 * 143)
    assert abs(part.relative / whole.relative - 1) < 0.15
    assert abs(part.learning_rate / whole.learning_rate - 1) < 0.15


def test_one_coordinate_of_equal_ones_says_what_all_say():
    def told(stride):
        optimiser, q = watch_stationarity(optax.sgd(0.1), stride=stride), {"a": jnp.ones(8), "b": jnp.full(2, 3.0)}
        state = optimiser.init(q)
        for k in range(8):
            gradient = {"a": q["a"] + k, "b": 5 * q["b"]}
            updates, state = optimiser.update(gradient, state, q)
            q = optax.apply_updates(q, updates)
        return audited(state, b1=0.8, eps=0.1, exponent=-0.4, bias_correction=False)

    with jax.numpy_dtype_promotion("standard"):
        all_of_them, two_and_one = told(1), told(4)
    for term in (*TERMS, "learning_rate"):
        np.testing.assert_allclose(getattr(two_and_one, term), getattr(all_of_them, term), rtol=1e-12, err_msg=term)


def test_the_watched_optimiser_takes_the_same_steps():
    plain, watched = _train(optax.adam(0.01))[0], _train(watch_stationarity(optax.adam(0.01)))[0]
    assert jax.tree.all(jax.tree.map(np.array_equal, plain, watched))


def test_a_step_that_the_parameters_round_away_was_not_taken():
    def told(dtype, rate):
        optimiser, q = watch_stationarity(optax.adam(rate)), jax.tree.map(lambda x: x.astype(dtype), _start())
        state = optimiser.init(q)
        with jax.numpy_dtype_promotion("standard"):
            for x in DATA[:10]:
                updates, state = optimiser.update(jax.grad(_loss)(q, x), state, q)
                q = optax.apply_updates(q, updates)
        return audited(state, learning_rate=rate)

    assert told(jnp.float32, 2e-4).unexplained.max() < 0.01  # weights of 0.2: neighbours lie 1e-8 apart,
    assert told(jnp.bfloat16, 2e-4).unexplained.mean() > 0.3  # and 1e-3 here: few of the steps are taken,
    assert np.isnan(told(jnp.bfloat16, 1e-9).relative)  # or none


@pytest.mark.parametrize("rate", [1e-2, 1e-7])
def test_double_precision_is_watched_in_double(float64, rate):
    optimiser, q = watch_stationarity(optax.adam(rate), stride=1), jnp.full(3, 3.3)
    state = optimiser.init(q)
    with jax.numpy_dtype_promotion("standard"):
        for k in range(1, 20):
            updates, state = optimiser.update(q * k, state, q)
            q = optax.apply_updates(q, updates)
    # v is a difference of positions, each rounded: eps |q| / |v|
    assert audited(state, learning_rate=rate).unexplained.max() < 100 * np.finfo(np.float64).eps * 3.3 / rate


def test_a_force_that_is_nowhere_fits_no_rate():
    optimiser = watch_stationarity(optax.sgd(0.1))
    q, state = jnp.ones(3, jnp.float32), optimiser.init(jnp.ones(3, jnp.float32))
    for _ in range(4):
        _, state = optimiser.update(jnp.zeros_like(q), state, q)
    assert np.isnan(audited(state).learning_rate)


def test_the_ring_keeps_the_last_steps():
    _, state = _train(watch_stationarity(optax.adam(0.01), memory=16))
    _, full = _train(watch_stationarity(optax.adam(0.01)))
    ring, whole = audited(state, learning_rate=0.01), audited(full, learning_rate=0.01)
    assert len(ring.residual) == 16
    scale = ring.residual / whole.residual[-16:]  # each is over its own impulse
    # what left the ring was summed in single precision, 45 steps of it
    np.testing.assert_allclose(scale, scale[0], rtol=1e-5)
    assert find((optax.EmptyState(), (state,))) is state
    assert find(optax.adam(0.1).init(_start())) is None


@pytest.mark.parametrize("bad", [29, 39])
def test_a_step_that_the_program_takes_back_leaves_no_trace(bad):
    batches = np.delete(DATA, bad, 0)  # what is left if the bad one is thrown away

    def told(draw, steps):
        task = program.Task(lambda key: _start(), lambda q, x, key: _loss(q, x), draw, _loss, DATA[0])
        watch = lambda settings: watch_stationarity(optax.adam(0.01), stride=1, memory=8)
        made = program.compile_program(task, watch, {}, devices=jax.devices()[:1], pieces=1)
        carry = made.init(0, {})
        for k in range(steps):
            carry, _ = made.advance(carry, made.place(draw(0, k)), made.flag(False), {})
        return audited(find(jax.device_get(carry.state)), learning_rate=0.01), int(carry.skipped)

    with_bad, skipped = told(lambda seed, k: np.where(k == bad, np.nan, DATA[k]).astype(np.float32), 40)
    without, none = told(lambda seed, k: batches[k], 39)
    assert (skipped, none) == (1, 0)
    for term in TERMS:
        np.testing.assert_array_equal(getattr(with_bad, term), getattr(without, term), err_msg=term)


def test_the_ring_is_no_larger_than_it_says():
    rows = lambda size, **options: (
        watch_stationarity(optax.sgd(0.1), **options).init(jnp.zeros(size, jnp.float32)).ring.rows
    )
    assert rows(10**6).shape[0] == 1024 + 3
    assert rows(10**6).nbytes < 1.1e6
    assert rows(10**6, stride=1).nbytes < 1.5 * 2**26  # 8 MB a step: 8 steps and three more
    assert rows(10**6, stride=1, memory=20).shape == (23, 2 * 10**6)
    assert rows(0).shape == (1027, 0)


def test_too_short_and_wrong_options_are_refused():
    with pytest.raises(InputError, match="at least 3 steps"):
        audited(_train(watch_stationarity(optax.sgd(0.1)), 2)[1])
    for wrong in ({"b2": 1.0}, {"stride": 0}, {"stride": 1.5}, {"memory": 0}, {"memory": "8"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            watch_stationarity(optax.sgd(0.1), **wrong)
    watched = watch_stationarity(optax.sgd(0.1))
    with pytest.raises(InputError, match="complex"):
        watch_stationarity(optax.sgd(0.1)).init(jnp.ones(2, jnp.complex64))
    seen = _train(watch_stationarity(optax.sgd(0.1)), 4)[1]
    for wrong in ({"b1": 1.0}, {"eps": -1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            audited(seen, **wrong)
    with pytest.raises(InputError, match="watch the run"):
        audited(optax.adam(0.1).init(_start()))
    with pytest.raises(InputError, match=r"params.*update\(gradient, state, params\)"):
        watched.update(_start(), watched.init(_start()))
