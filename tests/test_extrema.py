"""Extrema keep NaN wherever it stands and however long the array is, and are those of NumPy otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import trees
from learnlag_jax.extrema import largest, largest_size, smallest

SIZES = [(7,), (4096,), (100_003,), (300, 40), (40, 300), (3, 5000)]


@pytest.mark.parametrize("shape", SIZES)
def test_nan_is_kept_wherever_it_stands(shape, dtype):
    draw = np.random.default_rng(0)
    x = draw.normal(size=shape)
    for where in {0, x.size - 1, *map(int, draw.integers(0, x.size, 5))}:
        spoiled = x.copy()
        spoiled.flat[where] = np.nan
        y = jnp.asarray(spoiled, dtype)
        whole = [largest(y), smallest(y), largest_size(y), jax.jit(largest)(y), trees.max_abs({"a": y})]
        assert all(np.isnan(whole)), whole
        for axis in range(y.ndim) if y.ndim > 1 else ():
            at = np.isnan(spoiled).any(axis)
            np.testing.assert_array_equal(np.isnan(largest(y, axis)), at)
            np.testing.assert_array_equal(np.isnan(jax.jit(smallest, static_argnums=1)(y, axis)), at)


@pytest.mark.parametrize("shape", SIZES)
def test_numbers_and_infinities_are_numpys(shape, dtype):
    x = np.random.default_rng(1).normal(size=shape).astype(dtype)
    x.flat[1], x.flat[2] = np.inf, -np.inf
    for axis in (None, *range(x.ndim)):
        np.testing.assert_array_equal(largest(jnp.asarray(x), axis), x.max(axis))
        np.testing.assert_array_equal(smallest(jnp.asarray(x), axis), x.min(axis))
    assert float(largest_size(jnp.asarray(x))) == np.inf
    assert float(largest_size(jnp.zeros((0, 3), dtype))) == 0


def test_the_derivative_is_that_of_jax(float64):
    x = jnp.asarray(np.random.default_rng(2).integers(0, 4, (6, 5)).astype(float))  # with ties
    for axis in (None, 0, 1):
        ours, theirs = (jax.jacrev(lambda x, f=f, axis=axis: f(x, axis))(x) for f in (largest, jnp.max))
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    batched = jax.vmap(lambda row: largest(row))(x)
    np.testing.assert_array_equal(batched, np.max(x, 1))
