"""What the study of bought labels showed: T_sample by strategy with intervals, the curves, and the claims of the report.

`measured/labels.npz` holds the test errors measured by `label_study`; thresholds, times, intervals and ratios are made here, by the room.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import fermat
from learnlag_jax.experiments import data
from learnlag_jax.experiments.chapters import label_study
from learnlag_jax.experiments.chapters.label_tasks import TASKS
from learnlag_jax.experiments.claims import Claim, Dataset, Figure, Table

COLOURS = dict(zip(label_study.STRATEGIES, ("#777777", "#b33a3a", "#2e8b57", "#d9822b", "#2563a8"), strict=True))


class Outcome(NamedTuple):
    """One task: label counts, errors (strategies, seeds, purchases), threshold, and learning times (strategies, seeds)."""

    labels: np.ndarray
    error: np.ndarray
    everything: np.ndarray
    threshold: float
    times: np.ndarray
    reached: np.ndarray


def recorded(path=label_study.MEASURED) -> dict[str, Outcome]:
    """Every task, with the times to its threshold."""
    with np.load(path) as file:
        record = dict(file)
    return {name: outcome(*(record[f"{name}/{part}"] for part in ("labels", "error", "all"))) for name in TASKS}


def outcome(labels: np.ndarray, error: np.ndarray, everything: np.ndarray) -> Outcome:
    """Learning times of every run: the first purchase after which the test error is at the threshold or below."""
    theta = label_study.threshold(error[0], everything)
    one = lambda e: fermat.time_to_threshold(labels.astype(float), e, theta)
    runs = jax.jit(jax.vmap(jax.vmap(one)))(jnp.asarray(error))
    return Outcome(labels, error, everything, theta, np.asarray(runs.value), np.asarray(runs.reached))


def ratio(result: Outcome, strategy: str, over: str = "random") -> fermat.Ratio:
    """Restricted mean T_sample of a strategy over that of another, paired by split."""
    a, b = (label_study.STRATEGIES.index(name) for name in (strategy, over))
    budget = float(result.labels[-1])
    one = lambda k: (jnp.asarray(result.times[k]), jnp.asarray(result.reached[k]))
    return fermat.learning_time_ratio(*one(a), *one(b), budget)


def table(outcomes: dict[str, Outcome]) -> Table:
    """Median T_sample and the ratio to random, with 95 % intervals."""
    rows = []
    for task, result in outcomes.items():
        budget = float(result.labels[-1])
        text = lambda x, budget=budget: f"{float(x):.0f}" if np.isfinite(x) else f"> {budget:.0f}"
        for k, strategy in enumerate(label_study.STRATEGIES):
            s = fermat.learning_time_summary(jnp.asarray(result.times[k]), jnp.asarray(result.reached[k]), budget)
            low, high = (text(x) for x in s.median_interval)
            rows.append(
                (
                    f"{task}, {result.threshold:.3f}",
                    strategy,
                    f"{text(s.median)} ({low} to {high})",
                    *(_ratio_text(result, strategy, other) for other in ("random", "uncertainty")),
                    f"{int(result.reached[k].sum())} of {result.reached.shape[1]}",
                )
            )
    return Table(
        "T_sample: labels bought until the test error reaches the threshold of the task (95 % bootstrap intervals over random splits)",
        ("task, threshold", "labels chosen by", "median labels", "mean over random's", "over uncertainty's", "reached"),
        tuple(rows),
    )


def _ratio_text(result: Outcome, strategy: str, over: str) -> str:
    if strategy == over:
        return "1"
    r = ratio(result, strategy, over)
    return f"{float(r.value):.2f} ({float(r.interval[0]):.2f} to {float(r.interval[1]):.2f})"


def claims(outcomes: dict[str, Outcome]) -> tuple[Claim, ...]:
    """On each task the V-optimal plan needs fewer labels than random choice, beyond chance."""
    made = []
    for task, result in outcomes.items():
        r, best = ratio(result, "V-optimal, replanned"), float(result.labels[-1])
        made.append(
            Claim(
                "eq. 7, Insight 2",
                f"Planned labels, {task}: V-optimal batches, replanned, reach an error of {result.threshold:.3f} with {float(r.value):.2f} times the labels "
                f"of random choice (at most {best:.0f} bought).",
                float(r.interval[1]),
                1.0,
                "upper end of a 95 % bootstrap interval of the ratio, paired by split",
                "random choice put in the place of the plan, over the plan",
                float(ratio(result, "random", "V-optimal, replanned").interval[1]),
            )
        )
    return tuple(made)


def figure(outcomes: dict[str, Outcome]) -> Figure:
    """Mean test error against labels bought."""
    series = {}
    for task, result in outcomes.items():
        columns = {"labels": result.labels, "threshold": np.full(len(result.labels), result.threshold)}
        for k, strategy in enumerate(label_study.STRATEGIES):
            columns[strategy] = result.error[k].mean(0)
            columns[f"{strategy}, standard error"] = result.error[k].std(0, ddof=1) / np.sqrt(result.error.shape[1])
        series[task] = columns

    def draw(fig, series):
        fig.set_size_inches(9.6, 3.6)
        for ax, (task, c) in zip(fig.subplots(1, len(series)), series.items(), strict=True):
            for strategy, colour in COLOURS.items():
                mean, se = c[strategy], c[f"{strategy}, standard error"]
                ax.fill_between(c["labels"], mean - se, mean + se, color=colour, alpha=0.18, lw=0)
                ax.plot(c["labels"], mean, color=colour, lw=1.4, label=strategy)
            ax.axhline(c["threshold"][0], color="black", lw=0.8, ls=":", label="threshold")
            ax.set(title=task, xlabel="labels bought", yscale="log")
            ax.yaxis.set_major_formatter("{x:.2g}")
            ax.yaxis.set_minor_formatter("{x:.2g}")
            ax.tick_params(axis="y", which="both", labelsize=7)
        fig.axes[0].set_ylabel("test error")
        fig.axes[-1].legend(fontsize=7)

    return Figure(
        "fermat-labels",
        "Mean test error (bands: one standard error over splits) against labels bought. Linear: mean square error over the variance of the answers; the others: "
        "share of test images misread.",
        "Three panels of falling curves, one for each task; the planned choices fall faster than random choice at first.",
        series,
        draw,
    )


def inputs() -> tuple[Dataset, ...]:
    """The measured errors, by hash."""
    raw = label_study.MEASURED.read_bytes()
    source = "test errors of label_study on diabetes, digits and MNIST-5000, measured beforehand"
    return (Dataset("labels", raw, data.sha256(raw), source, "Apache-2.0"),)
