"""Ids of every width, masks of every kind, halves: the same numbers, or a refusal by name; never a wrapped or weighed one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import DTypeError, InputError
from learnlag_jax.information import (
    bits_per_byte,
    chunked_surprisal,
    in_context_curve,
    loss_motion,
    position,
    read_stream,
    start_stream,
    surprisal,
)
from learnlag_jax.testing import assert_close

NARROW = [np.uint8, np.int8, np.int16, np.uint16, np.uint32, np.int64]


def _whole(table, tokens):
    return surprisal(table, tokens)


def _in_chunks(table, tokens, chunk=96):
    """Row t of the table is the state of token t, and every word its own direction: its products are the logits."""
    return chunked_surprisal(table, jnp.eye(table.shape[1], dtype=table.dtype), tokens, chunk=chunk)


def _as_stream(table, tokens):
    step = lambda t, token: (t + 1, jnp.asarray(table)[jnp.minimum(t + 1, len(table) - 1)])
    return read_stream(step, start_stream(jnp.int32(0), jnp.asarray(table[0])), tokens)[1]


@pytest.mark.parametrize("under", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("how", [_whole, _in_chunks, _as_stream])
@pytest.mark.parametrize("kind", NARROW)
def test_ids_of_any_width_name_the_same_words(kind, how, under):
    """256 and 300 words: the size of the vocabulary, or of a chunk, does not fit the type that the ids came in."""
    for words in (256, 300):
        table = np.random.default_rng(0).normal(size=(5, words)).astype(np.float32)
        tokens = np.array([0, 10, 97, 120, min(words - 1, np.iinfo(kind).max)], kind)
        rows = np.exp(table.astype(np.float64))
        expected = np.log(rows.sum(1) / rows[np.arange(5), tokens.astype(int)])
        assert_close(under(how)(table, tokens), jnp.asarray(expected, jnp.float32), scale=10.0)


def test_a_vocabulary_beyond_int16_takes_ids_in_int16():
    logits = jnp.zeros((2, 49152), jnp.float32)
    v = jax.jit(surprisal)(logits, np.array([5, -7], np.int16))
    assert_close(v[0], jnp.log(jnp.float32(49152)))
    assert bool(jnp.isnan(v[1]))


@pytest.mark.parametrize("token, kind", [(2**32 + 1, np.int64), (2**32 + 1, np.uint64), (2**31 + 1, np.uint32)])
@pytest.mark.parametrize("how", [_whole, _in_chunks, _as_stream])
def test_an_id_beyond_int32_is_out_of_range_and_does_not_wrap(float64, token, kind, how):
    table, tokens = np.zeros((2, 5), np.float32), np.array([1, token], kind)
    with pytest.raises(InputError, match=f"tokens: got {token} at index 1; expected ids 0 .. 4"):
        how(table, tokens)
    assert jnp.isnan(jax.jit(how)(table, tokens)).tolist() == [False, True]
    with jax.enable_x64(False), pytest.raises(InputError, match=f"tokens: got {token} at index 1"):
        surprisal(table, tokens)  # JAX alone would have cut it to a word there is


MASKED = {
    "surprisal": lambda mask: surprisal(np.zeros((4, 3), np.float32), np.zeros(4, np.int32), mask),
    "chunked_surprisal": lambda mask: chunked_surprisal(
        np.zeros((4, 2), np.float32), np.zeros((3, 2), np.float32), np.zeros(4, np.int32), mask=mask
    ),
    "in_context_curve": lambda mask: (
        in_context_curve(
            np.arange(8, dtype=np.float32).reshape(4, 2), mask=np.stack([mask, mask], 1) if len(mask) == 4 else mask
        ).mean
    ),
}


@pytest.mark.parametrize("name", list(MASKED))
def test_a_mask_says_yes_or_no_and_is_no_weight(name):
    call, yes = MASKED[name], np.array([True, True, False, True])
    for kind in (bool, np.int32, np.uint8, np.int64):
        np.testing.assert_array_equal(call(yes.astype(kind)), call(yes))
    with pytest.raises(
        InputError, match=r"mask: got 2 at index .*; expected booleans, or zeros and ones; pass mask > 0"
    ):
        call(np.array([1, 1, 2, 1]))
    for wrong in (yes.astype(np.float32), 0.5 * yes, yes * (1 + 1j)):
        with pytest.raises(DTypeError, match="mask: got (float|complex)"):
            call(wrong)
    with pytest.raises(DTypeError, match="mask: got int32"):  # what it holds cannot be seen here
        jax.jit(lambda x: surprisal(np.zeros((4, 3), np.float32), np.zeros(4, np.int32), x))(yes.astype(np.int32))
    with pytest.raises(InputError, match="mask"):
        call(np.ones(3, bool))


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
def test_halves_are_summed_in_single_precision(half):
    v = jnp.asarray(np.random.default_rng(0).exponential(3, size=20_000), half)
    exact = np.asarray(v, np.float64).sum()
    assert_close(position(v)[-1], jnp.asarray(exact, jnp.float32), ulps=2**10)
    assert_close(
        bits_per_byte(v, jnp.full(20_000, 4)), jnp.asarray(exact / np.log(2) / 80_000, jnp.float32), ulps=2**10
    )
    windows = v[:60].reshape(6, 10)
    wide = in_context_curve(windows.astype(jnp.float32))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, in_context_curve(windows), wide))
    smooth = loss_motion(v[:60].astype(jnp.float32))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, loss_motion(v[:60]), smooth))


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: in_context_curve(jnp.ones((2, 3)), documents=["a", None]),
            "documents: got labels of NoneType and str",
        ),
        (lambda: in_context_curve(jnp.ones((2, 3)), documents=[[1], [1, 2]]), "documents: got labels of list"),
        (lambda: in_context_curve(jnp.ones((2, 3)), key=0), "key: got 0; expected a typed key"),
        (lambda: loss_motion(jnp.ones(9), bandwidth=float("inf")), "bandwidth: got inf; expected a finite number"),
        (lambda: loss_motion(jnp.ones(9), bandwidth=float("nan")), "bandwidth: got nan"),
        (lambda: loss_motion(jnp.ones(9), bandwidth=0.5), "bandwidth: got 0.5"),
        (
            lambda: bits_per_byte(jnp.array([[1.0], [jnp.nan]]), jnp.ones((2, 1))),
            r"v: got only masked tokens .* row \(1,\)",
        ),
        (lambda: bits_per_byte(jnp.full(2, jnp.nan), jnp.ones(2)), r"v: got only masked tokens \(NaN\); expected"),
        (lambda: surprisal(jnp.zeros((2, 3)), range(3)), r"tokens: got int\d+\[3\]; expected shape \(2,\)"),
        (lambda: bits_per_byte(jnp.ones(2), jnp.array([1.0, jnp.inf])), "sizes: got inf at index"),
        (lambda: bits_per_byte(jnp.ones(2), jnp.array([1.0, jnp.nan])), "sizes: got nan at index"),
    ],
)
def test_other_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_range_of_tokens_is_taken(dtype):
    assert_close(surprisal(jnp.zeros((2, 3), dtype), range(2)), jnp.full(2, jnp.log(3), dtype))
