"""Structures of `scale_by_fisher`: exact identities of F^a for Kronecker, full, eigen and one-sided members."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learnlag_jax import InputError
from learnlag_jax.fisher import FisherOptions, preset, roots, scale_by_fisher
from learnlag_jax.fisher.structure import bucket_slots, plan_leaf, seats, unview, view
from learnlag_jax.testing import assert_close
from tests.compiling import AS_USERS
from tests.fisher.models import normal

EXACT = FisherOptions(refresh=1, basis="eigh")


def last(optimiser, grads, **extra):
    state = optimiser.init(grads[0])
    update = jax.jit(optimiser.update)
    for g in grads:
        u, state = update(g, state, **extra)
    return u, state


def power(F, a):
    w, q = np.linalg.eigh(np.asarray(F))
    return (q * np.where(w > 1e-12 * w.max(), w, np.inf if a < 0 else 0) ** a) @ q.T


def ema(terms, b):
    total = 0
    for t in terms:
        total = b * total + (1 - b) * np.asarray(t)
    return total / (1 - b ** len(terms))


@pytest.mark.parametrize("shape", [(32,), (32, 1)])
@pytest.mark.parametrize("basis", ["qr", "eigh"])
def test_what_only_rounding_made_small_divides_nothing(shape, basis):
    """One gradient has rank one: past it the spectrum is rounding, and the step was 1600 long where it should be 1 in norm."""
    g = normal(shape, dtype=jnp.float32) / 10
    options = FisherOptions(basis=basis)
    u, _ = last(scale_by_fisher("kronecker", options=options), [g])
    assert float(jnp.linalg.norm(u)) < 2


@pytest.mark.parametrize("exponent", [-1.0, -0.5, -0.25])
def test_full_is_the_power_of_the_running_outer_product(float64, exponent):
    grads = list(normal((12, 2, 3)))
    ours, _ = last(scale_by_fisher("full", exponent=exponent, b1=0.0, b2=0.9, eps=0.0, options=EXACT), grads)
    F = ema([np.outer(g.ravel(), g.ravel()) for g in grads], 0.9)
    expected = (power(F, exponent) @ np.asarray(grads[-1]).ravel()).reshape(2, 3)
    assert_close(ours, jnp.asarray(expected), ulps=1e7)


@pytest.mark.parametrize("exponent", [-1.0, -0.5, -0.25])
def test_kronecker_exponent_is_on_f_not_on_the_factors(float64, exponent):
    grads = list(normal((12, 2, 3)))
    ours, _ = last(scale_by_fisher("kronecker", exponent=exponent, b1=0.0, b2=0.9, eps=0.0, options=EXACT), grads)
    L, R = ema([g @ g.T for g in grads], 0.9), ema([g.T @ g for g in grads], 0.9)
    F = np.kron(L, R) / np.trace(L)
    expected = (power(F, exponent) @ np.asarray(grads[-1]).ravel()).reshape(2, 3)
    assert_close(ours, jnp.asarray(expected), ulps=1e7)
    shampoo = power(L, -0.25) @ np.asarray(grads[-1]) @ power(R, -0.25)
    proportional = float(np.sum(np.asarray(ours) * shampoo) / np.linalg.norm(ours) / np.linalg.norm(shampoo))
    assert (proportional > 1 - 1e-12) == (exponent == -0.25)  # classic Shampoo is -1/4 up to scale, and nothing else is


def construction(L, R):
    """Matrices L^{1/2} E_ij R^{1/2}: their mean outer product is exactly L (x) R over their number."""
    m, n = len(L), len(R)
    units = jnp.eye(m * n).reshape(m * n, m, n)
    return jnp.einsum("ab,kbc,cd->kad", jnp.asarray(power(L, 0.5)), units, jnp.asarray(power(R, 0.5)))


def spd(d, seed):
    a = np.asarray(normal((d, d), seed))
    return a @ a.T + 0.5 * np.eye(d)


def test_kronecker_equals_full_where_the_second_moment_is_a_kronecker_product(float64):
    samples = construction(spd(2, 1), spd(3, 2))
    g = normal((2, 3), 5)
    options = {"fisher": "per_example", "b1": 0.0, "b2": 0.0, "eps": 0.0, "options": EXACT}
    full, _ = last(scale_by_fisher("full", **options), [g], fisher_grads=samples)
    kronecker, _ = last(scale_by_fisher("kronecker", **options), [g], fisher_grads=samples)
    eigen_like = EXACT._replace(refresh=1)
    state_options = options | {"options": eigen_like}
    optimiser = scale_by_fisher("eigen", **state_options)
    state = optimiser.init(g)
    for _ in range(3):
        eigen, state = optimiser.update(g, state, fisher_grads=samples)
    assert_close(kronecker, full, ulps=1e5)
    assert_close(eigen, full, ulps=1e5)  # the full second moment in the eigenbasis is F^{-1/2} when F is Kronecker
    quarter, _ = last(scale_by_fisher("kronecker", exponent=-0.25, **options), [g], fisher_grads=samples)
    cosine = float(jnp.vdot(quarter, full) / jnp.linalg.norm(quarter) / jnp.linalg.norm(full))
    assert cosine < 0.99


def test_structures_agree_on_diagonal_second_moments(float64):
    samples = 3.0 * jnp.eye(4)  # per-example gradients along the axes: F is diagonal
    g = normal((4,), 3)
    options = {"fisher": "per_example", "b1": 0.0, "b2": 0.0, "eps": 0.0, "options": EXACT}
    diagonal, _ = last(scale_by_fisher("diagonal", **options), [g], fisher_grads=samples)
    full, _ = last(scale_by_fisher("full", **options), [g], fisher_grads=samples)
    assert_close(full, diagonal, ulps=1e3)


def covariance_error(exponent, A, structure="full"):
    """|A' u(A g) - u(g)| for gradients that transform as g_A = A g (a covector under theta' = A^-T theta)."""
    grads = list(normal((20, 4)))
    optimiser = scale_by_fisher(structure, exponent=exponent, b1=0.0, b2=0.9, eps=0.0, options=EXACT)
    plain, _ = last(optimiser, grads)
    moved, _ = last(optimiser, [A @ g for g in grads])
    return float(jnp.linalg.norm(A.T @ moved - plain) / jnp.linalg.norm(plain))


def test_exponent_minus_one_is_covariant_under_every_map_and_minus_half_only_under_rotations(float64):
    A = jnp.eye(4) + 0.5 * normal((4, 4), 9)
    U = jnp.linalg.qr(A)[0]
    assert covariance_error(-1.0, A) < 1e-8
    assert covariance_error(-0.5, U) < 1e-8
    assert covariance_error(-0.5, A) > 0.1
    assert covariance_error(-1.0, U, "diagonal") > 0.1  # a diagonal Fisher is covariant under neither


def test_kinetic_energy_is_invariant_though_the_half_step_is_not(float64):
    A = jnp.eye(4) + 0.5 * normal((4, 4), 9)
    grads = list(normal((20, 4)))
    optimiser = scale_by_fisher("full", b1=0.0, b2=0.9, eps=0.0, options=EXACT)
    energies = [last(optimiser, gs)[1].diagnostics.kinetic for gs in (grads, [A @ g for g in grads])]
    assert_close(energies[1], energies[0], ulps=64)
    shifted = last(optimiser, [A @ g + 1.0 for g in grads])[1].diagnostics.kinetic
    assert abs(float(shifted - energies[0])) > 1e-3


@pytest.mark.parametrize("structure", ["eigen", "kronecker", "one_sided"])
def test_matrix_structures_are_equivariant_under_rotations_of_both_sides(float64, structure):
    """The first step of "eigen" is Adam's, which sees the coordinates, but with b1 = b2 = 0 it leaves no trace in the second."""
    U, V = jnp.linalg.qr(normal((3, 3), 1))[0], jnp.linalg.qr(normal((4, 4), 2))[0]
    options = {"b1": 0.9, "b2": 0.9, "eps": 0.0, "options": EXACT._replace(polar_steps=20)}
    samples = construction(spd(3, 1), spd(4, 2))
    if structure == "eigen":
        options |= {"b1": 0.0, "b2": 0.0, "fisher": "per_example"}
    optimiser = scale_by_fisher(structure, **options)

    def walk(turn):
        extra = {"fisher_grads": jax.vmap(turn)(samples)} if structure == "eigen" else {}
        return last(optimiser, [turn(g) for g in normal((16, 3, 4))], **extra)[0]

    plain = walk(lambda g: g)
    assert_close(walk(lambda g: U @ g @ V.T), U @ plain @ V.T, ulps=1e7)
    stretch = jnp.diag(jnp.array([1.0, 2.0, 3.0]))
    assert float(jnp.linalg.norm(stretch @ walk(lambda g: stretch @ g) - plain)) > 0.1


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5)])
def test_one_sided_is_the_polar_factor(dtype, shape):
    g = normal(shape, 4, dtype)
    near, _ = last(scale_by_fisher("one_sided", b1=0.0), [g])
    u, _ = last(scale_by_fisher("one_sided", b1=0.0, options=FisherOptions(polar_steps=7)), [g])
    a, _, b = np.linalg.svd(np.asarray(g, np.float64), full_matrices=False)
    expected = jnp.asarray(np.sqrt(max(shape)) * a @ b, dtype)
    assert_close(u, expected, ulps=max(64.0, 1e-5 / float(jnp.finfo(dtype).eps)), scale=1.0)
    assert abs(float(jnp.sqrt(jnp.mean(u**2))) - 1) < 1e-3
    error = np.abs(np.linalg.svd(np.asarray(near, np.float64), compute_uv=False) / np.sqrt(max(shape)) - 1)
    within = np.linalg.svd(np.asarray(g, np.float64), compute_uv=False) > 3e-3 * np.linalg.norm(g)
    assert np.sum(error < 6e-3) >= np.sum(within)  # five steps, Muon's arithmetic: within half a percent
    assert np.max(error) > 1e-6  # and not exact
    by_eigh, _ = last(scale_by_fisher("one_sided", b1=0.0, exponent=jnp.asarray(-0.5, dtype)), [g])
    assert_close(by_eigh, expected, ulps=1e4, scale=1.0)


@pytest.mark.parametrize("exponent", [-0.5, jnp.float32(-0.5), -0.25, -1.0])
@pytest.mark.parametrize("scale", [2.0**-100, 2.0**63])
def test_one_sided_is_covariant_where_squares_would_vanish_or_overflow(exponent, scale):
    """F^a m of c g is c^(2a + 1) times that of g; the squares of 2^-70 times an entry are zero in float32, of 2^64 infinite."""
    g = normal((4, 4), dtype=jnp.float32) / 8
    optimiser = scale_by_fisher("one_sided", exponent=exponent, options=FisherOptions(polar_steps=7))
    expected = last(optimiser, [g])[0] * jnp.float32(scale ** (2 * float(exponent) + 1))
    assert_close(last(optimiser, [scale * g])[0], expected, ulps=64)


def test_muons_five_steps_are_only_near_the_polar_factor():
    g = normal((6, 6), 4, jnp.float32)
    a, _, b = np.linalg.svd(np.asarray(g))
    ours = np.asarray(roots.polar(g[None], 12)[0])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        muon = optax.contrib.scale_by_muon(beta=0.0, nesterov=False)
        theirs = np.asarray(muon.update(g, muon.init(g))[0])
    assert np.max(np.abs(ours - a @ b)) < 1e-4
    assert np.max(np.abs(theirs - a @ b)) > 1e-2


def test_the_first_steps_of_eigen_are_adams_to_the_last_bit(dtype):
    """In float64 XLA may evaluate 0.999^k once as a scalar and once in a vector loop, one bit apart: 4 eps there."""
    grads = list(normal((8, 4, 3), 0, dtype))
    ours, adam = scale_by_fisher("eigen", options=FisherOptions(refresh=5)), optax.scale_by_adam()
    s, t = ours.init(grads[0]), adam.init(grads[0])
    same = []
    with jax.numpy_dtype_promotion("standard"):
        f, h = (jax.jit(x.update, compiler_options=AS_USERS) for x in (ours, adam))
        for g in grads:
            (u, s), (v, t) = f(g, s), h(g, t)
            apart = float(jnp.max(jnp.abs(u - v) / jnp.abs(v)))
            same.append(apart <= (0.0 if dtype == jnp.float32 else 4 * float(jnp.finfo(dtype).eps)))
    assert same == [True] * 5 + [False] * 3


def test_transport_keeps_the_trace_and_is_exact_for_a_diagonal_covariance(float64):
    Q = jnp.linalg.qr(normal((3, 3), 1))[0]
    v = jnp.array([[5.0, 1.0, 0.2]])
    moved = roots.transport(v, {0: roots.turn(jnp.eye(3)[None], Q[None])})
    assert_close(moved[0], jnp.diag(Q.T @ jnp.diag(v[0]) @ Q))
    assert_close(jnp.sum(moved), jnp.sum(v))


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.complex128])
@pytest.mark.parametrize("structure", ["eigen", "kronecker"])
def test_the_momentum_is_the_running_mean_however_often_its_basis_turns(float64, structure, dtype):
    grads = list(normal((9, 3, 4), dtype=dtype))
    for options in (FisherOptions(refresh=2), EXACT):
        _, state = last(scale_by_fisher(structure, b1=0.8, options=options), grads)
        bases = {axis: bucket.bases[0][None] for axis, bucket in enumerate(state.factors)}
        unturned = roots.rotate(state.mu[None], bases, back=True)[0]
        assert_close(unturned, jnp.asarray(ema(grads, 0.8) * (1 - 0.8**9)), ulps=1e3)
        assert float(jnp.max(jnp.abs(unturned - state.mu))) > 0.1  # the bases are not the identity


def test_wide_factors_share_stacks_only_up_to_their_room(float64):
    """Five sides of 300 make three stacks, sides of 2 one; every leaf gets what it gets alone."""
    grads = [{name: normal((300, 2), 7 * k + i) for i, name in enumerate("abcde")} for k in range(5)]
    optimiser = scale_by_fisher("kronecker", options=FisherOptions(refresh=2))
    u, state = last(optimiser, grads)
    assert [bucket.moment.shape for bucket in state.factors] == [(5, 2, 2), (2, 300, 300), (2, 300, 300), (1, 300, 300)]
    alone = {name: last(optimiser, [g[name] for g in grads])[0] for name in "abcde"}
    assert_close(u, alone, ulps=1e6)
    assert float(jnp.max(jnp.abs(u["b"] - u["c"]))) > 0.1


def test_directions_that_the_samples_never_saw_carry_no_energy(float64):
    g, seen = jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0], [3.0, 0.0]])
    optimiser = scale_by_fisher("diagonal", fisher="per_example", b2=0.9, options=FisherOptions(refresh=1))
    _, state = last(optimiser, [g] * 2, fisher_grads=seen)
    assert_close(
        state.diagnostics.kinetic, jnp.float32(1 / 5 / 4), ulps=1e2
    )  # g_1^2 / F_11 / (2 P), F_11 = (1 + 9) / 2


@pytest.mark.parametrize(
    ("side", "count", "held"),
    [(128, 40, [40]), (160, 12, [6, 6]), (300, 5, [2, 2, 1]), (300, 30, [4] * 7 + [2]), (600, 3, [1, 1, 1])],
)
def test_wide_factors_make_a_few_stacks_and_narrow_ones_one(side, count, held):
    leaves = [jnp.zeros((side, 2))] * count
    plan = plan_leaf("kronecker", (side, 2), max_size=1024, block_size=None, merge=True)
    slots = bucket_slots(seats([plan] * count, leaves, [jnp.dtype("float32")] * count))
    assert [len(part) for (d, *_), part in slots.items() if d == side] == held
    assert [i for (d, *_), part in slots.items() if d == side for i, _, _ in part] == list(range(count))


@pytest.mark.parametrize("structure", ["diagonal", "eigen"])
@pytest.mark.parametrize("good", [0, 2])
def test_a_skipped_step_leaves_the_energy_that_was_measured(structure, good):
    """Also where a measurement is due at that very count: of a vector after 2 steps, and before the first."""
    g = jnp.ones(3, jnp.float32)
    optimiser = scale_by_fisher(structure, options=FisherOptions(refresh=2))
    state = optimiser.init(g)
    for _ in range(good):
        _, state = optimiser.update(g, state)
    _, after = optimiser.update(g.at[0].set(jnp.nan), state)
    assert_close(after.diagnostics.kinetic, jnp.float32(good / 4), ulps=1e3)  # 1/2 where F = g g'
    assert int(after.diagnostics.skipped) == 1


def test_a_tree_without_leaves_has_a_state_that_stays(float64):
    optimiser = scale_by_fisher()
    state = optimiser.init({})
    updates, after = jax.jit(optimiser.update)({}, state)
    assert updates == {}
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_qr_steps_reach_the_eigenbasis_and_the_staleness_says_so(float64):
    A = jnp.asarray(spd(5, 3))[None]
    Q = jnp.eye(5)[None]
    stale = []
    for _ in range(60):
        Q, fit = roots.refreshed(A, Q)
        stale.append(float(fit.staleness[0]))
    assert stale[0] > 0.3
    assert stale[-1] < 1e-3
    assert_close(Q[0].T @ Q[0], jnp.eye(5))


@pytest.mark.parametrize("copies", [1, 3])
def test_how_well_a_basis_fits(float64, copies):
    A = jnp.kron(jnp.eye(copies), jnp.array([[2.0, 1.0], [1.0, 8.0]]))[None]
    old = roots.refreshed(A, jnp.eye(2 * copies)[None]).fit  # P A P = ((1, r), (r, 1)) with r = 1 / sqrt(2 * 8)
    assert_close(old.staleness, jnp.sqrt(jnp.array([2 / (2 + 4 + 64.0)])))
    assert_close(old.whitening, jnp.array([0.25]))
    assert_close(old.condition, jnp.array([8 / 5.0]))
    exact = roots.refreshed(A, jnp.linalg.eigh(A)[1]).fit
    assert max(float(exact.staleness[0]), float(exact.whitening[0])) < 1e-14


@pytest.mark.parametrize("diagonal, off", [(jnp.nan, jnp.nan), (1.0, jnp.nan), (jnp.inf, 1.0), (0.0, 0.0)])
def test_a_factor_without_a_basis_keeps_the_old_one(diagonal, off):
    bad = jnp.where(jnp.eye(3, dtype=bool), jnp.float32(diagonal), jnp.float32(off))
    A = jnp.stack([bad, jnp.eye(3, dtype=bad.dtype).at[0, 2].set(0.5).at[2, 0].set(0.5)])
    old = jnp.linalg.qr(normal((2, 3, 3), dtype=bad.dtype))[0]
    new = roots.refreshed(A, old).basis
    assert jnp.array_equal(new[0], old[0])
    assert not jnp.array_equal(new[1], old[1])


def test_a_rank_one_factor_does_not_draw_a_random_basis():
    """A perturbation of 1e-7 moves eigh's null basis by order one, the QR step by order 1e-4."""
    x = jnp.ones((4, 1), jnp.float32)
    A = (x @ x.T)[None]
    noise = 1e-7 * normal((4, 4), 3, jnp.float32)
    B = A + (noise + noise.T)[None]
    Q = jnp.eye(4, dtype=jnp.float32)[None]
    apart = lambda kind: float(jnp.max(jnp.abs(roots.refreshed(A, Q, kind).basis - roots.refreshed(B, Q, kind).basis)))
    assert apart("qr") < 1e-2
    assert apart("eigh") > 0.1


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 6), {}),
        ((2, 3, 4), {}),
        ((8, 6), {"block_size": 4}),
        ((12, 5), {"block_size": 3}),
        ((3, 1, 4), {"merge": False}),
    ],
)
def test_views_fold_back(shape, options):
    plan = plan_leaf("eigen", shape, **({"max_size": 64, "block_size": None, "merge": True} | options))
    x = jnp.arange(float(np.prod(shape))).reshape(shape)
    seen = view(plan, x)
    assert seen.shape == plan.view
    assert jnp.array_equal(unview(plan, seen), x)


@pytest.mark.parametrize(
    ("shape", "options", "sides"),
    [
        ((4, 8), {}, [4, 8]),
        ((4, 9), {}, [4]),
        ((9, 4), {}, [4]),
        ((4, 9), {"aspect": 3}, [4, 9]),
        ((4, 9), {"aspect": None}, [4, 9]),
        ((2, 2, 9), {}, [4]),  # seen as 4 x 9
        ((2, 2, 9), {"merge": False}, [2, 9]),  # no matrix: every axis, so that a tiny one does not stand alone
    ],
)
def test_a_long_matrix_is_turned_on_its_shorter_side_alone(shape, options, sides):
    state = scale_by_fisher("eigen", options=FisherOptions(**options)).init(jnp.zeros(shape))
    assert [bucket.bases[0].shape[-1] for bucket in state.factors] == sides


@pytest.mark.parametrize(
    "named", [{"structure": "kronecker"}, preset("soap"), preset("shampoo"), preset("natural_gradient")]
)
def test_methods_that_are_known_with_both_sides_have_both(named):
    state = scale_by_fisher(**named).init(jnp.zeros((4, 9)))
    assert [bucket.bases[0].shape[-1] for bucket in state.factors] == [4, 9]


def test_blocks_are_independent_leaves(float64):
    grads = list(normal((6, 8, 4)))
    blocked = FisherOptions(refresh=1, basis="eigh", block_size=4)
    whole, _ = last(scale_by_fisher("kronecker", eps=0.0, b2=0.9, options=blocked), grads)
    parts, _ = last(scale_by_fisher("kronecker", eps=0.0, b2=0.9, options=EXACT), [(g[:4], g[4:]) for g in grads])
    assert_close(whole, jnp.concatenate(parts), ulps=1e6)


def test_a_rule_chooses_by_path_and_an_unknown_name_is_refused(float64):
    grads = [{"a": normal((3, 4)), "b": normal((3, 4), 1)}]
    rule = lambda path, shape: "diagonal" if "a" in path else "one_sided"
    u, state = last(scale_by_fisher(rule), grads)
    assert state.nu["b"] is None
    assert_close(u["a"], jnp.sign(grads[0]["a"]), ulps=1e9)
    with pytest.raises(InputError, match="structure"):
        scale_by_fisher(lambda path, shape: "band").init(grads[0])


def test_per_example_and_batch_sources_differ_by_the_batch_size(float64):
    """E[gbar gbar'] = Sigma/B when noise dominates: at -1/2 the step is sqrt(B) longer."""
    samples = normal((64, 4096))
    g = jnp.mean(samples, 0)
    batch, _ = last(scale_by_fisher("diagonal", b1=0.0, b2=0.0, eps=0.0), [g])
    each, _ = last(
        scale_by_fisher("diagonal", b1=0.0, b2=0.0, eps=0.0, fisher="per_example"), [g], fisher_grads=samples
    )
    ratio = float(jnp.sqrt(jnp.mean(batch**2) / jnp.mean(each**2)))
    assert abs(ratio / 8 - 1) < 0.1
    with pytest.raises(InputError, match="fisher_grads"):
        last(scale_by_fisher(fisher="per_example"), [g])
    with pytest.raises(InputError, match="fisher"):
        scale_by_fisher(fisher="empirical")


LEAVES = {
    "scalar": (),
    "vector": (5,),
    "empty": (0, 3),
    "unit": (1, 1),
    "row": (1, 6),
    "matrix": (4, 3),
    "heads": (4, 2, 3),
    "image": (3, 3, 2, 4),
    "deep": (2, 1, 3, 2, 2),
}


KINDS = [("eigen", kind) for kind in ("bfloat16", "float16", "complex64")]


@pytest.mark.parametrize(
    "structure,kind", KINDS + [(s, "bfloat16") for s in ("diagonal", "kronecker", "one_sided", "none")]
)
def test_every_shape_and_dtype(structure, kind):
    tree = {name: normal(shape, 1).astype(jnp.dtype(kind)) for name, shape in LEAVES.items()} | {"none": None}
    optimiser = scale_by_fisher(structure, options=FisherOptions(refresh=2))
    state = optimiser.init(tree)
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    update = jax.jit(optimiser.update)
    for _ in range(4):
        u, state = update(tree, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), u) == jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == kinds
    assert all(x.dtype.itemsize >= 4 for x in jax.tree.leaves(state))
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(u))
    assert update._cache_size() == 1


@pytest.mark.parametrize("structure", ["eigen", "diagonal", "kronecker", "one_sided"])
def test_a_missing_gradient_leaves_its_leaf_alone(structure):
    grads = [{"a": normal((3, 2), k), "b": normal((3, 2), k + 10), "c": normal((2,), k)} for k in range(6)]
    optimiser = scale_by_fisher(structure, options=FisherOptions(refresh=2))
    state = optimiser.init(grads[0])
    for g in grads[:3]:
        _, state = optimiser.update(g, state)
    u, after = optimiser.update(grads[3] | {"a": None}, state)
    assert u["a"] is None
    assert jnp.array_equal(after.mu["a"], state.mu["a"])
    assert not jnp.array_equal(after.mu["b"], state.mu["b"])
    for old, new in zip(state.factors, after.factors, strict=True):  # the rows of "a" come first in every bucket
        assert jnp.array_equal(new.moment[0], old.moment[0])
        assert not jnp.array_equal(new.moment[1], old.moment[1])


@pytest.mark.parametrize("structure", ["eigen", "one_sided"])
def test_equal_leaves_in_one_stack_get_what_each_gets_alone(float64, structure):
    sizes = {"a": (3, 4), "b": (4, 3), "c": (3, 4), "d": (3, 1, 4), "e": (2, 3, 4)}
    grads = [{name: 10**k * normal(sizes[name], 20 * i + k) for i, name in enumerate(sizes)} for k in range(8)]
    optimiser = scale_by_fisher(structure, options=FisherOptions(refresh=2))
    together, state = last(optimiser, grads)
    alone = {name: last(optimiser, [g[name] for g in grads]) for name in sizes}
    assert_close(together, {name: u for name, (u, _) in alone.items()}, ulps=1e4)
    assert_close(state.mu, {name: own.mu for name, (_, own) in alone.items()}, ulps=1e4)
    assert float(jnp.max(jnp.abs(together["a"] - together["c"]))) > 0.1


def test_a_stack_takes_gradients_of_other_dtypes():
    params = {name: normal((3, 4), k).astype(jnp.float32) for k, name in enumerate("abc")}
    grads = params | {"b": params["b"].astype(jnp.bfloat16)}
    optimiser = scale_by_fisher("one_sided")
    updates, state = optimiser.update(grads, optimiser.init(params))
    assert {name: u.dtype for name, u in updates.items()} == {name: g.dtype for name, g in grads.items()}
    alone, own = optimiser.update(grads["b"], optimiser.init(params["b"]))
    assert_close(updates["b"], alone, ulps=2)
    assert_close(state.mu["b"], own.mu)


def test_presets_are_the_methods_they_name(float64):
    grads = list(normal((6, 3, 4)))
    adam, _ = last(scale_by_fisher(**preset("adam")), grads)
    with jax.numpy_dtype_promotion("standard"):
        assert_close(adam, last(optax.scale_by_adam(), grads)[0], ulps=4)
        rms = optax.scale_by_rms(decay=0.9, eps_in_sqrt=False)
        assert_close(last(scale_by_fisher(**preset("rmsprop")), grads)[0], last(rms, grads)[0], ulps=4)
    L, R = ema([g @ g.T for g in grads], 0.99), ema([g.T @ g for g in grads], 0.99)
    F, m = np.kron(L, R) / np.trace(L), np.asarray(ema(grads, 0.9)).ravel()
    exact = lambda name: scale_by_fisher(**preset(name) | {"options": EXACT, "eps": 0.0})
    for name, exponent in (("shampoo", -0.25), ("shampoo_squared", -0.5), ("natural_gradient", -1.0)):
        expected = jnp.asarray((power(F, exponent) @ m).reshape(3, 4))
        assert_close(last(exact(name), grads)[0], expected, ulps=1e7)
        assert float(jnp.max(jnp.abs(last(exact("shampoo_squared"), grads)[0] - expected))) > 0.1 or exponent == -0.5
    ahead = 0.95 * np.asarray(ema(grads, 0.95)) * (1 - 0.95**6) / (1 - 0.95**7) + 0.05 * np.asarray(grads[-1]) / (
        1 - 0.95**6
    )
    a, _, b = np.linalg.svd(ahead, full_matrices=False)
    polar = preset("muon") | {"options": preset("muon")["options"]._replace(polar_steps=20)}
    assert_close(last(scale_by_fisher(**polar), grads)[0], jnp.asarray(2 * a @ b), ulps=1e7)
    assert_close(
        last(scale_by_fisher(**preset("soap") | {"options": EXACT}), grads)[0], jnp.asarray(soap(grads)), ulps=1e7
    )


def soap(grads, b=0.95, eps=1e-8):
    """Vyas et al. 2024 in NumPy, with the second moment carried to the new basis as this package does."""
    L = R = m = v = 0.0
    U, V = np.eye(3), np.eye(4)
    for k, g in enumerate(map(np.asarray, grads), 1):
        L, R, m = (b * old + (1 - b) * new for old, new in ((L, g @ g.T), (R, g.T @ g), (m, g)))
        if k > 1:
            W, X = np.linalg.eigh(L)[1], np.linalg.eigh(R)[1]
            v = (W.T @ U) ** 2 @ v @ ((X.T @ V) ** 2).T
            U, V = W, X
        v = b * v + (1 - b) * (U.T @ g @ V) ** 2
        update = U.T @ (m / (1 - b**k)) @ V / (np.sqrt(v / (1 - b**k)) + eps)
    return U @ update @ V.T


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match="name"):
        preset("adagrad")
