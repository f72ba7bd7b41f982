"""Three pools of real data whose labels can be bought: what a learner is, how wrong it is, and what its Fisher rows are.

    linear      ridge regression, diabetes (442 patients, 10 covariates)
    logistic    softmax regression, digits (1797 images of 64 pixels)
    last layer  a network with one hidden layer, MNIST-5000: rows of its last layer, which move as it learns

Each split holds 60 % of the data as the pool and tests on the rest. Only inputs are standardised, with the pool's own; labels are seen when
bought. Goes to: `label_study`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learnlag_jax import fermat
from learnlag_jax.experiments import data

HIDDEN, COMPONENTS, TRAINING_STEPS = 64, 50, 300


class Task(NamedTuple):
    """A learner on one split of the data.

    Attributes:
        fit: `fit(rows)` -> model, from the labels of those rows of the pool.
        error: `error(model)` -> scalar on the test set.
        information: `information(model)` -> (N, p) Fisher rows of the pool; `information(None)` before any label.
        doubt: `doubt(model, rows)` -> (N,) uncertainty of the prediction at each row of the pool.
        prior: (p,) -> diagonal of the prior information, the ridge penalty; a function of the number of columns.
        size: N.
        first, batch, budget: labels in the first purchase, in each later one, and in all.
    """

    fit: Callable[[np.ndarray], Any]
    error: Callable[[Any], float]
    information: Callable[[Any], Any]
    doubt: Callable[[Any, np.ndarray], np.ndarray]
    prior: Callable[[int], np.ndarray]
    size: int
    first: int
    batch: int
    budget: int


def _split(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng([seed, 41]).permutation(n)
    return order[: int(0.6 * n)], order[int(0.6 * n) :]


def _with_constant(X):
    return np.column_stack([np.asarray(X), np.ones(len(X))])


def _weak_constant(penalty: float) -> Callable[[int], np.ndarray]:
    """The same penalty on every column but the last, the constant, which is nearly free."""
    return lambda p: np.append(np.full(p - 1, penalty), 1e-3)


def linear(seed: int) -> Task:
    """Ridge regression on the diabetes patients; the error is the mean square over the variance of the test answers."""
    X, y = data.diabetes().content
    pool, test = _split(len(X), seed)
    centre, spread = X[pool].mean(0), X[pool].std(0)
    A, B = (_with_constant((X[part] - centre) / spread) for part in (pool, test))
    prior = _weak_constant(1.0)
    penalty = np.diag(prior(A.shape[1]))

    def doubt(model, rows):
        return np.sum(np.linalg.solve(A[rows].T @ A[rows] + penalty, A.T).T * A, 1)

    return Task(
        lambda rows: np.linalg.solve(A[rows].T @ A[rows] + penalty, A[rows].T @ y[pool][rows]),
        lambda w: float(np.mean((B @ w - y[test]) ** 2) / np.var(y[test])),
        lambda model: A,
        doubt,
        prior,
        len(pool),
        10,
        5,
        100,
    )


def _margin(p: np.ndarray) -> np.ndarray:
    """Minus the difference of the two largest class probabilities: the classical uncertainty of a classifier."""
    top = np.sort(p, 1)[:, -2:]
    return top[:, 0] - top[:, 1]


def logistic(seed: int) -> Task:
    """Softmax regression with an L2 penalty on the pixels of digits; the error is the share of test images misread."""
    from sklearn.linear_model import LogisticRegression

    X, y = data.digits().content
    pool, test = _split(len(X), seed)
    A = _with_constant(X[pool])

    def probability(model, images):
        p = np.zeros((len(images), 10))
        p[:, model.classes_] = model.predict_proba(images)  # a class not yet met has probability 0
        return p

    def information(model):
        p = np.full((len(pool), 10), 0.1) if model is None else probability(model, X[pool])
        return fermat.softmax_rows(jnp.log(jnp.asarray(p) + 1e-12), jnp.asarray(A))

    return Task(
        lambda rows: LogisticRegression(C=1.0, max_iter=500).fit(X[pool][rows], y[pool][rows]),
        lambda model: float(np.mean(model.predict(X[test]) != y[test])),
        information,
        lambda model, rows: _margin(probability(model, X[pool])),
        _weak_constant(1.0),
        len(pool),
        20,
        20,
        300,
    )


@functools.lru_cache(1)
def _mnist():
    return data.mnist_5000().content


def last_layer(seed: int) -> Task:
    """A network on the leading components of MNIST-5000, trained from the same start at every purchase."""
    X, y = _mnist()
    pool, test = _split(len(X), seed)
    centre = X[pool].mean(0)
    _, scale, axes = np.linalg.svd(X[pool] - centre, full_matrices=False)
    project = axes[:COMPONENTS].T / scale[0] * np.sqrt(len(pool))
    A, B = (jnp.asarray((X[part] - centre) @ project, jnp.float32) for part in (pool, test))
    start = initial_network(jax.random.key(seed))
    labels = jnp.asarray(y[pool])
    budget = 400

    def fit(rows):
        length = budget if len(rows) <= budget else len(rows)
        places = np.concatenate([rows, np.zeros(length - len(rows), int)])  # one shape for every purchase
        weight = (np.arange(length) < len(rows)) / len(rows)
        return train_network(start, A[places], labels[places], jnp.asarray(weight, jnp.float32))

    def information(model):
        if model is None:
            return 0.3 * _with_constant(A)  # an undecided softmax of ten classes: sqrt((1 - 1/10) / 10)
        h = hidden(model, A)
        rows = fermat.softmax_rows(logits(model, A), jnp.concatenate([h, jnp.ones((len(h), 1), h.dtype)], 1))
        return np.asarray(rows, np.float64)

    return Task(
        fit,
        lambda model: float(np.mean(np.asarray(jnp.argmax(logits(model, B), 1)) != y[test])),
        information,
        lambda model, rows: _margin(np.asarray(jax.nn.softmax(logits(model, A)), np.float64)),
        _weak_constant(1.0),
        len(pool),
        40,
        40,
        budget,
    )


def initial_network(key) -> dict:
    """Weights of one tanh layer and a linear one, Glorot scaled, float32."""
    one, two = jax.random.split(key)
    return {
        "W": jax.random.normal(one, (COMPONENTS, HIDDEN), jnp.float32) / np.sqrt(COMPONENTS).astype(np.float32),
        "b": jnp.zeros(HIDDEN, jnp.float32),
        "V": jax.random.normal(two, (HIDDEN, 10), jnp.float32) / np.sqrt(HIDDEN).astype(np.float32),
        "c": jnp.zeros(10, jnp.float32),
    }


def hidden(w: dict, X):
    """Inputs of the last layer."""
    return jnp.tanh(X @ w["W"] + w["b"][None, :])


def logits(w: dict, X):
    """The network's answer."""
    return hidden(w, X) @ w["V"] + w["c"][None, :]


@jax.jit
def train_network(w: dict, X, y, weight) -> dict:
    """Adam on the weighted cross-entropy with a small L2 penalty, all examples at every step."""
    optimiser = optax.adam(1e-2)

    def loss(w):
        fit = jnp.sum(weight * optax.softmax_cross_entropy_with_integer_labels(logits(w, X), y))
        return fit + 1e-3 * (jnp.sum(w["W"] ** 2) + jnp.sum(w["V"] ** 2))

    def step(carry, _):
        w, state = carry
        updates, state = optimiser.update(jax.grad(loss)(w), state)
        return (jax.tree.map(jnp.add, w, updates), state), None

    return jax.lax.scan(step, (w, optimiser.init(w)), length=TRAINING_STEPS)[0][0]


TASKS = {"linear, diabetes": linear, "logistic, digits": logistic, "last layer, MNIST-5000": last_layer}
