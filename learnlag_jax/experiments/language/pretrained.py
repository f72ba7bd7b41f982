"""SmolLM2 in the chapter "information": figure 1 for real pretrained weights, from velocities measured beforehand.

`measured/smollm2_TEXT.npz` holds windows of 256 tokens scored by `smollm2.velocities` (minutes on two cores, too long for a
report), with the hashes of weights, text and tokens; the averages, bands, fit and tests are made here, by the room. A test
scores some of the windows again where the weights are installed. To measure again:

    python -m learnlag_jax.experiments.language.pretrained sotu|king_james OUT.npz [WINDOWS]
"""

import sys
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from learnlag_jax import information
from learnlag_jax.experiments import data
from learnlag_jax.experiments.claims import Claim, Dataset, Figure, Table
from learnlag_jax.experiments.language import scoring, smollm2

BLUE, GREY, RED, GREEN = "#2563a8", "#777777", "#b33a3a", "#2e8b57"
SEED, WINDOWS, LENGTH = 0, 512, 256  # of the measurement of sotu


class Recorded(NamedTuple):
    """The curve of a text, its fit, and the velocities (W, T), bytes and document of every window."""

    curve: information.Curve
    fit: information.Decay
    v: np.ndarray
    sizes: np.ndarray
    documents: np.ndarray
    input: Dataset


def _stored(text: str) -> dict[str, np.ndarray]:
    place = resources.files("learnlag_jax.experiments") / "measured" / f"smollm2_{text}.npz"
    with resources.as_file(place) as path, np.load(path) as file:
        return dict(file)


def recorded(text: str = "sotu") -> Recorded:
    """The measured velocities as a curve."""
    file = _stored(text)
    v, weights = file["v"].astype(np.float64), str(file["weights_sha256"])
    _, ids = np.unique(file["documents"], return_inverse=True)
    curve = information.in_context_curve(jnp.asarray(v), documents=ids)
    source = f"velocities of {text} under SmolLM2-135M-Instruct (4-bit), weights {weights[:12]}, measured beforehand"
    origin = Dataset(f"smollm2-{text}", v, data.sha256(v.astype(np.float16)), source, "Apache-2.0 (weights)")
    return Recorded(curve, information.decay_fit(curve), v, file["bytes"], file["documents"], origin)


def dealt() -> information.Curve:
    """The measured curve of windows whose tokens were dealt out at random from the whole of sotu."""
    return information.in_context_curve(jnp.asarray(_stored("sotu")["dealt"], np.float64))


def cut(model: smollm2.Model, content, windows: int = WINDOWS) -> scoring.Windows:
    """The windows of the measurement."""
    codes = smollm2.encode(model, [text for _, text in content])
    return scoring.tiles(codes, LENGTH, windows, np.random.default_rng(SEED))


def measure(corpus: Dataset, place: Path, windows: int = WINDOWS) -> None:
    """Score the windows of a corpus under SmolLM2 and store what `recorded` reads; goes on from where it was stopped."""
    model = smollm2.load()
    text, kept = cut(model, corpus.content, windows), place.with_suffix(".cache")
    shown = lambda items, label: (print(label, i) or i for i in items)
    done = scoring.score(smollm2.scorer(model), text.tokens, model.sha256, kept, batch=4, track=shown)
    np.savez_compressed(
        place,
        v=done.v.astype(np.float16),
        documents=text.documents.astype(np.int16),
        bytes=smollm2.sizes(model)[text.tokens].sum(1).astype(np.int16),
        weights_sha256=model.sha256,
        text_sha256=corpus.sha256,
        tokens_sha256=data.sha256(text.tokens),
    )
    print(f"{done.speed:.0f} tokens a second")


def claims(sotu: Recorded, bible: Recorded) -> tuple[Claim, ...]:
    """It slows down, on two texts, and by a power law."""
    contest = information.compare_decays(sotu.curve)
    v_inf, low, high = (float(x) for x in (sotu.fit.v_inf, sotu.fit.low[0], sotu.fit.high[0]))
    return (
        _falls(sotu, "State of the Union messages"),
        _falls(bible, "the King James Bible"),
        Claim(
            "eq. 1, Insight 1",
            f"It approaches a limit as a power law, v_inf = {v_inf:.2f} ({low:.2f} to {high:.2f}) nats per token, "
            f"b = {float(sotu.fit.b):.2f}: an exponential or an endless logarithm fits worse in most replicates.",
            1 - float(contest.wins[0]),
            0.05,
            "share of bootstrap replicates (over documents) that another form wins",
            "the exponential put forward instead",
            1 - float(contest.wins[1]),
        ),
    )


def _falls(run: Recorded, text: str) -> Claim:
    falling = information.deceleration_test(run.curve)
    backwards = run.curve._replace(mean=run.curve.mean[::-1], replicates=run.curve.replicates[:, ::-1])
    return Claim(
        "eq. 1, Insight 1",
        f"SmolLM2, a pretrained model of 135 million parameters, decelerates on {run.v.size:,} tokens of {text}: the "
        f"velocity falls by {float(falling.contrast):.2f} nats per token with each e-fold of context.",
        float(falling.p_value),
        1e-3,
        "level of a one-sided test; standard error by bootstrap over documents",
        "the same windows with their positions reversed",
        float(information.deceleration_test(backwards).p_value),
    )


def figure(sotu: Recorded, bible: Recorded) -> Figure:
    """Figure 1 of the paper for SmolLM2."""
    runs = {"sotu": sotu, "king-james": bible}
    colours, names = (
        {"sotu": BLUE, "king-james": GREEN},
        {"sotu": "State of the Union", "king-james": "King James Bible"},
    )
    band = lambda c: {
        "t (tokens)": np.asarray(c.t),
        "v (nats per token)": np.asarray(c.mean),
        "low": np.asarray(c.low),
        "high": np.asarray(c.high),
    }
    fitted = lambda r: r.fit.v_inf + r.fit.c * (r.curve.t + r.fit.t0) ** -r.fit.b
    series = {}
    for key, run in runs.items():
        series[f"velocity-{key}"] = band(run.curve)
        series[f"fit-{key}"] = {"t (tokens)": np.asarray(run.curve.t), "v (nats per token)": np.asarray(fitted(run))}
        series[f"acceleration-{key}"] = acceleration(run.curve, "token")
    series["velocity-dealt"] = band(information.log_bins(dealt(), per_octave=2))

    def draw(canvas, series):
        left, right = canvas.subplots(1, 2)
        lines = [(f"velocity-{key}", colours[key], names[key]) for key in runs]
        for key, colour, label in [*lines, ("velocity-dealt", GREY, "sotu, tokens dealt at random")]:
            t, v, low, high = series[key].values()
            left.fill_between(t, low, high, color=colour, alpha=0.2, linewidth=0)
            left.plot(t, v, color=colour, label=label)
        for i, key in enumerate(runs):
            left.plot(*series[f"fit-{key}"].values(), color=RED, ls="--", lw=1.2, label=None if i else "fit, power law")
            t, a, low, high = series[f"acceleration-{key}"].values()
            right.fill_between(t, low, high, color=colours[key], alpha=0.2, linewidth=0)
            right.plot(t, a, color=colours[key], marker="o", markersize=3)
        left.set(xlabel="context t (tokens)", ylabel="v(t) (nats per token)", title="velocity", xscale="log")
        left.set_ylim(0, None)
        left.legend(loc="lower left", fontsize=8)
        right.axhline(0, color=GREY, linewidth=0.8)
        right.set(xlabel="context t (tokens)", ylabel="a(t) (nats per token²)", title="acceleration", xscale="log")
        right.set_yscale("symlog", linthresh=0.01)
        right.set_yticks([-1, -0.1, -0.01, 0, 0.01], ["−1", "−0.1", "−0.01", "0", "0.01"])

    caption = (
        f"Figure 1 of the paper for SmolLM2-135M: {sotu.v.shape[0]} windows of {sotu.v.shape[1]} tokens of State of the Union "
        f"messages and {bible.v.shape[0]} of the King James Bible, 95 % bands by bootstrap over documents (messages, books). The "
        "model is instruction-tuned and 4-bit; the text is not OpenWebText. Acceleration over half octaves of t, on an axis "
        "that is linear within 0.01."
    )
    alt = "On both texts the velocity falls along a power law, to about 3.3 nats per token on the messages and 2.9 on the Bible; the acceleration rises to zero."
    return Figure("information-smollm2", caption, alt, series, draw)


def acceleration(curve: information.Curve, unit: str) -> dict[str, np.ndarray]:
    """The columns of an acceleration over half octaves of t, placed at the geometric middle of two bins."""
    binned = information.log_bins(curve, per_octave=2)
    return {
        f"t ({unit}s)": np.sqrt(np.asarray(binned.t)[1:] * np.asarray(binned.t)[:-1]),
        f"a (nats per {unit}^2)": np.asarray(binned.acceleration),
        "low": np.asarray(binned.acceleration_low),
        "high": np.asarray(binned.acceleration_high),
    }


def table(runs: dict[str, Recorded]) -> Table:
    """The numbers of the limit, with their bands, on each text."""
    rows: list[tuple[str | float | int, ...]] = []
    for name, run in runs.items():
        fit, context = run.fit, information.effective_context(run.fit, 1e-3)
        score = information.in_context_score(run.curve, early=25, late=250)
        margin = 1.96 * score.standard_error
        entries = (
            ("limit v_inf", fit.v_inf, fit.low[0], fit.high[0], "nats per token"),
            ("exponent b", fit.b, fit.low[3], fit.high[3], ""),
            ("context where a token gains 0.001 nats", context.t, context.low, context.high, "tokens"),
            ("score v(250) - v(25)", score.value, score.value - margin, score.value + margin, "nats per token"),
        )
        rows += [(name, what, float(value), float(low), float(high), unit) for what, value, low, high, unit in entries]
        per_byte = float(information.bits(jnp.asarray(run.v.sum() / run.sizes.sum())))
        rows.append((name, "information in all", per_byte, "", "", "bits per byte"))
    return Table(
        "SmolLM2: the fitted limit and what context is worth.",
        ("text", "", "value", "low", "high", "unit"),
        tuple(rows),
    )


def honest() -> tuple[tuple[str, str], ...]:
    """Where this measurement says something other than the paper."""
    random = np.asarray(information.log_bins(dealt()).mean)
    return (
        (
            "The limit of v(t) is the intrinsic entropy of the text (the infimum in Insight 1).",
            "v_inf is the limit of this model on this text within the contexts seen: the entropy of the text plus what the "
            "model lacks (their divergence). It is an upper bound of the first, and an extrapolation. It depends on the unit: the "
            "Bible's limit is the lower one in nats per token, yet its text costs more bits per byte, for its tokens are shorter.",
        ),
        (
            "Text without structure shows no in-context learning.",
            "A pretrained model learns even there: on tokens dealt out at random from the same corpus its velocity falls from "
            f"{random[3]:.1f} (t = 5-8) to {random[-1]:.1f} nats per token, as it picks up which words are common. Order is worth the "
            f"rest. The byte model trained here knows the frequencies already, so for it dealt bytes are a true control.",
        ),
    )


if __name__ == "__main__":
    name, out, *count = sys.argv[1:]
    measure({"sotu": data.sotu, "king_james": data.king_james}[name](), Path(out), *map(int, count))
