"""The nouns of `scale_by_fisher`: its static options, and a state that holds F itself, not a root of it.

One state serves every exponent. Comes from and goes to: `precondition`, `step`. Reference: MATH.md 7.
"""

from typing import NamedTuple

import jax.numpy as jnp

from learnlag_jax.vocabulary import Array, PyTree


class FisherOptions(NamedTuple):
    """Static choices of `scale_by_fisher`: integers, names and switches, so that floats alone are injected.

    Attributes:
        refresh: steps between refreshes of the bases; the first `refresh` steps of "eigen" equal Adam's (unless another leaf
            is "kronecker" or "full": then all bases turn with the first step).
        basis: "qr", one warm-started QR step per refresh, or "eigh", exact.
        max_size: an axis longer than this carries no factor; "full" applies to leaves up to this size.
        aspect: in "eigen", a side of a matrix more than so many times as long as the other carries no factor either: the cost of a
            step then stays a few products with the shorter side, and below Muon's; None keeps both, as SOAP does.
        block_size: cut longer axes into equal blocks of at most this length; None leaves them whole.
        merge: merge neighbouring dimensions into the most nearly square matrix.
        bias_correction: divide the moments by 1 - b^k.
        nesterov: look one step ahead with the momentum, as `optax.nadam`.
        skip_nonfinite: a step with a gradient (or `fisher_grads`) that is not finite, or whose square is not, updates by
            zero, changes nothing in this state (what follows in a chain goes on) and is counted: an infinite second moment
            would stay so for good. In float32 that is an entry, or the norm of a leaf with factors or of its samples, beyond
            2^64 = 1.8e19.
        polar_steps: matrix-product steps of the polar factor in "one_sided"; 5 leave 0.5 %, 6 rounding.

    Example:
        >>> from learnlag_jax.fisher import FisherOptions
        >>> FisherOptions(refresh=5).basis
        'qr'
    """

    refresh: int = 10
    basis: str = "qr"
    max_size: int = 1024
    aspect: float | None = 2
    block_size: int | None = None
    merge: bool = True
    bias_correction: bool = True
    nesterov: bool = False
    skip_nonfinite: bool = True
    polar_steps: int = 5


class Bucket(NamedTuple):
    """Factors of one side d: their moments A as one stack, (sum K, d, d), and of every leaf its bases Q, (K d, d).

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher import scale_by_fisher
        >>> factors = scale_by_fisher().init(jnp.zeros((3, 3))).factors
        >>> factors[0].moment.shape, [Q.shape for Q in factors[0].bases]
        ((2, 3, 3), [(3, 3), (3, 3)])
    """

    moment: Array
    bases: tuple[Array, ...]


class Diagnostics(NamedTuple):
    """What the optimiser knows about itself, float32 scalars, renewed at every refresh; zero before the first, at step refresh + 1.

    Attributes:
        kinetic: (1/2P) g' F^-1 g of the current gradient; 1/2 where F is the second moment of such gradients
            (equipartition), less while they shrink, about 1/2B where F is that of single examples, B a batch;
            every 16th row stands for all of a long elementwise leaf.
        staleness: largest |offdiag(Q' A Q)|_F / |A|_F before the refresh: 0 where the basis is exact.
        whitening: the correlations of a coordinate with all others in the basis, |P A P - I|_F / sqrt(d), in the worst
            factor: 0 to sqrt(d - 1).
        condition: largest ratio of a factor's largest to mean eigenvalue.
        skipped: int32, steps skipped because a gradient or its square was not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher import scale_by_fisher
        >>> int(scale_by_fisher().init(jnp.zeros(2)).diagnostics.skipped)
        0
    """

    kinetic: Array
    staleness: Array
    whitening: Array
    condition: Array
    skipped: Array


def unmeasured() -> Diagnostics:
    """Diagnostics before the first refresh, in buffers of their own: a state that shares one cannot be donated."""
    kinds = (jnp.float32, jnp.float32, jnp.float32, jnp.float32, jnp.int32)
    return Diagnostics(*(jnp.zeros([], kind) for kind in kinds))


class FisherState(NamedTuple):
    """State of `scale_by_fisher`: it holds F itself, not a root, so one state serves every exponent.

    Memory for an (m, n) leaf, m <= n, in float32 numbers: diagonal 2 m n; eigen 2 m n + 2 m^2, and 2 n^2 more
    where n <= aspect m; kronecker m n + 2 (m^2 + n^2); one_sided and none m n; full 2 (m n)^2 + m n. Bytes of real
    states are in benchmarks/results/bench_optimisers.md.

    Attributes:
        count: int32, steps taken.
        mu: running mean of the gradients, like the parameters; where a leaf has bases, of its coordinates in them.
        nu: running second moment per coordinate of the same, like the parameters, real, float32 at least; None for leaves
            that need none.
        factors: a `Bucket` for every factor side and dtype, in increasing order; sides above 128 may have several.
        diagnostics: `Diagnostics`.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher import scale_by_fisher
        >>> int(scale_by_fisher().init(jnp.zeros(2)).count)
        0
    """

    count: Array
    mu: PyTree
    nu: PyTree
    factors: tuple[Bucket, ...] | Array
    diagnostics: Diagnostics
