"""Paths whose values are small at every length, not at the last alone: the sum of the values after each observation.

Comes from: `planning`, with paths to start from. Not public. Reference: MATH.md 4.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax.vocabulary import Array


@functools.partial(jax.jit, static_argnames="replace")
def exchanged_path(F: Array, phi: Callable, base: Array, starts: Array, first: Array | int, replace: bool) -> Array:
    """Exchange one observation of a path at a time for the candidate that lowers the sum of later values most."""
    n, N = starts.shape[1], F.shape[0]
    later = jnp.arange(1, n + 1) >= first
    outer = lambda f: f[:, :, None] * f[:, None, :]

    shrink = 1 - 100 * jnp.finfo(F.dtype).eps
    path_total = lambda chosen: total(base[None] + jnp.cumsum(outer(F[chosen]), 0), jnp.ones(n, bool))

    def total(M, affected):
        return jnp.sum(jnp.where(affected & later, jax.vmap(phi)(M), 0))

    def exchange(i, state):
        chosen, changed = state
        M = base[None] + jnp.cumsum(outer(F[chosen]), 0)
        affected = jnp.arange(n) >= i
        old = F[chosen[i]]
        swap = lambda f: M + jnp.where(affected[:, None, None], (jnp.outer(f, f) - jnp.outer(old, old))[None], 0)
        totals = jax.lax.map(lambda f: total(swap(f), affected), F, batch_size=min(N, 128))
        if not replace:
            totals = totals.at[chosen].set(jnp.inf)
        j = jnp.argmin(totals).astype(jnp.int32)
        better = totals[j] < total(M, affected) * shrink
        return swap_order(i, jnp.where(better, chosen.at[i].set(j), chosen), changed | better)

    def swap_order(i, chosen, changed):
        exchanged = lambda k: chosen.at[i].set(chosen[k]).at[k].set(chosen[i])
        totals = jax.vmap(lambda k: path_total(exchanged(k)))(jnp.arange(n))
        k = jnp.argmin(totals)
        better = totals[k] < totals[i] * shrink
        return jnp.where(better, exchanged(k), chosen), changed | better

    def sweep(state):
        chosen, _, k = state
        return *jax.lax.fori_loop(0, n, exchange, (chosen, jnp.asarray(False))), k + 1

    def settle(chosen):
        going = lambda state: state[1] & (state[2] < 30)
        chosen = jax.lax.while_loop(going, sweep, (chosen, jnp.asarray(True), 0))[0]
        return chosen, path_total(chosen)

    paths, totals = jax.lax.map(settle, starts)
    return paths[jnp.argmin(totals)]


@jax.jit
def path_on_sphere(phi: Callable, basis: Array) -> Array:
    """Descend the sum of values from a slightly turned round-robin, along the sphere; keep the better of the two."""
    n, p = basis.shape
    unit = lambda X: X / jnp.linalg.norm(X, axis=1, keepdims=True)

    def total(X):
        x = unit(X)
        return jnp.sum(jax.vmap(phi)(jnp.cumsum(x[:, :, None] * x[:, None, :], 0)[p - 1 :]))

    turned = unit(basis + 0.1 * jax.random.normal(jax.random.key(0), basis.shape, basis.dtype))
    value_and_grad = jax.value_and_grad(total)

    def step(_, carry):
        X, value, g, rate = carry
        tried = unit(X - rate * g)
        new_value, new_g = value_and_grad(tried)
        better = new_value < value
        pick = lambda a, b: jnp.where(better, a, b)
        return pick(tried, X), pick(new_value, value), pick(new_g, g), rate * pick(1.5, 0.4)

    start = (turned, *value_and_grad(turned), jnp.asarray(0.1, basis.dtype))
    found = jax.lax.fori_loop(0, 1000, step, start)[0]
    return jnp.where(total(found) < total(basis), found, basis)
