"""A comparison that takes a second: its file, its workload, and how it is run. Shared by the tests of `learnlag compare`."""

import importlib.metadata

from learnlag_jax.experiments import cli
from learnlag_jax.experiments.claims import Dataset
from learnlag_jax.experiments.comparison import workloads
from learnlag_jax.experiments.runs import program
from tests.experiments import tiny

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


def tiny_workload(batch: int, scale: float = 1.0) -> workloads.Workload:
    """The regression of `tiny`, as a user's module would give it."""
    draw = lambda seed, step: {key: x[:batch] for key, x in tiny.batch(seed, step).items()}
    task = program.Task(tiny.init, tiny.loss, draw, tiny.error, tiny.TASK.held_out)
    return workloads.Workload(task, "squares", Dataset("tiny", None, "0" * 64, "<b>made here</b>", "none"))


TINY = importlib.metadata.EntryPoint("tiny", "tests.experiments.comparing:tiny_workload", workloads.GROUP)


def run_compare(tmp_path, text=CONFIG, label="plain", out="out", code=0):
    path = tmp_path / "c.toml"
    path.write_text(text.replace("LABEL", label), "utf-8")
    assert cli.run(["compare", str(path), "--out", str(tmp_path / out)]) == code
    return tmp_path / out
