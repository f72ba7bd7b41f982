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

from learnlag_jax import checks, trees
from learnlag_jax.fisher import factors, gradients, roots
from learnlag_jax.fisher.gradients import Leaves
from learnlag_jax.fisher.moments import chosen, correction, fisher_power, moment, square
from learnlag_jax.fisher.state import Bucket, Diagnostics, FisherOptions, FisherState
from learnlag_jax.fisher.structure import DIAGONALISED, FACTORED, Seat, bucket_slots
from learnlag_jax.vocabulary import Array

LONG, EVERY = 1 << 16, 16


@dataclass(frozen=True)
class Step:
    """What every leaf needs to know; made by `begin`.

    Attributes:
        seats: how each leaf is worked on.
        keep: true where all that is given is sound; None where nobody asked.
        forward, count: steps counting this one; and the counter after it, which stands still on a skipped step.
        c1, c2: bias corrections.
    """

    seats: list[Seat]
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
        x = [None] * len(mu) if samples is None else samples
        moments, due = self._factors(updates, x, mu), self._due()
        bases, mu, nu, measured = self._refreshed(due, moments, mu, nu)
        buckets = tuple(map(Bucket, moments, bases)) if self.slots else self.state.factors
        turned, spectra = factors.by_leaf(bases, self.slots, len(mu)), self._spectra(moments, bases)
        leaf = self._shared(self._leaf, 0)
        done = [leaf(*known) for known in zip(self.seats, updates, x, mu, nu, turned, spectra, strict=True)]
        out, m, v, g, F = map(list, zip(*done, strict=True)) if done else [[]] * 5
        kinetic = self._kinetic(due, updates, samples, mu, g, F)
        skipped = self.state.diagnostics.skipped
        if self.keep is not None:
            skipped = skipped + jnp.where(self.keep, 0, 1).astype(jnp.int32)
        staleness, whitening, condition = measured
        return out, m, v, buckets, Diagnostics(kinetic, staleness, whitening, condition, skipped)

    def _shared(self, work: Callable, *static: int) -> Callable:
        """`work`, traced and lowered once for all leaves of one shape; op by op, as any update, outside of a trace."""
        if not checks.is_traced(self.forward):
            return work
        return jax.jit(lambda *known: work(*known), static_argnums=static)

    def _leaf(self, seat: Seat, u, x, mu: Array, nu: Array | None, basis, spectrum: Array | None):
        """(update, mu, nu, g in a basis, F) of one leaf: rotate in, Adam, rotate back; without a gradient, what it was."""
        g, keep, v = roots.rotate(gradients.entered(seat, u, mu), basis), self._kept(seat), None
        rotated = g if basis else None
        if u is None:
            return None, mu, nu, rotated, spectrum if nu is None else seat.enter(nu)
        m = moment(g, seat.enter(mu), self.b1, keep)
        if nu is not None:
            squares = lambda xi: square(roots.rotate(xi, basis))
            new = square(g) if x is None else gradients.second(seat, squares, u, x, mu)
            v = moment(new, seat.enter(nu), self.b2, keep)
        F = spectrum if v is None else v
        out = seat.leave(roots.rotate(self._direction(seat, m, g, F), basis, back=True)).astype(u.dtype)
        return out, seat.leave(m), None if v is None else seat.leave(v), rotated, F

    def _kept(self, seat: Seat) -> Any:
        """What of a leaf moves: all of it if every gradient is finite; of a stack only what has a gradient."""
        if all(seat.present) or len(seat.present) == 1:
            return self.keep
        present = np.reshape(seat.present, (-1, *(1 for _ in seat.shape[1:])))
        return present if self.keep is None else present & self.keep

    def _factors(self, updates: Leaves, x: Leaves, mu: Leaves) -> list[Array]:
        """The running second moment along every axis, all those of one side in one bucket."""
        along = self._shared(gradients.along, 0, 1)

        def bucket(old: Bucket, slots) -> Array:
            new = jnp.concatenate([along(self.seats[i], axis, updates[i], x[i], mu[i]) for i, axis, _ in slots])
            seen = np.concatenate([np.repeat(self.seats[i].present, K) for i, _, K in slots])
            mixed = moment(new, old.moment, self.b2, self.keep)
            return mixed if seen.all() else jnp.where(seen[:, None, None], mixed, old.moment)

        if not self.slots:
            return []
        return [bucket(old, slots) for old, slots in zip(self.state.factors, self.slots.values(), strict=True)]

    def _due(self) -> Array:
        """Refresh with the first step after every `refresh`; exact structures also with the very first."""
        at_start = any(seat.plan.kind in ("kronecker", "full") for seat in self.seats)
        due = (self.count - 1) % self.options.refresh == 0
        due = due & (self.count > (0 if at_start else self.options.refresh))
        return self._unless_skipped(due)

    def _unless_skipped(self, due: Array) -> Array:
        return due if self.keep is None else due & self.keep

    def _refreshed(self, due: Array, moments: list[Array], mu: Leaves, nu: Leaves):
        """One branch for everything: new bases, both moments turned into them, and what the old bases missed."""
        diagnostics = self.state.diagnostics
        measured = (diagnostics.staleness, diagnostics.whitening, diagnostics.condition)
        if not self.slots:
            return [], mu, nu, measured
        old = [bucket.bases for bucket in self.state.factors]
        turning = [i for i, seat in enumerate(self.seats) if seat.plan.kind in FACTORED]
        carry = self._shared(factors.carried, 0)
        refresh = self._shared(lambda A, Q: roots.refreshed(A, factors.stacked(Q), self.options.basis))

        def renew(operands):
            old, moving, _ = operands
            found = [refresh(A, Q) for A, Q in zip(moments, old, strict=True)]
            new = factors.split([one.basis for one in found], self.slots)
            before, after = (factors.by_leaf(bases, self.slots, len(mu)) for bases in (old, new))
            moving = [carry(self.seats[i], *pair, before[i], after[i]) for i, pair in zip(turning, moving, strict=True)]
            return new, moving, factors.worst([one.fit for one in found])

        operands = (old, [(mu[i], nu[i]) for i in turning], measured)
        bases, moved, measured = jax.lax.cond(due, renew, lambda operands: operands, operands)
        turned = dict(zip(turning, moved, strict=True))
        pairs = [turned.get(i, pair) for i, pair in enumerate(zip(mu, nu, strict=True))]
        return bases, *map(list, zip(*pairs, strict=True)), measured

    def _spectra(self, moments: list[Array], bases: list[tuple[Array, ...]]) -> Leaves:
        """Eigenvalues of F in the basis, where F = L (x) R / tr L: the product over the axes, over tr^(r - 1)."""
        exact = lambda seat: seat.plan.kind in ("kronecker", "full")
        if not any(map(exact, self.seats)):
            return [None] * len(self.seats)
        w = [roots.spectrum(A, factors.stacked(Q)) for A, Q in zip(moments, bases, strict=True)]
        each = factors.by_leaf(factors.split(w, self.slots), self.slots, len(self.seats))
        return [
            roots.kronecker_spectrum({axis: x[:, 0] for axis, x in wi.items()}, seat.shape) if exact(seat) else None
            for seat, wi in zip(self.seats, each, strict=True)
        ]

    # The step F^a m.

    def _direction(self, seat: Seat, m: Array, g: Array, F: Any) -> Array:
        """In the basis."""
        m, kind = self._mean(m, g), seat.plan.kind
        if kind not in ("one_sided", "none"):
            m = fisher_power(m, self._corrected(F), self.exponent, self.eps)
        m = m if self.keep is None else chosen(self.keep, m, jnp.zeros_like(m))
        # what is linear or maps zero to zero comes last, so that the choice above fuses with the division
        return roots.one_sided(m, self.exponent, self.options.polar_steps) if kind == "one_sided" else m

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

    def _kinetic(
        self, due: Array, updates: Leaves, samples: Leaves | None, mu: Leaves, rotated: Leaves, F: Leaves
    ) -> Array:
        """(1/2P) g' F^-1 g, renewed once per refresh; F as it is stored, or the corrected one would be kept for this branch."""
        used = [i for i, seat in enumerate(self.seats) if seat.plan.kind in DIAGONALISED and mu[i].size]
        if not used:
            return self.state.diagnostics.kinetic

        def gradient(i):
            g = gradients.entered(self.seats[i], updates[i], mu[i]) if rotated[i] is None else rotated[i]
            return g if samples is None else jnp.where(F[i] > 0, g, jnp.zeros_like(g))  # samples may lack what g has

        def measure():
            small = [i for i in used if self.seats[i].spec is None and mu[i].size < trees.SMALL]
            energy = self._shared(_energy, 0)
            energies = [energy(self.seats[i], gradient(i), F[i]) for i in sorted(set(used) - set(small))]
            for dtype in sorted({self.seats[i].dtype for i in small}):  # together, for the sake of compilation
                same = [i for i in small if self.seats[i].dtype == dtype]
                joined = [
                    jnp.concatenate([x.ravel() for x in each]) for each in (map(gradient, same), [F[i] for i in same])
                ]
                energies.append(roots.energy(*joined))
            corrected = self.c2.astype(jnp.float32) if self.options.bias_correction else 1
            return functools.reduce(operator.add, energies) * corrected / (2 * sum(mu[i].size for i in used))

        when = due if self.slots else self._unless_skipped(self.count % self.options.refresh == 0)
        return jax.lax.cond(when, measure, lambda: self.state.diagnostics.kinetic)


def _energy(seat: Seat, g: Array, F: Array) -> Array:
    """g' F^-1 g of one leaf; of a long elementwise one every 16th row stands for all, or a diagnostic would cost a step."""
    if seat.plan.kind == "diagonal" and seat.spec is None and g.size > LONG and len(g) >= EVERY:
        part = g[::EVERY]
        return roots.energy(part, F[::EVERY]) * jnp.float32(g.size / part.size)
    return roots.energy(g, F)


def begin(
    seats,
    updates: Leaves,
    samples: Leaves | None,
    mu: Leaves,
    state: FisherState,
    b1,
    b2,
    exponent,
    eps,
    options: FisherOptions,
) -> Step:
    """Everything that is known before any leaf's turn, traced once and outside every branch."""
    keep = gradients.sound(seats, updates, samples, mu) if options.skip_nonfinite else None
    forward = jnp.asarray(optax.safe_increment(state.count))
    # a barrier, or XLA copies these few scalars' whole history into the kernel of every leaf
    keep, c1, c2 = jax.lax.optimization_barrier((keep, correction(b1, forward), correction(b2, forward)))
    return Step(
        seats=seats,
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
