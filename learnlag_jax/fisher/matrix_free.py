"""The Fisher information of many parameters, without a matrix: products by one jvp and one vjp, powers by Lanczos.

    F v = J' diag(w) J v + ridge v        F^a v ~ |v| Q' f(T) e_1,  f(w) = w^a,  Q F Q' = T

Memory O(P + m) for a product, O(P x krylov) for a power. Comes from: `fisher_information`. Goes to: `probes`, Newton-like
steps. Reference: MATH.md 6, 7; Golub and Van Loan 2013, ch. 10.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax import trees
from learnlag_jax.fisher.operators import Operator, cutoff, register, spectral_power
from learnlag_jax.fisher.scores import group_log_probs, wide_dtype
from learnlag_jax.vocabulary import Array, PyTree


@register(meta=("log_prob", "steps"))
class MatrixFreeFisher(Operator):
    """F v = J' diag(w) J v by one jvp and one vjp; powers by Lanczos. Memory O(P + m), no matrix."""

    point: PyTree
    examples: PyTree
    weights: Array
    damping: Array
    log_prob: Callable
    steps: int

    def mv(self, v):
        v = jax.tree.map(jnp.asarray, v)
        return trees.axpy(self.damping, v, self._undamped(v))

    def _undamped(self, v):
        log_probs = group_log_probs(self.log_prob, self.examples)
        _, pushed = jax.jvp(log_probs, (self.point,), (v,))
        _, pull = jax.vjp(log_probs, self.point)
        return pull((self.weights * pushed).astype(pushed.dtype))[0]

    def power(self, exponent):
        return LanczosPower(self, jnp.asarray(exponent, self.damping.dtype))

    def trace(self):
        def square(group):
            mean = lambda params: group_log_probs(self.log_prob, jax.tree.map(lambda x: x[None], group))(params)[0]
            score = jax.grad(mean)(self.point)
            return trees.dot(score, score)  # not the square of a norm, which has no derivative at zero

        squares = jax.lax.map(square, self.examples, batch_size=16)
        return jnp.sum(self.weights * squares.astype(self.weights.dtype)) + self.damping * trees.size(self.point)


@register()
class LanczosPower(Operator):
    """F^a v ~ |v| Q f(T) e_1 from a Krylov space of `steps` dimensions, with full reorthogonalisation.

    Exact when the Krylov space of v is exhausted; otherwise the error falls as the best polynomial approximation
    of w^a on the spectrum: slowly where F is ill-conditioned. Nothing here knows whether it is small: F(F^-1 v) - v does.
    Negative powers act on the range of F. Its trace costs P powers.
    """

    fisher: MatrixFreeFisher
    exponent: Array

    @property
    def point(self):
        return self.fisher.point

    def mv(self, v):
        v = jax.tree.map(jnp.asarray, v)
        given, fold = trees.ravel(v)
        flat = given.astype(wide_dtype(given))
        narrow = lambda x: fold(x.astype(given.dtype))
        product = lambda x: trees.ravel(self.fisher.mv(narrow(x)))[0].astype(flat.dtype)
        steps, eps = min(self.fisher.steps, flat.size), max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(v))
        q, alpha, beta = lanczos(product, flat, steps, eps)
        w, u = jnp.linalg.eigh(jnp.diag(alpha) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1))
        f = spectral_power(w, self.exponent.astype(w.dtype), cutoff(w, steps, eps))
        return narrow(jnp.linalg.norm(flat) * (q.T @ (u @ (f * u[0]))))

    def power(self, exponent):
        return LanczosPower(self.fisher, self.exponent * jnp.asarray(exponent, self.exponent.dtype))


def lanczos(mv: Callable, v: Array, steps: int, eps: float) -> tuple[Array, Array, Array]:
    """Orthonormal Krylov basis Q (steps, P) and the tridiagonal (alpha, beta) with A Q' = Q' T + remainder.

    A Krylov space that closes early, to the rounding `eps` of the products, leaves zero rows: they carry no weight in any
    function of T.
    """
    tiny = jnp.asarray(steps * eps, v.dtype)

    def normalised(x, floor):
        length = jnp.linalg.norm(x)
        live = length > floor
        return jnp.where(live, x / jnp.where(live, length, jnp.ones_like(length)), jnp.zeros_like(x)), jnp.where(
            live, length, jnp.zeros_like(length)
        )

    def step(k, carry):
        q, alpha, beta, scale = carry
        y = mv(q[k])
        a = jnp.vdot(q[k], y)
        scale = jnp.maximum(scale, jnp.linalg.norm(y))
        for _ in range(2):  # twice is enough (Kahan): one pass leaves rounding of the size of the cancelled part
            y = y - q.T @ (q @ y)
        following, b = normalised(y, tiny * scale)
        q = q.at[k + 1].set(following, mode="drop")
        return q, alpha.at[k].set(a), beta.at[k].set(b), scale

    first, _ = normalised(v, jnp.zeros((), v.dtype))
    q = jnp.zeros((steps, v.size), v.dtype).at[0].set(first)
    empty = jnp.zeros(steps, v.dtype)
    q, alpha, beta, _ = jax.lax.fori_loop(0, steps, step, (q, empty, empty, jnp.zeros((), v.dtype)))
    return q, alpha, beta
