"""Famous systems for the chapter "mechanics": a skate, a geodesic, a rare escape and a breathing field, drawn with residuals.

Each is one scalar, a path or field that solves it, and the residual that proves it; nothing here is fitted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import variation
from learnlag_jax.experiments.claims import Claim, Figure

EPS = float(np.finfo(np.float64).eps)
BLUE, ORANGE, GREEN, RED, GREY = "#2563a8", "#d9822b", "#2e8b57", "#b33a3a", "#777777"
PULL, SPIN = 2.0, 1.5  # of the skate: slope times gravity, rate of turning
TILT, ARC, SPHERE_STEPS = 0.5, 3.8, 256  # of the great circle (rad)
PATIENCE, ESCAPE_STEPS = 16.0, 400  # duration of the escape


class Systems(NamedTuple):
    """What was solved: the geodesic and the escape as `StationaryPath`s."""

    geodesic: variation.StationaryPath
    escape: variation.StationaryPath


def solve() -> Systems:
    """The two boundary problems, each from a deliberately wrong guess."""
    ends = _place(jnp.array(0.0)), _place(jnp.array(ARC))
    off = lambda s: _place(ARC * s) + 0.05 * jnp.sin(jnp.pi * s)
    geodesic = jax.jit(
        lambda a, b: variation.stationary_path(_sphere(), a, b, 0.0, 1.0, intervals=SPHERE_STEPS, guess=off)
    )
    leave_late = lambda t: jnp.array([-1.0, 0.0]) + jnp.array([0.9, 0.0]) * jnp.exp(t - PATIENCE)
    escape = jax.jit(
        lambda a, b: variation.stationary_path(_rare(), a, b, 0.0, PATIENCE, intervals=ESCAPE_STEPS, guess=leave_late)
    )
    return Systems(geodesic(*ends), escape(jnp.array([-1.0, 0.0]), jnp.array([-0.1, 0.0])))


# a skate on a slope: x down the slope, y across, heading


def _skate(t, q, v):
    return (v[0] ** 2 + v[1] ** 2 + 0.3 * v[2] ** 2) / 2 + PULL * q[0]


def _blade(t, q, v):
    return v[0] * jnp.sin(q[2]) - v[1] * jnp.cos(q[2])


def _track(t):
    angle = SPIN * t
    down, across = jnp.sin(angle) ** 2, angle - jnp.sin(2 * angle) / 2
    return jnp.stack([PULL / (2 * SPIN**2) * down, PULL / (2 * SPIN**2) * across, angle])


# a geodesic of the unit sphere in colatitude and longitude, longer than half the way round


def _sphere():
    return variation.geodesic_lagrangian(lambda q: jnp.diag(jnp.stack([jnp.ones_like(q[0]), jnp.sin(q[0]) ** 2])))


def _place(s):
    """Colatitude and unwrapped longitude on the tilted great circle."""
    c = jnp.cos(TILT)
    turn = s + jnp.arctan2((c - 1) * jnp.sin(s) * jnp.cos(s), jnp.cos(s) ** 2 + c * jnp.sin(s) ** 2)
    return jnp.stack([jnp.arccos(jnp.sin(s) * jnp.sin(TILT)), turn])


def _cartesian(q):
    return np.stack([np.sin(q[:, 0]) * np.cos(q[:, 1]), np.sin(q[:, 0]) * np.sin(q[:, 1]), np.cos(q[:, 0])], 1)


# a rare escape from a well whose drift also swirls


def _well(q):
    return (q[0] ** 2 - 1) ** 2 / 4 + q[1] ** 2 / 2


def _drift(t, q):
    slope = jax.grad(_well)(q)
    return jnp.stack([-slope[0] - slope[1], -slope[1] + slope[0]])


def _rare():
    return variation.freidlin_wentzell(_drift)


# a breather of the sine-Gordon field


def _sine_gordon(x, u, du):
    return (du[0] ** 2 - du[1] ** 2) / 2 - (1 - jnp.cos(u))


def _breather(rate):
    width = np.sqrt(0.5)
    return lambda x: 4 * jnp.arctan(jnp.sin(rate * x[0]) / jnp.cosh(width * x[1]))


def claims(systems: Systems) -> tuple[Claim, ...]:
    """One claim a system, each with what must be rejected."""
    return _skate_claim(), _geodesic_claim(systems.geodesic), _escape_claim(systems.escape), _breather_claim()


def _skate_claim() -> Claim:
    times = jnp.linspace(0.0, 4.0, 100)

    def miss(constraint):
        a = variation.acceleration(_skate, constraint=constraint)

        def at(t):
            t, q, v, exact = variation.lift(_track, 2)(t)
            return jnp.max(jnp.abs(a(t, q, v) - exact))

        return float(jnp.max(jax.jit(jax.vmap(at))(times)))

    return Claim(
        "eq. 3",
        "A skate on a slope, its blade a nonholonomic constraint by d'Alembert's rule, cycloids across the slope and never "
        "goes down it: accelerations against the closed form.",
        miss(_blade),
        256 * EPS * PULL,
        "256 eps(float64), relative to gravity along the slope",
        "the blade left out",
        miss(None),
    )


def _geodesic_claim(path) -> Claim:
    angles = np.linspace(0, ARC, SPHERE_STEPS + 1)
    exact = _cartesian(np.asarray(jax.vmap(_place)(angles)))
    straight = np.asarray(path.value[0]) + np.linspace(0, 1, SPHERE_STEPS + 1)[:, None] * np.asarray(
        path.value[-1] - path.value[0]
    )
    miss = lambda q: float(np.max(np.abs(_cartesian(np.asarray(q)) - exact)))
    return Claim(
        "eq. 2, 3",
        f"A geodesic of the sphere over {ARC} rad is a great circle; past the antipode its index is 1 (got {int(path.index)}), "
        f"lost after {float(path.conjugate) * ARC:.2f} rad (pi).",
        miss(path.value) + abs(int(path.index) - 1),
        16 * (ARC / SPHERE_STEPS) ** 2,
        f"midpoint rule, second order: 16 h^2 with h = {ARC}/{SPHERE_STEPS}",
        "the straight line in colatitude and longitude",
        miss(straight),
    )


def _escape_claim(path) -> Claim:
    bottom, top = path.value[0], path.value[-1]
    price = 2 * float(_well(top) - _well(bottom))
    line = lambda t: bottom + (top - bottom) * t / PATIENCE
    direct = float(jax.jit(lambda: variation.action(_rare(), line, 0.0, PATIENCE))())
    return Claim(
        "eq. 3",
        "Small noise, L = |q' - b|^2 / 2 (Freidlin and Wentzell): the least action of climbing out of a well is twice its "
        f"depth, whatever swirls around it; a minimum (index {int(path.index)}).",
        abs(float(path.action) / price - 1) + abs(int(path.index)),
        0.01,
        f"finite time {PATIENCE:g}: e^-(2 lambda T) and the midpoint rule, h = {PATIENCE / ESCAPE_STEPS:g}",
        "the straight way out",
        abs(direct / price - 1),
    )


def _breather_claim() -> Claim:
    points = jnp.asarray(np.random.default_rng(0).uniform(-4, 4, size=(64, 2)))
    E = variation.field_euler_lagrange(_sine_gordon)
    worst = lambda rate: float(jnp.max(jnp.abs(jax.jit(jax.vmap(E(_breather(rate))))(points))))
    return Claim(
        "eq. 3, 27",
        "Fields: the sine-Gordon breather has no residual, derived from its density alone, at 64 random points of time and space.",
        worst(np.sqrt(0.5)),
        256 * EPS,
        "256 eps(float64)",
        "a breather that beats 5 % too fast",
        worst(1.05 * np.sqrt(0.5)),
    )


def figures(systems: Systems) -> tuple[Figure, Figure]:
    """The skate's track beside the geodesic, the escape beside the breather."""
    t = jnp.linspace(0.0, 4 * np.pi / 3, 240)
    track = np.asarray(jax.vmap(_track)(t))
    globe = _cartesian(np.asarray(systems.geodesic.value))
    escape = np.asarray(systems.escape.value)
    grid = np.stack(np.meshgrid(np.linspace(0, 18, 120), np.linspace(-6, 6, 80), indexing="ij"), -1)
    field = np.asarray(jax.jit(jax.vmap(_breather(np.sqrt(0.5))))(jnp.asarray(grid.reshape(-1, 2))))
    bound = {
        "skate": {"across": track[:, 1], "down": track[:, 0]},
        "geodesic": {"x": globe[:, 0], "y": globe[:, 1], "z": globe[:, 2]},
    }
    free = {
        "escape": {"x": escape[:, 0], "y": escape[:, 1]},
        "breather": {"t": grid[..., 0].ravel(), "x": grid[..., 1].ravel(), "u (rad)": field},
    }
    return (
        Figure(
            "mechanics-constraints",
            "Left: a skate on a slope, its blade a constraint on its velocity, moves across the slope and never down it. Right: "
            "a geodesic of the sphere seen from the side, dashed behind; beyond the antipode (red) it is not the shortest way.",
            "A cycloid; a great circle with the antipode of its start.",
            bound,
            _draw_constraints,
        ),
        Figure(
            "mechanics-escape-and-field",
            "Left: the most probable way out of a well (orange) climbs against a drift that also swirls (arrows). Right: the "
            "breather of the sine-Gordon field, stationary for its density.",
            "A curve that climbs out of a well; an oscillating hump.",
            free,
            _draw_escape_and_field,
        ),
    )


def _draw_constraints(figure, series):
    skate, globe = figure.subplots(1, 2)
    skate.plot(series["skate"]["across"], series["skate"]["down"], color=BLUE)
    skate.invert_yaxis()
    skate.set(xlabel="across the slope", ylabel="down the slope", title="a skate does not go downhill")

    x, y, z = series["geodesic"].values()
    angle = np.linspace(0, 2 * np.pi, 200)
    side, front = np.cos(0.6) * y - np.sin(0.6) * x, np.cos(0.6) * x + np.sin(0.6) * y
    globe.plot(np.cos(angle), np.sin(angle), color=GREY, linewidth=1)
    globe.plot(np.where(front >= 0, side, np.nan), z, color=BLUE)
    globe.plot(np.where(front < 0, side, np.nan), z, color=BLUE, linestyle="--")
    antipode = np.array([-x[0], -y[0], -z[0]])
    globe.plot(side[0], z[0], "o", color=BLUE)
    globe.plot(np.cos(0.6) * antipode[1] - np.sin(0.6) * antipode[0], antipode[2], "o", color=RED)
    globe.plot(side[-1], z[-1], "s", color=BLUE)
    globe.set(xlabel="seen from the side", ylabel="height", title="geodesic: index 1 past the antipode", aspect="equal")


def _draw_escape_and_field(figure, series):
    well, field = figure.subplots(1, 2)
    a, b = np.meshgrid(np.linspace(-1.5, 0.3, 60), np.linspace(-0.75, 0.75, 60))
    well.contour(a, b, (a**2 - 1) ** 2 / 4 + b**2 / 2, levels=12, colors=GREY, linewidths=0.5)
    c, d = a[::6, ::6], b[::6, ::6]
    slope = c * (c**2 - 1), d
    well.quiver(c, d, -slope[0] - slope[1], -slope[1] + slope[0], color=GREY, alpha=0.7)
    well.plot(*series["escape"].values(), color=ORANGE, linewidth=2)
    well.plot(series["escape"]["x"][[0, -1]], series["escape"]["y"][[0, -1]], "o", color=ORANGE)
    well.set(xlabel="x", ylabel="y", title="most probable escape from a well")
    well.grid(False)

    t, x, u = series["breather"].values()
    shape = len(np.unique(t)), len(np.unique(x))
    picture = field.pcolormesh(t.reshape(shape), x.reshape(shape), u.reshape(shape), cmap="RdBu_r", shading="auto")
    figure.colorbar(picture, ax=field, label="u (rad)")
    field.set(xlabel="t", ylabel="x", title="sine-Gordon breather")
    field.grid(False)
