"""Bases and roots of stacked symmetric factors: eigenvectors, one warm-started QR step, and the polar factor.

    refresh   Q <- eigh(A)                       exact
              Q <- qr((A + delta tr(A)/d I) Q)   one step of orthogonal iteration: two matrix products, never unstable
    polar     U = (X X')^{-1/2} X                by matrix products alone

Everything works on stacks (K, d, d), in float32 at least and at full matrix precision. Comes from: factors in
`FisherState`. Goes to: `precondition`. Reference: MATH.md 7; Vyas et al. 2024 (SOAP); Higham 2008 ch. 8.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax.fisher.moments import square
from learnlag_jax.vocabulary import Array

HIGHEST = jax.lax.Precision.HIGHEST
LETTERS = "abcdefghij"


def contract(spec: str, *stacks: Array) -> Array:
    """`einsum` of every matrix in the stacks (K, ..), at full precision.

    Without the batch axis where K = 1: products with one run at half the speed on CPU (jaxlib 0.10).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.roots import contract
        >>> contract("ab,b->a", jnp.array([[[1.0, 2.0]]]), jnp.array([[3.0, 4.0]])).tolist()
        [[11.0]]
    """
    if all(len(x) == 1 for x in stacks):
        return jnp.einsum(spec, *(x[0] for x in stacks), precision=HIGHEST)[None]
    inputs, output = spec.split("->")
    batched = ",".join("k" + letters for letters in inputs.split(","))
    return jnp.einsum(f"{batched}->k{output}", *stacks, precision=HIGHEST)


def axis_moment(x: Array, axis: int) -> Array:
    """sum over all axes but K and `axis` of x conj(x): (K, d, d), the second moment seen along one axis.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.roots import axis_moment
        >>> axis_moment(jnp.array([[[1.0, 2.0], [0.0, 1.0]]]), 0)[0].tolist()
        [[5.0, 2.0], [2.0, 1.0]]
    """
    letters = LETTERS[: x.ndim - 1]
    other = letters[:axis] + "z" + letters[axis + 1 :]
    return contract(f"{letters},{other}->{letters[axis]}z", x, x.conj())


def rotate(x: Array, bases: dict[int, Array], *, back: bool = False) -> Array:
    """Into the bases (x_i = sum_a conj(Q_ai) x_a on every given axis), or back (x_a = sum_i Q_ai x_i)."""
    for axis, q in bases.items():
        x = along(q if back else q.conj(), x, axis, transposed=not back)
    return x


def along(M: Array, x: Array, axis: int, *, transposed: bool = False) -> Array:
    """M x on one axis of every array in the stack, sum_b M_ab x_b, or M' x.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.roots import along
        >>> along(jnp.array([[[0.0, 1.0], [2.0, 0.0]]]), jnp.array([[3.0, 5.0]]), 0).tolist()
        [[5.0, 6.0]]
    """
    letters = LETTERS[: x.ndim - 1]
    old = letters[axis]
    matrix, result = old + "z" if transposed else "z" + old, letters.replace(old, "z")
    # the free axes of a product come in the order of its factors: no transpose if they are wanted so
    if axis == 0:
        return contract(f"{matrix},{letters}->{result}", M, x)
    return contract(f"{letters},{matrix}->{result}", x, M)


class Fit(NamedTuple):
    """How well bases fit their factors, one number each (K,).

    Attributes:
        staleness: |offdiag(Q' A Q)|_F / |A|_F.
        whitening: |P A P - I|_F / sqrt(d) with P = diag(Q' A Q)^{-1/2}: what correlation is left between coordinates.
        condition: largest over mean eigenvalue.
    """

    staleness: Array
    whitening: Array
    condition: Array


class Refreshed(NamedTuple):
    """New bases (K, d, d), and how well the old ones fitted the factors."""

    basis: Array
    fit: Fit


def refreshed(A: Array, Q: Array, kind: str = "qr") -> Refreshed:
    """The next bases of a stack of positive semi-definite factors: "qr", one step from Q, or "eigh", exact.

    Nothing here depends on the scale of A; tiny entries would square to denormals and huge ones to infinity.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.roots import refreshed
        >>> A = jnp.array([[[2.0, 1.0], [1.0, 2.0]]])
        >>> [round(float(x), 6) for x in jnp.abs(refreshed(A, jnp.eye(2)[None], "eigh").basis).ravel()]
        [0.707107, 0.707107, 0.707107, 0.707107]
    """
    A = A / _level(A).astype(A.dtype)
    AQ = contract("ab,bc->ac", A, Q)
    return Refreshed(qr_step(A, Q, AQ) if kind == "qr" else jnp.linalg.eigh(A)[1], fit(Q, AQ))


def _level(x: Array) -> Array:
    """The largest entry of every matrix, (K, 1, 1), or 1 of zeros: over it, squares neither overflow nor vanish."""
    level = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    return jnp.where(level > 0, level, jnp.ones_like(level))


def qr_step(A: Array, Q: Array, AQ: Array, ridge: float = 1e-3) -> Array:
    """One step of orthogonal iteration from Q; the ridge keeps a rank-deficient factor from drawing a random null basis."""
    level = jnp.trace(A, axis1=-2, axis2=-1).real * jnp.asarray(ridge / A.shape[-1], A.real.dtype)
    turned = orthonormal(AQ + level[:, None, None].astype(A.dtype) * Q)
    # of a sum, which is finite where every entry is: a reduction with "and" compiles to three kernels
    sound = jnp.isfinite(jnp.sum(turned, axis=(-2, -1), keepdims=True)) & (level > 0)[:, None, None]
    return jnp.where(sound, turned, Q)


def orthonormal(x: Array) -> Array:
    """The Q of a QR decomposition of every matrix in the stack (K, d, d), taken as a constant by differentiation.

    On CPU one matrix at a time, also under vmap: jaxlib 0.10's batched CPU `geqrf` can deadlock in its thread pool
    (seen with stacks of 96 to 384 on two cores), and one by one is as fast.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.roots import orthonormal
        >>> q = orthonormal(jnp.array([[[2.0, 1.0], [0.0, 1.0]]]))
        >>> [round(float(x), 6) for x in jnp.abs(q[0]).ravel()]
        [1.0, 0.0, 0.0, 1.0]
    """
    one_by_one = jax.vmap(jax.custom_batching.sequential_vmap(lambda y: jnp.linalg.qr(y)[0]))
    return jax.lax.platform_dependent(
        jax.lax.stop_gradient(x), cpu=one_by_one, default=lambda stack: jnp.linalg.qr(stack)[0]
    )


def fit(Q: Array, AQ: Array) -> Fit:
    """Staleness, whitening residual and condition of every factor A in its basis Q, from the product A Q."""
    inside = contract("ai,aj->ij", Q.conj(), AQ)
    w = jnp.maximum(jnp.diagonal(inside, axis1=-2, axis2=-1).real, 0)
    off = jnp.abs(inside * (1 - jnp.eye(w.shape[-1], dtype=AQ.dtype))[None])
    missed, kept = jnp.sum(off**2, axis=(-2, -1)), contract("a,a->", w, w)
    correlation = _divide(off, jnp.sqrt(w[:, :, None]) * jnp.sqrt(w[:, None, :]))
    white = jnp.sqrt(jnp.sum(correlation**2, axis=(-2, -1)) / w.shape[-1])
    condition = _divide(jnp.max(w, -1), jnp.mean(w, -1))
    return Fit(jnp.sqrt(_divide(missed, missed + kept)), white, condition)


def _divide(a, b):
    return jnp.where(b > 0, a / jnp.where(b > 0, b, jnp.ones_like(b)), jnp.zeros_like(a))


def spectrum(A: Array, Q: Array) -> Array:
    """diag(Q' A Q) alone, one matrix product; no less than its rounding, or a step would be divided by what only rounding made small."""
    w = jnp.sum(Q.conj() * contract("ab,bc->ac", A, Q), axis=-2).real
    return jnp.maximum(w, w.shape[-1] * float(jnp.finfo(w.dtype).eps) * jnp.max(w, axis=-1, keepdims=True))


def turn(old: Array, new: Array) -> Array:
    """R = Q_new^H Q_old, which takes coordinates in the old bases to coordinates in the new."""
    return contract("ai,aj->ij", new.conj(), old)


def transport(v: Array, turns: dict[int, Array]) -> Array:
    """The variances of coordinates that were uncorrelated, after a turn R on every axis: v_i <- sum_j |R_ij|^2 v_j.

    Exact for a covariance that is diagonal in the old basis; keeps sum v; a permuted basis permutes v.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.roots import transport
        >>> swap = jnp.array([[[0.0, 1.0], [1.0, 0.0]]])
        >>> transport(jnp.array([[3.0, 5.0]]), {0: swap}).tolist()
        [[5.0, 3.0]]
    """
    return rotate(v, {axis: square(R) for axis, R in turns.items()}, back=True)


def kronecker_spectrum(w: dict[int, Array], shape: tuple[int, ...]) -> Array:
    """Eigenvalues of A_1 (x) A_2 .. / tr^(r - 1) on a stack of `shape`, from those of the factors, {axis: (K, d)}.

    An axis of length n without a factor counts as A = (tr / n) I.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.roots import kronecker_spectrum
        >>> kronecker_spectrum({0: jnp.array([[1.0, 3.0]]), 1: jnp.array([[4.0, 0.0]])}, (1, 2, 2))[0].tolist()
        [[1.0, 0.0], [3.0, 0.0]]
    """

    def along(axis, values):
        return values.reshape(shape[0], *(d if i == axis else 1 for i, d in enumerate(shape[1:])))

    (axis, first), *rest = w.items()
    bare = math.prod(d for i, d in enumerate(shape[1:]) if i not in w)
    product = jnp.broadcast_to(along(axis, first) / jnp.asarray(bare, first.dtype), shape)
    for axis, values in rest:
        product = product * along(axis, _divide(values, jnp.sum(values, -1, keepdims=True)))
    return product


def energy(g: Array, F: Array) -> Array:
    """g' F^-1 g for a diagonal F; float32; a direction without a second moment is one without gradient, and carries none."""
    return jnp.sum(square(g) / (F + jnp.finfo(F.dtype).tiny)).astype(jnp.float32)


# p(x) = a x + b x^3 + c x^5: each is the minimax approximation of 1 on what the one before leaves of [3e-3, 1] (Amsel et
# al. 2025, found here by linear programming); five leave [0.995, 1.005]. Then Newton-Schulz, which cubes the error.
LIFT = (
    (8.383675, -24.765912, 18.357087),
    (4.043420, -3.011405, 0.569512),
    (3.505571, -2.626654, 0.525719),
    (2.490116, -1.834275, 0.436835),
    (1.917776, -1.296750, 0.379705),
)
POLISH = (1.875, -1.25, 0.375)


def polar(x: Array, steps: int = 5) -> Array:
    """The polar factor (x x')^{-1/2} x of a stack (K, m, n), by composed odd polynomials and matrix products alone.

    Five steps bring singular values above 3e-3 of the Frobenius norm to 1 within 0.5 %, six to rounding in float32, at
    the arithmetic of Muon's five, which leave up to 30 %. Smaller ones are lifted by up to 570: rounding, not signal.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.roots import polar
        >>> [round(float(x), 5) for x in polar(jnp.array([[[3.0, 0.0], [0.0, 0.1]]]), 6)[0].diagonal()]
        [1.0, 1.0]
    """
    wide = x.shape[-2] <= x.shape[-1]
    x = x / _level(x)
    x = _divide(x, jnp.sqrt(jnp.sum(square(x), axis=(-2, -1), keepdims=True)))
    coefficients = np.array((*LIFT[:steps], *(POLISH,) * (steps - len(LIFT))))

    def step(x, abc):
        a, b, c = abc
        gram = contract("ab,cb->ac" if wide else "ba,bc->ac", x, x)  # on the shorter side
        inner = b * gram + c * contract("ab,bc->ac", gram, gram)
        return a * x + contract("ab,bc->ac", *((inner, x) if wide else (x, inner))), None

    return jax.lax.scan(step, x, jnp.asarray(coefficients.reshape(-1, 3), x.dtype))[0]  # one step to compile


def one_sided(m: Array, exponent, steps: int = 5) -> Array:
    """F^a m with F = m m' / n (x) I of the momentum itself, on the shorter side: sqrt(n) polar(m) at a = -1/2.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.roots import one_sided
        >>> u = one_sided(jnp.diag(jnp.array([3.0, 0.5]))[None], -0.5, 6)
        >>> [round(float(x), 4) for x in u[0].diagonal()]
        [1.4142, 1.4142]
    """
    if isinstance(exponent, (int, float)) and exponent == -0.5 and not jnp.iscomplexobj(m):
        return polar(m, steps) * jnp.asarray(max(m.shape[-2:]) ** 0.5, m.dtype)
    if m.shape[-2] <= m.shape[-1]:
        return _momentum_power(m, exponent)
    return jnp.swapaxes(_momentum_power(jnp.swapaxes(m, -1, -2).conj(), exponent), -1, -2).conj()


def _momentum_power(x: Array, exponent) -> Array:
    """(x x' / n)^a x by eigenvectors; directions that are rounding are dropped, unless a = 0."""
    level = _level(x)
    x = x / level.astype(x.dtype)
    w, q = jnp.linalg.eigh(axis_moment(x, 0))
    kept = w > x.shape[-2] * jnp.finfo(w.dtype).eps * w[:, -1:]
    a = jnp.broadcast_to(jnp.asarray(exponent, w.dtype), w.shape)
    powered = jnp.power(jnp.where(kept, w, jnp.ones_like(w)) / jnp.asarray(x.shape[-1], w.dtype), a)
    factor = jnp.where(kept, powered, jnp.where(a == 0, jnp.ones_like(w), jnp.zeros_like(w)))
    factor = factor[:, :, None] * level ** (2 * a[:, :1, None] + 1)
    return rotate(rotate(x, {0: q}) * factor.astype(x.dtype), {0: q}, back=True)
