"""What bad input gets: one form of message, one set of exceptions.

Three gates. Shapes, dtypes and structure are static, so they raise at trace time. Values are checked in NumPy
at host entry points and passed over while tracing. What only shows at run time is a `Status`, never an exception.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from learnlag_jax.vocabulary import PyTree, Status


class InputError(ValueError):
    """An argument has the wrong shape, structure or value.

    Example:
        >>> from learnlag_jax import InputError, checks
        >>> try:
        ...     checks.require(False, "times", "times[3] <= times[2]", "increasing times", "sort them")
        ... except InputError as error:
        ...     print(error)
        times: got times[3] <= times[2]; expected increasing times; sort them
    """


class DTypeError(TypeError):
    """An argument has a dtype that cannot be differentiated or would lose digits.

    Example:
        >>> from learnlag_jax import DTypeError
        >>> issubclass(DTypeError, TypeError)
        True
    """


class SolveError(RuntimeError):
    """A solve failed; the whole answer, with its residual and status, is in `.solution`.

    Example:
        >>> from learnlag_jax import SolveError
        >>> SolveError("no", solution=3).solution
        3
    """

    def __init__(self, message: str, solution=None):
        super().__init__(message)
        self.solution = solution


class CheckpointError(RuntimeError):
    """A checkpoint is damaged or does not fit the run.

    Example:
        >>> from learnlag_jax import CheckpointError
        >>> issubclass(CheckpointError, RuntimeError)
        True
    """


class RunDirError(OSError):
    """An output directory cannot be used.

    Example:
        >>> from learnlag_jax import RunDirError
        >>> issubclass(RunDirError, OSError)
        True
    """


class ConfigError(ValueError):
    """A configuration or command line has an unknown, missing or mistyped entry.

    Example:
        >>> from learnlag_jax import ConfigError
        >>> issubclass(ConfigError, ValueError)
        True
    """


def require(condition, argument: str, got, expected: str, remedy: str, error: type[Exception] = InputError):
    """Raise `error` unless `condition`: names the argument, what was got, what was expected, and the remedy."""
    if not condition:
        raise error(f"{argument}: got {got}; expected {expected}; {remedy}")


def is_traced(*arrays) -> bool:
    """True while any leaf is a tracer, so that its value cannot be looked at."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arrays))


def describe(x) -> str:
    """`float32[3,2]`, as JAX prints a type."""
    dtype = np.asarray(x).dtype if isinstance(x, list | tuple) else jnp.result_type(x)
    return f"{dtype}[{','.join(map(str, np.shape(x)))}]"


def floating(tree: PyTree, argument: str, *, allow_complex: bool = False) -> None:
    """Every leaf must be real floating point (integers have no derivative)."""
    kind = jnp.inexact if allow_complex else jnp.floating
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        ok = jnp.issubdtype(jnp.result_type(leaf), kind)
        where = argument + jax.tree_util.keystr(path)
        require(
            ok,
            where,
            describe(leaf),
            "a real floating-point array",
            "pass floats, for example jnp.asarray(x, float)",
            DTypeError,
        )


def shape(x, expected: tuple, argument: str) -> None:
    """The shape must match; an expected entry that is a string stands for any size, the same one each time."""
    sizes: dict[str, int] = {}
    got = np.shape(x)
    wanted = "shape (" + ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "") + ")"
    ok = len(got) == len(expected) and all(
        g == (sizes.setdefault(e, g) if isinstance(e, str) else e) for g, e in zip(got, expected, strict=True)
    )
    longer = len(got) > len(expected)
    require(ok, argument, describe(x), wanted, "map a batch with jax.vmap" if longer else "pass matching lengths")


def whole(value, argument: str, least: int, remedy: str) -> None:
    """An integer that is not below `least`."""
    integral = isinstance(value, int | np.integer) and not isinstance(value, bool)
    require(integral and value >= least, argument, repr(value), f"an integer, at least {least}", remedy)


def random_key(key: Any) -> Any:
    """A typed random key; `jax.random.key(0)` for None."""
    if key is None:
        return jax.random.key(0)
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    got = key if isinstance(key, int) else type(key).__name__
    require(typed, "key", got, "a typed key", "pass jax.random.key(seed)")
    return key


def fraction(value, argument: str) -> None:
    """A number strictly between 0 and 1."""
    require(0 < value < 1, argument, value, "a number between 0 and 1", "use for example 0.95")


def same_structure(x: PyTree, y: PyTree, argument: str, other: str) -> None:
    """Both trees must have the same structure and leaf shapes."""
    tx, ty = jax.tree.structure(x), jax.tree.structure(y)
    require(tx == ty, argument, tx, f"the structure of {other}, {ty}", "pass matching pytrees")
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(x), jax.tree.leaves(y), strict=True):
        where = argument + jax.tree_util.keystr(path)
        require(
            jnp.shape(a) == jnp.shape(b),
            where,
            describe(a),
            f"{describe(b)}, as in {other}",
            "pass matching shapes",
        )


def same_dtypes(x: PyTree, y: PyTree, argument: str, other: str) -> None:
    """Leaves of both trees, of one structure, must have the same dtypes."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(x), jax.tree.leaves(y), strict=True):
        where, like = argument + jax.tree_util.keystr(path), f"{jnp.result_type(b)}, as in {other}"
        require(jnp.result_type(a) == jnp.result_type(b), where, describe(a), like, "cast one of them", DTypeError)


def settle(x: PyTree, y: PyTree) -> tuple[PyTree, PyTree]:
    """Arrays of both trees, of one structure: a leaf from a Python number takes the real float dtype of a partner that has one."""
    own = lambda b: not b.weak_type and jnp.issubdtype(b.dtype, jnp.floating)
    cast = lambda a, b: a.astype(b.dtype) if a.weak_type and own(b) and not jnp.iscomplexobj(a) else a
    x, y = jax.tree.map(jnp.asarray, (x, y))
    return jax.tree.map(cast, x, y), jax.tree.map(cast, y, x)


def alike(x: PyTree, y: PyTree, argument: str, other: str) -> PyTree:
    """x as arrays with the structure, shapes and dtypes of y, which Python numbers and integers take."""
    x = jax.tree.map(jnp.asarray, x)
    same_structure(x, y, argument, other)
    numbers = lambda a, b: a.astype(jnp.result_type(b)) if a.weak_type or jnp.issubdtype(a.dtype, jnp.integer) else a
    x = jax.tree.map(numbers, x, y)
    same_dtypes(x, y, argument, other)
    return x


def one_dtype(x: PyTree, argument: str) -> None:
    """All leaves in one dtype: a solve of all of them together ends where the coarsest has no more digits."""
    kinds = sorted({str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(x)})
    require(len(kinds) < 2, argument, " and ".join(kinds), "leaves of one dtype", "cast them", DTypeError)


def scalar_function(f, name: str):
    """`f` with a check at trace time that it returns one real scalar."""

    @functools.wraps(f)
    def checked(*arguments, **keywords):
        value = f(*arguments, **keywords)
        ok = jnp.shape(value) == () and jnp.issubdtype(jnp.result_type(value), jnp.floating)
        require(
            ok,
            name,
            describe(value),
            "a real floating-point scalar",
            "sum or index the result inside the function",
        )
        return value

    return checked


def vector_function(f, name: str, *arguments) -> None:
    """`f` gives one real scalar or vector, seen without running it."""
    value = jax.eval_shape(f, *arguments)
    ok = hasattr(value, "shape") and len(value.shape) < 2 and jnp.issubdtype(value.dtype, jnp.floating)
    got = describe(value) if hasattr(value, "shape") else jax.tree.structure(value)
    require(ok, name, got, "a real floating-point scalar or vector", "stack or ravel its entries")


def finite(tree: PyTree, argument: str) -> None:
    """Host gate: no NaN or infinity; names the first bad entry. Passed over while tracing."""
    if is_traced(tree):
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        bad = np.argwhere(~np.isfinite(np.asarray(leaf)))
        where = argument + jax.tree_util.keystr(path)
        first = "" if not len(bad) else f"{np.asarray(leaf)[tuple(bad[0])]} at index {tuple(map(int, bad[0]))}"
        require(not len(bad), where, first, "finite numbers", "remove or impute the entry")


def increasing(times, argument: str = "times") -> None:
    """Host gate: a vector of strictly increasing finite numbers."""
    shape(times, ("n",), argument)
    if is_traced(times):
        return
    finite(times, argument)
    bad = np.flatnonzero(np.diff(np.asarray(times, np.float64)) <= 0)
    got = "" if not len(bad) else f"{argument}[{bad[0] + 1}] <= {argument}[{bad[0]}]"
    require(not len(bad), argument, got, "strictly increasing values", "sort them and drop duplicates")


def raise_on_failure(solution):
    """Host gate for answers: return `solution` if every status is `converged`, else raise `SolveError`.

    Args:
        solution: any result with a `status` field, batched or not.

    Returns:
        The same object.

    Raises:
        SolveError: names the first failure and how many batch members failed; carries `.solution`.

    Example:
        >>> from learnlag_jax import Solution, raise_on_failure
        >>> raise_on_failure(Solution(value=2.0, residual=0.0, status=0, steps=1)).value
        2.0
    """
    statuses = np.ravel(np.asarray(solution.status))
    failed = np.flatnonzero(statuses)
    if len(failed):
        status = Status(int(statuses[failed[0]]))
        which = "" if statuses.size == 1 else f" (batch member {failed[0]}, {len(failed)} of {statuses.size} failed)"
        raise SolveError(f"{status.name}: {status.sentence}{which}", solution)
    return solution
