"""Learning times of long, censored, infinite and half-precision runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError, fermat


@pytest.mark.parametrize("n", [725, 1001, 10001, 100001])
def test_the_median_of_many_runs_is_exact_in_single_precision(n):
    curve = fermat.kaplan_meier(jnp.arange(1, n + 1, dtype=jnp.float32), jnp.ones(n, bool))
    np.testing.assert_allclose(curve.share, np.arange(n)[::-1] / n, rtol=2e-7)
    summary = fermat.learning_time_summary(curve.times, jnp.ones(n, bool), 1e6, draws=2)
    assert float(summary.median) == (n + 1) // 2


def test_censored_runs_leave_by_the_product_formula(float64):
    generator = np.random.default_rng(0)
    times, reached = generator.permutation(40) + 1.0, generator.random(40) < 0.6
    share, at_risk = 1.0, 40
    expected = []
    for k in np.argsort(times):
        share *= 1 - reached[k] / at_risk
        at_risk -= 1
        expected.append(share)
    np.testing.assert_allclose(
        fermat.kaplan_meier(jnp.asarray(times), jnp.asarray(reached)).share, expected, rtol=1e-13
    )


def test_an_endless_budget_costs_nothing_once_all_have_reached():
    t = jnp.array([1.0, 2.0, 3.0])
    mean = lambda reached: float(fermat.learning_time_summary(t, reached, jnp.inf, draws=2).restricted_mean)
    assert mean(jnp.ones(3, bool)) == pytest.approx(2.0)
    assert mean(jnp.array([True, True, False])) == np.inf


def test_a_run_without_a_time_did_not_reach():
    t, yes = jnp.array([10.0, jnp.nan]), jnp.ones(2, bool)
    summary = fermat.learning_time_summary(t, yes, 50.0, draws=2)
    assert float(summary.restricted_mean) == 30.0
    assert float(fermat.learning_time_ratio(t, yes, jnp.full(2, 50.0), yes, 50.0, draws=2).value) == pytest.approx(0.6)
    late = jnp.array([10.0, 90.0])  # after the budget it had not reached either
    assert float(fermat.learning_time_ratio(late, yes, jnp.full(2, 50.0), yes, 50.0, draws=2).value) == pytest.approx(
        0.6
    )


@pytest.mark.parametrize("budget", [0.0, -1.0])
def test_a_budget_is_positive_and_a_ratio_needs_runs(budget):
    t, yes = jnp.ones(2), jnp.ones(2, bool)
    with pytest.raises(InputError, match="budget"):
        fermat.learning_time_summary(t, yes, budget)
    with pytest.raises(InputError, match="times"):
        fermat.learning_time_ratio(t[:0], yes[:0], t[:0], yes[:0], 1.0)


def test_times_keep_their_digits_beside_a_half_precision_error(float64):
    t = jnp.arange(5000) * 100
    got = fermat.time_to_threshold(t, jnp.linspace(5.0, 0.0, 5000).astype(jnp.bfloat16), 2.0)
    assert float(got.value) in np.asarray(t)
    late = jnp.array([2**24, 2**24 + 1, 2**24 + 2])
    assert float(fermat.time_to_threshold(late, jnp.array([3.0, 1.0, 0.0], jnp.float32), 2.0).value) == 2**24 + 1


def test_temperature_has_a_slope_beside_an_infinite_error(float64):
    t, error = jnp.array([1.0, 2.0, 4.0, 5.0]), jnp.array([jnp.inf, 5.0, 1.0, 0.5])
    soft = lambda tau: fermat.soft_learning_time(t, error, 1.7, tau)
    difference = (soft(0.3 + 1e-5) - soft(0.3 - 1e-5)) / 2e-5
    assert float(jax.grad(soft)(0.3)) == pytest.approx(float(difference), rel=1e-6)


def test_lists_and_empty_curves():
    assert float(fermat.time_to_threshold([0.0, 1.0], [2.0, 1.0], 1.5).value) == 1.0
    with pytest.raises(InputError, match="t:"):
        fermat.time_to_threshold(jnp.zeros(0), jnp.zeros(0), 1.0)
    assert float(fermat.learning_time_summary([1.0, 3.0], [True, True], 5.0, draws=2).restricted_mean) == 2.0


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"step;loss\n1;2\n", "separated by ';'"),
        ("step,loss\n1,2\xe9\n".encode("latin-1"), "UTF-8"),
        (b"step,loss\n1,2,3\n", "beyond the header"),
    ],
)
def test_a_curve_file_that_is_not_a_table_of_commas_is_refused_by_its_name(tmp_path, text, match):
    file = tmp_path / "run.csv"
    file.write_bytes(text)
    with pytest.raises(InputError, match=f"run.csv.*{match}"):
        fermat.read_curve(file)


def test_a_truth_value_is_no_number(tmp_path):
    file = tmp_path / "run.jsonl"
    file.write_text('{"step": true, "loss": 1.0}\n')
    with pytest.raises(InputError, match="line 1"):
        fermat.read_curve(file)
