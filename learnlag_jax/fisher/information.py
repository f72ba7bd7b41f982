"""Fisher information of any log-likelihood: estimator x structure.

    exact      F = E_x E_{y ~ model}[s s']      sum over `outcomes`, or quadrature nodes
    sampled    one y drawn from the model per x: unbiased for `exact`
    empirical  (1/n) sum_i s_i s_i'             the labels seen
    batch      E[gbar gbar'] of mini-batch means of `batch_size` examples: what Adam, Shampoo and SOAP estimate

With independent examples E[gbar gbar'] = Sigma/B + mu mu' while the empirical Fisher is Sigma + mu mu': they differ by B
where noise dominates. F is per example, a (P, P) form in nats per squared parameter. Comes from: `scores`.
Goes to: `operators`. Reference: MATH.md 6, 7; eq. 22-24; Kunstner et al. 2019 on the empirical Fisher.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax import checks, trees
from learnlag_jax.fisher import operators
from learnlag_jax.fisher.matrix_free import MatrixFreeFisher
from learnlag_jax.fisher.scores import group_scores, meant, meant_draws, weighted, wide_dtype
from learnlag_jax.vocabulary import Array, PyTree

STRUCTURES = ("full", "diagonal", "kronecker", "matrix_free")


def fisher_information(
    log_prob: Callable,
    params: PyTree,
    batch: PyTree,
    *,
    estimator: str = "empirical",
    structure: str = "full",
    outcomes: Callable | None = None,
    sample: Callable | None = None,
    key: Array | None = None,
    batch_size: int | None = None,
    damping: float = 0.0,
    krylov: int = 64,
) -> operators.Operator:
    """The Fisher information F = sum_j w_j s_j s_j' as an operator with `mv`, `solve`, `power`, `trace`, `dense`.

    Args:
        log_prob: `log_prob(params, example)`, one real scalar in nats.
        params: theta, a pytree of P real numbers.
        batch: n examples, leading axis n on every leaf.
        estimator: "exact" (needs `outcomes`), "sampled" (needs `key` and `sample` or `outcomes`), "empirical" or "batch".
        structure: "full", "diagonal", "kronecker" (one block per leaf, one factor per axis) or "matrix_free".
        outcomes: `outcomes(params, example) -> (examples with leading axis, probabilities)`.
        sample: `sample(params, example, key) -> example` with the outcome redrawn from the model.
        key: a typed JAX key for "sampled".
        batch_size: examples per mini-batch for "batch"; all n by default (rank one).
        damping: adds damping * (tr F / P) I, at least 0: relative to scale, so a change of units leaves its effect alone.
            In "kronecker" each factor gets damping times its own mean eigenvalue, so that a block stays a product of
            factors: the trace of a matrix leaf grows by (1 + damping)^2.
        krylov: dimension of the Krylov space for matrix-free powers: exact from the number of distinct eigenvalues on; at
            64 and a condition of 1e4 F^-1 v may be wrong by a quarter. F(F.solve(v)) beside v tells.

    Returns:
        An operator (a pytree, so it passes through jit): `mv(v)` = F v, `solve(v)` = F^-1 v, `power(a)`, again an operator,
        `trace()` and `dense()`; calling it is `mv`. With the model's own outcomes ("exact") F is also the generalised
        Gauss-Newton matrix wherever `log_prob` is that of an exponential family in its natural parameters.

    Raises:
        InputError: unknown estimator or structure, or what the estimator needs is missing; a negative damping.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher import fisher_information
        >>> log_prob = lambda mean, x: -jnp.sum((x - mean) ** 2) / 2
        >>> F = fisher_information(log_prob, jnp.zeros(2), jnp.array([[1.0, 0.0], [0.0, 2.0]]))
        >>> [round(float(x), 6) for x in F.solve(jnp.array([1.0, 1.0]))]
        [2.0, 0.5]

    Reference: MATH.md 6; eq. 23, 24.
    """
    checks.floating(params, "params")
    checks.require(
        structure in STRUCTURES, "structure", repr(structure), "one of " + ", ".join(STRUCTURES), "choose one"
    )
    fits = checks.is_traced(damping) or damping >= 0
    checks.require(fits, "damping", damping, "a number, at least 0", "F would no longer be positive semi-definite")
    checks.whole(krylov, "krylov", 1, "64 is the default")
    data = {**meant_draws(params, batch, outcomes, sample, key), "batch_size": batch_size}
    log_prob = meant(log_prob, params, batch)
    return _fisher_information(log_prob, params, batch, estimator, structure, krylov, **data, key=key, damping=damping)


@functools.partial(
    jax.jit, static_argnames=("log_prob", "estimator", "structure", "krylov", "outcomes", "sample", "batch_size")
)
def _fisher_information(
    log_prob, params, batch, estimator, structure, krylov, *, damping, **data
) -> operators.Operator:
    examples, w = weighted(log_prob, params, batch, estimator, **data)
    if structure == "matrix_free":
        bare = MatrixFreeFisher(params, examples, w, jnp.zeros((), w.dtype), log_prob, krylov)
        ridge = _ridge(bare, damping)
        return MatrixFreeFisher(params, examples, w, ridge, log_prob, krylov)
    s = group_scores(log_prob, params, examples)
    s = jax.tree.map(lambda x: x.astype(wide_dtype(x)), s)
    build = {"full": _full, "diagonal": _diagonal, "kronecker": _kronecker}[structure]
    return _damped(build(s, w, params), damping)


def _weights(w, s):
    return w.astype(s.dtype).reshape(-1, *(1,) * (s.ndim - 1))


def _full(s, w, params):
    flat = jax.vmap(lambda tree: trees.ravel(tree)[0])(s)
    return operators.FullFisher(flat.T @ (_weights(w, flat) * flat), params)


def _diagonal(s, w, params):
    return operators.DiagonalFisher(jax.tree.map(lambda x: jnp.sum(_weights(w, x) * x**2, 0), s), params)


def _kronecker(s, w, params):
    def leaf(x):
        axes = range(1, x.ndim)
        moments = tuple(_axis_moment(x, _weights(w, x) * x, axis) for axis in axes)
        return operators.kronecker_factors(moments, jnp.sum(_weights(w, x) * x**2))

    built = [leaf(x) for x in jax.tree.leaves(s)]
    return operators.KroneckerFisher(tuple(f for f, _ in built), tuple(t for _, t in built), params)


def _axis_moment(x, wx, axis):
    """E over examples and all other axes of x_a x_b: the second moment seen by one axis."""
    others = tuple(i for i in range(x.ndim) if i != axis)
    return jnp.tensordot(wx, x, axes=(others, others))


def _ridge(F: operators.Operator, damping) -> Array:
    trace = F.trace()
    return jnp.asarray(damping, trace.dtype) * trace / trees.size(F.point)


@functools.singledispatch
def _damped(F, damping):
    return F


@_damped.register
def _(F: operators.FullFisher, damping):
    return operators.FullFisher(
        F.matrix + _ridge(F, damping) * jnp.eye(F.matrix.shape[0], dtype=F.matrix.dtype), F.point
    )


@_damped.register
def _(F: operators.DiagonalFisher, damping):
    ridge = _ridge(F, damping)
    return operators.DiagonalFisher(jax.tree.map(lambda d: d + ridge.astype(d.dtype), F.values), F.point)


@_damped.register
def _(F: operators.KroneckerFisher, damping):
    """Each factor A gets damping * (tr A / d) I, so the block stays a Kronecker product; a number has no factor."""

    def lift(a):
        d = a.shape[0]
        return a + jnp.asarray(damping, a.dtype) * (jnp.trace(a) / d) * jnp.eye(d, dtype=a.dtype)

    scales = tuple(t if f else t + jnp.asarray(damping, t.dtype) * t for f, t in zip(F.factors, F.scales, strict=True))
    return operators.KroneckerFisher(tuple(tuple(map(lift, f)) for f in F.factors), scales, F.point)
