"""`learnlag compare`: trials kept and named by all that decides them; what a user module or a file gets wrong ends in one line."""

import functools
import importlib.metadata
import json

import jax
import numpy as np
import optax
import pytest

from learnlag_jax import checks, fisher
from learnlag_jax.experiments import cli, figures
from learnlag_jax.experiments.commands import compare
from learnlag_jax.experiments.comparison import behaviour, progress, trials, workloads
from learnlag_jax.experiments.runs import program
from tests.experiments import tiny
from tests.experiments.comparing import BIG, CONFIG, TINY, run_compare, tiny_workload


def test_a_comparison_is_whole_and_a_rerun_runs_nothing(tmp_path, installed, capsys, monkeypatch):
    out = run_compare(tmp_path)
    said = capsys.readouterr()
    assert said.out.index("steps to target") < said.out.index("stationarity") < said.out.index("compare.html")
    assert "kept" not in said.err
    record = json.loads((out / "results.json").read_text())
    assert [row["reached"] for row in record["times"] if row["target"] == "1.5"] == ["2 of 2", "2 of 2"]
    assert {r["seed"] for r in record["trials"]} == {1, 2}  # the seed that tuned measures nothing
    assert [(r["seed"], r["optimiser"]) for r in record["tuning"]] == [(0, "plain")] * 2  # the grid, and nothing else
    assert all(r["audit"]["unexplained"] < 1e-4 for r in record["trials"] if r["optimiser"] == "plain")
    assert all(r["audit"]["unexplained"] > 0.1 for r in record["trials"] if r["optimiser"] == "sgd")
    size = {r["optimiser"]: r["state_bytes"] for r in record["trials"]}
    assert size == {"plain": 2 * 4 * 18 + 4, "sgd": 0}
    assert not list(out.glob("trials/*/checkpoints"))
    assert {"profile.png", "curves-0.png", "motion-0.png"} <= {p.name for p in (out / "figures").iterdir()}
    before = (out / "times.md").read_bytes()
    monkeypatch.setattr(program, "compile_program", lambda *a, **k: pytest.fail("nothing should be compiled"))
    again = run_compare(tmp_path)
    assert capsys.readouterr().err.count(": kept") == 6  # a grid of two, two seeds, and two of sgd
    assert (again / "times.md").read_bytes() == before
    assert json.loads((again / "results.json").read_text()) == record


def test_a_changed_configuration_reruns_only_what_it_changed(tmp_path, installed):
    out = run_compare(tmp_path)
    count = lambda: len(list(out.glob("trials/*/result.json")))
    first = count()
    assert first == 2 + 2 + 2  # a grid of two, two seeds, and two seeds of sgd
    run_compare(
        tmp_path,
        CONFIG.replace("targets = [1.5, 0.2]", "targets = [1.0]").replace('label = "LABEL"\nlearning', "learning"),
    )
    assert count() == first
    run_compare(tmp_path, CONFIG.replace("seeds = [0, 1, 2]", "seeds = [0, 1, 2, 3]"))
    assert count() == first + 2


def test_what_a_user_module_computes_is_part_of_a_trial(tmp_path, installed, monkeypatch):
    """A changed loss, data or patience runs again; a changed place in the file does not."""
    text = CONFIG.replace("seeds = [0, 1, 2]", "seeds = [0]").replace(
        "learning_rate = [0.05, 0.01]", "learning_rate = 0.05"
    )
    count = lambda out: len(list(out.glob("trials/*/result.json")))
    seen = count(run_compare(tmp_path, text))
    assert seen == 2

    data = tiny_workload(16).data._replace(sha256="1" * 64)
    for make in (_with(loss=lambda p, b, k: tiny.loss(p, b, k) * 0.5), lambda n: tiny_workload(n)._replace(data=data)):
        monkeypatch.setattr(workloads, "_load", lambda point, make=make: make)
        seen += 2
        assert count(run_compare(tmp_path, text)) == seen
    assert count(run_compare(tmp_path, text)) == seen  # and is kept from then on
    monkeypatch.undo()
    monkeypatch.setattr(workloads, "_installed", lambda: {"tiny": TINY})
    monkeypatch.setattr(figures, "draw", functools.partial(figures.draw, dots=40))
    assert count(run_compare(tmp_path, text)) == seen
    assert count(run_compare(tmp_path, text.replace("patience = 3", "patience = 4"))) == seen + 2


def test_all_that_a_task_computes_is_part_of_its_behaviour():
    task = tiny_workload(16).task
    changed = (
        {},
        {"loss": lambda p, b, k: tiny.loss(p, b, k) * 0.5},
        {"loss": lambda p, b, k: tiny.loss(p, b, k) * 0.25},
        {"evaluate": lambda p, held: 2 * tiny.error(p, held)},
        {"init": lambda key: jax.tree.map(lambda x: x * 2, tiny.init(key))},
        {"batch": lambda seed, step: task.batch(seed + 1, step)},
        {"held_out": jax.tree.map(lambda x: x[1:], task.held_out)},
    )
    digests = [behaviour.behaviour("tiny", task._replace(**fields)) for fields in changed]
    assert len(set(digests)) == len(changed)
    assert behaviour.behaviour("tiny", tiny_workload(16).task) == digests[0]


def test_a_default_that_the_file_does_not_name_is_part_of_a_trial(tmp_path, installed, monkeypatch):
    text = CONFIG.replace("seeds = [0, 1, 2]", "seeds = [0]").replace(
        "learning_rate = [0.05, 0.01]", "learning_rate = 0.05"
    )
    text = text.replace('name = "adam"', 'name = "fisher_preset"\npreset = "rmsprop"')
    count = lambda: len(list(run_compare(tmp_path, text).glob("trials/*/result.json")))
    assert count() == 2
    known = fisher.preset
    monkeypatch.setattr(fisher, "preset", lambda name: known(name) | {"eps": 0.1})
    assert count() == 3  # sgd is kept
    assert count() == 3


def _with(**fields):
    def make(batch: int) -> workloads.Workload:
        made = tiny_workload(batch)
        return made._replace(task=made.task._replace(**fields))

    return make


def _raise(*arguments):
    raise RuntimeError("no data today")


@pytest.mark.parametrize("where", ["workload", "loss", "evaluate", "batch", "init"])
def test_a_user_function_that_raises_ends_in_one_line(tmp_path, installed, monkeypatch, capsys, where):
    make = (lambda batch: _raise()) if where == "workload" else _with(**{where: _raise})
    monkeypatch.setattr(workloads, "_load", lambda point: make)
    run_compare(tmp_path, code=2)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "RuntimeError: no data today" in said
    assert "test_compare.py, line" in said


def test_an_error_that_is_no_number_ends_with_three(tmp_path, installed, monkeypatch, capsys):
    monkeypatch.setattr(
        workloads, "_load", lambda point: _with(evaluate=lambda p, held: jax.numpy.log(0 * tiny.error(p, held)))
    )
    out = run_compare(tmp_path, code=3)
    assert "sgd ended without a finite error in every trial of plain" in capsys.readouterr().err
    assert {row["reached"] for row in json.loads((out / "results.json").read_text())["times"]} == {"0 of 2"}


def test_a_directory_of_something_else_is_left_alone(tmp_path, installed, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("mine")
    run_compare(tmp_path, code=4)
    assert "which holds results.json; expected an empty directory" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["results.json"]
    assert (tmp_path / "out" / "results.json").read_text() == "mine"


def test_check_says_which_seed_does_what(tmp_path, installed, capsys):
    (tmp_path / "c.toml").write_text(CONFIG)
    assert cli.run(["compare", str(tmp_path / "c.toml"), "--check"]) == 0
    assert "seed 0 chooses each point and seeds 1 2 measure" in capsys.readouterr().out
    (tmp_path / "c.toml").write_text(CONFIG.replace("evaluate = 5", "evaluate = 21"))
    assert cli.run(["compare", str(tmp_path / "c.toml"), "--check"]) == 2
    assert "run.evaluate: got 21; expected at most the 20 steps" in capsys.readouterr().err
    (tmp_path / "c.toml").write_text(CONFIG.replace("evaluate = 5\n", ""))
    assert trials.read(tmp_path / "c.toml").options["evaluate"] == 20  # the default of 25 gives way


def test_a_schedule_is_no_fault_of_a_stationary_run(tmp_path, installed):
    out = run_compare(
        tmp_path,
        CONFIG.replace("learning_rate = [0.05, 0.01]", 'learning_rate = 0.05\nschedule = "cosine"\nwarmup = 5'),
    )
    found = [r for r in json.loads((out / "results.json").read_text())["trials"] if r["optimiser"] == "plain"]
    assert all(r["audit"]["unexplained"] < 1e-4 for r in found)
    assert all(abs(r["audit"]["learning_rate"] - 0.05) < 1e-4 for r in found)


def test_a_diverging_trial_is_shown_and_ends_with_three(tmp_path, installed, capsys):
    text = CONFIG.replace("learning_rate = 0.1", "learning_rate = 1e6\nmomentum = 0.9").replace(
        "audit = true", "audit = false"
    )
    bad = text.replace('name = "tiny"', 'name = "tiny"\nscale = 1.0')
    out = run_compare(tmp_path, bad.replace("learning_rate = [0.05, 0.01]", "learning_rate = 0.05"), code=3)
    assert "sgd diverged in every trial of plain" in capsys.readouterr().err
    record = json.loads((out / "results.json").read_text())
    lost = [r for r in record["trials"] if r["optimiser"] == "sgd"]
    assert {r["status"] for r in lost} == {"diverged"}
    assert all(r["skipped"] >= 3 for r in lost)
    assert all(3 <= len(r["losses"]) < 20 for r in lost)  # of the steps it made, or its speed would be too good
    assert (
        next(row for row in record["times"] if row["optimiser"] == "sgd" and row["target"] == "0.2")["reached"]
        == "0 of 3"
    )
    assert list(out.glob("trials/*/checkpoints/0*"))  # the last good parameters stay


def test_a_user_module_that_fails_is_named(tmp_path, monkeypatch, capsys):
    point = importlib.metadata.EntryPoint("tiny", "tests.experiments.nowhere:f", workloads.GROUP)
    monkeypatch.setattr(workloads, "_installed", lambda: {"tiny": point})
    run_compare(tmp_path, code=2)
    assert "workload tiny: tests.experiments.nowhere:f raises ModuleNotFoundError" in capsys.readouterr().err
    point = importlib.metadata.EntryPoint("tiny", "tests.experiments.comparing:run_compare", workloads.GROUP)
    monkeypatch.setattr(workloads, "_installed", lambda: {"tiny": point})
    run_compare(tmp_path, code=2)
    assert "workload tiny: got TypeError" in capsys.readouterr().err  # found, and no workload


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sotu", "mnist-5000", "digits"])
def test_three_optimisers_on_every_workload(tmp_path, name, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = (
        BIG.replace('name = "digits"\nhidden = 8', f'name = "{name}"')
        .replace("steps = 300", "steps = 30")
        .replace("evaluate = 50", "evaluate = 10")
        .replace("targets = [1.0]", "targets = [4.0]")
    )
    record = json.loads((run_compare(tmp_path, text) / "results.json").read_text())
    assert len(record["trials"]) == 6
    for r in record["trials"]:
        assert r["errors"][-1] < r["errors"][0]


def test_fashion_mnist_is_read_from_a_path_or_refused(tmp_path):
    tiny.write_pictures(tmp_path)
    made = workloads.fashion_mnist(8, path=str(tmp_path))
    x, y = made.task.batch(0, 0)
    assert (x.shape, y.shape) == ((8, 784), (8,))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no")
    with pytest.raises(checks.InputError, match="gzipped IDX"):
        workloads.fashion_mnist(8, path=str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="apt-get install dataset-fashion-mnist"):
        workloads.fashion_mnist(8, path=str(tmp_path / "nowhere"))


def test_optimisers_of_the_file_are_those_of_optax(tmp_path, installed):
    path = tmp_path / "c.toml"
    path.write_text(CONFIG)
    point = trials.read(path).optimisers[0].points[0]
    with jax.numpy_dtype_promotion("standard"):
        _same_first_step(point)
    assert compare._how_chosen(trials.read(path)).count("seed 0") == 1


def _same_first_step(point):
    got = point.make(point.settings).update({"w": np.float32(3)}, point.make(point.settings).init({"w": np.float32(1)}))
    want = optax.adam(0.05).update({"w": np.float32(3)}, optax.adam(0.05).init({"w": np.float32(1)}))
    assert jax.tree.all(jax.tree.map(np.array_equal, got, want))


def test_time_left_does_not_count_a_compilation_as_a_step(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.meter(100) as meter:
        meter.start("w: a")
        for pause in (60.0, *[1.0] * 15):
            clock[0] += pause
            meter.advance(1, 0.5)
    said = capsys.readouterr().err
    assert "2 % of all steps, about 2 min left" in said
    assert "12 % of all steps, about 88 s left" in said


def test_pieces_are_a_power_of_two(tmp_path, installed):
    (tmp_path / "c.toml").write_text(CONFIG.replace("save = 6", "save = 6\npieces = 6"))
    with pytest.raises(checks.ConfigError, match="run.pieces: got 6; expected a power of two"):
        trials.read(tmp_path / "c.toml")


def test_the_number_of_pieces_there_are_is_part_of_a_trial(tmp_path, installed, monkeypatch):
    """The loss of `tiny` is random, with a key in each piece: another number of pieces is another run."""
    text = CONFIG.replace("seeds = [0, 1, 2]", "seeds = [0]").split('[[optimiser]]\nname = "adam"')[0]
    text += '[[optimiser]]\nname = "sgd"\nlearning_rate = 0.1\n'
    asked = lambda pieces: text.replace("save = 6", f"save = 6\npieces = {pieces}")
    devices, count = jax.devices(), lambda out: len(list(out.glob("trials/*/result.json")))
    assert len(devices) == 8
    for pieces, used, trials_then in ((8, 8, 1), (2, 8, 1), (16, 8, 2), (2, 2, 3), (1, 2, 3), (8, 2, 3)):
        monkeypatch.setattr(jax, "devices", lambda used=used: devices[:used])
        assert count(run_compare(tmp_path, asked(pieces))) == trials_then, (pieces, used)


def test_a_batch_of_another_shape_later_on_ends_in_one_line(tmp_path, installed, monkeypatch, capsys):
    draw = lambda seed, step: {key: x[: 16 if step < 5 else 8] for key, x in tiny.batch(seed, step).items()}
    monkeypatch.setattr(workloads, "_load", lambda point: _with(batch=draw))
    run_compare(tmp_path, code=2)
    said = [line for line in capsys.readouterr().err.splitlines() if "got" in line]
    assert len(said) == 1
    assert "batch['x']: got float32[8,5]; expected float32[16,5], as at step 0" in said[0]
