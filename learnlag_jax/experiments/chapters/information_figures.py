"""Figures and tables of the chapter "information": figure 1 for every model side by side, and training in motion."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import information
from learnlag_jax.experiments.claims import Figure, Table
from learnlag_jax.experiments.language.pretrained import BLUE, GREY, acceleration
from learnlag_jax.vocabulary import Status


def side_by_side(runs: Mapping[str, tuple[information.Curve, information.Curve | None, str]]) -> Figure:
    """Figure 1, a column a model: velocity above, acceleration below, the text dealt at random in grey.

    Args:
        runs: name -> curve, curve of the dealt text, and the unit of text ("byte" or "token").
    """
    series = {}
    for name, (curve, dealt, unit) in runs.items():
        key = name.lower().replace(" ", "-")
        series[f"velocity-{key}"] = _band(curve, unit)
        series[f"acceleration-{key}"] = acceleration(curve, unit)
        if dealt is not None:
            series[f"dealt-{key}"] = _band(information.log_bins(dealt, per_octave=2), unit)

    def draw(canvas, series):
        canvas.set_size_inches(9.6, 4.6)
        axes = canvas.subplots(2, len(runs), sharey="row", squeeze=False)
        for (above, below), (name, (_, _, unit)) in zip(axes.T, runs.items(), strict=True):
            key = name.lower().replace(" ", "-")
            for kind, colour, label in (("velocity", BLUE, "text"), ("dealt", GREY, "dealt at random")):
                if f"{kind}-{key}" in series:
                    t, v, low, high = series[f"{kind}-{key}"].values()
                    above.fill_between(t, low, high, color=colour, alpha=0.25, linewidth=0)
                    above.plot(t, v, color=colour, label=label, linewidth=1.2)
            t, a, low, high = series[f"acceleration-{key}"].values()
            below.axhline(0, color=GREY, linewidth=0.8)
            below.fill_between(t, low, high, color=BLUE, alpha=0.25, linewidth=0)
            below.plot(t, a, color=BLUE, marker="o", markersize=2.5, linewidth=1.2)
            above.set(title=name, xscale="log", ylim=(0, None))
            below.set(xscale="log", xlabel=f"context t ({unit}s)")
            above.set_ylabel(f"v(t) (nats per {unit})", fontsize=8.5)
            below.set_ylabel(f"a(t) (nats per {unit}²)", fontsize=8.5)
            for axis in (above, below):
                axis.set_xlim(0.85, 1.2 * len(series[f"velocity-{key}"]["low"]))
                axis.xaxis.set_major_formatter("{x:g}")
                axis.xaxis.set_minor_formatter("")
            below.set_yscale("symlog", linthresh=0.01)
            below.set_yticks([-1, -0.1, -0.01, 0, 0.01, 0.1], ["−1", "−0.1", "−0.01", "0", "0.01", "0.1"])
        axes[0, 0].legend(loc="lower left", fontsize=8)

    caption = (
        "Figure 1 of the paper for every model side by side, on State of the Union messages that the byte models never read: "
        "expected velocity (above) and acceleration over half octaves of t (below, on an axis that is linear within 0.01), 95 % "
        "bands by bootstrap over documents. In grey the first control, text dealt out at random; the last column is the second, "
        "a model that looks back two bytes only."
    )
    alt = "Velocity falls with context for SmolLM2, the transformer and the GRU, and is flat for the 3-gram from t = 3 on; for the byte models random text does not fall."
    return Figure("information-kinematics", caption, alt, series, draw)


def _band(curve: information.Curve, unit: str) -> dict[str, np.ndarray]:
    return {
        f"t ({unit}s)": np.asarray(curve.t),
        f"v (nats per {unit})": np.asarray(curve.mean),
        "low": np.asarray(curve.low),
        "high": np.asarray(curve.high),
    }


def training(
    losses: np.ndarray, motion: information.LossMotion, at: np.ndarray, held_out: np.ndarray, h: float
) -> Figure:
    """Loss and speed of a training run over its steps, smoothed with bandwidth `h`; `held_out` (E,) at steps `at`."""
    steps = np.arange(len(losses))
    series = {
        "batches": {"step": steps, "loss (nats per byte)": losses},
        "smoothed": {"step": steps, "loss (nats per byte)": np.asarray(motion.loss)},
        "held-out": {"step": at, "loss (nats per byte)": held_out},
        "speed": {"step": steps, "eta (nats per byte per step)": np.asarray(motion.speed)},
        "speed-held-out": {
            "step": (at[1:] + at[:-1]) / 2,
            "eta (nats per byte per step)": -np.diff(held_out) / np.diff(at),
        },
    }

    def draw(canvas, series):
        left, right = canvas.subplots(1, 2)
        left.plot(*series["batches"].values(), color=GREY, alpha=0.4, linewidth=0.8, label="each batch")
        left.plot(*series["smoothed"].values(), color=BLUE, label=f"smoothed, bandwidth {h:g} steps")
        left.plot(*series["held-out"].values(), "o", color="#d9822b", markersize=3, label="unread messages")
        left.set(xlabel="training step", ylabel="loss (nats per byte)", title="position")
        left.legend(fontsize=8)
        right.axhline(0, color=GREY, linewidth=0.8)
        right.plot(*series["speed"].values(), color=BLUE)
        right.plot(*series["speed-held-out"].values(), "o", color="#d9822b", markersize=3)
        right.set(xlabel="training step", ylabel="fall of the loss η (nats per byte per step)", title="speed")

    caption = (
        f"The same kinematics over training steps of the transformer: loss and speed by local quadratics with a bandwidth of {h:g} "
        "steps, and the loss on unread messages with its first difference. The time to a loss is the integral of d eps / η."
    )
    alt = "The training loss falls quickly, then slowly; its speed rises during warm-up and then falls towards zero."
    return Figure("information-training", caption, alt, series, draw)


def summary(runs: Mapping[str, information.Curve], start: int) -> Table:
    """Velocity, limit and test of every byte model."""
    rows = []
    for name, curve in runs.items():
        test, fit, mean = (
            information.deceleration_test(curve, start=start),
            information.decay_fit(curve),
            np.asarray(curve.mean),
        )
        limit = f"{float(fit.v_inf):.2f} ({float(fit.low[0]):.2f} to {float(fit.high[0]):.2f})"
        limit = limit if int(fit.status) == Status.converged else "not determined"
        per_byte = float(information.bits(jnp.mean(curve.mean)))
        numbers = (float(test.contrast), float(test.standard_error), float(test.p_value))
        rows.append((name, float(mean[0]), float(mean[-8:].mean()), per_byte, limit, *numbers))
    header = ("model", "v(1)", "v, last 8", "bits per byte", "v_inf", "fall per e-fold", "s.e.", "p (flat or rising)")
    return Table(f"Velocity in nats per byte; the fall and its test from t = {start} on.", header, tuple(rows))


def learning_times(motion: information.LossMotion, bandwidth: float) -> Table:
    """T = integral of d eps / eta, from smoothed speeds alone, beside the crossing of the smoothed loss: no claim, a measurement.

    They part where the loss bends within one bandwidth, since speed and level are smoothed by different weights; so they are
    shown from the first step and from three bandwidths on.
    """
    rows = []
    for start in (0, int(3 * bandwidth)):
        left = jax.tree.map(lambda x, start=start: x[start:], motion)
        top, bottom = float(left.loss[0]), float(jnp.min(left.loss))
        for share in (0.5, 0.75, 0.9):
            threshold = top - share * (top - bottom)
            found = information.learning_time(left, threshold)
            crossing = int(np.argmax(np.asarray(left.loss) <= threshold))
            constant = (top - threshold) / float(left.speed[0])
            integral = float(found.value) if int(found.status) == Status.converged else Status(int(found.status)).name
            rows.append((start, f"{share:.0%} down, {threshold:.2f}", crossing, integral, constant))
    header = (
        "from step",
        "threshold, nats per byte",
        "crossing, steps",
        "integral of d eps / eta",
        "at the first speed throughout",
    )
    return Table(
        f"Learning time of the transformer's training loss (eq. 5), smoothed over {bandwidth:g} steps: the first fall takes "
        "less than three bandwidths, and there the integral comes out short.",
        header,
        tuple(rows),
    )
