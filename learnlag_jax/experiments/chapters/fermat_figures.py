"""The pictures of chapter fermat: the sphere, the certificate, and the pool of patients."""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import fermat
from learnlag_jax.experiments.claims import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#2563a8", "#d9822b", "#2e8b57", "#b33a3a", "#777777"


def sphere_figure(seed: int) -> Figure:
    p, top = 8, 33
    n = np.arange(p, top)
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200, top, p))
    X /= np.linalg.norm(X, axis=2, keepdims=True)
    M = np.cumsum(X[:, :, :, None] * X[:, :, None, :], 1)[:, p - 1 : top - 1]
    value = jax.jit(jnp.vectorize(fermat.criterion("A"), signature="(p,p)->()"))
    random = 1 + np.asarray(value(M)) / p
    greedy = 1 + np.asarray(fermat.least_time_path(p, top - 1, objective="greedy").values[p - 1 :]) / p
    frames = [np.asarray(fermat.tight_frame(int(k), p)) for k in n]
    planned = 1 + np.asarray(value(np.stack([X.T @ X for X in frames]))) / p
    series = {"curves": {"n": n, "planned": planned, "greedy": greedy, "random (median)": np.sort(random, 0)[100]}}

    def draw(fig, series):
        c = series["curves"]
        ax = fig.subplots()
        ax.plot(c["n"], c["random (median)"], color=GREY, label="random, median of 200")
        ax.plot(c["n"], c["greedy"], color=ORANGE, label="one step at a time")
        ax.plot(c["n"], c["planned"], "o", ms=3.5, color=BLUE, label="planned: tight frame at each n")
        ax.set(
            xlabel="observations n",
            ylabel="prediction error / noise variance",
            ylim=(1.15, 3.2),
            title=f"unit rows in {p} dimensions",
        )
        ax.legend()

    return Figure(
        "fermat-sphere",
        "Prediction error in units of the noise variance against the number of observations (unit rows, p = 8). Planned designs reach 1 + p/n at every n; greedy touches it at multiples of p.",
        "Three falling curves. The greedy curve lies slightly above the planned points between multiples of 8 and touches them there; random designs lie far above both.",
        series,
        draw,
    )


def certificate_figure(sensitivities: dict) -> Figure:
    order = np.argsort(-sensitivities["optimal"], kind="stable")
    series = {
        "sensitivity": {
            "rank": np.arange(1, len(order) + 1),
            "optimal": sensitivities["optimal"][order],
            "equal weights": np.sort(sensitivities["equal weights"])[::-1],
            "weight": sensitivities["weight"][order],
        }
    }

    def draw(fig, series):
        s = series["sensitivity"]
        ax = fig.subplots()
        ax.plot(s["rank"], s["equal weights"], color=GREY, label="all patients with equal weight")
        ax.plot(s["rank"], s["optimal"], color=BLUE, label="A-optimal weights")
        on = s["weight"] > 0
        ax.plot(s["rank"][on], s["optimal"][on], "o", ms=3.5, color=ORANGE, label="patients in the design")
        ax.axhline(1, color=RED, lw=1, ls="--")
        ax.set(
            xlabel="patient, ordered by sensitivity",
            ylabel="sensitivity / bound",
            yscale="log",
            title="no patient lies above the line: optimal",
        )
        ax.legend(loc="lower left")

    return Figure(
        "fermat-certificate",
        "The equivalence theorem on 442 diabetes patients: how fast the criterion would fall if weight went to each patient, relative to the bound (no units). At the optimum nobody exceeds 1.",
        "A curve that stays at or below one, with the chosen patients exactly on one, beside the curve for equal weights, which exceeds one for many patients.",
        series,
        draw,
    )


def pool_figure(curves: dict) -> Figure:
    ordered = np.sort(curves["random"], 0)  # order statistics: an infinite error has no interpolation
    low, middle, high = (ordered[int(q * (len(ordered) - 1))] for q in (0.05, 0.5, 0.95))
    start = 10
    series = {
        "curves": {
            "n": curves["n"][start:],
            "bound": curves["bound"][start:],
            "greedy": curves["greedy"][start:],
            "random median": middle[start:],
            "random 5 %": low[start:],
            "random 95 %": high[start:],
        },
        "planned": {"n": curves["grid"], "planned": curves["planned"]},
    }

    def draw(fig, series):
        c, d = series["curves"], series["planned"]
        ax = fig.subplots()
        top = 10.0
        ax.fill_between(
            c["n"], np.minimum(c["random 5 %"], top), np.minimum(c["random 95 %"], top), color=GREY, alpha=0.2, lw=0
        )
        ax.plot(c["n"], c["random median"], color=GREY, label="random patients (median, 5 to 95 %)")
        ax.plot(c["n"], c["greedy"], color=ORANGE, label="greedy")
        ax.plot(d["n"], d["planned"], "o", ms=4, color=BLUE, label="planned for that deadline")
        ax.plot(c["n"], c["bound"], color=GREEN, lw=1.2, ls="--", label="bound for any design")
        ax.set(xlabel="patients observed", ylabel="prediction error / noise variance", yscale="log", ylim=(1.08, top))
        ax.set_yticks([1.1, 1.2, 1.5, 2, 3, 5, 10], ["1.1", "1.2", "1.5", "2", "3", "5", "10"])
        ax.minorticks_off()
        ax.legend()

    return Figure(
        "fermat-pool",
        "Expected prediction error over the 442 patients, in units of the noise variance, against the number of patients observed (linear model, 11 parameters).",
        "Random choice needs many more patients than greedy choice for the same error; planned designs lie just above the certified bound.",
        series,
        draw,
    )
