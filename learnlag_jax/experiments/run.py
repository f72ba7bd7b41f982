"""The training loop: pure functions of a carry, and around them a host that never loses work.

    carry = (params, optimiser state, key, step, skipped, in_a_row)        carry', report = advance(carry, batch, settings)

The batch is a pure function of the step, so the step is the data position, and a run killed at any moment and started again
is the run that was never disturbed, bit for bit (same machine and threads). A step with a non-finite loss, gradient or
update leaves parameters and optimiser state untouched and is counted; `patience` of them in a row end the run with the last
good parameters on disk. A signal finishes the step, saves, and ends with exit code 75; a second one ends at once.
"""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from learnlag_jax import checks, trees
from learnlag_jax.experiments import checkpoint
from learnlag_jax.vocabulary import Array, PyTree


class Interrupted(Exception):
    """Stopped by a signal or a lost peer after saving; the same command goes on from there (exit code 75)."""


class Task(NamedTuple):
    """What is trained.

    Attributes:
        init: `init(key) -> params`.
        loss: `loss(params, batch, key)`, a real scalar: the mean over the batch.
        batch: `batch(seed, step)`, NumPy arrays with a leading example axis; a pure function.
        evaluate: `evaluate(params, held_out)`, a real scalar: the error that targets are about.
        held_out: what `evaluate` is given, NumPy arrays.
    """

    init: Callable[[Array], PyTree]
    loss: Callable[[PyTree, PyTree, Array], Array]
    batch: Callable[[int, int], PyTree]
    evaluate: Callable[[PyTree, PyTree], Array]
    held_out: PyTree


class Plan(NamedTuple):
    """How long, and how often to look and to save. `patience`: how many skipped steps in a row end the run."""

    steps: int
    evaluate: int = 25
    save: int = 100
    patience: int = 10
    keep: int = 3

    @property
    def points(self) -> list[int]:
        """The steps after which the error is measured: 0, every `evaluate`, and the last."""
        return sorted({*range(0, self.steps, self.evaluate), self.steps})


class Carry(NamedTuple):
    """Everything a run carries from step to step."""

    params: PyTree
    state: PyTree
    key: Array
    step: Array
    skipped: Array
    in_a_row: Array


class Report(NamedTuple):
    """What one step says of itself; `stop` is true on every process once a signal reached any of them."""

    loss: Array
    in_a_row: Array
    stop: Array


class Curve(NamedTuple):
    """What a run has seen, on the host: the loss of every step, error and training seconds at `Plan.points`, seconds spent."""

    losses: np.ndarray
    errors: np.ndarray
    seconds: np.ndarray
    spent: np.ndarray


class Outcome(NamedTuple):
    """A finished run."""

    carry: Carry
    curve: Curve


class Program(NamedTuple):
    """A task and an optimiser, compiled once; `settings` (learning rate and the like) stay arguments.

    Attributes:
        init: `init(seed, settings) -> Carry`.
        advance: `advance(carry, batch, stop, settings) -> (Carry, Report)`; the carry it was given is used up.
        evaluate: `evaluate(params) -> float`.
        place: host batch -> device batch, split over the devices along its leading axis.
        flag: bool -> the `stop` argument.
    """

    init: Callable[[int, Mapping], Carry]
    advance: Callable[..., tuple[Carry, Report]]
    evaluate: Callable[[PyTree], float]
    place: Callable[[PyTree], PyTree]
    flag: Callable[[bool], Array]


def step(task: Task, make: Callable[[Mapping], Any], patience: int) -> Callable[..., tuple[Carry, Report]]:
    """`advance(carry, batch, stop, settings)`: one optimiser step that a non-finite number cannot damage."""

    def advance(carry, batch, stop, settings):
        key = jax.random.fold_in(carry.key, carry.step)
        value_at = lambda params: task.loss(params, batch, key)
        loss, gradient = jax.value_and_grad(value_at)(carry.params)
        optimiser = optax.with_extra_args_support(make(settings))
        extra = {"value": loss, "grad": gradient, "value_fn": value_at}
        updates, state = optimiser.update(gradient, carry.state, carry.params, **extra)
        params = optax.apply_updates(carry.params, updates)
        good = jnp.isfinite(loss) & trees.all_finite(gradient) & trees.all_finite(params)
        kept = jax.tree.map(lambda new, old: _choose(good, new, old), (params, state), (carry.params, carry.state))
        in_a_row = jnp.where(good, jnp.int32(0), carry.in_a_row + jnp.int32(1))
        skipped = carry.skipped + jnp.where(good, jnp.int32(0), jnp.int32(1))
        report = Report(loss, in_a_row, jnp.max(stop))
        return Carry(kept[0], kept[1], carry.key, carry.step + jnp.int32(1), skipped, in_a_row), report

    return advance


def _choose(good, new, old):
    if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
        return jnp.where(good, new, old)
    return jnp.where(good, jnp.asarray(new, old.dtype), old).astype(old.dtype)  # the carry keeps its types


def compile_program(
    task: Task,
    make: Callable[[Mapping], Any],
    settings: Mapping[str, float],
    patience: int = 10,
    *,
    devices: list | None = None,
    shard_parameters: bool = False,
) -> Program:
    """Compile a task with an optimiser, once; a batch of another shape is then an error and never a second compilation.

    Args:
        task: what is trained.
        make: `make(settings) -> optax.GradientTransformation`, called under trace.
        settings: example settings; their values stay arguments of the compiled step.
        patience: see `Plan`.
        devices: where to run, data parallel; None takes all, over all processes.
        shard_parameters: split parameters and optimiser state over the devices too, where a leading axis divides.

    Raises:
        InputError: the batch does not divide over the devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    mesh = Mesh(np.array(devices), ("data",))  # Auto axis types: the user's model needs no sharding rules
    everywhere, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    place = lambda tree: jax.tree.map(lambda x: _spread(np.asarray(x), split), tree)
    settings = {name: jnp.float32(value) for name, value in settings.items()}

    def start(key, settings):
        params = task.init(jax.random.fold_in(key, 0))
        zero = jnp.zeros((), jnp.int32)
        carry = Carry(params, make(settings).init(params), jax.random.fold_in(key, 1), zero, zero, zero)
        return jax.tree.map(
            lambda x: jax.lax.convert_element_type(x, x.dtype), carry
        )  # no weak types, no shared buffers

    batch = task.batch(0, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        checks.require(
            np.ndim(leaf) and len(leaf) % len(devices) == 0,
            "batch" + jax.tree_util.keystr(path),
            f"{len(leaf) if np.ndim(leaf) else 'no'} examples for {len(devices)} devices",
            "a multiple of the devices",
            "change the batch size or the number of devices",
        )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax and user models rely on both
        shape = jax.eval_shape(start, jax.random.key(0), settings)
        where = jax.tree.map(lambda x: _sharding(x, mesh, shard_parameters), shape)
        begin = jax.jit(start, out_shardings=where).lower(jax.random.key(0), settings).compile()
        flag = lambda stop: _spread(np.full(len(devices), stop), split)
        carry = begin(jax.random.key(0), settings)
        advance = (
            jax.jit(
                step(task, make, patience),
                in_shardings=(where, split, split, everywhere),
                out_shardings=(where, everywhere),
                donate_argnums=0,
            )
            .lower(carry, place(batch), flag(False), settings)
            .compile()
        )
        held_out = jax.tree.map(lambda x: _spread(np.asarray(x), everywhere), task.held_out)
        measure = jax.jit(task.evaluate, in_shardings=(where.params, everywhere), out_shardings=everywhere)
        measure = measure.lower(carry.params, held_out).compile()
    numbers = lambda given: {name: _spread(np.asarray(given[name], np.float32), everywhere) for name in settings}
    return Program(
        lambda seed, given: begin(jax.random.key(seed), {k: jnp.float32(given[k]) for k in settings}),
        lambda carry, batch, stop, given: advance(carry, batch, stop, numbers(given)),
        lambda params: float(measure(params, held_out)),
        place,
        flag,
    )


def _spread(x: np.ndarray, sharding: NamedSharding) -> Array:
    """A global array of which every process holds the parts that its devices need."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _sharding(x, mesh: Mesh, shard_parameters: bool) -> NamedSharding:
    divides = shard_parameters and x.ndim > 1 and x.shape[0] % mesh.size == 0
    return NamedSharding(mesh, P("data") if divides else P())


def train(
    program: Program,
    task: Task,
    plan: Plan,
    directory: Path,
    *,
    settings: Mapping[str, float],
    seed: int,
    identity: Mapping[str, str],
    stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[int, Carry, Report], None] = lambda step, carry, report: None,
    on_save: Callable[[int], None] = lambda step: None,
    tell: Callable[[str], None] = lambda text: print(f"learnlag: {text}", file=sys.stderr),
) -> Outcome:
    """Train to the end, from the newest checkpoint if there is one.

    Args:
        program, task, plan: see there.
        directory: for the checkpoints of this run alone, held under `checkpoint.lock` by the caller.
        settings: the optimiser's numbers.
        seed: of the parameters, the batches and the loss's key.
        identity: what makes this run this run; a checkpoint of another is refused.
        stop: asked before every step; true saves and ends the run.
        on_step: told after every step; must not keep the carry.
        on_save: told which step is on disk, after it is.
        tell: where notices go.

    Returns:
        `Outcome`.

    Raises:
        Interrupted: after saving. SolveError: `plan.patience` non-finite steps in a row; the last good state is on disk.
        CheckpointError, RunDirError: see `checkpoint`.
    """
    carry, curve = program.init(seed, settings), _blank(plan)
    found = checkpoint.restore(directory, (carry, curve), identity=identity)
    if found:
        carry, curve = found.tree
        curve = Curve(*(np.array(x) for x in curve))
        for damage in found.passed_over:
            tell(f"{directory}: {damage}; going on from step {found.step}")
    points, i = {point: index for index, point in enumerate(plan.points)}, int(carry.step)
    if i == 0:
        curve.errors[0], curve.seconds[0] = program.evaluate(carry.params), 0.0
    _patience(int(carry.in_a_row), plan, i, directory)
    batch = program.place(task.batch(seed, i)) if i < plan.steps else None
    clock = time.perf_counter()
    while i < plan.steps:
        carry, report = program.advance(carry, batch, program.flag(stop()), settings)
        i += 1
        batch = program.place(task.batch(seed, i)) if i < plan.steps else None  # drawn while the step runs
        curve.losses[i - 1] = report.loss
        on_step(i, carry, report)
        halt = int(report.in_a_row) >= plan.patience
        pause = halt or bool(report.stop) or i in points or i % plan.save == 0
        if not pause:
            continue
        curve.spent[()] += time.perf_counter() - clock
        if i in points:
            curve.errors[points[i]], curve.seconds[points[i]] = program.evaluate(carry.params), curve.spent
        if halt or report.stop or i % plan.save == 0 or i == plan.steps:
            checkpoint.save(directory, i, (carry, curve), identity=identity, keep=plan.keep)
            on_save(i)
        _patience(int(report.in_a_row), plan, i, directory)
        if report.stop and i < plan.steps:
            raise Interrupted(f"stopped after step {i}, saved in {directory}; run the same command to go on")
        clock = time.perf_counter()
    return Outcome(carry, curve)


def _blank(plan: Plan) -> Curve:
    n = len(plan.points)
    return Curve(np.full(plan.steps, np.nan, np.float32), np.full(n, np.nan), np.full(n, np.nan), np.zeros(()))


def _patience(in_a_row: int, plan: Plan, i: int, directory: Path) -> None:
    if in_a_row >= plan.patience:
        raise checks.SolveError(
            f"non-finite loss, gradient or update in {in_a_row} steps in a row, up to step {i}; the last good parameters are in "
            f"{directory}; lower the learning rate"
        )


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], bool]]:
    """Gives `stop()`, true after the first SIGTERM or SIGINT; the second ends the process at once with code 75."""
    seen: list[int] = []

    def handle(number, frame):
        if seen:
            os._exit(75)  # the last checkpoint is whole; nothing may run after this
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def state_bytes(carry: Carry) -> int:
    """Memory of the optimiser's state, over all devices, each entry once."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(carry.state))
