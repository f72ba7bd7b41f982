"""Optimisers by name: ours and every factory of optax that takes a learning rate, with a schedule, a warm-up and a clip."""

import inspect
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from learnlag_jax import checks, fisher
from learnlag_jax.experiments import config
from learnlag_jax.experiments.config import Key

SCHEDULES = ("constant", "linear", "cosine")
COMMON = {
    "name": Key(str),
    "label": Key(str, ""),
    "learning_rate": Key(float, low=0.0, high=1e6, many=True),
    "schedule": Key(str, "constant", choices=SCHEDULES),
    "warmup": Key(int, 0, low=0, high=10**9),
    "clip": Key(float, 0.0, low=0.0, high=1e9),
}


def fisher_descent(
    learning_rate, structure="eigen", exponent=-0.5, b1=0.9, b2=0.95, eps=1e-8, weight_decay=1e-4, refresh=5
) -> optax.GradientTransformationExtraArgs:
    """`fisher.fisher_descent`, with the options a file can hold."""
    options = fisher.FisherOptions(refresh=refresh)
    return fisher.fisher_descent(
        learning_rate, structure, exponent=exponent, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, options=options
    )


def fisher_preset(learning_rate, preset="soap") -> optax.GradientTransformationExtraArgs:
    """A known member of the family: adam, rmsprop, shampoo, shampoo_squared, soap, muon, natural_gradient."""
    return optax.chain(fisher.scale_by_fisher(**fisher.preset(preset)), optax.scale_by_learning_rate(learning_rate))


OURS: dict[str, Callable] = {"fisher_descent": fisher_descent, "fisher_preset": fisher_preset}


class Optimiser(NamedTuple):
    """One `[[optimiser]]` of a configuration.

    Attributes:
        label: how the tables call it.
        kind: everything but the learning rate, as canonical text: equal text is equal compiled code.
        grid: settings to try.
        make: `make(settings) -> optax.GradientTransformation`.
    """

    label: str
    kind: str
    grid: tuple[dict[str, float], ...]
    make: Callable[[Mapping], Any]


def names() -> dict[str, Callable]:
    """Every optimiser that a configuration may name."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optax announces what it will drop
        for module in (optax.contrib, optax):
            for name in dir(module):
                function = getattr(module, name, None)
                if inspect.isfunction(function) and not name.startswith(("_", "scale_by")):
                    found[name] = function
    usable = {name: f for name, f in found.items() if _takes_only_a_learning_rate(f)}
    return usable | OURS


def _takes_only_a_learning_rate(function: Callable) -> bool:
    parameters = inspect.signature(function).parameters
    needed = [name for name, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return "learning_rate" in parameters and set(needed) <= {"learning_rate"}


def read(source: config.Source, steps: int) -> list[Optimiser]:
    """The optimisers of a configuration, each tried once so that a wrong option is refused before anything runs."""
    known, chosen = names(), []
    for index, found in enumerate(config.array(source, "optimiser")):
        name = config.values(
            source, "optimiser", index, {"name": found.get("name")} if "name" in found else {}, {"name": Key(str)}
        )["name"]
        if name not in known:
            raise source.refuse("optimiser", index, "name", repr(name)[:60], config.nearest(name, tuple(known)))
        own = config.options(known[name], skip=("learning_rate",))
        values = config.values(source, "optimiser", index, found, COMMON | own)
        if values["warmup"] > steps:
            raise source.refuse(
                "optimiser", index, "warmup", str(values["warmup"]), f"at most the {steps} steps of the run"
            )
        label = values["label"] or name
        if label in [other.label for other in chosen]:
            raise source.refuse(
                "optimiser", index, "label" if values["label"] else "name", repr(label), "a label of its own"
            )
        given = {key: values[key] for key in own if key in found}
        shape = {key: values[key] for key in ("schedule", "warmup", "clip")}
        make = _make(known[name], given, steps, **shape)
        try:
            make({"learning_rate": 0.1}).init({"w": jnp.ones((2, 2), jnp.float32)})
        except (ValueError, TypeError, checks.InputError) as error:
            raise source.refuse(
                "optimiser", index, "name", f"{name}, which says: {error}", "options it accepts"
            ) from None
        kind = json.dumps({"name": name, **given, **shape}, sort_keys=True)
        chosen.append(Optimiser(label, kind, tuple(config.grid(values, ("learning_rate",))), make))
    return chosen


def _make(
    factory: Callable, options: Mapping[str, Any], steps: int, schedule: str, warmup: int, clip: float
) -> Callable:
    def make(settings):
        rate = settings["learning_rate"]
        steady = schedule == "constant" and not warmup
        optimiser = factory(rate if steady else lambda count: rate * share(count, steps, schedule, warmup), **options)
        return optax.chain(optax.clip_by_global_norm(clip), optimiser) if clip else optimiser

    return make


def share(count, steps: int, schedule: str, warmup: int):
    """What part of the learning rate is used at a step: (count + 1) / warmup, then 1, 1 - x or (1 + cos(pi x)) / 2."""
    count = jnp.asarray(count, jnp.float32)
    rise = jnp.minimum((count + 1) / np.float32(max(1, warmup)), 1)
    x = jnp.clip((count - np.float32(warmup)) / np.float32(max(1, steps - warmup)), 0, 1)
    return rise * {"constant": jnp.ones_like(x), "linear": 1 - x, "cosine": (1 + jnp.cos(jnp.pi * x)) / 2}[schedule]
