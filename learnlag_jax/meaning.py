"""Functions as static arguments of `jax.jit`, compared by what they compute and not by which object they are.

`jax.jit` would take an answer compiled for `lambda t, q, v: m * v**2 / 2` after `m` has changed: the function is still the
same object. Here two functions are equal while they trace to the same operations on the same constants, so a changed
constant is seen, and a function written again in the same words compiles nothing. The price is one trace a call made
outside `jax.jit`. Comes from: entry points that compile for the user. Reference: none; this is Python's late binding.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from learnlag_jax import checks

OPAQUE = re.compile("custom_[jv][jv]p|.*callback")  # operations that hold a Python function


class Meant:
    """`function`, hashed and compared by `key`."""

    def __init__(self, function: Callable, key: Any):
        self.function, self.key = function, key

    def __call__(self, *arguments):
        return self.function(*arguments)

    def __hash__(self):
        return hash(self.key)

    def __eq__(self, other):
        return isinstance(other, Meant) and self.key == other.key


def by_meaning(function: Callable, *arguments) -> Meant:
    """The function under a key that changes with whatever it reads, seen by tracing it on arguments of these shapes.

    A function that closes over a value being traced, or that cannot be traced on its own (its error is then raised where
    it is called), is compared as an object, as `jax.jit` does; one with derivatives given by hand (`jax.custom_jvp`) in
    both ways, for a rule cannot be looked into.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.meaning import by_meaning
        >>> k = jnp.array([1.0, 2.0])
        >>> f = lambda x: k * x
        >>> before, same = by_meaning(f, 1.0), by_meaning(lambda x: k * x, 1.0)
        >>> k = jnp.array([1.0, 9.0])
        >>> before == same, before == by_meaning(f, 1.0)
        (True, False)
    """
    itself = function if _hashable(function) else id(function)
    try:
        traced = jax.make_jaxpr(lambda *x: function(*x))(*arguments)  # a new function: JAX remembers traces too
    except Exception:
        return Meant(function, itself)
    if checks.is_traced(*_constants(traced)):
        return Meant(function, itself)
    by_hand = any(OPAQUE.match(equation.primitive.name) for program in _programs(traced) for equation in program.eqns)
    return Meant(function, (*described(traced), itself if by_hand else None))


def described(traced: ClosedJaxpr) -> tuple[str, tuple]:
    """The operations of a traced program as text, and digests of its constants: equal for equal programs, in any process."""
    return re.sub(r"\b0x[0-9a-f]+", "", str(traced)), tuple(map(digest, _constants(traced)))


def _constants(traced: ClosedJaxpr) -> list[Any]:
    return [x for program in _programs(traced) for x in (*program.consts, *_arrays(program))]


def _hashable(x) -> bool:
    try:
        hash(x)
    except TypeError:
        return False
    return True


def _programs(closed: ClosedJaxpr) -> Iterator[ClosedJaxpr]:
    """The program and all that it calls."""
    yield closed
    for value in _parameters(closed):
        if isinstance(value, (ClosedJaxpr, Jaxpr)):
            yield from _programs(value if isinstance(value, ClosedJaxpr) else ClosedJaxpr(value, ()))


def _arrays(closed: ClosedJaxpr) -> Iterator[Any]:
    return (value for value in _parameters(closed) if isinstance(value, (np.ndarray, jax.Array)))


def _parameters(closed: ClosedJaxpr) -> Iterator[Any]:
    for equation in closed.eqns:
        yield from jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program)


def _is_program(x) -> bool:
    return isinstance(x, (ClosedJaxpr, Jaxpr))


def digest(x) -> tuple:
    """Shape, dtype and a hash of the entries."""
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    array = np.asarray(x)
    return array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).digest()
