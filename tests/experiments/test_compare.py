"""`learnlag compare`: killed or not, the same table; trials kept; a stranger's names stay text; full disks and others' locks end in one line."""

import functools
import html.parser
import importlib.metadata
import json
import math
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from learnlag_jax import checks
from learnlag_jax.experiments import cli, figures
from learnlag_jax.experiments.claims import Dataset
from learnlag_jax.experiments.commands import compare
from learnlag_jax.experiments.comparison import kept, progress, standings, standings_figures, trials, workloads
from learnlag_jax.experiments.runs import compiled, program
from tests.experiments import tiny
from tests.experiments.test_standings import result as _result

ROOT = Path(__file__).parents[2]
CONFIG = """[run]
steps = 20
batch = 16
seeds = [0, 1, 2]
evaluate = 5
save = 6
patience = 3
audit = true

[[workload]]
name = "tiny"
label = "LABEL"
targets = [1.5, 0.2]

[[optimiser]]
name = "adam"
label = "LABEL"
learning_rate = [0.05, 0.01]

[[optimiser]]
name = "sgd"
learning_rate = 0.1
"""


def tiny_workload(batch: int, scale: float = 1.0) -> workloads.Workload:
    """The regression of `tiny`, as a user's module would give it."""
    draw = lambda seed, step: {key: x[:batch] for key, x in tiny.batch(seed, step).items()}
    task = program.Task(tiny.init, tiny.loss, draw, tiny.error, tiny.TASK.held_out)
    return workloads.Workload(task, "squares", Dataset("tiny", None, "0" * 64, "<b>made here</b>", "none"))


TINY = importlib.metadata.EntryPoint("tiny", "tests.experiments.test_compare:tiny_workload", workloads.GROUP)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A user's module, found as an installed entry point."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(workloads, "_installed", lambda: {"tiny": TINY})
    monkeypatch.setattr(figures, "draw", functools.partial(figures.draw, dots=40))  # whole, and quick to write


def _run(tmp_path, text=CONFIG, label="plain", out="out", code=0):
    path = tmp_path / "c.toml"
    path.write_text(text.replace("LABEL", label), "utf-8")
    assert cli.run(["compare", str(path), "--out", str(tmp_path / out)]) == code
    return tmp_path / out


def test_a_comparison_is_whole_and_a_rerun_runs_nothing(tmp_path, installed, capsys, monkeypatch):
    out = _run(tmp_path)
    said = capsys.readouterr()
    assert "steps to target" in said.out
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
    again = _run(tmp_path)
    assert (again / "times.md").read_bytes() == before
    assert json.loads((again / "results.json").read_text()) == record


def test_a_damaged_result_is_named_and_run_again(tmp_path, installed, capsys):
    out = _run(tmp_path)
    before = (out / "times.md").read_bytes()
    victims = sorted(out.glob("trials/*/result.json"))[:3]
    victims[0].write_bytes(victims[0].read_bytes().replace(b"finished", b"finisheD"))
    victims[1].write_bytes(victims[1].read_bytes()[:50])
    victims[2].write_text("[" * 100_000)
    capsys.readouterr()
    _run(tmp_path)
    assert capsys.readouterr().err.count("not used") == 3
    assert (out / "times.md").read_bytes() == before


def test_a_changed_configuration_reruns_only_what_it_changed(tmp_path, installed):
    out = _run(tmp_path)
    count = lambda: len(list(out.glob("trials/*/result.json")))
    first = count()
    assert first == 2 + 2 + 2  # a grid of two, two seeds, and two seeds of sgd
    _run(
        tmp_path,
        CONFIG.replace("targets = [1.5, 0.2]", "targets = [1.0]").replace('label = "LABEL"\nlearning', "learning"),
    )
    assert count() == first
    _run(tmp_path, CONFIG.replace("seeds = [0, 1, 2]", "seeds = [0, 1, 2, 3]"))
    assert count() == first + 2


def test_what_a_user_module_computes_is_part_of_a_trial(tmp_path, installed, monkeypatch):
    """A changed loss, batch, model, data or patience runs again; a changed place in the file does not."""
    text = CONFIG.replace("seeds = [0, 1, 2]", "seeds = [0]").replace(
        "learning_rate = [0.05, 0.01]", "learning_rate = 0.05"
    )
    count = lambda out: len(list(out.glob("trials/*/result.json")))
    seen = count(_run(tmp_path, text))
    assert seen == 2

    other = tiny_workload(16)
    moved = lambda batch: tiny_workload(batch)._replace(data=other.data._replace(sha256="1" * 64))
    for make in (
        _with(),  # without its option, and so another workload: what the next ones are compared with
        _with(loss=lambda p, b, k: tiny.loss(p, b, k) * 0.5),
        _with(loss=lambda p, b, k: tiny.loss(p, b, k) * 0.25),
        _with(evaluate=lambda p, held: 2 * tiny.error(p, held)),
        _with(init=lambda key: jax.tree.map(lambda x: x * 2, tiny.init(key))),
        _with(batch=lambda seed, step: other.task.batch(seed + 1, step)),
        _with(held_out=jax.tree.map(lambda x: x[1:], other.task.held_out)),
        moved,
    ):
        monkeypatch.setattr(workloads, "_load", lambda point, make=make: make)
        seen += 2
        assert count(_run(tmp_path, text)) == seen
        assert count(_run(tmp_path, text)) == seen  # and is kept from then on
    monkeypatch.undo()
    monkeypatch.setattr(workloads, "_installed", lambda: {"tiny": TINY})
    monkeypatch.setattr(figures, "draw", functools.partial(figures.draw, dots=40))
    assert count(_run(tmp_path, text)) == seen
    assert count(_run(tmp_path, text.replace("patience = 3", "patience = 4"))) == seen + 2


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
    _run(tmp_path, code=2)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "RuntimeError: no data today" in said
    assert "test_compare.py, line" in said


def test_an_error_that_is_no_number_ends_with_three(tmp_path, installed, monkeypatch, capsys):
    monkeypatch.setattr(
        workloads, "_load", lambda point: _with(evaluate=lambda p, held: jax.numpy.log(0 * tiny.error(p, held)))
    )
    out = _run(tmp_path, code=3)
    assert "sgd ended without a finite error in every trial of plain" in capsys.readouterr().err
    assert {row["reached"] for row in json.loads((out / "results.json").read_text())["times"]} == {"0 of 2"}


def test_a_directory_of_something_else_is_left_alone(tmp_path, installed, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("mine")
    _run(tmp_path, code=4)
    assert "which holds results.json; expected an empty directory" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["results.json"]
    assert (tmp_path / "out" / "results.json").read_text() == "mine"


def test_pictures_of_an_earlier_run_do_not_stay(tmp_path, installed):
    out = _run(tmp_path)
    (out / "figures" / "curves-7.png").write_bytes(b"old")
    (out / "mine.txt").write_text("kept")
    _run(tmp_path)
    assert not (out / "figures" / "curves-7.png").exists()
    assert (out / "figures" / "curves-0.png").exists()
    assert (out / "mine.txt").exists()


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
    out = _run(
        tmp_path,
        CONFIG.replace("learning_rate = [0.05, 0.01]", 'learning_rate = 0.05\nschedule = "cosine"\nwarmup = 5'),
    )
    found = [r for r in json.loads((out / "results.json").read_text())["trials"] if r["optimiser"] == "plain"]
    assert all(r["audit"]["unexplained"] < 1e-4 for r in found)
    assert all(abs(r["audit"]["learning_rate"] - 0.05) < 1e-4 for r in found)


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</table></style>",
    "_hidden",
    "$x^{$ \\\\frac",
    "&lt;b&gt;",
    "=cmd|x",
    "Ω漢字😀",
    "[bold]x[/]",
    "a | b",
]


class _Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, sorted(name for name, _ in attributes)))


def _page(label, comparison):
    runs = [standings.Entry(label, name, label, (1.5,), (_result([3, 1, 0.5], name),)) for name in (label, "other")]
    ranks = standings.stand(runs, 20)
    drawn = [(f, figures.draw(f)) for f in standings_figures.figures(runs, {label: label}, standings.profile(ranks))]
    tables = standings.tables(ranks, runs, [_result([1], label, point=label)], 20)
    data = Dataset(label, None, "0" * 64, label, label)
    return compare.html(comparison, tables, drawn, [data], {label: label}), drawn


def test_hostile_names_stay_text(tmp_path, installed):
    (tmp_path / "c.toml").write_text(CONFIG)
    comparison = trials.read(tmp_path / "c.toml")
    plain = _Tags(_page("plain", comparison)[0]).found
    for label in HOSTILE:
        page, drawn = _page(label, comparison)
        assert _Tags(page).found == plain, label
        assert "default-src 'none'" in page
        assert all(
            line[:1] not in "=+-@"
            for _, picture in drawn
            for table in picture.tables.values()
            for line in table.split(chr(10))[0].split(",")
        )
    print(f"{len(HOSTILE)} hostile labels: the tags of the page are those of a plain one")
    assert _Tags("<script>" + _page("plain", comparison)[0]).found != plain  # what an unescaped label would do


def test_a_diverging_trial_is_shown_and_ends_with_three(tmp_path, installed, capsys):
    text = CONFIG.replace("learning_rate = 0.1", "learning_rate = 1e6\nmomentum = 0.9").replace(
        "audit = true", "audit = false"
    )
    bad = text.replace('name = "tiny"', 'name = "tiny"\nscale = 1.0')
    out = _run(tmp_path, bad.replace("learning_rate = [0.05, 0.01]", "learning_rate = 0.05"), code=3)
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


@pytest.mark.slow
# after a failed write orbax's own futures report to an event loop that it has closed
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Error (reading|writing) persistent compilation cache")  # JAX warns and compiles
def test_a_full_disk_and_a_read_only_place_end_in_one_line(tmp_path, installed, capsys):
    (tmp_path / "occupied").write_text("mine")
    for place in ("occupied", "occupied/below", "/proc/learnlag"):
        _run(tmp_path, out=place, code=4)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))
    try:
        code = cli.run(["compare", str(tmp_path / "c.toml"), "--out", str(tmp_path / "full")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 4
    last = [line for line in capsys.readouterr().err.splitlines() if "free some" in line]
    assert len(last) == 1
    assert (tmp_path / "occupied").read_text() == "mine"
    whole = (_run(tmp_path, out="full") / "times.md").read_bytes()  # with room again, the same command goes on
    assert whole == (_run(tmp_path, out="fresh") / "times.md").read_bytes()


def test_links_in_the_directory_are_refused(tmp_path, installed, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "trials").symlink_to(tmp_path / "elsewhere")
    _run(tmp_path, code=5)
    assert "got a link" in capsys.readouterr().err
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_user_module_that_fails_is_named(tmp_path, monkeypatch, capsys):
    point = importlib.metadata.EntryPoint("tiny", "tests.experiments.nowhere:f", workloads.GROUP)
    monkeypatch.setattr(workloads, "_installed", lambda: {"tiny": point})
    _run(tmp_path, code=2)
    assert "workload tiny: tests.experiments.nowhere:f raises ModuleNotFoundError" in capsys.readouterr().err
    point = importlib.metadata.EntryPoint("tiny", "tests.experiments.test_compare:_run", workloads.GROUP)
    monkeypatch.setattr(workloads, "_installed", lambda: {"tiny": point})


BIG = """[run]
steps = 300
batch = 16
seeds = [0, 1]
evaluate = 50
save = 10

[[workload]]
name = "digits"
hidden = 8
targets = [1.0]

[[optimiser]]
name = "adam"
learning_rate = 0.01

[[optimiser]]
name = "sgd"
learning_rate = 0.3

[[optimiser]]
name = "lion"
learning_rate = 0.001
"""


def _command(tmp_path, out, *more, prefix=()):
    (tmp_path / "big.toml").write_text(BIG)
    words = [
        *prefix,
        sys.executable,
        "-m",
        "learnlag_jax",
        "compare",
        str(tmp_path / "big.toml"),
        "--out",
        str(tmp_path / out),
    ]
    environment = os.environ | {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "XLA_FLAGS": "",
        "JAX_ENABLE_X64": "0",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [*words, *more], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    )


def _wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def _deterministic(out):
    record = json.loads((out / "results.json").read_text())
    clocks = ("seconds", "spent")
    trial = lambda r: {key: value for key, value in r.items() if key not in clocks}
    return (out / "times.md").read_text(), [trial(r) for r in record["trials"]]


@pytest.mark.slow
def test_killed_twice_and_signalled_once_the_table_is_the_same_and_no_network_is_needed(tmp_path):
    unshare = (
        ["unshare", "-rn"]
        if shutil.which("unshare") and not subprocess.run(["unshare", "-rn", "true"]).returncode
        else []
    )
    calm = _command(tmp_path, "calm", prefix=unshare)
    said = calm.communicate(timeout=300)[1]
    assert calm.returncode == 0, said
    out = tmp_path / "hurt"
    saved = lambda: len(list(out.glob("trials/*/checkpoints/0*"))) + 10 * len(list(out.glob("trials/*/result.json")))
    for number, code in ((signal.SIGKILL, -9), (signal.SIGKILL, -9), (signal.SIGTERM, 75)):
        before = saved()
        process = _command(tmp_path, "hurt")
        _wait_for(lambda before=before, process=process: saved() > before or process.poll() is not None)
        process.send_signal(number)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == code, said
    assert "run the same command to go on" in said
    last = _command(tmp_path, "hurt")
    assert last.wait(timeout=300) == 0, last.communicate()[1]
    last.stderr.close()
    assert _deterministic(out) == _deterministic(tmp_path / "calm")
    print(f"killed twice, signalled once: the same table, every loss and error equal; without network: {bool(unshare)}")


def test_the_cache_of_compiled_code_is_this_users_alone(tmp_path):
    told, directory = [], tmp_path / "c"
    with compiled.persistent_cache(told.append, directory) as used:
        assert used
        assert jax.config.values["jax_compilation_cache_dir"] == str(directory)
    assert jax.config.values["jax_compilation_cache_dir"] is None
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    directory.chmod(0o777)
    (tmp_path / "link").symlink_to(directory)
    (tmp_path / "file").write_text("")
    for place in (directory, tmp_path / "link", tmp_path / "file"):
        with compiled.persistent_cache(told.append, place) as used:
            assert not used
    assert len(told) == 3
    assert "chmod 700" in told[0]


def test_a_result_survives_its_file(tmp_path):
    odd = _result([math.inf, math.nan, 1.0], audit={"relative": math.nan, "residual": [1.0, math.inf]})
    kept.save(tmp_path / "r" / "result.json", odd)
    back = kept.load(tmp_path / "r" / "result.json")
    assert repr(back._replace(audit=None)) == repr(odd._replace(audit=None))
    assert math.isnan(back.audit["relative"])
    (tmp_path / "r" / "link.json").symlink_to(tmp_path / "r" / "result.json")
    assert kept.load(tmp_path / "r" / "link.json") is None


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
    record = json.loads((_run(tmp_path, text) / "results.json").read_text())
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
        assert count(_run(tmp_path, asked(pieces))) == trials_then, (pieces, used)


def test_a_batch_of_another_shape_later_on_ends_in_one_line(tmp_path, installed, monkeypatch, capsys):
    draw = lambda seed, step: {key: x[: 16 if step < 5 else 8] for key, x in tiny.batch(seed, step).items()}
    monkeypatch.setattr(workloads, "_load", lambda point: _with(batch=draw))
    _run(tmp_path, code=2)
    said = [line for line in capsys.readouterr().err.splitlines() if "got" in line]
    assert len(said) == 1
    assert "batch['x']: got float32[8,5]; expected float32[16,5], as at step 0" in said[0]
