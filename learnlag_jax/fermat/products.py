"""Products of matrices that cancel, to the last digits of what is left: for a change of basis that the rows it meets undo.

    A = A1 + A2 + A3, entries of A1 and A2 multiples of 2^-b and 4^-b of at most b bits: no sum in A1 B1 or A1 B2 rounds

In raw powers of x on [3, 4] the entries of A B are a millionth of the products they are sums of; summed so, they keep b more
bits of what is left, 24 in double and 10 in single precision. Comes from: `basis`. Reference: Ozaki, Ogita, Oishi and Rump
(2012); Knuth (1998), 4.2.2, for the sum in two numbers.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from learnlag_jax.vocabulary import Array

BLOCK = 1024  # rows at a time: slices of a long pool would take three times its memory


@jax.custom_jvp
def product(A: Array, B: Array) -> Array:
    """A (n, p) times B (p, m), every entry to eps of its own size and `unit` of the largest sum of sizes |A| |B|."""
    if len(A) == 0:
        return A @ B
    halves = _halves(A, B)
    rows = lambda A: jnp.add(*halves(A))
    if len(A) <= BLOCK:
        return rows(A)

    def write(i, out):  # the last block begins early enough to be whole
        start = jnp.minimum(i * BLOCK, len(A) - BLOCK)
        part = rows(jax.lax.dynamic_slice_in_dim(A, start, BLOCK))
        return jax.lax.dynamic_update_slice_in_dim(out, part, start, 0)

    return jax.lax.fori_loop(0, -(-len(A) // BLOCK), write, jnp.zeros((len(A), B.shape[1]), A.dtype))


@product.defjvp
def _product_jvp(primals, tangents):
    (A, B), (dA, dB) = primals, tangents
    return product(A, B), dA @ B + A @ dB


@jax.custom_jvp
def congruence(C: Array, B: Array) -> Array:
    """B' C B for a psd C, to the same digits: C B is kept in two numbers an entry."""
    across = _power(jnp.sqrt(jnp.abs(jnp.diagonal(C))))
    C, B = C / across[None, :] / across[:, None], B * across[:, None]
    coarse, fine = _halves(C, B)(C)
    head = coarse + fine
    added = head - coarse
    tail = (coarse - (head - added)) + (fine - added)
    turned = product(B.T, head) + B.T @ tail
    return (turned + turned.T) / 2


@congruence.defjvp
def _congruence_jvp(primals, tangents):
    (C, B), (dC, dB) = primals, tangents
    turned = dB.T @ C @ B
    return congruence(C, B), B.T @ dC @ B + turned + turned.T


def unit(dtype, p: int) -> float:
    """What a product of inner length p loses of |A| |B|, at most: eps p 2^(1 - b)."""
    return float(jnp.finfo(dtype).eps) * p * 2.0 ** (1 - _bits(dtype, p))


def _bits(dtype, p: int) -> int:
    """b: sums of p products of two slices fit the mantissa."""
    return (jnp.finfo(dtype).nmant + 1 - math.ceil(math.log2(max(p, 2)))) // 2


def _halves(A: Array, B: Array) -> Callable:
    """Of rows of A, their product with B in two terms: the first slices' without any rounding, and the rest of at most 2^(1 - b)."""
    down = _power(jnp.max(jnp.abs(A), 0))
    B = B * down[:, None]
    across, bits = _power(jnp.max(jnp.abs(B), 0))[None, :], _bits(A.dtype, A.shape[-1])
    b, b2, b3 = _slices(B / across, bits)
    times = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def halves(rows):
        a, a2, a3 = _slices(rows / down[None, :], bits)
        rest = times(a, b2) + times(a2, b) + (times(a2, b2) + times(a, b3) + times(a3, b))
        return times(a, b) * across, rest * across

    return halves


def _power(largest: Array) -> Array:
    """The power of two above: what scales without rounding; 1 for 0 and for what is no number."""
    known, most = jnp.isfinite(largest) & (largest > 0), jnp.finfo(largest.dtype).maxexp - 1
    return jnp.where(known, jnp.ldexp(jnp.ones_like(largest), jnp.minimum(jnp.frexp(largest)[1], most)), 1)


def _slices(X: Array, bits: int) -> tuple[Array, Array, Array]:
    """Entries of size 1 at most, in three: multiples of 2^-bits, of 4^-bits, and the rest."""
    first = jnp.round(X * 2.0**bits) / 2.0**bits
    second = jnp.round((X - first) * 4.0**bits) / 4.0**bits
    return first, second, X - first - second
