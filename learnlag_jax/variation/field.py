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


def lattice_residual(density: Callable, spacing: Array) -> Callable:
    """The gradient of the action of a field on a grid: the exact residual of the discrete problem.

        S = sum over cells of l(x, u, du) prod(spacing),   u and du at the centre of the cell from its 2^d corners

    Args:
        density: `l(x, u, du)` -> scalar, for a scalar field.
        spacing: (d,) distances between grid points.

    Returns:
        `residual(u)` for u on a grid with d axes: dS/du / prod(spacing), same shape; boundary entries hold the boundary
        terms and are to be ignored where u is fixed. It tends to `field_euler_lagrange` at second order.

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
    cell = jnp.prod(spacing)

    def mean(u, axis):
        low, high = (jax.lax.slice_in_dim(u, s, u.shape[axis] - 1 + s, axis=axis) for s in (0, 1))
        return (low + high) / 2, high - low

    def centred(u, derivative):
        for axis in range(u.ndim):
            average, difference = mean(u, axis)
            u = difference / spacing[axis] if axis == derivative else average
        return u

    def action(u):
        checks.require(
            u.ndim == spacing.size, "u", checks.describe(u), f"a grid with {spacing.size} axes", "reshape it"
        )
        value = centred(u, None)
        du = jnp.stack([centred(u, i) for i in range(u.ndim)], axis=-1)
        index = jnp.stack(jnp.meshgrid(*(jnp.arange(n, dtype=u.dtype) for n in value.shape), indexing="ij"), -1)
        x = (index + 0.5).reshape(-1, u.ndim) * spacing.astype(u.dtype)[None]
        return cell.astype(u.dtype) * jnp.sum(jax.vmap(density)(x, value.ravel(), du.reshape(-1, u.ndim)))

    return lambda u: jax.grad(action)(u) / cell.astype(u.dtype)
