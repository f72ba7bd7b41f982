"""One update of `scale_by_fisher`: moments, bases refreshed in a single branch, and the step F^a m, leaf by leaf.

Comes from: `precondition`. Not public. Reference: MATH.md 7; eq. 31, 32.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from learnlag_jax import trees
from learnlag_jax.fisher import roots
from learnlag_jax.fisher import structure as layout
from learnlag_jax.fisher.moments import correction, fisher_power, moment, square
from learnlag_jax.fisher.scores import wide_dtype
from learnlag_jax.fisher.state import Bucket, Diagnostics, FisherOptions, FisherState
from learnlag_jax.vocabulary import Array


@dataclass(frozen=True)
class Step:
    """One update, leaf by leaf, with every basis refreshed in a single branch; made by `begin`.

    Attributes:
        plans, specs: what happens to each leaf, and how it is split over an explicit mesh.
        updates, g: the gradients as given, and in the dtype of the moments.
        samples: the gradients that define F where they are not `g`.
        keep: true where every gradient is finite; None where nobody asked.
        forward, count: steps counting this one; and the counter after it, which stands still on a skipped step.
        c1, c2: bias corrections.
        slots: which factor of which leaf lives in which bucket.
    """

    plans: list[layout.Plan]
    specs: list[Any]
    updates: list[Array]
    g: list[Array]
    samples: list[Array] | None
    state: FisherState
    b1: Any
    b2: Any
    options: FisherOptions
    keep: Array | None
    forward: Array
    count: Array
    c1: Array
    c2: Array
    slots: dict[int, list[tuple[int, int, int]]]

    def run(self, mu, nu, exponent, eps):
        mu = [moment(g, m, self.b1, self.keep) for g, m in zip(self.g, mu, strict=True)]
        buckets = self._factors()
        due = self._due()
        buckets, nu, measured = self._refreshed(due, buckets, nu)
        bases = self._bases(buckets)
        nu = [self._running(i, v, bases[i]) for i, v in enumerate(nu)]
        spectra = self._spectra(buckets)
        out = [self._direction(i, mu[i], nu[i], bases[i], spectra.get(i), exponent, eps) for i in range(len(mu))]
        kinetic = self._kinetic(due, nu, bases, spectra)
        skipped = self.state.diagnostics.skipped
        if self.keep is not None:
            skipped = skipped + jnp.where(self.keep, 0, 1).astype(jnp.int32)
        staleness, whitening, condition = measured
        return out, mu, nu, buckets, Diagnostics(kinetic, staleness, whitening, condition, skipped)

    # F: the running second moments of every axis, and of every coordinate of the basis.

    def _views(self, i):
        """The gradients that define F for leaf i as (S, K, d_1, .., d_r), S samples."""
        plan = self.plans[i]
        x = self.g[i][None] if self.samples is None else self.samples[i].reshape(-1, *plan.shape)
        return layout.view(plan, self._gathered(x))

    def _gathered(self, x):
        """Under an explicit mesh the factors need whole axes: gather, the inverse of `_placed`."""
        return jax.sharding.reshard(x, jax.P(*[None] * x.ndim)) if layout.is_sharded(x) else x

    def _placed(self, i, x):
        return x if self.specs[i] is None else jax.sharding.reshard(x, jax.P(*self.specs[i]))

    def _factors(self):
        if not self.slots:
            return self.state.factors
        views = {i: self._views(i) for slots in self.slots.values() for i, _, _ in slots}

        def bucket(old, slots):
            parts = []
            for i, axis, _ in slots:
                per_sample = jax.vmap(lambda x, axis=axis: roots.axis_moment(x, axis))(views[i])
                parts.append(
                    (per_sample[0] if per_sample.shape[0] == 1 else jnp.mean(per_sample, 0)).astype(old.moment.dtype)
                )
            return Bucket(moment(jnp.concatenate(parts), old.moment, self.b2, self.keep), old.basis)

        return tuple(bucket(old, slots) for old, slots in zip(self.state.factors, self.slots.values(), strict=True))

    def _running(self, i, nu, bases):
        if nu is None:
            return None
        if self.plans[i].kind == "diagonal":
            new = (
                square(self.g[i])
                if self.samples is None
                else jnp.mean(square(self.samples[i].reshape(-1, *self.plans[i].shape)), 0)
            )
            return moment(new, nu, self.b2, self.keep)
        rotated = jax.vmap(lambda x: square(roots.rotate(x, bases)))(self._views(i))
        new = rotated[0] if rotated.shape[0] == 1 else jnp.mean(rotated, 0)
        return moment(self._placed(i, layout.unview(self.plans[i], new)), nu, self.b2, self.keep)

    # Bases: slices of the buckets, refreshed together.

    def _due(self):
        """Refresh with the first step after every `refresh`; exact structures also with the very first."""
        at_start = any(plan.kind in ("kronecker", "full") for plan in self.plans)
        due = (self.count - 1) % self.options.refresh == 0
        due = due & (self.count > (0 if at_start else self.options.refresh))
        return due if self.keep is None else due & self.keep

    def _bases(self, buckets):
        bases = [{} for _ in self.plans]
        for bucket, slots in zip(buckets if self.slots else (), self.slots.values(), strict=True):
            start = 0
            for i, axis, K in slots:
                bases[i][axis] = bucket.basis[start : start + K].astype(self.g[i].dtype)
                start += K
        return bases

    def _spectra(self, buckets):
        """The eigenvalues of F in the basis for Kronecker leaves: the product over axes, over tr^(r - 1)."""
        found: dict[int, Array] = {}
        ranks: dict[int, Array] = {}
        for bucket, slots in zip(buckets if self.slots else (), self.slots.values(), strict=True):
            if not any(self.plans[i].kind != "eigen" for i, _, _ in slots):
                continue
            w, start = roots.spectrum(bucket.moment, bucket.basis), 0
            for i, axis, K in slots:
                plan = self.plans[i]
                if plan.kind != "eigen":
                    shape = [1] * len(plan.view)
                    shape[0], shape[1 + axis] = K, plan.view[1 + axis]
                    part = w[start : start + K]
                    total = jnp.sum(part, -1).reshape(K, *[1] * (len(shape) - 1))
                    safe = jnp.where(total > 0, total, jnp.ones_like(total))
                    part = part.reshape(shape)
                    found[i] = jnp.broadcast_to(part, plan.view) if i not in found else found[i] * (part / safe)
                    ranks[i] = total
                start += K
        return found

    def _refreshed(self, due, buckets, nu):
        """One branch for everything: new bases, second moments carried over, and what the old bases missed."""
        old = self.state.diagnostics
        measured = (old.staleness, old.whitening, old.condition)
        if not self.slots:
            return buckets, nu, measured
        refresh = roots.qr_step if self.options.basis == "qr" else roots.eigenbasis
        rotated = [i for i, plan in enumerate(self.plans) if plan.kind == "eigen"]

        def renew(operands):
            buckets, carried, _ = operands
            renewed = tuple(Bucket(b.moment, refresh(b.moment, b.basis)) for b in buckets)
            before, after = self._bases(buckets), self._bases(renewed)
            carried = [self._carry(i, v, before[i], after[i]) for i, v in zip(rotated, carried, strict=True)]
            return renewed, carried, _measure(buckets)

        operands = (buckets, [nu[i] for i in rotated], measured)
        buckets, carried, measured = jax.lax.cond(due, renew, lambda operands: operands, operands)
        nu = list(nu)
        for i, v in zip(rotated, carried, strict=True):
            nu[i] = v
        return buckets, nu, measured

    def _carry(self, i, v, before, after):
        seen = layout.view(self.plans[i], self._gathered(v))
        real = {axis: (before[axis], after[axis]) for axis in before}
        moved = roots.transport(seen, {a: b for a, (b, _) in real.items()}, {a: n for a, (_, n) in real.items()})
        return self._placed(i, layout.unview(self.plans[i], moved))

    # The step F^a m.

    def _mean(self, i, mu):
        if not self.options.bias_correction:
            return self._ahead(mu, self.g[i]) if self.options.nesterov else mu
        if not self.options.nesterov:
            return mu / self.c1.astype(mu.dtype)
        following = correction(self.b1, optax.safe_increment(self.forward)).astype(mu.dtype)
        return self._ahead(mu / following, self.g[i] / self.c1.astype(mu.dtype))

    def _ahead(self, m, g):
        return jnp.asarray(self.b1, m.dtype) * m + jnp.asarray(1 - self.b1, m.dtype) * g

    def _corrected(self, v):
        return v / self.c2.astype(v.dtype) if self.options.bias_correction else v

    def _direction(self, i, mu, nu, bases, spectrum, exponent, eps):
        plan, u = self.plans[i], self.updates[i]
        m = self._mean(i, mu)
        if plan.kind == "diagonal":
            m = fisher_power(m, self._corrected(nu), exponent, eps)
        elif plan.kind == "one_sided":
            m = self._placed(
                i, layout.unview(plan, one_sided(layout.view(plan, self._gathered(m)), exponent, self.options))
            )
        elif plan.kind != "none":
            second = self._corrected(layout.view(plan, self._gathered(nu)) if plan.kind == "eigen" else spectrum)
            rotated = fisher_power(roots.rotate(layout.view(plan, self._gathered(m)), bases), second, exponent, eps)
            m = self._placed(i, layout.unview(plan, roots.rotate(rotated, bases, back=True)))
        m = m.astype(u.dtype)
        return m if self.keep is None else jnp.where(self.keep, m, jnp.zeros_like(m))

    def _kinetic(self, due, nu, bases, spectra):
        """(1/2P) g' F^-1 g, renewed once per refresh."""
        kinds = ("diagonal", "eigen", "kronecker", "full")
        used = [i for i, plan in enumerate(self.plans) if plan.kind in kinds and self.g[i].size]
        if not used:
            return self.state.diagnostics.kinetic

        def measure():
            total = jnp.zeros([], jnp.float32)
            for i in used:
                plan, g = self.plans[i], self._gathered(self.g[i])
                if plan.kind == "diagonal":
                    x, second = g, self._corrected(self._gathered(nu[i]))
                else:
                    x = roots.rotate(layout.view(plan, g), bases[i])
                    second = self._corrected(
                        layout.view(plan, self._gathered(nu[i])) if plan.kind == "eigen" else spectra[i]
                    )
                live = second > 0
                ratio = jnp.where(
                    live, square(x) / jnp.where(live, second, jnp.ones_like(second)), jnp.zeros_like(second)
                )
                total = total + jnp.sum(ratio).astype(jnp.float32)
            return total / (2 * sum(self.g[i].size for i in used))

        when = due if self.slots else self.count % self.options.refresh == 0
        return jax.lax.cond(when, measure, lambda: self.state.diagnostics.kinetic)


def begin(plans, updates, fisher_grads, state: FisherState, b1, b2, options: FisherOptions) -> Step:
    """Everything that does not depend on the leaf, traced once and outside every branch."""
    wide = lambda x: x.astype(wide_dtype(x))
    keep = trees.all_finite([updates, fisher_grads or []]) if options.skip_nonfinite else None
    forward = jnp.asarray(optax.safe_increment(state.count))
    return Step(
        plans=plans,
        specs=[layout.explicit_spec(u) if layout.is_sharded(u) else None for u in updates],
        updates=updates,
        g=[wide(u) for u in updates],
        samples=None if fisher_grads is None else [wide(x) for x in fisher_grads],
        state=state,
        b1=b1,
        b2=b2,
        options=options,
        keep=keep,
        forward=forward,
        count=forward if keep is None else jnp.where(keep, forward, state.count),
        c1=correction(b1, forward),
        c2=correction(b2, forward),
        slots=layout.bucket_slots(plans),
    )


def _measure(buckets):
    """Staleness, whitening residual and condition of the worst factor, before a refresh."""
    fits = [roots.fit(bucket.moment, bucket.basis) for bucket in buckets]
    return tuple(
        functools.reduce(jnp.maximum, [jnp.max(x).astype(jnp.float32) for x in part])
        for part in zip(*fits, strict=True)
    )


def one_sided(m: Array, exponent, options: FisherOptions) -> Array:
    """F^a m with F = m m' / n (x) I of the momentum itself, on the shorter side: sqrt(n) polar(m) at a = -1/2.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.fisher.state import FisherOptions
        >>> from learnlag_jax.fisher.step import one_sided
        >>> u = one_sided(jnp.diag(jnp.array([3.0, 0.5]))[None], -0.5, FisherOptions())
        >>> [round(float(x), 4) for x in u[0].diagonal()]
        [1.4142, 1.4142]
    """
    wide = m.shape[-2] <= m.shape[-1]
    x = m if wide else jnp.swapaxes(m, -1, -2).conj()
    n = x.shape[-1]
    if isinstance(exponent, (int, float)) and exponent == -0.5 and not jnp.iscomplexobj(x):
        x = roots.polar(x, options.polar_steps) * jnp.asarray(n**0.5, x.dtype)
    else:
        w, q = jnp.linalg.eigh(roots.axis_moment(x, 0))
        rotated = roots.rotate(x, {0: q})
        floor = x.shape[-2] * jnp.finfo(w.dtype).eps * w[:, -1:]
        a = jnp.asarray(exponent, w.dtype)
        kept = w > floor
        powered = jnp.where(kept, w, jnp.ones_like(w)) / jnp.asarray(n, w.dtype)
        factor = jnp.where(
            kept,
            jnp.power(powered, jnp.broadcast_to(a, w.shape)),
            jnp.where(a == 0, jnp.ones_like(w), jnp.zeros_like(w)),
        )
        x = roots.rotate(rotated * factor[:, :, None].astype(x.dtype), {0: q}, back=True)
    return x if wide else jnp.swapaxes(x, -1, -2).conj()
