"""The shared ground: statuses, trees, checks and the public asserts, each with an input that must be refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import (
    DTypeError,
    InputError,
    Solution,
    SolveError,
    Status,
    checks,
    raise_on_failure,
    trees,
)
from learnlag_jax.testing import assert_close, assert_within_se
from learnlag_jax.vocabulary import first_failure, status_where


def test_every_status_has_a_sentence():
    assert len({status.sentence for status in Status}) == len(Status)


def test_first_failure_keeps_the_cause():
    cause = jnp.array([0, int(Status.singular)], jnp.int32)
    consequence = jnp.full(2, int(Status.max_steps), jnp.int32)
    assert first_failure(cause, consequence).tolist() == [Status.max_steps, Status.singular]


def test_status_where_under_vmap_marks_one_member():
    marked = jax.vmap(lambda x: status_where(x < 0, Status.out_of_domain))(jnp.array([1.0, -1.0]))
    assert marked.tolist() == [0, Status.out_of_domain]
    assert marked.dtype == jnp.int32


def test_raise_on_failure_names_the_member_and_carries_the_solution():
    solution = Solution(jnp.ones(3), jnp.zeros(3), jnp.array([0, 9, 2]), jnp.ones(3))
    with pytest.raises(SolveError, match=r"singular: .*batch member 1, 2 of 3 failed") as caught:
        raise_on_failure(solution)
    assert caught.value.solution is solution
    good = solution._replace(status=jnp.zeros(3, jnp.int32))
    assert raise_on_failure(good) is good


def _tree(dtype):
    return {"w": jnp.arange(6, dtype=dtype).reshape(2, 3), "b": (jnp.asarray(2, dtype),)}


def test_trees_agree_with_raveled_vectors(dtype):
    x = _tree(dtype)
    y = jax.tree.map(lambda leaf: leaf + 1, x)
    flat = lambda tree: np.asarray(trees.ravel(tree)[0], np.float64)
    assert_close(trees.dot(x, y), jnp.asarray(flat(x) @ flat(y), dtype))
    assert_close(trees.norm(x), jnp.asarray(np.linalg.norm(flat(x)), dtype))
    assert_close(trees.max_abs(x), jnp.asarray(5, dtype))
    assert_close(trees.axpy(3, x, y), trees.add(trees.scale(3, x), y), ulps=0)
    assert_close(trees.subtract(trees.add(x, y), y), x, ulps=0)
    assert trees.size(x) == 7
    assert trees.axpy(3.0, x, y)["w"].dtype == dtype


def test_dot_conjugates_and_accumulates_narrow_leaves_in_float32():
    z = jnp.array([1j, 2.0], jnp.complex64)
    assert trees.dot(z, z) == 5
    ones = jnp.ones(4096, jnp.bfloat16)
    assert trees.dot(ones, ones) == 4096  # a bfloat16 sum would stop at 256
    assert trees.norm(ones) == 64


def test_empty_trees_and_failed_answers():
    assert float(trees.dot({}, {})) == 0
    assert trees.max_abs({"none": jnp.zeros(0)}) == 0
    assert bool(trees.all_finite({}))
    assert not trees.all_finite({"x": jnp.array([1.0, jnp.nan])})
    assert jnp.isnan(trees.fill_where(True, jnp.ones(2))).all()
    assert (trees.fill_where(False, jnp.ones(2)) == 1).all()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: checks.floating({"w": jnp.arange(3)}, "params"), DTypeError, r"params\['w'\]: got int\d+\[3\]"),
        (
            lambda: checks.shape(jnp.ones((2, 3)), ("n", "n"), "M"),
            InputError,
            r"M: got float\d+\[2,3\]; expected shape \(n, n\)",
        ),
        (lambda: checks.same_structure({"a": 1.0}, {"b": 1.0}, "x", "y"), InputError, "structure of y"),
        (lambda: checks.same_structure(jnp.ones(3), jnp.ones(1), "g", "p"), InputError, "as in p"),
        (lambda: checks.finite(jnp.array([1.0, jnp.inf]), "data"), InputError, r"inf at index \(1,\)"),
        (lambda: checks.increasing(jnp.array([0.0, 1.0, 1.0])), InputError, r"times\[2\] <= times\[1\]"),
        (lambda: checks.increasing(jnp.ones((2, 2))), InputError, "map a batch"),
        (lambda: checks.scalar_function(lambda x: x, "L")(jnp.ones(1)), InputError, r"L: got float\d+\[1\]"),
        (
            lambda: checks.scalar_function(jax.lax.complex, "L")(jnp.ones(()), jnp.ones(())),
            InputError,
            "real floating-point scalar",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(("count", "size"), [(1, 3), (1, 5000), (9, 3), (9, 5000)])
def test_finite_squares_end_at_a_power_of_two(dtype, count, size):
    """For few and many leaves, short and long: each way has its own sum."""
    edge = 2.0 ** (jnp.finfo(dtype).maxexp // 2)
    leaves = lambda value: [jnp.ones(size, dtype).at[-1].set(value)] * count
    below = float(np.nextafter(np.asarray(edge, dtype), np.asarray(0, dtype)))
    assert bool(trees.all_finite(leaves(below), squares=True))
    assert np.isfinite(np.asarray(below, dtype) ** 2)
    assert bool(trees.all_finite(leaves(-edge)))
    assert not bool(trees.all_finite(leaves(-edge), squares=True))
    half = jnp.full(size, 6e4, jnp.float16)
    assert bool(trees.all_finite([half] * count, squares=True))  # squares are taken in float32


def test_good_input_passes_and_values_are_not_looked_at_while_tracing():
    checks.floating({"w": jnp.ones(3)}, "params")
    checks.shape(jnp.ones((3, 3)), ("n", "n"), "M")
    checks.increasing(jnp.array([0.0, 1.0]))

    @jax.jit
    def traced(x):
        checks.finite(x, "x")
        checks.increasing(x)
        return x

    assert jnp.isnan(traced(jnp.array([jnp.nan, 0.0]))[0])


def test_assert_close_follows_the_dtype(dtype):
    eps = float(jnp.finfo(dtype).eps)
    one = jnp.ones(3, dtype)
    assert_close(one * (1 + 8 * eps), one, ulps=8)
    with pytest.raises(AssertionError, match="eps"):
        assert_close(one * (1 + 80 * eps), one, ulps=8)
    with pytest.raises(AssertionError):
        assert_close(one * jnp.nan, one)
    with pytest.raises(AssertionError, match="structure"):
        assert_close((one,), [one])


def test_assert_within_se_rejects_a_shifted_mean():
    x = np.random.default_rng(0).normal(size=4000)
    assert_within_se(x, 0.0)
    with pytest.raises(AssertionError, match="standard errors"):
        assert_within_se(x, 0.2)


@pytest.mark.parametrize("leaves", [1, 7, 8, 30])
def test_one_entry_that_is_not_finite_is_seen_in_any_leaf(leaves):
    tree = [jnp.ones(3) for _ in range(leaves)]
    assert bool(trees.all_finite(tree))
    for i in range(leaves):
        for bad in (jnp.nan, jnp.inf):
            assert not bool(trees.all_finite([*tree[:i], tree[i].at[1].set(bad), *tree[i + 1 :]]))


@pytest.mark.parametrize("kind", ["bfloat16", "float32", "complex64"])
def test_one_entry_of_a_long_leaf_is_seen_and_large_numbers_are_finite(kind):
    """Long leaves are summed by another kernel than short ones; a sum of their entries would overflow."""
    tree = {"long": jnp.full((70, 70), 1e38, jnp.dtype(kind)), "short": jnp.ones(3, jnp.int32), "none": None}
    finite = jax.jit(trees.all_finite)
    assert bool(finite(tree))
    bad = [jnp.nan, -jnp.inf] + [complex(1, jnp.inf), complex(0, jnp.nan)] * (kind == "complex64")
    for value in bad:
        for place in ((0, 0), (33, 41), (69, 69)):
            assert not bool(finite(tree | {"long": tree["long"].at[place].set(value)}))
