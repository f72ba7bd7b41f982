"""The chapter "mechanics": the physics the paper builds on (eq. 2-4), derived from scalars and checked.

Fermat's ray, Hamilton's principle and the Legendre transform, on systems whose answers are known: a ray in a medium, two
soap films, a double pendulum, Kepler's circle, a relativistic particle, and those of `mechanics_systems`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import variation
from learnlag_jax.experiments.chapters import mechanics_systems
from learnlag_jax.experiments.chapters.mechanics_figures import motion_figure, still_figure
from learnlag_jax.experiments.claims import Chapter, Claim, Settings

EPS = float(np.finfo(np.float64).eps)
RAY, FILM = 300, 256  # intervals


def chapter(settings: Settings) -> Chapter:
    """Rays, motions, transforms; no data, only mathematics."""
    steps = 1000 if settings.quick else 4000
    ray, films, run = _ray(), _films(), _double_pendulum(steps)
    famous = mechanics_systems.solve()
    return Chapter(
        "mechanics",
        "Mechanics: the principles the paper builds on",
        "A scalar is written down, its equations are derived by autodiff and solved, and the gradient of the action at the "
        "answer is the proof. Stationary does not mean least: the Morse index counts the directions in which the action falls.",
        (
            *_fermat(ray),
            *_hamilton(run),
            *_index(films),
            *_legendre(),
            *mechanics_systems.claims(famous),
        ),
        (still_figure(ray, films), motion_figure(run, _double), *mechanics_systems.figures(famous)),
        (),
        (
            (
                "The path taken is the one on which time (or action) is least.",
                "It is stationary. One of the two soap films on the same rings, and every oscillator path longer than half a "
                "period, has directions in which the action falls; the index says how many.",
            ),
        ),
    )


# eq. 2: a ray in the medium n(x, y) = 1 / y, whose rays are circles about the x axis


def _medium(n):
    return lambda x, y, slope: n(y) * jnp.sqrt(1 + slope**2)


def _ray():
    optical = _medium(lambda y: 1 / y)
    ends = jnp.array(-1.5), jnp.array(1.5)
    height = jnp.sqrt(9 - ends[0] ** 2)
    return optical, jax.jit(lambda *ends: variation.stationary_path(optical, *ends, intervals=RAY))(
        height, height, *ends
    )


def _fermat(ray):
    optical, path = ray
    circle = lambda x: jnp.sqrt(9 - x**2)
    times, found = np.asarray(path.times), np.asarray(path.value)
    error = lambda y: float(np.max(np.abs(y - np.sqrt(9 - times**2))))
    # Snell: n cos(angle to the x axis) = -energy is the same on every layer
    along = lambda y: jax.jit(jax.vmap(lambda x: variation.energy(optical)(*variation.lift(y)(x))))(times)
    spread = lambda y: float(np.ptp(np.asarray(along(y))))
    return (
        Claim(
            "eq. 2",
            "The ray of least time through a medium with n = 1/y is a circle, as found from the scalar n ds alone.",
            error(found),
            4 * (3 / RAY) ** 2,
            f"midpoint rule, second order: 4 h^2 with h = 3/{RAY}",
            "the straight line between the same points",
            error(found[0]),
        ),
        Claim(
            "eq. 2",
            "Snell's law: n times the cosine of the ray's angle to the layers is the same all along it (Noether).",
            spread(circle),
            64 * EPS,
            "64 eps(float64)",
            "a circle stretched by a tenth",
            spread(lambda x: 1.1 * circle(x) - 0.2),
        ),
    )


# eq. 3: the double pendulum and Kepler


def _double(t, q, v):
    x, y = jnp.cumsum(jnp.sin(q)), -jnp.cumsum(jnp.cos(q))
    vx, vy = jnp.cumsum(jnp.cos(q) * v), jnp.cumsum(jnp.sin(q) * v)
    return jnp.sum(vx**2 + vy**2) / 2 - 9.81 * jnp.sum(y) + 0 * jnp.sum(x)


def _double_pendulum(steps: int, h: float = 0.005):
    Ld = variation.discrete_lagrangian(_double, h)
    q0 = jnp.array([2.0, 2.5])

    @jax.jit
    def run(q0):
        a0 = variation.acceleration(_double)(0.0, q0, jnp.zeros(2))
        return jnp.concatenate([q0[None], variation.integrate(Ld, q0, q0 + h**2 / 2 * a0, steps)])

    return Ld, h, np.asarray(run(q0))


def _hamilton(run):
    Ld, h, q = run
    E = variation.discrete_euler_lagrange(Ld)

    @jax.jit
    def residual(q):
        k = jnp.arange(1, len(q) - 1)
        size = jnp.max(jnp.abs(jax.vmap(jax.grad(Ld, 2))(k, q[:-2], q[1:-1])))
        return jnp.max(jnp.abs(jax.vmap(E)(k, q[:-2], q[1:-1], q[2:]))) / size

    kicked = q + 1e-6 * (np.arange(len(q)) == len(q) // 2)[:, None]
    t = np.linspace(0.1, 20.0, 50)
    newton = lambda w: (
        lambda t: variation.euler_lagrange(_kepler)(
            *variation.lift(lambda t: 2 * jnp.stack([jnp.cos(w * t), jnp.sin(w * t)]), 2)(t)
        )
    )
    every = jax.jit(lambda w, t: jax.vmap(newton(w))(t))
    worst = lambda w: float(np.max(np.abs(every(w, t)))) * 4
    return (
        Claim(
            "eq. 3",
            "Newton's equation m x'' = -grad V follows from L = T - V: Kepler's circle has no residual.",
            worst(8**-0.5),
            256 * EPS,
            "256 eps(float64), relative to the force",
            "the same circle run 1 % too fast",
            worst(1.01 * 8**-0.5),
        ),
        Claim(
            "eq. 3",
            f"The action of a chaotic double pendulum is stationary at every one of {len(q):,} recorded positions.",
            float(residual(q)),
            64 * EPS / h**2,
            "64 eps(float64) / h^2: the difference of neighbouring steps is divided by h twice",
            "one position moved by a millionth of a radian",
            float(residual(kicked)),
        ),
    )


def _kepler(t, q, v):
    return v @ v / 2 + 1 / jnp.sqrt(q @ q)


# stationary, not least: two soap films on the same rings, and an oscillator past half a period


def _film(t, y, slope):
    return y * jnp.sqrt(1 + slope**2)


def _catenary_scale(low: float, high: float) -> float:
    """a with a cosh(1 / (2 a)) = 1 between two guesses, by bisection: rings of radius 1 at distance 1."""
    f = lambda a: a * np.cosh(1 / (2 * a)) - 1
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if f(low) * f(middle) > 0 else (low, middle)
    return low


def _films():
    scales = _catenary_scale(0.5, 2.0), _catenary_scale(0.1, 0.4)
    shapes = [lambda x, a=a: a * jnp.cosh(x / a) for a in scales]
    ends = jnp.array(-0.5), jnp.array(0.5)
    ring = jnp.array(1.0)
    rough = lambda shape: lambda x: 0.95 * shape(x) + 0.05
    solve = lambda shape: lambda *ends: variation.stationary_path(_film, *ends, intervals=FILM, guess=rough(shape))
    return [(shape, jax.jit(solve(shape))(ring, ring, *ends)) for shape in shapes]


def _index(films):
    (near, shallow), (far, deep) = films
    miss = lambda path, shape: float(np.max(np.abs(np.asarray(path.value) - np.asarray(shape(path.times)))))
    duration = 10.0
    oscillator = lambda t, q, v: (v**2 - q**2) / 2
    swing = jax.jit(lambda q1: variation.stationary_path(oscillator, 0 * q1, q1, 0.0, duration, intervals=FILM))(1.0)
    expected = int(duration / np.pi)
    return (
        Claim(
            "eq. 2, 3",
            "Two soap films hang on the same pair of rings; both are stationary and both are found (largest distance to the "
            "catenaries, ring radius 1).",
            max(miss(shallow, near), miss(deep, far)),
            64 / FILM**2,
            f"midpoint rule, second order: 64 h^2 with h = 1/{FILM} (the deep film is 16 times more curved)",
            "each film compared with the other catenary",
            min(miss(shallow, far), miss(deep, near)),
        ),
        Claim(
            "eq. 3",
            f"Stationary is not least: the deep film has Morse index 1 (got {int(deep.index)}), the shallow one 0, and an "
            f"oscillator after {duration:g} units of time {expected} (got {int(swing.index)}).",
            abs(int(deep.index) - 1) + abs(int(shallow.index)) + abs(int(swing.index) - expected),
            0.5,
            "whole numbers",
            "every stationary path taken for a minimum",
            1 + expected,
        ),
    )


# eq. 4


def _legendre():
    p = np.linspace(-5.0, 5.0, 41)
    H = jax.jit(jax.vmap(variation.hamiltonian(lambda t, q, v: -jnp.sqrt(1 - v**2)), (None, None, 0)))(0.0, 0.0, p)
    true = np.sqrt(1 + p**2)
    relative = lambda x: float(np.max(np.abs(x / true - 1)))
    return (
        Claim(
            "eq. 4",
            "H = p v - L with p = dL/dv, solved by Newton's method: a relativistic particle gives sqrt(1 + p^2).",
            relative(H),
            64 * EPS,
            "64 eps(float64)",
            "the quadratic shortcut 1 + p^2/2, exact only for slow particles",
            relative(1 + p**2 / 2),
        ),
    )
