"""Information of one observation of a nonlinear or generalised linear model, as rows, by autodiff.

    f(x) = sqrt(u(eta)) d eta(theta, x) / d theta,    f f' = Fisher information of one observation at x

so that every design tool for linear models serves any model at a local parameter, or on average over a prior of it. Reference:
Chernoff (1953); Chaloner and Larntz (1989); MATH.md 4, 6.
"""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks, trees
from learnlag_jax.vocabulary import Array

# sqrt(u), written so that neither it nor its slope is lost where u underflows
FAMILIES = {
    "gaussian": lambda eta: jnp.ones_like(eta),
    "bernoulli": lambda eta: jnp.exp((jax.nn.log_sigmoid(eta) + jax.nn.log_sigmoid(-eta)) / 2),
    "poisson": lambda eta: jnp.exp(eta / 2),
    "gamma": lambda eta: jnp.ones_like(eta),
}
DRAWS = (None, "average", "separate")


def fisher_information(model, theta, x, *, family: str = "gaussian", noise=1.0, draws: str | None = None) -> Array:
    """Rows whose outer products are the Fisher information of single observations: a pool for the design tools.

        F_i = sqrt(u(eta_i)) d eta_i / d theta / noise,    eta_i = model(theta, x_i)

    The family says what the model returns: "gaussian" the mean (u = 1), "bernoulli" the logit (u = p (1 - p)), "poisson" the log
    rate (u = rate), "gamma" the log mean (u = 1, noise = 1 / sqrt(shape)).

    Args:
        model: `model(theta, x_i)` -> real scalar eta.
        theta: the local parameters, any pytree of floats, p entries; with `draws`, every leaf has a leading axis of S draws from a prior.
        x: candidates, leading axis N on every leaf.
        family: one of gaussian, bernoulli, poisson, gamma.
        noise: standard deviation of an observation, scalar or (N,).
        draws: None for one local theta. "average": the rows of candidate i give the mean information, sum_s F_is F_is' =
            mean_s f_is f_is'. "separate": each draw has its own block of columns, for `criterion(kind, draws=S)`, the mean over
            draws of the criterion itself. The two differ: the first asks how much is known on average, the second how badly a
            parameter that may be true would be known.

    Returns:
        (N, p) rows, columns in the order of `trees.ravel(theta)`; `information_matrix(rows, w)` is the information of the design w. With
        draws (N, S, p) for "average" and (N, S, S p) for "separate".

    Raises:
        InputError, DTypeError: unknown family or draws; model not scalar; theta not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import criterion, fisher_information, optimal_weights
        >>> michaelis_menten = lambda theta, x: theta[0] * x / (theta[1] + x)
        >>> x = jnp.linspace(0.05, 5.0, 100)
        >>> design = optimal_weights(fisher_information(michaelis_menten, jnp.array([1.0, 1.0]), x), "D")
        >>> [round(float(v), 2) for v in x[design.support]]  # K b / (2 K + b) = 5 / 7 on the grid, and b
        [0.7, 5.0]
        >>> prior = jnp.array([[1.0, 0.2], [1.0, 1.0]])  # K is 0.2 or 1
        >>> rows = fisher_information(michaelis_menten, prior, x, draws="separate")
        >>> design = optimal_weights(rows, criterion("D", draws=2))
        >>> [round(float(v), 2) for v in x[design.support]]
        [0.35, 0.4, 5.0]

    Reference: Chernoff, Locally optimal designs (1953); Chaloner and Larntz (1989); MATH.md 6.
    """
    checks.require(
        family in FAMILIES, "family", repr(family), f"one of {', '.join(FAMILIES)}", "it says what the model returns"
    )
    checks.require(draws in DRAWS, "draws", repr(draws), "None, 'average' or 'separate'", "see the docstring")
    checks.floating(theta, "theta")
    N = jnp.shape(jax.tree.leaves(x)[0])[:1]
    checks.require(jnp.shape(noise) in ((), N), "noise", checks.describe(noise), f"a scalar or {N}", "one a candidate")
    if not checks.is_traced(noise):
        checks.require(bool(np.all(np.asarray(noise) > 0)), "noise", noise, "positive deviations", "drop exact rows")
    if draws is not None:
        sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(theta)}
        checks.require(
            len(sizes) == 1 and () not in sizes,
            "theta",
            sorted(sizes),
            "one leading axis of draws on every leaf",
            "stack them",
        )
    rows = lambda theta: _local_rows(checks.scalar_function(model, "model"), theta, x, family, noise)
    if draws is None:
        return rows(theta)
    F = jnp.swapaxes(jax.vmap(rows)(theta), 0, 1)
    N, S, p = F.shape
    if draws == "average":
        return F / jnp.sqrt(jnp.asarray(S, F.dtype))
    return (F[:, :, None, :] * jnp.eye(S, dtype=F.dtype)[None, :, :, None]).reshape(N, S, S * p)


def _local_rows(predictor, theta, x, family: str, noise) -> Array:
    flat, fold = trees.ravel(theta)
    eta = lambda v: jax.vmap(lambda point: predictor(fold(v), point))(x)
    values, J = eta(flat), jax.jacfwd(eta)(flat)
    scale = FAMILIES[family](values) / jnp.asarray(noise, values.dtype)
    return J * jnp.broadcast_to(scale, values.shape)[:, None]
