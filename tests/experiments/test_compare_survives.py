"""What a comparison survives: kills, signals, damaged files, a full disk, links, no network."""

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
import pytest

from learnlag_jax.experiments import cli
from learnlag_jax.experiments.comparison import kept
from learnlag_jax.experiments.runs import compiled, ownership
from tests.experiments.comparing import BIG, run_compare
from tests.experiments.test_standings import result

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
# after a failed write orbax's own futures report to an event loop that it has closed
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Error (reading|writing) persistent compilation cache")  # JAX warns and compiles
def test_a_full_disk_and_a_read_only_place_end_in_one_line(tmp_path, installed, capsys):
    (tmp_path / "occupied").write_text("mine")
    for place in ("occupied", "occupied/below", "/proc/learnlag"):
        run_compare(tmp_path, out=place, code=4)
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
    whole = (run_compare(tmp_path, out="full") / "times.md").read_bytes()  # with room again, the same command goes on
    assert whole == (run_compare(tmp_path, out="fresh") / "times.md").read_bytes()


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
    odd = result([math.inf, math.nan, 1.0], audit={"relative": math.nan, "residual": [1.0, math.inf]})
    kept.save(tmp_path / "r" / "result.json", odd)
    back = kept.load(tmp_path / "r" / "result.json")
    assert repr(back._replace(audit=None)) == repr(odd._replace(audit=None))
    assert math.isnan(back.audit["relative"])
    (tmp_path / "r" / "link.json").symlink_to(tmp_path / "r" / "result.json")
    assert kept.load(tmp_path / "r" / "link.json") is None


def test_links_in_the_directory_are_refused(tmp_path, installed, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    ownership.mark(tmp_path / "out")
    (tmp_path / "out" / "trials").symlink_to(tmp_path / "elsewhere")
    run_compare(tmp_path, code=5)
    assert "got a link" in capsys.readouterr().err
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_damaged_result_is_named_and_run_again(tmp_path, installed, capsys):
    out = run_compare(tmp_path)
    before = (out / "times.md").read_bytes()
    victims = sorted(out.glob("trials/*/result.json"))[:3]
    victims[0].write_bytes(victims[0].read_bytes().replace(b"finished", b"finisheD"))
    victims[1].write_bytes(victims[1].read_bytes()[:50])
    victims[2].write_text("[" * 100_000)
    capsys.readouterr()
    run_compare(tmp_path)
    assert capsys.readouterr().err.count("not used") == 3
    assert (out / "times.md").read_bytes() == before
