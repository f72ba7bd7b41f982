"""Asserts for users' own tests: closeness with a tolerance from the dtype, and stationarity of answers."""

import jax
import jax.numpy as jnp
import numpy as np


def assert_close(actual, expected, *, ulps: float = 64.0, scale: float | None = None) -> None:
    """Assert |actual - expected| <= ulps * eps(dtype) * scale, leaf by leaf.

    Args:
        actual: pytree of arrays; the coarser dtype of the pair sets eps.
        expected: pytree of the same structure.
        ulps: how many units of rounding the computation may lose (state why where it is large).
        scale: size of the numbers that were added up; by default the largest |expected| of the leaf, at least
            the smallest normal number.

    Raises:
        AssertionError: names the worst leaf, its error and the tolerance.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.testing import assert_close
        >>> assert_close(jnp.float32(0.1) * 3, jnp.float32(0.3), ulps=2)
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected), "the pytrees differ in structure"
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        kinds = [jnp.result_type(x) for x in (a, b) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
        eps = max((float(jnp.finfo(kind).eps) for kind in kinds), default=0.0)
        x, y = np.asarray(a, np.complex128), np.asarray(b, np.complex128)
        assert x.shape == y.shape, f"{jax.tree_util.keystr(path)}: shape {x.shape} is not {y.shape}"
        size = np.max(np.abs(y), initial=np.finfo(np.float32).tiny) if scale is None else scale
        error = np.max(np.abs(x - y), initial=0.0)
        assert error <= ulps * eps * size, (
            f"{jax.tree_util.keystr(path) or 'value'}: error {error:.3g} > {ulps:g} eps x {size:.3g} = {ulps * eps * size:.3g}"
        )


def assert_within_se(samples, expected, *, k: float = 4.5, axis: int = 0) -> None:
    """Assert that the mean of independent samples is within k standard errors of `expected`.

    Args:
        samples: array with independent draws along `axis`.
        expected: the exact mean.
        k: number of standard errors; 4.5 fails by chance less than once in 100,000 entries.

    Raises:
        AssertionError: names the largest number of standard errors seen.

    Example:
        >>> import jax
        >>> from learnlag_jax.testing import assert_within_se
        >>> assert_within_se(jax.random.normal(jax.random.key(0), (1000,)), 0.0)
    """
    x = np.asarray(samples, np.float64)
    mean = x.mean(axis)
    se = x.std(axis, ddof=1) / np.sqrt(x.shape[axis])
    worst = np.max(np.abs(mean - np.asarray(expected)) / np.maximum(se, np.finfo(float).tiny))
    assert worst <= k, f"mean is {worst:.2f} standard errors from its expected value; at most {k} allowed"
