"""Optimisers by name: ours and every optimiser of optax that takes a learning rate, with a schedule, a warm-up and a clip.

    [[optimiser]]
    name = "adamw"
    learning_rate = [0.001, 0.003]      a list is a grid, here and for every numeric option of the optimiser
    weight_decay = 0.01
    schedule = "cosine"

Comes from: `config`. Goes to: `trial`, one `Point` at a time.
"""

import functools
import inspect
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learnlag_jax import fisher
from learnlag_jax.experiments.comparison import config
from learnlag_jax.experiments.comparison.config import Key
from learnlag_jax.vocabulary import PyTree

SCHEDULES = ("constant", "linear", "cosine")
RATE = Key(float, low=0.0, high=1e6, many=True)
SHAPE = {
    "schedule": Key(str, "constant", choices=SCHEDULES),
    "warmup": Key(int, 0, low=0, high=10**9),
    "clip": Key(float, 0.0, low=0.0, high=1e9),
}
COMMON = {"name": Key(str), "label": config.LABEL, "learning_rate": RATE} | SHAPE


def fisher_descent(
    learning_rate,
    structure="eigen",
    exponent=-0.5,
    b1=0.9,
    b2=0.9,
    eps=1e-8,
    weight_decay=1e-4,
    refresh=1,
    aspect=2.0,
    nesterov=True,
) -> optax.GradientTransformationExtraArgs:
    """`fisher.fisher_descent` and its defaults, with the options a file can hold; aspect 0 keeps both sides of every matrix."""
    options = fisher.FisherOptions(refresh=refresh, aspect=aspect or None, nesterov=nesterov)
    return fisher.fisher_descent(
        learning_rate, structure, exponent=exponent, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, options=options
    )


def fisher_preset(learning_rate, preset="soap") -> optax.GradientTransformationExtraArgs:
    """A known member of the family: adam, rmsprop, shampoo, shampoo_squared, soap, muon, natural_gradient."""
    return optax.chain(fisher.scale_by_fisher(**fisher.preset(preset)), optax.scale_by_learning_rate(learning_rate))


def polyak_sgd(learning_rate, scaling=1.0, f_min=0.0, eps=0.0) -> optax.GradientTransformationExtraArgs:
    """`optax.polyak_sgd`, whose rate is a bound and no schedule."""
    return optax.polyak_sgd(learning_rate, scaling, f_min, eps)


@functools.wraps(optax.contrib.sophia)
def sophia(*arguments, **options) -> optax.GradientTransformationExtraArgs:
    """`optax.contrib.sophia`, which calls the loss of the step `obj_fn` where the rest of optax says `value_fn`."""
    base = optax.with_extra_args_support(optax.contrib.sophia(*arguments, **options))

    def update(updates, state, params=None, **extra_args):
        return base.update(updates, state, params, obj_fn=extra_args["value_fn"])

    return optax.GradientTransformationExtraArgs(base.init, update)


OURS: dict[str, Callable] = {
    "sophia": sophia,
    "fisher_descent": fisher_descent,
    "fisher_preset": fisher_preset,
    "polyak_sgd": polyak_sgd,
}


class Point(NamedTuple):
    """One point of an optimiser's grid.

    Attributes:
        settings: what stays an argument of the compiled step: the learning rate.
        kind: everything else, as canonical text: equal text is equal compiled code.
        text: where it lies in the grid, for tables.
        make: `make(settings) -> optax.GradientTransformation`.
        share: `share(step)`: what part of the learning rate the schedule uses there.
    """

    settings: dict[str, float]
    kind: str
    text: str
    make: Callable[[Mapping], Any]
    share: Callable[[Any], Any]


class Optimiser(NamedTuple):
    """One `[[optimiser]]` of a configuration: how the tables call it, and the points to try."""

    label: str
    points: tuple[Point, ...]


@functools.cache
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
    chosen: list[Optimiser] = []
    for index, found in enumerate(config.array(source, "optimiser")):
        refuse = functools.partial(source.refuse, "optimiser", index)
        name = config.choose(source, "optimiser", index, found, tuple(names()))
        own = config.options(names()[name], skip=("learning_rate", *SHAPE), many=True)
        values = config.values(source, "optimiser", index, found, COMMON | own)
        if values["warmup"] > steps:
            raise refuse("warmup", str(values["warmup"]), f"at most the {steps} steps of the run")
        label = config.label(source, "optimiser", index, values["label"], name, [x.label for x in chosen])
        axes = {key: values[key] for key in ("learning_rate", *own) if key in found}
        shape = {key: values[key] for key in SHAPE}
        many = [key for key, value in axes.items() if isinstance(value, tuple) and len(value) > 1]
        if np.prod([len(axes[key]) for key in many], dtype=float) > 1000:
            raise refuse("learning_rate", "a grid of more than 1000 points", "a smaller one")
        points = [_point(name, axes, steps, shape, many or ["learning_rate"]) for axes in config.grid(axes)]
        for kind, point in {point.kind: point for point in points}.items():
            if complaint := _complaint(kind, point.make):
                raise refuse("name", f"{name}, which says: {config.printable(complaint)}", "options it accepts")
        chosen.append(Optimiser(label, tuple(points)))
    return chosen


def _point(name: str, given: Mapping[str, Any], steps: int, shape: Mapping[str, Any], told: list[str]) -> Point:
    rate = given["learning_rate"]
    options = {key: value for key, value in given.items() if key != "learning_rate"}
    part = lambda count: share(count, steps, shape["schedule"], shape["warmup"])
    steady = shape["schedule"] == "constant" and not shape["warmup"]

    def make(settings):
        rate = settings["learning_rate"]
        optimiser = names()[name](rate if steady else lambda count: rate * part(count), **options)
        return optax.chain(optax.clip_by_global_norm(shape["clip"]), optimiser) if shape["clip"] else optimiser

    kind = json.dumps({"name": name, "steps": 0 if steady else steps, **options, **shape}, sort_keys=True)
    text = ", ".join(f"{key.replace('learning_rate', 'rate')} {given[key]:g}" for key in told)
    return Point({"learning_rate": rate}, kind, text, make, part)


_ACCEPTED: dict[str, str] = {}


def _complaint(kind: str, make: Callable) -> str:
    """What one step of a small model raises, traced and not run; each kind of optimiser is tried once a process."""

    def step(params, rate):
        optimiser = optax.with_extra_args_support(make({"learning_rate": rate}))
        value_at = lambda p: jnp.sum(p["w"] ** 2) + jnp.sum(p["b"] ** 2)
        value, gradient = jax.value_and_grad(value_at)(params)
        state = optimiser.init(params)
        extra = {"value": value, "grad": gradient, "value_fn": value_at}
        return optimiser.update(gradient, state, params, **extra)

    if kind not in _ACCEPTED:
        shape = jax.ShapeDtypeStruct
        params = {"w": shape((4, 3), jnp.float32), "b": shape((3,), jnp.float32)}
        try:
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                jax.eval_shape(step, params, shape((), jnp.float32))
            _ACCEPTED[kind] = ""
        except Exception as error:  # of optax, about options it does not like: any kind
            _ACCEPTED[kind] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return _ACCEPTED[kind]


def share(count, steps: int, schedule: str, warmup: int):
    """What part of the learning rate is used at a step: (count + 1) / warmup, then 1, 1 - x or (1 + cos(pi x)) / 2."""
    count = jnp.asarray(count, jnp.float32)
    rise = jnp.minimum((count + np.float32(1)) / np.float32(max(1, warmup)), np.float32(1))
    x = jnp.clip((count - np.float32(warmup)) / np.float32(max(1, steps - warmup)), 0, 1)
    cosine = (np.float32(1) + jnp.cos(np.float32(np.pi) * x)) / np.float32(2)
    return rise * {"constant": jnp.ones_like(x), "linear": np.float32(1) - x, "cosine": cosine}[schedule]


def evaluation_params(state: PyTree, params: PyTree) -> PyTree:
    """The parameters an optimiser means to be judged by: the average of a schedule-free one, else the parameters."""
    kind = optax.contrib.ScheduleFreeState
    found = [x for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind)) if isinstance(x, kind)]
    return optax.contrib.schedule_free_eval_params(found[0], params) if found else params
