"""The measurements as text, and as records that the table can be drawn from again."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gradients.cases import CASES
from gradients.measure import Timing
from metacontrast.training.records import append_records, provenance

_HEAD = ("engine", "seconds", "× best peer", "÷ floor", "peak MB", "")


def as_text(rows: Sequence[Timing]) -> str:
    """One block a case and order, one line an engine."""
    blocks: dict[tuple[str, str], list[Timing]] = {}
    for row in rows:
        blocks.setdefault((row.case, row.order), []).append(row)
    return "\n\n".join(_block(*key, block) for key, block in blocks.items())


def _block(case: str, order: str, rows: list[Timing]) -> str:
    title = f"({case}) {CASES[case].title}, {order} order" if case in CASES else f"({case}) {order} order"
    lines = [_line(_HEAD), *(_line(_cells(row)) for row in rows)]
    return "\n".join([title, *lines])


def _line(cells: Sequence[str]) -> str:
    first, *numbers, note = cells
    return f"  {first:<22}" + "".join(f"{cell:>12}" for cell in numbers) + (f"  {note}" if note else "")


def _cells(row: Timing) -> tuple[str, ...]:
    numbers = [(row.seconds, ".4f"), (row.ratio_to_best_peer, ".2f"), (row.ratio_to_floor, ".2f"), (row.peak_mb, ".0f")]
    return row.engine, *("-" if value is None else format(value, shape) for value, shape in numbers), row.note


def hardware(device: str) -> dict[str, Any]:
    """What computes."""
    name = torch.cuda.get_device_name(device) if device != "cpu" else processor_name()
    cores = os.cpu_count() or 1
    return {"processor": name, "cores": cores, "torch": torch.__version__, "peer_threads": torch.get_num_threads()}


def processor_name() -> str:
    """The processor as the system calls it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_records(path: Path, header: dict[str, Any], rows: Sequence[Timing], device: str) -> None:
    """Append a header that says how the rows were made, and the rows."""
    first = {"kind": "header", **header, **provenance(device)}
    append_records(path, [first, *({"kind": "timing", **asdict(row)} for row in rows)])
