"""The stopwatch of T_compute: seconds a learner spends learning, with compilation and evaluation on clocks of their own.

    t_k = seconds in the first k steps,  error_k = evaluate(state_k),   t_0 = 0 before any step

The device is waited for before a clock is read. Goes to: `time_to_threshold` (t for T_compute, samples for T_sample).
Reference: MATH.md 3; Dahl et al., AlgoPerf (2023), for evaluation off the clock.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from learnlag_jax import checks


class TimedCurve(NamedTuple):
    """A curve of errors on the clock.

    Attributes:
        t: (n,) seconds of learning, batches included, compilation and evaluation not; 0 first.
        samples: (n,) examples used so far; 0 first.
        error: (n,) evaluations.
        compile: seconds of compilation of step and evaluation.
        evaluation: seconds of all evaluations.
        state: the last state.

    Example:
        >>> from learnlag_jax.fermat import TimedCurve
        >>> TimedCurve._fields[:3]
        ('t', 'samples', 'error')
    """

    t: np.ndarray
    samples: np.ndarray
    error: np.ndarray
    compile: float
    evaluation: float
    state: Any


def timed_curve(
    step: Callable,
    evaluate: Callable,
    state: Any,
    batches: Iterable,
    *,
    every: int = 1,
    samples_per_step: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> TimedCurve:
    """Run a learner and record its error against seconds of learning and against samples.

        t_{k+1} = t_k + time of state <- step(state, batch), `every` times

    Args:
        step: `step(state, batch)` -> state, jit-compatible; compiled before the clock starts.
        evaluate: `evaluate(state)` -> scalar error, jit-compatible; on its own clock.
        state: first state, any pytree of arrays.
        batches: batches of one shape; the run ends with them. Drawing a batch is part of learning.
        every: steps between evaluations; a time to a threshold is known only to this spacing.
        samples_per_step: examples, labels or tokens that a step uses.
        clock: seconds, for tests.

    Returns:
        `TimedCurve`, the state before any step included. A rest of fewer than `every` steps is run and evaluated too.

    Raises:
        InputError: no batch, or every < 1.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from learnlag_jax.fermat import time_to_threshold, timed_curve
        >>> curve = timed_curve(lambda w, x: w / 2 + 0 * x, jnp.abs, jnp.ones(()), jnp.zeros(10), samples_per_step=8)
        >>> float(time_to_threshold(curve.samples, jnp.asarray(curve.error), 0.1).value)  # T_sample: 2^-4 < 0.1
        32.0
        >>> seconds = time_to_threshold(curve.t, jnp.asarray(curve.error), 0.1)  # T_compute
        >>> bool(0 < seconds.value < 1), curve.compile > 0
        (True, True)

    Reference: MATH.md 3.
    """
    shape = jax.eval_shape(evaluate, state).shape
    checks.require(shape == (), "evaluate", f"an answer of shape {shape}", "a scalar error", "take the mean inside")
    checks.require(every >= 1, "every", every, "at least one step", "1 evaluates after each")
    stream = iter(batches)
    first = next(stream, None)
    checks.require(first is not None, "batches", "none", "at least one batch", "pass data")
    start = clock()
    compiled_step = jax.jit(step).lower(state, first).compile()
    compiled_evaluate = jax.jit(evaluate).lower(state).compile()
    compile_seconds = clock() - start
    t, evaluation, taken = 0.0, 0.0, 0
    record: list[tuple[float, int, float]] = []

    def look(evaluation: float) -> float:
        begin = clock()
        error = float(compiled_evaluate(state))
        record.append((t, taken * samples_per_step, error))
        return evaluation + clock() - begin

    evaluation = look(evaluation)
    batch, ended = first, False
    while not ended:
        begin = clock()
        steps = 0
        while not ended and steps < every:
            state, steps = compiled_step(state, batch), steps + 1
            batch = next(stream, None)
            ended = batch is None
        jax.block_until_ready(state)
        t, taken = t + clock() - begin, taken + steps
        evaluation = look(evaluation)
    seconds, samples, errors = (np.array(column) for column in zip(*record, strict=True))
    return TimedCurve(seconds, samples.astype(float), errors, compile_seconds, evaluation, state)
