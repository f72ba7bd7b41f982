"""Machines to be steered, as dynamics for `control.Problem`: shared by chapters, tests, benchmarks and notebooks.

    s_{k+1} = one Runge-Kutta step of ds/dt = rate(s, a) with the action held for dt seconds

Angles in rad from hanging or level, lengths in m, masses in kg, forces in N. Comes from textbooks (Spong 1995 for the acrobot;
Mahony, Kumar and Corke 2012 for the quadrotor); goes to `control.solve`.
"""

from collections.abc import Callable

import jax.numpy as jnp

from learnlag_jax.control import Problem, minimise
from learnlag_jax.vocabulary import Array

GRAVITY = 9.81


def held(rate: Callable, dt: float) -> Callable:
    """Dynamics f(s, a, k, theta): one step of the classical fourth-order Runge-Kutta method, the action held."""

    def dynamics(s, a, k, theta):
        k1 = rate(s, a)
        k2 = rate(s + dt / 2 * k1, a)
        k3 = rate(s + dt / 2 * k2, a)
        return s + dt / 6 * (k1 + 2 * k2 + 2 * k3 + rate(s + dt * k3, a))

    return dynamics


def reach(dynamics: Callable, goal: Array, *, end: float, effort: float) -> Problem:
    """End near the goal with little effort: end |s_n - goal|^2 / 2 + sum_k effort |a_k|^2 / 2."""
    return minimise(
        lambda s, a, k, theta: effort * jnp.sum(a**2) / 2,
        dynamics,
        lambda s, theta: end * jnp.sum((s - goal.astype(s.dtype)) ** 2) / 2,
    )


def unicycle(s: Array, a: Array) -> Array:
    """s = (x, y, heading), a = (speed, turn rate)."""
    return jnp.stack([jnp.cos(s[2]) * a[0], jnp.sin(s[2]) * a[0], a[1]])


def car(s: Array, a: Array, *, wheelbase: float = 0.5) -> Array:
    """s = (x, y, heading, speed), a = (acceleration, steering angle)."""
    turn = s[3] * jnp.tan(a[1]) / wheelbase
    return jnp.stack([s[3] * jnp.cos(s[2]), s[3] * jnp.sin(s[2]), turn, a[0]])


def cart_pole(s: Array, a: Array, *, cart: float = 1.0, pole: float = 0.2, length: float = 0.5) -> Array:
    """s = (position, angle from hanging, speed, rate), a = (force,): a point mass on a light rod."""
    sin, cos = jnp.sin(s[1]), jnp.cos(s[1])
    mass = cart + pole * sin**2
    push = (a[0] + pole * sin * (length * s[3] ** 2 + GRAVITY * cos)) / mass
    fall = -(a[0] * cos + pole * length * s[3] ** 2 * cos * sin + (cart + pole) * GRAVITY * sin) / (length * mass)
    return jnp.stack([s[2], s[3], push, fall])


def acrobot(s: Array, a: Array) -> Array:
    """s = (shoulder from hanging, elbow, their rates), a = (elbow torque,): two uniform rods of 1 m and 1 kg."""
    inertia, half = 1 / 12, 0.5
    bend, sway = jnp.cos(s[1]), half * jnp.sin(s[1])
    m22 = half**2 + inertia
    m12 = m22 + half * bend
    m11 = half**2 + 1 + half**2 + 2 * half * bend + 2 * inertia
    weight2 = half * GRAVITY * jnp.sin(s[0] + s[1])
    weight1 = (half + 1) * GRAVITY * jnp.sin(s[0]) + weight2
    force1 = sway * (2 * s[2] * s[3] + s[3] ** 2) - weight1
    force2 = a[0] - sway * s[2] ** 2 - weight2
    det = m11 * m22 - m12**2
    return jnp.stack([s[2], s[3], (m22 * force1 - m12 * force2) / det, (m11 * force2 - m12 * force1) / det])


def quadrotor(s: Array, a: Array, *, mass: float = 0.5, arm: float = 0.17) -> Array:
    """s = (position, roll-pitch-yaw, velocity, body rates), 12 numbers; a = (four rotor thrusts above hover)."""
    inertia, drag = jnp.array([3.2e-3, 3.2e-3, 5.5e-3], s.dtype), 0.016
    (roll, pitch, yaw), velocity, (p, q, r) = s[3:6], s[6:9], s[9:]
    thrust = a + mass * GRAVITY / 4
    sr, cr, sp, cp, sy, cy = (g(x) for x in (roll, pitch, yaw) for g in (jnp.sin, jnp.cos))
    up = jnp.stack([cr * sp * cy + sr * sy, cr * sp * sy - sr * cy, cr * cp])
    lift = up * jnp.sum(thrust) / mass - jnp.array([0, 0, GRAVITY], s.dtype)
    turn = jnp.stack([p + (q * sr + r * cr) * sp / cp, q * cr - r * sr, (q * sr + r * cr) / cp])
    swirl = drag * (thrust[0] - thrust[1] + thrust[2] - thrust[3])
    torque = jnp.stack([arm * (thrust[1] - thrust[3]), arm * (thrust[2] - thrust[0]), swirl])
    rates = jnp.stack([p, q, r])
    return jnp.concatenate([velocity, turn, lift, (torque - jnp.cross(rates, inertia * rates)) / inertia])


def swing_up(name: str) -> tuple[Problem, Array, Array]:
    """Problem, start and first guess of a standard task: "cart-pole", "acrobot", "quadrotor" or "unicycle"."""
    rate, goal, start, n, dt, size, options = {
        "cart-pole": (cart_pole, [0.0, jnp.pi, 0, 0], [0.0] * 4, 50, 0.05, 1, {"end": 200.0, "effort": 0.02}),
        "acrobot": (acrobot, [jnp.pi, 0.0, 0, 0], [0.0] * 4, 60, 0.05, 1, {"end": 200.0, "effort": 0.01}),
        "quadrotor": (quadrotor, [1.0, -1, 1] + [0.0] * 9, [0.0] * 12, 40, 0.05, 4, {"end": 100.0, "effort": 0.1}),
        "unicycle": (unicycle, [0.0] * 3, [-1.0, -1.0, 1.0], 20, 0.1, 2, {"end": 100.0, "effort": 1.0}),
    }[name]
    dtype = jnp.result_type(float)
    nudge = 0.1 if size == 1 else 0.0
    guess = jnp.repeat(nudge * jnp.sin(0.3 * jnp.arange(n, dtype=dtype))[:, None], size, 1)
    problem = reach(held(rate, dt), jnp.asarray(goal, dtype), **options)
    return problem, jnp.asarray(start, dtype), guess
