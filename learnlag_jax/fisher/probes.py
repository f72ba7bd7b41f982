"""The field residual without a matrix: traces by random probes, powers of F by Lanczos, Hessians by products.

    tr(F^-1 H)     = E[ z' F^-1 H z ]                z with independent signs (Hutchinson 1990)
    (div F^-1) . g = -E[ z' F^-1 d[F y](z) ]         y = F^-1 g, the derivative along z by one jvp

Memory O(P x krylov), never P^2. Comes from: `log_prob(params, example)` with many parameters. Goes to: the report.
Reference: MATH.md 6; eq. 26-30.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax import checks, trees
from learnlag_jax.fisher.information import fisher_information
from learnlag_jax.fisher.stationarity import again
from learnlag_jax.vocabulary import Array, PyTree, Status, first_failure, status_where


class ProbedStationarity(NamedTuple):
    """The field residual at one parameter, estimated with random probes.

    Attributes:
        residual: 1 + curvature + divergence; 0 for a well-specified model at its maximum likelihood.
        curvature: tr(F^-1 E[Hess l]) / P.
        divergence: (div F^-1) . E[grad l] / P.
        drift: kinetic energy of the mean score, gbar' F^-1 gbar / (2 P).
        standard_error: of `residual` over the draw of probes alone.
        status: `converged`; `nonfinite_function`; `rank_deficient` where F has no inverse at rounding; `max_steps` where the Krylov space
            is too small for it: F w is not z to a thousandth (half a hundredth in float32) for some probe z and w = F^-1 z.

    Example:
        >>> from learnlag_jax.fisher import ProbedStationarity
        >>> ProbedStationarity._fields[0]
        'residual'
    """

    residual: Array
    curvature: Array
    divergence: Array
    drift: Array
    standard_error: Array
    status: Array


def probed_stationarity(
    log_prob: Callable, params: PyTree, batch: PyTree, key: Array, *, probes: int = 32, krylov: int = 64, **options
) -> ProbedStationarity:
    """The field Euler-Lagrange residual of the learning Lagrangian for models too large for P x P matrices.

        residual = 1 + tr(F^-1 E[Hess l]) / P + (div F^-1) . E[grad l] / P

    Args:
        log_prob: `log_prob(params, example)`, one real scalar in nats, three times differentiable.
        params: theta, a pytree of P real numbers.
        batch: n examples, leading axis n on every leaf.
        key: a typed JAX key for the probes, and for the labels of "sampled".
        probes: random directions; the standard error falls as their root.
        krylov: dimension of the Krylov space of F^-1: exact from the number of distinct eigenvalues of F on; raise it, or
            `damping`, where the status says `max_steps`.
        **options: of `fisher_information`: `estimator`, `outcomes`, `sample`, `damping` (relative; use it where F is
            rank-deficient, for its inverse acts on its range alone).

    Returns:
        `ProbedStationarity`.

    Raises:
        InputError: fewer than two probes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from learnlag_jax.fisher import probed_stationarity
        >>> x = jax.random.normal(jax.random.key(0), (1000, 3), jnp.float64)
        >>> log_prob = lambda t, x: -jnp.sum((x - t) ** 2) / 2
        >>> found = probed_stationarity(log_prob, x.mean(0), x, jax.random.key(1))
        >>> bool(abs(found.residual) < 0.2)
        True

    Reference: MATH.md 6; eq. 26-30.
    """
    checks.require(probes >= 2, "probes", probes, "at least 2", "their spread gives the standard error")
    if options.get("estimator") == "sampled":
        key, options["key"] = jax.random.split(key)
    flat, fold = trees.ravel(params)
    F_at = lambda theta: fisher_information(
        log_prob, fold(theta), batch, structure="matrix_free", krylov=krylov, **again(options)
    )
    mean = lambda theta: jnp.mean(jax.vmap(log_prob, (None, 0))(fold(theta), batch))
    product = lambda operator, v: trees.ravel(operator.mv(fold(v)))[0]
    F, g = F_at(flat), jax.grad(mean)(flat)
    inverse = F.power(-1.0)
    y = product(inverse, g)

    def probe(key):
        z = jax.random.rademacher(key, flat.shape, flat.dtype)
        w = product(inverse, z)
        missed, length = z - product(F, w), jnp.linalg.norm
        lost = length(missed) > enough * length(z)
        outside = length(product(F, missed)) <= eps**0.5 * length(product(F, z))  # of the range of F
        hessian = jax.jvp(jax.grad(mean), (flat,), (z,))[1]
        turned = jax.jvp(lambda theta: product(F_at(theta), y), (flat,), (z,))[1]
        return jnp.vdot(w, hessian) / flat.size, -jnp.vdot(w, turned) / flat.size, lost & outside, lost

    eps = float(jnp.finfo(flat.dtype).eps)
    enough = max(1e-3, eps ** (1 / 3))
    curvature, divergence, outside, lost = jax.lax.map(probe, jax.random.split(key, probes))
    spread = jnp.std(curvature + divergence, ddof=1) / jnp.sqrt(jnp.asarray(probes, flat.dtype))
    residual = 1 + jnp.mean(curvature) + jnp.mean(divergence)
    return ProbedStationarity(
        residual=residual,
        curvature=jnp.mean(curvature),
        divergence=jnp.mean(divergence),
        drift=jnp.vdot(g, y) / (2 * flat.size),
        standard_error=spread,
        status=first_failure(
            status_where(~jnp.isfinite(residual), Status.nonfinite_function),
            status_where(jnp.any(outside), Status.rank_deficient),
            status_where(jnp.any(lost), Status.max_steps if krylov < flat.size else Status.rank_deficient),
        ),
    )
