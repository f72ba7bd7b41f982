"""What is not finite, or whose square is not, must not reach the state of `scale_by_fisher`."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax.fisher import FisherOptions, scale_by_fisher
from tests.fisher.models import normal

BAD = {
    "nan": jnp.nan,
    "inf": jnp.inf,
    "square overflows": 1e20,
    "at the edge": 2.0**64,
    "below it": 1.8e19,
    "huge": 1e18,
    "zero": 0.0,
    "tiny": 1e-30,
}
SKIPPED = ("nan", "inf", "square overflows", "at the edge")


def same(x, y):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))


def sound(tree):
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))


def unchanged(after, before):
    """A skipped step has left everything as it was, and is counted."""
    diagnostics = before.diagnostics._replace(skipped=before.diagnostics.skipped + 1)
    return same(after, before._replace(diagnostics=diagnostics))


@pytest.mark.parametrize("structure", ["eigen", "diagonal", "kronecker", "one_sided", "full", "none"])
def test_bad_gradients_leave_parameters_and_state_sound(structure):
    """After 2 good steps, where nothing is due, and after 3, where a step that counted twice would refresh again."""
    good = list(normal((6, 3, 4), 0, jnp.float32))
    optimiser = scale_by_fisher(structure, options=FisherOptions(refresh=2))
    update = jax.jit(optimiser.update)
    before = [optimiser.init(good[0])]
    for g in good[:3]:
        before.append(update(g, before[-1])[1])
    for start, (name, value) in itertools.product(before[2:], BAD.items()):
        poison = jnp.full((3, 4), value if name in ("huge", "zero", "tiny") else 1.0, jnp.float32).at[0, 0].set(value)
        u, state = update(poison, start)
        if name in SKIPPED:
            assert unchanged(state, start), name
            assert not np.any(np.asarray(u))
        assert int(state.diagnostics.skipped) == (name in SKIPPED), name
        for g in good[3:]:
            u, state = update(g, state)
        assert sound((u, state)), name
    careless = scale_by_fisher(structure, options=FisherOptions(refresh=2, skip_nonfinite=False))
    _, state = jax.jit(careless.update)(jnp.full((3, 4), jnp.nan, jnp.float32), before[2])
    assert not sound(state)


@pytest.mark.parametrize("structure", ["eigen", "kronecker", "diagonal"])
@pytest.mark.parametrize("where", ["a", "b"])
def test_every_bucket_and_leaf_is_looked_at(structure, where):
    g = {"a": normal((3, 3), 0, jnp.float32), "b": normal((5, 5), 1, jnp.float32)}
    optimiser = scale_by_fisher(structure)
    start = optimiser.init(g)
    assert unchanged(optimiser.update(g | {where: g[where].at[1, 1].set(1e20)}, start)[1], start)


def test_every_block_is_looked_at():
    g, optimiser = normal((4, 4), 0, jnp.float32), scale_by_fisher(options=FisherOptions(block_size=2))
    start = optimiser.init(g)
    for row, column in ((0, 0), (0, 3), (3, 0), (3, 3)):
        assert unchanged(optimiser.update(g.at[row, column].set(1e20), start)[1], start)


def test_the_edge_is_that_of_the_norm_in_every_basis():
    """A sum over all entries of g g' would skip the first, and let the second through into an infinite moment."""
    optimiser = scale_by_fisher(options=FisherOptions(refresh=1))
    even = jnp.full((8, 8), 1e18, jnp.float32)  # |g|^2 = 6.4e37, but 8 |g' 1| ^2 > 3.4e38
    assert int(optimiser.update(even, optimiser.init(even))[1].diagnostics.skipped) == 0
    signs = jnp.array([[1.0, -1.0], [-1.0, 1.0]], jnp.float32)
    state = optimiser.init(signs)
    for _ in range(8):
        _, state = optimiser.update(signs, state)
    assert unchanged(optimiser.update(1e19 * signs, state)[1], state)


@pytest.mark.parametrize("structure", ["diagonal", "one_sided", "eigen"])
def test_squares_of_complex_and_of_wider_gradients_are_those_of_the_moments(float64, structure):
    optimiser = scale_by_fisher(structure)
    for params, bad in ((jnp.complex64, 1.5e19 * (1 + 1j)), (jnp.float32, 1e25), (jnp.float32, 1e39)):
        start = optimiser.init(jnp.ones((2, 3), params))
        g = jnp.ones((2, 3), jnp.complex128 if params == jnp.complex64 else jnp.float64)
        assert int(optimiser.update(g, start)[1].diagnostics.skipped) == 0
        assert unchanged(optimiser.update(g.at[0, 0].set(bad), start)[1], start)


@pytest.mark.parametrize("structure", ["eigen", "diagonal", "one_sided"])
@pytest.mark.parametrize("value", [jnp.nan, 1e20])
def test_samples_and_gradients_beside_them_are_looked_at_both(structure, value):
    g, samples = normal((3, 4), 0, jnp.float32), normal((5, 3, 4), 1, jnp.float32)
    optimiser = scale_by_fisher(structure, fisher="per_example", options=FisherOptions(refresh=2))
    poisoned = lambda x: x.at[0, 0].set(value)
    bad, start = samples.at[2].set(poisoned(samples[2])), optimiser.init(g)
    many = jnp.tile(jnp.float32(1e19) * jnp.eye(3, 4, dtype=jnp.float32), (64, 1, 1))  # their sum of squares overflows
    assert int(optimiser.update(g, start, fisher_grads=samples)[1].diagnostics.skipped) == 0
    for given, other in ((g, bad), (poisoned(g), samples), (g, many)):
        assert unchanged(optimiser.update(given, start, fisher_grads=other)[1], start)
