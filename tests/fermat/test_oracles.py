"""Approximate designs against semidefinite programs (cvxpy), and candidates that bring several rows."""

import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import Status
from learnlag_jax.fermat import criterion, equivalence_gap, information_matrix, optimal_weights


def _program(kind, F, C):
    """The least value by a conic solver that knows nothing of designs."""
    cp = pytest.importorskip("cvxpy")
    w = cp.Variable(len(F), nonneg=True)
    M = sum(w[i] * f.reshape(-1, F.shape[-1]).T @ f.reshape(-1, F.shape[-1]) for i, f in enumerate(F))
    p = F.shape[-1]
    root = np.linalg.cholesky(C)
    loss = {
        "A": lambda: sum(cp.matrix_frac(e, M) for e in np.eye(p)),
        "D": lambda: -cp.log_det(M) / p,
        "E": lambda: -cp.lambda_min(M),
        "I": lambda: sum(cp.matrix_frac(column, M) for column in root.T),
        "c": lambda: cp.matrix_frac(np.diagonal(C), M),
    }[kind]()
    value = cp.Problem(cp.Minimize(loss), [cp.sum(w) == 1]).solve(solver="CLARABEL")
    return {"D": np.exp(value), "E": -1 / value}.get(kind, value)


def test_extrapolation_against_a_semidefinite_program(float64):
    """c: the variance of a parabola's prediction at x = 2. On a general pool the optimum leaves a parameter unknown and is refused."""
    x, c = np.linspace(-1, 1, 25), np.array([1.0, 2.0, 4.0])
    F = np.vander(x, 3, increasing=True)
    best = _program("c", F, np.diag(c))
    design = optimal_weights(jnp.asarray(F), criterion("c", jnp.asarray(c)))
    assert float(design.value) == pytest.approx(best, rel=1e-6)
    assert best == pytest.approx(49.0, rel=1e-6)  # Chebyshev: T_2(2)^2 = 7^2
    assert int(design.status) == 0
    assert float(criterion("c", jnp.asarray(c))(information_matrix(jnp.asarray(F)) / 25)) > best * 1.1


@pytest.mark.parametrize("kind", ["A", "D", "E", "I"])
def test_against_semidefinite_programs(kind, float64):
    rng = np.random.default_rng(4)
    F = rng.normal(size=(25, 3))
    C = np.diag([1.0, 2.0, 5.0])
    phi = criterion(kind, **({"moment": jnp.asarray(C)} if kind == "I" else {}))
    best = _program(kind, F, C)
    design = optimal_weights(jnp.asarray(F), phi)
    assert float(design.value) == pytest.approx(best, rel=1e-6)
    assert int(design.status) == 0
    uniform = float(phi(information_matrix(jnp.asarray(F)) / 25))
    assert uniform > best * 1.1  # the control: equal weights are far off


def test_candidates_of_several_rows_against_a_semidefinite_program(float64):
    """A pool of experiments that each observe two responses: M_i = F_i' F_i of rank two."""
    F = np.random.default_rng(5).normal(size=(20, 2, 3))
    for kind in ("A", "D"):
        design = optimal_weights(jnp.asarray(F), kind)
        assert float(design.value) == pytest.approx(_program(kind, F, np.eye(3)), rel=1e-6)
        assert float(design.gap) <= 1e-9
        M = np.einsum("i,ika,ikb->ab", np.asarray(design.weights), F, F)
        np.testing.assert_allclose(information_matrix(jnp.asarray(F), design.weights), M, rtol=1e-12)
        G = np.linalg.inv(M) @ np.linalg.inv(M) if kind == "A" else np.linalg.inv(M)
        worth = np.einsum("ika,ab,ikb->i", F, G, F)
        assert worth.max() <= np.trace(G @ M) * (1 + 1e-8)  # the equivalence theorem, by hand
    single = optimal_weights(jnp.asarray(F[:, 0]), "A")
    assert float(single.value) > float(optimal_weights(jnp.asarray(F), "A").value) * 1.2  # one response says less


@pytest.mark.slow
def test_pools_longer_than_the_active_set_of_several_rows(float64):
    F = jnp.asarray(np.random.default_rng(6).normal(size=(1500, 2, 4)))
    design = optimal_weights(F)
    assert int(design.status) == 0
    assert float(equivalence_gap(information_matrix(F, design.weights), F)) <= 1e-9
    assert float(equivalence_gap(information_matrix(F) / 1500, F)) > 0.3


@pytest.mark.slow
def test_extreme_scales(dtype):
    """Units do not matter: a pool in units of 1e-8 and 1e8 has the same weights, or a status that says why not."""
    rng = np.random.default_rng(7)
    F = jnp.asarray(rng.normal(size=(40, 3)), dtype)
    plain = optimal_weights(F, "D")
    for scale in (1e-8, 1e8) if dtype == jnp.float64 else (1e-4, 1e4):
        scaled = optimal_weights(F * jnp.asarray(scale, dtype), "D")
        assert int(scaled.status) == int(plain.status) == int(Status.converged)
        np.testing.assert_allclose(scaled.weights, plain.weights, atol=1e3 * float(jnp.finfo(dtype).eps) ** 0.5)


def test_one_bad_member_of_a_batch_does_not_spoil_the_others(float64):
    import jax

    F = jnp.asarray(np.random.default_rng(8).normal(size=(3, 25, 3)))
    broken = F.at[1, 4, 2].set(jnp.nan)
    together = jax.vmap(lambda F: optimal_weights(F))(broken)
    assert together.status.tolist() == [0, int(Status.nonfinite_input), 0]
    assert np.isnan(together.weights[1]).all()
    np.testing.assert_allclose(together.value[2], optimal_weights(F[2]).value, rtol=1e-9)
