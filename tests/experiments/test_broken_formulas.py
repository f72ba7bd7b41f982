"""One formula broken on purpose in each room: the report must end with exit code 1. By hand or nightly: `-m slow`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "learnlag_jax"
BREAKS = [
    (
        "information",
        "information/kinematics.py",
        "    return jnp.diff(v, axis=-1)\n",
        "    return -jnp.diff(v, axis=-1)\n",
    ),
    ("information", "information/decay.py", "penalty = jnp.asarray([8, 6, 6]", "penalty = jnp.asarray([8000, 6, 6]"),
    ("fermat", "fermat/equivalence.py", "1 - value / worst if tight", "1 - value / (2 * worst) if tight"),
    ("fermat", "fermat/learning_time.py", "jnp.argmax(below), interp", "jnp.argmin(below), interp"),
    ("fermat", "fermat/frames.py", "np.sqrt(2 / p)", "np.sqrt(2.02 / p)"),
    ("control", "control/path.py", "lax.scan(step, last,", "lax.scan(step, 2 * last,"),
    ("control", "control/operators.py", "mdp.reward + mdp.discount * future", "mdp.reward + future"),
    ("fisher", "fisher/stationarity.py", "residual=1 + curvature + divergence", "residual=1 + curvature - divergence"),
    ("fisher", "fisher/moments.py", "2 * a, root.shape", "a, root.shape"),
    ("mechanics", "variation/legendre.py", "trees.dot(w, x) - F(x)", "trees.dot(w, x) + F(x)"),
    ("mechanics", "variation/lagrange.py", "trees.subtract(forces[-2], rates[-1])", "trees.add(forces[-2], rates[-1])"),
    ("duality", "variation/hamilton.py", "trees.scale(-1.0, force)", "trees.scale(1.0, force)"),
]


def _report(root: Path, chapter: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "learnlag_jax", "report", "--quick", "--only", chapter, "--out", str(root / "out")]
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_ENABLE_X64")}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=root, env=environment | {"PYTHONPATH": str(root)}, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("chapter, file, right, wrong", BREAKS)
def test_a_broken_formula_makes_the_report_exit_1(tmp_path, chapter, file, right, wrong):
    shutil.copytree(PACKAGE, tmp_path / "learnlag_jax", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "learnlag_jax" / file
    assert path.read_text().count(right) == 1
    path.write_text(path.read_text().replace(right, wrong))
    done = _report(tmp_path, chapter)
    assert done.returncode == 1, done.stderr[-2000:]


@pytest.mark.slow
def test_the_unbroken_copy_exits_0(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "learnlag_jax", ignore=shutil.ignore_patterns("__pycache__"))
    done = _report(tmp_path, "mechanics")
    assert done.returncode == 0, done.stderr[-2000:]
