"""Every public function of the room that takes arrays, with small inputs: it must lower for cpu, cuda and tpu."""

import jax
import jax.numpy as jnp
import optax

from learnlag_jax import fisher, trees

x = jnp.linspace(-1.0, 1.0, 6, dtype=jnp.float32)
mean = jnp.zeros(1, jnp.float32)
matrix = jnp.ones((3, 2), jnp.float32)


def log_prob(params, example):
    return -0.5 * (example - params[0]) ** 2


def outcomes_of(params, example):
    classify = lambda p, e: jax.nn.log_softmax(p * e[0])[e[1]]
    return fisher.categorical_outcomes(classify, 3)(params, (example, jnp.int32(0)))


def residual(q0, q1, q2):
    Ld = fisher.descent_lagrangian(lambda q: jnp.sum(q**2), jnp.ones_like(q0), 0.9, 0.1)
    return jax.grad(Ld, 2)(0, q0, q1) + jax.grad(Ld, 1)(1, q1, q2)


def quadratic(q, batch):
    return jnp.sum((q - batch) ** 2)


def run_of(batches):
    return fisher.record(quadratic, optax.sgd(jnp.float32(0.1)), jnp.ones(2, jnp.float32), batches)


def one_step(optimiser):
    return lambda g: optimiser.update(g, optimiser.init(g), g)[0]


CASES = {
    "audit": (lambda batches: fisher.audit(run_of(batches)), (jnp.zeros((4, 2), jnp.float32),)),
    "bootstrap": (
        lambda b: fisher.bootstrap(
            log_prob, lambda b: b.mean()[None], lambda p, b, key: b + p[0], b, jax.random.key(0), draws=19
        ),
        (x,),
    ),
    "categorical_outcomes": (outcomes_of, (jnp.zeros(3, jnp.float32), jnp.float32(1.0))),
    "descent_lagrangian": (residual, (mean, mean, mean)),
    "fisher_descent": (one_step(fisher.fisher_descent(1e-2)), (matrix,)),
    "fisher_information": (
        lambda p, b: trees.ravel(fisher.fisher_information(log_prob, p, b).power(-0.5).mv(p))[0],
        (mean, x),
    ),
    "learning_lagrangian": (
        lambda p, u: fisher.learning_lagrangian(lambda t: jnp.eye(1, dtype=t.dtype))(p, u, p),
        (mean, jnp.float32(0.0)),
    ),
    "particle_lagrangian": (
        lambda q: fisher.particle_lagrangian(lambda q: jnp.sum(q**2), jnp.ones(1, jnp.float32))(0.0, q, q),
        (mean,),
    ),
    "probed_stationarity": (lambda p, b: fisher.probed_stationarity(log_prob, p, b, jax.random.key(0)), (mean, x)),
    "record": (run_of, (jnp.zeros((4, 2), jnp.float32),)),
    "scale_by_fisher": (one_step(fisher.scale_by_fisher()), (matrix,)),
    "scores": (lambda p, b: fisher.scores(log_prob, p, b), (mean, x)),
    "stationarity": (lambda p, b: fisher.stationarity(log_prob, p, b), (mean, x)),
}
NOT_JITTABLE = {
    "Audit": "a NamedTuple",
    "Bootstrap": "a NamedTuple",
    "Bucket": "a NamedTuple",
    "Diagnostics": "a NamedTuple",
    "FisherOptions": "static choices",
    "FisherState": "a NamedTuple",
    "ProbedStationarity": "a NamedTuple",
    "Run": "a NamedTuple",
    "Stationarity": "a NamedTuple",
    "preset": "a dict of arguments",
}
