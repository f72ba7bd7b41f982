"""Pictures of a comparison: errors over steps with targets, the motion of the training loss, performance profiles."""

import unicodedata
from collections.abc import Sequence

import jax
import numpy as np

from learnlag_jax import information
from learnlag_jax.experiments.claims import Figure
from learnlag_jax.experiments.comparison.standings import R_MAX, Entry, Profile

COLOURS = ("#2563a8", "#b3372f", "#1f7a43", "#9a6200", "#6d4aa8", "#0f7c8a", "#a83279", "#5b6675")
DASHES = ("-", "--", "-.", ":")


def label(text: str) -> str:
    """A stranger's text as matplotlib may draw it: no mathematics, no hidden line, no glyph that the font lacks."""
    plain = "".join(c if ord(c) < 0x250 or unicodedata.category(c)[0] == "L" and ord(c) < 0x530 else "?" for c in text)
    return plain.replace("$", r"\$").lstrip("_") or "?"


def _look(i: int) -> dict:
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}


def figures(entries: Sequence[Entry], units: dict[str, str], profile: Profile) -> list[Figure]:
    """Two pictures a workload, and one for all."""
    found = []
    for i, workload in enumerate(dict.fromkeys(e.workload for e in entries)):
        mine = [e for e in entries if e.workload == workload]
        found += [_curves(f"curves-{i}", mine, units[workload]), _motion(f"motion-{i}", mine, units[workload])]
    return [*found, _profile(profile)]


def _curves(name: str, entries: list[Entry], unit: str) -> Figure:
    series = {f"{i}": _error_band(e) for i, e in enumerate(entries)}

    def draw(figure, series):
        axes = figure.subplots()
        for i, (entry, x) in enumerate(zip(entries, series.values(), strict=True)):
            axes.plot(x["step"], x["median"], label=label(entry.optimiser), **_look(i))
            axes.fill_between(
                x["step"], x["least"], x["most"], color=COLOURS[i % len(COLOURS)], alpha=0.15, linewidth=0
            )
        for target in entries[0].targets:
            axes.axhline(target, color="#1d2430", linewidth=0.8, linestyle=":")
        finite = np.concatenate([x["median"][np.isfinite(x["median"])] for x in series.values()])
        if len(finite) and finite.min() > 0 and finite.max() > 20 * finite.min():
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel(label(f"held-out error ({unit})"))
        axes.legend()

    who = ", ".join(e.optimiser for e in entries)
    caption = f"{entries[0].workload}: held-out error ({unit}), median and range over seeds; dotted: targets."
    return Figure(name, caption, f"Error over steps for {who}.", series, draw)


def _error_band(entry: Entry) -> dict[str, np.ndarray]:
    """Over seeds; infinite where a trial diverged before."""
    at = max((r.at for r in entry.results), key=len)
    errors = np.array([[*r.errors, *[np.inf] * (len(at) - len(r.errors))] for r in entry.results])
    errors = np.where(np.isnan(errors), np.inf, errors)
    low, middle, high = np.min(errors, 0), np.median(errors, 0), np.max(errors, 0)
    return {"step": np.array(at), "least": low, "median": middle, "most": high}


def _motion(name: str, entries: list[Entry], unit: str) -> Figure:
    series = {f"{i}": found for i, e in enumerate(entries) if (found := _loss_motion(e))}

    def draw(figure, series):
        axes = figure.subplots(1, 3)
        for key, x in series.items():
            for panel, column in zip(axes, ("loss", "speed", "acceleration"), strict=True):
                panel.plot(x["step"], x[column], label=label(entries[int(key)].optimiser), **_look(int(key)))
        short = unit.split()[0]
        titles = f"training loss ({unit})", f"speed ({short} per step)", f"deceleration ({short} per step²)"
        for panel, title in zip(axes, titles, strict=True):
            panel.set_title(label(title), fontsize=8.5)
            panel.set_xlabel("step")
            panel.tick_params(labelsize=8)
        axes[1].axhline(0, color="#1d2430", linewidth=0.8)
        axes[2].axhline(0, color="#1d2430", linewidth=0.8)
        if series:
            axes[0].legend(fontsize=8)

    caption = f"{entries[0].workload}: the training loss in motion, mean over seeds, smoothed by local parabolas; deceleration is positive while the fall slows down."
    who = ", ".join(e.optimiser for e in entries)
    return Figure(name, caption, f"Training loss, its speed and its deceleration for {who}.", series, draw)


def _loss_motion(entry: Entry) -> dict[str, np.ndarray] | None:
    """Kinematics of the mean loss; skipped steps are bridged, and a diverged trial ends the common stretch."""
    n = min(len(r.losses) for r in entry.results)
    if n < 10:
        return None
    losses = np.array([r.losses[:n] for r in entry.results])
    steps, bridged = np.arange(n), []
    for row in losses:
        good = np.isfinite(row)
        bridged.append(np.interp(steps, steps[good], row[good]) if good.any() else None)
    if any(row is None for row in bridged):
        return None
    mean = np.mean(bridged, 0)
    if not np.isfinite(mean).all():
        return None
    with jax.enable_x64(True):
        motion = information.loss_motion(mean, bandwidth=max(5.0, n / 20))
    return {name: np.asarray(value) for name, value in motion._asdict().items()}


def _profile(profile: Profile) -> Figure:
    share = lambda ratios: np.searchsorted(np.sort(ratios), np.linspace(1, R_MAX, 241), side="right") / len(ratios)
    columns = {name: share(ratios) for name, ratios in zip(profile.optimisers, profile.ratio, strict=True)}
    series = {"profile": {"ratio to the best": np.linspace(1, R_MAX, 241)} | columns}

    def draw(figure, series):
        axes = figure.subplots()
        x, *curves = series["profile"].values()
        for i, (name, y) in enumerate(zip(profile.optimisers, curves, strict=True)):
            axes.step(x, y, where="post", label=f"{label(name)} ({profile.score[i]:.2f})", **_look(i))
        axes.set_xlabel("steps over those of the best")
        axes.set_ylabel("share of (workload, target) pairs")
        axes.set_ylim(-0.03, 1.05)
        axes.legend(title="score")

    caption = f"Performance profiles of the median steps to target over {profile.ratio.shape[1]} (workload, target) pairs; the score is the area."
    return Figure("profile", caption, "Performance profile of each optimiser.", series, draw)
