"""The chapter "information": figure 1 of the paper on the State of the Union, with two controls that must not slow down.

The scalar is the log-likelihood of a text. Its velocity falls with context for SmolLM2 and for a transformer and a GRU that are
trained here; it must be flat for a k-gram from t = k on, and must not fall on text whose bytes were dealt out at random.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import information
from learnlag_jax.experiments import data
from learnlag_jax.experiments.chapters import decades, information_figures, power
from learnlag_jax.experiments.claims import Chapter, Claim, Settings
from learnlag_jax.experiments.language import models, pretrained
from learnlag_jax.vocabulary import PyTree

K, BANDWIDTH = 3, 20.0


class Measured(NamedTuple):
    """Velocities (W, T) of one model on one text, and their curve."""

    v: np.ndarray
    curve: information.Curve


class Byte(NamedTuple):
    """The byte models that are made here: name -> (apply, parameters), and how the transformer's training went."""

    readers: dict[str, tuple[Callable, PyTree]]
    fitted: models.Fitted


def chapter(settings: Settings) -> Chapter:
    """Train, score, and check section 2 of the paper."""
    corpus = data.sotu()
    rng = np.random.default_rng(settings.seed)
    learned, held_out = models.split_documents(corpus.content)
    config, steps, count = _sizes(settings.quick)
    text = models.windows(held_out, config.context, count, rng)
    trained = _train(config, learned, steps, text, rng, settings)
    dealt = _dealt(held_out, text, rng)
    measure = lambda words: {name: _measure(*reader, words) for name, reader in trained.readers.items()}
    real, random = measure(text), measure(dealt)
    smollm2, bible = pretrained.recorded("sotu"), pretrained.recorded("king_james")
    motion = information.loss_motion(jnp.asarray(trained.fitted.losses, jnp.float64), bandwidth=BANDWIDTH)
    shift, decade_figure, decade_table = decades.chapter_part(corpus.content, smollm2, count, settings.seed)
    size, power_table = power.chapter_part(settings.seed)
    claims = (
        _chain_rule(*trained.readers["transformer"], text),
        _acceleration(real["transformer"]),
        _falls(real),
        _flat(real),
        _no_learning(real, random),
        _limit(real["transformer"]),
        size,
        _test_loss_decelerates(trained.fitted, text.documents[: trained.fitted.held_out.shape[1]]),
        shift,
        *pretrained.claims(smollm2, bible),
    )
    columns = {"SmolLM2": (smollm2.curve, pretrained.dealt(), "token")}
    columns |= {name: (real[name].curve, random[name].curve, "byte") for name in trained.readers}
    curves = {name: run.curve for name, run in real.items()}
    curves |= {f"{name}, text dealt at random": run.curve for name, run in random.items()}
    read = trained.fitted.held_out.mean(1)
    return Chapter(
        "information",
        "Information: learning as motion",
        "From one scalar, the log-likelihood of a text, follow position (information seen), velocity (surprisal of the "
        "next token) and acceleration. A pretrained model, and a transformer and a GRU trained here, are scored on State of the "
        "Union messages; a k-gram and randomly dealt text show what no in-context learning looks like.",
        claims,
        (
            information_figures.side_by_side(columns),
            pretrained.figure(smollm2, bible),
            information_figures.training(trained.fitted.losses, motion, trained.fitted.at, read, BANDWIDTH),
            decade_figure,
        ),
        (
            information_figures.summary(curves, K),
            pretrained.table({"messages": smollm2, "Bible": bible}),
            power_table,
            information_figures.learning_times(motion, BANDWIDTH),
            decade_table,
        ),
        (_substitution(trained, steps), _law(), *pretrained.honest()),
        (corpus, smollm2.input, bible.input),
    )


def _substitution(trained: Byte, steps: int) -> tuple[str, str]:
    size = sum(x.size for x in jax.tree.leaves(trained.readers["transformer"][1]))
    return (
        "In-context loss is evaluated on OpenWebText (figure 1).",
        "OpenWebText cannot be read offline. The text here is State of the Union messages and the King James Bible; the large "
        "model is SmolLM2-135M, 4-bit and instruction-tuned; the small ones read bytes, the transformer with "
        f"{size:,} parameters and {steps} steps of training. The shape is the paper's; the numbers are these models'.",
    )


def _law() -> tuple[str, str]:
    return (
        "The velocity is non-increasing, so it converges to its infimum (Insight 1).",
        "That is a property of a model and a text, not a law: it is false for a k-gram beyond its memory, and the "
        "test here can say so. Single positions also rise within noise; the band shows by how much.",
    )


def _sizes(quick: bool):
    """The transformer's sizes, training steps, and windows to score."""
    if quick:
        return models.Config(width=64, layers=2, heads=4, context=64), 300, 3072
    return models.Config(width=96, layers=3, heads=4, context=96), 900, 4096


def _train(
    config: models.Config, learned: list[bytes], steps: int, text: models.Windows, rng, settings: Settings
) -> Byte:
    """The transformer and the GRU on the same batches, and the k-gram on the same messages."""
    batches = models.batches(learned, config.context, steps, 16, rng)
    apply, params = models.transformer(config, nnx.Rngs(settings.seed))
    label = "training the transformer"
    fitted = models.fit(apply, params, batches, 0.03, settings.track, label, held_out=text.tokens[:256])
    recur, start, _ = models.gru(config.width, nnx.Rngs(settings.seed))
    recurrent = models.fit(recur, start, batches, 0.03, settings.track, "training the GRU")
    gram, tables = models.kgram(learned, K)
    return Byte(
        {"transformer": (apply, fitted.params), "GRU": (recur, recurrent.params), f"{K}-gram": (gram, tables)}, fitted
    )


def _dealt(documents, text: models.Windows, rng) -> models.Windows:
    """Windows of the same shape whose bytes are drawn one by one from the whole held-out text."""
    everything = np.frombuffer(b"".join(documents), np.uint8)
    return models.Windows(rng.choice(everything, text.tokens.shape).astype(np.int32), np.arange(len(text.tokens)))


def _measure(apply, params, text: models.Windows) -> Measured:
    v = models.score(apply, params, text.tokens, information.surprisal).astype(np.float64)
    _, documents = np.unique(text.documents, return_inverse=True)
    return Measured(v, _curve(v, documents))


def _curve(v: np.ndarray, documents: np.ndarray) -> information.Curve:
    return information.in_context_curve(jnp.asarray(v), documents=documents)


def _chain_rule(apply, params, text: models.Windows) -> Claim:
    """The joint log-probability by one sum over the window against the running sum of velocities."""

    @jax.jit
    def both_ways(params, tokens):
        logits = apply(params, tokens).astype(jnp.float64)
        joint = -jnp.sum(jax.nn.log_softmax(logits)[jnp.arange(len(tokens)), tokens])
        v = information.surprisal(logits, tokens)
        I = information.position(v)
        back = jnp.max(jnp.abs(information.velocity(I) - v))
        return joint, I[-1], back, information.position(v[:-1])[-1]

    joint, total, back, short = map(float, both_ways(params, jnp.asarray(text.tokens[0])))
    residual, wrong = max(abs(total - joint), back) / joint, abs(short - joint) / joint
    n = text.tokens.shape[1]
    return Claim(
        "eq. 1",
        "Position, the information in a text, is the sum of its velocities (chain rule), and velocity is its difference.",
        residual,
        64 * n * float(np.finfo(np.float64).eps),
        f"64 eps(float64) x {n} terms",
        "the last byte left out of the sum",
        wrong,
    )


def _acceleration(run: Measured) -> Claim:
    """The mean of accelerations is the acceleration of the mean, and telescopes to the total change of velocity."""
    v = run.v
    a = np.asarray(information.acceleration(jnp.asarray(v)))
    change = v[:, -1] - v[:, 0]
    residual = float(np.max(np.abs(a.mean(0) - run.curve.acceleration)))
    total = float(np.max(np.abs(a.sum(1) - change)))
    wrong = float(np.max(np.abs(a[:, 1:].sum(1) - change)))
    size = float(np.max(v))
    return Claim(
        "eq. 1",
        "Acceleration a(t) = v(t+1) - v(t): its mean over windows is the difference of the curve, its sum the change of v.",
        max(residual, total) / size,
        64 * v.shape[1] * float(np.finfo(np.float64).eps),
        f"64 eps(float64) x {v.shape[1]} terms",
        "the first acceleration left out of the sum",
        wrong / size,
    )


def _slope(measured: Measured) -> information.Deceleration:
    """The test from t = K on, where a k-gram has all the context it can use."""
    return information.deceleration_test(measured.curve, start=K)


def _falls(real: dict[str, Measured]) -> Claim:
    return Claim(
        "eq. 1, Insight 1",
        "The velocity of the transformer and of the GRU falls with context: the test of 'flat or rising' is rejected for both.",
        max(float(_slope(real[name]).p_value) for name in ("transformer", "GRU")),
        1e-3,
        "level of a one-sided test, the larger p of the two; standard error by bootstrap over documents",
        f"the same test for the {K}-gram",
        float(_slope(real[f"{K}-gram"]).p_value),
    )


def _flat(real: dict[str, Measured]) -> Claim:
    return Claim(
        "eq. 1, Insight 1",
        f"A {K}-gram, which looks back {K - 1} bytes, has a flat velocity from t = {K} on: its slope is within noise of zero.",
        abs(float(_slope(real[f"{K}-gram"]).statistic)),
        4.0,
        "4 standard errors, by bootstrap over documents",
        "the slope of the transformer",
        abs(float(_slope(real["transformer"]).statistic)),
    )


def _no_learning(real: dict[str, Measured], random: dict[str, Measured]) -> Claim:
    largest = lambda runs: max(0.0, *(float(_slope(runs[name]).statistic) for name in ("transformer", "GRU")))
    return Claim(
        "eq. 1, Insight 1",
        "On text whose bytes are dealt out at random the same transformer and GRU show no in-context learning: their velocity "
        "does not fall.",
        largest(random),
        4.0,
        "4 standard errors, by bootstrap over windows",
        "the same statistic on the real text",
        largest(real),
    )


def _limit(run: Measured) -> Claim:
    """The fitted curve against the measured one at the last quarter of the window, in standard errors."""
    fit = information.decay_fit(run.curve)

    def misfit(v_inf, c, t0, b):
        tail = slice(3 * len(run.curve.t) // 4, None)
        t = np.asarray(run.curve.t, float)[tail]
        gap = np.asarray(run.curve.mean)[tail] - (v_inf + c * (t + t0) ** -b)
        spread = np.asarray(run.curve.replicates)[:, tail].mean(1).std(ddof=1)
        return abs(gap.mean()) / spread

    fitted = [float(x) for x in (fit.v_inf, fit.c, fit.t0, fit.b)]
    return Claim(
        "eq. 1, Insight 1",
        f"v(t) approaches a limit: v_inf + c (t + t0)^-b with v_inf = {fitted[0]:.2f} nats per byte "
        f"({float(fit.low[0]):.2f} to {float(fit.high[0]):.2f}) follows the last quarter of the curve.",
        misfit(*fitted),
        4.0,
        "4 standard errors, by bootstrap over documents",
        "the limit raised by half a nat",
        misfit(fitted[0] + 0.5, *fitted[1:]),
    )


def _test_loss_decelerates(fitted: models.Fitted, documents: np.ndarray) -> Claim:
    """Every held-out window has a speed between two looks at it; the test of a falling velocity is put to that speed."""
    speed = -np.diff(fitted.held_out.astype(np.float64), axis=0) / np.diff(fitted.at)[:, None]
    _, ids = np.unique(documents, return_inverse=True)
    p_value = lambda rows: float(information.deceleration_test(_curve(rows.T, ids)).p_value)
    return Claim(
        "eq. 1, Insight 1",
        "Training also decelerates: the loss on unread messages falls by less in each step as steps go on (the test of 'flat or "
        "rising' is rejected for its speed).",
        p_value(speed),
        1e-3,
        "level of a one-sided test; standard error by bootstrap over documents",
        "the same speeds in reverse order",
        p_value(speed[::-1]),
    )
