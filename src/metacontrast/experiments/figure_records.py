"""Records of runs and figures: JSON-lines files from which figures are redrawn and judged without compute or data.

Every run has one file, whichever figures it belongs to; it grows by stages. Its header says how it was made; every
other line is what was measured after an update: `values` (means) and, encoded by `measurement.encode_counts`, the
`correct` queries of every common test task.

    {"kind": "header", "config": {...}, "train_split": "train", "made": [{"versions", "device", "revision", "data"}]}
    {"kind": "measurement", "update": 300, "queries": 75, "tasks": 1000, "values": {...}, "correct": {...}}

A measurement without `correct` is of an older version, which kept means only.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from metacontrast.errors import InputError
from metacontrast.experiments.measurement import decode_counts
from metacontrast.experiments.runs import PlannedRun, run_key
from metacontrast.experiments.setting import COLOURS, Setting
from metacontrast.experiments.spec import Curve, FigureSpec, Measurement
from metacontrast.experiments.statistics import FEWEST_SEEDS, LOOKS
from metacontrast.files import write_text
from metacontrast.training.config import config_from_values
from metacontrast.training.records import Record, read_records
from metacontrast.training.run import read_header

_LAST_LOOK = max(LOOKS)


@dataclass(frozen=True)
class RunRecords:
    """One run's numbers under the header that says how they were made."""

    header: Record
    measured: Mapping[int, Record] = field(default_factory=dict)

    def __or__(self, other: "RunRecords") -> "RunRecords":
        """Merge two records; for the same update keep the one on more tasks, the other's where they are equal."""
        updates = sorted({*self.measured, *other.measured})
        made = [*self.header["made"], *(each for each in other.header["made"] if each not in self.header["made"])]
        found = {u: max((m[u] for m in (other.measured, self.measured) if u in m), key=_worth) for u in updates}
        return RunRecords(other.header | {"made": made}, found)


def _worth(record: Record) -> tuple[bool, int, int]:
    return "correct" in record, record["tasks"], len(record["values"])


@dataclass(frozen=True)
class FigureRecords:
    """A figure's numbers: its curves, and what was measured of them in every setting.

    Args:
        settings: one per colour data set of which there are records, the paper's own first.
        authors: what was measured of the authors' models.
    """

    settings: Sequence[Setting]
    curves: Sequence[Curve]
    measurements: Sequence[Measurement]
    made: Sequence[Record]
    authors: Sequence[Measurement] = ()


def read_run_records(file: Path) -> RunRecords:
    """Read what `write_run_records` wrote; `InputError` for anything else."""
    header, *rest = read_records(file) or [{}]
    if not _is_header(header) or not all(map(_is_measurement, rest)):
        raise InputError(f"{file} holds no records of a run: restore or remove it")
    return RunRecords(header, {record["update"]: record for record in rest})


def _is_header(line: Record) -> bool:
    made = line.get("made")
    return line.get("kind") == "header" and isinstance(made, list) and all(_is_made(each) for each in made)


def _is_made(made: Any) -> bool:
    """Whether it says what the pages tell of how records were made."""
    if not isinstance(made, dict) or not {"device", "revision"} <= made.keys():
        return False
    return all(made.get(name) is None or isinstance(made[name], dict) for name in ("versions", "data"))


def _is_measurement(line: Record) -> bool:
    """Whether a line has the numbers of a measurement, counted on as many tasks as it says."""
    values, correct = line.get("values"), line.get("correct", {})
    if not isinstance(values, dict) or not all(map(_is_number, values.values())) or not isinstance(correct, dict):
        return False
    whole = ["update", "tasks", *(["queries"] if correct else [])]
    if not all(type(line.get(name)) is int and line[name] > 0 for name in whole):
        return False
    return all(isinstance(text, str) and len(decode_counts(text)) == line["tasks"] for text in correct.values())


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def write_run_records(file: Path, records: RunRecords) -> None:
    """Write a run's records: the header first, then one line per update."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = (records.header, *(records.measured[update] for update in sorted(records.measured)))
    write_text(file, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines))


def run_file(folder: Path, run: PlannedRun) -> Path:
    """Return the file of a run's records in `folder`."""
    return folder / f"{run.folder(folder).name}.jsonl"


def recorded(folder: Path, run: PlannedRun) -> Mapping[int, Record]:
    """Read what is recorded of a run, by update."""
    file = run_file(folder, run)
    return _read_of(run, file).measured if file.exists() else {}


def collect(runs: Iterable[PlannedRun], root: Path, folder: Path) -> None:
    """Add what was measured of runs below `root` to their records in `folder`."""
    for run in runs:
        if not (measured := run.measured(root)):
            continue
        made = read_header(run.folder(root))
        header = header_of(run, [{name: made.get(name) for name in ("versions", "device", "revision", "data")}])
        found = RunRecords(header, {u: {"kind": "measurement", **each} for u, each in measured.items()})
        file = run_file(folder, run)
        write_run_records(file, _read_of(run, file) | found if file.exists() else found)


def header_of(run: PlannedRun, made: Sequence[Record]) -> Record:
    """Build the header of a run's records."""
    config = {name: value for name, value in dataclasses.asdict(run.config).items() if name != "updates"}
    return {"kind": "header", "config": config, "train_split": run.train_split, "made": [*made]}


def load_records(folder: Path, spec: FigureSpec, setting: Setting) -> FigureRecords:
    """Load everything that is recorded of a figure, at any length; `InputError` where that is nothing."""
    if spec.compute:
        return FigureRecords([setting], [], spec.compute(), [])
    if spec.authors_test is not None:
        return FigureRecords([setting], [], [], [])
    judged = dataclasses.replace(setting, seeds=FEWEST_SEEDS)  # at looks that do not depend on how many are asked for
    settings = [setting] if setting.scale == "smoke" else [dataclasses.replace(judged, colour=c) for c in COLOURS]
    curves = {each: spec.curves(each.in_full()) for each in settings}
    found = {each: list(_of_curves(folder, some)) for each, some in curves.items()}
    kept = [each for each, some in found.items() if some]
    if not kept:
        raise InputError(f"{folder} holds no records of the figure {spec.name}: leave out --redraw to make them")
    rows = {(m.kind, m.curve, m.seed, m.record["update"]): (m, made) for some in found.values() for m, made in some}
    ways: list[Any] = []
    for _, made in rows.values():
        ways += [each for each in made if each not in ways]
    known = {(curve.kind, curve.name): curve for each in kept for curve in curves[each]}
    return FigureRecords(kept, [*known.values()], [measurement for measurement, _ in rows.values()], ways)


def _of_curves(folder: Path, curves: Iterable[Curve]) -> Iterable[tuple[Measurement, Sequence[Record]]]:
    """Yield the recorded measurements of some curves, with how they were made."""
    for curve in curves:
        for seed in range(max(_LAST_LOOK, len(curve.seeds))):
            run = PlannedRun("", curve.config_of(seed), curve.plan, curve.train_split)
            if not (file := run_file(folder, run)).exists():
                continue
            records = _read_of(run, file)
            for update, record in records.measured.items():
                if curve.until is None or update <= curve.until:
                    yield Measurement(curve.kind, curve.name, seed, record), records.header["made"]


def _read_of(run: PlannedRun, file: Path) -> RunRecords:
    """Read the records of a run; `InputError` where they are of another configuration."""
    records = read_run_records(file)
    config = config_from_values(records.header.get("config"), str(file))
    key = run_key(dataclasses.replace(config, updates=run.config.updates), records.header.get("train_split", "train"))
    if key != run.key:
        raise InputError(f"{file} is of another configuration (its own key is {key}): restore or remove it")
    return records
