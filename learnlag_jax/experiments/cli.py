"""The command line: `learnlag COMMAND`, one module a command, one line for every error.

Exit codes: 0 done and verified; 1 a claim failed or a control was not rejected; 2 wrong input, option or
configuration, or an optional package is absent; 3 a solve failed; 4 reading or writing failed; 5 a checkpoint is
damaged; 75 stopped early with everything saved, the same command goes on; 130 interrupted (`design` and `kinematics` also by SIGTERM). A command adds its arguments with `add_arguments(parser)` and runs as
`COMMAND(arguments) -> exit code`, where COMMAND is its own name.
"""

import argparse
import contextlib
import difflib
import importlib
import re
import sys
from collections.abc import Sequence

import jax

from learnlag_jax import checks
from learnlag_jax.experiments.runs.run import Interrupted, terminable

COMMANDS = {
    "report": "derive and verify the paper's equations on real data, and write the report",
    "design": "choose the best rows of a CSV table, with a certificate",
    "kinematics": "velocity and acceleration of information along a text, with bands, fit and test",
    "compare": "optimisers on workloads by time to target; kept trials, several processes",
    "audit": "is a training run a stationary path? live or from a recorded trajectory",
}

# compare and audit save at SIGTERM; report's threads would be waited for, so it just ends
TERMINABLE = {"design", "kinematics"}

EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (checks.CheckpointError, 5),
    (checks.SolveError, 3),
    (Interrupted, 75),
    (jax.errors.JaxRuntimeError, 3),
    (OSError, 4),
    (ModuleNotFoundError, 2),
    (checks.InputError, 2),
    (checks.ConfigError, 2),
    (checks.DTypeError, 2),
)


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors, exit code 2 and a suggestion for a misspelt word."""

    def error(self, message):
        known = [*COMMANDS, *re.findall(r"(?:--)?[a-z][a-z-]+", self.format_help())]
        wrong = re.findall(r"(?:invalid choice: '|unknown argument )([^'=\s]+)", message)
        near = difflib.get_close_matches(wrong[0], known, 1, 0.7) if wrong else []
        raise checks.ConfigError(message + (f"; did you mean {near[0]}?" if near else f"; see {self.prog} --help"))


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The parsed command line; only the chosen command's module is imported, so that `--help` stays quick."""
    top = _Parser(prog="learnlag", allow_abbrev=False, description="Derive, solve and prove from one scalar function.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    subs = {
        name: commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        for name, text in COMMANDS.items()
    }
    chosen = next((word for word in words if not word.startswith("-")), None)
    if chosen in COMMANDS:
        _module(chosen).add_arguments(subs[chosen])
    arguments, unknown = top.parse_known_args(list(words))
    if unknown:
        subs[arguments.command].error(f"unknown argument {unknown[0]}")
    arguments.words = tuple(words)
    return arguments


def _module(command: str):
    return importlib.import_module(f"learnlag_jax.experiments.commands.{command}")


def run(words: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors become one line on standard error.

    Args:
        words: the command line without the program's name, such as ["report", "--quick"].

    Returns:
        The exit code (see the module's docstring).
    """
    try:
        arguments = parse(words)
        ends = terminable() if arguments.command in TERMINABLE else contextlib.nullcontext()
        with jax.enable_x64(True), ends:
            return getattr(_module(arguments.command), arguments.command)(arguments)
    except KeyboardInterrupt:
        print("learnlag: interrupted; nothing was written", file=sys.stderr)
        return 130
    except tuple(kind for kind, _ in EXIT_CODES) as error:
        print("learnlag: " + " ".join(str(error).split()), file=sys.stderr)
        return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
