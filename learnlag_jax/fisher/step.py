"""One update of `scale_by_fisher`: moments, bases refreshed in a single branch, and the step F^a m, leaf by leaf.

A diagonal leaf is one whose basis is the identity, so one formula serves both: rotate in, divide by a power, rotate back.
Comes from: `precondition`. Not public. Reference: MATH.md 7; eq. 31, 32.
"""

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learnlag_jax import trees
from learnlag_jax.fisher import roots
from learnlag_jax.fisher.moments import correction, fisher_power, moment, square
from learnlag_jax.fisher.state import Bucket, Diagnostics, FisherOptions, FisherState
from learnlag_jax.fisher.structure import DIAGONALISED, Seat, bucket_slots
from learnlag_jax.vocabulary import Array

LONG, EVERY = 1 << 16, 16
Leaves = list[Any]  # arrays, or None where there is nothing


@dataclass(frozen=True)
class Step:
    """What every leaf needs to know; made by `begin`.

    Attributes:
        seats: how each leaf is worked on.
        present: for every leaf, whether it has a gradient this time.
        keep: true where every gradient is finite; None where nobody asked.
        forward, count: steps counting this one; and the counter after it, which stands still on a skipped step.
        c1, c2: bias corrections.
    """

    seats: list[Seat]
    present: list[bool]
    state: FisherState
    b1: Any
    b2: Any
    exponent: Any
    eps: Any
    options: FisherOptions
    keep: Array | None
    forward: Array
    count: Array
    c1: Array
    c2: Array

    @property
    def slots(self):
        return bucket_slots(self.seats)

    def run(self, updates: Leaves, samples: Leaves | None, mu: Leaves, nu: Leaves):
        """(updates, mu, nu, buckets, diagnostics) after this step."""
        wide = lambda x, like: jnp.zeros(like.shape, like.dtype) if x is None else x.astype(like.dtype)
        g = self._enter([wide(u, m) for u, m in zip(updates, mu, strict=True)])
        x, per_sample = g, lambda f, x: f(x)
        if samples is not None:
            count = next((len(s) for s in samples if s is not None), 1)
            like = [jax.ShapeDtypeStruct((count, *m.shape), m.dtype) for m in mu]
            x = self._enter([wide(s, shape) for s, shape in zip(samples, like, strict=True)])
            per_sample = lambda f, x: jnp.mean(jax.vmap(f)(x), 0)
        buckets = self._factors(x, per_sample)
        due = self._due()
        buckets, v, measured = self._refreshed(due, buckets, self._enter(nu))
        bases, spectra = self._bases(buckets), self._spectra(buckets)
        m = [moment(gi, mi, self.b1, self.keep) for gi, mi in zip(g, self._enter(mu), strict=True)]
        second = lambda basis: lambda xi: square(roots.rotate(xi, basis))
        seen = [
            None if vi is None else per_sample(second(basis), xi) for xi, vi, basis in zip(x, v, bases, strict=True)
        ]
        v = [None if new is None else moment(new, vi, self.b2, self.keep) for new, vi in zip(seen, v, strict=True)]
        F = [vi if vi is not None else s for vi, s in zip(v, spectra, strict=True)]
        out = [self._direction(seat, m[i], g[i], F[i], bases[i]) for i, seat in enumerate(self.seats)]
        # |Q' g|^2 is at hand, unless F is of samples; where Q = I it is cheaper to square again than to keep it
        squares = [new if samples is None and basis else None for new, basis in zip(seen, bases, strict=True)]
        kinetic = self._kinetic(due, g, squares, F, bases)
        skipped = self.state.diagnostics.skipped
        if self.keep is not None:
            skipped = skipped + jnp.where(self.keep, 0, 1).astype(jnp.int32)
        given = zip(updates, self._leave(out, updates), strict=True)
        updated = [u if u is None else o.astype(u.dtype) for u, o in given]
        staleness, whitening, condition = measured
        diagnostics = Diagnostics(kinetic, staleness, whitening, condition, skipped)
        return updated, self._leave(m, mu), self._leave(v, nu), buckets, diagnostics

    def _enter(self, leaves: Leaves) -> Leaves:
        return [None if x is None else seat.enter(x) for seat, x in zip(self.seats, leaves, strict=True)]

    def _leave(self, new: Leaves, old: Leaves) -> Leaves:
        """Back to leaves; one that had no gradient keeps what it was."""
        return [
            seat.leave(x) if present and x is not None else before
            for seat, present, x, before in zip(self.seats, self.present, new, old, strict=True)
        ]

    # Factors: the running second moment along every axis, all those of one side in one bucket.

    def _factors(self, x: Leaves, per_sample: Callable):
        def bucket(old: Bucket, slots):
            along = lambda axis: lambda stacked: roots.axis_moment(stacked, axis)
            new = jnp.concatenate([per_sample(along(axis), x[i]).astype(old.moment.dtype) for i, axis, _ in slots])
            seen = np.concatenate([np.repeat(self.present[i], K) for i, _, K in slots])
            mixed = moment(new, old.moment, self.b2, self.keep)
            return Bucket(mixed if seen.all() else jnp.where(seen[:, None, None], mixed, old.moment), old.basis)

        if not self.slots:
            return self.state.factors
        return tuple(bucket(old, slots) for old, slots in zip(self.state.factors, self.slots.values(), strict=True))

    def _due(self) -> Array:
        """Refresh with the first step after every `refresh`; exact structures also with the very first."""
        at_start = any(seat.plan.kind in ("kronecker", "full") for seat in self.seats)
        due = (self.count - 1) % self.options.refresh == 0
        due = due & (self.count > (0 if at_start else self.options.refresh))
        return due if self.keep is None else due & self.keep

    def _refreshed(self, due: Array, buckets, v: Leaves):
        """One branch for everything: new bases, second moments carried over, and what the old bases missed."""
        old = self.state.diagnostics
        measured = (old.staleness, old.whitening, old.condition)
        if not self.slots:
            return buckets, v, measured
        turning = [i for i, seat in enumerate(self.seats) if seat.plan.kind == "eigen"]

        def renew(operands):
            buckets, carried, _ = operands
            found = [roots.refreshed(b.moment, b.basis, self.options.basis) for b in buckets]
            renewed = tuple(Bucket(b.moment, new.basis) for b, new in zip(buckets, found, strict=True))
            before, after = self._bases(buckets), self._bases(renewed)
            carried = [roots.transport(vi, before[i], after[i]) for i, vi in zip(turning, carried, strict=True)]
            return renewed, carried, _worst([new.fit for new in found])

        operands = (buckets, [v[i] for i in turning], measured)
        buckets, carried, measured = jax.lax.cond(due, renew, lambda operands: operands, operands)
        turned = dict(zip(turning, carried, strict=True))
        return buckets, [turned.get(i, vi) for i, vi in enumerate(v)], measured

    def _per_leaf(self, values):
        """{axis: slice} for every leaf, from one array a bucket."""
        found = [{} for _ in self.seats]
        for value, slots in zip(values, self.slots.values(), strict=True):
            start = 0
            for i, axis, count in slots:
                found[i][axis] = value[start : start + count]
                start += count
        return found

    def _bases(self, buckets):
        return self._per_leaf([bucket.basis for bucket in buckets] if self.slots else [])

    def _spectra(self, buckets) -> Leaves:
        """Eigenvalues of F in the basis, where F = L (x) R / tr L: the product over the axes, over tr^(r - 1)."""
        exact = lambda seat: seat.plan.kind in ("kronecker", "full")
        if not any(map(exact, self.seats)):
            return [None] * len(self.seats)
        w = self._per_leaf([roots.spectrum(bucket.moment, bucket.basis) for bucket in buckets])
        return [
            roots.kronecker_spectrum(wi, seat.shape) if exact(seat) else None
            for seat, wi in zip(self.seats, w, strict=True)
        ]

    # The step F^a m.

    def _direction(self, seat: Seat, m: Array, g: Array, F: Any, basis) -> Array:
        m, kind = self._mean(m, g), seat.plan.kind
        if kind not in ("one_sided", "none"):
            m = fisher_power(roots.rotate(m, basis), self._corrected(F), self.exponent, self.eps)
        m = m if self.keep is None else jnp.where(self.keep, m, jnp.zeros_like(m))
        # what is linear or maps zero to zero comes last, so that the choice above fuses with the division
        if kind == "one_sided":
            return roots.one_sided(m, self.exponent, self.options.polar_steps)
        return roots.rotate(m, basis, back=True)

    def _mean(self, m: Array, g: Array) -> Array:
        """The momentum, bias-corrected and looking one step ahead if asked."""
        ahead = lambda m, g: jnp.asarray(self.b1, m.dtype) * m + jnp.asarray(1 - self.b1, m.dtype) * g
        if not self.options.bias_correction:
            return ahead(m, g) if self.options.nesterov else m
        if not self.options.nesterov:
            return m / self.c1.astype(m.dtype)
        following = correction(self.b1, optax.safe_increment(self.forward)).astype(m.dtype)
        return ahead(m / following, g / self.c1.astype(m.dtype))

    def _corrected(self, v: Array) -> Array:
        return v / self.c2.astype(v.dtype) if self.options.bias_correction else v

    def _kinetic(self, due: Array, g: Leaves, squares: Leaves, F: Leaves, bases) -> Array:
        """(1/2P) g' F^-1 g, renewed once per refresh; F as it is stored, or the corrected one would be kept for this branch."""
        used = [i for i, seat in enumerate(self.seats) if seat.plan.kind in DIAGONALISED and g[i].size]
        if not used:
            return self.state.diagnostics.kinetic

        def measure():
            energies = [self._energy(self.seats[i], g[i], squares[i], F[i], bases[i]) for i in used]
            corrected = self.c2.astype(jnp.float32) if self.options.bias_correction else 1
            return functools.reduce(operator.add, energies) * corrected / (2 * sum(g[i].size for i in used))

        when = due if self.slots else self.count % self.options.refresh == 0
        return jax.lax.cond(when, measure, lambda: self.state.diagnostics.kinetic)

    def _energy(self, seat: Seat, g: Array, squares: Array | None, F: Array, basis) -> Array:
        """g' F^-1 g of one leaf; of a long elementwise one every 16th row stands for all, or a diagnostic would cost a step."""
        if squares is None and not basis and seat.spec is None and g.size > LONG and len(g) >= EVERY:
            some, part = slice(None, None, EVERY), g[::EVERY].size
            return roots.energy(square(g[some]), F[some]) * jnp.float32(g.size / part)
        return roots.energy(square(roots.rotate(g, basis)) if squares is None else squares, F)


def begin(seats, updates, samples, state: FisherState, b1, b2, exponent, eps, options: FisherOptions) -> Step:
    """Everything that does not depend on the leaf, traced once and outside every branch."""
    keep = trees.all_finite([updates, samples]) if options.skip_nonfinite else None
    forward = jnp.asarray(optax.safe_increment(state.count))
    # a barrier, or XLA copies these few scalars' whole history into the kernel of every leaf
    keep, c1, c2 = jax.lax.optimization_barrier((keep, correction(b1, forward), correction(b2, forward)))
    return Step(
        seats=seats,
        present=[u is not None for u in updates],
        state=state,
        b1=b1,
        b2=b2,
        exponent=exponent,
        eps=eps,
        options=options,
        keep=keep,
        forward=forward,
        count=forward if keep is None else jnp.where(keep, forward, state.count),
        c1=c1,
        c2=c2,
    )


def _worst(fits: list[roots.Fit]):
    """Staleness, whitening residual and condition of the worst factor."""
    return tuple(
        functools.reduce(jnp.maximum, [jnp.max(x).astype(jnp.float32) for x in part])
        for part in zip(*fits, strict=True)
    )
