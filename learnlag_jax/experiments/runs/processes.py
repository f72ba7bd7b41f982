"""One run on several processes and hosts: `jax.distributed` started by the user's launcher, and a watch that ends it when a peer is lost.

    for i in 0 1; do learnlag compare C.toml --processes 2 --process $i --coordinator 127.0.0.1:5000 & done
    srun --ntasks 8 learnlag compare C.toml --processes auto

A collective whose peer is dead or frozen may wait for ever, and the C++ runtime may end a process without a word. So each
process is two: a worker, and a parent that hears from it after every step and ends it, with a message and exit code 75, when
it has been silent for `--limit` seconds or was ended. Comes from: the command line. Goes to: `compare`. Reference: the
fault list, 53-57.
"""

import argparse
import collections
import contextlib
import hashlib
import ipaddress
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from learnlag_jax import checks
from learnlag_jax.experiments.runs.run import Interrupted
from learnlag_jax.vocabulary import PyTree

BUSY, STEP = b"b", b"s"
START = 20  # times the limit: for what one process does alone, reading and compiling


class Group(NamedTuple):
    """The processes of a run, seen from one: whether it is the first, how many there are, and `beat(phase)` to its parent."""

    first: bool
    count: int
    beat: Callable[[bytes], None]


ALONE = Group(True, 1, lambda phase: None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a command that may run on several processes."""
    add = parser.add_argument_group("several processes").add_argument
    add("--processes", metavar="N", help="how many; auto: from Slurm or Open MPI")
    add("--process", type=int, metavar="I", help="which one this is, from 0")
    add(
        "--coordinator",
        metavar="HOST:PORT",
        help="where process 0 listens; on a private network, for it asks no password",
    )
    add("--bind", metavar="HOST:PORT", help="address that process 0 binds, if not the coordinator's")
    add("--limit", type=float, default=45.0, metavar="SECONDS", help="longest silence of a step (default: 45)")
    add("--heartbeat", type=int, help=argparse.SUPPRESS)


def check(arguments: argparse.Namespace) -> None:
    """Refuse half an address before anything starts."""
    require = lambda ok, name, expected: checks.require(
        ok, name, getattr(arguments, name[2:]), expected, "see docs/processes.md", checks.ConfigError
    )
    require(1 <= arguments.limit <= 3600, "--limit", "1 to 3600 seconds")
    if arguments.processes in (None, "auto"):
        for name in ("--process", "--coordinator", "--bind"):
            require(getattr(arguments, name[2:]) is None, name, "--processes N beside it")
        return
    count = int(arguments.processes) if arguments.processes.isdecimal() else 0
    require(1 <= count <= 10**5, "--processes", "a number of processes, or auto")
    require(arguments.process is not None and 0 <= arguments.process < count, "--process", f"0 to {count - 1}")
    require(_is_address(arguments.coordinator), "--coordinator", "HOST:PORT")
    require(arguments.bind is None or _is_address(arguments.bind), "--bind", "HOST:PORT")


def _is_address(text: str | None) -> bool:
    host, _, port = (text or "").rpartition(":")
    named = host.strip("[]")
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(named)) and port.isdecimal() and 0 < int(port) < 2**16
    return named.replace("-", "").replace(".", "").isalnum() and port.isdecimal() and 0 < int(port) < 2**16


# The parent.


def supervise(words: Sequence[str], limit: float) -> int:
    """Run `learnlag WORDS` as a worker, watch it, and return an exit code that means what the table says.

    Args:
        words: the command line.
        limit: the longest silence in a phase of steps, seconds.

    Returns:
        The worker's exit code; 75 if it was silent too long, or was ended by a signal or by the runtime.
    """
    hear, say = os.pipe()
    command = [sys.executable, "-m", "learnlag_jax", *words, "--heartbeat", str(say)]
    worker = subprocess.Popen(command, pass_fds=(say,), start_new_session=True)
    os.close(say)
    with _forwarding(worker):
        silent = _listen(hear, limit)
        if silent:
            worker.kill()
        code = worker.wait()
    os.close(hear)
    if code in (0, 1, 2, 3, 4, 5, 75, 130) and not silent:
        return code
    reason = f"no step for {silent:.0f} s" if silent else f"this process was ended (status {code})"
    return lost(reason)


def lost(reason: str) -> int:
    """Say that a peer is gone; 75."""
    text = f"{reason}: another process is dead or does not answer; what was saved is safe; run the same command again on every process"
    print(f"learnlag: {' '.join(text.split())}", file=sys.stderr, flush=True)
    return 75


def _listen(hear: int, limit: float) -> float:
    """Seconds of silence when it lasted too long; 0 when the worker closed its end."""
    allowed, last = START * limit, time.monotonic()
    while True:
        ready, _, _ = select.select([hear], [], [], 0.2)
        if ready:
            sent = os.read(hear, 1 << 16)
            if not sent:
                return 0.0
            allowed, last = limit if sent[-1:] == STEP else START * limit, time.monotonic()
        elif (silent := time.monotonic() - last) > allowed:
            return silent


@contextlib.contextmanager
def _forwarding(worker: subprocess.Popen) -> Iterator[None]:
    """SIGTERM and SIGINT go to the worker, which finishes its step and saves."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda number, frame: worker.send_signal(number)) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


# The worker.


@contextlib.contextmanager
def joined(arguments: argparse.Namespace) -> Iterator[Group]:
    """Inside, the devices of all processes are one; outside, nothing is left running.

    Raises:
        OSError: the peers did not come within the start limit.
        ConfigError: on every process, if they have unlike numbers of devices.
    """
    if arguments.heartbeat is None:
        yield ALONE
        return
    os.set_blocking(arguments.heartbeat, False)
    stated: dict[str, Any] = {}
    if arguments.processes != "auto":
        stated = {
            "coordinator_address": arguments.coordinator,
            "num_processes": int(arguments.processes),
            "process_id": arguments.process,
            "coordinator_bind_address": arguments.bind or arguments.coordinator,  # JAX alone binds every address
        }
    limits: dict[str, Any] = {
        "initialization_timeout": 120,
        "heartbeat_timeout_seconds": max(10, int(arguments.limit / 2)),
        "shutdown_timeout_seconds": 60,
    }
    try:
        jax.distributed.initialize(**stated, **limits)
    except (RuntimeError, ValueError) as error:
        if arguments.processes == "auto" and "should be defined" in str(error):
            raise checks.ConfigError(
                "--processes: got auto outside Slurm and Open MPI; expected a launcher that JAX knows; give --processes N --process I "
                "--coordinator HOST:PORT"
            ) from None
        os._exit(lost(f"cannot join the other processes ({' '.join(str(error).split())[:200]})"))
    agreed = checks.ConfigError, checks.InputError, checks.SolveError, checks.CheckpointError, Interrupted
    try:
        alike([d.process_index for d in jax.devices()])
        yield Group(jax.process_index() == 0, jax.process_count(), lambda phase: _beat(arguments.heartbeat, phase))
    except agreed:  # raised on every process, so all of them come to the shutdown
        jax.distributed.shutdown()
        raise
    except OSError as error:
        print("learnlag: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
        os._exit(4)  # the others learn of it at their next collective
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        os._exit(lost(f"a collective failed ({' '.join(str(error).split())[:200]})"))
    jax.distributed.shutdown()


def _beat(descriptor: int, phase: bytes) -> None:
    try:
        os.write(descriptor, phase)
    except BlockingIOError:
        pass  # the parent is slow to read: it has enough to hear
    except BrokenPipeError:
        os._exit(75)  # the parent is gone, and with it whoever waits for the exit code


def threads() -> str:
    """How many threads XLA has on a CPU: it blocks matrix products by them, and a process with another number rounds otherwise."""
    if jax.default_backend() != "cpu":
        return "those of an accelerator"
    stated = os.environ.get("NPROC", "")
    cores = int(stated) if stated.isdigit() and int(stated) else len(os.sched_getaffinity(0))
    return str(max(cores, jax.local_device_count()))


def alike(owners: Sequence[int]) -> None:
    """Every process must have as many devices as process 0: a collective of unlike ones fails in JAX.

    Asks no other process, for each knows whose the devices are: `owners` has a process for every device.

    Raises:
        ConfigError: on every process, with the counts.
    """
    counts = collections.Counter(owners)
    apart = [f"{counts[i]} on process {i}" for i in sorted(counts) if counts[i] != counts[0]]
    told = ", ".join(apart[:8]) + ", ..." * (len(apart) > 8)
    checks.require(
        not apart,
        "the number of devices",
        f"{counts[0]} on process 0, {told}",
        "the same on every process",
        "give every process as many: JAX_NUM_CPU_DEVICES, or the launcher's accelerators",
        checks.ConfigError,
    )


def same(what: str, text: str, remedy: str = "give every process the same file, data and packages") -> None:
    """Every process must hold the same text.

    Raises:
        ConfigError: on every process, naming those that differ from process 0.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    every = multihost_utils.process_allgather(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8))
    apart = [str(i) for i, words in enumerate(np.asarray(every)) if (words != every[0]).any()]
    checks.require(
        not apart,
        what,
        f"another on process {', '.join(apart)} than on process 0",
        "the same",
        remedy,
        checks.ConfigError,
    )


def agree(value: int) -> int:
    """The number that process 0 has."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def gather(tree: PyTree) -> PyTree:
    """NumPy copies of arrays that may be split over processes; every process must call it."""
    from jax.experimental import multihost_utils

    whole = lambda x: (
        x if x.is_fully_addressable or x.is_fully_replicated else multihost_utils.process_allgather(x, tiled=True)
    )
    return jax.tree.map(lambda x: np.asarray(whole(x)), tree)
