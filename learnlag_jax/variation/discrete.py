"""Discrete mechanics: an action that is a sum, its momenta and its residual.

    S = sum_k L_d(k, q_k, q_{k+1})      0 = D_2 L_d(k-1, q_{k-1}, q_k) + D_1 L_d(k, q_k, q_{k+1})

Comes from: a Lagrangian, or directly a discrete one (an optimiser's, in the room `fisher`). Goes to: `integrator`, `boundary`,
`symmetry`. Reference: MATH.md section 7; Marsden and West 2001.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks, trees
from learnlag_jax.variation import newton
from learnlag_jax.vocabulary import Array, PyTree

RULES = ("midpoint", "trapezoid", "gauss")


def discrete_lagrangian(L: Callable, h, *, rule: str = "midpoint", stages: int = 1) -> Callable:
    """The action of one step, by quadrature over a simple path between its ends.

        midpoint    h L(t + h/2, (q0 + q1)/2, (q1 - q0)/h)                                       order 2
        trapezoid   h (L(t, q0, (q1 - q0)/h) + L(t + h, q1, (q1 - q0)/h)) / 2                    order 2 (Verlet)
        gauss       stationary over polynomials of degree s through q0, q1, s Gauss points       order 2 s

    Args:
        L: `L(t, q, v)` -> scalar.
        h: length of a step; the step k starts at t = k h.
        rule: which quadrature.
        stages: s, for "gauss"; one stage is the midpoint rule.

    Returns:
        `Ld(k, q0, q1)` -> scalar, an approximation of the action from k h to (k + 1) h.

    Raises:
        InputError: unknown rule, fewer than one stage, stages with another rule than "gauss", or a step of length 0.

    Example:
        >>> from learnlag_jax.variation import discrete_lagrangian
        >>> Ld = discrete_lagrangian(lambda t, q, v: v**2 / 2 - q**2 / 2, 0.5)
        >>> float(Ld(0, 1.0, 1.5))
        -0.140625

    Reference: MATH.md section 7; Marsden and West 2001, section 2.
    """
    checks.require(rule in RULES, "rule", repr(rule), "one of " + ", ".join(RULES), "choose one")
    checks.whole(stages, "stages", 1, "raise it")
    one = stages == 1 or rule == "gauss"
    checks.require(one, "stages", f"{stages} with rule {rule!r}", "1, or rule 'gauss'", "pass rule='gauss'")
    if not checks.is_traced(h):
        checks.require(np.isfinite(h) and h != 0, "h", h, "a finite step, not 0", "pass the length of a step")

    def Ld(k, q0, q1):
        (x0, x1), fold, t, step = _ends(k, q0, q1, h)
        flat = lambda t, x, v: checks.scalar_function(L, "L")(t, fold(x), fold(v))
        v = (x1 - x0) / step
        if rule == "trapezoid":
            return step * (flat(t, x0, v) + flat(t + step, x1, v)) / 2
        if rule == "midpoint" or stages == 1:
            return step * flat(t + step / 2, (x0 + x1) / 2, v)
        return _galerkin(flat, t, step, x0, x1, stages)

    return Ld


def _ends(k, q0, q1, h):
    """Both ends as vectors, the way back, the time k h and the step, in the dtype of the coordinates."""
    q0, q1 = jax.tree.map(jnp.asarray, (q0, q1))
    checks.floating(q0, "q0")
    checks.same_structure(q1, q0, "q1", "q0")
    (x0, fold), (x1, _) = trees.ravel(q0), trees.ravel(q1)
    step = jnp.asarray(h, x0.dtype)
    return (x0, x1), fold, jnp.asarray(k, x0.dtype) * step, step


def _galerkin(L: Callable, t, h, x0: Array, x1: Array, stages: int) -> Array:
    total, interior = _polynomial(L, t, h, x0, x1, stages)
    return total(interior)


def inner_directions(L: Callable, t, h, x0: Array, x1: Array, stages: int) -> Array:
    """How many directions of the nodes inside one step lower its action: none unless the step is long."""
    total, interior = _polynomial(L, t, h, x0, x1, stages)
    return jnp.sum(jnp.linalg.eigvalsh(jax.hessian(total)(jax.lax.stop_gradient(interior))) < 0, dtype=jnp.int32)


def _polynomial(L: Callable, t, h, x0: Array, x1: Array, stages: int) -> tuple[Callable, Array]:
    """The action of a polynomial by its interior nodes, and those that make it stationary, inside `lax.custom_root`."""
    nodes, weights = np.polynomial.legendre.leggauss(stages)
    c, b = (jnp.asarray(x, x0.dtype) for x in ((nodes + 1) / 2, weights / 2))
    value, slope = (jnp.asarray(x, x0.dtype) for x in _lagrange_basis(stages))
    n = x0.size

    def total(interior):
        X = jnp.concatenate([x0[None], interior.reshape(stages - 1, n), x1[None]])
        return h * jnp.dot(b, jax.vmap(L)(t + c * h, value @ X, slope @ X / h))

    knots = jnp.asarray(_knots(stages)[1:-1], x0.dtype)
    straight = (x0[None] + knots[:, None] * (x1 - x0)[None]).ravel()
    slopes = jnp.abs(jax.grad(total)(straight)).reshape(stages - 1, n)
    size = jax.lax.stop_gradient(jnp.tile(jnp.max(slopes, axis=0), stages - 1))
    found = newton.root(jax.grad(total), straight, offset=size)
    return total, jnp.where(found.status == 0, found.value, jnp.nan)


def _knots(stages: int) -> np.ndarray:
    """Chebyshev-Lobatto points on [0, 1]: where the polynomial's coefficients are its values; any points would do."""
    return (1 - np.cos(np.pi * np.arange(stages + 1) / stages)) / 2


def _lagrange_basis(stages: int) -> tuple[np.ndarray, np.ndarray]:
    """Values and slopes at the Gauss points of the polynomials that are one at one knot and zero at the others."""
    c = (np.polynomial.legendre.leggauss(stages)[0] + 1) / 2
    # barycentric weights of Chebyshev-Lobatto knots, exact at any number of stages (Berrut and Trefethen 2004, 5 and 9)
    knots, j = _knots(stages), np.arange(stages + 1)
    weights = (-1.0) ** j * np.where((j == 0) | (j == stages), 0.5, 1.0)
    gap = c[:, None] - knots[None, :]
    middle = np.abs(gap) < 1e-14  # an odd number of stages has its middle Gauss point on a knot
    shares = weights / np.where(middle, 1, gap)
    hit = middle.any(1, keepdims=True)
    value = np.where(hit, middle, shares / shares.sum(1, keepdims=True))
    apart = knots[:, None] - knots[None, :] + np.eye(stages + 1)
    D = weights[None, :] / weights[:, None] / apart * (1 - np.eye(stages + 1))
    D = D - np.diag(D.sum(1))  # slopes at the knots; a slope is a polynomial too, so it is interpolated like a value
    return value, value @ D


def discrete_action(Ld: Callable, path: PyTree) -> Array:
    """The action of a sampled path.

        S = sum over k of L_d(k, q_k, q_{k+1})

    Args:
        Ld: `Ld(k, q0, q1)` -> scalar.
        path: positions q_0 .. q_N, leading axis N + 1 on every leaf.

    Returns:
        The action, a scalar; its gradient at the interior positions is `discrete_euler_lagrange`.

    Raises:
        InputError: fewer than two positions, or leaves of unequal length.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import discrete_action, discrete_lagrangian
        >>> Ld = discrete_lagrangian(lambda t, q, v: v**2 / 2 - q, 1.0)
        >>> float(discrete_action(Ld, jnp.array([0.0, 1.0, 1.0])))  # (1/2 - 1/2) + (0 - 1)
        -1.0

    Reference: MATH.md section 7; Marsden and West 2001, section 1.3.
    """
    path = jax.tree.map(jnp.asarray, path)
    lengths = {len(x) for x in jax.tree.leaves(path)}
    checks.require(len(lengths) == 1, "path", f"leaves of {sorted(lengths)} positions", "one length", "cut them alike")
    steps = lengths.pop() - 1
    checks.require(steps >= 1, "path", f"{steps + 1} positions", "at least two", "sample it more often")
    starts, ends = (jax.tree.map(lambda x, s=s: x[s : s + steps], path) for s in (0, 1))
    return jnp.sum(jax.vmap(checks.scalar_function(Ld, "Ld"))(jnp.arange(steps, dtype=jnp.int32), starts, ends))


def discrete_momenta(Ld: Callable, force: Callable | None = None) -> Callable:
    """The momenta at both ends of one step: the discrete Legendre transforms.

        p_k = -D_1 L_d(k, q_k, q_{k+1}) - f_k        p_{k+1} = D_2 L_d(k, q_k, q_{k+1}) + g_k

    Args:
        Ld: `Ld(k, q0, q1)` -> scalar.
        force: `force(k, q0, q1)` -> (f, g), the impulses at both ends of the step, as `discrete_force` makes them.

    Returns:
        `momenta(k, q0, q1)` -> (p at the start, p at the end), shaped like q.

    Example:
        >>> from learnlag_jax.variation import discrete_lagrangian, discrete_momenta
        >>> momenta = discrete_momenta(discrete_lagrangian(lambda t, q, v: v**2 / 2 - q, 1.0))
        >>> [float(p) for p in momenta(0, 0.0, 2.0)]  # a body falls: 2 +- h / 2
        [2.5, 1.5]

    Reference: Marsden and West 2001, eq. 1.5.1 and 3.2.4.
    """
    slopes = jax.grad(checks.scalar_function(Ld, "Ld"), (1, 2))

    def momenta(k, q0, q1):
        q0, q1 = jax.tree.map(jnp.asarray, (q0, q1))
        checks.floating(q0, "q0")
        checks.same_structure(q1, q0, "q1", "q0")
        minus, end = slopes(k, q0, q1)
        start = trees.scale(-1.0, minus)
        if force is None:
            return start, end
        first, last = force(k, q0, q1)
        return trees.subtract(start, first), trees.add(end, last)

    return momenta


def discrete_euler_lagrange(Ld: Callable, force: Callable | None = None) -> Callable:
    """The residual of a discrete path: the gradient of the discrete action with respect to one position.

        E_k = D_2 L_d(k-1, q_{k-1}, q_k) + D_1 L_d(k, q_k, q_{k+1}) + g_{k-1} + f_k

    The momentum that arrives at q_k minus the momentum that leaves it.

    Args:
        Ld: `Ld(k, q0, q1)` -> scalar.
        force: `force(k, q0, q1)` -> (f, g), the impulses at both ends of a step, as `discrete_force` makes them.

    Returns:
        `E(k, q_prev, q, q_next)`, shaped like q; zero on a stationary discrete path.

    Example:
        >>> from learnlag_jax.variation import discrete_euler_lagrange, discrete_lagrangian
        >>> E = discrete_euler_lagrange(discrete_lagrangian(lambda t, q, v: v**2 / 2 - q**2 / 2, 1.0, rule="trapezoid"))
        >>> float(E(1, 1.0, 1.0, 0.0))  # Verlet: q_next = 2 q - q_prev - h^2 q
        0.0

    Reference: MATH.md section 7; Marsden and West 2001, eq. 1.3.3 and 3.2.2.
    """
    momenta = discrete_momenta(Ld, force)

    def residual(k, q_prev, q, q_next):
        arrives, leaves = momenta(k - 1, q_prev, q)[1], momenta(k, q, q_next)[0]
        return trees.subtract(arrives, leaves)

    return residual
