"""The learning Lagrangian's particle as an optax transformation: theta' = F^a grad l.

    m_k = b1 m_{k-1} + (1 - b1) g_k        F_k = b2 F_{k-1} + (1 - b2) g_k g_k'        update = F_k^a m_k

with a = -1/2 by default and both moments divided by 1 - b^k. Exponents are defined on F, not on its factors. Scaling the
loss by c scales the update by c^(1 + 2a): -1/2 is the scale-free one; -1 is covariant under every linear change of
parameters; the kinetic energy g' F^-1 g / (2 P) is invariant under all of them. Both moments live in the basis of their
leaf, so that a step is Adam's between two products, in and back; when the basis turns by R, so does the momentum, exactly,
and `roots.transport` carries the second moment. Comes from: gradients of a loss. Goes to: an optax chain. Reference:
MATH.md 7; eq. 31, 32; Vyas et al. 2024 (eigen), Gupta et al. 2018, Morwani et al. 2024 (kronecker), Jordan et al. 2024
(one_sided).
"""

import jax
import jax.numpy as jnp
import optax

from learnlag_jax import checks
from learnlag_jax.fisher import inputs
from learnlag_jax.fisher import structure as layout
from learnlag_jax.fisher.gradients import filled
from learnlag_jax.fisher.moments import real_dtype
from learnlag_jax.fisher.scores import wide_dtype
from learnlag_jax.fisher.stack import stacks, unstacked
from learnlag_jax.fisher.state import Bucket, FisherOptions, FisherState, unmeasured
from learnlag_jax.fisher.step import begin


def scale_by_fisher(
    structure: str | layout.Rule = "eigen",
    *,
    exponent=-0.5,
    fisher: str = "batch",
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    options: FisherOptions = FisherOptions(),
) -> optax.GradientTransformationExtraArgs:
    """Precondition gradients by a power of the running Fisher information: update = F^a m.

    Args:
        structure: "eigen" (running second moment in the Kronecker eigenbasis), "diagonal" (Adam), "kronecker"
            (F = L (x) R / tr L), "one_sided" (polar factor of the momentum), "full", "none", or a rule
            `rule(path, shape) -> name`, with paths as "['dense']['kernel']". A leaf without an axis that can carry a factor
            is diagonal; a vector under "kronecker" is "full".
        exponent: a, a float or a scalar array, so it can be injected and scheduled; steps scale as gradients^(1 + 2a).
        fisher: whose second moment: "batch" the gradients themselves (as Adam), "per_example" or "sampled" those passed
            as `update(..., fisher_grads=...)`, like the gradients with a leading example axis; steps are then shorter,
            by up to the root of the batch size.
        b1, b2: decays of the running mean and of the running second moment, in [0, 1).
        eps: added to the root of the second moment.
        options: static choices, `FisherOptions`.

    Returns:
        An optax `GradientTransformationExtraArgs`. Updates keep the gradient's dtype; the state is float32 at least.
        Under `vmap` every step pays for a refresh, unless `skip_nonfinite=False` and `count` is kept unbatched.

    Raises:
        InputError, DTypeError: unknown structure or source; a number or option out of its range; at trace time, gradients of
            another shape than their parameters, `fisher_grads` missing or misshapen, a state of another structure.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from learnlag_jax.fisher import scale_by_fisher
        >>> optimiser, g = scale_by_fisher(), jnp.array([[0.3, -2.0], [1.0, 0.5]], jnp.float32)
        >>> u, state = optimiser.update(g, optimiser.init(g))
        >>> [round(float(x), 5) for x in u.ravel()]
        [1.0, -1.0, 1.0, 1.0]

    Reference: MATH.md 7; eq. 31, 32; docs/optimiser.md.
    """
    inputs.choices(structure, fisher, {"b1": b1, "b2": b2, "eps": eps, "exponent": exponent}, options)
    limits = {
        "max_size": options.max_size,
        "block_size": options.block_size,
        "merge": options.merge,
        "aspect": options.aspect,
    }
    if isinstance(structure, str):
        layout.plan_leaves(structure, [])

    def seats(pairs):
        plans = layout.plan_leaves(structure, pairs, **limits)
        leaves = [leaf for _, leaf in pairs]
        return layout.seats(plans, leaves, [wide_dtype(leaf) for leaf in leaves])

    def init(params):
        checks.floating(params, "params", allow_complex=True)
        pairs = [(path, leaf) for path, leaf in layout.leaves_with_paths(params)[0] if leaf is not None]
        taken = seats(pairs)
        running = [seat.plan.kind in inputs.RUNNING for seat in taken]
        second = [jnp.zeros_like(p, real_dtype(p)) if r else None for r, (_, p) in zip(running, pairs, strict=True)]
        return FisherState(
            jnp.zeros([], jnp.int32),
            jax.tree.map(lambda p: jnp.zeros_like(p, wide_dtype(p)), params),
            _placed(params, second) if pairs else params,
            # optax.tree.map_params calls init with an empty tree; one leaf here stands for all buckets of a real state
            _empty_buckets(taken) if pairs else jnp.zeros([]),
            unmeasured(),
        )

    def update(updates, state, params=None, *, fisher_grads=None, **extra_args):
        del params, extra_args
        mu, treedef = layout.leaves_with_paths(state.mu)
        live = [i for i, (_, leaf) in enumerate(mu) if leaf is not None]
        held = lambda tree: [leaf for i, leaf in enumerate(treedef.flatten_up_to(tree)) if i in live]
        given, old, second = (
            [None if g is None else jnp.asarray(g) for g in held(updates)],
            held(state.mu),
            held(state.nu),
        )
        pairs = [mu[i] for i in live]
        inputs.gradients(pairs, given)
        kept = [seat._replace(present=(g is not None,)) for seat, g in zip(seats(pairs), given, strict=True)]
        groups = stacks(kept)
        join = lambda leaves, like=old: [group.join(leaves, like) for group in groups]
        gradients, samples, momenta = join(given), None, join(old)
        if fisher != "batch":
            samples = filled(join(held(inputs.examples(fisher, updates, fisher_grads))), momenta)
        taken = [group.seat for group in groups]
        if pairs:
            inputs.state(taken, kept, second, state)
        step = begin(taken, gradients, samples, momenta, state, b1, b2, exponent, eps, options)
        out, new_mu, new_nu, buckets, diagnostics = step.run(gradients, samples, momenta, join(second, second))
        out = [None if g is None else u.astype(g.dtype) for u, g in zip(unstacked(groups, out), given, strict=True)]
        put = lambda leaves: _placed(state.mu, leaves)
        moments = put(unstacked(groups, new_mu)), put(unstacked(groups, new_nu))
        return put(out), FisherState(step.count, *moments, buckets, diagnostics)

    return optax.GradientTransformationExtraArgs(init, update)


def _placed(like, leaves):
    """`leaves` in the places where `like` has one; None where it has none."""
    pairs, treedef = layout.leaves_with_paths(like)
    following = iter(leaves)
    return jax.tree.unflatten(treedef, [None if leaf is None else next(following) for _, leaf in pairs])


def _empty_buckets(taken: list[layout.Seat]) -> tuple[Bucket, ...]:
    def bucket(d, kind, slots):
        counts = [count for _, _, count in slots]
        bases = [jnp.tile(jnp.eye(d, dtype=kind), (count, 1)) for count in counts]
        return Bucket(jnp.zeros((sum(counts), d, d), kind), tuple(bases))

    return tuple(bucket(d, kind, slots) for (d, kind, _), slots in layout.bucket_slots(taken).items())
