"""A user's module, installed, for the tests of `learnlag compare`."""

import functools

import pytest

from learnlag_jax.experiments import figures
from learnlag_jax.experiments.comparison import workloads
from tests.experiments.comparing import TINY


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A user's module, found as an installed entry point."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(workloads, "_installed", lambda: {"tiny": TINY})
    monkeypatch.setattr(figures, "draw", functools.partial(figures.draw, dots=40))  # whole, and quick to write
