"""Dispatch to a command; bad input is one line on standard error and exit 2, Ctrl-C is exit 130."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from metacontrast.errors import InputError, one_line
from metacontrast.version import __version__


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """Print the complaint and where to read more, exit with 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")


def build_parser() -> Parser:
    """The parser of all commands."""
    from metacontrast.cli import (
        bench,
        convert,
        data,
        demo,
        evaluate,
        explain,
        export,
        figure,
        fit,
        predict,
        train,
    )

    parser = Parser(prog="metacontrast", description="Few-shot meta-learning with MAML, and why it learns.")
    parser.add_argument("--version", action="version", version=f"metacontrast {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True, parser_class=Parser)
    for command in (demo, data, train, evaluate, explain, figure, fit, predict, export, convert, bench):
        command.add_parser(commands)
    return parser


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    _write_any_letter()
    try:
        args = build_parser().parse_args(arguments)
        status = args.execute(args) or 0
        sys.stdout.flush()
    except InputError as error:
        print(f"metacontrast: error: {one_line(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as error:
        _drop_output()
        print(f"metacontrast: error: {error.strerror or error}: free some space or mend the path", file=sys.stderr)
        return 2
    return status


def _write_any_letter() -> None:
    """File and class names may hold letters that standard output's encoding has not: they are shown as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Let the interpreter flush what is left of standard output without a second complaint."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
