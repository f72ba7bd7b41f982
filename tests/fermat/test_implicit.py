"""Derivatives of optimal designs: the implicit function theorem on the support against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError
from learnlag_jax.fermat import criterion, fisher_information, information_matrix, optimal_weights

X = jnp.linspace(-1.0, 1.0, 41)
F = jnp.stack([jnp.ones_like(X), X, X**2], 1)


def _tilted(t):
    return F.at[:, 2].multiply(1 + t * X + t)


@pytest.mark.parametrize(
    "phi",
    ["A", pytest.param("D", marks=pytest.mark.slow), pytest.param(criterion("phi", q=3.0), marks=pytest.mark.slow)],
    ids=["A", "D", "phi"],
)
def test_value_and_weights_move_as_finite_differences_say(phi, float64):
    both = lambda t: (lambda d: (d.value, d.weights))(optimal_weights(_tilted(t), phi))
    value, weights = jax.jit(jax.jacfwd(both))(0.3)
    h = 1e-5
    (v1, w1), (v0, w0) = both(0.3 + h), both(0.3 - h)
    np.testing.assert_allclose(value, (v1 - v0) / (2 * h), rtol=1e-7)
    np.testing.assert_allclose(weights, (w1 - w0) / (2 * h), atol=1e-7)
    assert float(jax.grad(lambda t: both(t)[0])(0.3)) == pytest.approx(float(value), rel=1e-12)  # reverse = forward
    still = jax.grad(lambda t: (criterion(phi) if isinstance(phi, str) else phi)(information_matrix(_tilted(t), w0)))(
        0.3
    )
    np.testing.assert_allclose(
        value, still, rtol=1e-4
    )  # envelope: the weights' own motion costs nothing to first order
    if phi != "D":
        assert float(jnp.abs(weights).max()) > 0.1  # D-optimal weights stay at 1/3


def test_derivatives_in_prior_and_in_the_moment(float64):
    by_prior = lambda s: optimal_weights(F, "A", prior=s * jnp.eye(3)).value
    moment = lambda s: jnp.diag(jnp.stack([1 + s, 1 + 2 * s, 1 + s]))
    by_moment = lambda s: optimal_weights(F, criterion("I", moment=moment(s))).weights[20]
    for f in (by_prior, by_moment):
        h = 1e-5
        np.testing.assert_allclose(jax.grad(f)(0.2), (f(0.2 + h) - f(0.2 - h)) / (2 * h), rtol=1e-6)


@pytest.mark.slow
def test_rows_that_repeat_share_the_answer(float64):
    """Copies make the Hessian singular: the information still has one derivative, and the copies divide it."""
    twice = lambda t: jnp.concatenate([_tilted(t), _tilted(t)])
    total = lambda t: (lambda w: w[:41] + w[41:])(optimal_weights(twice(t)).weights)
    single = jax.jacfwd(lambda t: optimal_weights(_tilted(t)).weights)(0.3)
    np.testing.assert_allclose(jax.jacfwd(total)(0.3), single, atol=1e-6)


@pytest.mark.slow
def test_batches_and_models(float64):
    """d value / d theta of a Michaelis-Menten design, by vmap: the design is an answer the model's parameters move."""
    x = jnp.linspace(0.05, 5.0, 60)
    mean = lambda th, x: th[0] * x / (th[1] + x)
    value = lambda K: optimal_weights(fisher_information(mean, jnp.stack([jnp.ones_like(K), K]), x), "A").value
    K = jnp.array([0.5, 1.3])
    slopes = jax.vmap(jax.grad(value))(K)
    h = 1e-6
    np.testing.assert_allclose(slopes, [(value(k + h) - value(k - h)) / (2 * h) for k in K], rtol=1e-5)


def test_failed_designs_have_no_derivative(float64):
    flat = lambda t: optimal_weights(t * jnp.ones((8, 2))).value
    assert np.isnan(float(jax.grad(flat)(1.0)))


def test_corners_are_refused_by_name():
    with pytest.raises(InputError, match="E- or G-optimal"):
        jax.grad(lambda t: optimal_weights(_tilted(t), "E").value)(0.3)


def test_second_derivatives_in_the_weights_are_those_of_autodiff(float64):
    """The entry-by-entry formulas of A, D, I and c, and the jvp of every other criterion, against jax.hessian."""
    from learnlag_jax.fermat.active_set import weight_hessian

    rows, w = _tilted(0.4)[::5], jnp.linspace(1.0, 2.0, 9) / 13.5
    C, c = jnp.diag(jnp.array([1.0, 2.0, 5.0])), jnp.array([1.0, -1.0, 2.0])
    for phi in (*map(criterion, "AD"), criterion("I", moment=C), criterion("c", c), criterion("phi", q=2.0)):
        H = weight_hessian(rows, information_matrix(rows, w), phi)
        exact = jax.hessian(lambda w, phi=phi: phi(information_matrix(rows, w)))(w)
        np.testing.assert_allclose(H, exact, rtol=1e-9, atol=1e-9 * float(jnp.abs(exact).max()))
        assert not np.allclose(H, 1.01 * exact, rtol=1e-3)
