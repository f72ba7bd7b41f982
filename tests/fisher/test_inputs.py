"""What `scale_by_fisher` and `fisher_descent` refuse, by name, instead of computing something else."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from learnlag_jax import DTypeError, InputError
from learnlag_jax.fisher import FisherOptions, fisher_descent, scale_by_fisher
from learnlag_jax.testing import assert_close
from tests.fisher.models import normal


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *[("structure", x) for x in (None, {"w": "eigen"}, "triangular")],
        *[("b1", x) for x in (1.0, "0.9", True)],
        *[("b2", x) for x in (1.0, -0.1, float("nan"))],
        *[("eps", x) for x in (-1.0, "x", float("nan"))],
        *[("exponent", x) for x in ("half", "-0.5", float("nan"), len)],
        *[("fisher", x) for x in ("exact", None)],
        *[("options", x) for x in ({"refresh": 5}, None)],
    ],
)
def test_a_wrong_choice_is_refused_by_name(name, wrong):
    with pytest.raises(InputError, match=f"^{name}: got "):
        scale_by_fisher(**{name: wrong})


def test_an_exponent_of_several_numbers_is_refused_and_arrays_of_one_are_taken():
    with pytest.raises(InputError, match=r"^exponent: got shape \(2,\)"):
        scale_by_fisher(exponent=jnp.zeros(2))
    for one in (np.float64(-0.5), np.array(-0.5), jnp.float32(-0.5), -1):
        scale_by_fisher(exponent=one)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("refresh", 0),
        ("refresh", 1.5),
        ("polar_steps", 0),
        ("max_size", 0),
        ("block_size", 0),
        ("aspect", 0.5),
        ("aspect", "x"),
        ("nesterov", "no"),
        ("basis", "lu"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(name, wrong):
    with pytest.raises(InputError, match=f"^{name}: got {wrong!r}"):
        scale_by_fisher(options=FisherOptions(**{name: wrong}))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *[("learning_rate", x) for x in (None, "1e-2", float("nan"), jnp.zeros(2))],
        *[("weight_decay", x) for x in (None, -1.0, "x")],
    ],
)
def test_a_rate_or_a_decay_that_is_no_number_is_refused(name, wrong):
    with pytest.raises(InputError, match=f"^{name}: got "):
        fisher_descent(**({"learning_rate": 0.1} | {name: wrong}))


@pytest.mark.parametrize("structure", ["eigen", "diagonal", "one_sided", "full", "none"])
def test_a_gradient_of_another_shape_is_refused(structure):
    """One of as many entries was taken in another order, without a word."""
    optimiser, w = scale_by_fisher(structure), normal((4, 3))
    for wrong in (w.T, w.ravel(), w[:1]):
        with pytest.raises(InputError, match=r"^updates\['w'\]: got .*expected shape \(4, 3\)"):
            optimiser.update({"w": wrong}, optimiser.init({"w": w}))


def test_a_state_of_another_structure_is_refused():
    g = {"a": normal((4, 3)), "b": normal((3, 3))}
    made = {kind: scale_by_fisher(kind) for kind in ("eigen", "diagonal", "kronecker", "one_sided")}
    for own, ours in made.items():
        ours.update(g, ours.init(g))
        for other, theirs in made.items():
            if other != own:
                with pytest.raises(InputError, match="^state: got factors"):
                    ours.update(g, theirs.init(g))


def test_parameters_without_a_derivative_are_refused_and_python_numbers_are_taken():
    with pytest.raises(DTypeError, match=r"^params\['n'\]: got int"):
        scale_by_fisher().init({"n": jnp.arange(3)})
    optimiser = scale_by_fisher("diagonal", eps=0.0)
    assert_close(optimiser.update({"x": -2.0}, optimiser.init({"x": 1.0}))[0]["x"], jnp.asarray(-1.0), ulps=4)


@pytest.mark.parametrize("structure", ["eigen", "diagonal"])
def test_examples_of_a_wrong_shape_are_refused(structure):
    g = {"a": normal((4, 3)), "b": normal((3,))}
    optimiser = scale_by_fisher(structure, fisher="per_example")
    state, examples = optimiser.init(g), jax.tree.map(lambda x: jnp.stack([x, 2 * x]), g)
    optimiser.update(g, state, fisher_grads=examples)
    wrong = {
        r"^fisher_grads\['a'\]: got .*\[4,3\]; expected shape \(examples, 4, 3\)": examples | {"a": g["a"]},
        r"^fisher_grads\['b'\]: got .*expected shape": examples | {"b": examples["b"][:, :2]},
        r"^fisher_grads\['a'\]: got .*at least one": jax.tree.map(lambda x: x[:0], examples),
        r"^fisher_grads: got \[1, 2\] examples": examples | {"b": examples["b"][:1]},
        "^fisher_grads: got PyTreeDef": {"a": examples["a"]},
        r"^fisher_grads: got PyTreeDef\(\{'a': \(": examples | {"a": (examples["a"], examples["a"])},
        "^fisher_grads: got None": None,
    }
    for message, given in wrong.items():
        with pytest.raises(InputError, match=message):
            optimiser.update(g, state, fisher_grads=given)


def test_under_a_mask_the_samples_of_what_is_masked_are_left_out():
    """optax takes leaves out of the gradients and passes every other argument on as it is."""
    g = {"a": normal((4, 3)), "b": {"c": normal((3,), 1)}}
    examples = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), g)
    ours = scale_by_fisher(fisher="per_example")
    masked = optax.masked(ours, {"a": True, "b": False})
    u, _ = masked.update(g, masked.init(g), fisher_grads=examples)
    alone, _ = ours.update({"a": g["a"]}, ours.init({"a": g["a"]}), fisher_grads={"a": examples["a"]})
    assert_close(u["a"], alone["a"], ulps=0)
    assert_close(u["b"], g["b"], ulps=0)


def test_a_rule_is_asked_the_same_at_init_and_at_update_of_an_nnx_optimizer():
    """flax hands over variables at init and bare arrays at update: the path had `.value` at its end once."""
    asked = []

    def rule(path, shape):
        asked.append((path, shape))
        return "diagonal" if path.endswith("['bias']") else "kronecker"

    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    with jax.numpy_dtype_promotion("standard"):
        optimiser = nnx.Optimizer(model, scale_by_fisher(rule), wrt=nnx.Param)
        first, asked[:] = list(asked), []
        optimiser.update(model, nnx.grad(lambda m: jnp.sum(m(jnp.ones((2, 3), jnp.float32)) ** 2))(model))
    assert set(first) == set(asked) == {("['bias']", (2,)), ("['kernel']", (3, 2))}


@jax.tree_util.register_dataclass
@dataclass
class Attention:
    query: jax.Array
    value: jax.Array


def test_a_parameter_that_is_called_value_keeps_its_name():
    asked = []
    rule = lambda path, shape: asked.append(path) or "diagonal"
    scale_by_fisher(rule).init({"attn": Attention(jnp.zeros(2), jnp.zeros(3))})
    assert asked == ["['attn'].query", "['attn'].value"]
