"""Code that several commands share: flags, destinations, where to compute, how to print."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metacontrast.device import DEVICES, find_device, keep_freed_memory
from metacontrast.errors import CONTROLS, InputError, one_line
from metacontrast.files import as_path, check_writable
from metacontrast.training.distributed import processes_here
from metacontrast.training.step import Resources
from metacontrast.training.train import threads

MOST_WORKERS = 4096


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """Add `RUN`: a trained model."""
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="run directory, a model file in it such as RUN/best.safetensors, or a bundled model",
    )


def add_compute_flags(parser: argparse._ActionsContainer) -> None:
    """Add `--device` and `--workers`: where to compute, with no effect on the results."""
    add_device_flag(parser)
    parser.add_argument(
        "--workers",
        type=int,
        default=max(1, (os.cpu_count() or 1) // processes_here()),
        metavar="N",
        help="threads over tasks on a CPU (default: %(default)s, this process's share of the processors)",
    )


def add_device_flag(parser: argparse._ActionsContainer) -> None:
    """Add `--device`: the processor or a GPU."""
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (default: %(default)s)")


def add_data_root_flag(parser: argparse._ActionsContainer) -> None:
    """Add `--data-root`: the folder of data sets."""
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="folder of data sets (default: the variable METACONTRAST_DATA, else the user's cache folder)",
    )


def add_json_flag(parser: argparse._ActionsContainer) -> None:
    """Add `--json`: the result as one JSON object on the last line of standard output."""
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def step_list(text: str) -> tuple[int, ...]:
    """Parse `1,3,10` as numbers."""
    return tuple(int(part) for part in text.split(","))


step_list.__name__ = "comma-separated whole numbers"


def word_list(text: str) -> tuple[str, ...]:
    """Parse `flip,crop` as words; `none` is the empty list."""
    return () if text == "none" else tuple(text.split(","))


def path(text: str) -> Path:
    """Parse a file or folder; an empty name, say of an unset variable, would silently be the current folder."""
    if not text.strip():
        raise ValueError
    return Path(text)


def out_folder(text: str) -> Path:
    """Parse the name of a folder to write to."""
    return path(text)


out_folder.__name__ = "folder"


@contextlib.contextmanager
def resources(args: argparse.Namespace, parts: int) -> Iterator[Resources]:
    """Open threads over parts of an update on a CPU, the rest of the processors inside operators; or choose one GPU.

    Args:
        parts: tasks, or groups of tasks that stay together.
    """
    device = find_device(args.device)
    if not 1 <= args.workers <= MOST_WORKERS:
        raise InputError(f"--workers {args.workers}, but it must be 1 or more, and {MOST_WORKERS} at most")
    keep_freed_memory()
    workers = min(args.workers, parts)
    asked = {name: value for name in ("engine", "chunk", "memory") if (value := getattr(args, name, None)) is not None}
    found = Resources(device, **asked)
    torch.set_num_threads(max(1, args.workers // workers))
    threads_used = 1 if device == "cuda" or "vmap" in found.engine else workers
    with threads(threads_used) as executor:
        yield replace(found, executor=executor, workers=threads_used)


def say(message: str) -> None:
    """Print a message to the person, on standard error."""
    print(one_line(message), file=sys.stderr, flush=True)


def print_json(result: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Print the result for a program on one line, letters escaped where standard output cannot show them."""
    text = json.dumps(result, ensure_ascii=False).translate(_JSON_ESCAPES)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(result).translate(_JSON_ESCAPES)
    print(text, flush=True)


_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in CONTROLS}


def check_destinations(
    reads: Iterable[Path], *, folders: Iterable[Path] = (), files: Iterable[Path] = (), endings: Sequence[str] = ()
) -> None:
    """Raise `InputError` where a command would write over its own input, or cannot write.

    Args:
        reads: the files and folders that it reads.
        folders: the folders in which it will make files of its own names.
        files: the files that it will write.
        endings: of files that it makes itself, which may also lie in a folder that it reads.
    """
    sources = {_real(path) for path in reads}
    folders, files = list(folders), list(files)
    for path in (*folders, *files):
        if _real(path) in sources or (path in files and path.suffix not in endings and _lies_in(path, sources)):
            raise InputError(f"{path} is read by this command and would be written over: name another place to write")
    for folder in folders:
        check_writable(folder)
    for file in files:
        check_writable(file.parent, file.name)


def images_folder(dataset: str) -> list[Path]:
    """Return the folder of a data set that is a folder of your own images."""
    kind, _, path = dataset.partition(":")
    return [as_path(path)] if kind == "folder" and path else []


def _real(path: Path) -> str:
    """Return one name for all spellings of a path and all links to it; a name that cannot be a path stays."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)


def _lies_in(file: Path, folders: set[str]) -> bool:
    """Whether the file exists already, in one of these folders."""
    return os.path.lexists(file) and any(str(parent) in folders for parent in Path(_real(file)).parents)


@contextlib.contextmanager
def determinism(is_wanted: bool) -> Iterator[None]:
    """Use deterministic kernels inside the block; an operation that has none is an `InputError`.

    https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    if not is_wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        raise _explained(error) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _explained(error: RuntimeError) -> RuntimeError | InputError:
    """Convert PyTorch's complaint about an operation to one line; any other error stays."""
    operation, found, _ = str(error).partition(" does not have a deterministic implementation")
    if not found:
        return error
    return InputError(f"--deterministic, but {operation} has no deterministic form here: leave it out or use a CPU")
