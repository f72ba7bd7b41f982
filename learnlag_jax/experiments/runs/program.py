"""A task and an optimiser compiled once: init, advance, evaluate as pure functions of a carry, on one device or many.

    carry = (params, optimiser state, key, step, skipped, in_a_row)        carry', report = advance(carry, batch, stop, settings)

The step is made of one-device programs that are the same whatever the number of devices, and sums in one order (`summation`).
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

from learnlag_jax import trees
from learnlag_jax.experiments.runs import gradients, live, placement, summation
from learnlag_jax.vocabulary import Array, PyTree

PIECES = 8  # into which a batch is cut if nothing else is said; up to as many devices give the same bits


class Task(NamedTuple):
    """What is trained.

    Attributes:
        init: `init(key) -> params`.
        loss: `loss(params, batch, key)`, a real scalar: the mean over the batch. It is given equal pieces of a batch, each with a key of
            its own, and their mean is taken, which is no mean over the batch if it divides by a number that differs between
            pieces, such as that of unmasked tokens.
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
        place: host batch -> its pieces, on each of this process's devices; an InputError if it is not like the first.
        flag: bool -> the `stop` argument.
    """

    init: Callable[[int, Mapping], Carry]
    advance: Callable[..., tuple[Carry, Report]]
    evaluate: Callable[[Carry], float]
    place: Callable[[PyTree], PyTree]
    flag: Callable[[bool], Array]


def step(task: Task, make: Callable[[Mapping], Any]) -> Callable[..., tuple[Carry, Array, Array]]:
    """`advance(carry, parts, total, settings)`: one optimiser step that a non-finite number cannot damage.

    `total`: loss and gradient, the mean of the pieces; `parts`: the pieces, for an optimiser that asks for the
    loss elsewhere. Returns the carry, the loss and the number of skipped steps in a row.
    """

    def advance(carry, parts, total, settings):
        key = jax.random.fold_in(carry.key, carry.step)
        loss, gradient = summation.mean_of(total, carry.params)
        optimiser = optax.with_extra_args_support(make(settings))
        extra = {"value": loss, "grad": gradient, "value_fn": summation.mean(task.loss, parts, key)}
        updates, state = optimiser.update(gradient, carry.state, carry.params, **extra)
        params = optax.apply_updates(carry.params, updates)
        good = jnp.isfinite(loss) & trees.all_finite((gradient, params, _overflow(state, carry.state)))
        keep = lambda new, old: new if _is_ring(new) else _choose(good, new, old)
        kept = jax.tree.map(keep, (params, state), (carry.params, carry.state), is_leaf=_is_ring)
        in_a_row = jnp.where(good, jnp.int32(0), carry.in_a_row + jnp.int32(1))
        skipped = carry.skipped + jnp.where(good, jnp.int32(0), jnp.int32(1))
        return Carry(kept[0], kept[1], carry.key, carry.step + jnp.int32(1), skipped, in_a_row), loss, in_a_row

    return advance


def _overflow(new: PyTree, old: PyTree) -> list[Array]:
    """NaN where a finite entry of the optimiser's state became none; some begin with infinity, and may."""
    real = lambda x: jnp.issubdtype(x.dtype, jnp.inexact)
    new, old = jax.tree.map(lambda x: () if _is_ring(x) else x, (new, old), is_leaf=_is_ring)
    pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
    lost = lambda x, y: jnp.where(jnp.isfinite(x) | ~jnp.isfinite(y), 0.0, jnp.nan)
    return [lost(jnp.asarray(x), y) for x, y in pairs if real(y)]


def _is_ring(x) -> bool:
    return isinstance(x, live.Ring)


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
    pieces: int = PIECES,
    view: Callable[[PyTree, PyTree], PyTree] = lambda state, params: params,
) -> Program:
    """Compile a task with an optimiser, once; a batch of another shape is then an InputError and never a second compilation.

    All numbers of devices that divide the number of pieces give the same bits.

    Args:
        task: what is trained.
        make: `make(settings) -> optax.GradientTransformation`, called under trace.
        settings: example settings; their values stay arguments of the compiled step.
        devices: where to run, data parallel; None takes all, over all processes.
        shard_parameters: between steps, parameters and optimiser state lie split over the devices, where a leading axis divides.
        pieces: into how many a batch is cut, a power of two; see `summation.pieces_of`.
        view: `view(optimiser state, params)`: the parameters that are evaluated.

    Raises:
        InputError: the batch does not divide over the devices, or is none (see `summation.pieces_of`); `pieces` is no power of two.
    """
    devices = list(jax.devices() if devices is None else devices)
    batch, start = task.batch(0, 0), _start(task, make)
    pieces = summation.pieces_of(batch, pieces, len(devices))
    numbers = lambda given: {name: np.float32(given[name]) for name in settings}
    error = lambda params, state, held_out: task.evaluate(view(state, params), held_out)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax and user models rely on both
        like = jax.eval_shape(start, jax.random.key(0), numbers(settings))
        at = placement.placement(devices, like, shard_parameters)
        key = lambda seed: jax.device_put(jax.random.key(seed), at.own[0])
        held_out = jax.device_put(task.held_out, at.own[0])
        like = placement.shapes(like, at.own[0])
        begin = jax.jit(start).lower(key(0), numbers(settings)).compile()
        measure = jax.jit(error).lower(like.params, like.state, held_out).compile()
        run, flag = (_together if pieces > 1 else _alone)(
            task, step(task, make), at, like, batch, numbers(settings), pieces
        )

    def advance(carry, placed, flag, given):
        carry, loss, in_a_row, stop = run(at.whole(carry), placed, flag, numbers(given))
        return at.store(carry), Report(loss, in_a_row, stop)

    def place(given):
        summation.refuse_another(given, batch)
        return gradients.place(at, summation.cut(given, pieces))

    def evaluate(carry):
        carry = at.whole(carry)
        return float(measure(carry.params, carry.state, held_out))

    return Program(
        lambda seed, given: at.store(begin(key(seed), numbers(given))),
        advance,
        evaluate,
        place,
        flag,
    )


def _together(
    task: Task, move: Callable, at, like: Carry, batch: PyTree, settings: Mapping, pieces: int
) -> tuple[Callable, Callable]:
    """`run(carry, placed batch, flag, settings)` as two programs, the same two on any number of devices; and how a flag is made."""
    sums = gradients.compile_gradients(task.loss, at, (like.params, like.key, like.step), batch, pieces)
    parts = placement.shapes(summation.cut(batch, pieces), at.own[0])
    move = jax.jit(move, donate_argnums=0).lower(like, parts, sums.like, settings).compile()

    def run(carry, placed, flag, settings):
        total, stop = sums.total((carry.params, carry.key, carry.step), placed, flag)
        return *move(carry, placed[0], total, settings), stop

    return run, sums.flag


def _alone(
    task: Task, move: Callable, at, like: Carry, batch: PyTree, settings: Mapping, pieces: int
) -> tuple[Callable, Callable]:
    """The same as one program, which is quicker: one piece on one device has nothing to meet."""
    branch, parts = summation.branch(task.loss, pieces), placement.shapes(summation.cut(batch, pieces), at.own[0])

    def whole(carry, parts, settings):
        total = branch((carry.params, carry.key, carry.step), parts, jnp.int32(0), jnp.int32(1))
        return move(carry, parts, total, settings)

    whole = jax.jit(whole, donate_argnums=0).lower(like, parts, settings).compile()
    return lambda carry, placed, flag, settings: (*whole(carry, placed[0], settings), flag), np.bool_


def _start(task: Task, make: Callable[[Mapping], Any]) -> Callable[[Array, Mapping], Carry]:
    def start(key, settings):
        params = task.init(jax.random.fold_in(key, 0))
        zero = jnp.zeros((), jnp.int32)
        carry = Carry(params, make(settings).init(params), jax.random.fold_in(key, 1), zero, zero, zero)
        return jax.tree.map(
            lambda x: jax.lax.convert_element_type(x, x.dtype), carry
        )  # no weak types, no shared buffers

    return start


def state_bytes(carry: Carry) -> int:
    """Memory of the optimiser's state, over all devices, each entry once."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(carry.state))
