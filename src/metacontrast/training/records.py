"""Measurements as JSON lines: a header that says how they were made, then one line each.

Numbers of records may also go to TensorBoard, an optional extra.
"""

import contextlib
import json
import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metacontrast.errors import InputError, require_extra
from metacontrast.files import flush_to_disk, parse_json, write_text
from metacontrast.version import __version__

Record = dict[str, Any]


def provenance(device: str) -> Record:
    """Versions, hardware, whether only deterministic kernels run and, in a checkout, the code's git revision."""
    return {
        "versions": {
            "metacontrast": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "device": device_name(device),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "revision": _git_revision(),
    }


def device_name(device: str) -> str:
    """What computes: the GPU's name, or the processor's kind and the threads in use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} operator thread(s)"


def append_records(path: Path, records: list[Record]) -> None:
    """Add lines at the end of the file."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; free some space or choose another --out") from error


def flush_records(path: Path) -> None:
    """Wait until all lines have reached the disk."""
    try:
        flush_to_disk(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; restore it or choose another --out") from error


def read_records(path: Path) -> list[Record]:
    """All complete lines; a last line that was cut off while being written is left out."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        elif number < len(lines):
            raise InputError(f"{path}, line {number} is not a record: the file is damaged; restore it or start again")
    return records


def scalars(record: Record) -> dict[str, float]:
    """The numbers of a record by name, as experiment trackers take them; `record["update"]` is their step.

    >>> scalars({"kind": "training", "update": 3, "loss": 1.5, "accuracy": 0.25})
    {'training/loss': 1.5, 'training/accuracy': 0.25}
    >>> row = {"kind": "evaluation", "update": 3, "method": "maml", "head": "zeroed", "steps": 1, "accuracy": 0.5}
    >>> scalars(row)
    {'maml/zeroed/1 steps': 0.5}
    """
    if record["kind"] == "evaluation":
        return {f"{record['method']}/{record['head']}/{record['steps']} steps": record["accuracy"]}
    return {
        f"{record['kind']}/{name}": value
        for name, value in record.items()
        if isinstance(value, int | float) and name != "update"
    }


def forget_after(path: Path, update: int) -> int:
    """Drop the records of later updates, which a resumed run makes again; return the last update that is left."""
    kept = [record for record in read_records(path) if record.get("update", 0) <= update]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return max((record.get("update", 0) for record in kept), default=0)


def _git_revision() -> str | None:
    """The commit of this package's own source, with a + when files differ from it; None outside a checkout."""
    package = Path(__file__).parents[1]
    try:
        _git(package, "ls-files", "--error-unmatch", "version.py")
        changed = _git(package, "status", "--short", ".")
        return _git(package, "rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=5)
    return done.stdout.strip()


@contextlib.contextmanager
def tensorboard_writer(folder: Path | None) -> Iterator[Callable[[Record], None]]:
    """A function that logs records into `folder`/tensorboard; with None it does nothing."""
    if folder is None:
        yield lambda record: None
        return
    require_extra("--tensorboard", "tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder / "tensorboard") as writer:

        def log(record: Record) -> None:
            for name, value in scalars(record).items():
                writer.add_scalar(name, value, record["update"])

        yield log
