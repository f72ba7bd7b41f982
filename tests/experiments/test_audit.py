"""`learnlag audit`: a record gives the numbers of `fisher.audit`; files that are no record are refused unread."""

import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learnlag_jax import fisher
from learnlag_jax.experiments import cli
from learnlag_jax.experiments.runs import recorded
from tests.experiments.comparing import CONFIG


@pytest.fixture(scope="module")
def trajectory():
    data = jnp.asarray(np.random.default_rng(0).normal(size=(40, 8, 4)), jnp.float32)
    loss = lambda q, x: jnp.mean((x @ q["w"]) ** 2) + jnp.sum(q["b"] ** 2)
    start = {"w": jnp.ones((4, 2), jnp.float32), "b": jnp.ones(3, jnp.float32)}
    with jax.numpy_dtype_promotion("standard"):
        return fisher.record(loss, optax.adam(0.01), start, data)


def _audit(tmp_path, file, *more, code=0):
    assert cli.run(["audit", str(file), "--out", str(tmp_path / "out"), *more]) == code


def test_a_record_gives_what_fisher_audit_gives(tmp_path, trajectory, capsys):
    recorded.save(tmp_path / "run.npz", trajectory)
    _audit(tmp_path, tmp_path / "run.npz")
    found = json.loads((tmp_path / "out" / "audit.json").read_text())["runs"]["recorded run"]
    whole = fisher.audit(trajectory)
    np.testing.assert_allclose(found["residual"], whole.residual, rtol=1e-4)
    np.testing.assert_allclose(found["learning_rate"], 0.01, rtol=1e-3)
    assert found["unexplained"] < 1e-3 < found["drift"]
    _audit(tmp_path, tmp_path / "run.npz", "--b1", "0.5")  # negative control: another Lagrangian
    other = json.loads((tmp_path / "out" / "audit.json").read_text())["runs"]["recorded run"]
    assert other["unexplained"] > 0.1
    assert "stationarity" in capsys.readouterr().out


def test_what_is_no_record_is_refused(tmp_path, trajectory, capsys):
    good = {"positions": np.zeros((5, 2)), "gradients": np.ones((4, 2))}
    bad = {
        "objects": good | {"losses": np.array([print, None], object)},
        "lengths": good | {"positions": np.zeros((4, 2))},
        "shapes": good | {"gradients": np.ones((4, 3))},
        "nan": good | {"gradients": np.full((4, 2), np.nan)},
        "integers": good | {"gradients": np.ones((4, 2), int)},
        "missing": {"gradients": np.ones((4, 2))},
        "short": {"positions": np.zeros((3, 2)), "gradients": np.ones((2, 2))},
    }
    for name, arrays in bad.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        _audit(tmp_path, tmp_path / f"{name}.npz", code=2)
    (tmp_path / "text.npz").write_text("not a zip")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("../../evil", "x")
    for name in ("text", "other"):
        _audit(tmp_path, tmp_path / f"{name}.npz", code=2)
    _audit(tmp_path, tmp_path / "absent.npz", code=4)
    recorded.save(tmp_path / "run.npz", trajectory)
    for option in (("--b1", "1"), ("--b2", "nan"), ("--learning-rate", "0"), ("--stride", "0"), ("--exponent", "9")):
        _audit(tmp_path, tmp_path / "run.npz", *option, code=2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(bad) + 2 + 1 + 5
    assert all(line.startswith("learnlag: ") for line in said)
    assert not (tmp_path / "out").exists()


def test_a_flag_of_the_other_kind_of_file_is_refused_and_not_passed_over(tmp_path, trajectory, installed, capsys):
    recorded.save(tmp_path / "run.npz", trajectory)
    (tmp_path / "c.toml").write_text(CONFIG.replace("LABEL", "plain"))
    _audit(tmp_path, tmp_path / "run.npz", "--stride", "3", code=2)
    _audit(tmp_path, tmp_path / "c.toml", "--learning-rate", "3", code=2)
    first, second = capsys.readouterr().err.splitlines()
    assert "--stride: got 3; expected no --stride beside run.npz; leave it out: it watches live" in first
    assert "--learning-rate: got 3.0; expected no --learning-rate beside c.toml; leave it out" in second
    assert not (tmp_path / "out").exists()
