"""The learning Lagrangian's particle as an optax transformation: theta' = F^a grad l.

    m_k = b1 m_{k-1} + (1 - b1) g_k        F_k = b2 F_{k-1} + (1 - b2) g_k g_k'        update = F_k^a m_k

with a = -1/2 by default and both moments divided by 1 - b^k. Exponents are defined on F, not on its factors. Scaling the
loss by c scales the update by c^(1 + 2a): -1/2 is the scale-free one; -1 is covariant under every linear change of
parameters; the kinetic energy g' F^-1 g / (2 P) is invariant under all of them. Momentum is kept unrotated, so a change of
basis carries it exactly; second moments are carried by `roots.transport`. Comes from: gradients of a loss. Goes to: an
optax chain. Reference: MATH.md 7; eq. 31, 32; Vyas et al. 2024 (eigen), Gupta et al. 2018, Morwani et al. 2024 (kronecker),
Jordan et al. 2024 (one_sided).
"""

import functools

import jax
import jax.numpy as jnp
import optax

from learnlag_jax import checks
from learnlag_jax.fisher import structure as layout
from learnlag_jax.fisher.moments import real_dtype
from learnlag_jax.fisher.scores import wide_dtype
from learnlag_jax.fisher.state import Bucket, FisherOptions, FisherState, unmeasured
from learnlag_jax.fisher.step import begin
from learnlag_jax.vocabulary import Array

SOURCES = ("batch", "per_example", "sampled")


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
            `rule(path, shape) -> name`. A leaf that cannot carry the structure (a vector, a long axis) is diagonal.
        exponent: a, a float or a scalar array, so it can be injected and scheduled.
        fisher: whose second moment: "batch" the gradients themselves (as Adam), "per_example" or "sampled" those passed
            as `update(..., fisher_grads=...)`, like the gradients with a leading example axis.
        b1, b2: decays of the running mean and of the running second moment, in [0, 1).
        eps: added to the root of the second moment.
        options: static choices, `FisherOptions`.

    Returns:
        An optax `GradientTransformationExtraArgs`. Updates keep the gradient's dtype; the state is float32 at least.
        Under `vmap` keep `count` unbatched, or every step pays for a refresh.

    Raises:
        InputError: unknown structure or source, or `fisher_grads` missing, at trace time.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from learnlag_jax.fisher import scale_by_fisher
        >>> optimiser, g = scale_by_fisher(), jnp.array([[0.3, -2.0], [1.0, 0.5]], jnp.float32)
        >>> u, state = optimiser.update(g, optimiser.init(g))
        >>> [round(float(x), 5) for x in u.ravel()]
        [1.0, -1.0, 1.0, 1.0]

    Reference: MATH.md 7; eq. 31, 32.
    """
    checks.require(fisher in SOURCES, "fisher", repr(fisher), "one of " + ", ".join(SOURCES), "choose one")
    checks.require(options.basis in ("qr", "eigh"), "basis", repr(options.basis), "'qr' or 'eigh'", "choose one")
    checks.require(options.refresh >= 1, "refresh", options.refresh, "at least 1", "refresh every step at most")
    limits = {"max_size": options.max_size, "block_size": options.block_size, "merge": options.merge}
    if isinstance(structure, str):
        layout.plan_leaves(structure, [])

    def init(params):
        pairs, treedef = layout.leaves_with_paths(params)
        present = [(path, leaf) for path, leaf in pairs if leaf is not None]
        plans = layout.plan_leaves(structure, present, **limits)
        mu = jax.tree.map(lambda p: jnp.zeros_like(p, wide_dtype(p)), params)
        second = iter(plans)
        nu = [None if p is None else _second_moment(next(second), p) for _, p in pairs]
        return FisherState(
            jnp.zeros([], jnp.int32),
            mu,
            jax.tree.unflatten(treedef, nu) if pairs else mu,
            # optax.tree.map_params calls init with an empty tree; one leaf here stands for all buckets of a real state
            _empty_buckets(plans, [leaf for _, leaf in present]) if pairs else jnp.zeros([]),
            unmeasured(),
        )

    def update(updates, state, params=None, *, fisher_grads=None, **extra_args):
        del params, extra_args
        pairs, treedef = layout.leaves_with_paths(updates)
        live = [i for i, (_, leaf) in enumerate(pairs) if leaf is not None]
        present = [pairs[i] for i in live]
        plans = layout.plan_leaves(structure, present, **limits)
        mu, nu = (jax.tree.flatten(tree, is_leaf=lambda x: x is None)[0] for tree in (state.mu, state.nu))
        step = begin(
            plans, [leaf for _, leaf in present], _source(fisher, updates, fisher_grads), state, b1, b2, options
        )
        out, new_mu, new_nu, buckets, diagnostics = step.run(
            [mu[i] for i in live], [nu[i] for i in live], exponent, eps
        )

        def put(old, new):
            filled = list(old)
            for i, leaf in zip(live, new, strict=True):
                filled[i] = leaf
            return jax.tree.unflatten(treedef, filled)

        new_state = FisherState(step.count, put(mu, new_mu), put(nu, new_nu), buckets, diagnostics)
        return put([None] * len(pairs), out), new_state

    return optax.GradientTransformationExtraArgs(init, update)


def _second_moment(plan: layout.Plan, p) -> Array | None:
    return jnp.zeros_like(p, real_dtype(p)) if plan.kind in ("diagonal", "eigen") else None


def _empty_buckets(plans, leaves) -> tuple[Bucket, ...]:
    def bucket(d, slots):
        kind = functools.reduce(_wider, [wide_dtype(leaves[i]) for i, _, _ in slots])
        count = sum(K for _, _, K in slots)
        return Bucket(jnp.zeros((count, d, d), kind), jnp.tile(jnp.eye(d, dtype=kind)[None], (count, 1, 1)))

    return tuple(bucket(d, slots) for d, slots in layout.bucket_slots(plans).items())


def _wider(a, b) -> jnp.dtype:
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(a, b)


def _source(fisher: str, updates, fisher_grads):
    """The gradients whose outer products make F; None stands for the updates themselves."""
    if fisher == "batch":
        return None
    checks.require(
        fisher_grads is not None,
        "fisher_grads",
        None,
        f"gradients with a leading example axis, for fisher={fisher!r}",
        "pass update(grads, state, params, fisher_grads=...)",
    )
    checks.require(
        jax.tree.structure(fisher_grads) == jax.tree.structure(updates),
        "fisher_grads",
        jax.tree.structure(fisher_grads),
        f"the structure of the gradients, {jax.tree.structure(updates)}",
        "pass matching pytrees",
    )
    return jax.tree.leaves(fisher_grads)
