"""Bought labels: the recorded errors come from the code beside them, and times, ratios and claims follow from the errors."""

import jax
import numpy as np
import pytest

from learnlag_jax.experiments.chapters import label_results, label_study, label_tasks


@pytest.fixture(autouse=True)
def _defaults():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        yield


@pytest.mark.parametrize(
    "name, strategy, purchases, tolerance",
    [
        ("linear, diabetes", "uncertainty", 3, 1e-9),
        ("linear, diabetes", "V-optimal, replanned", 3, 1e-9),
        ("logistic, digits", "V-optimal, replanned", 2, 0.02),  # scikit-learn's last digits differ between versions
    ],
)
def test_the_record_is_what_the_code_measures(name, strategy, purchases, tolerance, float64):
    task = label_tasks.TASKS[name](0)
    short = task._replace(budget=task.first + (purchases - 1) * task.batch)
    labels, error = label_study.curve(short, strategy, 0)
    result = label_results.recorded()[name]
    row = label_study.STRATEGIES.index(strategy)
    np.testing.assert_array_equal(labels, result.labels[:purchases])
    np.testing.assert_allclose(error, result.error[row, 0, :purchases], atol=tolerance)
    assert not np.allclose(error, result.error[0, 0, :purchases], atol=tolerance)  # the control: random bought others


def _made_up(advantage):
    """Errors 1 / labels for random, and for the plan with `advantage` times the labels."""
    labels = np.arange(10, 210, 10)
    rng = np.random.default_rng(0)
    speed = np.ones(5)
    speed[-1] = advantage
    noise = np.exp(0.05 * rng.normal(size=(1, 12, 1)))
    return labels, noise / (labels[None, None, :] * speed[:, None, None]), np.full(12, 0.004)


def test_times_and_ratios_follow_from_the_errors(float64):
    labels, error, everything = _made_up(2.0)
    result = label_results.outcome(labels, error, everything)
    full, first = 0.004, error[0, :, 0].mean()
    assert result.threshold == pytest.approx(full + 0.2 * (first - full))
    exact = np.array([[labels[np.argmax(e <= result.threshold)] for e in row] for row in error])
    np.testing.assert_array_equal(result.times, exact)
    ratio = label_results.ratio(result, "V-optimal, replanned")
    assert 0.4 < float(ratio.value) < 0.65
    assert float(ratio.interval[1]) < 1
    even = label_results.ratio(label_results.outcome(*_made_up(1.0)), "V-optimal, replanned")
    assert float(even.value) == 1  # the control: the same curves have the same times


def test_a_claim_of_a_plan_that_does_not_help_fails(float64):
    helps, does_not = (label_results.claims({"task": label_results.outcome(*_made_up(a))})[0] for a in (2.0, 0.5))
    assert helps.verified
    assert not does_not.holds


def test_runs_that_never_arrive_are_counted_not_dropped(float64):
    labels, error, everything = _made_up(2.0)
    error[:, :3] = 1.0
    table = label_results.table({"task": label_results.outcome(labels, error, everything)})
    assert [row[-1] for row in table.rows] == ["9 of 12"] * 5
