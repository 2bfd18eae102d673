"""Dispatch to a command; bad input is one line on standard error and exit 2, Ctrl-C is exit 130."""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from metacontrast.cli.parser import Parser
from metacontrast.cli.terminal import shown_controls, with_flags
from metacontrast.errors import InputError, one_line
from metacontrast.files import what_failed
from metacontrast.version import __version__


def build_parser() -> Parser:
    """Build the parser of all commands."""
    from metacontrast.cli import (
        convert,
        data,
        demo,
        evaluate,
        explain,
        export,
        figure,
        fit,
        play,
        predict,
        score,
        train,
    )

    parser = Parser(
        prog="metacontrast",
        description="Few-shot meta-learning with MAML, and why it learns.",
        epilog="metacontrast COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"metacontrast {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True, parser_class=Parser)
    for command in (demo, data, train, evaluate, explain, figure, fit, predict, score, play, export, convert):
        command.add_parser(commands)
    return parser


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    with shown_controls():
        args = argparse.Namespace(flags={})
        try:
            args = build_parser().parse_args(arguments)
            status = args.execute(args) or 0
            sys.stdout.flush()
        except InputError as error:
            return _refuse(with_flags(str(error), args.flags))
        except BrokenPipeError:
            _drop_output()
            return 1
        except OSError as error:
            _drop_output()
            return _refuse(what_failed(error))
        return status


def _refuse(message: str) -> int:
    print(f"metacontrast: error: {one_line(message)}", file=sys.stderr)
    return 2


def _drop_output() -> None:
    """Let the interpreter flush what is left of standard output without a second complaint."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
