"""Scores and the weighted sets of log-likelihoods that every Fisher estimator averages over.

    s_i = grad_theta log p(x_i; theta)            one score per example
    F   = sum_j w_j s_j s_j'                      every estimator here is of this form

Symbols: theta any pytree of P real numbers; x one example (any pytree); batch the same pytree with a leading example
axis of n; log-likelihoods in nats. Comes from: a user's `log_prob(params, example)`. Goes to: `information`.
Reference: MATH.md 6, eq. 22-24.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.meaning import by_meaning
from learnlag_jax.vocabulary import Array, PyTree


def meant(log_prob: Callable, params: PyTree, batch: PyTree, *rest) -> Callable:
    """The log-likelihood, or another function of parameters and one example, as a static argument that changes with every
    number it reads."""
    example = lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x))
    return by_meaning(log_prob, params, jax.tree.map(example, batch), *rest)


def meant_draws(params: PyTree, batch: PyTree, outcomes: Callable | None, sample: Callable | None, key) -> dict:
    """What enumerates or draws outcomes of the model, in the same way: it may read numbers that change."""
    kind = key if key is None else jax.ShapeDtypeStruct(jnp.shape(key), jnp.result_type(key))  # looked at, not used up
    drawn = None if sample is None else meant(sample, params, batch, kind)
    return {"outcomes": None if outcomes is None else meant(outcomes, params, batch), "sample": drawn}


def wide_dtype(x) -> jnp.dtype:
    """The dtype of x if it has at least 32 bits, else float32: what moments and Fisher matrices are kept in."""
    kind = jnp.result_type(x)
    return jnp.dtype(jnp.float32) if kind.itemsize < 4 else kind


ESTIMATORS = ("exact", "sampled", "empirical", "batch")


def scores(log_prob: Callable, params: PyTree, batch: PyTree) -> PyTree:
    """The score of every example, s_i = grad_theta log p(x_i; theta).

    Args:
        log_prob: `log_prob(params, example)`, one real scalar in nats.
        params: theta, any pytree of real floating-point arrays.
        batch: examples, a pytree whose leaves have a leading axis of n.

    Returns:
        The pytree of `params` with a leading axis of n on every leaf.

    Raises:
        InputError, DTypeError: wrong structure or an integer parameter, at trace time.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher import scores
        >>> s = scores(lambda mean, x: -((x - mean) ** 2) / 2, jnp.float64(1.0), jnp.array([0.0, 1.0, 3.0]))
        >>> [round(float(x), 6) for x in s]
        [-1.0, 0.0, 2.0]

    Reference: MATH.md 6; eq. 23.
    """
    checks.floating(params, "params")
    example_count(batch)
    return jax.vmap(jax.grad(checks.scalar_function(log_prob, "log_prob")), (None, 0))(params, batch)


def example_count(batch: PyTree) -> int:
    """The common length n of the leading axes, checked at trace time."""
    sizes = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else None for leaf in jax.tree.leaves(batch)}
    checks.require(
        len(sizes) == 1 and None not in sizes and 0 not in sizes,
        "batch",
        f"leading axes of length {sorted(map(str, sizes))}",
        "one common leading example axis of length >= 1",
        "stack the examples along axis 0",
    )
    return jnp.shape(jax.tree.leaves(batch)[0])[0]


def categorical_outcomes(log_prob: Callable, classes: int, label: int = 1) -> Callable:
    """Every label a classifier may emit, with its model probability: what the exact Fisher averages over.

    Args:
        log_prob: `log_prob(params, example)` with `example` a tuple holding an integer label.
        classes: number of labels, 0 .. classes - 1.
        label: position of the label in the example tuple.

    Returns:
        `outcomes(params, example) -> (examples with a leading axis of `classes`, probabilities)`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from learnlag_jax.fisher import categorical_outcomes
        >>> log_prob = lambda w, example: jax.nn.log_softmax(w * example[0])[example[1]]
        >>> outcomes = categorical_outcomes(log_prob, 3)
        >>> _, p = outcomes(jnp.zeros(3), (jnp.float64(1.0), jnp.int32(2)))
        >>> [round(float(x), 6) for x in p]
        [0.333333, 0.333333, 0.333333]

    Reference: MATH.md 6 (model Fisher).
    """

    def outcomes(params, example):
        labels = jnp.arange(classes, dtype=jnp.result_type(example[label]))
        parts = [jnp.broadcast_to(jnp.asarray(part), (classes, *jnp.shape(part))) for part in example]
        parts[label] = labels
        examples = tuple(parts)
        return examples, jnp.exp(jax.vmap(log_prob, (None, 0))(params, examples))

    return outcomes


class Weighted(NamedTuple):
    """Examples and weights whose weighted outer score product is the Fisher information.

    Attributes:
        examples: pytree with leading axes (m, g): m scores, each the mean over g examples.
        weights: (m,), nonnegative, summing to 1.
    """

    examples: PyTree
    weights: Array


def weighted(
    log_prob: Callable,
    params: PyTree,
    batch: PyTree,
    estimator: str,
    *,
    outcomes: Callable | None = None,
    sample: Callable | None = None,
    key: Array | None = None,
    batch_size: int | None = None,
) -> Weighted:
    """The examples and weights of one estimator; the outcome probabilities depend on `params`, so they are traced."""
    n = example_count(batch)
    checks.require(
        estimator in ESTIMATORS, "estimator", repr(estimator), "one of " + ", ".join(ESTIMATORS), "choose one"
    )
    if estimator == "exact":
        checks.require(
            outcomes is not None,
            "outcomes",
            None,
            "outcomes(params, example) -> (examples, probabilities)",
            "pass categorical_outcomes(log_prob, classes) or quadrature nodes; the labels in `batch` are not used",
        )
        examples, p = jax.vmap(outcomes, (None, 0))(params, batch)  # type: ignore[arg-type]
        m = p.size
        return Weighted(jax.tree.map(lambda x: x.reshape(m, 1, *x.shape[2:]), examples), p.reshape(m) / n)
    if estimator == "sampled":
        batch = _resample(params, batch, outcomes, sample, key)
    if estimator == "batch" and batch_size is not None:
        checks.whole(batch_size, "batch_size", 1, "None takes all examples")
    group = (n if batch_size is None else batch_size) if estimator == "batch" else 1
    checks.require(n % group == 0, "batch_size", group, f"a divisor of n = {n}", "drop the incomplete batch")
    kind = np.result_type(*(wide_dtype(leaf) for leaf in jax.tree.leaves(params)))
    grouped = jax.tree.map(lambda x: jnp.reshape(x, (n // group, group, *jnp.shape(x)[1:])), batch)
    return Weighted(grouped, jnp.full((n // group,), group / n, kind))


def _resample(params, batch, outcomes, sample, key):
    """Replace each example by one drawn from the model at the same input."""
    draw = sample or (outcomes and _drawer(outcomes))
    if key is None or draw is None:
        raise checks.InputError(
            "estimator: got 'sampled' without key and sample or outcomes; expected a key, and sample(params, example, key) or "
            "outcomes(params, example); pass key=jax.random.key(0) and sample=..."
        )
    keys = jax.random.split(key, example_count(batch))
    drawn = jax.vmap(draw, (None, 0, 0))(params, batch, keys)
    return jax.lax.stop_gradient(drawn)


def _drawer(outcomes: Callable) -> Callable:
    def draw(params, example, key):
        examples, p = outcomes(params, example)
        chosen = jax.random.choice(key, p.shape[0], p=p)
        return jax.tree.map(lambda x: x[chosen], examples)

    return draw


def group_log_probs(log_prob: Callable, examples: PyTree) -> Callable:
    """theta -> the m log-likelihoods, each a mean over its group: its Jacobian's rows are the scores."""
    log_prob = checks.scalar_function(log_prob, "log_prob")

    def log_probs(params):
        return jnp.mean(jax.vmap(jax.vmap(log_prob, (None, 0)), (None, 0))(params, examples), axis=1)

    return log_probs


def group_scores(log_prob: Callable, params: PyTree, examples: PyTree) -> PyTree:
    """The m scores of the groups, a leading axis of m on every leaf."""
    log_prob = checks.scalar_function(log_prob, "log_prob")

    def mean(params, group):
        return jnp.mean(jax.vmap(log_prob, (None, 0))(params, group))

    return jax.vmap(jax.grad(mean), (None, 0))(params, examples)
