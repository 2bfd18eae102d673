"""Dispatch to a command; bad input is one line on standard error and exit 2, Ctrl-C is exit 130."""

import argparse
import contextlib
import functools
import gc
import importlib
import os
import sys
from collections.abc import Collection, Iterator, Sequence

from metacontrast.cli.parser import Parser
from metacontrast.cli.terminal import shown_controls, with_flags
from metacontrast.errors import InputError, one_line
from metacontrast.version import __version__

COMMANDS = {
    "demo": "quick demo: train with and without the zeroing trick, and write a report",
    "fit": "learn the classes of your own images from a few of each",
    "predict": "classify images with a fitted classifier",
    "score": "measure the accuracy of a fitted classifier on a labelled folder",
    "play": "open a page where you teach classes by drawing or dropping images",
    "export": "write a fitted classifier as one ONNX or torch.export file",
    "data": "list, fetch or verify data sets",
    "train": "meta-train into a run directory",
    "evaluate": "measure the accuracy of a trained run, ± its 95 %% interval",
    "explain": "decompose the outer gradient of a trained run",
    "figure": "reproduce a figure of the paper, with a verdict per claim",
    "convert": "convert one of the authors' checkpoints to a run directory",
}


def build_parser(wanted: Collection[str] = COMMANDS.keys()) -> Parser:
    """Build the parser of all commands.

    Args:
        wanted: the commands whose flags are declared; only their modules are imported.
    """
    parser = Parser(
        prog="metacontrast",
        description="Few-shot meta-learning with MAML, and why it learns.",
        epilog="metacontrast COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"metacontrast {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True, parser_class=Parser)
    for name, summary in COMMANDS.items():
        new = functools.partial(commands.add_parser, name, help=summary)
        if name in wanted:
            command = importlib.import_module(f"metacontrast.cli.{name}")
            command.add_parser(new)
            commands.choices[name].set_defaults(execute=getattr(command, "execute", None))  # or its verbs do
        else:
            new()
    return parser


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    with shown_controls():
        args = argparse.Namespace(flags={})
        try:
            with _without_collection():
                parser = build_parser(sys.argv[1:] if arguments is None else arguments)
            args = parser.parse_args(arguments)
            status = args.execute(args) or 0
            sys.stdout.flush()
        except InputError as error:
            return _refuse(with_flags(str(error), args.flags))
        except BrokenPipeError:
            _drop_output()
            return 1
        except OSError as error:
            from metacontrast.files import what_failed

            _drop_output()
            return _refuse(what_failed(error))
        return status


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Collect no garbage inside the block: imports make many objects and drop few."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _refuse(message: str) -> int:
    print(f"metacontrast: error: {one_line(message)}", file=sys.stderr)
    return 2


def _drop_output() -> None:
    """Let the interpreter flush what is left of standard output without a second complaint."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
