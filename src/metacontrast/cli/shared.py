"""What several commands share: flags, where to compute, how to print."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from metacontrast.device import DEVICES, find_device
from metacontrast.errors import CONTROLS, InputError, one_line
from metacontrast.maml.engine import EngineName
from metacontrast.memory import keep_freed_memory
from metacontrast.training.distributed import processes_here
from metacontrast.training.step import Resources

MOST_WORKERS = 4096


def add_compute_flags(parser: argparse._ActionsContainer) -> None:
    """`--device` and `--workers`: where to compute, with no effect on what."""
    add_device_flag(parser)
    parser.add_argument(
        "--workers",
        type=int,
        default=max(1, (os.cpu_count() or 1) // processes_here()),
        metavar="N",
        help="threads over tasks on a CPU (default: %(default)s, this process's share of the processors)",
    )


def add_device_flag(parser: argparse._ActionsContainer) -> None:
    """`--device`: the processor or a GPU."""
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (default: %(default)s)")


def add_engine_flags(parser: argparse._ActionsContainer) -> None:
    """`--engine`, `--chunk` and `--memory`: how the tasks of an update run."""
    parser.add_argument(
        "--engine",
        choices=get_args(EngineName),
        default="auto",
        help="how tasks run; auto chooses by device and shape",
    )
    parser.add_argument("--chunk", type=int, metavar="N", help="tasks at once under vmap (default: as fits in memory)")
    parser.add_argument(
        "--memory", type=_gigabytes, metavar="GB", help="memory that may be used (default: what is free at the start)"
    )


def add_data_root_flag(parser: argparse._ActionsContainer) -> None:
    """`--data-root`: where data sets lie."""
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="folder of data sets (default: the variable METACONTRAST_DATA, else the user's cache folder)",
    )


def add_json_flag(parser: argparse._ActionsContainer) -> None:
    """`--json`: the result as one JSON object on the last line of standard output."""
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def step_list(text: str) -> tuple[int, ...]:
    """`1,3,10` as numbers."""
    return tuple(int(part) for part in text.split(","))


def _gigabytes(text: str) -> int:
    """Bytes."""
    if not 0 < (size := float(text)) < float("inf"):
        raise ValueError
    return int(size * 1e9)


_gigabytes.__name__ = "number of gigabytes above 0"


step_list.__name__ = "comma-separated whole numbers"


def word_list(text: str) -> tuple[str, ...]:
    """`flip,crop` as words; `none` is the empty list."""
    return () if text == "none" else tuple(text.split(","))


def path(text: str) -> Path:
    """A file or folder; an empty name, say of an unset variable, would silently be the current folder."""
    if not text.strip():
        raise ValueError
    return Path(text)


def out_folder(text: str) -> Path:
    """A folder to write to."""
    return path(text)


out_folder.__name__ = "folder"


@contextlib.contextmanager
def resources(args: argparse.Namespace, tasks_at_once: int) -> Iterator[Resources]:
    """Threads over tasks on a CPU, what is left of the processors inside operators; or one GPU."""
    device = find_device(args.device)
    if not 1 <= args.workers <= MOST_WORKERS:
        raise InputError(f"--workers {args.workers}, but it must be 1 or more, and {MOST_WORKERS} at most")
    keep_freed_memory()
    workers = min(args.workers, tasks_at_once)
    asked = {name: value for name in ("engine", "chunk", "memory") if (value := getattr(args, name, None)) is not None}
    found = Resources(device, **asked)
    torch.set_num_threads(max(1, args.workers // workers))
    if device == "cuda" or workers == 1 or "vmap" in found.engine:
        yield found
        return
    with ThreadPoolExecutor(workers) as executor:
        yield replace(found, executor=executor, workers=workers)


def say(message: str) -> None:
    """A message to the person, on standard error."""
    print(one_line(message), file=sys.stderr, flush=True)


def print_json(result: dict[str, Any] | list[dict[str, Any]]) -> None:
    """The result for a program, one line: letters as they are where standard output can show them, else escaped."""
    text = json.dumps(result, ensure_ascii=False).translate(_JSON_ESCAPES)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(result).translate(_JSON_ESCAPES)
    print(text, flush=True)


_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in CONTROLS}
