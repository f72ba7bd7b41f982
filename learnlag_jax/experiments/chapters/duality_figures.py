"""The picture of chapter duality: a parameter as a particle, and costates on top of momenta."""

import numpy as np

from learnlag_jax.experiments.claims import Figure

BLUE, ORANGE, GREY = "#2563a8", "#d9822b", "#777777"


def duality_figure(times, losses, damped_losses, friction: float, momenta, costates) -> Figure:
    steps = np.arange(len(momenta))
    series = {
        "loss": {"t": times, "free (nats)": losses, "with friction (nats)": damped_losses},
        "momentum": {"step": steps} | {f"p{i}": np.asarray(momenta[:, i]) for i in range(3)},
        "costate": {"step": steps} | {f"lambda{i}": np.asarray(costates[:, i]) for i in range(3)},
    }

    def draw(figure, series):
        left, right = figure.subplots(1, 2)
        t, free, damped = series["loss"].values()
        left.plot(t, free, color=ORANGE, label="free: oscillates")
        left.plot(t, damped, color=BLUE, label=f"friction {friction}: learns")
        left.set(xlabel="time t", ylabel="V(q(t)) (nats per image)", title="a parameter as a particle")
        left.legend()
        for i, colour in enumerate((BLUE, ORANGE, "#2e8b57")):
            right.plot(steps, series["momentum"][f"p{i}"], color=colour, linewidth=4, alpha=0.3)
            right.plot(steps, series["costate"][f"lambda{i}"], color=colour, linewidth=1.2)
        right.plot([], [], color=GREY, linewidth=4, alpha=0.3, label="momentum of the flow")
        right.plot([], [], color=GREY, linewidth=1.2, label="costate of the control problem")
        right.set(xlabel="step k", ylabel="first three components", title="costate = momentum")
        right.legend()

    caption = (
        "Left: the loss along the path of L = v'Mv/2 - V for threes against eights; without friction it is conserved motion, "
        "with friction it descends. Right: momenta of the flow and costates of the control problem lie on each other."
    )
    return Figure(
        "duality", caption, "Loss curves with and without friction; costates on top of momenta.", series, draw
    )
