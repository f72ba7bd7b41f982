"""Stochastic actions: how improbable a path of a diffusion is, as a Lagrangian.

    dX = b(t, X) dt + sqrt(epsilon) sigma dW        probability of staying near q  ~  exp(-S[q] / epsilon)

Their least paths are the most probable ones: here a Morse index of 0 is what makes the answer one. Goes to: `stationary_path`.
Reference: Onsager and Machlup 1953; Freidlin and Wentzell, Random Perturbations of Dynamical Systems, chapter 3.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax import checks, trees
from learnlag_jax.variation import linear
from learnlag_jax.variation.path import local
from learnlag_jax.vocabulary import Array


def freidlin_wentzell(drift: Callable, noise: Callable | Array | None = None) -> Callable:
    """The Lagrangian of rare paths of a diffusion with small noise.

        L(t, q, v) = |sigma^-1 (v - b(t, q))|^2 / 2

    Args:
        drift: `b(t, q)`, shaped like q; any pytree of real arrays.
        noise: `sigma(t, q)` -> (n, n), or a constant (n, n), on the coordinates as one vector; the identity if left out.

    Returns:
        `L(t, q, v)`, zero along the drift; NaN where sigma is singular.

    Example:
        >>> from learnlag_jax.variation import freidlin_wentzell, stationary_path
        >>> relax = freidlin_wentzell(lambda t, q: -q)
        >>> climb = stationary_path(relax, 0.0, 1.0, 0.0, 8.0, intervals=800)
        >>> round(float(climb.action), 3), int(climb.index)  # uphill costs twice the potential q^2 / 2
        (1.0, 0)

    Reference: Freidlin and Wentzell, chapter 3, theorem 2.1 and chapter 4, theorem 3.1.
    """

    def L(t, q, v):
        t, q, v = local(t, q, v)
        push = drift(t, q)
        checks.same_structure(push, q, "drift(t, q)", "q")
        kick = trees.ravel(trees.subtract(v, push))[0]
        if noise is not None:
            sigma = noise(t, q) if callable(noise) else jnp.asarray(noise, kick.dtype)
            checks.shape(sigma, (kick.size, kick.size), "noise(t, q)" if callable(noise) else "noise")
            kick = linear.solve(sigma, kick)[0]
        return kick @ kick / 2

    return L


def onsager_machlup(drift: Callable, noise=None) -> Callable:
    """The Lagrangian of the most probable tubes of a diffusion with additive noise of any strength.

        L(t, q, v) = |sigma^-1 (v - b(t, q))|^2 / 2 + div b(t, q) / 2

    Args:
        drift: `b(t, q)`, shaped like q; any pytree of real arrays.
        noise: (n, n) constant sigma on the coordinates as one vector; the identity if left out. (Noise that depends on q
            adds a curvature to this action, which is not here.)

    Returns:
        `L(t, q, v)`; the logarithm of the probability of a thin tube around q is -S[q] plus a constant of the tube.

    Example:
        >>> from learnlag_jax.variation import onsager_machlup
        >>> float(onsager_machlup(lambda t, q: -q)(0.0, 1.0, -1.0))  # along the drift only the divergence is left
        -0.5

    Reference: Onsager and Machlup 1953; Duerr and Bach 1978.
    """
    checks.require(not callable(noise), "noise", "a function", "a constant matrix", "see freidlin_wentzell")
    rare = freidlin_wentzell(drift, noise)

    def L(t, q, v):
        t, q, v = local(t, q, v)
        x, fold = trees.ravel(q)
        divergence = jnp.trace(jax.jacfwd(lambda x: trees.ravel(drift(t, fold(x)))[0])(x))
        return rare(t, q, v) + divergence / 2

    return L
