"""Runs that survive: killed anywhere, the finished run is the undisturbed one bit for bit; non-finite steps touch nothing."""

import contextlib
import gc
import itertools
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learnlag_jax import InputError, SolveError
from learnlag_jax.checks import RunDirError
from learnlag_jax.experiments.runs import checkpoint, program, run
from tests.experiments import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compiled():
    return tiny.program(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def undisturbed(compiled, tmp_path_factory):
    return tiny.train(tmp_path_factory.mktemp("undisturbed"), compiled)


class _Nursery:
    """Forks a fresh process for every run; `say` hears its lines. Only processes started here are ever signalled."""

    def __init__(self, process):
        self.process, self.lines = process, queue.Queue()
        threading.Thread(target=lambda: [self.lines.put(line.strip()) for line in process.stdout], daemon=True).start()

    def start(self, directory) -> int:
        self.process.stdin.write(f"{directory}\n")
        self.process.stdin.flush()
        return int(self.wait("pid (.*)")[1])

    def wait(self, pattern):
        while True:
            line = self.lines.get(timeout=120)
            if match := re.fullmatch(pattern, line):
                return match
            if line.startswith("saved"):
                self.announced = int(line.split()[1])


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),  # 60 processes, one compilation
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": "",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": str(int(jax.config.values["jax_enable_x64"])),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.experiments.tiny"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    yield _Nursery(process)
    process.stdin.close()
    process.wait(timeout=60)
    process.stdout.close()


@pytest.fixture(scope="module")
def reference(nursery, compiled, tmp_path_factory):
    """The undisturbed run in a process of the same kind."""
    out = tmp_path_factory.mktemp("reference")
    nursery.start(out)
    assert nursery.wait("end (.*)")[1] == "0"
    return tiny.train(out, compiled)  # already finished: only reads it back


@pytest.mark.parametrize("least", [15, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_lose_nothing_and_change_no_bit(nursery, reference, compiled, tmp_path, least):
    rng, kills, lost, runs = np.random.default_rng(least), 0, 0, 0
    while kills < least:
        out, runs, nursery.announced = tmp_path / str(runs), runs + 1, 0
        for attempt in itertools.count():
            pid = nursery.start(out)
            if attempt < 12:  # then it is left to finish, so that a slow machine ends too
                if rng.random() < 0.8:
                    nursery.wait("ready|end.*")
                time.sleep(rng.uniform(0, 0.5))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            code = nursery.wait("end (.*)")[1]
            assert code in ("0", "-9")
            if code == "0":
                break
            kills += 1
            whole = checkpoint.steps(out / "checkpoints") if out.exists() else []
            lost += max(whole, default=0) < nursery.announced
        finished = tiny.train(out, compiled)
        assert tiny.same_bits(finished, reference), out
    print(f"{kills} kills -9 over {runs} runs: {lost} announced steps lost, 0 bits changed")
    assert lost == 0


def test_another_seed_is_seen_by_the_comparison(compiled, undisturbed, tmp_path):
    assert not tiny.same_bits(tiny.train(tmp_path, compiled, seed=4), undisturbed)


def test_a_signal_finishes_the_step_saves_and_exits_75(nursery, reference, compiled, tmp_path):
    for number in (signal.SIGTERM, signal.SIGINT):
        out = tmp_path / number.name
        pid = nursery.start(out)
        nursery.wait("saved 6")
        os.kill(pid, number)
        assert nursery.wait("end (.*)")[1] == "75"
        assert 6 < checkpoint.steps(out / "checkpoints")[-1] <= tiny.PLAN.steps
        nursery.start(out)
        assert nursery.wait("end (.*)")[1] == "0"
        assert tiny.same_bits(tiny.train(out, compiled), reference)


def test_two_runs_in_one_directory(nursery, compiled, tmp_path):
    pid = nursery.start(tmp_path)
    nursery.wait("saved 2")
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(RunDirError, match=f"in use by pid {pid} on "):
            tiny.train(tmp_path, compiled)
    finally:
        os.kill(pid, signal.SIGKILL)
    nursery.wait("end -9")
    tiny.train(tmp_path, compiled)  # the dead one's lock is taken over


def test_a_second_signal_ends_at_once(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    before = signal.getsignal(signal.SIGTERM)
    with run.signals() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        assert not ended
        signal.raise_signal(signal.SIGINT)
        assert ended == [75]
    assert signal.getsignal(signal.SIGTERM) is before


def test_stopping_anywhere_and_going_on_is_the_undisturbed_run(compiled, undisturbed, tmp_path):
    for stop_at in (1, 7, 29):
        out, seen = tmp_path / str(stop_at), []
        with pytest.raises(run.Interrupted, match=f"stopped after step {stop_at}, saved"):
            tiny.train(out, compiled, stop=lambda seen=seen, k=stop_at: seen.append(1) or len(seen) >= k)
        assert tiny.same_bits(tiny.train(out, compiled), undisturbed)


def test_the_clock_goes_on_where_it_stopped(compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(run.time, "perf_counter", itertools.count().__next__)  # one second from pause to pause
    with pytest.raises(run.Interrupted):
        tiny.train(tmp_path, compiled, stop=iter([False] * 16 + [True] * 9).__next__)
    curve = tiny.train(tmp_path, compiled).curve
    assert curve.seconds.tolist() == [
        0,
        5,
        11,
        16,
    ]  # a pause every two steps, to save, and one more at the stop, step 17
    assert float(curve.spent) == 16


def test_an_overflowing_state_is_a_bad_step(tmp_path):
    """A gradient of 1e30 is finite and its square is not: Adam would stand still for ever and look well."""
    huge = tiny.TASK._replace(loss=lambda p, b, k: tiny.loss(p, b, k) * jnp.float32(1e30))
    with pytest.raises(SolveError, match="4 steps in a row"):
        tiny.train(tmp_path, tiny.program(huge, devices=jax.devices()[:1]), huge)
    endless = lambda settings: optax.chain(
        tiny.make(settings), optax.contrib.reduce_on_plateau(accumulation_size=100)
    )  # infinite until 100 steps are seen
    compiled = program.compile_program(tiny.TASK, endless, tiny.SETTINGS, devices=jax.devices()[:1])
    assert int(tiny.train(tmp_path / "b", compiled).carry.skipped) == 0


def test_damage_falls_back_loudly_and_ends_the_same(compiled, undisturbed, tmp_path):
    tiny.train(tmp_path, compiled)
    newest = sorted((tmp_path / "checkpoints").glob("0*"))[-1]
    victim = max(newest.rglob("d/*"), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1])
    told = []
    assert tiny.same_bits(tiny.train(tmp_path, compiled, tell=told.append), undisturbed)
    assert re.search(r"step 30: .* is damaged; going on from step 28", told[0])
    told.clear()
    assert tiny.same_bits(tiny.train(tmp_path, compiled, tell=told.append), undisturbed)
    assert not told  # the damaged step was replaced by the one that was run again


def _poisoned(*steps, value=np.nan):
    def batch(seed, step):
        good = tiny.batch(seed, step)
        return good | {"y": good["y"] * (value if step in steps else np.float32(1))}

    return tiny.TASK._replace(batch=batch)


@pytest.mark.parametrize("value", [np.float32("nan"), np.float32("inf")])
@pytest.mark.parametrize("at", [0, 5, 29])
def test_a_non_finite_step_touches_nothing_and_is_counted(compiled, tmp_path, value, at):
    task, states = _poisoned(at, value=value), {}
    keep = lambda i, carry, report: states.update({i: jax.tree.map(np.asarray, (carry.params, carry.state))})
    done = tiny.train(tmp_path, compiled, task=task, on_step=keep)
    before = states.get(at)
    if at:
        assert jax.tree.all(jax.tree.map(np.array_equal, before, states[at + 1]))
    assert int(done.carry.skipped) == 1
    assert not np.isfinite(done.curve.losses[at])
    assert np.isfinite(done.curve.errors).all()
    moved = [not np.array_equal(a["w"], b["w"]) for a, b in [(states[i][0], states[i + 1][0]) for i in range(1, 30)]]
    assert moved.count(False) == (at > 0)  # every other step moved


def test_patience_ends_the_run_with_the_last_good_parameters_on_disk(compiled, tmp_path):
    states, bad = {}, range(9, 99)
    keep = lambda i, carry, report: states.update({i: np.asarray(carry.params["w"])})
    for _ in range(2):  # the same command again says the same
        with pytest.raises(SolveError, match="in 4 steps in a row, up to step 13"):
            tiny.train(tmp_path, compiled, task=_poisoned(*bad), on_step=keep)
    like = (compiled.init(3, tiny.SETTINGS), run._blank(tiny.PLAN))
    found = checkpoint.restore(tmp_path / "checkpoints", like, identity=tiny.IDENTITY)
    assert found.step == 13
    np.testing.assert_array_equal(found.tree[0].params["w"], states[9])


def test_skips_that_are_not_in_a_row_do_not_end_it(compiled, tmp_path):
    done = tiny.train(tmp_path, compiled, task=_poisoned(3, 4, 5, 7, 8, 9))
    assert int(done.carry.skipped) == 6


def test_the_same_run_on_eight_devices_then_one_then_two(undisturbed, tmp_path):
    stop = lambda k, seen: lambda: seen.append(1) or len(seen) >= k
    for count, k in ((8, 10), (1, 10), (2, 99)):
        compiled = tiny.program(devices=jax.devices()[:count], shard_parameters=count == 8)
        with contextlib.suppress(run.Interrupted):
            done = tiny.train(tmp_path, compiled, stop=stop(k, []))
    assert tiny.same_bits(done, undisturbed)


def test_a_restored_carry_does_not_outlive_its_first_step(tmp_path, monkeypatch):
    split, restore, held = tiny.program(devices=jax.devices()[:2], shard_parameters=True), checkpoint.restore, []
    with pytest.raises(run.Interrupted):
        tiny.train(tmp_path, split, stop=iter([False] * 9 + [True]).__next__)

    def watched(*arguments, **options):
        found = restore(*arguments, **options)
        held.extend(map(weakref.ref, jax.tree.leaves(found.tree[0])))
        return found

    monkeypatch.setattr(checkpoint, "restore", watched)
    alive = []
    count = lambda step, carry, report: gc.collect() and alive.append(sum(x() is not None for x in held))
    tiny.train(tmp_path, split, on_step=count)
    assert len(held) > 5
    assert not any(alive)


def test_a_loss_that_is_no_number_with_a_gradient_that_is_one_is_a_bad_step(tmp_path):
    bad = lambda p, b, k: tiny.loss(p, b, k) + jax.lax.stop_gradient(jnp.float32(jnp.nan))
    task = tiny.TASK._replace(loss=bad)
    with pytest.raises(SolveError, match="4 steps in a row, up to step 4") as ended:
        tiny.train(tmp_path, tiny.program(task, devices=jax.devices()[:1]), task)
    carry = ended.value.solution.carry
    assert int(carry.skipped) == 4
    assert jax.tree.all(jax.tree.map(np.array_equal, carry.params, task.init(jax.random.fold_in(jax.random.key(3), 0))))
    assert not np.any(carry.state[0].mu["w"])


def test_parameters_are_split_where_asked(tmp_path):
    wide = tiny.TASK._replace(
        init=lambda key: {
            "w": jnp.ones((5, 3), jnp.float32),
            "out": jnp.ones(3, jnp.float32),
            "big": jnp.ones((16, 2), jnp.float32),
        }
    )
    carry = tiny.program(wide, devices=jax.devices(), shard_parameters=True).init(0, tiny.SETTINGS)
    assert carry.params["big"].addressable_shards[0].data.shape == (2, 2)
    assert carry.state[0].mu["big"].addressable_shards[0].data.shape == (2, 2)
    assert program.state_bytes(carry) == 2 * 4 * (15 + 3 + 32) + 4


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match="16 examples for 3 devices"):
        tiny.program(devices=jax.devices()[:3])


def test_nothing_compiles_after_the_first_step(compiled, tmp_path):
    carry = compiled.init(0, tiny.SETTINGS)
    carry, _ = compiled.advance(carry, compiled.place(tiny.batch(0, 0)), compiled.flag(False), tiny.SETTINGS)
    jax.config.update("jax_no_tracing", True)
    try:
        for i in range(1, 4):
            batch, settings = compiled.place(tiny.batch(0, i)), {"learning_rate": 0.1 * i}
            carry, report = compiled.advance(carry, batch, compiled.flag(False), settings)
        assert np.isfinite(float(report.loss))
    finally:
        jax.config.update("jax_no_tracing", False)
