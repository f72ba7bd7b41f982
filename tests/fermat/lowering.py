"""Every public function of the room that takes arrays, with small inputs: it must lower for cpu, cuda and tpu."""

import jax.numpy as jnp
import numpy as np

from learnlag_jax import fermat

F = jnp.asarray(np.random.default_rng(0).normal(size=(9, 2)), jnp.float32)
M = jnp.eye(2, dtype=jnp.float32)
t = jnp.arange(4, dtype=jnp.float32)
error = jnp.asarray([4.0, 3.0, 2.0, 1.0], jnp.float32)
reached = jnp.ones(4, bool)


def fields(answer):
    return tuple(answer)


CASES = {
    "complete_frame": (lambda S: fermat.complete_frame(S, 3), (M,)),
    "continuous_design": (
        lambda low: fields(fermat.continuous_design(lambda x: x, (low, low + 1), 3, restarts=2)),
        (jnp.zeros(2, jnp.float32),),
    ),
    "criterion": (lambda M: tuple(fermat.criterion(k)(M) for k in "ADET"), (M,)),
    "equivalence_gap": (lambda M, F: fermat.equivalence_gap(M, F), (M, F)),
    "exact_design": (lambda F: fields(fermat.exact_design(F, 3, restarts=2)), (F,)),
    "fisher_information": (
        lambda theta, x: fermat.fisher_information(lambda a, x: a[0] * x + a[1], theta, x, family="bernoulli"),
        (F[0], t),
    ),
    "frame_with_spectrum": (lambda s: fermat.frame_with_spectrum(s, 3), (jnp.asarray([2.0, 1.0], jnp.float32),)),
    "greedy_ratio": (lambda n: fermat.greedy_ratio(n, 3), (jnp.arange(3, 7, dtype=jnp.int32),)),
    "information_matrix": (fermat.information_matrix, (F, jnp.ones(9, jnp.float32))),
    "label_batch": (lambda F: fields(fermat.label_batch(F, 3, labelled=[0, 4])), (F,)),
    "kaplan_meier": (lambda t, r: fields(fermat.kaplan_meier(t, r)), (error, reached)),
    "learning_time_ratio": (
        lambda t, r: fields(fermat.learning_time_ratio(t, r, t, r, 5.0, draws=8)),
        (error, reached),
    ),
    "learning_time_summary": (lambda t, r: fields(fermat.learning_time_summary(t, r, 5.0, draws=8)), (error, reached)),
    "least_time_path": (lambda F: fields(fermat.least_time_path(F, 3, objective="greedy")), (F,)),
    "mlperf_time": (fermat.mlperf_time, (error,)),
    "optical_length": (lambda x: fermat.optical_length(lambda x: 1 + x[1] ** 2, x), (F,)),
    "optimal_weights": (lambda F: fields(fermat.optimal_weights(F)), (F,)),
    "performance_profile": (lambda x: fields(fermat.performance_profile(x)), (jnp.ones((2, 3), jnp.float32),)),
    "ray": (
        lambda a, b: fermat.ray(lambda x: 1 + x[1] ** 2, a, b, intervals=4).points,
        (jnp.zeros(2, jnp.float32), jnp.ones(2, jnp.float32)),
    ),
    "softmax_rows": (lambda F: fermat.softmax_rows(F, F), (F,)),
    "soft_learning_time": (lambda t, e: fermat.soft_learning_time(t, e, 2.5, 0.1), (t, error)),
    "time_by_rate": (lambda t, e: fields(fermat.time_by_rate(t, e, 2.5)), (t, error)),
    "time_to_threshold": (lambda t, e: fields(fermat.time_to_threshold(t, e, 2.5)), (t, error)),
    "tight_frame": (lambda x: x @ fermat.tight_frame(5, 2, jnp.float32).T, (F,)),
    "v_optimal_frame": (lambda C: fermat.v_optimal_frame(C, 3), (M,)),
}
NOT_JITTABLE = {
    "ContinuousDesign": "a NamedTuple",
    "Curve": "a NamedTuple",
    "LabelBatch": "a NamedTuple",
    "LabelPath": "a NamedTuple",
    "TimedCurve": "a NamedTuple",
    "active_learning": "asks for labels: a loop on the host",
    "read_curve": "reads a file",
    "timed_curve": "a stopwatch on the host",
    "Criterion": "made by criterion; a pytree",
    "Design": "a NamedTuple",
    "ExactDesign": "a NamedTuple",
    "LearningTime": "a NamedTuple",
    "Path": "a NamedTuple",
    "Profile": "a NamedTuple",
    "Ratio": "a NamedTuple",
    "Ray": "a NamedTuple",
    "Summary": "a NamedTuple",
    "Survival": "a NamedTuple",
}
