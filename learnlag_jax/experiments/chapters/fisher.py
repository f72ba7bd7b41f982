"""The chapter on parameter estimation: eq. 22-32 on handwritten digits, and which exponent learns fastest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learnlag_jax import fisher, trees
from learnlag_jax.experiments import data
from learnlag_jax.experiments.chapters.estimation import (
    Fits,
    Recorded,
    audit_table,
    field_table,
    fit_digits,
    network,
    network_log_prob,
    principal_components,
    recorded_runs,
    residual_figure,
)
from learnlag_jax.experiments.chapters.exponents import (
    EXPONENTS,
    Sweep,
    estimator_sweep,
    estimator_table,
    exponent_sweep,
    sweep_figure,
    sweep_table,
)
from learnlag_jax.experiments.claims import Chapter, Claim, Settings

EPS = float(np.finfo(np.float64).eps)


def chapter(settings: Settings) -> Chapter:
    """Cramer-Rao, the field residual of a right and a wrong model, Adam as a stationary path, and the exponent."""
    digits = data.digits()
    images = digits if settings.quick else data.mnist_5000()
    fits = fit_digits(digits, settings)
    runs = recorded_runs(digits, settings)
    sweep = exponent_sweep(images, settings)
    estimators = estimator_sweep(digits, settings)
    claims = (
        cramer_rao(settings),
        *information_claims(digits),
        *field_claims(fits),
        *optimiser_claims(digits, runs),
    )
    return Chapter(
        name="fisher",
        title="The learning Lagrangian: from the score to Adam",
        lead=(
            "One scalar, the log-likelihood of an example, gives the Fisher information, the learning Lagrangian and its "
            "field equation, and an optimiser. The residual of the field equation is a test of the model; the residual of "
            "the discrete Euler-Lagrange equation is a test of the optimiser."
        ),
        claims=claims,
        figures=(sweep_figure(sweep, images.name), residual_figure(runs)),
        tables=(
            field_table(fits),
            sweep_table(sweep),
            *((estimator_table(estimators),) if estimators else ()),
            audit_table(runs),
        ),
        honest=honest(fits, sweep),
        inputs=(digits,) if settings.quick else (digits, images),
    )


def cramer_rao(settings: Settings) -> Claim:
    """Eq. 22 on simulated data sets: a logistic location, whose mean is unbiased but wasteful."""
    sets, n = (20_000, 100) if settings.quick else (40_000, 200)
    log_prob = lambda theta, x: -(x - theta[0]) - 2 * jax.nn.softplus(-(x - theta[0]))

    def estimate(x):
        def step(theta, _):
            score = jax.vmap(jax.grad(log_prob), (None, 0))(theta, x)
            F = fisher.fisher_information(log_prob, theta, x)
            return theta + F.solve(jnp.mean(score, 0)), None

        return jax.lax.scan(step, jnp.median(x)[None], length=12)[0][0]

    @jax.jit
    def simulate(key):
        x = jax.random.logistic(key, (sets, n), jnp.float64)
        F = fisher.fisher_information(log_prob, jnp.zeros(1), x.ravel()).dense()[0, 0]
        return jax.vmap(estimate)(x), x.mean(1), F

    efficient, mean, F = map(np.asarray, simulate(jax.random.key(settings.seed + 1)))
    scaled, wasteful = (x**2 * n * float(F) for x in (efficient, mean))
    tolerance = 4.5 * scaled.std() / np.sqrt(sets) + 2 / n
    return Claim(
        "eq. 22",
        f"The variance of the maximum-likelihood estimator over {sets} simulated data sets is the inverse Fisher information.",
        float(scaled.mean() - 1),
        float(tolerance),
        "4.5 Monte Carlo standard errors, and 2/n for the next order in the sample size",
        "the sample mean: also unbiased, not efficient (variance pi^2/9 of the bound)",
        float(wasteful.mean() - 1),
    )


def information_claims(digits) -> tuple[Claim, ...]:
    """Eq. 23 and 24 agree under the model's own labels, for a network on real images."""
    x = jnp.asarray(principal_components(digits.content[0], 4)[:60])
    batch = x, jnp.asarray(digits.content[1][:60])
    params = network(jax.random.key(0), 5, 4, np.float64)
    outcomes = fisher.categorical_outcomes(network_log_prob, 10)
    flat, fold = trees.ravel(params)

    def expected_hessian(example):
        examples, p = outcomes(params, example)
        hessian = jax.hessian(lambda t, e: network_log_prob(fold(t), e))
        return jnp.tensordot(p, jax.vmap(hessian, (None, 0))(flat, examples), axes=1)

    @jax.jit
    def matrices(batch):
        H = jnp.mean(jax.vmap(expected_hessian)(batch), 0)
        exact = fisher.fisher_information(network_log_prob, params, batch, estimator="exact", outcomes=outcomes)
        return H, exact.dense(), fisher.fisher_information(network_log_prob, params, batch).dense()

    H, exact, seen = map(np.asarray, matrices(batch))
    size = np.linalg.norm(H)
    return (
        Claim(
            "eq. 23, 24",
            "The mean outer product of scores equals minus the mean Hessian when the mean is over the model's own labels.",
            float(np.linalg.norm(exact + H) / size),
            1e4 * EPS,
            "10,000 eps: sums over 60 images x 10 labels",
            "the labels in the data instead of the model's",
            float(np.linalg.norm(seen + H) / size),
        ),
    )


def field_claims(fits: Fits) -> tuple[Claim, ...]:
    """Eq. 25-30 on digits: the equation itself, its zero under a right model, and equipartition."""
    simulated, real, away = fits.simulated, fits.real, fits.away
    return (
        Claim(
            "eq. 25-29",
            "The field residual 1 + tr(F^-1 E Hess l)/P + (div F^-1).E grad l/P is the Euler-Lagrange equation of the density.",
            (float(away.residual) - fits.autodiff) / abs(fits.autodiff),
            1e7 * EPS,
            "1e7 eps: the condition number of F is about 1e4, and it is inverted twice",
            "the divergence of F^-1 left out, away from the optimum",
            (float(away.residual - away.divergence) - fits.autodiff) / abs(fits.autodiff),
        ),
        Claim(
            "eq. 28-30",
            "At the maximum-likelihood fit of a well-specified model (labels drawn from it, real images) the residual vanishes.",
            float(simulated.residual),
            float(4.5 * simulated.standard_error + 2 * simulated.penalty / fits.examples),
            "4.5 standard errors of the information-matrix test, and 2 P/n for the bias of the inverted outer product",
            "the digits' own labels: the same maximum-likelihood equations, but the regression is misspecified",
            float(real.residual),
        ),
        Claim(
            "eq. 26",
            "Equipartition: the mean kinetic energy (1/2P) g'F^-1 g over the examples that define F is 1/2 at full rank.",
            float(2 * real.kinetic - 1),
            1e6 * EPS,
            "1e6 eps: condition number of F",
            "F from the even examples, kinetic energy of the odd ones",
            2 * fits.swapped_kinetic - 1,
        ),
    )


def optimiser_claims(digits, runs: Recorded) -> tuple[Claim, ...]:
    """Eq. 31 and 32: the optimisers are the particle; a recorded Adam run is stationary up to the moving metric."""
    g = np.asarray(runs.gradients)

    def apart(ours, theirs):
        mine, reference = (np.asarray(walk(optimiser, g)) for optimiser in (ours, theirs))
        return float(np.max(np.abs(mine - reference)) / np.max(np.abs(reference)))

    rms = optax.scale_by_rms(decay=0.9, eps=1e-8, eps_in_sqrt=False)
    ours = functools.partial(fisher.scale_by_fisher, "diagonal")
    adam, sgd = runs.audits["Adam"], runs.audits["SGD"]
    scale = 64.0

    def degree(exponent, power):
        """How far scaling the gradients is from scaling the step by scale^power."""
        base = walk_scaled(g, 1.0, exponent)
        return float(np.max(np.abs(walk_scaled(g, scale, exponent) / scale**power - base)) / np.max(np.abs(base)))

    return (
        Claim(
            "eq. 31",
            "RMSprop is the diagonal batch-Fisher step F^-1/2 grad l without momentum, on recorded gradients.",
            apart(ours(b1=0.0, b2=0.9, options=fisher.FisherOptions(bias_correction=False)), rms),
            16 * EPS,
            "16 eps: a division against a product with a reciprocal, fused as the compiler likes",
            "exponent -0.45",
            apart(ours(exponent=-0.45, b1=0.0, b2=0.9, options=fisher.FisherOptions(bias_correction=False)), rms),
        ),
        Claim(
            "eq. 32",
            "Adam is the same step with bias-corrected moments, on recorded gradients.",
            apart(ours(), optax.scale_by_adam()),
            16 * EPS,
            "16 eps: the same operations, fused as the compiler likes",
            "b2 = 0.99 instead of 0.999",
            apart(ours(b2=0.99), optax.scale_by_adam()),
        ),
        Claim(
            "eq. 32, discrete",
            "With the metric held fixed, Adam's recursion is the discrete Euler-Lagrange equation of the learning Lagrangian.",
            runs.frozen,
            1e5 * EPS,
            "1e5 eps: 20 steps of friction 1/0.9 and differences of positions a thousand times their step",
            "an SGD run on the same loss",
            runs.sgd,
        ),
        Claim(
            "eq. 32, recorded",
            "A recorded Adam run is stationary up to two named terms, the metric's motion and bias correction.",
            float(jnp.max(adam.unexplained)),
            1e7 * EPS,
            "1e7 eps: differences of positions, divided by roots of second moments as small as 1e-8",
            "a recorded SGD run, with the step size that suits it best",
            float(jnp.sqrt(jnp.mean(sgd.unexplained**2))),
        ),
        Claim(
            "eq. 31, 32",
            "Scaling the loss by c scales the step F^a g by c^(1+2a): -1/2 is the exponent without units.",
            max(degree(a, 1 + 2 * a) for a in (-0.5, -0.25, -1.0)),
            1e3 * EPS,
            "1000 eps: powers of numbers from 1e-8 to 1",
            "exponent -1/4 taken as scale-free",
            degree(-0.25, 0.0),
        ),
    )


def walk_scaled(g, scale: float, exponent: float):
    """The last of the steps F^a m on gradients times `scale`."""
    optimiser = fisher.scale_by_fisher("diagonal", exponent=exponent, eps=0.0, b2=0.9)
    live = np.where(g == 0, 1e-8, g)[:5] * scale
    return np.asarray(walk(optimiser, live)[-1])


def walk(optimiser: optax.GradientTransformation, gradients) -> jax.Array:
    """What an optimiser of one flat vector makes of recorded gradients, (n, P)."""

    def step(state, row):
        update, state = optimiser.update(row, state)
        return state, jnp.asarray(update)

    return jax.jit(lambda g: jax.lax.scan(step, optimiser.init(g[0]), g)[1])(gradients)


def honest(fits: Fits, sweep: Sweep) -> tuple[tuple[str, str], ...]:
    reached = np.median(sweep.samples[:, np.arange(len(EXPONENTS)), sweep.best], 0)
    winner = EXPONENTS[int(np.argmin(reached))]
    return (
        (
            "The solution at a stationary point is a maximum-likelihood estimator (after eq. 30).",
            "Only if the model is right. At the fit to the digits' own labels the likelihood is at its maximum and the residual "
            f"is {float(fits.real.residual):.2f} (White's test: p = {float(fits.real.p_value):.1e}); with labels drawn from the model it is "
            f"{float(fits.simulated.residual):.2f} (p = {float(fits.simulated.p_value):.2f}). The equation tests the model, not the optimum.",
        ),
        (
            "V = +l in the field equation (eq. 26), and theta' = F^-1/2 grad l climbs l.",
            "A particle that climbs l moves in the potential -l. Both signs are kept as written: the field equation needs +l, the "
            "particle -l.",
        ),
        (
            "Adam and RMSprop follow F^-1/2 grad l with the Fisher information.",
            "They use the second moment of the batch-mean gradient, Sigma/B + mu mu', not the per-example Fisher Sigma + mu mu', and "
            "their metric moves: the term -M^-1 (dM/dt) v is dropped, and is shown here.",
        ),
        (
            "The exponent is -1/2.",
            f"Postulated. Measured here with each learning rate tuned, the fewest samples are at {winner:g} "
            f"({', '.join(f'{a:g}: {t:.0f}' for a, t in zip(EXPONENTS, reached, strict=True))}).",
        ),
        (
            "Learning minimises the action.",
            "The paths are stationary, often saddles of the action (arXiv 2107.05040): never say minimal.",
        ),
    )
