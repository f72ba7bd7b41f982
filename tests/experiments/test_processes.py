"""Several processes: the same bits however the devices are spread; a lost peer ends all with 75; unlike processes do not start."""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from learnlag_jax.checks import ConfigError
from learnlag_jax.experiments.runs import processes
from tests.experiments import tiny

ROOT = Path(__file__).parents[2]
CONFIG = """[run]
steps = 16
batch = 16
seeds = [0]
evaluate = 4
save = 8
shard = "SHARD"

[[workload]]
name = "digits"
hidden = 16
targets = [1.0]

[[optimiser]]
name = "adam"
learning_rate = 0.01
"""
LONG = (
    CONFIG.replace("SHARD", "batch")
    .replace("steps = 16", "steps = 100000")
    .replace("evaluate = 4", "evaluate = 100000")
)


def _port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(config, out, devices, *more, where=None, threads=8):
    words = [sys.executable, "-m", "learnlag_jax", "compare", str(config), "--out", str(out), *more]
    environment = os.environ | {
        "XLA_FLAGS": "",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "NPROC": str(threads),  # XLA blocks products by it, and a machine with fewer cores would round otherwise
        "JAX_ENABLE_X64": "0",
        "PYTHONPATH": str(ROOT),
    }
    environment |= {"XDG_CACHE_HOME": str(out.parent / "cache")}
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    return subprocess.Popen(words, env=environment, cwd=where, text=True, **pipes)


def _pair(configs, out, *more, places=(None, None), threads=(8, 8), devices=(2, 2)):
    address = ["--processes", "2", "--coordinator", f"127.0.0.1:{_port()}", *more]
    return [
        _start(config, out, devices[i], *address, "--process", str(i), where=place, threads=number)
        for i, (config, place, number) in enumerate(zip(configs, places, threads, strict=True))
    ]


def _until_saved(pair, out):
    end = time.monotonic() + 200
    while not list(out.glob("trials/*/checkpoints/0*")):
        assert time.monotonic() < end
        assert all(process.poll() is None for process in pair), _ends(pair)
        time.sleep(0.02)


def _worker(process):
    [worker] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(worker)


def _ends(pair, seconds=240):
    said = [process.communicate(timeout=seconds)[1] for process in pair]
    return [process.returncode for process in pair], [
        [x for x in text.splitlines() if x.startswith("learnlag: ")] for text in said
    ]


def _losses(out):
    trial = json.loads((out / "results.json").read_text())["trials"][0]
    return np.array(trial["losses"]), np.array(trial["errors"])


@pytest.mark.parametrize("shard", ["parameters", pytest.param("batch", marks=pytest.mark.slow)])
def test_one_process_two_processes_and_eight_devices_give_the_same_bits(tmp_path, shard):
    config = tmp_path / "c.toml"
    config.write_text(
        CONFIG.replace("SHARD", shard).replace("steps = 16", "steps = 48").replace("adam", "fisher_descent")
    )
    alone = _start(config, tmp_path / "one", 1)
    assert _ends([alone])[0] == [0]
    together = [*_pair([config, config], tmp_path / "two"), _start(config, tmp_path / "eight", 8)]
    codes, said = _ends(together)
    assert codes == [0, 0, 0], said
    losses, errors = _losses(tmp_path / "one")
    assert len(losses) == 48
    for name in ("two", "eight"):
        ours, theirs = _losses(tmp_path / name)
        np.testing.assert_array_equal(ours, losses, err_msg=name)
        np.testing.assert_array_equal(theirs, errors, err_msg=name)
    assert np.abs(np.diff(losses)).min() > 0  # the next step's losses would be seen
    print(f"1 device, 2 processes with 2, and 8, {shard} split: 48 losses of fisher_descent, every bit the same")


@pytest.mark.parametrize(
    "number, victim",
    [
        pytest.param(signal.SIGKILL, 0, id="dead"),
        pytest.param(signal.SIGKILL, 1, id="dead, not the coordinator", marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 0, id="frozen coordinator", marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 1, id="frozen", marks=pytest.mark.slow),
    ],
)
def test_a_lost_peer_ends_every_process(tmp_path, number, victim):
    config = tmp_path / "long.toml"
    config.write_text(LONG)
    pair = _pair([config, config], tmp_path / "out", "--limit", "12")
    _until_saved(pair, tmp_path / "out")
    worker = _worker(pair[victim])
    os.kill(worker, number)
    lost = time.monotonic()
    codes, said = _ends(pair, 60)
    took = time.monotonic() - lost
    assert codes == [75, 75], said
    assert took < 60
    for lines in said:
        assert "another process is dead or does not answer" in lines[-1]
        assert "run the same command again on every process" in lines[-1]
    assert not Path(f"/proc/{worker}").exists()
    print(f"peer {'dead' if number == signal.SIGKILL else 'frozen'}: both processes ended after {took:.0f} s with 75")


@pytest.mark.slow
def test_a_signal_to_one_process_saves_on_all(tmp_path):
    config = tmp_path / "long.toml"
    config.write_text(LONG)
    pair = _pair([config, config], tmp_path / "out")
    _until_saved(pair, tmp_path / "out")
    pair[1].send_signal(signal.SIGTERM)
    codes, said = _ends(pair, 60)
    assert codes == [75, 75], said
    assert "run the same command to go on" in said[0][-1]


def test_unlike_configurations_are_refused_on_every_process(tmp_path):
    configs = [tmp_path / "a.toml", tmp_path / "b.toml"]
    for config, rate in zip(configs, ("0.01", "0.02"), strict=True):
        config.write_text(CONFIG.replace("SHARD", "batch").replace("0.01", rate))
    codes, said = _ends(_pair(configs, tmp_path / "out"))
    assert codes == [2, 2], said
    for lines in said:
        assert "the configuration: got another on process 1 than on process 0" in lines[-1]


def test_unlike_numbers_of_threads_are_refused_on_every_process(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG.replace("SHARD", "batch"))
    codes, said = _ends(_pair([tmp_path / "c.toml"] * 2, tmp_path / "out", threads=(4, 3)))
    assert codes == [2, 2], said
    for lines in said:
        assert "the number of CPU threads: got another on process 1 than on process 0" in lines[-1]
        assert "export NPROC=N" in lines[-1]


def test_unlike_numbers_of_devices_are_refused_on_every_process(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG.replace("SHARD", "batch"))
    codes, said = _ends(_pair([tmp_path / "c.toml"] * 2, tmp_path / "out", devices=(2, 1)))
    assert codes == [2, 2], said
    for lines in said:
        assert len(lines) == 1
        assert (
            "the number of devices: got 2 on process 0, 1 on process 1; expected the same on every process" in lines[0]
        )


def test_many_unlike_processes_are_one_line():
    processes.alike([0, 1, 1, 0])
    with pytest.raises(ConfigError, match="got 1 on process 0, 2 on process 1, .*, 2 on process 8, ...; expected"):
        processes.alike([0, *range(1, 99), *range(1, 99)])


@pytest.mark.parametrize("stated, devices, wanted", [("4", 8, "8"), ("4", 2, "4"), ("8", 8, "8"), ("", 999, "999")])
def test_threads_are_the_larger_of_those_stated_and_the_devices(monkeypatch, stated, devices, wanted):
    monkeypatch.setenv("NPROC", stated)
    monkeypatch.setattr(processes.jax, "local_device_count", lambda: devices)
    assert processes.threads() == wanted


def test_a_directory_that_cannot_be_had_is_four(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG.replace("SHARD", "batch"))
    (tmp_path / "out").write_text("a file")
    codes, said = _ends(_pair([tmp_path / "c.toml"] * 2, tmp_path / "out"))
    assert codes[0] == 4, said
    assert codes[1] in (2, 75), said  # what process 0 says, or that it has left
    assert "cannot write" in said[0][0]


def test_auto_without_a_launcher_is_refused(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG.replace("SHARD", "batch"))
    process = _start(tmp_path / "c.toml", tmp_path / "out", 1, "--processes", "auto")
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 2, said
    assert "--processes: got auto outside Slurm and Open MPI" in said


def test_unlike_data_is_refused_on_every_process(tmp_path):
    """The same configuration, but each process finds other pictures at the same relative path."""
    config = tmp_path / "c.toml"
    text = CONFIG.replace("SHARD", "batch").replace('name = "digits"', 'name = "fashion-mnist"\npath = "pictures"')
    config.write_text(text)
    places = [tmp_path / "first", tmp_path / "second"]
    for seed, place in enumerate(places):
        (place / "pictures").mkdir(parents=True)
        tiny.write_pictures(place / "pictures", seed)
    codes, said = _ends(_pair([config, config], tmp_path / "out", places=places))
    assert codes == [2, 2], said
    for lines in said:
        assert "the data of workload fashion-mnist: got another on process 1 than on process 0" in lines[-1]
    assert not list((tmp_path / "out").glob("trials/*"))


@pytest.mark.slow
def test_a_killed_run_of_two_processes_goes_on_and_ends_the_same(tmp_path):
    config = tmp_path / "c.toml"
    longer = CONFIG.replace("steps = 16", "steps = 400").replace("evaluate = 4", "evaluate = 40")
    config.write_text(longer.replace("SHARD", "parameters"))
    pair = _pair([config, config], tmp_path / "killed")
    _until_saved(pair, tmp_path / "killed")
    for process in [*map(_worker, pair), *(process.pid for process in pair)]:
        os.kill(process, signal.SIGKILL)
    assert _ends(pair)[0] == [-signal.SIGKILL] * 2
    assert not (tmp_path / "killed" / "results.json").exists()
    for out in ("killed", "undisturbed"):
        codes, said = _ends(_pair([config, config], tmp_path / out))
        assert codes == [0, 0], said
    for again, whole in zip(_losses(tmp_path / "killed"), _losses(tmp_path / "undisturbed"), strict=True):
        np.testing.assert_array_equal(again, whole)
    tables = [(tmp_path / out / "times.md").read_bytes() for out in ("killed", "undisturbed")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    "words, told",
    [
        (["--processes", "two"], "--processes"),
        (["--processes", "2", "--process", "2", "--coordinator", "a:1"], "--process"),
        (["--processes", "2", "--process", "0"], "--coordinator"),
        (["--processes", "2", "--process", "0", "--coordinator", "127.0.0.1"], "--coordinator"),
        (["--processes", "2", "--process", "0", "--coordinator", "host:99999"], "--coordinator"),
        (["--processes", "2", "--process", "0", "--coordinator", "ho st:1"], "--coordinator"),
        (["--process", "0"], "--process"),
        (["--limit", "0"], "--limit"),
    ],
)
def test_half_an_address_is_refused(words, told):
    parser = argparse.ArgumentParser()
    processes.add_arguments(parser)
    with pytest.raises(ConfigError, match=f"^{told}: got"):
        processes.check(parser.parse_args(words))


def test_whole_addresses_are_taken():
    parser = argparse.ArgumentParser()
    processes.add_arguments(parser)
    for address in ("127.0.0.1:5000", "[::1]:5000", "node-1.cluster:65535"):
        processes.check(parser.parse_args(["--processes", "2", "--process", "1", "--coordinator", address]))
    processes.check(parser.parse_args(["--processes", "auto"]))


def test_a_worker_that_the_runtime_ends_is_75(capsys, monkeypatch):
    for script, code in (("import os; os.abort()", 75), ("raise SystemExit(5)", 5), ("raise SystemExit(134)", 75)):
        popen = lambda command, script=script, **options: _Popen([sys.executable, "-c", script], **options)
        monkeypatch.setattr(processes.subprocess, "Popen", popen)
        assert processes.supervise(["compare"], 5.0) == code
    assert capsys.readouterr().err.count("what was saved is safe") == 2


_Popen = subprocess.Popen
