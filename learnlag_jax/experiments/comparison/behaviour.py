"""What a workload and an optimiser compute, as digests: where one has changed, kept trials are not taken.

Of a workload the operations and constants of `init`, `loss` and `evaluate` as JAX traces them, two batches, and the held-out data; of
an optimiser one step, with whatever a package's defaults put into it. Comes from: a `Task`, a stranger's perhaps, and a `Point`.
Goes to: the identity of a trial. Reference: `learnlag_jax.meaning`.
"""

import hashlib
import traceback
import warnings

import jax
import optax

from learnlag_jax import checks, meaning
from learnlag_jax.experiments.comparison.optimisers import Point
from learnlag_jax.experiments.runs.program import Task


def behaviour(label: str, task: Task) -> str:
    """A digest of everything in a task that decides its numbers.

    Raises:
        ConfigError: one of the task's functions raises; names the workload, the error and where.
    """
    try:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as in `compile_program`
            key, batch = jax.random.key(0), task.batch(0, 0)
            params = jax.eval_shape(task.init, key)
            programs = [
                jax.make_jaxpr(task.init)(key),
                jax.make_jaxpr(task.loss)(params, batch, key),
                jax.make_jaxpr(task.evaluate)(params, task.held_out),
            ]
        arrays = jax.tree.leaves((batch, task.batch(1, 1), task.held_out))
    except Exception as error:  # a user's function may raise anything
        raise told(f"workload {label}", error) from error
    parts = [*map(meaning.described, programs), *map(meaning.digest, arrays), str(jax.tree.structure(params))]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def movement(label: str, task: Task, point: Point) -> str:
    """A digest of what an optimiser does with a task's parameters; the settings are arguments and no part of it.

    Raises:
        ConfigError: the optimiser refuses the task's parameters.
    """

    def step(params, gradient, value, settings, batch, key):
        optimiser = optax.with_extra_args_support(point.make(settings))
        extra = {"value": value, "grad": gradient, "value_fn": lambda params: task.loss(params, batch, key)}
        return optimiser.update(gradient, optimiser.init(params), params, **extra)

    try:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # optax announces what it will drop
            key, batch = jax.random.key(0), task.batch(0, 0)
            params = jax.eval_shape(task.init, key)
            traced = jax.make_jaxpr(step)(params, params, 0.0, point.settings, batch, key)
    except Exception as error:  # of optax or a user's loss: any kind
        raise told(f"optimiser {label}", error) from error
    return hashlib.sha256(repr(meaning.described(traced)).encode()).hexdigest()


def told(what: str, error: Exception) -> checks.ConfigError:
    """A user's exception in one line, with the place it came from."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:200]
    return checks.ConfigError(
        f"{what}: got {type(error).__name__}: {text} ({place.filename}, line {place.lineno}); expected it to run; correct it"
    )
