"""Is a fitted model a stationary point of the learning Lagrangian? The field residual, its parts, and a test.

    residual = 1 + tr(F^-1 E[Hess l]) / P + (div F^-1) . E[grad l] / P                    (eq. 26-30)
    kinetic  = E[ s' F^-1 s ] / (2 P)            equipartition: rank F / (2 P) over the examples that define F

l is the log-likelihood per example (nats), s its score, F the Fisher information, P the number of parameters. Zero at the
maximum-likelihood estimator of a well-specified model (E[Hess l] = -F). With the outer-product F this is the trace
form of White's information-matrix test: non-zero at an optimum means the model is misspecified. With the model
Fisher of a canonical-link regression it vanishes at every optimum whatever the data: never use that pairing as evidence.

Sign: the field equation needs V = +l, while a particle that climbs l moves in the potential -l. Both are kept as
written. Comes from: `log_prob(params, example)`. Goes to: the report, `testing.assert_maximum_likelihood`.
Reference: MATH.md 6; White 1982; Takeuchi 1976.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from learnlag_jax import checks, trees
from learnlag_jax.fisher.information import fisher_information
from learnlag_jax.fisher.operators import in_units, matrix_power
from learnlag_jax.fisher.scores import example_count, meant, meant_draws, scores
from learnlag_jax.vocabulary import Array, PyTree, Status, first_failure, status_where


class Stationarity(NamedTuple):
    """The field residual at one parameter, its parts, and what they say about the model.

    Attributes:
        residual: 1 + curvature + divergence; 0 for a well-specified model at its maximum likelihood.
        curvature: tr(F^-1 E[Hess l]) / P; -1 when the information equality holds.
        divergence: (div F^-1) . E[grad l] / P; 0 at a maximum of the likelihood.
        kinetic: mean over examples of s' F^-1 s / (2 P); 1/2 at full rank (equipartition).
        drift: kinetic energy of the mean score, gbar' F^-1 gbar / (2 P); 0 at a maximum of the likelihood.
        statistic: ((penalty / P - 1) / standard_error)^2; chi-square(1) under the model.
        p_value: chance of a larger statistic under a well-specified model; small means misspecified.
        standard_error: of penalty / P - 1 over repeated data sets at the maximum likelihood: to first order that of
            `residual`, for a right model and the empirical F.
        tic: Takeuchi's criterion, -2 sum l + 2 penalty (nats).
        penalty: tr(J^-1 K), J = -E[Hess l], K = E[s s']: P for a well-specified model.
        covariance: sandwich J^-1 K J^-1 / n of the estimator, (P, P), in the order of `trees.ravel`.
        rank: rank of F at rounding, in units of its own diagonal, as its pseudo-inverse is.
        status: `converged`; `nonfinite_function` or `nonfinite_derivative`; `rank_deficient` if F is, for then its inverse is a
            pseudo-inverse; `singular` or `not_positive_definite` if J is (in units of its own diagonal): then tic, penalty and
            covariance mean nothing; `undetermined`, with a NaN for statistic and p-value, where what is tested is the same
            for all data, as in a saturated model.

    Example:
        >>> from learnlag_jax.fisher import Stationarity
        >>> Stationarity._fields[:3]
        ('residual', 'curvature', 'divergence')
    """

    residual: Array
    curvature: Array
    divergence: Array
    kinetic: Array
    drift: Array
    statistic: Array
    p_value: Array
    standard_error: Array
    tic: Array
    penalty: Array
    covariance: Array
    rank: Array
    status: Array


def stationarity(
    log_prob: Callable, params: PyTree, batch: PyTree, *, estimator: str = "empirical", **options
) -> Stationarity:
    """The field Euler-Lagrange residual of the learning Lagrangian at `params`, with White's test and Takeuchi's criterion.

        residual = 1 + tr(F^-1 E[Hess l]) / P + (div F^-1) . E[grad l] / P

    Args:
        log_prob: `log_prob(params, example)`, one real scalar in nats, three times differentiable.
        params: theta, a pytree of P real numbers; P up to about a thousand (P x P matrices are formed).
        batch: n examples, leading axis n on every leaf.
        estimator: which Fisher information fills F; "empirical" makes the residual a test that can fail; "sampled" holds
            its labels fixed when theta moves, so its `divergence` is that of "exact" at a maximum only.
        **options: of `fisher_information`: `outcomes`, `sample`, `key`, `batch_size`, `damping`.

    Returns:
        `Stationarity`. The p-value is for a maximum-likelihood `params`: away from one look at `drift` first. It is that of
        a limit of many examples: below a few hundred it rejects right models too often, and that of `bootstrap` does not.

    Raises:
        InputError, DTypeError: at trace time.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from learnlag_jax.fisher import stationarity
        >>> x = jax.random.normal(jax.random.key(0), (1000,), jnp.float64)
        >>> log_prob = lambda t, x: -((x - t[0]) ** 2) / 2
        >>> right, wrong = stationarity(log_prob, x.mean()[None], x), stationarity(log_prob, 2 * x.mean()[None], 2 * x)
        >>> bool(abs(right.residual) < 0.2), bool(right.p_value > 0.01), bool(wrong.p_value < 1e-6)
        (True, True, True)

    Reference: MATH.md 6; eq. 26-30.
    """
    checks.floating(params, "params")
    values = {name: options.pop(name) for name in ("key", "damping") if name in options}
    drawn = meant_draws(params, batch, options.pop("outcomes", None), options.pop("sample", None), values.get("key"))
    options |= {name: function for name, function in drawn.items() if function is not None}
    return _stationarity(
        meant(log_prob, params, batch), estimator, tuple(sorted(options.items())), params, batch, values
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _stationarity(log_prob, estimator, choices, params, batch, values) -> Stationarity:
    n, options = example_count(batch), dict(choices) | values
    flat, fold = trees.ravel(params)
    size = flat.size

    def information(theta):
        return fisher_information(log_prob, theta, batch, estimator=estimator, **again(options))

    def mean_log_prob(theta):
        return jnp.mean(jax.vmap(log_prob, (None, 0))(fold(theta), batch))

    F = information(params).dense()
    bare, unit = in_units(F)
    w = jnp.linalg.eigvalsh(bare)
    rank = jnp.sum(w > size * jnp.finfo(F.dtype).eps * jnp.max(w), dtype=jnp.int32)
    inverse = matrix_power(bare, -1.0) / unit[:, None] / unit[None, :]
    s = jax.vmap(lambda tree: trees.ravel(tree)[0])(scores(log_prob, params, batch)).astype(F.dtype)
    score = jnp.mean(s, 0)
    hessian = jax.hessian(mean_log_prob)(flat).astype(F.dtype)
    curvature = jnp.sum(inverse * hessian) / size
    divergence = inverse_divergence(lambda theta: information(fold(theta)), flat, inverse, inverse @ score) / size
    mahalanobis = jnp.sum((s @ inverse) * s, axis=1)
    statistic, standard_error = information_matrix_statistic(log_prob, fold, flat, batch, s, hessian)
    J, K = -hessian, s.T @ s / n
    K = 0.5 * (K + K.T)
    inverse_J = jnp.linalg.inv(J)
    penalty = jnp.sum(inverse_J * K)
    finite = jnp.isfinite(mean_log_prob(flat)) & jnp.all(jnp.isfinite(F))
    return Stationarity(
        residual=1 + curvature + divergence,
        curvature=curvature,
        divergence=divergence,
        kinetic=jnp.mean(mahalanobis) / (2 * size),
        drift=score @ inverse @ score / (2 * size),
        statistic=statistic,
        p_value=jax.scipy.special.erfc(jnp.sqrt(statistic / 2)),
        standard_error=standard_error,
        tic=-2 * n * mean_log_prob(flat) + 2 * penalty,
        penalty=penalty,
        covariance=inverse_J @ K @ inverse_J / n,
        rank=rank,
        status=first_failure(
            status_where(~finite, Status.nonfinite_function),
            status_where(~jnp.all(jnp.isfinite(hessian)), Status.nonfinite_derivative),
            status_where(rank < size, Status.rank_deficient),
            definiteness(J),
            status_where(jnp.isnan(statistic), Status.undetermined),
        ),
    )


def definiteness(J: Array) -> Array:
    """`singular` or `not_positive_definite` at rounding, in units of the diagonal of J: those of the parameters do not matter.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax import Status
        >>> from learnlag_jax.fisher.stationarity import definiteness
        >>> [Status(int(definiteness(jnp.diag(jnp.array(d))))).name for d in ([1e-30, 1.0], [0.0, 1.0], [-1.0, 1.0])]
        ['converged', 'singular', 'not_positive_definite']
    """
    w = jnp.linalg.eigvalsh(in_units(J)[0])
    floor = len(w) * jnp.finfo(J.dtype).eps * jnp.max(jnp.abs(w))
    return first_failure(
        status_where(jnp.any(jnp.abs(w) <= floor), Status.singular),
        status_where(w[0] < 0, Status.not_positive_definite),
    )


def again(options: dict) -> dict:
    """The options with the same key for the same labels another time."""
    return options | ({} if options.get("key") is None else {"key": jax.random.clone(options["key"])})


def inverse_divergence(information: Callable, theta: Array, inverse: Array, z: Array) -> Array:
    """(div F^-1) . g = -tr(F^-1 d[F z]/d theta) with z = F^-1 g held fixed: no derivative of an inverse is taken.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.operators import FullFisher
        >>> from learnlag_jax.fisher.stationarity import inverse_divergence
        >>> F = lambda t: FullFisher(jnp.exp(t)[:, None], t)    # F^-1 = exp(-t), so div F^-1 = -exp(-t)
        >>> t = jnp.array([0.5])
        >>> round(float(inverse_divergence(F, t, jnp.exp(-t)[:, None], jnp.exp(-t))), 6)
        -0.606531
    """
    jacobian = jax.jacfwd(lambda t: information(t).dense() @ z)(theta)
    return -jnp.sum(inverse * jacobian.T)


def information_matrix_statistic(log_prob, fold, flat, batch, s, hessian):
    """White's test in trace form: c_i = tr(J^-1 (s_i s_i' + Hess_i)) / P has mean penalty / P - 1, zero under the model.

    The weight is J^-1, not F^-1: the outer product in F is correlated with what is tested, which spoils the size in
    small samples. The mean at the fitted theta moves with theta, hence c_i - grad(mean c) . H^-1 s_i in the variance. NaN
    where that has none: then the two cancel for whatever data.
    """
    size, n = flat.size, s.shape[0]
    weight, directions = jnp.linalg.eigh(-jnp.linalg.inv(hessian))
    weight, directions = weight.astype(flat.dtype), directions.T.astype(flat.dtype)

    def indicator(theta, example):
        def log_prob_flat(t):
            return log_prob(fold(t), example)

        def curvature(u):
            return jax.jvp(lambda t: jax.jvp(log_prob_flat, (t,), (u,))[1], (theta,), (u,))[1]

        score = jax.grad(log_prob_flat)(theta)
        return jnp.sum(weight * ((directions @ score) ** 2 + jax.vmap(curvature)(directions))) / size

    def mean_indicator(theta):
        return jnp.mean(jax.vmap(indicator, (None, 0))(theta, batch))

    c = jax.vmap(indicator, (None, 0))(flat, batch).astype(s.dtype)
    slope = jax.grad(mean_indicator)(flat).astype(s.dtype)
    moved = s @ jnp.linalg.solve(hessian, slope)
    variance = jnp.mean((c - moved - jnp.mean(c - moved)) ** 2)
    rounding = (1e3 * jnp.finfo(c.dtype).eps) ** 2 * jnp.mean(c**2 + moved**2)
    tested = ~(variance <= rounding)  # else the quotient would be rounding over rounding
    statistic = n * jnp.mean(c) ** 2 / jnp.where(tested, variance, jnp.ones_like(variance))
    return jnp.where(tested, statistic, jnp.nan), jnp.sqrt(variance / n)
