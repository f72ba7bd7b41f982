"""A task and an optimiser compiled once: init, advance, evaluate as pure functions of a carry, on one device or many.

    carry = (params, optimiser state, key, step, skipped, in_a_row)        carry', report = advance(carry, batch, stop, settings)

A step with a non-finite loss, gradient or update, or one that overflows the optimiser's state, leaves parameters and optimiser state untouched and is counted.
Comes from: `Task`. Goes to: `run`, which adds the host: saving and signals.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from learnlag_jax import checks, trees
from learnlag_jax.vocabulary import Array, PyTree


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


class Program(NamedTuple):
    """A task and an optimiser, compiled once; `settings` (learning rate and the like) stay arguments.

    Attributes:
        init: `init(seed, settings) -> Carry`.
        advance: `advance(carry, batch, stop, settings) -> (Carry, Report)`; the carry it was given is used up.
        evaluate: `evaluate(carry) -> float`.
        place: host batch -> device batch, split over the devices along its leading axis.
        flag: bool -> the `stop` argument.
    """

    init: Callable[[int, Mapping], Carry]
    advance: Callable[..., tuple[Carry, Report]]
    evaluate: Callable[[Carry], float]
    place: Callable[[PyTree], PyTree]
    flag: Callable[[bool], Array]


def step(task: Task, make: Callable[[Mapping], Any]) -> Callable[..., tuple[Carry, Report]]:
    """`advance(carry, batch, stop, settings)`: one optimiser step that a non-finite number cannot damage."""

    def advance(carry, batch, stop, settings):
        key = jax.random.fold_in(carry.key, carry.step)
        value_at = lambda params: task.loss(params, batch, key)
        loss, gradient = jax.value_and_grad(value_at)(carry.params)
        optimiser = optax.with_extra_args_support(make(settings))
        extra = {"value": loss, "grad": gradient, "value_fn": value_at}
        updates, state = optimiser.update(gradient, carry.state, carry.params, **extra)
        params = optax.apply_updates(carry.params, updates)
        good = jnp.isfinite(loss) & trees.all_finite((gradient, params, _overflow(state, carry.state)))
        kept = jax.tree.map(lambda new, old: _choose(good, new, old), (params, state), (carry.params, carry.state))
        in_a_row = jnp.where(good, jnp.int32(0), carry.in_a_row + jnp.int32(1))
        skipped = carry.skipped + jnp.where(good, jnp.int32(0), jnp.int32(1))
        report = Report(loss, in_a_row, jnp.max(stop))
        return Carry(kept[0], kept[1], carry.key, carry.step + jnp.int32(1), skipped, in_a_row), report

    return advance


def _overflow(new: PyTree, old: PyTree) -> list[Array]:
    """NaN where a finite entry of the optimiser's state became none; some begin with infinity, and may."""
    real = lambda x: jnp.issubdtype(x.dtype, jnp.inexact)
    pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
    lost = lambda x, y: jnp.where(jnp.isfinite(x) | ~jnp.isfinite(y), 0.0, jnp.nan)
    return [lost(jnp.asarray(x), y) for x, y in pairs if real(y)]


def _choose(good, new, old):
    if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
        return jnp.where(good, new, old)
    return jnp.where(good, jnp.asarray(new, old.dtype), old).astype(old.dtype)  # the carry keeps its types


def compile_program(
    task: Task,
    make: Callable[[Mapping], Any],
    settings: Mapping[str, float],
    *,
    devices: list | None = None,
    shard_parameters: bool = False,
    view: Callable[[PyTree, PyTree], PyTree] = lambda state, params: params,
) -> Program:
    """Compile a task with an optimiser, once; a batch of another shape is then an error and never a second compilation.

    Args:
        task: what is trained.
        make: `make(settings) -> optax.GradientTransformation`, called under trace.
        settings: example settings; their values stay arguments of the compiled step.
        devices: where to run, data parallel; None takes all, over all processes.
        view: `view(optimiser state, params)`: the parameters that are evaluated.
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
                step(task, make),
                in_shardings=(where, split, split, everywhere),
                out_shardings=(where, everywhere),
                donate_argnums=0,
            )
            .lower(carry, place(batch), flag(False), settings)
            .compile()
        )
        held_out = jax.tree.map(lambda x: _spread(np.asarray(x), everywhere), task.held_out)
        error = lambda params, state, held_out: task.evaluate(view(state, params), held_out)
        measure = jax.jit(error, in_shardings=(where.params, where.state, everywhere), out_shardings=everywhere)
        measure = measure.lower(carry.params, carry.state, held_out).compile()
    numbers = lambda given: {name: _spread(np.asarray(given[name], np.float32), everywhere) for name in settings}
    return Program(
        lambda seed, given: begin(jax.random.key(seed), {k: jnp.float32(given[k]) for k in settings}),
        lambda carry, batch, stop, given: advance(carry, batch, stop, numbers(given)),
        lambda carry: float(measure(carry.params, carry.state, held_out)),
        place,
        flag,
    )


def _spread(x: np.ndarray, sharding: NamedSharding) -> Array:
    """A global array of which every process holds the parts that its devices need."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _sharding(x, mesh: Mesh, shard_parameters: bool) -> NamedSharding:
    divides = shard_parameters and x.ndim > 1 and x.shape[0] % mesh.size == 0
    return NamedSharding(mesh, P("data") if divides else P())


def state_bytes(carry: Carry) -> int:
    """Memory of the optimiser's state, over all devices, each entry once."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(carry.state))
