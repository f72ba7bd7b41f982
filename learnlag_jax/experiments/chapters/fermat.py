"""Chapter fermat: least time. Both integrals of eq. 5, the linear model of eq. 6 and 7, planning, and a real pool of patients."""

import jax
import jax.numpy as jnp
import numpy as np

from learnlag_jax import fermat
from learnlag_jax.experiments import data
from learnlag_jax.experiments.chapters import label_results
from learnlag_jax.experiments.chapters.fermat_figures import certificate_figure, pool_figure, sphere_figure
from learnlag_jax.experiments.claims import Chapter, Claim, Settings, Table

EPS = float(np.finfo(np.float64).eps)
SIGMA2 = 1.0


def prediction_error(X, moment):
    """Eq. 6: sigma^2 (1 + tr((X'X)^-1 E[z z']))."""
    return _prediction_error(jnp.asarray(X), jnp.asarray(moment))


@jax.jit
def _prediction_error(X, moment):
    return SIGMA2 * (1 + fermat.criterion("I", moment=moment)(fermat.information_matrix(X)))


def least_time_claims() -> list[Claim]:
    """Eq. 5 on the optimal error curve of the linear model, sigma^2 (1 + p / n)."""
    p, threshold = 7, 1.3
    n = np.arange(0.0, 101.0)
    error = np.where(n >= p, SIGMA2 * (1 + p / np.maximum(n, 1.0)), np.inf)
    exact = max(p, int(np.ceil(p * SIGMA2 / (threshold - SIGMA2))))
    times = lambda e, t=n: [
        float(fermat.time_to_threshold(t, e, threshold, k).value) for k in ("first", "last", "occupation")
    ]
    bumpy = np.where(n == 60, 1.5, error)
    agree = Claim(
        "eq. 5",
        "For a monotone error curve the time spent above the threshold, the first and the last crossing are one number: max(p, ceil(p sigma^2 / (theta - sigma^2))).",
        max(abs(t - exact) for t in times(error)),
        0.0,
        "integers: exact",
        "a curve that rises once after the crossing: the three times part",
        max(abs(t - exact) for t in times(bumpy)),
    )
    from_zero = Claim(
        "eq. 5",
        "The state before any data, n = 0, counts: the indicator integral starts there.",
        abs(times(error)[2] - exact),
        0.0,
        "integers: exact",
        "the curve without its point n = 0: one sample too few",
        abs(float(fermat.time_to_threshold(n[:-1], error[1:], threshold, "occupation").value) - exact),
    )
    h = 0.01
    t = np.arange(0.0, 100.0, h)
    smooth = np.where(t > 0, SIGMA2 * (1 + p / np.maximum(t, h)), np.inf)
    limit = p * SIGMA2 / (threshold - SIGMA2)
    by_rate = lambda e: float(fermat.time_by_rate(t, e, threshold).value)
    curvature = h**2 / 8 * 2 / limit  # chord against 1/t: h^2/8 e'' / |e'| = h^2 / (4 t)
    rate = Claim(
        "eq. 5",
        "The integral of d eps / eta from the threshold up to an infinite error before any data converges: to p sigma^2 / (theta - sigma^2).",
        abs(by_rate(smooth) - limit),
        curvature + 1e4 * EPS * limit,
        "discretisation order 2: h^2 / (4 T), plus rounding over 10^4 steps",
        "the error one step of h late",
        abs(by_rate(np.concatenate([[np.inf, 1e9], smooth[1:-1]])) - limit),
    )
    return [agree, from_zero, rate]


def linear_model_claims(seed: int, quick: bool) -> list[Claim]:
    """Eq. 6 and 7: the prediction error and its minimum on the sphere."""
    sizes = [(n, p) for p in ((5,) if quick else (1, 2, 3, 5, 8)) for n in (p, p + 1, 2 * p + 1, 3 * p)]
    frames = {(n, p): np.asarray(fermat.tight_frame(n, p)) for n, p in sizes}
    trace = lambda X: abs(float(np.trace(fermat.information_matrix(X))) / len(X) - 1)
    excess = lambda X: abs(float(prediction_error(X, np.eye(X.shape[1]) / X.shape[1])) / (1 + X.shape[1] / len(X)) - 1)
    long = [X * np.where(np.arange(len(X))[:, None] == 0, 1.01, 1.0) for X in frames.values()]
    rounding = 64 * EPS * 8 * 24
    trace_claim = Claim(
        "eq. 6",
        "Rows of unit norm have tr(X'X) = n.",
        max(map(trace, frames.values())),
        rounding,
        "float64: eps x p x n",
        "one row is 1 % too long",
        min(map(trace, long)),
    )
    p, n, draws = 5, 12, 4000 if quick else 40000
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    X = jnp.asarray(X / np.linalg.norm(X, axis=1, keepdims=True))
    z = rng.normal(size=(draws, p))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    fit = rng.normal(size=(draws, n)) @ np.linalg.pinv(np.asarray(X)).T  # estimate minus truth
    squared = (rng.normal(size=draws) - np.sum(z * fit, 1)) ** 2
    sampled, se = squared.mean(), squared.std() / np.sqrt(draws)
    expected = lambda moment: float(prediction_error(X, moment))
    simulated = Claim(
        "eq. 6",
        "The generalisation error of least squares on unit rows is sigma^2 + sigma^2 tr((X'X)^-1 E[z z']) with E[z z'] = I/p for inputs uniform on the sphere.",
        abs(sampled - expected(np.eye(p) / p)) / se,
        4.5,
        f"Monte Carlo: 4.5 standard errors, {draws} regressions",
        "E[z z'] = I, the 1/p forgotten",
        abs(sampled - expected(np.eye(p))) / se,
    )
    round_robin = [fermat.least_time_path(p, n, objective="greedy").rows for n, p in sizes if n % p]
    attained = Claim(
        "eq. 7",
        "The least error at n observations is sigma^2 (1 + p/n), and a tight frame attains it at every n >= p, not only at multiples of p.",
        max(map(excess, frames.values())),
        rounding,
        "float64: eps x p x n",
        "a round-robin over an orthonormal basis, between multiples of p",
        min(map(excess, round_robin)),
    )

    slope = jax.jit(jax.grad(_prediction_error))

    def tangent(X):
        G = np.asarray(slope(X, np.eye(X.shape[1]) / X.shape[1]))
        return float(np.abs(G - np.sum(G * X, 1, keepdims=True) * X).max())

    turned = lambda X: X + 1e-3 * np.roll(X, 1, 1) * (np.arange(len(X))[:, None] == 0)
    stationary = Claim(
        "eq. 7",
        "At a tight frame the gradient of the error is normal to the sphere at every row: stationary by autodiff.",
        max(map(tangent, frames.values())),
        rounding,
        "float64: eps x p x n",
        "one row turned by 0.001",
        min(tangent(turned(X)) for (n, p), X in frames.items() if n > p > 1),
    )
    return [trace_claim, simulated, attained, stationary]


def planning_claim() -> Claim:
    """Insight 2, honest form."""
    p, top = 6, 24
    n = np.arange(p, top + 1)
    values = np.asarray(fermat.least_time_path(p, top, objective="greedy").values[p - 1 :])
    ratio = values * n / p**2
    wrong = 1 + (n % p) / p / ((n // p) * (n // p + 1))
    return Claim(
        "eq. 7",
        "One step at a time is a round-robin: above the planned optimum by 1 + rho (1 - rho) / (k (k + 1)), and exactly optimal at multiples of p.",
        float(np.abs(ratio - np.asarray(fermat.greedy_ratio(jnp.asarray(n), p))).max()),
        64 * EPS * top,
        "float64: eps x n",
        "the formula without the factor 1 - rho",
        float(np.abs(ratio - wrong).max()),
    )


def patients(pool: data.Dataset):
    """The pool as rows of a linear model: an intercept and ten covariates of unit variance."""
    X, _ = pool.content
    return jnp.asarray(np.column_stack([np.ones(len(X)), X * np.sqrt(len(X))]))


def pool_claims(F) -> tuple[list[Claim], dict]:
    """A-optimal weights on the patients, certified."""
    design = fermat.optimal_weights(F, "A")
    uniform = jnp.full(len(F), 1 / len(F))

    @jax.jit
    def relative(w):
        M = fermat.information_matrix(F, w)
        G = -jax.grad(fermat.criterion("A"))(M)
        return jnp.sum((F @ G) * F, 1) / jnp.sum(G * M)

    best, plain = np.asarray(relative(design.weights)), np.asarray(relative(uniform))
    off = lambda sensitivity: float(np.abs(sensitivity - 1)[np.asarray(design.support)].max())
    certified = Claim(
        "eq. 7",
        f"On {len(F)} patients no weights beat the A-optimal design: certified gap over the whole pool.",
        float(design.gap),
        1e-9,
        "asked for; the certificate needs no trust in the solver",
        "all patients with equal weight",
        float(fermat.equivalence_gap(fermat.information_matrix(F, uniform), F)),
    )
    flat = Claim(
        "eq. 7",
        "Where the optimal design puts weight, the sensitivity equals its bound: stationarity on the support.",
        off(best),
        1e-7,
        "square root of the certified gap's scale: a first derivative",
        "all patients with equal weight",
        off(plain),
    )
    return [certified, flat], {
        "optimal": np.asarray(best),
        "equal weights": np.asarray(plain),
        "weight": np.asarray(design.weights),
        "value": float(design.value),
    }


def learning_curves(F, settings: Settings) -> dict:
    """Prediction error over the pool against n for random, greedy and planned observations, and the bound for any."""
    phi = fermat.criterion("I", region=F)
    top, p = (33, F.shape[1]) if settings.quick else (66, F.shape[1])
    grid = np.array([15, 33]) if settings.quick else np.array([11, 13, 14, 15, 16, 18, 22, 28, 33, 44, 66])
    n = np.arange(1, top + 1)
    greedy = 1 + np.asarray(fermat.least_time_path(F, top, phi, objective="greedy").values)
    planned = [
        1 + float(fermat.exact_design(F, int(k), phi).value) for k in settings.track(grid, "exchange at each deadline")
    ]
    keys = jax.random.split(jax.random.key(settings.seed), 60)
    prefix = jax.jit(
        jax.vmap(
            lambda key: jax.lax.map(
                phi,
                jnp.cumsum(
                    F[jax.random.permutation(key, len(F))[:top], :, None]
                    * F[jax.random.permutation(key, len(F))[:top], None, :],
                    0,
                ),
            )
        )
    )
    random = 1 + np.asarray(prefix(keys))
    bound = fermat.optimal_weights(F, phi)
    lower = np.where(n < p, np.inf, 1 + float(bound.value) * (1 - float(bound.gap)) / n)
    return {"n": n, "greedy": greedy, "grid": grid, "planned": np.array(planned), "random": random, "bound": lower}


def times_table(curves: dict, threshold: float, draws: int) -> Table:
    """T_sample on the real pool."""
    n = np.asarray(curves["n"], np.float64)
    budget = float(n[-1])
    runs = jax.vmap(lambda e: fermat.time_to_threshold(n, e, threshold))(jnp.asarray(curves["random"]))
    summary = fermat.learning_time_summary(runs.value, runs.reached, budget, draws=draws)
    one = lambda t, e: fermat.time_to_threshold(np.asarray(t, np.float64), np.asarray(e), threshold)
    text = lambda t: f"{float(t.value):.0f}" if bool(t.reached) else f"> {float(t.lower):.0f}"
    low, high = (float(x) for x in summary.median_interval)
    end = lambda x: f"{x:.0f}" if np.isfinite(x) else f"> {budget:.0f}"
    rows = (
        ("bound for any design", text(one(n, curves["bound"]))),
        ("planned for its deadline (exchange)", text(one(curves["grid"], curves["planned"]))),
        ("greedy", text(one(n, curves["greedy"]))),
        ("random patients, median (95 % interval)", f"{end(float(summary.median))} ({end(low)} to {end(high)})"),
    )
    return Table(
        f"T_sample on the diabetes pool: patients needed for a prediction error of {threshold:g} sigma^2",
        ("how patients are chosen", "patients"),
        rows,
    )


def chapter(settings: Settings) -> Chapter:
    pool = data.diabetes()
    F = patients(pool)
    certificates, sensitivities = pool_claims(F)
    curves = learning_curves(F, settings)
    bought = label_results.recorded()
    claims = [
        *least_time_claims(),
        *linear_model_claims(settings.seed, settings.quick),
        planning_claim(),
        *certificates,
        *label_results.claims(bought),
    ]
    return Chapter(
        "fermat",
        "Least time: which observations to make",
        "The scalar is a criterion of the information matrix. Its derivative is the price of every possible observation: the design is optimal when none is worth more than "
        "the ones it holds, and that is checked over the whole pool. Time is counted in observations, T_sample, by both integrals of eq. 5.",
        tuple(claims),
        (
            sphere_figure(settings.seed),
            certificate_figure(sensitivities),
            pool_figure(curves),
            label_results.figure(bought),
        ),
        (times_table(curves, 1.5, 200 if settings.quick else 2000), label_results.table(bought)),
        (
            (
                "The least time is the integral of an indicator (eq. 5), read as the time to reach the threshold.",
                "That integral is an occupation time. It is the hitting time for monotone curves only, so first crossing, last crossing and occupation are all reported, and runs that do not reach are censored, not dropped.",
            ),
            (
                "The optimum needs X to be stacked orthogonal matrices, n = p, 2p, ... (section 3.1).",
                "Tight frames attain sigma^2 (1 + p/n) at every n >= p.",
            ),
            (
                "Planning is essential: greedy is not optimal (Insight 2).",
                "On the sphere greedy is exactly optimal at multiples of p and at most 12.5 % above in between. On real pools the gap is larger, and random choice is far behind both.",
            ),
            (
                "A-optimality is the criterion for choosing what to observe.",
                "It asks for every parameter, wanted or not. For predictions V-optimal batches, replanned as the model learns, need 0.55 to 0.77 times the labels of random choice; "
                "A-optimal ones need more. Uncertainty sampling, which plans nothing, needs more on the linear task, as many on digits, and fewer on MNIST-5000.",
            ),
        ),
        (pool, *label_results.inputs()),
    )
