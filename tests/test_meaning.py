"""A changed constant is seen by whatever compiles for the user, and the same words compile nothing again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import control, fisher, variation
from learnlag_jax.meaning import by_meaning

STIFFNESS = 1.0


class Spring:
    """A user's callable object with state."""

    def __init__(self, k):
        self.k = k

    def __call__(self, t, q, v):
        return v**2 / 2 - self.k * q**2 / 2


def spring(t, q, v):
    return v**2 / 2 - STIFFNESS * q**2 / 2


def _paths(L):
    path = variation.stationary_path(L, 0.0, 1.0, 0.0, 1.0, intervals=20)
    Ld = variation.discrete_lagrangian(L, 0.05)
    start = variation.first_step(Ld, 0.0, 1.0).value
    return np.array([path.action, variation.integrate(Ld, 0.0, start, 5)[-1]])


def test_a_changed_number_changes_the_answer(float64, monkeypatch):
    held = Spring(1.0)
    before = _paths(held)
    np.testing.assert_array_equal(_paths(spring), before)
    held.k = 9.0
    monkeypatch.setattr("tests.test_meaning.STIFFNESS", 9.0)
    after = _paths(held)
    np.testing.assert_array_equal(_paths(spring), after)
    np.testing.assert_array_equal(_paths(Spring(9.0)), after)
    np.testing.assert_allclose(after[0], 3 / np.tan(3.0) / 2, rtol=5e-2)
    assert np.abs(after / before - 1).min() > 0.1


def test_a_changed_problem_and_a_changed_likelihood_too(float64):
    weight = {"a": jnp.array([1.0])}
    problem = control.Problem(lambda s, a, k, theta: -(s**2) - weight["a"][0] * a**2, lambda s, a, k, theta: s + a)
    log_prob = lambda theta, x: -weight["a"][0] * (x - theta[0]) ** 2 / 2
    x, theta = jnp.linspace(-1.0, 1.0, 9), jnp.zeros(1)

    def answers():
        F = fisher.fisher_information(log_prob, theta, x, estimator="empirical", structure="full").matrix[0, 0]
        J = control.solve(problem, jnp.array(1.0), jnp.zeros(5)).value
        return np.array([F, J, fisher.stationarity(log_prob, theta, x).tic])

    before = answers()
    weight["a"] = jnp.array([2.0])
    after = answers()
    assert after[0] == pytest.approx(4 * before[0])
    assert np.all(np.abs(after / before - 1) > 0.02)


def test_the_same_words_are_equal_and_hash_alike():
    make = lambda m: lambda x: jnp.sum(m * x)
    one, x = jnp.ones(3), jnp.ones(3)
    same = [by_meaning(make(m), x) for m in (one, jnp.ones(3), np.ones(3, one.dtype))]
    assert same[0] == same[1]
    assert hash(same[0]) == hash(same[1])
    other = [make(2 * one), lambda x: jnp.sum(one * x) * 2, lambda x: jnp.prod(one * x)]
    assert all(by_meaning(f, x) != same[0] for f in other)
    inside = lambda m: lambda x: jax.lax.scan(lambda c, i: (c + m, None), x, jnp.arange(3, dtype=jnp.int32))[0]
    assert by_meaning(inside(one), x) == by_meaning(inside(jnp.ones(3)), x)
    assert by_meaning(inside(one), x) != by_meaning(inside(2 * one), x)


def test_what_cannot_be_compared_by_meaning_is_compared_as_an_object():
    x = jnp.ones(3)
    relu = lambda x: jnp.sum(jax.nn.relu(x))  # its derivative is a function of its own
    assert by_meaning(relu, x) == by_meaning(relu, x)
    assert by_meaning(relu, x) != by_meaning(lambda x: jnp.sum(jax.nn.relu(x)), x)
    broken = lambda x: x.nothing
    assert by_meaning(broken, x) == by_meaning(broken, x)
    with pytest.raises(AttributeError, match="nothing"):
        by_meaning(broken, x)(x)
    seen = []
    f = jax.jit(lambda z: (seen.append(by_meaning(lambda x: x * z, x)), z)[1])
    assert float(f(2.0)) == 2.0
    assert seen[0] == seen[0] != by_meaning(lambda x: x * 2.0, x)


def test_an_unchanged_function_is_compiled_once():
    L = lambda t, q, v: v**2 / 2 - q**4
    solve = lambda L: variation.stationary_path(L, 0.0, 1.0, 0.0, 1.0, intervals=7).action
    from learnlag_jax.variation.boundary import _stationary_path

    _stationary_path.clear_cache()  # JAX drops the oldest entries of a long run, which would hide a new one
    solve(L)
    size = _stationary_path._cache_size()
    solve(L), solve(lambda t, q, v: v**2 / 2 - q**4)
    assert _stationary_path._cache_size() == size
    solve(lambda t, q, v: v**2 / 2 - q**6)
    assert _stationary_path._cache_size() == size + 1
