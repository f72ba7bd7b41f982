"""Field theory: Euler-Lagrange for densities in any number of dimensions.

    E(u)(x) = dl/du - sum_i d/dx_i dl/d(du_i)      T^i_j = (dl/d(du_i)) . du_j - delta^i_j l

A field is a function of a point x (d,) with any pytree of real arrays as its value, a neural network among them. Reference:
MATH.md sections 2 and 6 (eq. 27); Gelfand and Fomin, Calculus of Variations, chapter 7.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax import checks, trees
from learnlag_jax.vocabulary import Array


def _point(x) -> Array:
    x = jnp.asarray(x)
    checks.shape(x, ("d",), "x")
    checks.floating(x, "x")
    return x


def field_euler_lagrange(density: Callable) -> Callable:
    """The Euler-Lagrange residual of a field, the functional derivative of its action.

        E(u)(x) = dl/du - sum_i d/dx_i [ dl/d(du_i) ]

    Args:
        density: `l(x, u, du)` -> scalar; for a scalar field du has shape (d,) and du[i] = du/dx_i; for an array field
            (*shape of u, d), so du[component, i]; for a pytree of fields a pytree of those.

    Returns:
        `E(u)`, a function of the point x (d,) with the shape of u; `u(x)` must be twice differentiable.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import field_euler_lagrange
        >>> wave = lambda x, u, du: (du[0] ** 2 - du[1] ** 2) / 2
        >>> E = field_euler_lagrange(wave)
        >>> abs(float(E(lambda x: jnp.sin(x[1] - x[0]))(jnp.array([0.3, 0.7])))) < 1e-14
        True

    Reference: MATH.md section 6, eq. 27.
    """
    checked = checks.scalar_function(density, "density")

    def functional(u):
        def slopes(x):
            return jax.grad(checked, (1, 2))(x, u(x), jax.jacfwd(u)(x))

        def residual(x):
            x = _point(x)
            axes = jnp.eye(x.size, dtype=x.dtype)
            force, _ = slopes(x)
            rates = jax.vmap(lambda e: jax.jvp(lambda x: slopes(x)[1], (x,), (e,))[1])(axes)
            divergence = jax.tree.map(lambda r: jnp.trace(r, axis1=0, axis2=-1), rates)
            return trees.subtract(force, divergence)

        return residual

    return functional


def energy_momentum(density: Callable) -> Callable:
    """The canonical energy-momentum tensor of a field.

        T^i_j = sum over components (dl/d(du_i)) du_j - delta^i_j l,   sum_i d_i T^i_j = -E . du_j - dl/dx_j

    Args:
        density: `l(x, u, du)` -> scalar, as in `field_euler_lagrange`.

    Returns:
        `T(u)`, a function of x (d,) with value (d, d), first index i; divergence-free where E = 0 and l does not
        depend on x.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import energy_momentum
        >>> T = energy_momentum(lambda x, u, du: (du[0] ** 2 - du[1] ** 2) / 2)(lambda x: 2 * x[0])
        >>> float(T(jnp.array([0.0, 0.0]))[0, 0])  # energy density u_t^2 / 2
        2.0

    Reference: Goldstein, Classical Mechanics 13.3.
    """
    checked = checks.scalar_function(density, "density")

    def tensor(u):
        def at(x):
            x = _point(x)
            du = jax.jacfwd(u)(x)
            value, flux = jax.value_and_grad(checked, 2)(x, u(x), du)
            pair = lambda a, b: jnp.tensordot(a.reshape(-1, x.size), b.reshape(-1, x.size), axes=(0, 0))
            terms = jax.tree.leaves(jax.tree.map(pair, flux, du))
            return sum(terms[1:], terms[0]) - value * jnp.eye(x.size, dtype=x.dtype)

        return at

    return tensor


def field_current(density: Callable, F: Callable, K: Callable | None = None) -> Callable:
    """The current that a symmetry of a field conserves.

        j^i = dl/d(du_i) . dF/ds - K^i at s = 0,   sum_i d_i j^i = 0 where E = 0

    Args:
        density: `l(x, u, du)` -> scalar, as in `field_euler_lagrange`.
        F: `F(s, x, u)` -> moved field, F(0, x, u) = u, which changes l by the divergence of K. (Shifts of x have their own
            currents: the columns of `energy_momentum`.)
        K: `K(x, u)` -> (d,); zero if left out.

    Returns:
        `j(u)`, a function of x (d,) with value (d,).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import field_current
        >>> wave = lambda x, u, du: (du[0] ** 2 - du[1] ** 2) / 2
        >>> j = field_current(wave, lambda s, x, u: u + s)(lambda x: jnp.sin(x[1] - x[0]))
        >>> [round(float(x), 6) for x in j(jnp.array([0.0, 0.0]))]  # (u_t, -u_x)
        [-1.0, -1.0]

    Reference: Noether 1918; Goldstein, Classical Mechanics 13.7.
    """
    flux_of = jax.grad(checks.scalar_function(density, "density"), 2)

    def current(u):
        def at(x):
            x = _point(x)
            value, zero = u(x), jnp.zeros((), x.dtype)
            flux = flux_of(x, value, jax.jacfwd(u)(x))
            change = jax.jvp(lambda s: F(s, x, value), (zero,), (jnp.ones_like(zero),))[1]
            pair = lambda f, c: jnp.ravel(c) @ f.reshape(-1, x.size)
            terms = jax.tree.leaves(jax.tree.map(pair, flux, change))
            total = sum(terms[1:], terms[0])
            return total if K is None else total - K(x, value)

        return at

    return current


def lattice_residual(density: Callable, spacing: Array) -> Callable:
    """The gradient of the action of a field on a grid: the exact residual of the discrete problem.

        S = sum over cells of l(x, u, du) prod(spacing),   u and du at the centre of the cell from its 2^d corners

    Args:
        density: `l(x, u, du)` -> scalar, as in `field_euler_lagrange`.
        spacing: (d,) distances between grid points.

    Returns:
        `residual(u)` for u with d grid axes, followed by the axes of its components, or a pytree of such: dS/du /
        prod(spacing), same shape; boundary entries hold the boundary terms and are to be ignored where u is fixed. It
        tends to `field_euler_lagrange` at second order. The first grid point is x = 0. Cells see u only through means and
        differences of their corners: in two dimensions or more a field that alternates like a checkerboard has residual 0
        for a density of du alone (keep u smooth on the grid, or judge it with another residual beside this one).

    Raises:
        InputError: a leaf with fewer than d axes, or leaves on different grids.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.variation import lattice_residual
        >>> laplace = lattice_residual(lambda x, u, du: -(du @ du) / 2, jnp.array([0.5, 0.5]))
        >>> linear = jnp.arange(5.0)[:, None] + 2 * jnp.arange(5.0)[None, :]
        >>> float(jnp.abs(laplace(linear)[1:-1, 1:-1]).max())
        0.0

    Reference: MATH.md section 2.
    """
    spacing = jnp.asarray(spacing)
    checks.shape(spacing, ("d",), "spacing")
    checks.floating(spacing, "spacing")
    d, checked = spacing.size, checks.scalar_function(density, "density")

    def mean(u, axis):
        low, high = (jax.lax.slice_in_dim(u, s, u.shape[axis] - 1 + s, axis=axis) for s in (0, 1))
        return (low + high) / 2, high - low

    def centred(u, derivative):
        for axis in range(d):
            average, difference = mean(u, axis)
            u = difference / spacing.astype(u.dtype)[axis] if axis == derivative else average
        return u

    def cells(u):
        """One row a cell: the value and, on a last axis, the slopes at its centre."""
        value, slopes = centred(u, None), jnp.stack([centred(u, i) for i in range(d)], axis=-1)
        return value.reshape(-1, *u.shape[d:]), slopes.reshape(-1, *u.shape[d:], d)

    def action(u):
        grid = _grid(u, d)
        dtype = jax.tree.leaves(u)[0].dtype
        h = spacing.astype(dtype)
        index = jnp.stack(jnp.meshgrid(*(jnp.arange(n - 1, dtype=dtype) for n in grid), indexing="ij"), -1)
        pairs = jax.tree.map(cells, u)
        values, slopes = (jax.tree.map(lambda _, pair, i=i: pair[i], u, pairs) for i in (0, 1))
        return jnp.sum(jax.vmap(checked)((index + 0.5).reshape(-1, d) * h[None], values, slopes))

    def residual(u):
        u = jax.tree.map(jnp.asarray, u)
        checks.floating(u, "u")
        return jax.grad(action)(u)  # the volume of a cell, a factor of S, is divided out again

    return residual


def _grid(u, d: int) -> tuple[int, ...]:
    grids = {leaf.shape[:d] for leaf in jax.tree.leaves(u)}
    expected = f"one grid with {d} axes of two points or more"
    good = len(grids) == 1 and all(len(g) == d and min(g) > 1 for g in grids)
    got = ", ".join(checks.describe(leaf) for leaf in jax.tree.leaves(u))
    checks.require(good, "u", got, expected, "reshape it")
    return next(iter(grids))
