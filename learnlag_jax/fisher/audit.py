"""Was a recorded run a stationary path of the learning Lagrangian? The residual, term by term, for any optax optimiser.

With v_k = q_{k+1} - q_k, M_k = F_k^{-a} from the run's own gradients, c_k = 1 - b1^k, the discrete Euler-Lagrange equation
of the learning Lagrangian, in units of a step, reads

    residual_k = v_k - b1 v_{k-1} + eta (1 - b1) M_k^-1 g_k  =  unexplained + drift + correction
    drift      = b1 (c_{k-1}/c_k) (M_k^-1 M_{k-1} - I) v_{k-1}                         the metric moved
    correction = b1 (c_{k-1}/c_k - 1) v_{k-1} + eta (1 - b1) (1 - 1/c_k) M_k^-1 g_k    bias correction

`unexplained` is zero to rounding for Adam (eps included, for M is what Adam divides by) and for nothing else here: it is
what the optimiser does that the Lagrangian does not. Comes from: `record`. Goes to: the report. Reference: MATH.md 7.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from learnlag_jax import checks, trees
from learnlag_jax.fisher import inputs
from learnlag_jax.fisher.scores import example_count, wide_dtype
from learnlag_jax.vocabulary import Array, PyTree


class Run(NamedTuple):
    """A recorded run.

    Attributes:
        positions: parameters before every step and after the last, leading axis n + 1.
        gradients: loss gradients at the first n positions, leading axis n.
        losses: (n,), the loss of each batch before its step.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher import Run
        >>> Run(jnp.zeros((3, 2)), jnp.ones((2, 2)), jnp.ones(2)).losses.shape
        (2,)
    """

    positions: PyTree
    gradients: PyTree
    losses: Array


class Audit(NamedTuple):
    """Stationarity of a run, one entry per interior step k = 2..n: Euclidean norms over the RMS impulse |v_k - b1 v_{k-1}|.

    The impulse is what the force has to account for, so 1 means that no part of it was explained, whatever the momentum.

    Attributes:
        residual: the whole discrete Euler-Lagrange residual.
        unexplained: the part no moving metric and no bias correction accounts for.
        drift: the part from the metric's motion, the term -M^-1 (dM/dt) v that every optimiser drops.
        correction: the part from bias correction, a rescaling of eta.
        learning_rate: eta, given or fitted.
        relative: RMS of `residual` over the run: 0 stationary, 1 when the force explains nothing, more where a fitted rate
            leaves more drift than there is impulse; NaN for a run that does not move.

    Example:
        >>> from learnlag_jax.fisher import Audit
        >>> Audit._fields
        ('residual', 'unexplained', 'drift', 'correction', 'learning_rate', 'relative')
    """

    residual: Array
    unexplained: Array
    drift: Array
    correction: Array
    learning_rate: Array
    relative: Array


def record(loss: Callable, optimiser: optax.GradientTransformation, params: PyTree, batches: PyTree) -> Run:
    """Train with any optax optimiser and keep every position and gradient.

    Args:
        loss: `loss(params, batch)`, a real scalar (minus the mean log-likelihood, nats).
        optimiser: an optax `GradientTransformation`.
        params: initial parameters.
        batches: pytree with a leading axis of n steps.

    Returns:
        `Run`. Memory grows as (n + 1) P.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from learnlag_jax.fisher import record
        >>> run = record(lambda q, x: jnp.sum((q - x) ** 2) / 2, optax.sgd(0.5), jnp.zeros(1), jnp.ones((2, 1)))
        >>> run.positions[:, 0].tolist()
        [0.0, 0.5, 0.75]

    Reference: MATH.md 7.
    """
    example_count(batches)
    optimiser = optax.with_extra_args_support(optimiser)

    def step(carry, batch):
        q, state = carry
        value, g = jax.value_and_grad(loss)(q, batch)
        updates, state = optimiser.update(g, state, q, value=value, grad=g)
        return (optax.apply_updates(q, updates), state), (q, g, value)

    (last, _), (positions, gradients, losses) = jax.lax.scan(step, (params, optimiser.init(params)), batches)
    positions = jax.tree.map(lambda path, end: jnp.concatenate([path, end[None]]), positions, last)
    return Run(positions, gradients, losses)


def audit(
    run: Run,
    *,
    learning_rate=None,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    exponent=-0.5,
    bias_correction: bool = True,
) -> Audit:
    """The stationarity residual of a recorded run under the learning Lagrangian with the diagonal batch Fisher.

    Args:
        run: from `record`; half precision is audited in float32, and a step that it rounded away was not taken.
        learning_rate: eta, one for all steps, so that a schedule shows as unexplained; None fits the one with the least
            `unexplained` (least squares; negative where the force points away), so that an optimiser is not blamed for a
            different scale.
        b1, b2, eps: friction, memory of the Fisher estimate, and what is added to its root, as in Adam.
        exponent: a in v = F^a grad l; -1/2 is the learning Lagrangian, 0 is Euclidean.
        bias_correction: whether the running moments are divided by 1 - b^k.

    Returns:
        `Audit`, arrays of length n - 1.

    Raises:
        InputError: fewer than three steps; complex parameters; a decay that is not in [0, 1).

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from learnlag_jax.fisher import audit, record
        >>> loss = lambda q, x: jnp.sum(jnp.array([1.0, 9.0]) * (q - x) ** 2) / 2
        >>> start, data = jnp.ones(2), jnp.zeros((30, 2))
        >>> with jax.numpy_dtype_promotion("standard"):    # optax multiplies integers and floats
        ...     run = record(loss, optax.adam(0.1), start, data)
        >>> adam = audit(run, learning_rate=0.1)
        >>> sgd = audit(record(loss, optax.sgd(0.1), start, data))
        >>> bool(jnp.max(adam.unexplained) < 1e-12), bool(sgd.relative > 0.1)
        (True, True)

    Reference: MATH.md 7; eq. 31, 32.
    """
    for name, decay in {"b1": b1, "b2": b2}.items():
        inputs.number(decay, name, 0, 1, "a decay in [0, 1)", "pass that of the optimiser audited")
    n = example_count(run.gradients)
    checks.require(n >= 3, "run", f"{n} steps", "at least 3 steps", "record a longer run")
    q = jax.vmap(lambda tree: trees.ravel(tree)[0])(run.positions)
    checks.require(
        not jnp.iscomplexobj(q), "run", q.dtype, "real positions", "audit real and imaginary parts as parameters"
    )
    kind = wide_dtype(q)  # where b2 does not round to 1
    q, g = q.astype(kind), jax.vmap(lambda tree: trees.ravel(tree)[0])(run.gradients).astype(kind)
    b1, b2, eps, exponent = (jnp.asarray(x, kind) for x in (b1, b2, eps, exponent))
    k = jnp.arange(1, n + 1, dtype=kind)
    c = 1 - b1**k if bias_correction else jnp.ones_like(k)
    mass = _running_mass(g, b2, eps, exponent, bias_correction)
    v = jnp.diff(q, axis=0)
    previous, current, force = v[:-1], v[1:], (g / mass)[1:]
    ratio = (c[:-1] / c[1:])[:, None]
    explained = b1 * ratio * mass[:-1] / mass[1:] * previous - current
    pull = (1 - b1) * force
    eta = (
        jnp.sum(explained * pull / c[1:, None]) / jnp.sum((pull / c[1:, None]) ** 2)
        if learning_rate is None
        else learning_rate
    )
    eta = jnp.asarray(eta, kind)
    residual = current - b1 * previous + eta * pull
    drift = b1 * ratio * (mass[:-1] / mass[1:] - 1) * previous
    correction = b1 * (ratio - 1) * previous + eta * (1 - 1 / c[1:, None]) * pull
    impulse = jnp.sqrt(jnp.mean(jnp.sum((current - b1 * previous) ** 2, 1)))
    size = lambda x: jnp.linalg.norm(x, axis=1) / impulse
    return Audit(
        residual=size(residual),
        unexplained=size(residual - drift - correction),
        drift=size(drift),
        correction=size(correction),
        learning_rate=eta,
        relative=jnp.sqrt(jnp.mean(size(residual) ** 2)),
    )


def _running_mass(g, b2, eps, exponent, bias_correction):
    """M_k = (sqrt(F_k) + eps)^(-2a) with F_k the running mean of squared batch gradients."""

    def step(carry, row):
        nu, k = carry
        nu = (1 - b2) * row**2 + b2 * nu
        k = k + 1
        return (nu, k), nu / (1 - b2**k) if bias_correction else nu

    _, nu = jax.lax.scan(step, (jnp.zeros_like(g[0]), jnp.zeros((), g.dtype)), g)
    return jnp.power(jnp.sqrt(nu) + eps, -2 * exponent)
