"""Strict configurations: every wrong key is refused with its line and what was probably meant; 2,000 mangled files give one line each."""

import collections
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learnlag_jax.checks import ConfigError
from learnlag_jax.experiments import cli
from learnlag_jax.experiments.comparison import config, optimisers, trials, workloads

GOOD = """[run]
steps = 400
seeds = [0, 1, 2]
batch = 32

[[workload]]
name = "digits"
targets = [0.5, 0.3]
hidden = 16

[[optimiser]]
name = "adam"
learning_rate = [0.001, 0.003]

[[optimiser]]
name = "fisher_descent"
label = "ours"
learning_rate = 0.003
schedule = "cosine"
warmup = 20
b1 = [0.9, 0.95]
"""


def _read(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "c.toml"
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return trials.read(path)


def test_a_good_configuration_is_what_it_says(tmp_path):
    found = _read(tmp_path, GOOD)
    assert found.options["seeds"] == (0, 1, 2)
    assert (found.tuning, found.measured) == (0, (1, 2))
    assert [(o.label, len(o.points)) for o in found.optimisers] == [("adam", 2), ("ours", 2)]
    assert [p.text for p in found.optimisers[1].points] == ["b1 0.9", "b1 0.95"]
    assert found.workloads[0].targets == (0.5, 0.3)
    assert found.trials == 2 * (2 + 2)
    kinds = [p.kind for p in found.optimisers[0].points]
    assert kinds[0] == kinds[1]  # the rate is an argument of the compiled step
    kinds = [p.kind for p in found.optimisers[1].points]
    assert kinds[0] != kinds[1]


@pytest.mark.parametrize(
    "old, new, told",
    [
        ("steps = 400", "step = 400", r"line 2: run.step: got an unknown key; expected steps \(did you mean that"),
        ("batch = 32", "batch = 32\nbatch = 33", r"line 5.*remove one of the two"),
        ("[[workload]]", "[run]\n[[workload]]", r"line 6.*remove one of the two"),
        ("steps = 400", "steps = 4e2", r"line 2: run.steps: got 400.0; expected an integer"),
        ("steps = 400", 'steps = "400"', r"line 2: run.steps: got '400'; expected an integer"),
        ("steps = 400", "steps = true", r"line 2: run.steps: got True; expected an integer"),
        ("steps = 400", "steps = 0", r"line 2: run.steps: got 0; expected an integer from 1"),
        ("seeds = [0, 1, 2]", "seeds = [0, 0]", r"line 3: run.seeds: got \[0, 0\].*a list of different ones"),
        ("seeds = [0, 1, 2]", "seeds = []", r"line 3: run.seeds"),
        ("[0.5, 0.3]", "[0.5, nan]", r"line 8: workload.targets: got \[0.5, nan\]; expected a finite number"),
        ("learning_rate = 0.003", "learning_rate = inf", r"line 18: optimiser.learning_rate: got inf"),
        ("learning_rate = 0.003", "learning_rate = -1", r"line 18: optimiser.learning_rate: got -1"),
        ("learning_rate = 0.003\n", "", r"line 15: optimiser.learning_rate: got nothing"),
        ('"adam"', '"adamm"', r"line 12: optimiser.name: got 'adamm'; expected adam"),
        ('"digits"', '"digit"', r"line 7: workload.name: got 'digit'; expected digits"),
        ("hidden = 16", "hiden = 16", r"line 9: workload.hiden: got an unknown key; expected hidden"),
        ('"cosine"', '"cosin"', r"line 19: optimiser.schedule.*one of constant, linear, cosine"),
        ("b1 = [0.9, 0.95]", "b1 = [1, 1.0]", r"line 21: optimiser.b1: got \[1, 1.0\].*different"),
        ("b1 = [0.9, 0.95]", "weight_decay = 1e300", r"line 21: optimiser.weight_decay: got 1e\+300"),
        ('name = "adam"', 'name = "adam"\nmu_dtype = 0.5', r"line 13: optimiser.mu_dtype: got an unknown key"),
        ("warmup = 20", "warmup = 401", r"line 20: optimiser.warmup: got 401; expected at most the 400 steps"),
        ("b1 = [0.9, 0.95]", "b1 = [0.9, 'x']", r"line 21: optimiser.b1"),
        ('label = "ours"', 'label = "adam"', r"line 17: optimiser.label: got 'adam' again"),
        ('label = "ours"', 'label = "a\\u202Eb"', r"line 17: optimiser.label.*printable"),
        ("[run]", "[ran]", r"line 1: ran: got an unknown key; expected run"),
        ("[[workload]]", "[workload]", r"line 6: workload: got .*at least one table \[\[workload\]\]"),
        ("[run]\nsteps = 400", "run.steps = -1\n[run]", r"line 1|line 2"),
        (
            'name = "fisher_descent"',
            'name = "fisher_descent"\nstructure = "eigne"',
            r"line 16: optimiser.name: .*eigne",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, old, new, told):
    assert GOOD.count(old) >= 1
    with pytest.raises(ConfigError, match=told):
        _read(tmp_path, GOOD.replace(old, new, 1))


def test_bytes_sizes_and_depth(tmp_path):
    for text, told in (
        (GOOD.encode() + b"\xff", "not UTF-8"),
        (b"#" * (1 << 20) + b"#", "more than 1 MB"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "RecursionError|TOMLDecodeError|line"),
        (b"a = 1" + b"0" * 5000, "got"),
        (b"", "at least one table|got nothing"),
    ):
        with pytest.raises(ConfigError, match=told):
            _read(tmp_path, text)


def test_a_dotted_key_has_its_line(tmp_path):
    with pytest.raises(ConfigError, match=r"line 2: run.steps: got 0"):
        _read(tmp_path, "# a comment\nrun.steps = 0\n" + GOOD.split("batch = 32")[1])


WORDS = (
    *(
        "nan",
        "inf",
        "-inf",
        "0",
        "-1",
        "1e308",
        "9" * 30,
        "true",
        '""',
        '"adam"',
        '"../../x"',
        '"<script>"',
        "[]",
        "[[]]",
    ),
    *(
        "{}",
        "{a = 1}",
        "1979-05-27",
        "0x1F",
        '"\\u0000"',
        '"\\U0001F600"',
        "'''\n\n'''",
        "[1, 1]",
        "[0.1, 0.2]",
        '"sotu"',
    ),
    *('"lion"', '"shampoo"', '"soap"', "0.5", "2", "1_000", "+5", '"$x^"', '"a\\nb"'),
)
KEYS = (
    "steps",
    "seeds",
    "name",
    "label",
    "targets",
    "learning_rate",
    "b1",
    "preset",
    "hidden",
    "measure",
    "width",
    "clip",
    "__class__",
    '"a b"',
    '"\\n"',
    "é",
    "run.x",
)


def _mangled(draw: random.Random) -> bytes:
    lines = GOOD.split("\n")
    for _ in range(draw.choice([1, 1, 1, 2, 3, 8])):
        at = draw.randrange(len(lines))
        kind = draw.randrange(9)
        if kind == 0:
            lines.pop(at)
        elif kind == 1:
            lines.insert(at, draw.choice(lines))
        elif kind == 2 and "=" in lines[at]:
            lines[at] = lines[at].split("=")[0] + "= " + draw.choice(WORDS)
        elif kind == 3:
            lines.insert(at, f"{draw.choice(KEYS)} = {draw.choice(WORDS)}")
        elif kind == 4:
            lines[at] = "".join(draw.sample(lines[at], len(lines[at])))
        elif kind == 5:
            lines.insert(
                at,
                draw.choice(["[run]", "[[run]]", "[workload]", "[[workload]]", "[[optimiser]]", "[a.b]", "[[]]", "]"]),
            )
        elif kind == 6 and "=" in lines[at]:
            lines[at] = draw.choice(KEYS) + " =" + lines[at].split("=", 1)[1]
        elif kind == 7 and "=" in lines[at]:  # harmless
            lines[at] += "   # a comment"
        lines = lines or [""]
    text = "\n".join(lines).encode()
    if draw.random() < 0.1:
        text = bytearray(text)
        for _ in range(3):
            if text:
                text[draw.randrange(len(text))] = draw.randrange(256)
    return bytes(text)


def test_2000_mangled_configurations_give_one_line_each(tmp_path, capsys):
    draw, codes, path = random.Random(0), collections.Counter(), tmp_path / "c.toml"
    named = 0
    for i in range(2000):
        path.write_bytes(_mangled(draw))
        code = cli.run(["compare", str(path), "--check"])  # an exception that escapes fails the test
        said = capsys.readouterr()
        codes[code] += 1
        assert code in (0, 2), (i, path.read_bytes())
        if code:
            assert said.err.startswith("learnlag: "), said.err
            assert said.err.count("\n") == 1
            assert said.err.strip("\n").isprintable()
            named += "line " in said.err
    with capsys.disabled():
        print(
            f"\n2000 mangled configurations: {codes[0]} accepted, {codes[2]} refused in one line, {named} of them by line; 0 tracebacks"
        )
    assert codes[2] > 1000
    assert codes[0] > 100
    assert named > 0.95 * codes[2]


@pytest.mark.parametrize("name", sorted(optimisers.names()))
def test_every_named_optimiser_is_accepted_and_refuses_nonsense(tmp_path, name):
    text = GOOD.split("[[optimiser]]")[0] + f'[[optimiser]]\nname = "{name}"\nlearning_rate = 0.1\n'
    with jax.legacy_prng_key("allow"):  # as users have it: optax's sophia still makes a key of the old kind
        found = _read(tmp_path, text)
    assert found.optimisers[0].points[0].settings == {"learning_rate": 0.1}
    with pytest.raises(ConfigError, match="nonsense"):
        _read(tmp_path, text + "nonsense = 1\n")


def test_schedules_by_hand():
    share = lambda step, kind: float(optimisers.share(step, 10, kind, 2))
    assert [share(k, "linear") for k in (0, 1, 2, 6, 10)] == pytest.approx([0.5, 1, 1, 0.5, 0])
    assert [share(k, "cosine") for k in (2, 6, 10)] == pytest.approx([1, 0.5, 0], abs=1e-6)
    assert [share(k, "constant") for k in (0, 9)] == pytest.approx([0.5, 1])


def test_a_schedule_free_optimiser_is_judged_at_its_average():
    params = {"w": jnp.ones(3, jnp.float32)}
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.contrib.schedule_free_sgd(0.5))
    state = optimiser.init(params)
    for _ in range(3):
        u, state = optimiser.update({"w": jnp.array([1.0, -2.0, 0.5], jnp.float32)}, state, params)
        params = optax.apply_updates(params, u)
    judged = optimisers.evaluation_params(state, params)
    assert np.abs(judged["w"] - params["w"]).max() > 1e-3
    plain = optax.sgd(0.5).init(params)
    assert optimisers.evaluation_params(plain, params) is params


def test_grid_is_every_combination():
    assert config.grid({"a": (1, 2), "b": 3, "c": (4, 5)}) == [{"a": a, "b": 3, "c": c} for a in (1, 2) for c in (4, 5)]


def test_the_page_of_compare_has_every_key():
    text = (Path(__file__).parents[2] / "docs" / "compare.md").read_text("utf-8")
    keys = [*trials.RUN, *workloads.COMMON, *optimisers.COMMON]
    for function in workloads.OURS.values():
        keys += config.options(function, skip=("batch",))
    missing = [key for key in keys if f"`{key}`" not in text]
    assert not missing
