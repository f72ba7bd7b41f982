"""Small models with known Fisher information and gradients without one, shared by the tests of this room."""

import jax
import jax.numpy as jnp

from learnlag_jax.fisher import categorical_outcomes


def normal(shape, seed=0, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def softmax_log_prob(params, example):
    """Softmax regression: params {'w': (3, 2), 'b': (3,)}, example (x (2,), label)."""
    x, label = example
    return jax.nn.log_softmax(params["w"] @ x + params["b"])[label]


def network_log_prob(params, example):
    """One hidden layer: the Hessian depends on the label. The first logit is 0, so no direction is a gauge."""
    x, label = example
    hidden = jnp.tanh(params["w"] @ x)
    return jax.nn.log_softmax(jnp.concatenate([jnp.zeros(1, x.dtype), params["v"] @ hidden]))[label]


def softmax_problem(dtype, n=12, seed=0):
    k1, k2, k3, k4 = jax.random.split(jax.random.key(seed), 4)
    params = {"w": jax.random.normal(k1, (3, 2), dtype), "b": jax.random.normal(k2, (3,), dtype)}
    batch = jax.random.normal(k3, (n, 2), dtype), jax.random.randint(k4, (n,), 0, 3)
    return softmax_log_prob, params, batch, categorical_outcomes(softmax_log_prob, 3)


def network_problem(dtype, n=12, seed=0):
    k1, k2, k3, k4 = jax.random.split(jax.random.key(seed), 4)
    params = {"w": jax.random.normal(k1, (4, 2), dtype), "v": jax.random.normal(k2, (2, 4), dtype)}
    batch = jax.random.normal(k3, (n, 2), dtype), jax.random.randint(k4, (n,), 0, 3)
    return network_log_prob, params, batch, categorical_outcomes(network_log_prob, 3)


def gaussian_log_prob(params, example):
    """Linear regression with unknown scale: params {'w': (p,), 'log_sigma': ()}, example (x (p,), y)."""
    x, y = example
    z = (y - params["w"] @ x) * jnp.exp(-params["log_sigma"])
    return -0.5 * z**2 - params["log_sigma"] - 0.5 * jnp.log(jnp.asarray(2 * jnp.pi, z.dtype))


def gaussian_fit(batch):
    """The maximum-likelihood estimate in closed form."""
    x, y = batch
    w = jnp.linalg.lstsq(x, y)[0]
    return {"w": w, "log_sigma": 0.5 * jnp.log(jnp.mean((y - x @ w) ** 2))}
