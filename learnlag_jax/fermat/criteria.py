"""Design criteria: one scalar of the information matrix, to be minimised.

    M(w) = sum_i w_i f_i f_i' + prior,    phi(M) convex, and homogeneous of degree -1: phi(c M) = phi(M) / c

Homogeneity makes every ratio phi(M*) / phi(M) an efficiency: the share of the observations that an optimal design
would have needed. All criteria are +inf on a singular matrix. Symbols: F (N, p) rows f_i, in units of the square root of
information per observation; w (N,) weights or counts. Goes to: `optimal_weights`, `exact_design`. Reference:
Pukelsheim, Optimal Design of Experiments (1993), chapters 5, 6; MATH.md 4.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from learnlag_jax import checks
from learnlag_jax.extrema import largest
from learnlag_jax.fermat.known import exponent, semidefinite, wanted
from learnlag_jax.fermat.matrices import inverse, log_determinant, log_power_mean, regular
from learnlag_jax.vocabulary import Array

KINDS = ("A", "D", "E", "G", "T", "I", "c", "phi")


def information_matrix(F, w=None, prior=None) -> Array:
    """The information of a design: the sum over its rows of weight times outer product.

        M = sum_i w_i f_i f_i' + prior

    Args:
        F: (N, p) float rows; a row of a linear model with noise variance s^2 is x_i / s. Or (N, m, p): each candidate brings m rows,
            M_i = sum_k f_ik f_ik', as an observation of m responses does, or information averaged over m draws.
        w: (N,) weights or counts; None counts every row once.
        prior: (p, p) information known beforehand, symmetric positive semi-definite.

    Returns:
        (p, p) symmetric matrix in the dtype of F; half precision is summed in float32.

    Raises:
        InputError, DTypeError: wrong shapes or dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import information_matrix
        >>> M = information_matrix(jnp.array([[1.0, -1.0], [1.0, 1.0]]), jnp.array([1.0, 3.0]))
        >>> [round(float(x), 6) for x in M.ravel()]
        [4.0, 2.0, 2.0, 4.0]

    Reference: MATH.md 4.
    """
    F = wide_rows(F)
    if w is not None:
        checks.shape(w, (F.shape[0],), "w")
    if prior is not None:
        checks.shape(prior, (F.shape[-1],) * 2, "prior")
    return _information(F, w, prior)


@jax.jit
def _information(F: Array, w, prior) -> Array:
    weighted = F if w is None else F * jnp.expand_dims(jnp.asarray(w, F.dtype), tuple(range(1, F.ndim)))
    M = flat(weighted).T @ flat(F)
    M = (M + M.T) / 2
    return M if prior is None else M + jnp.asarray(prior, M.dtype)


def wide_rows(F) -> Array:
    """The rows in at least float32, one or several a candidate."""
    checks.shape(F, ("N", "p") if jnp.ndim(F) != 3 else ("N", "m", "p"), "F")
    checks.floating(F, "F")
    F = jnp.asarray(F)
    return F.astype(jnp.float32) if F.dtype.itemsize < 4 else F


def flat(F: Array) -> Array:
    """All rows of all candidates as one matrix."""
    return F.reshape(-1, F.shape[-1])


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["moment", "region", "q", "basis"], meta_fields=["kind", "draws"]
)
@dataclass(frozen=True)
class Criterion:
    """A criterion phi(M), made by `criterion`; a pytree, so it may cross `jax.jit` with its arrays.

    Attributes:
        kind: one of A, D, E, G, T, I, c, phi.
        moment: (p, p) second moment of the predictions that matter, for I and c.
        region: (m, p) rows where predictions are judged, for G; for I and c, the rows behind the moment if they are known.
        q: exponent of phi.
        draws: None, or the number of diagonal blocks of M over which the criterion is averaged.
        basis: None, or (p, p) B upper triangular with a positive diagonal, where M is given as B' M B (see `basis.py`).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import criterion
        >>> criterion("A").kind
        'A'
    """

    kind: str
    moment: Array | None = None
    region: Array | None = None
    q: Array | None = None
    draws: int | None = None
    basis: Array | None = None

    def __call__(self, M: Array) -> Array:
        """phi(M): a scalar; +inf where M is singular or not finite."""
        return _guarded(self, M)

    def unguarded(self, M: Array) -> Array:
        """phi(M) for a matrix known to be positive definite."""
        if self.draws is None:
            return self._of_one(M)
        values = jax.vmap(self._of_one)(diagonal_blocks(M, self.draws))
        return jnp.exp(jnp.mean(jnp.log(values))) if self.kind == "D" else jnp.mean(values)

    def covariance(self, M: Array) -> Array:
        """M^-1, in the coordinates of the parameters."""
        return inverse(M) if self.basis is None else self.basis @ inverse(M) @ self.basis.T

    def spread(self, M: Array) -> Array:
        """C of tr(M^-1 C), for A, I and c, where M is given in `basis`."""
        C = jnp.eye(M.shape[-1], dtype=M.dtype) if self.kind == "A" else jnp.asarray(self.moment, M.dtype)
        return C if self.basis is None else self.basis.T @ C @ self.basis

    def _of_one(self, M: Array) -> Array:
        p, dtype = M.shape[-1], M.dtype
        match self.kind:
            case "A":
                return jnp.trace(self.covariance(M))
            case "D":
                stretch = 0 if self.basis is None else 2 * jnp.sum(jnp.log(jnp.diagonal(self.basis)))
                return jnp.exp((stretch - log_determinant(M)) / p)
            case "E":
                return jnp.linalg.eigvalsh(self.covariance(M))[-1]
            case "T":
                return 1 / jnp.trace(M)
            case "G":
                region = jnp.asarray(self.region, dtype)
                return largest(jnp.sum((region @ self.covariance(M)) * region, 1))
            case "phi":
                q = jnp.asarray(self.q, dtype)
                top = jax.lax.stop_gradient(jnp.linalg.eigvalsh(self.covariance(M))[-1])  # a large q would overflow
                return top * jnp.exp(log_power_mean(M * top, q, self.basis))
            case _:
                return jnp.sum(self.covariance(M) * jnp.asarray(self.moment, dtype))


def diagonal_blocks(M: Array, draws: int) -> Array:
    """The (draws, p, p) blocks on the diagonal of an information matrix with one block a draw."""
    whole = M.shape[-1] % draws == 0
    checks.require(whole, "M", checks.describe(M), f"{draws} blocks of one size", "make rows with draws='separate'")
    p = M.shape[-1] // draws
    return jnp.stack([M[k * p : (k + 1) * p, k * p : (k + 1) * p] for k in range(draws)])


def block_size(phi: Callable, p: int) -> int:
    """Parameters the criterion asks for: p, or p / draws where it averages over blocks."""
    return p // (getattr(phi, "draws", None) or 1)


@jax.jit
def _guarded(phi: Criterion, M: Array) -> Array:
    ok = regular(M)
    value = phi.unguarded(jnp.where(ok, M, jnp.eye(M.shape[-1], dtype=M.dtype)))
    return jnp.where(ok, value, jnp.asarray(jnp.inf, M.dtype))


def criterion(
    kind: str, vector: Any = None, *, moment: Any = None, region: Any = None, q: Any = None, draws: int | None = None
) -> Criterion:
    """A design criterion by its letter: a convex loss of the information matrix, homogeneous of degree -1.

        A  tr M^-1               total variance of the estimates
        D  det(M)^(-1/p)         volume of the confidence ellipsoid
        E  1 / lambda_min(M)     worst variance in any direction
        G  max_x f(x)' M^-1 f(x) worst prediction variance over `region`
        I  tr(M^-1 C)            mean prediction variance under an explicit `moment` C = E[f f'] (V-optimality)
        c  c' M^-1 c             variance of one combination
        phi (tr M^-q / p)^(1/q)  Kiefer's family: D, A / p and E at q -> 0, 1, infinity
        T  1 / tr M              ignores what is estimable; constant on unit rows

    A Bayesian criterion of a linear model is the same one of M + prior: pass `prior` to `information_matrix` and to the solvers. That of a
    nonlinear model is the mean over a prior of its parameters, mean_s phi(M(theta_s)), for D the geometric mean (the mean of log det):
    `draws` of them, with the block-diagonal rows of `fisher_information(..., draws="separate")`.

    Args:
        kind: the letter.
        vector: (p,) for c, not 0.
        moment: (p, p) for I, symmetric positive semi-definite, not 0.
        region: (m, p) for G; for I, rows whose mean outer product is the moment; not all 0. Integers are made floats.
        q: positive finite scalar for phi.
        draws: S, for the mean over S diagonal blocks of M; for A, D, I, c and phi.

    Returns:
        phi(M) -> scalar; +inf where M is singular. Differentiable where M is regular (E and G where the extreme is
        attained once).

    Raises:
        InputError, DTypeError: unknown letter, a missing or superfluous option, or one that is not as above (values are not checked
            while tracing).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import criterion
        >>> [round(float(criterion(k)(jnp.diag(jnp.array([1.0, 4.0])))), 6) for k in "ADET"]
        [1.25, 0.5, 1.0, 0.2]
        >>> float(criterion("A")(jnp.ones((2, 2))))
        inf

    Reference: Pukelsheim (1993), chapters 5, 6; Kiefer (1974); Chaloner and Larntz (1989) for the mean over a prior.
    """
    other = next((k for k in KINDS if str(kind).lower() == k.lower()), "A")
    checks.require(kind in KINDS, "kind", repr(kind), f"one of {', '.join(KINDS)}", f"{other!r} may be meant")
    given = {"vector": vector, "moment": moment, "region": region, "q": q}
    options = {"c": ("vector",), "I": ("moment", "region"), "G": ("region",), "phi": ("q",)}.get(kind, ())
    present = [name for name, value in given.items() if value is not None]
    remedy = f"pass criterion({kind!r}, {options[-1]}=...)" if options else "drop it"
    checks.require(
        len(present) == bool(options) and set(present) <= set(options),
        "criterion",
        ", ".join(present) or "no option",
        f"{kind} with {' or '.join(options) or 'no option'}",
        remedy,
    )
    if draws is not None:
        checks.whole(draws, "draws", 1, "the number of diagonal blocks of M")
        averaged = kind in ("A", "D", "I", "c", "phi")
        checks.require(averaged, "draws", f"{draws} for {kind}", "A, D, I, c or phi", "use phi for E")
    if vector is not None:
        vector = wanted(vector, "vector", "p")
        return Criterion(kind, jnp.outer(vector, vector), wide_rows(vector[None]), draws=draws)
    if region is not None:
        region = wanted(region, "region", "m", "p")
        moment = information_matrix(region) / len(region) if kind == "I" else None
        return Criterion(kind, moment, wide_rows(region), draws=draws)
    if moment is not None:
        moment = wanted(moment, "moment", "p", "p")
        semidefinite(moment, "moment", "a second moment is a mean of f f'")
    return Criterion(kind, moment, q=None if q is None else exponent(q), draws=draws)


def as_criterion(phi: str | Callable, p: int | None = None) -> Callable:
    """A letter that needs no option, a `Criterion` (for p parameters), or any convex `phi(M)` of the user's."""
    phi = criterion(phi) if isinstance(phi, str) else phi
    if p is not None and isinstance(phi, Criterion):
        checks.require(
            p % (phi.draws or 1) == 0, "criterion", f"{phi.draws} draws", f"a divisor of p = {p}", "see draws"
        )
        each = block_size(phi, p)
        if phi.moment is not None:
            checks.shape(
                phi.moment,
                (each, each),
                "criterion's " + ("vector, as an outer product" if phi.kind == "c" else "moment"),
            )
        if phi.region is not None:
            checks.shape(phi.region, ("m", each), "criterion's region")
    return phi


def slope(phi: Callable, M: Array) -> Array:
    """G = -d phi / dM, symmetric: f' G f is how fast phi falls when weight goes to row f."""
    G = -jax.grad(phi)(M)
    return (G + G.T) / 2


def sensitivity(F: Array, G: Array) -> Array:
    """tr(M_i G) for every candidate: f_i' G f_i where it brings one row."""
    return jnp.sum((F @ G) * F, tuple(range(1, F.ndim)))


def unguarded(phi: Callable) -> Callable:
    """phi without the test for singularity, for inner loops that have made it."""
    return phi.unguarded if isinstance(phi, Criterion) else phi


def homogeneous(phi: Callable) -> bool:
    """True if phi is known to be homogeneous of degree -1."""
    return isinstance(phi, Criterion)
