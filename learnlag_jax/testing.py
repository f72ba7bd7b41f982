"""Asserts for users' own tests: closeness with a tolerance from the dtype, and stationarity of answers."""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import checks, trees


def assert_close(actual, expected, *, ulps: float = 64.0, scale: float | None = None) -> None:
    """Assert |actual - expected| <= ulps * eps(dtype) * scale, leaf by leaf.

    Args:
        actual: pytree of arrays; the coarser dtype of the pair sets eps.
        expected: pytree of the same structure.
        ulps: how many units of rounding the computation may lose (state why where it is large).
        scale: size of the numbers that were added up; by default the largest |expected| of the leaf, at least
            the smallest normal number.

    Raises:
        AssertionError: names the worst leaf, its error and the tolerance. InputError: a scale that is not a finite size.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.testing import assert_close
        >>> assert_close(jnp.float32(0.1) * 3, jnp.float32(0.3), ulps=2)
    """
    sized = scale is None or 0 <= scale < np.inf
    checks.require(sized, "scale", scale, "a finite size", "leave it out, or pass the largest number that was added")
    assert jax.tree.structure(actual) == jax.tree.structure(expected), "the pytrees differ in structure"
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        kinds = [jnp.result_type(x) for x in (a, b) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
        eps = max((float(jnp.finfo(kind).eps) for kind in kinds), default=0.0)
        exact = kinds == []  # integers beyond 2^53 would run together
        x, y = (np.asarray(np.asarray(x), object if exact else np.complex128) for x in (a, b))
        assert x.shape == y.shape, f"{jax.tree_util.keystr(path)}: shape {x.shape} is not {y.shape}"
        tiny, same = np.finfo(np.float32).tiny, x == y  # infinity is close to itself alone
        finite = True if exact else np.isfinite(y)
        size = np.max(np.abs(y), initial=tiny, where=finite) if scale is None else scale
        error = np.max(np.abs(np.where(same, 0, x) - np.where(same, 0, y)), initial=0.0)
        assert error <= ulps * eps * size, (
            f"{jax.tree_util.keystr(path) or 'value'}: error {error:.3g} > {ulps:g} eps x {size:.3g} = {ulps * eps * size:.3g}"
        )


def assert_within_se(samples, expected, *, k: float = 4.5, axis: int = 0) -> None:
    """Assert that the mean of independent samples is within k standard errors of `expected`.

    Args:
        samples: array with independent draws along `axis`.
        expected: the exact mean.
        k: number of standard errors; 4.5 fails by chance less than once in 100,000 entries.

    Raises:
        AssertionError: names the largest number of standard errors seen.

    Example:
        >>> import jax
        >>> from learnlag_jax.testing import assert_within_se
        >>> assert_within_se(jax.random.normal(jax.random.key(0), (1000,)), 0.0)
    """
    x = np.asarray(samples, np.float64)
    mean = x.mean(axis)
    assert np.shape(expected) in ((), mean.shape), f"expected has shape {np.shape(expected)}, the mean {mean.shape}"
    se = x.std(axis, ddof=1) / np.sqrt(x.shape[axis])
    worst = np.max(np.abs(mean - np.asarray(expected)) / np.maximum(se, np.finfo(float).tiny))
    assert worst <= k, f"mean is {worst:.2f} standard errors from its expected value; at most {k} allowed"


def assert_stationary(L, path, times, *, order: int = 1, ulps: float = 1e4) -> None:
    """Assert that a path satisfies the Euler-Lagrange equation of L at the given times.

        |dL/dq - d/dt dL/dv| <= ulps * eps * (largest of the terms that cancel in it, over all times) + 16 eps * |dE/dt| t

    Entry by entry, so that a light body is not judged by a heavy one. Entries that are coupled share their rounding: one that
    stands still by symmetry has no terms of its own, and counts those of the others in its own units, by the roots of the masses.

    Args:
        L: `L(t, q, v)`, or with more derivatives for a higher `order`.
        path: `path(t)` -> coordinates, any pytree, differentiable 2 x order times.
        times: (n,) floating-point times, at least one; their dtype sets eps.
        order: highest derivative in L.
        ulps: units of rounding allowed, relative to the largest force on the path.

    Raises:
        AssertionError: names the entry and the time of the largest residual, its size and the tolerance. InputError: no times.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.testing import assert_stationary
        >>> assert_stationary(lambda t, q, v: (v**2 - q**2) / 2, jnp.cos, jnp.linspace(0.0, 3.0, 7))
    """
    from learnlag_jax import variation

    checks.shape(times, ("n",), "times")
    checks.require(len(times), "times", checks.describe(times), "one time or more", "pass some")
    times = jnp.asarray(times)
    first, fold = trees.ravel(path(times[0]))
    flat = lambda t, *jet: L(t, *map(fold, jet))
    E = variation.euler_lagrange(flat, order)

    def at(coupled, t):  # one time after the other: Jacobians are large
        t, *tree = variation.lift(path, 2 * order)(t)
        jet = (t, *(trees.ravel(x)[0] for x in tree))
        touch, *seen = _terms(flat, E, order, jet)
        return coupled | touch, (jnp.abs(E(*jet)), *seen)

    none = jnp.zeros((first.size, first.size), bool)
    coupled, (residual, late, *terms) = jax.jit(lambda times: jax.lax.scan(at, none, times))(times)
    residual, scale = np.asarray(residual), np.asarray(_shared(coupled, *terms))
    eps = float(jnp.finfo(residual.dtype).eps)
    tolerance = eps * (ulps * scale + 16 * np.max(np.asarray(late), 0))
    over = np.where(np.isnan(residual), np.inf, residual) / np.maximum(tolerance, np.finfo(float).tiny)
    k, i = np.unravel_index(np.argmax(over), over.shape)
    assert residual[k, i] <= tolerance[i] < np.inf, (
        f"not stationary: |residual| {residual[k, i]:.3g} > {tolerance[i]:.3g} in entry {i}"
        f" at times[{k}] = {float(times[k]):g}"
    )


def _terms(L, E, order, jet):
    """At one time: which coordinates E depends on, and of each what rounding of the time changes it by, over eps, the size of what
    cancels in it, and the mass."""
    # one by one: where one is infinite, it leaves the others be
    by_time, *slopes = (jax.jacfwd(E, i)(*jet) for i in range(len(jet)))
    # what is zero has no rounding, however steep E is there
    share = lambda J, x: jnp.where(x == 0, 0, jnp.abs(J * x))
    late = share(by_time, jet[0])
    rounding = sum(jnp.sum(share(J, x[None]), 1) for J, x in zip(slopes, jet[1:], strict=True))
    force, rates = _cancelling_terms(L, order, jet)
    size = jnp.max(jnp.abs(jnp.stack([force, *rates, rounding])), axis=0)
    coupled = jnp.any(jnp.stack(slopes) != 0, axis=0)
    return coupled, late, size, jnp.abs(jnp.diagonal(slopes[-1]))


def _shared(coupled, sizes, masses):
    """The scale of every coordinate over all times: its own, and by sqrt(m_i / m_j) those of the ones that it is coupled to."""
    size, mass = jnp.max(sizes, axis=0), jnp.max(masses, axis=0)
    ratio = mass[:, None] / jnp.where(mass > 0, mass, 1)[None]
    ratio = jnp.where((mass == 0)[:, None] & (mass == 0)[None], 1, ratio)
    others = jnp.where(coupled, jnp.sqrt(ratio) * size[None], 0)
    return jnp.maximum(size, jnp.max(others, axis=1))


def _cancelling_terms(L, order, jet):
    """dL/dq, and what each entry of the jet contributes to the rate of the highest momentum."""
    here, rates = jet[: order + 2], (jnp.ones_like(jet[0]), *jet[2 : order + 3])
    force, top = jax.grad(L, 1), jax.grad(L, order + 1)
    alone = lambda i: tuple(rate if j == i else jnp.zeros_like(rate) for j, rate in enumerate(rates))
    return force(*here), [jax.jvp(top, here, alone(i))[1] for i in range(order + 2)]


def assert_costates(problem, states, actions, costates, theta=None, *, ulps: float = 1e4) -> None:
    """Assert that every costate is the gradient of the reward still to come, by `jax.grad` of the rolled-out tail.

        lambda_k = d/ds_k [ h(s_n) + sum_{j >= k} r(s_j, a_j, j) ]

    Args:
        problem: a `control.Problem`.
        states, actions, costates: the path, leading axes n + 1, n and n + 1.
        theta: parameters of the problem.
        ulps: units of rounding allowed, relative to the largest costate.

    Raises:
        AssertionError: names the first step whose costate is wrong.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax import control
        >>> from learnlag_jax.testing import assert_costates
        >>> problem = control.Problem(lambda s, a, k, theta: -(s**2) - a**2, lambda s, a, k, theta: s + a)
        >>> a = jnp.array([-0.5, -0.25])
        >>> s = control.rollout(problem, jnp.array(1.0), a)
        >>> assert_costates(problem, s, a, control.costates(problem, s, a))
    """
    n = len(jax.tree.leaves(actions)[0])
    at = lambda path, k: jax.tree.map(lambda leaf: leaf[k], path)

    def tail(s, k):
        reward = 0.0
        for j in range(k, n):
            reward += problem.reward(s, at(actions, j), jnp.int32(j), theta)
            s = problem.dynamics(s, at(actions, j), jnp.int32(j), theta)
        return reward + problem.terminal(s, theta)

    scale = float(trees.max_abs(costates))
    for k in range(n + 1):
        try:
            assert_close(at(costates, k), jax.grad(tail)(at(states, k), k), ulps=ulps, scale=scale)
        except AssertionError as error:
            raise AssertionError(f"costates[{k}] is not the gradient of the reward to come: {error}") from None


def assert_bellman(mdp, value, *, tol: float) -> None:
    """Assert that a value function is optimal: certified bounds on V* that follow from it are within `tol` of it.

        lower(value) <= V* <= upper(value),   |V* - value| <= tol

    Args:
        mdp: a `control.MDP`.
        value: (S,) the value of every state, in the dtype of the rewards.
        tol: largest error allowed, in units of the reward.

    Raises:
        AssertionError: names the state whose value is least certain.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax import control
        >>> from learnlag_jax.testing import assert_bellman
        >>> mdp = control.mdp_dense(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), 0.5)
        >>> assert_bellman(mdp, jnp.array([2.0]), tol=1e-9)
    """
    from learnlag_jax import control

    lower, upper = control.bounds(mdp, value)
    error = np.asarray(jnp.maximum(upper - value, value - lower))
    worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    assert error[worst] <= tol, f"value[{worst}] may be wrong by {error[worst]:.3g}; at most {tol:.3g} allowed"


def assert_maximum_likelihood(log_prob, params, batch, *, tol: float = 0.01) -> None:
    """Assert that parameters maximise the likelihood of the data, to within a fraction of their standard errors.

        n gbar' F^-1 gbar <= tol^2,   gbar the mean score, F the empirical Fisher information

    The left side is the squared distance to the maximum in standard errors, so the assert does not depend on units.

    Args:
        log_prob: `log_prob(params, example)`, nats.
        params: the fitted parameters, any pytree.
        batch: examples, leading axis n on every leaf.
        tol: distance allowed, in standard errors.

    Raises:
        AssertionError: gives the distance; or the likelihood is not finite, or curved the wrong way.

    Example:
        >>> import jax.numpy as jnp
        >>> from learnlag_jax.testing import assert_maximum_likelihood
        >>> x = jnp.array([0.0, 1.0, 5.0])
        >>> assert_maximum_likelihood(lambda mean, x: -((x - mean) ** 2), x.mean(), x)
    """
    from learnlag_jax import fisher
    from learnlag_jax.fisher.operators import in_units, pseudo_inverse

    n = len(jax.tree.leaves(batch)[0])
    mean = jax.tree.map(lambda s: s.mean(0), fisher.scores(log_prob, params, batch))
    F, g = fisher.fisher_information(log_prob, params, batch).dense(), trees.ravel(mean)[0]
    bare, unit = in_units(F)  # in the parameters' own, nothing is lost to rounding
    distance = float(jnp.sqrt(n * trees.dot(g / unit, pseudo_inverse(bare) @ (g / unit))))
    assert distance <= tol, (
        f"the parameters are {distance:.3g} standard errors from the maximum; at most {tol:g} allowed"
    )
    flat, fold = trees.ravel(params)
    total = lambda q: jnp.sum(jax.vmap(log_prob, (None, 0))(fold(q), batch))
    curvature = jnp.linalg.eigvalsh(jax.hessian(total)(flat) / jnp.outer(unit, unit))
    top = float(curvature[-1])
    flat_to_rounding = 16 * flat.size * float(jnp.finfo(flat.dtype).eps) * float(jnp.max(jnp.abs(curvature)))
    assert top <= flat_to_rounding, (
        f"the likelihood curves upward ({top:.3g}): a stationary point that is not a maximum"
    )
