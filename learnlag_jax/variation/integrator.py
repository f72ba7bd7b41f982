"""Integrators that make a discrete action stationary exactly, with the impulses of forces.

    p_k = -D_1 L_d(k, q_k, q_{k+1}),   p_{k+1} = D_2 L_d(k, q_k, q_{k+1})        each solved for q_{k+1}

They are symplectic and keep discrete momenta, to rounding, at any step. Comes from: `discrete`. Reference: Marsden and West
2001, sections 2 and 3.2.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax import checks, trees
from learnlag_jax.meaning import by_meaning
from learnlag_jax.variation import newton
from learnlag_jax.variation.discrete import discrete_momenta
from learnlag_jax.vocabulary import PyTree, Solution


def discrete_force(force: Callable, h, *, rule: str = "midpoint") -> Callable:
    """The impulses of a force at both ends of one step (the discrete Lagrange-d'Alembert principle).

        midpoint    f = g = h/2 F(t + h/2, (q0 + q1)/2, v)                                   v = (q1 - q0) / h
        trapezoid   f = h/2 F(t, q0, v),   g = h/2 F(t + h, q1, v)

    Args:
        force: `F(t, q, v)` -> generalised force, shaped like q and of its dtype, or plain numbers; `rayleigh(R)` is one.
        h: length of a step; the step k starts at t = k h.
        rule: "midpoint" or "trapezoid", like the discrete Lagrangian it goes with.

    Returns:
        `(f, g) = impulses(k, q0, q1)` for `integrate`, `first_step`, `discrete_momenta` and `discrete_euler_lagrange`.

    Raises:
        InputError: another rule, or a force unlike q. DTypeError: a force of another dtype than q.

    Example:
        >>> from learnlag_jax.variation import discrete_force
        >>> drag = discrete_force(lambda t, q, v: -0.5 * v, 1.0)
        >>> [float(x) for x in drag(0, 1.0, 3.0)]
        [-0.5, -0.5]

    Reference: Marsden and West 2001, section 3.2.
    """
    checks.require(rule in ("midpoint", "trapezoid"), "rule", repr(rule), "midpoint or trapezoid", "choose one")

    def impulses(k, q0, q1):
        q0, q1 = checks.settle(q0, q1)
        checks.floating(q0, "q0")
        dtype = trees.ravel(q0)[0].dtype
        step = jnp.asarray(h, dtype)
        t, v = jnp.asarray(k, dtype) * step, trees.scale(1 / step, trees.subtract(q1, q0))

        def impulse(t, q):
            push = checks.alike(force(t, q, v), q, "force(t, q, v)", "q")
            return trees.scale(step / 2, push)

        if rule == "trapezoid":
            return impulse(t, q0), impulse(t + step, q1)
        half = impulse(t + step / 2, trees.scale(0.5, trees.add(q0, q1)))
        return half, half

    return impulses


def first_step(Ld: Callable, q0: PyTree, p0: PyTree, *, force: Callable | None = None) -> Solution:
    """The position after the first step of a motion that starts with a momentum.

        p_0 = -D_1 L_d(0, q_0, q_1) - f_0,   solved for q_1

    Args:
        Ld: `Ld(k, q0, q1)` -> scalar.
        q0, p0: position and momentum at the start, pytrees of real arrays of the same shape; p0 = `momentum(L)(t, q, v)`.
        force: impulses as `discrete_force` makes them.

    Returns:
        `Solution` with q_1 (NaN unless solved), the residual and a status; q_0 and q_1 start `integrate`.

    Example:
        >>> from learnlag_jax.variation import discrete_lagrangian, first_step
        >>> Ld = discrete_lagrangian(lambda t, q, v: v**2 / 2 - 10 * q, 0.5)
        >>> float(first_step(Ld, 0.0, 4.0).value)  # 4 h - 10 h^2 / 2
        0.75

    Reference: Marsden and West 2001, section 1.5.
    """
    q0, p0 = jax.tree.map(jnp.asarray, (q0, p0))
    checks.floating(q0, "q0")
    checks.same_structure(p0, q0, "p0", "q0")
    q0, p0 = checks.settle(q0, p0)
    checks.same_dtypes(p0, q0, "p0", "q0")
    checks.one_dtype(q0, "q0")
    return _first_step(by_meaning(Ld, 0, q0, q0), _meant(force, q0), q0, p0)


def _meant(force: Callable | None, q: PyTree) -> Callable | None:
    return force and by_meaning(force, 0, q, q)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _first_step(Ld: Callable, force: Callable | None, q0: PyTree, p0: PyTree) -> Solution:
    (x0, fold), (momentum, _) = trees.ravel(q0), trees.ravel(p0)
    leaves = lambda y: trees.ravel(discrete_momenta(Ld, force)(0, q0, fold(y))[0])[0]
    size = jax.lax.stop_gradient(jnp.abs(momentum))
    found = newton.root(lambda y: leaves(y) - momentum, x0, offset=size)  # rising with y, as `newton.away` wants it
    x1 = jnp.where(found.status == 0, found.value, jnp.nan)
    return Solution(fold(x1), fold(found.residual), found.status, found.steps)


def integrate(Ld: Callable, q0: PyTree, q1: PyTree, steps: int, *, force: Callable | None = None) -> PyTree:
    """Follow the stationary discrete path that starts with q0, q1.

        0 = D_2 L_d(k-1, q_{k-1}, q_k) + D_1 L_d(k, q_k, q_{k+1}) + g_{k-1} + f_k,   solved for q_{k+1}, k = 1 .. steps

    Args:
        Ld: `Ld(k, q0, q1)` -> scalar, a step from k to k + 1.
        q0, q1: the first two positions, pytrees of real arrays; `first_step` gives q1 from a momentum.
        steps: how many positions to add.
        force: `force(k, q0, q1)` -> (f, g), the impulses at both ends of a step, as `discrete_force` makes them.

    Returns:
        Positions q_1, q_2, ..., q_{steps + 1}: q1 first, leading axis steps + 1. NaN from the first step that could not be
        solved. Differentiable in q0, q1 and whatever Ld closes over.

    Raises:
        InputError: fewer than one step; q1 unlike q0. DTypeError: in dtype, or leaves of two dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import discrete_lagrangian, integrate
        >>> Ld = discrete_lagrangian(lambda t, q, v: v**2 / 2 - q**2 / 2, 1.0, rule="trapezoid")
        >>> integrate(Ld, jnp.array(1.0), jnp.array(1.0), 3).tolist()
        [1.0, 0.0, -1.0, -1.0]

    Reference: MATH.md section 7; Marsden and West 2001.
    """
    checks.whole(steps, "steps", 1, "raise it")
    q0, q1 = jax.tree.map(jnp.asarray, (q0, q1))
    checks.floating(q0, "q0")
    checks.same_structure(q1, q0, "q1", "q0")
    q0, q1 = checks.settle(q0, q1)
    checks.same_dtypes(q1, q0, "q1", "q0")
    checks.one_dtype(q0, "q0")
    return _integrate(by_meaning(Ld, 0, q0, q1), steps, _meant(force, q0), q0, q1)


@functools.partial(jax.jit, static_argnums=range(3))
def _integrate(Ld: Callable, steps: int, force: Callable | None, q0: PyTree, q1: PyTree) -> PyTree:
    momenta = discrete_momenta(Ld, force)
    (x0, fold), (x1, _) = trees.ravel(q0), trees.ravel(q1)
    at = lambda end, k, x, y: trees.ravel(momenta(k, fold(x), fold(y))[end])[0]

    def step(carry, k):
        x_prev, x = carry
        arrives = at(1, k - 1, x_prev, x)
        size = jax.lax.stop_gradient(jnp.abs(arrives))
        found = newton.root(lambda y: at(0, k, x, y) - arrives, 2 * x - x_prev, offset=size)
        x_next = jnp.where(found.status == 0, found.value, jnp.nan)
        return (x, x_next), x_next

    _, later = jax.lax.scan(step, (x0, x1), jnp.arange(1, steps + 1, dtype=jnp.int32))
    return jax.vmap(fold)(jnp.concatenate([x1[None], later]))
