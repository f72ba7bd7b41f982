"""The pictures of chapter mechanics: the ray and the soap films, which stand still, and the double pendulum, which does not."""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import variation
from learnlag_jax.experiments.claims import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#2563a8", "#d9822b", "#2e8b57", "#b33a3a", "#777777"


def still_figure(ray, films) -> Figure:
    _, path = ray
    series = {"ray": {"x": np.asarray(path.times), "y": np.asarray(path.value)}}
    for name, (_, film) in zip(("shallow", "deep"), films, strict=True):
        series[name] = {
            "x": np.asarray(film.times),
            "radius": np.asarray(film.value),
            "index": np.full(len(film.times), int(film.index)),
        }

    def draw(figure, series):
        left, right = figure.subplots(1, 2)
        x, y = series["ray"].values()
        depth = np.linspace(1.5, 3.3, 60)
        left.imshow(
            1 / depth[:, None], extent=(-1.7, 1.7, 1.5, 3.3), origin="lower", cmap="Blues", aspect="auto", alpha=0.6
        )
        left.plot(x, y, color=ORANGE, linewidth=2.2)
        left.plot(x[[0, -1]], y[[0, -1]], "o", color=ORANGE)
        left.plot(x[[0, -1]], y[[0, -1]], "--", color=GREY, linewidth=1)
        left.set(xlabel="x", ylabel="y", title="a ray where n = 1/y (darker: slower)")
        left.grid(False)
        for name, colour in (("shallow", BLUE), ("deep", RED)):
            x, r, index = series[name].values()
            right.plot(x, r, color=colour, label=f"{name}: index {index[0]}")
            right.plot(x, -r, color=colour)
        for end in (-0.5, 0.5):
            right.plot([end, end], [-1, 1], color=GREY, linewidth=3)
        right.set(xlabel="distance along the axis", ylabel="radius", title="two soap films on the same rings")
        right.legend(loc="center")

    caption = (
        "Left: the stationary ray (orange) bends towards thinner layers; dashed, the straight line. Right: both soap films are "
        "stationary; only the shallow one is a minimum (index 0)."
    )
    return Figure("mechanics-still", caption, "An arched light ray; a shallow and a deep soap film.", series, draw)


def motion_figure(run, lagrangian) -> Figure:
    Ld, h, q = run
    v = (q[1:] - q[:-1]) / h
    middle = (q[1:] + q[:-1]) / 2
    energy = jax.vmap(lambda q, v: variation.energy(lagrangian)(0.0, q, v))(middle, v)
    tip = jnp.stack([jnp.sum(jnp.sin(q), 1), -jnp.sum(jnp.cos(q), 1)], 1)
    stride = max(1, len(q) // 2000)
    time = np.arange(len(q)) * h
    series = {
        "tip": {"x (m)": np.asarray(tip[::stride, 0]), "y (m)": np.asarray(tip[::stride, 1])},
        "energy": {"t (s)": time[:-1][::stride], "relative change": np.asarray(energy / energy[0] - 1)[::stride]},
    }

    def draw(figure, series):
        left, right = figure.subplots(1, 2)
        left.plot(*series["tip"].values(), color=BLUE, linewidth=0.7)
        left.set(xlabel="x (m)", ylabel="y (m)", title="tip of a double pendulum", aspect="equal")
        right.plot(*series["energy"].values(), color=ORANGE, linewidth=0.8)
        right.set(xlabel="t (s)", ylabel="relative change of energy", title="energy does not drift")

    caption = (
        "A double pendulum followed by its discrete action (midpoint rule, step 5 ms): chaotic, yet stationary at every step, "
        "with an energy error that stays bounded."
    )
    return Figure(
        "mechanics-motion", caption, "A tangled orbit; an energy error that oscillates without drift.", series, draw
    )
