"""SmolLM2 in the chapter "information": figure 1 for real pretrained weights, from velocities measured beforehand.

`measured/smollm2_sotu.npz` holds 512 windows x 256 tokens scored by `smollm2.velocities` (five minutes on two cores, too long
for a report), with the hashes of weights, text and tokens; the averages, bands, fit and tests are made here, by the room. A test
scores some of the windows again where the weights are installed.
"""

from importlib import resources
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from learnlag_jax import information
from learnlag_jax.experiments import data
from learnlag_jax.experiments.claims import Claim, Dataset, Figure, Table

BLUE, GREY, RED = "#2563a8", "#777777", "#b33a3a"
SEED, WINDOWS, LENGTH = 0, 512, 256  # of the measurement


class Recorded(NamedTuple):
    """Curves of the real text and of tokens dealt out at random, the fit, and bytes a token."""

    curve: information.Curve
    dealt: information.Curve
    fit: information.Decay
    v: np.ndarray
    sizes: np.ndarray
    input: Dataset


def recorded() -> Recorded:
    """The measured velocities as curves."""
    place = resources.files("learnlag_jax.experiments") / "measured" / "smollm2_sotu.npz"
    with resources.as_file(place) as path, np.load(path) as file:
        v, dealt = (file[key].astype(np.float64) for key in ("v", "dealt"))
        documents, sizes, weights = file["documents"], file["bytes"], str(file["weights_sha256"])
    _, ids = np.unique(documents, return_inverse=True)
    curve = information.in_context_curve(jnp.asarray(v), documents=ids)
    source = f"velocities of sotu under SmolLM2-135M-Instruct (4-bit), weights {weights[:12]}, measured beforehand"
    origin = Dataset("smollm2-sotu", v, data.sha256(v.astype(np.float16)), source, "Apache-2.0 (weights)")
    dealt_curve = information.in_context_curve(jnp.asarray(dealt))
    return Recorded(curve, dealt_curve, information.decay_fit(curve), v, sizes, origin)


def claims(run: Recorded) -> tuple[Claim, ...]:
    """It slows down, and by a power law."""
    falling = information.deceleration_test(run.curve)
    backwards = run.curve._replace(mean=run.curve.mean[::-1], replicates=run.curve.replicates[:, ::-1])
    rising = information.deceleration_test(backwards)
    contest = information.compare_decays(run.curve)
    v_inf, low, high = (float(x) for x in (run.fit.v_inf, run.fit.low[0], run.fit.high[0]))
    return (
        Claim(
            "eq. 1, Insight 1",
            f"SmolLM2, a pretrained model of 135 million parameters, decelerates on {run.v.size:,} tokens of real text: the "
            f"velocity falls by {float(falling.contrast):.2f} nats per token with each e-fold of context.",
            float(falling.p_value),
            1e-3,
            "level of a one-sided test; standard error by bootstrap over documents",
            "the same windows with their positions reversed",
            float(rising.p_value),
        ),
        Claim(
            "eq. 1, Insight 1",
            f"It approaches a limit as a power law, v_inf = {v_inf:.2f} ({low:.2f} to {high:.2f}) nats per token, "
            f"b = {float(run.fit.b):.2f}: an exponential or an endless logarithm fits worse in most replicates.",
            1 - float(contest.wins[0]),
            0.05,
            "share of bootstrap replicates (over documents) that another form wins",
            "the exponential put forward instead",
            1 - float(contest.wins[1]),
        ),
    )


def figure(run: Recorded) -> Figure:
    """Figure 1 of the paper for SmolLM2."""
    curve, fit = run.curve, run.fit
    binned, t = information.log_bins(curve, per_octave=2), np.asarray(curve.t)
    fitted = fit.v_inf + fit.c * (t + fit.t0) ** -fit.b
    middle = np.sqrt(np.asarray(binned.t)[1:] * np.asarray(binned.t)[:-1])
    band = lambda c: {
        "t (tokens)": np.asarray(c.t),
        "v (nats per token)": np.asarray(c.mean),
        "low": np.asarray(c.low),
        "high": np.asarray(c.high),
    }
    series = {
        "velocity": band(curve),
        "velocity-dealt": band(information.log_bins(run.dealt, per_octave=2)),
        "fit": {"t (tokens)": t, "v (nats per token)": np.asarray(fitted)},
        "acceleration": {
            "t (tokens)": middle,
            "a (nats per token^2)": np.asarray(binned.acceleration),
            "low": np.asarray(binned.acceleration_low),
            "high": np.asarray(binned.acceleration_high),
        },
    }

    def draw(canvas, series):
        left, right = canvas.subplots(1, 2)
        for key, colour, label in (
            ("velocity", BLUE, "sotu"),
            ("velocity-dealt", GREY, "sotu, tokens dealt at random"),
        ):
            t, v, low, high = series[key].values()
            left.fill_between(t, low, high, color=colour, alpha=0.2, linewidth=0)
            left.plot(t, v, color=colour, label=label)
        left.plot(*series["fit"].values(), color=RED, linestyle="--", linewidth=1.2, label="fit, power law")
        left.set(xlabel="context t (tokens)", ylabel="v(t) (nats per token)", title="velocity", xscale="log")
        left.set_ylim(0, None)
        left.legend(loc="lower left")
        t, a, low, high = series["acceleration"].values()
        right.axhline(0, color=GREY, linewidth=0.8)
        right.fill_between(t, low, high, color=BLUE, alpha=0.2, linewidth=0)
        right.plot(t, a, color=BLUE, marker="o", markersize=3)
        right.set(xlabel="context t (tokens)", ylabel="a(t) (nats per token²)", title="acceleration", xscale="log")
        right.set_yscale("symlog", linthresh=0.01)
        right.set_yticks([-1, -0.1, -0.01, 0, 0.01], ["−1", "−0.1", "−0.01", "0", "0.01"])

    caption = (
        f"Figure 1 of the paper for SmolLM2-135M: {run.v.shape[0]} windows of {run.v.shape[1]} tokens of State of the Union "
        "messages, 95 % bands by bootstrap over documents. The model is instruction-tuned and 4-bit; the text is not "
        "OpenWebText. Acceleration over half octaves of t, on an axis that is linear within 0.01."
    )
    alt = "The velocity falls from 10 to 3.3 nats per token along a power law; the acceleration rises from -3 to zero."
    return Figure("information-smollm2", caption, alt, series, draw)


def table(run: Recorded) -> Table:
    """The numbers of the limit, with their bands."""
    fit, context = run.fit, information.effective_context(run.fit, 1e-3)
    score = information.in_context_score(run.curve, early=25, late=250)
    per_byte = float(information.bits(jnp.asarray(run.v.sum() / run.sizes.sum())))
    rows: list[tuple[str | float | int, ...]] = [
        (name, float(value), float(low), float(high), unit)
        for name, value, low, high, unit in (
            ("limit v_inf", fit.v_inf, fit.low[0], fit.high[0], "nats per token"),
            ("exponent b", fit.b, fit.low[3], fit.high[3], ""),
            ("context where a token gains 0.001 nats", context.t, context.low, context.high, "tokens"),
            (
                "in-context score, v(250) - v(25)",
                score.value,
                score.value - 1.96 * score.standard_error,
                score.value + 1.96 * score.standard_error,
                "nats per token",
            ),
        )
    ]
    rows.append(("information in all", per_byte, "", "", "bits per byte"))
    return Table(
        "SmolLM2 on sotu: the fitted limit and what context is worth.",
        ("", "value", "low", "high", "unit"),
        tuple(rows),
    )


def honest(run: Recorded) -> tuple[tuple[str, str], ...]:
    """Where this measurement says something other than the paper."""
    dealt = np.asarray(information.log_bins(run.dealt).mean)
    return (
        (
            "The limit of v(t) is the intrinsic entropy of the text (the infimum in Insight 1).",
            "v_inf is the limit of this model on this text within the contexts seen: the entropy of the text plus what the "
            "model lacks (their divergence). It is an upper bound of the first, and an extrapolation.",
        ),
        (
            "Text without structure shows no in-context learning.",
            "A pretrained model learns even there: on tokens dealt out at random from the same corpus its velocity falls from "
            f"{dealt[3]:.1f} (t = 5-8) to {dealt[-1]:.1f} nats per token, as it picks up which words are common. Order is worth the "
            f"rest. The byte model trained here knows the frequencies already, so for it dealt bytes are a true control.",
        ),
    )
