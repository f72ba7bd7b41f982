"""What `scale_by_fisher` and `fisher_descent` are given, checked before anything is computed: choices, numbers, shapes.

What an array holds is not looked at: it may be traced, injected or scheduled. Comes from: the user. Goes to:
`precondition`, `descent`. Not public.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learnlag_jax import checks
from learnlag_jax.fisher.state import FisherOptions, FisherState
from learnlag_jax.fisher.structure import Seat, bucket_slots

SOURCES = ("batch", "per_example", "sampled")
RUNNING = ("diagonal", "eigen")  # keep a second moment per coordinate
INJECT = "schedule it with optax.inject_hyperparams"


def is_scalar(value) -> bool:
    """A real number, or an array of one that may be traced."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return jnp.shape(value) == () and not jnp.iscomplexobj(value) and value.dtype != bool
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value, argument: str, low: float, high: float, expected: str, remedy: str) -> None:
    """A scalar, if it is a Python number one in [low, high)."""
    known = isinstance(value, int | float)
    got = f"shape {np.shape(value)}" if np.ndim(value) else repr(value)
    checks.require(is_scalar(value) and (not known or low <= value < high), argument, got, expected, remedy)


def choices(structure, fisher: str, numbers: dict[str, Any], options: FisherOptions) -> None:
    """What can be known to be wrong before any gradient is seen."""
    rule = isinstance(structure, str) or callable(structure)
    expected = "the name of a structure or a rule (path, shape) -> name"
    checks.require(rule, "structure", repr(structure), expected, 'use for example "eigen"')
    checks.require(fisher in SOURCES, "fisher", repr(fisher), "one of " + ", ".join(SOURCES), "choose one")
    for name in ("b1", "b2"):
        decay, remedy = "a decay in [0, 1)", "0.9 is a common one; 1 would never take a gradient in"
        number(numbers[name], name, 0, 1, decay, remedy)
    number(numbers["eps"], "eps", 0, math.inf, "a number, at least 0", "1e-8 is a common one")
    expected = "a finite number or an array of one"
    number(numbers["exponent"], "exponent", -math.inf, math.inf, expected, f"-0.5 is the default; {INJECT}")
    _options(options)


def _options(options: FisherOptions) -> None:
    known = isinstance(options, FisherOptions)
    checks.require(known, "options", repr(options), "a FisherOptions", "use for example FisherOptions(refresh=5)")
    checks.require(options.basis in ("qr", "eigh"), "basis", repr(options.basis), "'qr' or 'eigh'", "choose one")
    for name in ("refresh", "max_size", "polar_steps"):
        checks.whole(getattr(options, name), name, 1, "see FisherOptions for its default")
    for name in ("merge", "bias_correction", "nesterov", "skip_nonfinite"):
        value = getattr(options, name)
        checks.require(isinstance(value, bool | np.bool), name, repr(value), "True or False", "choose one")
    if options.block_size is not None:
        checks.whole(options.block_size, "block_size", 1, "None leaves axes whole")
    fits = options.aspect is None or (is_scalar(options.aspect) and options.aspect >= 1)
    checks.require(fits, "aspect", repr(options.aspect), "None or a number, at least 1", "2 is a good one")


def gradients(pairs: list, given: list) -> None:
    """Every gradient has the shape of its parameter: one that only has its size would be taken in some other order."""
    for (path, mu), g in zip(pairs, given, strict=True):
        if g is not None:
            got, expected = checks.describe(g), f"shape {mu.shape}, that of the parameter"
            remedy = "pass the gradients of the parameters that `init` was given"
            checks.require(jnp.shape(g) == mu.shape, f"updates{path}", got, expected, remedy)


def state(taken: list[Seat], kept: list[Seat], second: list, held: FisherState) -> None:
    """The state is one that `init` makes for the same structure; `taken` as leaves are worked on, `kept` as they are."""
    slots = bucket_slots(taken)
    expected = [(sum(K for *_, K in found), d, d) for (d, *_), found in slots.items()]
    got = [bucket.moment.shape for bucket in held.factors]
    running = [seat.plan.kind in RUNNING for seat in kept]
    fits = got == expected and running == [v is not None for v in second]
    remedy = "initialise again, and let a rule answer from path and shape alone"
    have = f"factors of shapes {got} and {sum(v is not None for v in second)} leaves with a second moment"
    wanted = f"{expected} and {sum(running)}, for this structure"
    checks.require(fits, "state", have, wanted, remedy)


def examples(fisher: str, updates, fisher_grads):
    """The gradients, with a leading example axis, whose mean outer product is F."""
    remedy = "pass update(grads, state, params, fisher_grads=...), as jax.vmap(jax.grad(loss), (None, 0)) gives them"
    expected = f"gradients with a leading axis of examples, for fisher={fisher!r}"
    checks.require(fisher_grads is not None, "fisher_grads", None, expected, remedy)
    given = _unmasked(updates, fisher_grads)
    alike = jax.tree.structure(given) == jax.tree.structure(updates)
    _same(alike, updates, fisher_grads)
    leaves, counts = jax.tree_util.tree_leaves_with_path(given), set()
    for (path, samples), g in zip(leaves, jax.tree.leaves(updates), strict=True):
        shape, where = jnp.shape(samples), "fisher_grads" + jax.tree_util.keystr(path)
        fits = len(shape) == jnp.ndim(g) + 1 and shape[1:] == jnp.shape(g) and shape[0] > 0
        wanted = f"shape (examples, {', '.join(map(str, jnp.shape(g)))}), at least one example"
        checks.require(fits, where, checks.describe(samples), wanted, remedy)
        counts.add(shape[0])
    checks.require(
        len(counts) < 2, "fisher_grads", f"{sorted(counts)} examples", "as many in every leaf", "pass one batch"
    )
    return given


def _unmasked(updates, fisher_grads):
    """Without the leaves that a mask has taken out of the gradients: optax masks nothing else."""
    gone = lambda x: isinstance(x, optax.MaskedNode)
    try:
        return jax.tree.map(lambda g, samples: g if gone(g) else samples, updates, fisher_grads, is_leaf=gone)
    except ValueError:
        _same(False, updates, fisher_grads)


def _same(alike: bool, updates, fisher_grads) -> None:
    got, expected = jax.tree.structure(fisher_grads), jax.tree.structure(updates)
    checks.require(alike, "fisher_grads", got, f"the structure of the gradients, {expected}", "pass matching pytrees")
