"""Tables of a comparison by hand: every number of a small one, computed here in another way."""

import math
import statistics

import numpy as np
import pytest

from learnlag_jax.experiments.comparison import kept, standings, trials


def result(errors, optimiser="a", seed=0, **more):
    """A trial whose error was measured every ten steps, a tenth of a second each."""
    at = tuple(range(0, 10 * len(errors), 10))
    given = {
        "workload": "w",
        "optimiser": optimiser,
        "point": "p",
        "seed": seed,
        "status": "finished",
        "at": at,
        "errors": tuple(errors),
        "seconds": tuple(x / 10 for x in at),
        "losses": tuple(np.linspace(2, 1, 40).tolist()),
        "spent": 2.0,
        "skipped": 0,
        "parameters": 3,
        "state_bytes": 12,
        "audit": None,
    }
    return kept.Result(**given | more)


def entry(name, *errors, workload="w", targets=(1.0, 0.5), **more):
    runs = tuple(result(e, name, seed, **more) for seed, e in enumerate(errors))
    return standings.Entry(workload, name, "p", targets, runs)


def test_times_by_hand():
    fast, slow = entry("a", [3, 1, 0.4], [3, 0.9, 0.6]), entry("b", [3, 2, 1], [3, 2, math.nan])
    found = standings.stand([fast, slow], 20)
    assert [s.times for s in found] == [(10, 10), (20, math.inf), (20, math.inf), (math.inf, math.inf)]
    assert float(found[0].summary.median) == 10
    assert float(found[2].ratio.value) == 2  # 20 and the budget of 20 over 10 and 10
    scores = standings.profile(found)
    assert scores.score.tolist() == pytest.approx([1.0, (4 - 2) / 3 / 2])
    rows = standings.times_table(found, 20).rows
    assert rows[0][4:] == ("2 of 2", "10 [10 to 10]", "10 [10 to 10]", "reference")
    assert rows[2][4] == "1 of 2"
    assert rows[2][7].startswith(">= 2 [")  # one of its seeds did not get there: 2 times at least
    assert rows[3][4:6] == ("0 of 2", "not reached")
    assert rows[3][6].startswith(">= 20 [")
    assert rows[3][7].startswith("about ")  # the reference has a seed that did not get there too


def test_each_workload_has_its_own_reference_and_one_seed_no_interval():
    entries = [entry(name, [3, e], workload=w, targets=(1.0,)) for w, e in (("w", 0.5), ("z", 2)) for name in "ab"]
    found = standings.stand(entries, 10)
    assert [s.ratio is None for s in found] == [True, False, True, False]
    assert [s.times for s in found] == [(10,), (10,), (math.inf,), (math.inf,)]
    rows = standings.times_table(found, 10).rows
    assert [row[5:8] for row in rows] == [
        ("10", "10", "reference"),
        ("10", "10", "1"),
        ("not reached", ">= 10", "reference"),
        ("not reached", ">= 10", "neither reached it"),
    ]
    late = standings.stand(
        [entry("a", [3, 0.5, 0]), entry("a", [3, 2, 0.5], workload="z"), entry("b", [3, 2, 0.5], workload="z")], 20
    )
    assert float(late[-2].ratio.value) == 1  # 2 if measured against the other workload


def test_a_target_reached_before_the_first_step_counts_one_step():
    assert standings.stand([entry("a", [0.4, 0.3], targets=(0.5,))], 10)[0].times == (1,)


def test_the_unknown_end_of_an_interval_says_so():
    s = standings.stand([entry("a", [3, 0.9], [3, 2], [3, 0.9], targets=(1.0,))], 15)[0]
    median = standings.times_table([s], 15).rows[0][5]
    assert median == "10 [10 to over 15]"


@pytest.mark.parametrize("error", [math.nan, -math.inf, math.inf])
def test_what_is_no_number_reaches_nothing_and_is_lost(error):
    odd = result([3, error, error])
    assert kept.first_crossing(odd, 0.5, odd.at) == math.inf
    assert kept.lost(odd)
    assert not kept.lost(result([3, 2]))
    assert trials.choose([odd, result([3, 2])], (0.5,)) == 1


def test_errors_speeds_and_scores_by_hand():
    a = entry("a", [3, 0.9, 0.6], [3, 0.9, 0.4], [3, 2, 0.5], skipped=2)
    b = entry("b", [3, 0.4, 0.3], [3, 0.4, 0.2], [3, 0.4, 0.1])
    a = a._replace(
        results=(a.results[0]._replace(status="diverged"), a.results[1]._replace(status="diverged"), a.results[2])
    )
    found = standings.stand([a, b], 20)
    times, score, errors, speeds, grids = standings.tables(found, [a, b], [result([3, 1], seed=4)], 20)
    assert [row[0] for row in score.rows] == ["b", "a"]  # the best stands first
    assert score.rows[0][1] == 1 > score.rows[1][1]
    assert errors.rows[0][2:] == (3, 0.5, 0.4, 0.6, 6, 2)
    assert errors.rows[1][2:] == (3, 0.2, 0.1, 0.3, 0, 0)
    # 40 losses in 2 s; the target of 0.5 at steps (never, 20, 20) and (10, 10, 10), a tenth of a second each
    assert speeds.rows[0][2:] == (20.0, "2", 12, 3)
    assert speeds.rows[1][2:] == (20.0, "1", 12, 3)
    assert times.rows[1][5].startswith("20 ")  # the same median as the seconds'
    assert grids.rows == (("w", "a", "p", 1, "finished"),)
    assert "seed 4" in grids.caption
    even = standings.stand([entry("a", [3, 0.9], [3, 2], targets=(1.0,))], 10)
    assert standings._speeds(even, [even[0].entry]).rows[0][3] == f"{statistics.median_low([1, math.inf]):g}"


def test_the_point_that_reaches_the_hardest_target_first_is_chosen():
    tried = [result([3, 0.9, 0.6]), result([3, 2, 0.4]), result([3, math.nan, math.nan])]
    assert trials.choose(tried, (1.0, 0.5)) == 1
    assert trials.choose(tried, (1.0,)) == 0
    assert trials.choose(tried, (0.1,)) == 1
    assert trials.choose(tried[::-1], (0.1,)) == 1
    tied = [result([3, 2, 0.4]), result([3, 0.9, 0.45])]
    assert (
        trials.choose(tied, (1.0, 0.5)) == 1
    )  # both reach 0.5 at step 20; the next target decides, not the last error
    assert trials.choose(tied, (0.5,)) == 0


def test_a_diverged_point_is_chosen_last():
    tried = [result([2, 1.9, 1.8]), result([2, 1.5], status="diverged")]
    assert trials.choose(tried, (0.5,)) == 0
    assert trials.choose([result([2, 1, 0.2]), result([2, 1, 0.1], status="diverged")], (0.5,)) == 0
