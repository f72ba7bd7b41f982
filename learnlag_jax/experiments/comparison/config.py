"""Strict TOML: every key known, typed, finite and in range, or one line that names the key, its line and the nearest right word.

    [run]                                  [[workload]]                  [[optimiser]]
    steps = 400                            name = "sotu"                 name = "adam"
    seeds = [0, 1, 2]                      targets = [3.0, 2.6]          learning_rate = [0.001, 0.003]

A list where one value is usual is a grid. Options of a workload or an optimiser are the arguments of its own function.
Comes from: a file of a stranger. Goes to: `workloads.read`, `optimisers.read`, `compare`.
"""

import difflib
import inspect
import itertools
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from learnlag_jax import checks

LIMIT = 1 << 20
REQUIRED: Any = object()


class Key(NamedTuple):
    """What a key may hold. `kind` is bool, int, float or str; `many`: a list of such, or a single one."""

    kind: type
    default: Any = REQUIRED
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    many: bool = False


class Source(NamedTuple):
    """A parsed file: its name, its tables, and the line of every (table, index, key)."""

    name: str
    tables: dict[str, Any]
    lines: Mapping[tuple[str, int, str], int]

    def refuse(self, table: str, index: int, key: str, got: str, expected: str) -> checks.ConfigError:
        """The error that names file, line and key."""
        near = ((table, index, key), (table, index, ""), ("", 0, table))
        line = next((self.lines[place] for place in near if place in self.lines), 1)
        place = printable(".".join(word for word in (table, key) if word))
        return checks.ConfigError(f"{self.name}, line {line}: {place}: got {got}; expected {expected}")


def read(path: Path) -> Source:
    """Parse a TOML file of at most 1 MB.

    Raises:
        ConfigError: too large, not UTF-8, not TOML, or nested too deep. OSError: cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read(LIMIT + 1)
    name = printable(path.name)
    checks.require(
        len(content) <= LIMIT, name, "more than 1 MB", "a configuration", "check the path", checks.ConfigError
    )
    try:
        text = content.decode("utf-8")
        tables = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise checks.ConfigError(f"{name}, line {line}: got bytes that are not UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        twice = re.search("overwrite|twice|mutate", str(error))  # tomllib names the line, not the remedy
        raise checks.ConfigError(
            f"{name}: {printable(str(error))}; " + ("remove one of the two" if twice else "see toml.io for the form")
        ) from None
    except (RecursionError, ValueError) as error:  # an integer of 5000 digits is a ValueError of its own
        raise checks.ConfigError(f"{name}: got {type(error).__name__}; expected plain tables; simplify it") from None
    return Source(name, tables, _lines(text))


def table(source: Source, name: str, keys: Mapping[str, Key]) -> dict[str, Any]:
    """The values of `[name]`, defaults filled in."""
    found = source.tables.get(name, {})
    if not isinstance(found, dict):
        raise source.refuse(name, 0, "", show(found), f"one table [{name}]")
    return values(source, name, 0, found, keys)


def array(source: Source, name: str) -> list[dict[str, Any]]:
    """The tables `[[name]]`; at least one."""
    found = source.tables.get(name, [])
    if not isinstance(found, list) or not found or not all(isinstance(x, dict) for x in found):
        raise source.refuse(name, 0, "", show(found) if found else "none", f"at least one table [[{name}]]")
    return found


def only(source: Source, names: tuple[str, ...]) -> None:
    """Refuse every other top-level key."""
    for key in source.tables:
        if key not in names:
            raise source.refuse("", 0, key, "an unknown key", nearest(key, names))


def values(source: Source, name: str, index: int, found: Mapping[str, Any], keys: Mapping[str, Key]) -> dict[str, Any]:
    """The values of one table, checked against `keys`."""
    for key in found:
        if key not in keys:
            raise source.refuse(name, index, printable(key), "an unknown key", nearest(key, tuple(keys)))
    for key, rule in keys.items():
        if rule.default is REQUIRED and key not in found:
            raise source.refuse(name, index, key, "nothing", _expected(rule))
    return {key: _value(source, name, index, key, found.get(key, rule.default), rule) for key, rule in keys.items()}


def choose(
    source: Source, name: str, index: int, found: Mapping[str, Any], known: Sequence[str], otherwise: str = ""
) -> str:
    """The `name` of one table of an array: one of `known`; `otherwise` tells what else there may be."""
    given = {key: value for key, value in found.items() if key == "name"}
    chosen = values(source, name, index, given, {"name": Key(str)})["name"]
    if chosen not in known:
        raise source.refuse(name, index, "name", show(chosen), " ".join([nearest(chosen, known), otherwise]).strip())
    return chosen


def _value(source: Source, name: str, index: int, key: str, got: Any, rule: Key) -> Any:
    if got is rule.default:
        return got
    items = got if rule.many and isinstance(got, list) else [got]
    if not items or not all(_fits(x, rule) for x in items):
        raise source.refuse(name, index, key, show(got), _expected(rule))
    cast = [float(x) if rule.kind is float else x for x in items]
    if len(set(cast)) < len(cast):  # 1 and 1.0 are one rate
        raise source.refuse(name, index, key, show(got), _expected(rule))
    return tuple(cast) if rule.many else cast[0]


def _fits(x: Any, rule: Key) -> bool:
    if rule.kind in (int, float):
        number = isinstance(x, (int, float) if rule.kind is float else int) and not isinstance(x, bool)
        return number and abs(x) < 2**53 and math.isfinite(x) and rule.low <= x <= rule.high
    return isinstance(x, rule.kind) and (not rule.choices or x in rule.choices)


def _expected(rule: Key) -> str:
    if rule.choices:
        return "one of " + ", ".join(rule.choices)
    word = {bool: "true or false", int: "an integer", float: "a finite number", str: "text"}[rule.kind]
    low, high = (f"{x:g}" for x in (rule.low, rule.high))
    span = f" from {low} to {high}" if math.isfinite(rule.low + rule.high) else ""
    span = span or (f" >= {low}" if math.isfinite(rule.low) else "")
    return word + span + (", or a list of different ones" if rule.many else "")


def nearest(key: str, names: Sequence[str]) -> str:
    """What was probably meant, or all there is."""
    near = difflib.get_close_matches(key, names, 1, 0.6)
    return f"{near[0]} (did you mean that?)" if near else "one of " + ", ".join(sorted(names))


def show(x: Any) -> str:
    """A value as it may stand in a message."""
    text = printable(repr(x))
    return text if len(text) <= 60 else text[:57] + "..."


def printable(text: str) -> str:
    """Text for one line of a terminal: no control characters, at most 200."""
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]")
WORD = r"""\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*"""
ASSIGNMENT = re.compile(f"{WORD}(?:=|[.]{WORD}=)")


def _lines(text: str) -> dict[tuple[str, int, str], int]:
    """The first line of every (table, index, key); the text is known to be valid TOML."""
    places: dict[tuple[str, int, str], int] = {}
    count: dict[str, int] = {}
    table, index = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        if header := HEADER.match(line):
            table = header[2].strip("\"'")
            index = count.get(table, 0)
            count[table] = index + 1 if header[1] == "[[" else 0
            places.setdefault((table, index, ""), number)
            places.setdefault(("", 0, table), number)
        elif key := ASSIGNMENT.match(line):
            first, second = (next(filter(None, words), "") for words in (key.groups()[:3], key.groups()[3:]))
            places.setdefault((table, index, first), number)
            places.setdefault((first, 0, second), number)  # run.steps = 3
    return places


# Options taken from a function's own signature.


def options(function: Callable, skip: tuple[str, ...] = (), *, many: bool = False) -> dict[str, Key]:
    """The keyword arguments of a function as keys, typed by their defaults: what a configuration may set.

    A default of True is a bool, 3 an int, 0.5 or None a number, "x" a text; anything else cannot be set from a file.
    `many`: numbers may be lists, which are grids.
    """
    rules = {}
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        kind = float if default is None else type(default)
        note = str(parameter.annotation)  # None may stand for a mask or a dtype: no number
        other = (
            default is None and parameter.annotation is not parameter.empty and not re.search("float|int|Scalar", note)
        )
        if name not in skip and kind in (bool, int, float, str) and not other:
            rules[name] = Key(kind, default, many=many and kind in (int, float))
    return rules


def grid(chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the values that are lists; the rest as they are."""
    axes = [value if isinstance(value, tuple) else (value,) for value in chosen.values()]
    return [dict(zip(chosen, point, strict=True)) for point in itertools.product(*axes)]


LABEL = Key(str, "")


def label(source: Source, name: str, index: int, given: str, otherwise: str, taken: Sequence[str]) -> str:
    """What the tables call an entry: printable, short, and of no other entry."""
    text, key = given or otherwise, "label" if given else "name"
    if not text.isprintable() or not text.strip() or len(text) > 40:
        raise source.refuse(name, index, key, show(text), "at most 40 printable characters")
    if text in taken:
        raise source.refuse(name, index, key, f"{show(text)} again", "a label of its own: label = ...")
    return text
