"""The motion of information through two centuries: velocity by decade, and what a real distribution shift costs.

    shift = (v_early - v_late on messages from 1900 on) - (v_early - v_late on messages before 1900)

where the early model read only messages before 1900 and the late one only those from then on: a k-gram each, so that all
of the difference is the text's. Both are scored on messages that neither read. The control is the same difference between
two halves of alternate messages, which cover the same years. Comes from: data.sotu and SmolLM2's recorded velocities. Reference: MATH.md section 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import information
from learnlag_jax.experiments.claims import Claim, Figure, Table
from learnlag_jax.experiments.language import models
from learnlag_jax.experiments.language.pretrained import BLUE, GREEN, Recorded

K, TURN, HELD, REPLICATES = 3, 1900, 0.3, 400
ORANGE = "#d9822b"


class Means(NamedTuple):
    """Mean and 95 % band over documents of every decade; the band is NaN where a decade has one document."""

    decade: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Study(NamedTuple):
    """Held-out velocities of windows under the early and the late model and under two alternating halves, with their years."""

    years: np.ndarray
    documents: np.ndarray
    split: tuple[np.ndarray, np.ndarray]
    alternate: tuple[np.ndarray, np.ndarray]


def study(content, count: int, rng: np.random.Generator) -> Study:
    """Train the four k-grams and score them on windows of held-out messages, nats per byte."""
    learned = [(name, text) for name, text in content if not models.is_held_out(name, HELD)]
    held = [(name, text) for name, text in content if models.is_held_out(name, HELD)]
    text = models.windows([text.encode() for _, text in held], 256, count, rng)
    halves = [[text.encode() for _, text in learned[side::2]] for side in (0, 1)]
    early, late, one, other = (_velocity(part, text.tokens) for part in (*models.split_years(learned, TURN), *halves))
    years = np.array([models.year(name) for name, _ in held])
    return Study(years[text.documents], text.documents, (early, late), (one, other))


def _velocity(learned: list[bytes], tokens: np.ndarray) -> np.ndarray:
    """Mean velocity of every window where the k-gram has all its context."""
    apply, tables = models.kgram(learned, K)
    return models.score(apply, tables, tokens, information.surprisal)[:, K - 1 :].mean(1).astype(np.float64)


def by_decade(values: np.ndarray, sizes: np.ndarray, years: np.ndarray, documents: np.ndarray, rng) -> Means:
    """Sum of values / sum of sizes in every decade, with a bootstrap over its documents."""
    decades = years // 10 * 10
    rows = []
    for decade in np.unique(decades):
        here = decades == decade
        names, ids = np.unique(documents[here], return_inverse=True)
        sums, weights = (np.bincount(ids, x[here]) for x in (values, sizes))
        draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), REPLICATES)
        band = np.percentile((draws @ sums) / (draws @ weights), [2.5, 97.5]) if len(names) > 1 else [np.nan, np.nan]
        rows.append((decade, sums.sum() / weights.sum(), *band))
    return Means(*np.array(rows).T)


def shift(difference: np.ndarray, run: Study, rng) -> tuple[float, float]:
    """How much more the first model's disadvantage is from TURN on than before, nats per byte, and its standard error."""
    late = run.years >= TURN
    side = lambda here: _replicates(difference[here], run.documents[here], rng)
    (after, many_after), (before, many_before) = side(late), side(~late)
    return after - before, float(np.std(many_after - many_before, ddof=1))


def _replicates(values: np.ndarray, documents: np.ndarray, rng) -> tuple[float, np.ndarray]:
    names, ids = np.unique(documents, return_inverse=True)
    sums, counts = np.bincount(ids, values), np.bincount(ids)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), REPLICATES)
    return float(values.mean()), (draws @ sums) / (draws @ counts)


def claim(run: Study, rng) -> Claim:
    """The shift is seen, and between halves of the same years there is none."""
    p_value = lambda value, error: float(jax.scipy.stats.norm.sf(value / error))
    (value, error), none = (shift(a - b, run, rng) for a, b in (run.split, run.alternate))
    return Claim(
        "eq. 1, Insight 1",
        f"A shift of the text is seen as velocity: on unread messages, a {K}-gram that read only messages before {TURN} loses "
        f"{value:.2f} ± {1.96 * error:.2f} nats per byte to one that read only those from {TURN} on, when it crosses that year.",
        p_value(value, error),
        1e-3,
        "level of a one-sided test of no shift; standard error by bootstrap over documents",
        "the same test on two halves of alternate messages",
        p_value(*none),
    )


def chapter_part(content, smollm2: Recorded, count: int, seed: int) -> tuple[Claim, Figure, Table]:
    """The claim, the figure and the table of the report."""
    rng = np.random.default_rng([seed, TURN])
    run = study(content, count, rng)
    names = [name for name, _ in content]
    years = np.array([models.year(names[i]) for i in smollm2.documents])
    bits = np.asarray(information.bits(jnp.asarray(smollm2.v.sum(1))))
    pretrained = by_decade(bits, smollm2.sizes.astype(float), years, smollm2.documents, rng)
    ones = np.ones(len(run.years))
    in_bits = lambda v: np.asarray(information.bits(jnp.asarray(v)))
    early, late = (by_decade(in_bits(v), ones, run.years, run.documents, rng) for v in run.split)
    return claim(run, rng), figure(pretrained, early, late), table(pretrained, early, late)


def figure(pretrained: Means, early: Means, late: Means) -> Figure:
    """Bits per byte by decade: a pretrained model, and two that read one side of TURN."""
    columns = lambda m: {
        "decade": m.decade,
        "information (bits per byte)": m.mean,
        "low": m.low,
        "high": m.high,
    }
    series = {"smollm2": columns(pretrained), "early": columns(early), "late": columns(late)}
    labels = {
        "smollm2": ("SmolLM2", BLUE),
        "early": (f"{K}-gram, read before {TURN}", ORANGE),
        "late": (f"{K}-gram, read from {TURN} on", GREEN),
    }

    def draw(canvas, series):
        left, right = canvas.subplots(1, 2)
        for key, axes in (("smollm2", left), ("early", right), ("late", right)):
            decade, mean, low, high = series[key].values()
            label, colour = labels[key]
            axes.fill_between(decade + 5, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(decade + 5, mean, color=colour, marker="o", markersize=3, label=label)
            axes.set(xlabel="year of the message", ylabel="information (bits per byte)")
        right.axvline(TURN, color="#777777", linewidth=0.8, linestyle=":")
        left.set_title("a pretrained model")
        right.set_title(f"two that read one side of {TURN}")
        right.legend(loc="upper left", fontsize=8)
        right.margins(y=0.25)

    caption = (
        "Information velocity of State of the Union messages by decade, on messages not read in training (right), 95 % bands by "
        f"bootstrap over messages. Left: SmolLM2, windows of 256 tokens. Right: the same {K}-gram, trained on either side of "
        f"{TURN}: each is better on its own side, and the gap is the price of the shift."
    )
    alt = f"The model trained before {TURN} needs fewer bits before that year and more after, up to half a bit more today; SmolLM2 needs about one bit per byte throughout."
    return Figure("information-decades", caption, alt, series, draw)


def table(pretrained: Means, early: Means, late: Means) -> Table:
    """The same by half century."""
    rows = []
    for start in range(1750, 2050, 50):
        mean = lambda m, start=start: m.mean[(m.decade >= start) & (m.decade < start + 50)]
        parts = [mean(m) for m in (pretrained, early, late)]
        if all(len(part) for part in parts):
            rows.append((f"{start}-{start + 49}", *(float(part.mean()) for part in parts)))
    header = ("years", "SmolLM2", f"{K}-gram before {TURN}", f"{K}-gram from {TURN} on")
    return Table("Bits per byte, mean of the decades in each half century.", header, tuple(rows))
