"""What goes wrong must say so: masses, hidden NaN, batches, and float32 with many intervals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import DTypeError, InputError, Status, variation
from learnlag_jax.testing import assert_close
from learnlag_jax.variation import action, conjugate_point, lift, motion, newton, stationary_path


def _pendulum(t, q, v):
    return v**2 / 2 + jnp.cos(q)


@pytest.mark.parametrize("size", [1, 6])
def test_a_nan_that_hides_in_the_gradient_is_found(size):
    """sqrt(q^2) at q = 0 is zero, its derivative is not a number."""
    L = lambda t, q, v: jnp.sum(v**2) / 2 - jnp.sum(jnp.sqrt(q**2))
    dtype = jnp.float32
    move = jax.jit(lambda q: motion(L)(0.0, q, jnp.ones_like(q)))
    at = lambda q: move(jnp.full(size, q, dtype))
    assert bool(jnp.isfinite(L(0.0, jnp.zeros(size, dtype), jnp.ones(size, dtype))))
    assert int(at(0.0).status) == Status.nonfinite_derivative
    assert bool(jnp.all(jnp.isnan(at(0.0).value)))
    assert int(at(1.0).status) == 0
    slope = conjugate_point(lambda x: jnp.sqrt(x**2) + x**2, jnp.ones((), dtype))
    assert int(slope.status) == Status.nonfinite_function
    assert bool(jnp.isnan(slope.value))


def test_one_failing_member_of_a_batch_fails_alone():
    dtype, L = jnp.float32, lambda t, q, v: q * v**2 / 2 - q**2
    batch = jax.jit(jax.vmap(lambda q: motion(L)(0.0, q, jnp.ones_like(q))))(jnp.array([1.0, 0.0, 2.0], dtype))
    assert [int(s) for s in batch.status] == [0, Status.singular, 0]
    assert jnp.isnan(batch.value).tolist() == [False, True, False]
    assert_close(batch.value[2], motion(L)(0.0, jnp.asarray(2.0, dtype), jnp.asarray(1.0, dtype)).value)


def test_integers_and_empty_problems_are_refused():
    with pytest.raises(DTypeError, match="q0"):
        stationary_path(_pendulum, 0, 1, 0.0, 1.0, intervals=4)
    with pytest.raises(InputError, match="intervals"):
        stationary_path(_pendulum, 0.0, 1.0, 0.0, 1.0, intervals=1)
    with pytest.raises(DTypeError, match=r"path\(t\)"):
        action(_pendulum, lambda t: jnp.int32(2), 0.0, 1.0)
    with pytest.raises(InputError, match="constraint"):
        motion(_pendulum, mass="cg", constraint=lambda t, q, v: v)
    with pytest.raises(InputError, match="q: got .* one coordinate or more"):
        motion(lambda t, q, v: jnp.sum(v**2))(0.0, jnp.zeros(0), jnp.zeros(0))
    with pytest.raises(InputError, match=r"guess\(t\): got float.*\[2\]"):
        stationary_path(_pendulum, 0.0, 1.0, 0.0, 1.0, intervals=4, guess=lambda t: jnp.stack([t, t]))
    assert len(lift(jnp.sin, 3)(0.5)) == 5


@pytest.mark.parametrize("intervals", [4000, pytest.param(400, marks=pytest.mark.slow)])
def test_many_intervals_in_float32_find_the_path_and_its_index(intervals):
    """h^2 V'' is below eps here: an elimination that subtracts it from 2 / h returned the straight line as converged."""
    oscillator = lambda t, q, v: (v**2 - q**2) / 2
    end = jnp.ones((), jnp.float32)
    path = stationary_path(oscillator, 0 * end, end, 0.0, 4.0, intervals=intervals)
    exact = np.sin(np.asarray(path.times, np.float64)) / np.sin(4.0)
    assert int(path.status) == 0
    assert int(path.index) == 1
    assert abs(float(path.conjugate) - np.pi) < 0.02
    assert np.max(np.abs(np.asarray(path.value) - exact)) < 20 * (4 / intervals) ** 2 + 1e-5
    assert np.max(np.abs(np.asarray(path.times) / 4 - exact)) > 1  # the straight line


def _root(f, start, **how):
    return jax.jit(lambda start: newton.root(f, start, **how))(start)


def test_the_root_finder_says_how_it_ended():
    dtype = jnp.float32
    start = jnp.ones(2, dtype)
    good = _root(lambda x: x**3 - jnp.array([8.0, 27.0], dtype), start, offset=27.0)
    assert int(good.status) == 0
    assert_close(good.value, jnp.array([2.0, 3.0], dtype), ulps=16)
    assert int(_root(lambda x: x**2 + 1, start, max_steps=40).status) in (Status.stagnated, Status.max_steps)
    assert int(_root(lambda x: x**3 - 8, start, offset=8.0, max_steps=2).status) == Status.max_steps
    assert int(_root(lambda x: jnp.log(x - 1), start).status) == Status.nonfinite_function
    flat = _root(lambda x: x**3, start * 0)
    assert (int(flat.status), float(flat.value[0])) == (0, 0.0)  # singular, but there


def test_a_root_that_rounding_blurs_is_ill_conditioned(float64):
    """(x - 1)^m written out: its terms cancel to 1e-16 over a width of 1e-16^(1/m), and nothing within can be told apart."""

    def found(m):
        expanded = np.poly(np.ones(m))
        return _root(lambda x: jnp.polyval(jnp.asarray(expanded), x), jnp.full(1, 3.0), offset=np.max(np.abs(expanded)))

    assert int(found(2).status) == 0
    assert abs(float(found(2).value[0]) - 1) < 1e-6
    assert int(found(6).status) == Status.ill_conditioned
    assert 1e-4 < abs(float(found(6).value[0]) - 1) < 0.1


def test_roots_have_derivatives_in_batches_and_after_compilation(float64):
    """x^3 + x = c: dx/dc = 1 / (3 x^2 + 1), and the second derivative -6 x / (3 x^2 + 1)^3."""
    cubic = lambda c: newton.root(lambda x: x**3 + x - c, jnp.zeros(1), offset=jnp.abs(c)).value[0]
    c = jnp.array([2.0, 10.0])
    x, slope, curve = (jax.jit(jax.vmap(f))(c) for f in (cubic, jax.grad(cubic), jax.grad(jax.grad(cubic))))
    assert_close(x, jnp.array([1.0, 2.0]))
    assert_close(slope, 1 / (3 * x**2 + 1))
    assert_close(curve, -6 * x / (3 * x**2 + 1) ** 3)


def test_units_do_not_decide_what_is_solved():
    """In float32 a coordinate of size 1e6 beside one of size 1: both are found to their own rounding."""
    slope = jnp.array([1e6, 3.0], jnp.float32)
    found = variation.conjugate_point(lambda x: x[0] ** 2 / 2 + jnp.cosh(x[1]), slope)
    assert int(found.status) == 0
    np.testing.assert_allclose(found.value, [1e6, np.arcsinh(3.0)], rtol=1e-5)
    L = lambda t, q, v: jnp.sum(v**2) / 2 - jnp.cosh(q[1])
    path = variation.stationary_path(L, jnp.zeros(2, jnp.float32), slope, 0.0, 1.0, intervals=20)
    alone = variation.stationary_path(
        lambda t, q, v: v**2 / 2 - jnp.cosh(q), jnp.float32(0), slope[1], 0.0, 1.0, intervals=20
    )
    assert (int(path.status), int(alone.status)) == (0, 0)
    np.testing.assert_allclose(path.value[:, 1], alone.value, atol=1e-4)


def test_a_satellite_in_metres_keeps_its_angular_momentum_in_single_precision():
    L = lambda t, q, v: 1000 * ((v[0] ** 2 + (q[0] * v[1]) ** 2) / 2 + 3.986e14 / q[0])
    Ld = variation.discrete_lagrangian(L, 10.0)
    spin = variation.discrete_noether(Ld, lambda s, k, q: q + s * jnp.array([0.0, 1.0], q.dtype))
    q0, q1 = jnp.array([7e6, 0.0], jnp.float32), jnp.array([7.00999971e6, 1.0764687e-2], jnp.float32)
    path = variation.integrate(Ld, q0, q1, 300)
    k = jnp.arange(300, dtype=jnp.int32)
    charge = jax.vmap(spin)(k, path[:-1], path[1:])
    assert bool(jnp.all(jnp.isfinite(charge)))
    assert float(jnp.max(jnp.abs(charge / charge[0] - 1))) < 300 * 300 * float(jnp.finfo(jnp.float32).eps)


@pytest.mark.parametrize(
    "stages, duration, index", [(6, 8.0, 2), pytest.param(5, 7.0, 2, marks=pytest.mark.slow), (3, 1.0, 0)]
)
def test_directions_inside_a_long_step_are_counted(float64, stages, duration, index):
    L = lambda t, q, v: v**2 / 2 - q**2 / 2
    path = variation.stationary_path(L, 0.0, 1.0, 0.0, duration, intervals=2, rule="gauss", stages=stages)
    assert (int(path.status), int(path.index)) == (0, index)
    assert (index == 0) == bool(jnp.isnan(path.conjugate))


def test_a_zero_pivot_is_not_a_minimum(float64):
    L = lambda t, q, v: v**2 / 2 - q**2 / 2
    path = variation.stationary_path(L, 0.0, 0.0, 0.0, 4.0, intervals=4, rule="trapezoid")
    assert int(path.index) == -1


def test_infinite_forces_and_a_lagrangian_outside_its_domain_are_flagged(float64):
    pole = variation.motion(lambda t, q, v: v**2 / 2 + 1 / jnp.abs(q))(0.0, 0.0, 1.0)
    assert int(pole.status) != 0
    assert bool(jnp.isnan(pole.value))
    outside = lambda t, q, v: v**2 / 2 + jnp.log(q)
    assert int(variation.motion(outside)(0.0, -1.0, 1.0).status) == int(Status.nonfinite_function)
    path = variation.stationary_path(outside, 1.0, -1.0, 0.0, 1.0, intervals=4)
    assert int(path.status) != 0
    assert np.isnan(path.value).all()


@pytest.mark.parametrize("stages", [2, 5, 10, 20, 30])
def test_many_stages_keep_their_digits(float64, stages):
    """The action of an oscillator over one step of length 1 in closed form."""
    Ld = variation.discrete_lagrangian(lambda t, q, v: v**2 / 2 - q**2 / 2, 1.0, rule="gauss", stages=stages)
    exact = ((0.3**2 + 0.8**2) * np.cos(1.0) - 2 * 0.3 * 0.8) / (2 * np.sin(1.0))
    assert abs(float(Ld(0, 0.3, 0.8)) - exact) < {2: 1e-3, 5: 1e-8}.get(stages, 1e-12)


def test_unequal_leaves_and_integers_are_refused(float64):
    Ld = variation.discrete_lagrangian(lambda t, q, v: v["a"] ** 2 / 2, 1.0)
    with pytest.raises(InputError, match="leaves of"):
        variation.discrete_action(Ld, {"a": jnp.arange(6.0), "b": jnp.arange(4.0)})
    with pytest.raises(DTypeError):
        variation.damped(lambda t, q, v: v**2 - q**2, 0.5)(1.0, jnp.array(2), jnp.array(4))
