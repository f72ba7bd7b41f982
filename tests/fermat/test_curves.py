"""Curves: the stopwatch keeps compilation and evaluation apart; files give the same times as arrays."""

import jax.numpy as jnp
import numpy as np
import pytest

from learnlag_jax import InputError
from learnlag_jax.fermat import read_curve, time_to_threshold, timed_curve


class Clock:
    """One second a look, so that the number of looks between two readings is the time."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def _halving(clock=None, **options):
    return timed_curve(
        lambda w, batch: w / 2 + 0 * jnp.sum(batch),
        jnp.abs,
        jnp.ones(()),
        jnp.zeros((7, 3)),
        clock=clock or Clock(),
        **options,
    )


def test_the_clock_runs_while_learning_only():
    curve = _halving()
    np.testing.assert_allclose(curve.error, 0.5 ** np.arange(8))
    np.testing.assert_allclose(curve.t, np.arange(8))  # one second a step on this clock
    assert (curve.compile, curve.evaluation) == (1.0, 8.0)  # and on clocks of their own
    together = curve.t[-1] + curve.evaluation + curve.compile
    assert together == 16  # the control: one clock for everything would say more than twice as much


def test_samples_and_spacing():
    curve = _halving(every=3, samples_per_step=16)
    assert curve.samples.tolist() == [0, 48, 96, 112]  # a rest of one step is run and evaluated too
    np.testing.assert_allclose(curve.error, 0.5 ** np.array([0, 3, 6, 7]))
    assert float(curve.state) == curve.error[-1]
    labels = time_to_threshold(curve.samples, jnp.asarray(curve.error), 0.1)
    assert float(labels.value) == 96.0


def test_real_seconds_do_not_hold_a_slow_evaluation():
    """Evaluation costs about 100 times a step; the curve's seconds must not show it."""
    big = jnp.ones((300, 300))

    def slow(w):
        product = big
        for _ in range(20):
            product = product @ big / 300
        return jnp.abs(w) * product[0, 0]

    curve = timed_curve(lambda w, b: w / 2 + 0 * b, slow, jnp.ones(()), jnp.zeros(20))
    assert curve.t[-1] < curve.evaluation
    assert curve.compile > 0


def test_files_and_arrays_give_one_time(tmp_path, float64):
    t, error = np.arange(0.0, 50.0, 10.0), np.array([9.0, np.nan, 4.0, 2.0, np.inf])
    (tmp_path / "run.csv").write_text(
        "step, lr, loss\n" + "".join(f"{a:g},0.1,{b}\n5{a:g},0.1,\n" for a, b in zip(t, error, strict=True))
    )
    words = {"nan": "NaN", "inf": "Infinity"}
    lines = [
        f'{{"step": {a}, "loss": {words.get(str(b), b)}}}\n{{"step": {a + 5}, "lr": 0.1}}'
        for a, b in zip(t, error, strict=True)
    ]
    (tmp_path / "run.jsonl").write_text("\n\n".join(lines))
    for name in ("run.csv", "run.jsonl"):
        curve = read_curve(tmp_path / name)
        np.testing.assert_array_equal(curve.t, t)
        np.testing.assert_array_equal(curve.error, error)
        for kind in ("first", "last"):
            ours, theirs = (time_to_threshold(a, b, 3.0, kind) for a, b in (curve, (t, error)))
            assert float(ours.value) == float(theirs.value)
    assert float(time_to_threshold(*read_curve(tmp_path / "run.csv"), 3.0).value) == 30.0


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.csv", "step,loss\n1,2\n3,many\n", "line 3.*'many'"),
        ("a.csv", "step,error\n1,2\n", "loss.*no such column"),
        ("a.csv", "step,loss\n1,\n", "no record"),
        ("a.csv", "step,loss\n2,1\n1,1\n", "strictly increasing"),
        ("a.jsonl", '{"step": 1, "loss": 2}\n{"step": 2, loss}\n', "line 2.*one JSON object"),
        ("a.jsonl", "[1, 2]\n", "line 1"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_curve(tmp_path / name)


def test_a_missing_file_and_bad_options_are_refused(tmp_path):
    with pytest.raises(OSError, match="none"):
        read_curve(tmp_path / "none.csv")
    with pytest.raises(InputError, match="every"):
        _halving(every=0)
    with pytest.raises(InputError, match="batches"):
        timed_curve(lambda w, b: w, lambda w: w, jnp.ones(()), [])
