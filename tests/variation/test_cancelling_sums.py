"""Sums that cancel inside a Lagrangian, slopes of zero, masses that grow and plain numbers are no failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import DTypeError, InputError, Status, variation
from learnlag_jax.testing import assert_close
from learnlag_jax.variation import acceleration, conjugate_point, discrete_lagrangian, first_step, stationary_path


def _springs(dtype):
    """Three at 120 degrees, (3, 2): by symmetry they pull as 3/2 of one, and across the motion their forces cancel."""
    angle = jnp.arange(3, dtype=dtype) * 2 * jnp.pi / 3
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)


def _star(dtype, heavy=1.0):
    e = _springs(dtype)
    return lambda t, q, v: heavy * (jnp.sum((e @ v) ** 2) / 2 - jnp.sum((e @ q) ** 2) / 2)


def test_a_momentum_along_an_axis_of_symmetry_has_its_velocity(dtype):
    H, p = variation.hamiltonian(_star(dtype)), jnp.linspace(0.5, 1.5, 40, dtype=dtype)
    assert_close(jax.vmap(lambda p: H(0.0, jnp.zeros(2, dtype), jnp.stack([p, 0 * p])))(p), p**2 / 3)


def test_a_motion_along_an_axis_of_symmetry_goes_on(float64):
    """The midpoint rule turns by 2 atan(w h / 2) a step, w^2 = 3/2; it stopped at step 141."""
    e, size = _springs(float64), jnp.linspace(0.5, 1.5, 8)
    Ld = discrete_lagrangian(lambda t, q, v: v @ v / 2 - jnp.sum((e @ q) ** 2) / 2, 0.1)
    turn = 2 * np.arctan(0.05 * np.sqrt(1.5))
    path = jax.vmap(lambda q: variation.integrate(Ld, q, q, 200))(jnp.stack([size, 0 * size], 1))
    exact = jnp.cos(turn * (jnp.arange(201.0) + 0.5)) / np.cos(turn / 2)
    assert_close(path[..., 0], jnp.outer(size, exact), ulps=200 * 64)


def test_a_path_along_an_axis_of_symmetry_is_found(dtype):
    end = jnp.array([1.0, 0.0], dtype)
    bump = lambda t: jnp.stack([t, t * (1 - t)]).astype(dtype)
    path = stationary_path(_star(dtype), 0 * end, end, 0.0, 1.0, intervals=8, guess=bump)
    assert (int(path.status), int(path.index)) == (0, 0)
    w = 8 * 2 * np.arctan(1 / 16)
    expected = np.outer(np.sin(w * np.linspace(0, 1, 9)) / np.sin(w), [1.0, 0.0])
    assert_close(path.value, jnp.asarray(expected, dtype))


def test_a_fit_to_mirrored_data_is_found_from_nothing(dtype):
    """Every row of A beside its mirror image: the third coefficient is zero, and what is left of its row is rounding."""
    draw = np.random.default_rng(0)
    half, hit = draw.normal(size=(25, 3)), draw.integers(0, 2, 25)
    A, y = jnp.asarray(np.concatenate([half, half * [1, 1, -1]]), dtype), jnp.asarray(np.tile(hit, 2), dtype)
    found = conjugate_point(lambda x: jnp.sum(jnp.logaddexp(0, A @ x) - y * (A @ x)), jnp.zeros(3, dtype))
    assert int(found.status) == 0
    assert_close(found.residual, jnp.zeros(3, dtype), scale=50.0)
    assert float(jnp.max(jnp.abs(found.value[:2]))) > 0.1


@pytest.mark.parametrize("F", [lambda x: jnp.abs(x) ** 1.5, lambda x: jnp.abs(x) ** 3 / 3])
def test_the_lowest_point_of_a_power_is_found(dtype, F):
    """Where the slope is zero the start says what is small; at a cusp the second derivative is infinite."""
    found = conjugate_point(F, jnp.zeros((), dtype), jnp.ones((), dtype))
    assert int(found.status) == 0
    assert_close(found.value, jnp.zeros((), dtype), scale=1.0)


def test_a_start_far_away_does_not_make_a_zero_of_what_is_none(dtype):
    """y + 4 y^3 = 0 at y = x - 1 = 0, from 1e12: sixty steps come to 28 and not to 1."""
    found = conjugate_point(lambda x: (x - 1) ** 2 / 2 + (x - 1) ** 4, jnp.zeros((), dtype), jnp.asarray(1e12, dtype))
    assert int(found.status) == Status.out_of_domain


def test_a_light_body_that_touches_a_symmetric_heavy_one_keeps_its_digits(dtype):
    """10^12 between the masses: the rounding of the heavy one is far above all that moves the light one."""
    star, heavy = _star(dtype, 1e12), jnp.asarray(1e12, dtype)
    L = lambda t, q, v: star(t, q[:2], v[:2]) + v[2] ** 2 / 2 - jnp.cosh(q[2] - q[0])
    q, p = jnp.array([1.0, 0.0, 3.0], dtype), jnp.stack([heavy, 0 * heavy, 1 + 0 * heavy])
    found = first_step(discrete_lagrangian(L, 0.5), q, p)
    x0 = found.value[0]
    alone = first_step(
        discrete_lagrangian(lambda t, q, v: v**2 / 2 - jnp.cosh(q - 1 - t * (x0 - 1) / 0.5), 0.5), q[2], p[2]
    )
    assert (int(found.status), int(alone.status)) == (0, 0)
    assert_close(found.value[2], alone.value)


def test_a_mass_that_grows_along_the_path_is_convex(dtype):
    """exp(t) (v^2 - q^2) / 2 over 40: the modes of w^2 = 1 - 1/4 turn over eleven times."""
    L = variation.damped(lambda t, q, v: (v**2 - q**2) / 2, 1.0)
    one = jnp.ones((), dtype)
    assert int(stationary_path(L, 0 * one, one, 0.0, 40.0, intervals=400).index) == int(40 * np.sqrt(0.75) / np.pi)


@pytest.mark.parametrize("push", [0, -9.81, np.int32(2)])
def test_a_force_may_be_a_plain_number(dtype, push):
    one = jnp.ones((), dtype)
    a = acceleration(lambda t, q, v: v["a"] ** 2 / 2, force=lambda t, q, v: {"a": push})(0.0, {"a": one}, {"a": one})
    assert a["a"].dtype == dtype
    assert_close(a["a"], jnp.asarray(push, dtype))


def test_plain_numbers_beside_arrays_take_their_dtype():
    L, one = lambda t, q, v: (v**2 - q**2) / 2, jnp.ones((), jnp.float32)
    Ld = discrete_lagrangian(L, 0.1)
    guess = lambda t: 0.5
    found = [
        stationary_path(L, 0.0, one, 0.0, 1.0, intervals=4, guess=guess).value,
        first_step(Ld, one, 0.0).value,
        variation.integrate(Ld, 1.0, one, 3),
        acceleration(L)(0.0, one, 2.0),
    ]
    assert {x.dtype for x in found} == {one.dtype}
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in found)
    for call in (lambda: first_step(Ld, one, one.astype(jnp.float16)), lambda: first_step(Ld, 1, one)):
        with pytest.raises(DTypeError, match="0: got"):
            call()


@pytest.mark.parametrize("t0, t1", [(0.0, np.inf), (0.0, np.nan), (0j, 1.0), (-1e300, 0.0)])
def test_moments_are_finite_real_numbers(t0, t1):
    one = jnp.ones((), jnp.float32)
    with pytest.raises(InputError, match="t[01]: got .* expected a real number, finite in float32"):
        stationary_path(lambda t, q, v: v**2, 0 * one, one, t0, t1, intervals=4)


@pytest.mark.parametrize("partner", [jnp.int32(1), jnp.bool_(True), jnp.complex64(1)], ids=["int", "bool", "complex"])
def test_a_plain_number_takes_no_dtype_that_would_cut_it(partner):
    Ld = variation.discrete_lagrangian(lambda t, q, v: v**2 / 2, 0.1)
    for run in (lambda: variation.first_step(Ld, 0.5, partner), lambda: variation.integrate(Ld, 0.5, partner, 3)):
        with pytest.raises(DTypeError, match=r"(p0|q1): got"):
            run()
