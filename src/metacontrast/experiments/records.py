"""What is kept of a figure: one JSON-lines file from which it is redrawn and judged without compute or data.

The header says how the numbers were made. Every other line is what was measured of one run after so many updates.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from metacontrast.errors import InputError
from metacontrast.experiments.grid import PlannedRun, not_default, planned_runs
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import FigureSpec, Line
from metacontrast.files import write_text
from metacontrast.training.records import Record, provenance, read_records


@dataclass(frozen=True)
class FigureRecords:
    """A figure's numbers under the header that says how they were made."""

    header: Record
    measurements: list[Record]

    @property
    def setting(self) -> Setting:
        """Under which it was made."""
        return Setting(**self.header["setting"])


def records_file(folder: Path, spec: FigureSpec, setting: Setting) -> Path:
    """Where a figure's records lie below `folder`."""
    return folder / setting.folder / f"{spec.name}.jsonl"


def collect(spec: FigureSpec, setting: Setting, root: Path, command: str) -> FigureRecords:
    """The numbers of a figure whose runs are complete under `root`."""
    lines = spec.lines(setting)
    header = {
        "kind": "header",
        "figure": spec.name,
        "setting": asdict(setting),
        "grid": grid_digest(spec, setting),
        "command": command,
        "made": _origins(planned_runs(lines), root) if lines else [provenance("cpu")],
    }
    measurements = [record for line in lines for record in _of_line(line, root)]
    return FigureRecords(header, measurements + (spec.compute() if spec.compute else []))


def write_records(file: Path, records: FigureRecords) -> None:
    """Header first, then one line per measurement."""
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in (records.header, *records.measurements))
    write_text(file, "".join(lines))


def load_records(file: Path, spec: FigureSpec, setting: Setting) -> FigureRecords:
    """What `write_records` wrote, of this figure in this setting; `InputError` for anything else."""
    if not file.exists():
        raise InputError(f"{file} does not exist, nothing to redraw: leave out --redraw to make it")
    header, *measurements = read_records(file) or [{}]
    if header.get("kind") != "header" or header.get("figure") != spec.name:
        raise InputError(f"{file} holds no records of the figure {spec.name}: restore it or leave out --redraw")
    found = FigureRecords(header, measurements)
    _check_grid(file, found, spec, setting)
    return found


def grid_digest(spec: FigureSpec, setting: Setting) -> str:
    """What a figure's runs are and what is measured of them, as a digest."""
    lines = [
        [line.panel, line.name, line.updates, not_default(line.schedule), [run.key for run in planned_runs([line])]]
        for line in spec.lines(setting)
    ]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:20]


def _check_grid(file: Path, found: FigureRecords, spec: FigureSpec, setting: Setting) -> None:
    theirs = found.header.get("setting", {})
    for name in ("scale", "protocol"):
        if theirs.get(name) != getattr(setting, name):
            raise InputError(
                f"{file} was made with {name} {theirs.get(name)}, not {getattr(setting, name)}: leave out --redraw "
                "to make it anew, or name its own"
            )
    if found.header["grid"] != grid_digest(spec, found.setting):
        raise InputError(
            f"{file} is of another configuration (grid {found.header['grid']}, now {grid_digest(spec, found.setting)}):"
            " leave out --redraw to make it anew"
        )


def _of_line(line: Line, root: Path) -> Iterable[Record]:
    for run, seed in zip(planned_runs([line]), line.seeds, strict=True):
        measured = run.measured(root)
        for update in line.updates:
            place = {"panel": line.panel, "line": line.name, "seed": seed}
            yield {"kind": "measurement", **place, **measured[update]}


def _origins(runs: Iterable[PlannedRun], root: Path) -> list[Record]:
    """The different ways in which the runs were made, each once, with the digests of the data."""
    found: list[Record] = []
    for run in runs:
        header = run.header(root)
        origin = {name: header.get(name) for name in ("versions", "device", "revision", "data")}
        if origin not in found:
            found.append(origin)
    return found
