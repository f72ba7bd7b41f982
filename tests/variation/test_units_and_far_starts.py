"""Neither units nor where a search begins decide what an answer is, and what cannot be answered is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import DTypeError, InputError, Status, variation
from learnlag_jax.testing import assert_close
from learnlag_jax.variation import conjugate_point, first_step, legendre, motion, stationary_path

SPRINGS = np.array([[2.0, -1, 0], [-1, 2, -1], [0, -1, 2]])


@pytest.mark.parametrize("spread", [pytest.param(1.0, marks=pytest.mark.slow), 1e4])
def test_the_index_does_not_depend_on_units(dtype, spread):
    """Three masses on springs, coupled in velocity too: the modes w^2 = k/m of the pencil count the half periods."""
    units = jnp.array([1.0, 1 / spread, spread], dtype)
    mass = np.eye(3) + 0.3 * (np.eye(3, k=1) + np.eye(3, k=-1))
    K, M = jnp.asarray(SPRINGS, dtype), jnp.asarray(mass, dtype)

    def L(t, q, v):
        x, w = q / units, v / units
        return (w @ M @ w - x @ K @ x) / 2

    modes = np.sqrt(np.linalg.eigvals(np.linalg.solve(mass, SPRINGS)).real)
    path = stationary_path(L, jnp.zeros(3, dtype), units, 0.0, 5.0, intervals=60)
    assert int(path.status) == 0
    assert int(path.index) == sum(int(5.0 * w / np.pi) for w in modes) > 1
    assert abs(float(path.conjugate) - np.pi / max(modes)) < 2 * 5.0 / 60


@pytest.mark.parametrize("scale", [pytest.param(1e-20, marks=pytest.mark.slow), 1e20])
def test_legendres_condition_does_not_depend_on_units(dtype, scale):
    s = jnp.asarray(scale, dtype)
    found = stationary_path(
        lambda t, q, v: (s * v[0] ** 2 - v[1] ** 2) / 2, jnp.zeros(2, dtype), jnp.ones(2, dtype), 0.0, 1.0, intervals=5
    )
    assert int(found.status) == 0
    assert int(found.index) == -1


def test_an_index_that_grows_with_the_grid_is_not_counted():
    """No kinetic energy at all, but a path that zigzags: every interval has its own downhill direction."""
    L, dtype = lambda t, q, v: q[0] * v[1] - q @ q / 2, jnp.float32
    for intervals in (6, 12):
        path = stationary_path(L, jnp.zeros(2, dtype), jnp.ones(2, dtype), 0.0, 1.0, intervals=intervals)
        assert int(path.index) == -1


@pytest.mark.parametrize(("force", "scale"), [(1e20, 1.0), (1e-25, 1.0), (1.0, 1e-25), (1.0, 1e20)])
def test_conjugate_gradients_do_not_depend_on_the_size_of_forces_or_masses(force, scale):
    dtype = jnp.float32  # whose squares overflow first
    F, s, q = jnp.asarray(force, dtype), jnp.asarray(scale, dtype), jnp.ones(6, dtype)
    found = motion(lambda t, q, v: s * (jnp.sum(v**2) / 2 - F * jnp.sum(q)), mass="cg")(0.0, q, jnp.zeros_like(q))
    assert int(found.status) == 0
    assert_close(found.value, -F * q)


@pytest.mark.parametrize("mass", [1e-30, 1e-6, 1e20])
@pytest.mark.parametrize("extra", [0, 3])
def test_a_light_body_on_a_rod_moves_as_a_heavy_one(dtype, mass, extra):
    """The acceleration does not depend on m, in the solve that is written out and in LAPACK's."""
    m, g = jnp.asarray(mass, dtype), jnp.asarray(9.81, dtype)
    q = jnp.concatenate([jnp.array([np.sin(0.6), -np.cos(0.6)], dtype), jnp.zeros(extra, dtype)])
    rod = variation.holonomic(lambda t, q: q[:2] @ q[:2] - 1)
    found = motion(lambda t, q, v: m * (v @ v / 2 - g * q[1]), constraint=rod)(0.0, q, jnp.zeros_like(q))
    assert int(found.status) == 0
    along = -9.81 * np.sin(0.6)
    expected = jnp.zeros(2 + extra, dtype).at[:2].set(jnp.array([along * np.cos(0.6), along * np.sin(0.6)], dtype))
    assert_close(found.value, expected, scale=10.0)


@pytest.mark.parametrize("start", [1e4, 1e8])
def test_a_far_start_does_not_loosen_what_counts_as_solved(dtype, start):
    """x + 4 x^3 = 1 at x = 1/2; rounding was judged against the start for good, and 521 was converged."""
    found = conjugate_point(lambda x: x**2 / 2 + x**4, jnp.asarray(1, dtype), jnp.asarray(start, dtype))
    assert int(found.status) == 0
    assert_close(found.value, jnp.asarray(0.5, dtype))


@pytest.mark.parametrize("height", [1e4, 1e5])
def test_a_far_guess_does_not_loosen_what_counts_as_solved(dtype, height):
    L, one = lambda t, q, v: v**2 / 2 - q**4 / 4, jnp.ones((), dtype)
    guess = lambda t: jnp.asarray(height, dtype) * t * (1 - t)
    found = stationary_path(L, 0 * one, one, 0.0, 1.0, intervals=8, guess=guess)
    if int(found.status) == 0:  # a solution, one of several; and if it is not found that is said
        terms = 8 * jnp.max(jnp.abs(found.value)) + jnp.max(jnp.abs(found.value)) ** 3 / 8
        assert_close(found.residual, jnp.zeros(7, dtype), scale=float(terms))
    else:
        assert height > 1e4
        assert bool(jnp.all(jnp.isnan(found.value)))


@pytest.mark.parametrize("w", [8.0, 1500.0, 1e5, 1e9])
def test_a_function_flat_at_the_start_has_its_transform(dtype, w):
    """sup w x - x^4/4 = (3/4) w^(4/3); where the first slope is zero no step of length one reduces |w| by a thousandth."""
    assert_close(legendre(lambda x: x**4 / 4)(jnp.asarray(w, dtype)), jnp.asarray(0.75 * w ** (4 / 3), dtype))


def test_a_step_into_infinity_is_halved_until_it_is_none(dtype):
    assert_close(conjugate_point(jnp.cosh, jnp.asarray(1e9, dtype)).value, jnp.asarray(np.arcsinh(1e9), dtype))


@pytest.mark.parametrize("p", [-8.0, 8.0, 1e5])
def test_a_motion_begins_where_the_mass_is_zero(dtype, p):
    """L = v^4/4 at v = 0: v = p^(1/3)."""
    found = first_step(
        variation.discrete_lagrangian(lambda t, q, v: v**4 / 4, 1.0), jnp.zeros((), dtype), jnp.asarray(p, dtype)
    )
    assert int(found.status) == 0
    assert_close(found.value, jnp.asarray(np.cbrt(p), dtype))


def test_late_times_are_apart_or_refused():
    L, one = lambda t, q, v: (v**2 - q**2) / 2, jnp.ones((), jnp.float32)
    late = stationary_path(L, 0 * one, one, 1e5, 1e5 + 1.4, intervals=8)
    assert_close(late.value, stationary_path(L, 0 * one, one, 0.0, 1.4, intervals=8).value)
    with pytest.raises(InputError, match="t0, t1: got .* times that float32 tells apart"):
        stationary_path(L, 0 * one, one, 1e7, 1e7 + 1.4, intervals=8)


@pytest.mark.parametrize("size", [1, 6])
@pytest.mark.parametrize("mass", ["dense", "diagonal"])
def test_there_is_no_acceleration_outside_of_the_domain(dtype, size, mass):
    """log(-1) is not a number and its slope is: -1."""
    L = lambda t, q, v: jnp.sum(v**2) / 2 + jnp.sum(jnp.log(q))
    for q, status in ((1.0, 0), (-1.0, Status.nonfinite_function)):
        found = motion(L, mass=mass)(0.0, jnp.full(size, q, dtype), jnp.ones(size, dtype))
        assert int(found.status) == status
        assert bool(jnp.all(jnp.isnan(found.value))) == (status != 0)


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (
            InputError,
            "direction",
            lambda L, x: variation.first_variation(L, lambda t: t, lambda t: jnp.stack([t]), 0.0, 1.0),
        ),
        (InputError, "panels", lambda L, x: variation.action(L, jnp.cos, 0.0, 1.0, panels=0)),
        (InputError, "intervals", lambda L, x: stationary_path(L, x, x, 0.0, 1.0, intervals=4.0)),
        (InputError, "t0", lambda L, x: stationary_path(L, x, x, jnp.zeros(1), 1.0, intervals=4)),
        (DTypeError, "q1", lambda L, x: stationary_path(L, x, x.astype(jnp.float16), 0.0, 1.0, intervals=4)),
        (InputError, "stages", lambda L, x: variation.discrete_lagrangian(L, 1.0, rule="gauss", stages=2.0)),
        (InputError, "steps", lambda L, x: variation.integrate(variation.discrete_lagrangian(L, 1.0), x, x, 2.5)),
        (DTypeError, "p0", lambda L, x: first_step(variation.discrete_lagrangian(L, 1.0), x, x.astype(jnp.float16))),
        (InputError, "start", lambda L, x: conjugate_point(lambda x: x @ x, x, jnp.ones(3))),
        (DTypeError, "force", lambda L, x: motion(L, force=lambda t, q, v: q.astype(jnp.float16))(0.0, x, x)),
        (InputError, "constraint", lambda L, x: motion(L, constraint=lambda t, q, v: jnp.ones((2, 2)))(0.0, x, x)),
        (DTypeError, "t: got int", lambda L, x: variation.lift(jnp.cos)(jnp.array(1))),
        (InputError, "q1", lambda L, x: variation.discrete_momenta(lambda k, a, b: a @ b)(0, x, jnp.ones(3))),
    ],
)
def test_what_is_misshapen_is_refused_by_name(error, text, call):
    with pytest.raises(error, match=text):
        call(lambda t, q, v: jnp.sum(v**2) / 2, jnp.ones(2, jnp.float32))


def test_leaves_of_two_dtypes_are_refused(float64):
    q = {"a": jnp.ones((), jnp.float32), "b": jnp.ones((), float64)}
    L = lambda t, q, v: v["a"] ** 2 / 2
    Ld = variation.discrete_lagrangian(L, 1.0)
    for call in (
        lambda: stationary_path(L, q, q, 0.0, 1.0, intervals=4),
        lambda: first_step(Ld, q, q),
        lambda: variation.integrate(Ld, q, q, 2),
    ):
        with pytest.raises(DTypeError, match="float32 and float64"):
            call()


def test_the_search_costs_no_more_steps_where_it_began_well(dtype):
    """Newton's, from the straight line: a pendulum in five."""
    one = jnp.ones((), dtype)
    path = jax.jit(lambda a: stationary_path(lambda t, q, v: v**2 / 2 + jnp.cos(q), 0 * a, a, 0.0, 1.0, intervals=50))
    assert int(path(one).status) == 0
    assert int(path(one).steps) <= 6
