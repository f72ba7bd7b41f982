"""optax's own contract tests, read from the installed package and run against this family.

Nothing of theirs is copied: the text of the installed test file is read, its list of optimisers replaced by ours, and executed.
Left out: its 30,000-step convergence test, run with `-m slow`; a shorter one of ours stands beside it.
"""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learnlag_jax.fisher import FisherOptions, fisher_descent, scale_by_fisher
from learnlag_jax.testing import assert_close

OURS = {
    "eigen": functools.partial(fisher_descent, options=FisherOptions(refresh=2)),
    "diagonal": functools.partial(fisher_descent, structure="diagonal"),
    "kronecker": functools.partial(fisher_descent, structure="kronecker", eps=1e-4),
    # an injected exponent is traced, so its root is taken exactly: seven polar steps are exact to rounding too
    "one_sided": functools.partial(fisher_descent, structure="one_sided", options=FisherOptions(polar_steps=7)),
    "full": functools.partial(fisher_descent, structure="full", eps=1e-4),
}
ENTRIES = [
    {"opt_name": name, "opt_kwargs": {"learning_rate": 1e-2}, "wrapper_name": None, "wrapper_kwargs": None}
    for name in OURS
]


@pytest.fixture(autouse=True)
def _as_a_user_without_strict_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def replaced(text: str, pattern: str, by: str) -> str:
    text, hits = re.subn(pattern, lambda _: by, text, flags=re.DOTALL)
    assert hits == 1, f"optax's test file has changed: {pattern} was found {hits} times"
    return text


def contract_tests():
    """The test class of optax/contrib/_common_test.py with our optimisers in it."""
    text = (Path(optax.__file__).parent / "contrib" / "_common_test.py").read_text("utf-8")
    text = replaced(text, r"_MAIN_OPTIMIZERS_UNDER_TEST = \[.*?\n\]\n", f"_MAIN_OPTIMIZERS_UNDER_TEST = {ENTRIES!r}\n")
    text = replaced(text, r"_MAIN_OPTIMIZERS_UNDER_TEST \+= \[.*?\n\]\n", "")
    text = replaced(text, r"_BASE_OPTIMIZERS = \[.*?\n\]\n", "_BASE_OPTIMIZERS = []\n")
    space = {"__name__": __name__}
    exec(compile(text.split("\nif __name__")[0], "optax_contract", "exec"), space)
    space["_get_opt_factory"] = OURS.__getitem__
    return space["ContribTest"]


ContribTest = contract_tests()
ContribTest.__module__ = __name__
for _name in list(vars(ContribTest)):
    if re.fullmatch(r"test_optimizers\d+", _name):
        setattr(ContribTest, _name, pytest.mark.slow(getattr(ContribTest, _name)))


def test_the_contract_has_tests_in_it():
    names = [name for name in vars(ContribTest) if name.startswith("test_")]
    assert len(names) >= 8 * len(OURS)


TARGETS = {
    "parabola": (lambda q: jnp.sum((q - jnp.array([1.0, -1.0, 1.0])) ** 2), jnp.array([-1.0, 10.0, 1.0])),
    "matrix": (lambda q: jnp.sum((q - jnp.array([[3.0, -2.0], [1.0, 4.0]])) ** 2), jnp.zeros((2, 2))),
    "rosenbrock": (lambda q: (1 - q[0]) ** 2 + 100 * (q[1] - q[0] ** 2) ** 2, jnp.zeros(2)),
}


@pytest.mark.parametrize("name", OURS)
def test_it_descends_optaxs_test_problems(name):
    for loss, start in TARGETS.values():
        optimiser = fisher_descent(optax.cosine_decay_schedule(0.1, 2000), name, weight_decay=0.0)

        def step(carry, _, loss=loss, optimiser=optimiser):
            q, state = carry
            u, state = optimiser.update(jax.grad(loss)(q), state, q)
            return (optax.apply_updates(q, u), state), None

        (q, _), _ = jax.jit(lambda c, step=step: jax.lax.scan(step, c, length=2000))((start, optimiser.init(start)))
        assert float(loss(q)) < 1e-4 * float(loss(start))


def grads_of(seed=0):
    k1, k2 = jax.random.split(jax.random.key(seed))
    return {"w": jax.random.normal(k1, (4, 3)), "b": jax.random.normal(k2, (3,))}


def walk(optimiser, steps=6, **extra):
    g = grads_of()
    state = optimiser.init(g)
    update = jax.jit(optimiser.update)
    for seed in range(steps):
        u, state = update(grads_of(seed), state, g, **extra)
    return u, state


def test_masked_and_partitioned_leaves_are_left_to_others():
    alone = walk(scale_by_fisher(options=FisherOptions(refresh=2)))[0]
    masked = walk(optax.masked(scale_by_fisher(options=FisherOptions(refresh=2)), {"w": True, "b": False}))[0]
    assert_close(masked["w"], alone["w"], ulps=256)
    assert_close(masked["b"], grads_of(5)["b"])
    label = {"w": "fisher", "b": "sgd"}
    parts = {"fisher": scale_by_fisher(options=FisherOptions(refresh=2)), "sgd": optax.sgd(0.5)}
    split = walk(optax.partition(parts, label))[0]
    assert_close(split["w"], alone["w"], ulps=256)
    assert_close(split["b"], -0.5 * grads_of(5)["b"])


def test_it_can_be_wrapped():
    wrapped = optax.MultiSteps(fisher_descent(1e-2), every_k_schedule=2)
    u, _ = walk(wrapped, steps=3)
    assert not np.any(np.asarray(u["w"]))
    safe = optax.apply_if_finite(fisher_descent(1e-2), max_consecutive_errors=3)
    assert bool(jnp.all(jnp.isfinite(walk(safe)[0]["w"])))
    chained = optax.chain(optax.clip_by_global_norm(1.0), fisher_descent(optax.linear_schedule(1e-2, 0.0, 10)))
    assert bool(jnp.all(jnp.isfinite(walk(chained)[0]["w"])))


def test_the_state_maps_and_stays_abstract():
    optimiser = fisher_descent(1e-2)
    state = optimiser.init(grads_of())
    mapped = optax.tree.map_params(optimiser, lambda x: x + 1, state)
    assert float(mapped[0].mu["w"][0, 0]) == 1.0
    assert float(mapped[0].factors[0].moment[0, 0, 0]) == 0.0
    abstract = optimiser.init(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), grads_of()))
    assert jax.tree.map(jnp.shape, abstract) == jax.tree.map(jnp.shape, state)


def test_vmapped_runs_equal_single_runs():
    optimiser = scale_by_fisher(options=FisherOptions(refresh=2))
    g = jnp.stack([grads_of(i)["w"] for i in range(3)])
    states = jax.vmap(optimiser.init)(g)
    states = states._replace(count=jnp.zeros([], jnp.int32))
    axes = jax.tree.map(lambda _: 0, states)._replace(count=None)
    update = jax.jit(jax.vmap(optimiser.update, in_axes=(0, axes), out_axes=(0, axes)))
    single = optimiser.init(g[1])
    careful = scale_by_fisher(options=FisherOptions(refresh=2, skip_nonfinite=False))
    update = jax.jit(jax.vmap(careful.update, in_axes=(0, axes), out_axes=(0, axes)))
    for k in range(5):
        u, states = update(g * (k + 1), states)
        v, single = careful.update(g[1] * (k + 1), single)
    assert_close(u[1], v, ulps=1024, scale=1.0)


MESH_STRUCTURES = ("eigen", "diagonal", "kronecker", "one_sided")


@pytest.mark.parametrize("name", MESH_STRUCTURES)
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_sharded_parameters_give_the_single_device_result(name, kind):
    """An 8-device mesh, FSDP-like and tensor-parallel: same numbers, and the state lies as the parameters do."""
    mesh = jax.make_mesh((4, 2), ("fsdp", "model"), axis_types=(getattr(jax.sharding.AxisType, kind),) * 2)
    optimiser = scale_by_fisher(name, options=FisherOptions(refresh=2))
    rows = jax.random.normal(jax.random.key(0), (5, 12, 2, 4))
    grads = [{"w": row[:4].reshape(8, 4), "heads": row[4:]} for row in rows]
    specs = {"w": jax.P("fsdp", "model"), "heads": jax.P(None, "model", "fsdp")}
    state = optimiser.init(grads[0])
    update = jax.jit(optimiser.update)
    if name != "one_sided" and kind == "Explicit":  # sharded axes are never merged: one factor per axis there
        plain = scale_by_fisher(name, options=FisherOptions(refresh=2, merge=False))
        state, update = plain.init(grads[0]), jax.jit(plain.update)
    for g in grads:
        expected, state = update(g, state)
    with jax.set_mesh(mesh):
        place = lambda g: jax.tree.map(lambda x, s: jax.device_put(x, jax.NamedSharding(mesh, s)), g, specs)
        shard_state = optimiser.init(place(grads[0]))
        before = jax.tree.map(jax.typeof, shard_state)
        sharded_update = jax.jit(optimiser.update)
        for g in grads:
            found, shard_state = sharded_update(place(g), shard_state)
        if kind == "Explicit":
            assert jax.tree.map(jax.typeof, shard_state) == before
            assert str(jax.typeof(shard_state.mu["w"]).sharding.spec) == str(specs["w"])
    assert_close(jax.device_get(found), jax.device_get(expected), ulps=4096, scale=1.0)


@pytest.mark.parametrize("name", MESH_STRUCTURES)
def test_leaves_of_one_shape_are_lowered_once(name):
    """What compiles 100 leaves in the time of a few shapes: functions per shape and not per leaf, offsets as data."""

    def counts(leaves):
        g = {f"{i}": jnp.ones((6, 4), jnp.float32) for i in range(leaves)} | {"b": jnp.ones(3, jnp.float32)}
        optimiser = scale_by_fisher(name, options=FisherOptions(refresh=2))
        text = jax.jit(optimiser.update).lower(g, optimiser.init(g)).as_text()
        return text.count("func.func"), len(re.findall(r"stablehlo\.slice .*x(?:6x6|4x4)x", text))

    assert counts(30) == counts(20)
    assert counts(20)[1] == 0


def test_a_fresh_state_can_be_donated():
    g = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    optimiser = scale_by_fisher()
    _, state = jax.jit(optimiser.update, donate_argnums=1)(g, optimiser.init(g))
    assert int(state.count) == 1
