"""The learning Lagrangian's particle as an optax transformation: theta' = F^a grad l.

    m_k = b1 m_{k-1} + (1 - b1) g_k        F_k = b2 F_{k-1} + (1 - b2) g_k g_k'        update = F_k^a m_k

with a = -1/2 by default and both moments divided by 1 - b^k. Exponents are defined on F. Scaling the loss by c scales the
update by c^(1 + 2a): -1/2 is the scale-free one; -1 is covariant under every linear change of parameters; the kinetic
energy g' F^-1 g / (2 P) is invariant under all of them. Comes from: gradients of a loss. Goes to: an optax chain.
Reference: MATH.md 7; eq. 31, 32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from learnlag_jax import checks
from learnlag_jax.fisher.scores import wide_dtype
from learnlag_jax.vocabulary import Array, PyTree

STRUCTURES = ("diagonal", "none")


class FisherState(NamedTuple):
    """State of `scale_by_fisher`: it holds F itself, not a root, so one state serves every exponent.

    Attributes:
        count: int32, steps taken.
        mu: running mean of the gradients, like the parameters.
        nu: running second moment per coordinate, like the parameters, real, float32 at least.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher import scale_by_fisher
        >>> int(scale_by_fisher().init(jnp.zeros(2)).count)
        0
    """

    count: Array
    mu: PyTree
    nu: PyTree


def _real(kind) -> jnp.dtype:
    return jnp.finfo(kind).dtype


def _square(g: Array) -> Array:
    return (g.conj() * g).real if jnp.iscomplexobj(g) else g * g


def _moment(new: Array, old: Array, decay) -> Array:
    """(1 - b) new + b old, in this order, as optax adds them: equal to the last bit."""
    return jnp.asarray(1 - decay, new.dtype) * new + jnp.asarray(decay, new.dtype) * old


def _correction(decay, count: Array) -> Array:
    """1 - b^k in the widest float, so that b^k does not round to 1."""
    base = jnp.asarray(decay)
    return 1 - jax.lax.pow(base.astype(wide_dtype(base)), count)


def fisher_power(m: Array, second_moment: Array, exponent, eps) -> Array:
    """F^a m for a diagonal F: m (sqrt(F) + eps)^(2a); a division, exactly as in Adam, when a = -1/2.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.precondition import fisher_power
        >>> round(float(fisher_power(jnp.float64(3.0), jnp.float64(4.0), -0.5, 0.0)), 6)
        1.5
    """
    root = jnp.sqrt(second_moment) + jnp.asarray(eps, second_moment.dtype)
    root = root.astype(m.dtype)  # a real number even where m is complex
    if isinstance(exponent, (int, float)):
        if exponent == -0.5:
            return m / root
        if exponent == 0:
            return m
    a = jnp.asarray(exponent, root.dtype)
    return jnp.where(a == -0.5, m / root, m * jnp.power(root, jnp.broadcast_to(2 * a, root.shape)))


def scale_by_fisher(
    structure: str = "diagonal",
    *,
    exponent=-0.5,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    bias_correction: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Precondition gradients by a power of the running batch Fisher information: update = F^a m.

    Args:
        structure: "diagonal" or "none" (momentum alone).
        exponent: a, a float or a scalar array, so it can be injected and scheduled.
        b1, b2: decays of the running mean and of the running second moment, in [0, 1).
        eps: added to the root of the second moment.
        bias_correction: divide the moments by 1 - b^k.

    Returns:
        An optax `GradientTransformationExtraArgs`. Updates keep the gradient's dtype; the state is float32 at least.

    Raises:
        InputError: unknown structure.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from learnlag_jax.fisher import scale_by_fisher
        >>> ours, adam = scale_by_fisher("diagonal"), optax.scale_by_adam()
        >>> g = jnp.array([0.3, -2.0], jnp.float32)
        >>> u, _ = ours.update(g, ours.init(g))
        >>> [round(float(x), 5) for x in u]
        [1.0, -1.0]

    Reference: MATH.md 7; eq. 31, 32.
    """
    checks.require(
        structure in STRUCTURES, "structure", repr(structure), "one of " + ", ".join(STRUCTURES), "choose one"
    )

    def init(params):
        mu = jax.tree.map(lambda p: jnp.zeros_like(p, wide_dtype(p)), params)
        nu = jax.tree.map(lambda p: jnp.zeros_like(p, _real(wide_dtype(p))), params)
        return FisherState(jnp.zeros([], jnp.int32), mu, nu)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        g = jax.tree.map(lambda u: u.astype(wide_dtype(u)), updates)
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda x, m: _moment(x, m, b1), g, state.mu)
        nu = jax.tree.map(lambda x, v: _moment(_square(x), v, b2), g, state.nu)

        c1, c2 = _correction(b1, count), _correction(b2, count)

        def direction(m, v, u):
            if bias_correction:
                m, v = m / c1.astype(m.dtype), v / c2.astype(v.dtype)
            return (m if structure == "none" else fisher_power(m, v, exponent, eps)).astype(u.dtype)

        return jax.tree.map(direction, mu, nu, updates), FisherState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def fisher_descent(
    learning_rate: optax.ScalarOrSchedule,
    structure: str = "diagonal",
    *,
    weight_decay: float = 0.0,
    mask=None,
    **options,
) -> optax.GradientTransformationExtraArgs:
    """Fisher-preconditioned descent with decoupled weight decay: a drop-in for `optax.adamw(learning_rate)`.

    Args:
        learning_rate: a float, a scalar array or an optax schedule.
        structure: as in `scale_by_fisher`.
        weight_decay: decoupled decay, multiplied by the learning rate; 0 by default.
        mask: which leaves decay, as in optax.
        **options: of `scale_by_fisher`.

    Returns:
        An optax `GradientTransformationExtraArgs` whose updates are added to the parameters.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from learnlag_jax.fisher import fisher_descent
        >>> optimiser, q = fisher_descent(0.1), jnp.array([1.0, -1.0])
        >>> state = optimiser.init(q)
        >>> for _ in range(3):
        ...     updates, state = optimiser.update(q, state, q)
        ...     q = optax.apply_updates(q, updates)
        >>> [round(float(x), 2) for x in q]
        [0.7, -0.7]

    Reference: MATH.md 7.
    """
    return optax.chain(
        scale_by_fisher(structure, **options),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
