"""Chapter "control": its two figures."""

import numpy as np

from learnlag_jax import control
from learnlag_jax.experiments.chapters.control_values import Closing
from learnlag_jax.experiments.claims import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#2563a8", "#d9822b", "#2e8b57", "#b33a3a", "#777777"


def swing_figure(best: control.Trajectory, dt: float) -> Figure:
    n = len(best.actions)
    time = np.arange(n + 1) * dt
    series = {
        "path": {
            "time_s": time,
            "angle_rad": np.asarray(best.states[:, 0]),
            "torque_rad_per_s2": np.append(np.asarray(best.actions[:, 0]), np.nan),
            "costate_angle": np.asarray(best.costates[:, 0]),
            "costate_rate": np.asarray(best.costates[:, 1]),
        }
    }

    def draw(fig, series):
        left, right = fig.subplots(1, 2)
        x = series["path"]
        left.plot(x["time_s"], x["angle_rad"], color=BLUE, label="angle (rad)")
        left.axhline(np.pi, color=GREY, lw=0.8, ls=":")
        left.step(x["time_s"], x["torque_rad_per_s2"], where="post", color=ORANGE, label="torque (rad/s$^2$)")
        left.set(xlabel="time (s)", title="Swing-up: angle and torque")
        left.legend()
        right.plot(x["time_s"], x["costate_angle"], color=GREEN, label="of the angle (reward/rad)")
        right.plot(x["time_s"], x["costate_rate"], color=RED, label="of the rate (reward s/rad)")
        right.set(xlabel="time (s)", title="Costates = gradient of the value")
        right.legend()

    return Figure(
        "control-swing-up",
        f"A pendulum swung up in {n * dt:g} s by Newton's method on the Lagrangian ({int(best.steps)} steps, largest entry of its "
        f"gradient {float(best.residual):.0e}). Right: the costates, the gradient of the optimal remaining reward by the state.",
        "The angle swings back once and then rises to pi, upright; the costates rise and fall to their terminal values.",
        series,
        draw,
    )


def closing_figure(closing: Closing) -> Figure:
    exact = np.asarray(closing.exact.value)
    series = {
        "bounds": {
            "sweep": closing.sweeps,
            "lower_start": closing.lower[:, 0],
            "upper_start": closing.upper[:, 0],
            "value_iteration_start": closing.plain[:, 0],
            "widest_gap": (closing.upper - closing.lower).max(1),
            "error_of_value_iteration": np.abs(closing.plain - exact).max(1),
        },
        "optimum": {"value_start": exact[:1]},
    }

    def draw(fig, series):
        left, right = fig.subplots(1, 2)
        x = series["bounds"]
        left.fill_between(
            x["sweep"], x["lower_start"], x["upper_start"], color=BLUE, alpha=0.2, lw=0, label="certified"
        )
        left.plot(x["sweep"], x["value_iteration_start"], color=ORANGE, label="value iteration")
        left.axhline(series["optimum"]["value_start"][0], color=GREY, lw=0.9, ls=":", label="optimum")
        left.set(xlabel="sweep", ylabel="value of the start (reward)", ylim=(-0.1, 1.6), title="Bounds close on V*")
        left.legend()
        right.semilogy(x["sweep"], x["widest_gap"], color=BLUE, label="upper - lower")
        right.semilogy(x["sweep"], x["error_of_value_iteration"], color=ORANGE, label="error of value iteration")
        right.set(xlabel="sweep", ylabel="largest over states (reward)", title="FrozenLake 8 x 8, discount 0.99")
        right.legend()

    return Figure(
        "control-bounds",
        "Bounds that contain the optimal value of FrozenLake at every sweep (left, at the start state), and their width over "
        "all states beside the true error of value iteration (right).",
        "A shaded band of bounds narrows onto the dotted optimum while value iteration climbs to it from below.",
        series,
        draw,
    )
