"""What the Fisher chapter runs: a softmax regression fitted to digits, a small network trained with several optimisers."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learnlag_jax import fisher, trees
from learnlag_jax.experiments.claims import Figure, Settings, Table


def softmax_log_prob(weights, example):
    """Log-probability (nats) of a digit; weights (9, p + 1), the logit of digit 0 is zero so that F has full rank."""
    x, label = example
    return jax.nn.log_softmax(jnp.concatenate([jnp.zeros(1, x.dtype), weights @ x]))[label]


def network_log_prob(params, example):
    """Log-probability (nats) of a digit under one hidden layer."""
    x, label = example
    return jax.nn.log_softmax(params["out"] @ jnp.tanh(params["in"] @ x))[label]


def network_loss(params, batch):
    """Mean negative log-likelihood of a batch, nats per example."""
    return -jnp.mean(jax.vmap(network_log_prob, (None, 0))(params, batch))


def network(key, inputs: int, hidden: int, dtype):
    """Parameters of one hidden layer."""
    return _network(key, inputs, hidden, np.dtype(dtype))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _network(key, inputs, hidden, dtype):
    k1, k2 = jax.random.split(key)
    return {
        "in": jax.random.normal(k1, (hidden, inputs), dtype) / np.sqrt(inputs).astype(dtype),
        "out": 0.1 * jax.random.normal(k2, (10, hidden), dtype),
    }


def principal_components(x, count: int):
    """The first components with unit variance, and a column of ones."""
    centred = x - x.mean(0)
    _, s, axes = np.linalg.svd(centred, full_matrices=False)
    z = centred @ axes[:count].T / (s[:count] / np.sqrt(len(x)))
    return np.concatenate([np.ones((len(x), 1)), z], axis=1)


class Fits(NamedTuple):
    """The same regression on the digits' own labels and on labels drawn from the fitted model."""

    real: fisher.Stationarity
    simulated: fisher.Stationarity
    away: fisher.Stationarity
    autodiff: float
    swapped_kinetic: float
    examples: int


@functools.partial(jax.jit, static_argnums=1)
def newton(batch, steps=12):
    """Maximum likelihood by natural-gradient steps with the exact Fisher: Newton's method for a canonical model."""
    outcomes = fisher.categorical_outcomes(softmax_log_prob, 10)

    def step(w, _):
        F = fisher.fisher_information(softmax_log_prob, w, batch, estimator="exact", outcomes=outcomes)
        score = jax.grad(lambda w: jnp.mean(jax.vmap(softmax_log_prob, (None, 0))(w, batch)))(w)
        return w + F.solve(score), None

    return jax.lax.scan(step, jnp.zeros((9, batch[0].shape[1]), batch[0].dtype), length=steps)[0]


def fit_digits(digits, settings: Settings) -> Fits:
    """Fit; draw labels from a regression with the fitted directions and fit those; and evaluate the field equation at each."""
    components = 3 if settings.quick else 5
    x = jnp.asarray(principal_components(digits.content[0], components))
    real = (x, jnp.asarray(digits.content[1]))
    w = newton(real)
    simulated = x, redrawn(w, x, jax.random.key(settings.seed))
    evaluate = jax.jit(functools.partial(fisher.stationarity, softmax_log_prob))
    away = w + 0.1 * np.cos(np.arange(w.size)).reshape(w.shape)
    return Fits(
        evaluate(w, real),
        evaluate(newton(simulated), simulated),
        evaluate(away, real),
        float(field_equation(away, real)),
        float(swapped_kinetic(w, real)),
        len(x),
    )


@jax.jit
def redrawn(w, x, key):
    """Labels from a milder regression in the fitted directions, so that every label is seen often."""
    return jax.random.categorical(key, 0.3 * jnp.concatenate([jnp.zeros((len(x), 1)), x @ w.T], axis=1))


@jax.jit
def swapped_kinetic(w, batch):
    """The mean kinetic energy (1/2P) s' F^-1 s of the odd examples under the F of the even ones."""
    even, odd = jax.tree.map(lambda a: a[::2], batch), jax.tree.map(lambda a: a[1::2], batch)
    inverse = fisher.fisher_information(softmax_log_prob, w, even).power(-1.0).dense()
    s = fisher.scores(softmax_log_prob, w, odd).reshape(-1, w.size)
    return jnp.mean(jnp.sum((s @ inverse) * s, 1)) / (2 * w.size)


@jax.jit
def field_equation(w, batch):
    """Eq. 27 by automatic differentiation of the density alone: E[ div dl/d(grad l) - dl/dl ]."""
    flat, fold = trees.ravel(w)
    density = fisher.learning_lagrangian(lambda t: fisher.fisher_information(softmax_log_prob, fold(t), batch).dense())
    mean = lambda t: jnp.mean(jax.vmap(softmax_log_prob, (None, 0))(fold(t), batch))
    flux = lambda t: jax.grad(density, 2)(t, mean(t), jax.grad(mean)(t))  # linear in l: its mean is that of the mean
    source = jax.grad(density, 1)(flat, mean(flat), jax.grad(mean)(flat))
    return jnp.trace(jax.jacfwd(flux)(flat)) - source


class Recorded(NamedTuple):
    """Runs of one network by name, their audits, and the gradients of the first."""

    audits: dict
    losses: dict
    gradients: jax.Array
    frozen: float
    sgd: float


def recorded_runs(digits, settings: Settings) -> Recorded:
    """Train the same network with several optimisers on the same batches and audit each under the learning Lagrangian."""
    steps = 60 if settings.quick else 400
    x, y = digits.content
    rows = np.random.default_rng(settings.seed).integers(0, len(x), (steps, 64))
    batches = jnp.asarray(x[rows]), jnp.asarray(y[rows])
    params = network(jax.random.key(settings.seed), 64, 16, np.float64)
    everything = {
        "Adam": optax.adam(1e-2),
        "RMSprop": optax.rmsprop(1e-2, decay=0.999, eps_in_sqrt=False, bias_correction=True),
        "AdamW": optax.adamw(1e-2, weight_decay=1e-1),
        "SGD": optax.sgd(0.5),
        "momentum": optax.sgd(0.05, momentum=0.9),
        "Lion": optax.lion(1e-3),
        "Muon": optax.contrib.muon(2e-2),
    }
    optimisers = {name: o for name, o in everything.items() if not settings.quick or name in ("Adam", "SGD", "Lion")}
    runs = {}
    for name in settings.track(optimisers, "recording optimisers"):
        runs[name] = jax.jit(functools.partial(fisher.record, network_loss, optimisers[name]))(params, batches)
    massive, massless = (jax.jit(functools.partial(fisher.audit, b1=b1)) for b1 in (0.9, 0.0))
    audits = {name: (massless if name == "RMSprop" else massive)(run) for name, run in runs.items()}
    losses = {name: np.asarray(run.losses) for name, run in runs.items()}
    gradients = jax.jit(jax.vmap(lambda g: trees.ravel(g)[0]))(runs["Adam"].gradients)
    frozen, sgd = discrete_residuals(params, batches, steps=20)
    return Recorded(audits, losses, gradients, frozen, sgd)


def discrete_euler_lagrange(Ld):
    """D_2 Ld(k - 1, q_prev, q) + D_1 Ld(k, q, q_next)."""
    return lambda k, q_prev, q, q_next: jax.grad(Ld, 2)(k - 1, q_prev, q) + jax.grad(Ld, 1)(k, q, q_next)


def discrete_residuals(params, batches, steps: int, beta: float = 0.9, eta: float = 1e-2) -> tuple[float, float]:
    """Largest discrete Euler-Lagrange residual, relative to the momentum, of Adam's recursion with F held fixed and of SGD."""

    def frozen_adam(mass):
        precondition = optax.stateless(lambda g, p: jax.tree.map(lambda x: x / mass, g))
        return optax.chain(precondition, optax.ema(beta, debias=False), optax.scale_by_learning_rate(eta))

    batch = jax.tree.map(lambda a: a[0], batches)
    start, fold = trees.ravel(params)

    def worst(make, start, batch):
        loss = lambda q: network_loss(fold(q), batch)
        F = fisher.fisher_information(network_log_prob, fold(start), batch, structure="diagonal", damping=1e-2)
        mass = trees.ravel(F.power(0.5).mv(fold(jnp.ones_like(start))))[0]
        residual = discrete_euler_lagrange(fisher.descent_lagrangian(loss, mass, beta, eta))
        optimiser = make(mass)
        q = fisher.record(lambda q, _: loss(q), optimiser, start, jnp.zeros(steps)).positions
        k = jnp.arange(1, steps)
        r = jax.vmap(residual)(k, q[:-2], q[1:-1], q[2:])
        momentum = beta ** -k[:, None].astype(q.dtype) * mass * (q[2:] - q[1:-1]) / (eta * (1 - beta))
        return jnp.max(jnp.linalg.norm(r, axis=1) / jnp.linalg.norm(momentum, axis=1))

    frozen, sgd = (jax.jit(functools.partial(worst, make)) for make in (frozen_adam, lambda mass: optax.sgd(0.5)))
    return float(frozen(start, batch)), float(sgd(start, batch))


def residual_figure(runs: Recorded) -> Figure:
    series = {
        name.lower(): {
            "step": np.arange(2, len(a.residual) + 2),
            "residual": np.asarray(a.residual),
            "drift": np.asarray(a.drift),
            "unexplained": np.asarray(a.unexplained),
        }
        for name, a in runs.audits.items()
        if name in ("Adam", "SGD", "Muon", "Lion")
    }

    def draw(fig, series):
        ax = fig.subplots()
        for (name, s), colour in zip(series.items(), ("#2563a8", "#b33a3a", "#2e8b57", "#d9822b"), strict=False):
            ax.plot(s["step"], s["residual"], color=colour, label={"sgd": "SGD"}.get(name, name.capitalize()))
        ax.plot(
            series["adam"]["step"],
            np.maximum(series["adam"]["unexplained"], 1e-17),
            color="#2563a8",
            linestyle=":",
            label="Adam, unexplained",
        )
        ax.set_yscale("log")
        ax.set_xlabel("step")
        ax.set_ylabel("residual / impulse")
        ax.legend(ncols=3)

    return Figure(
        "fisher-residual",
        "Discrete Euler-Lagrange residual of recorded runs under the learning Lagrangian, relative to the impulse |v - b1 v_previous|. What is left of "
        "Adam's after the metric's motion and bias correction is rounding.",
        "Residual against step for Adam, SGD, Lion and Muon; Adam's unexplained part lies near 1e-14.",
        series,
        draw,
    )


def field_table(fits: Fits) -> Table:
    rows = []
    for name, s in (("labels drawn from the model", fits.simulated), ("the digits' own labels", fits.real)):
        rows.append(
            (name, *(round(float(v), 4) for v in (s.residual, s.standard_error, s.p_value, s.penalty, s.kinetic)))
        )
    return Table(
        f"Field residual of a softmax regression on principal components of the digits (P = {fits.real.covariance.shape[0]}, n = {fits.examples})",
        ("labels", "residual", "standard error", "p (White)", "penalty tr J^-1 K", "mean kinetic"),
        tuple(rows),
    )


def audit_table(runs: Recorded) -> Table:
    rms = lambda x: float(np.sqrt(np.mean(np.asarray(x) ** 2)))
    rows = tuple(
        (
            name,
            *(float(f"{v:.3g}") for v in (a.relative, rms(a.unexplained), rms(a.drift), rms(a.correction))),
            float(f"{np.mean(runs.losses[name][-10:]):.3g}"),
        )
        for name, a in runs.audits.items()
    )
    return Table(
        "Recorded runs under the learning Lagrangian (RMS over the run, relative to the impulse; learning rate fitted)",
        ("optimiser", "residual", "unexplained", "metric drift", "bias correction", "last loss (nats)"),
        rows,
    )
