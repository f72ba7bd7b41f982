"""The report's frame: verdicts, exit codes, whole-or-nothing output, escaping. The chapters' mathematics is tested in
the rooms; here the chapters are small stand-ins."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from learnlag_jax import InputError, SolveError
from learnlag_jax.experiments import cli
from learnlag_jax.experiments.claims import Chapter, Claim, Dataset, Figure, Settings, Table
from learnlag_jax.experiments.commands import report

GOOD = Claim("eq. 0", "zero is zero", 0.0, 1e-12, "64 eps(float64)", "one is zero", 1.0)


def _draw(figure, series):
    axes = figure.subplots()
    axes.plot(series["curve"]["t (tokens)"], series["curve"]["v (nats)"])


def _chapter(*claims, text="plain"):
    series = {"curve": {"t (tokens)": np.arange(3), "v (nats)": np.array([3.0, 2.0, 1.5])}}
    figure = Figure("picture", text, text, series, _draw)
    table = Table(text, ("what", "value"), ((text, 1.0), ("infinite", float("inf"))))
    data = Dataset("data", None, "0" * 64, text, "none")
    return Chapter("duality", text, text, claims, (figure,), (table,), ((text, text),), (data,))


@pytest.fixture
def stand_in(monkeypatch):
    def install(make):
        module = type(sys)("stand_in")
        module.chapter = make
        monkeypatch.setitem(sys.modules, "learnlag_jax.experiments.chapters.duality", module)

    return install


def _run(out, *more):
    return cli.run(["report", "--only", "duality", "--out", str(out), *more])


def test_a_verified_report_is_whole_and_repeats_to_the_byte(tmp_path, stand_in, capsys):
    stand_in(lambda settings: _chapter(GOOD))
    assert _run(tmp_path / "a") == 0
    assert "1 of 1 claims hold" in capsys.readouterr().out
    assert _run(tmp_path / "b") == 0
    names = {str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if path.is_file()}
    pictures = {"figures/picture.png", "figures/picture.svg", "figures/picture-curve.csv"}
    assert names == {"report.html", "results.json", "residuals.md"} | pictures
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert (tmp_path / "a/figures/picture-curve.csv").read_text().splitlines()[1] == "0,3.0"
    record = json.loads((tmp_path / "a/results.json").read_text())
    assert record["verified"] is True
    assert record["chapters"][0]["claims"][0]["control_rejected"] is True


@pytest.mark.parametrize(
    "bad",
    [
        GOOD._replace(residual=1.0),
        GOOD._replace(residual=float("nan")),
        GOOD._replace(control_residual=0.0),
        GOOD._replace(control_residual=float("nan")),
    ],
    ids=["residual too large", "residual NaN", "control accepted", "control NaN"],
)
def test_one_bad_claim_makes_the_exit_code_one_and_is_shown(tmp_path, stand_in, bad):
    stand_in(lambda settings: _chapter(GOOD, bad))
    assert _run(tmp_path) == 1
    page = (tmp_path / "report.html").read_text()
    assert 'class="claim bad"' in page
    assert 'class="verdict bad"' in page


def test_a_chapter_without_claims_is_not_verified(tmp_path, stand_in):
    stand_in(lambda settings: _chapter())
    assert _run(tmp_path) == 1


def test_settings_reach_the_chapter(tmp_path, stand_in):
    seen = []

    def make(settings: Settings):
        seen.append((settings.quick, settings.seed, list(settings.track(range(3), "counting"))))
        return _chapter(GOOD)

    stand_in(make)
    assert _run(tmp_path, "--quick", "--seed", "7") == 0
    assert seen == [(True, 7, [0, 1, 2])]


@pytest.mark.parametrize(
    "error, code",
    [(InputError("data: got nan; expected numbers; clean it"), 2), (SolveError("max_steps"), 3), (OSError("disk"), 4)],
)
def test_a_failure_inside_a_chapter_leaves_nothing_behind(tmp_path, stand_in, capsys, error, code):
    def make(settings):
        raise error

    stand_in(make)
    out = tmp_path / "deep" / "report"
    assert _run(out) == code
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("learnlag: ")


def test_other_files_in_the_directory_are_left_alone(tmp_path, stand_in):
    (tmp_path / "mine.txt").write_text("keep")
    stand_in(lambda settings: _chapter(GOOD))
    assert _run(tmp_path) == 0
    assert (tmp_path / "mine.txt").read_text() == "keep"
    assert not list(tmp_path.glob(".partial-*"))


@pytest.mark.parametrize(
    "words, hint",
    [
        (["report", "--quik"], "did you mean --quick?"),
        (["repot"], "did you mean report?"),
        (["report", "--only", "contrl"], "did you mean control?"),
        (["report", "--seed", "x"], "invalid int"),
        (["report", "--seed", "-1"], "expected 0 <= seed"),
        (["report", "extra"], "unknown argument extra"),
        ([], "required: COMMAND"),
    ],
)
def test_a_wrong_command_line_is_one_readable_line_and_exit_two(words, hint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert hint in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_directory_is_refused_before_computing(tmp_path, stand_in, capsys):
    stand_in(lambda settings: pytest.fail("computed"))
    occupied = tmp_path / "file"
    occupied.write_text("not a directory")
    assert _run(occupied) == 4
    assert _run(occupied / "below") == 4
    assert _run("nul\0byte") == 4
    assert "choose a writable directory" in capsys.readouterr().err
    assert occupied.read_text() == "not a directory"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a directory that not even root can write to")
def test_a_read_only_directory_is_refused(stand_in):
    stand_in(lambda settings: pytest.fail("computed"))
    assert _run("/proc/learnlag-report") == 4


def test_a_missing_optional_package_is_named_before_computing(tmp_path, stand_in, capsys, monkeypatch):
    stand_in(lambda settings: pytest.fail("computed"))
    monkeypatch.setitem(report.OPTIONAL, "no_such_module", "no-such-package")
    assert _run(tmp_path / "out") == 2
    assert "no-such-package is not installed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


class _Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><svg onload=alert(1)>",
    "&lt;b&gt;\u202e\U0001f600",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_outside_cannot_become_markup(tmp_path, stand_in, text):
    stand_in(lambda settings: _chapter(GOOD))
    assert _run(tmp_path / "plain") == 0
    stand_in(lambda settings: _chapter(GOOD._replace(statement=text, control=text), text=text))
    assert _run(tmp_path / "hostile") == 0
    plain, hostile = (_Tags((tmp_path / name / "report.html").read_text("utf-8")) for name in ("plain", "hostile"))
    assert hostile.tags == plain.tags


def test_the_page_fetches_nothing_and_runs_nothing(tmp_path, stand_in):
    stand_in(lambda settings: _chapter(GOOD))
    _run(tmp_path)
    page = _Tags((tmp_path / "report.html").read_text("utf-8"))
    assert "script" not in page.tags
    assert not [a for a in page.attributes if a[1].startswith("on")]
    links = [value for _, name, value in page.attributes if name in ("src", "href")]
    assert links
    assert all(re.match(r"data:image/png;base64,|#", link) for link in links)
    policy = [value for _, name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy[0].startswith("default-src 'none'; img-src data:;")


def test_the_command_is_installed_and_shows_no_traceback(tmp_path):
    words = [sys.executable, "-m", "learnlag_jax", "report", "--ony", "fermat"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == "learnlag: unknown argument --ony; did you mean --only?\n"
