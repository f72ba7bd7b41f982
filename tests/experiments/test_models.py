"""The models of the walk: causality, stable splits, a k-gram that equals counting."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learnlag_jax import InputError
from learnlag_jax.experiments import data
from learnlag_jax.experiments.language import models
from learnlag_jax.information import surprisal

TEXT = [b"the cat sat on the mat. the dog sat on the cat. " * 8, b"a quick brown fox jumps over the lazy dog " * 8]


@pytest.fixture
def defaults():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        yield


def test_the_transformer_never_sees_the_future(defaults):
    apply, params = models.transformer(models.Config(16, 2, 2, 12), nnx.Rngs(0))
    x = jnp.arange(12, dtype=jnp.int32)
    changed = apply(params, x.at[7].set(99)) - apply(params, x)
    assert float(jnp.max(jnp.abs(changed[:8]))) == 0  # row 7 predicts token 7 from those before it
    assert float(jnp.max(jnp.abs(changed[8:]))) > 0


def test_training_lowers_the_loss_and_repeats_to_the_bit(defaults):
    apply, params = models.transformer(models.Config(16, 1, 2, 16), nnx.Rngs(0))
    cut = models.windows(TEXT, 16, 60 * 4, np.random.default_rng(0)).tokens.reshape(60, 4, 16)
    held_out = cut[:2].reshape(8, 16)
    train = lambda: models.train(apply, params, optax.adam(1e-2), cut, lambda x, label: x, "", held_out=held_out)
    runs = [train() for _ in range(2)]
    assert runs[0].losses[-10:].mean() < 0.8 * runs[0].losses[:3].mean()
    assert np.array_equal(runs[0].losses, runs[1].losses)
    assert runs[0].at.tolist() == [0, 20, 40, 60]
    before, after = (float(models.cross_entropy(apply, p, held_out)) for p in (params, runs[0].params))
    assert np.allclose(runs[0].held_out.mean(1)[[0, -1]], [before, after], rtol=1e-5)


def test_the_kgram_equals_counting_and_looks_back_no_further(defaults):
    model, tables = models.kgram(TEXT, 3, smoothing=0.5)
    apply = lambda tokens: model(tables, tokens)
    joined = b"\n\n".join(TEXT)
    x = np.frombuffer(b"the", np.uint8).astype(np.int32)
    log_p = np.asarray(apply(jnp.asarray(x)))
    assert np.allclose(np.exp(log_p).sum(1), 1, atol=1e-5)
    context = sum(joined[i : i + 2] == b"th" for i in range(len(joined) - 2))
    follows = sum(joined[i : i + 3] == b"the" for i in range(len(joined) - 2))
    expected = np.log((follows + 0.5) / (context + 128))
    assert abs(-float(surprisal(jnp.asarray(log_p), jnp.asarray(x))[2]) - expected) < 1e-5
    far = np.asarray(apply(jnp.asarray(np.frombuffer(b"xthe", np.uint8).astype(np.int32))))
    assert np.allclose(far[3], log_p[2])
    assert not np.allclose(far[2], log_p[1])


def test_documents_are_split_by_year_and_a_name_without_one_is_refused():
    documents = [("1790-Washington-1.txt", "a"), ("1899-McKinley-1.txt", "b"), ("1900-McKinley-1.txt", "c")]
    assert models.split_years(documents, 1900) == ([b"a", b"b"], [b"c"])
    with pytest.raises(InputError, match="name: got mine.txt"):
        models.split_years([("mine.txt", "a")], 1900)


def test_the_king_james_bible_is_whole():
    books = dict(data.king_james().content)
    assert len(books) == 66
    assert sum(text.count("\n") + 1 for text in books.values()) == 31_102 + 1  # the package counts one verse twice
    assert books["Genesis"].startswith("In the beginning God created the heaven and the earth.")


def test_documents_are_split_by_name_and_windows_stay_inside(defaults):
    documents = [(f"{i}.txt", f"{i % 10}" * (50 + i)) for i in range(200)]
    train, test = models.split_documents(documents)
    again, _ = models.split_documents(documents[::-1])
    assert sorted(train) == sorted(again)
    assert 5 < len(test) < 40
    cut = models.windows(test, 40, 100, np.random.default_rng(1))
    assert all(len(set(row)) == 1 for row in cut.tokens.tolist())  # one repeated digit: never across documents
    with pytest.raises(InputError, match="none of 10000 bytes"):
        models.windows(test, 10_000, 1, np.random.default_rng(1))
