"""The sphere in closed form: unit rows whose information matrix has any feasible spectrum.

    rows x_j in R^p with |x_j| = 1,  X'X = U diag(lambda) U',  sum lambda = n,  at most n of them non-zero

Unit-norm tight frames, X'X = (n / p) I, exist over the reals for every n >= p, so the minimum of the prediction error
sigma^2 (1 + p / n) is attained at every n >= p. Symbols: n rows, p columns, no units. Goes to: `least_time_path`.
Reference: Benedetto and Fickus (2003); Fickus, Mixon and Poteet (2011); MATH.md 4.
"""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks
from learnlag_jax.checks import DTypeError
from learnlag_jax.vocabulary import Array


def tight_frame(n: int, p: int, dtype=None) -> Array:
    """A real harmonic frame: n unit rows in R^p with X'X = (n / p) I, for every n >= p.

        x_j = sqrt(2 / p) [cos(2 pi k j / n), sin(2 pi k j / n)],  k = 1/2, 3/2, ... (p even) or 1, 2, ... and a constant (p odd)

    It is the A-, D- and E-optimal design of n observations on the sphere.

    Args:
        n: number of rows, at least p.
        p: dimension.
        dtype: floating dtype; None takes JAX's default.

    Returns:
        (n, p) rows of unit norm.

    Raises:
        InputError, DTypeError: n < p, sizes that are no integers, a dtype that is not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import tight_frame
        >>> X = tight_frame(7, 3)
        >>> round(float(jnp.abs(X.T @ X - 7 / 3 * jnp.eye(3)).max()), 12)
        0.0

    Reference: Benedetto and Fickus, Finite normalized tight frames (2003); MATH.md 4.
    """
    checks.whole(p, "p", 1, "the dimension of the rows")
    checks.whole(n, "n", 1, "the number of rows")
    checks.require(p <= n, "n", f"n = {n}, p = {p}", "n >= p >= 1", "fewer than p rows cannot span the space")
    dtype = _floating_dtype(dtype)
    # n and p are static, so the rows are a constant: made on the host in float64, with k j mod n exact in integers
    twice_k = np.arange(p // 2) * 2 + (2 if p % 2 else 1)
    angle = np.pi / n * ((twice_k[None, :] * np.arange(n)[:, None]) % (2 * n))
    columns = [np.cos(angle), np.sin(angle)] + [np.full((n, 1), np.sqrt(0.5))] * (p % 2)
    return jnp.asarray(np.sqrt(2 / p) * np.concatenate(columns, 1), dtype)


def _floating_dtype(dtype) -> np.dtype:
    """The dtype asked for, JAX's default for None."""
    kind = np.dtype(jnp.zeros(()).dtype if dtype is None else dtype)
    floating = jnp.issubdtype(kind, jnp.floating)
    checks.require(floating, "dtype", kind, "a real floating-point dtype", "pass for example jnp.float32", DTypeError)
    return kind


def frame_with_spectrum(spectrum, n: int) -> Array:
    """Unit rows with any prescribed eigenvalues, by Givens rotations (Schur-Horn).

        X'X = diag(spectrum),   |x_j| = 1

    Rotating two rows into each other leaves X'X unchanged; each rotation of the shortest and the longest row makes one
    row unit, so n - 1 rotations suffice. Rows are unit to a few eps at any n; n rotations leave X'X right to
    about sqrt(n) eps of its largest eigenvalue.

    Args:
        spectrum: (p,) non-negative eigenvalues with sum n (to 4 p eps n, about what adding them loses), at most n of them positive.
        n: number of rows.

    Returns:
        (n, p) rows; NaN if the spectrum is infeasible. In the dtype of the spectrum; half precision is computed in float32.

    Raises:
        InputError: values that are negative or do not sum to n (not checked while tracing).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import frame_with_spectrum
        >>> X = frame_with_spectrum(jnp.array([3.0, 1.5, 0.5]), 5)
        >>> [round(float(x), 6) for x in jnp.diag(X.T @ X)]
        [3.0, 1.5, 0.5]
        >>> [round(float(x), 6) for x in jnp.sum(X**2, 1)]
        [1.0, 1.0, 1.0, 1.0, 1.0]

    Reference: Casazza et al. (2012), by the Schur-Horn theorem; MATH.md 4.
    """
    checks.shape(spectrum, ("p",), "spectrum")
    checks.floating(spectrum, "spectrum")
    checks.whole(n, "n", 1, "the number of rows")
    spectrum = _wide(spectrum)
    slack = 4 * spectrum.size * n * jnp.finfo(spectrum.dtype).eps
    feasible = (jnp.abs(jnp.sum(spectrum) - n) <= slack) & jnp.all(spectrum >= 0) & (jnp.sum(spectrum > 0) <= n)
    if not checks.is_traced(spectrum):
        got, expected = spectrum, f"at most {n} positive eigenvalues with sum {n}"
        checks.require(bool(feasible), "spectrum", got, expected, "rescale it")
    return jnp.where(feasible, _rotated(spectrum, n), jnp.asarray(jnp.nan, spectrum.dtype))


def _rotated(spectrum: Array, n: int) -> Array:
    """Rows along the axes, as long as the spectrum wants, rotated in pairs until all are unit."""
    p, dtype = spectrum.size, spectrum.dtype
    order = jnp.argsort(-spectrum)
    X = jnp.zeros((max(n, p), p), dtype).at[jnp.arange(p), order].set(jnp.sqrt(spectrum[order]))[:n]

    def rotate(_, X):
        norm = jnp.sum(X**2, 1)
        i, j = jnp.argmin(norm), jnp.argmax(norm)
        a, b, c = norm[j] - 1, X[i] @ X[j], norm[i] - 1
        done = (a <= 0) | (c >= 0)
        a = jnp.where(done, jnp.ones_like(a), a)
        root = jnp.sqrt(jnp.where(done, jnp.ones_like(a), b * b - a * c))
        t = jnp.where(b > 0, -c / jnp.where(b > 0, b + root, root), (root - b) / a)  # a t^2 + 2 b t + c = 0, t > 0
        cos = jax.lax.rsqrt(1 + t * t)
        turned = X.at[i].set(cos * (X[i] + t * X[j])).at[j].set(cos * (X[j] - t * X[i]))
        return jnp.where(done, X, turned)

    X = jax.lax.fori_loop(0, n - 1, rotate, X)
    # what n rotations round away is left in the last rows, as lengths: little beside n, but a row is to be unit
    return X / jnp.sqrt(jnp.sum(X**2, 1, keepdims=True))


def _wide(x) -> Array:
    """In at least float32."""
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def water_level(spectrum: Array, amount: Array, places: int) -> Array:
    """The level to which `amount` fills the `places` smallest of an increasing spectrum."""
    below = spectrum[:places]
    filled = jnp.arange(1, places + 1).astype(spectrum.dtype)
    levels = (jnp.cumsum(below) + amount) / filled  # the level if the first k are filled; the true one is the least
    return jnp.min(jnp.where(levels >= below, levels, jnp.inf))


def _moment(S, name: str) -> Array:
    """A matrix of the user's in at least float32: square, finite and symmetric."""
    checks.shape(S, ("p", "p"), name)
    checks.floating(jnp.asarray(S), name)
    checks.finite(jnp.asarray(S), name)
    S = _wide(S)
    if not checks.is_traced(S):
        apart = float(jnp.max(jnp.abs(S - S.T)) / jnp.maximum(jnp.max(jnp.abs(S)), jnp.finfo(S.dtype).tiny))
        got = f"entries that differ by {apart:.1g} across the diagonal"
        checks.require(apart < 1e-3, name, got, "a symmetric matrix", "average it with its transpose")
    return (S + S.T) / 2


def _eigenvalues_from(l: Array, name: str, least: float, what: str) -> None:
    """Host gate: the smallest eigenvalue, as a part of the largest, is at least `least`."""
    if not checks.is_traced(l):
        enough = bool(l[0] >= least * jnp.max(jnp.abs(l)))
        checks.require(
            enough, name, f"smallest eigenvalue {float(l[0]):.3g}", what, "pass a second moment or information"
        )


def complete_frame(S0, m: int) -> Array:
    """m unit rows that complete an existing set optimally, by filling its smallest eigenvalues like water.

        min over |x_j| = 1 of tr (S0 + X'X)^-1

    The optimum is the same for every convex spectral criterion (A, D, E, phi): at most min(m, p) eigenvalues are raised to
    a common level.

    Args:
        S0: (p, p) information matrix X0' X0 of the rows already there, symmetric positive semi-definite.
        m: number of rows to add.

    Returns:
        (m, p) rows of unit norm, in the dtype of S0 but at least float32. S0 + X'X may stay singular if rank(S0) + m < p.

    Raises:
        InputError, DTypeError: wrong shapes or dtypes, m < 1, entries that are not finite, or no information matrix (the last two
            not while tracing).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import complete_frame
        >>> S0 = jnp.diag(jnp.array([3.0, 1.0, 1.0]))
        >>> S = S0 + complete_frame(S0, 3).T @ complete_frame(S0, 3)
        >>> [round(float(x), 6) for x in jnp.linalg.eigvalsh(S)]
        [2.5, 2.5, 3.0]

    Reference: Fickus, Mixon and Poteet, Frame completions for optimally robust reconstruction (2011); MATH.md 4.
    """
    checks.whole(m, "m", 1, "the number of rows to add")
    l, U = jnp.linalg.eigh(_moment(S0, "S0"))
    _eigenvalues_from(l, "S0", -10 * l.size * float(jnp.finfo(l.dtype).eps), "positive semi-definite")
    l = l - l[0]  # only differences matter, and a large common part would swallow m
    places = min(m, l.size)
    level = water_level(l, jnp.asarray(m, l.dtype), places)
    added = jnp.where(jnp.arange(l.size) < places, jnp.maximum(level - l, 0), 0)
    added = added * (m / jnp.sum(added))  # rounding of the level, so that the rows can be unit
    return frame_with_spectrum(added, m) @ U.T


def v_optimal_frame(C, n: int) -> Array:
    """n unit rows that predict best where inputs have second moment C.

        min over |x_j| = 1 of tr((X'X)^-1 C) = (sum_i sqrt(c_i))^2 / n,   c the eigenvalues of C

    Args:
        C: (p, p) second moment E[z z'] of the inputs to predict at, positive definite.
        n: number of rows, at least p.

    Returns:
        (n, p) rows of unit norm with X'X proportional to C^(1/2), in the dtype of C but at least float32.

    Raises:
        InputError, DTypeError: wrong shapes or dtypes, n < p, entries that are not finite, or no positive definite matrix (the
            last two not while tracing).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fermat import v_optimal_frame
        >>> C = jnp.diag(jnp.array([4.0, 1.0]))
        >>> X = v_optimal_frame(C, 3)
        >>> round(float(jnp.trace(jnp.linalg.inv(X.T @ X) @ C)), 6)
        3.0

    Reference: MATH.md 4.
    """
    C = _moment(C, "C")
    checks.whole(n, "n", 1, "the number of rows")
    checks.require(n >= len(C), "n", n, f"at least p = {len(C)}", "fewer rows cannot span the space")
    c, U = jnp.linalg.eigh(C)
    _eigenvalues_from(c, "C", 10 * c.size * float(jnp.finfo(c.dtype).eps), "positive definite")
    root = jnp.sqrt(jnp.maximum(c, 0))
    return frame_with_spectrum(root * (n / jnp.sum(root)), n) @ U.T


def greedy_ratio(n, p: int, dtype=None) -> Array:
    """Trace of greedy's inverse information on the sphere over the optimum p^2 / n, in closed form.

        ratio = 1 + rho (1 - rho) / (k (k + 1)),   n = k p + r,  rho = r / p

    Greedy observes along the least known direction each time, so it is a round-robin over an orthonormal basis: exactly optimal at
    multiples of p, at most 12.5 % above the optimum in between.

    Args:
        n: number of observations, at least p; any integer shape.
        p: dimension.
        dtype: floating dtype; None takes JAX's default.

    Returns:
        The ratio, at least 1, in the shape of n.

    Raises:
        InputError, DTypeError: n that is no integer or below p (the latter not while tracing), p < 1, a dtype that is not floating.

    Example:
        >>> from learnlag_jax.fermat import greedy_ratio
        >>> [round(float(greedy_ratio(n, 4)), 6) for n in (4, 6, 8)]
        [1.0, 1.125, 1.0]

    Reference: MATH.md 4.
    """
    checks.whole(p, "p", 1, "the dimension of the rows")
    n, dtype = jnp.asarray(n), _floating_dtype(dtype)
    integral = jnp.issubdtype(n.dtype, jnp.integer)
    checks.require(integral, "n", checks.describe(n), "integers", "a number of observations is whole", DTypeError)
    if not checks.is_traced(n):
        checks.require(bool(np.all(np.asarray(n) >= p)), "n", n, f"at least p = {p}", "fewer leave a direction unseen")
    k, rho = (n // p).astype(dtype), (n % p).astype(dtype) / p
    return 1 + rho * (1 - rho) / (k * (k + 1))
