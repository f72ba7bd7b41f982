"""Surprisal: the definition, invariance, the chunked sum against the whole one, and what must be refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learnlag_jax import DTypeError, InputError
from learnlag_jax.information import check_log_probs, chunked_surprisal, surprisal
from learnlag_jax.testing import assert_close


def _drawn(seed, dtype, rows=7, vocabulary=11):
    a, b = jax.random.split(jax.random.key(seed))
    logits = 3 * jax.random.normal(a, (rows, vocabulary), dtype)
    return logits, jax.random.randint(b, (rows,), 0, vocabulary)


def test_surprisal_is_minus_the_log_of_the_softmax(dtype):
    logits, tokens = _drawn(0, dtype)
    p = np.exp(np.asarray(logits, np.float64))
    p /= p.sum(1, keepdims=True)
    expected = -np.log(p[np.arange(7), np.asarray(tokens)])
    assert_close(surprisal(logits, tokens), jnp.asarray(expected, dtype), scale=10.0)
    wrong = surprisal(jnp.roll(logits, 1, axis=0), tokens)  # each row asked one token too late
    assert float(jnp.max(jnp.abs(wrong - jnp.asarray(expected, dtype)))) > 0.1


@given(st.integers(0, 10_000), st.floats(-50, 50))
def test_a_constant_added_to_all_logits_changes_nothing(seed, shift):
    logits, tokens = _drawn(seed, jnp.float32)
    assert_close(surprisal(logits + jnp.float32(shift), tokens), surprisal(logits, tokens), scale=50.0)


def test_probabilities_of_all_tokens_sum_to_one(dtype):
    logits, _ = _drawn(1, dtype)
    every = [jnp.full(7, token, jnp.int32) for token in range(11)]
    total = sum(jnp.exp(-surprisal(logits, tokens)) for tokens in every)
    assert_close(total, jnp.ones(7, dtype))


@pytest.mark.parametrize("chunk", [1, 4, 11, 64])
def test_the_chunked_sum_equals_the_whole_one_with_its_gradient(dtype, chunk):
    a, b, c = jax.random.split(jax.random.key(2), 3)
    states, embedding = jax.random.normal(a, (5, 3), dtype), jax.random.normal(b, (11, 3), dtype)
    tokens = jax.random.randint(c, (5,), 0, 11)
    whole = lambda h, E: surprisal(h @ E.T, tokens).sum()
    pieces = lambda h, E: chunked_surprisal(h, E, tokens, chunk=chunk).sum()
    for f in (lambda g: g(states, embedding), lambda g: jax.grad(g, (0, 1))(states, embedding)):
        assert_close(f(pieces), f(whole), ulps=256)


def test_the_chunked_sum_never_builds_the_table():
    rows, vocabulary, chunk = 64, 4096, 256
    args = jnp.zeros((rows, 8), jnp.float32), jnp.zeros((vocabulary, 8), jnp.float32), jnp.zeros(rows, jnp.int32)
    memory = lambda f: jax.jit(jax.grad(f)).lower(*args).compile().memory_analysis().temp_size_in_bytes
    small = memory(lambda h, E, x: chunked_surprisal(h, E, x, chunk=chunk).sum())
    whole = memory(lambda h, E, x: surprisal(h @ E.T, x).sum())
    table = 4 * rows * vocabulary
    assert small < table / 2
    assert whole >= table  # the control: the plain way does build it


def test_masked_tokens_are_marked_and_narrow_logits_are_widened():
    logits, tokens = _drawn(3, jnp.float32)
    v = surprisal(logits, tokens, jnp.arange(7) != 2)
    assert jnp.isnan(v).tolist() == [False, False, True, False, False, False, False]
    assert surprisal(logits.astype(jnp.bfloat16), tokens).dtype == jnp.float32


def test_a_row_of_minus_infinity_is_not_a_number_and_an_impossible_token_is_infinite():
    logits = jnp.array([[-jnp.inf, -jnp.inf], [0.0, -jnp.inf]])
    v = jax.jit(surprisal)(logits, jnp.array([0, 1]))  # inside jit no value can be refused
    assert jnp.isnan(v[0])
    assert v[1] == jnp.inf


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: surprisal(x, jnp.array([0, 5])), InputError, "tokens: got 5 at index 1"),
        (lambda x: surprisal(x, jnp.array([-1, 0])), InputError, "tokens: got -1 at index 0"),
        (lambda x: surprisal(x, jnp.array([0])), InputError, "tokens: got"),
        (lambda x: surprisal(x, jnp.array([0.0, 1.0])), DTypeError, "integer ids"),
        (lambda x: surprisal(x[0], jnp.array([0])), InputError, "logits"),
        (lambda x: surprisal(x, jnp.array([0, 1]), jnp.ones(3, bool)), InputError, "mask"),
        (lambda x: surprisal(x.at[1, 3].set(jnp.nan), jnp.array([0, 1])), InputError, "logits: got nan in row 1"),
        (lambda x: surprisal(x.at[0, 3].set(jnp.inf), jnp.array([0, 1])), InputError, "logits: got inf in row 0"),
        (lambda x: surprisal(x.at[1].set(-jnp.inf), jnp.array([0, 1])), InputError, "-inf everywhere in row 1"),
        (lambda x: check_log_probs([[-1.0, -2.0], [float("-inf")] * 2]), InputError, "-inf everywhere in row 1"),
        (lambda x: check_log_probs([-1.0, 0.5]), InputError, r"0.5 at index \(1,\)"),
        (lambda x: check_log_probs([-1.0, 1e-3]), InputError, "0.001 at index"),
        (
            lambda x: chunked_surprisal(x.at[1, 0].set(jnp.nan), jnp.ones((4, 5)), jnp.array([0, 1])),
            InputError,
            "nan in row 1",
        ),
        (lambda x: chunked_surprisal(x, jnp.ones((4, 5)), jnp.array([0, 1]), chunk=2.5), InputError, "chunk: got 2.5"),
        (lambda x: check_log_probs([-1.0, float("nan")]), InputError, "NaN"),
        (lambda x: check_log_probs([float("-inf")] * 2), InputError, "-inf everywhere"),
        (lambda x: check_log_probs([[float("inf")] * 2]), InputError, r"got inf at index \(0, 0\)"),
        (lambda x: check_log_probs([]), InputError, "no entries"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call(jnp.zeros((2, 5)))


def test_confident_predictions_keep_their_digits_and_no_probability_passes_one():
    """log(1 + e^-d) where the rest of the row is far below; a plain difference of large numbers returns 0 or worse."""
    for d, far in ((14.0, 20.0), (5.0, 1e4), (10.0, 1e4)):
        v = surprisal(jnp.array([[far + d, far]], jnp.float32), jnp.array([0]))
        np.testing.assert_allclose(v[0], np.log1p(np.exp(-d)), rtol=1e-2)  # the sum 1 + e^-d keeps it to eps
    a, b = jax.random.split(jax.random.key(5))
    states = 12 * jax.random.normal(a, (32, 64), jnp.float32)
    embedding = jax.random.normal(b, (1000, 64), jnp.float32)
    likeliest = jnp.argmax(states @ embedding.T, axis=1)
    v = chunked_surprisal(states, embedding, likeliest, chunk=96)
    assert float(jnp.min(v)) >= 0
    assert check_log_probs(-v).shape == (32,)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_mask_covers_whatever_stands_under_it(dtype):
    """Padding ids, NaN logits: neither the value nor the gradient of the rest knows of them; chunked as whole."""
    a, b = jax.random.split(jax.random.key(6))
    states, embedding = jax.random.normal(a, (4, 3)).astype(dtype), jax.random.normal(b, (9, 3)).astype(dtype)
    tokens, mask = jnp.array([3, -100, 8, 400]), jnp.array([True, False, True, False])
    states = states.at[1].set(jnp.nan)
    logits = jnp.matmul(states, embedding.T, preferred_element_type=jnp.float32)
    whole, pieces = surprisal(logits, tokens, mask), chunked_surprisal(states, embedding, tokens, chunk=4, mask=mask)
    assert pieces.dtype == jnp.float32
    assert jnp.isnan(whole).tolist() == jnp.isnan(pieces).tolist() == [False, True, False, True]
    assert_close(pieces[::2], whole[::2], ulps=64)
    total = lambda h: jnp.nansum(chunked_surprisal(h, embedding, tokens, chunk=4, mask=mask))
    assert bool(jnp.all(jnp.isfinite(jax.grad(total)(states))))
    with pytest.raises(InputError, match="tokens: got 400 at index 3"):
        surprisal(logits.at[1].set(0), tokens, mask.at[3].set(True))


@pytest.mark.parametrize("token", [5, 164, -1, -3])
def test_an_id_out_of_range_is_no_other_token_inside_jit(token):
    logits, states, embedding = jnp.zeros((1, 5)), jnp.zeros((1, 2)), jnp.zeros((5, 2))
    for found in (
        jax.jit(surprisal)(logits, jnp.array([token])),
        jax.jit(chunked_surprisal)(states, embedding, jnp.array([token])),
    ):
        assert bool(jnp.isnan(found[0]))
    assert_close(jax.jit(surprisal)(logits, jnp.array([4]))[0], jnp.log(jnp.asarray(5, logits.dtype)))
    infinite = jax.jit(surprisal)(logits.at[0, 0].set(jnp.inf), jnp.array([1]))
    assert bool(jnp.isnan(infinite[0]))
