"""The runs behind figures: each is trained once, whoever asks for it, stopped and taken up at any moment.

A run's folder is named by everything that decides its parameters but the number of updates, so that a longer run
continues a shorter one. Training halts at every measured update, keeps a copy of the model and measures it; what is
there is not done again. A lock says that a run is being worked on; it falls with the process that holds it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from metacontrast.data.catalog import load_dataset
from metacontrast.data.images import ClassImages
from metacontrast.data.options import ReadOptions
from metacontrast.errors import InputError
from metacontrast.experiments.measurement import measure, measured_names
from metacontrast.experiments.schedule import Schedule
from metacontrast.experiments.spec import Line
from metacontrast.files import exclusive, write_text
from metacontrast.training.config import TrainConfig
from metacontrast.training.records import Record, read_records
from metacontrast.training.run import load_model_copy, model_copy, open_run, read_header
from metacontrast.training.step import Resources
from metacontrast.training.train_run import train_run

MEASURED = "measured.jsonl"


@dataclass(frozen=True)
class PlannedRun:
    """A run that a figure needs: full-length configuration, what is measured, and what it is trained on."""

    label: str
    config: TrainConfig
    schedule: Schedule
    train_split: str = "train"

    @property
    def key(self) -> str:
        """Everything that decides the parameters after a given number of updates, as a digest."""
        return run_key(self.config, self.train_split)

    def folder(self, root: Path) -> Path:
        """Where it lies."""
        return root / f"{self.config.dataset}-{self.key}"

    def is_complete(self, root: Path) -> bool:
        """Whether everything that is wanted of it has been measured."""
        return not self.missing(root)

    def missing(self, root: Path) -> list[int]:
        """The updates after which something is still to be measured."""
        return self.lacking(self.measured(root))

    def lacking(self, found: Mapping[int, Record]) -> list[int]:
        """The updates that these measurements leave to be done."""
        return [update for update in self.schedule.updates if not self._suffices(update, found.get(update))]

    def _suffices(self, update: int, record: Record | None) -> bool:
        if record is None:
            return False
        wanted, kind = (
            measured_names(self.schedule, update),
            "values" if self.schedule.what == "similarity" else "correct",
        )
        tasks = 1 if self.schedule.what == "similarity" else self.schedule.tasks_at(update)
        return wanted <= set(record.get(kind, ())) and record["tasks"] >= tasks

    def measured(self, root: Path) -> dict[int, Record]:
        """What has been measured, by update."""
        file = self.folder(root) / MEASURED
        return {record["update"]: record for record in read_records(file)} if file.exists() else {}

    def note(self, root: Path, record: Record) -> None:
        """Keep a measurement in place of an earlier one of the same update; the file is rewritten whole."""
        found = self.measured(root) | {record["update"]: record}
        write_text(self.folder(root) / MEASURED, "".join(json.dumps(each) + "\n" for each in found.values()))

    def header(self, root: Path) -> Record:
        """How the run was made."""
        return read_header(self.folder(root))


_BOOKKEEPING = {f.name for f in fields(TrainConfig) if f.name.startswith("eval_") or f.name.endswith("_every")}
_BOOKKEEPING |= {"updates"}


def not_default(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their default: a new field that changes nothing changes no digest."""
    return {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default}


@cache
def run_key(config: TrainConfig, train_split: str) -> str:
    """The digest of what decides a run but for its length."""
    deciding = {name: value for name, value in not_default(config).items() if name not in _BOOKKEEPING}
    text = json.dumps(deciding | {"train_split": train_split}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def planned_runs(lines: Iterable[Line]) -> list[PlannedRun]:
    """The runs behind the lines, each once, in order; two lines must not measure one run differently."""
    runs: dict[str, PlannedRun] = {}
    for line in lines:
        for seed, config in line.configs().items():
            run = PlannedRun(f"{line.panel}, {line.name}, seed {seed}", config, line.schedule, line.train_split)
            other = runs.setdefault(run.key, run)
            if other.schedule != run.schedule:
                raise InputError(f"{run.label} and {other.label} are one run with two schedules: give them one")
    return list(runs.values())


@dataclass(frozen=True)
class Place:
    """Where runs lie and data are, and on what to compute."""

    runs: Path
    data_root: Path | None = None
    device: str = "cpu"


def carry_out(run: PlannedRun, place: Place, should_stop: Callable[[], bool]) -> str:
    """Train and measure what is missing of a run: `complete` or `stopped`."""
    folder = run.folder(place.runs)
    with exclusive(place.runs / f".{folder.name}.lock", f"another process works on {folder}: wait for it"):
        images = _images(run, place.data_root)
        resources = Resources(place.device)
        for update in run.missing(place.runs):
            if not _reach(run, update, folder, images, resources, should_stop):
                return "stopped"
            model = load_model_copy(folder, update)
            test = images[1].to(place.device)
            record = measure(model, run.schedule, images[0].to(place.device), test, resources)
            run.note(place.runs, {"update": update, **record})
    return "complete"


def _reach(
    run: PlannedRun,
    update: int,
    folder: Path,
    images: tuple[ClassImages, ClassImages],
    resources: Resources,
    should_stop: Callable[[], bool],
) -> bool:
    """Train up to `update` and keep a copy of the model there; False when stopped on the way."""
    if model_copy(folder, update).exists():
        return True
    config = replace(run.config, updates=update, keep_every=update)
    with open_run(folder, config, images, resources.device, resume=True) as opened:
        return train_run(config, opened, *images, resources, should_stop=should_stop) == "finished"


def _images(run: PlannedRun, data_root: Path | None) -> tuple[ClassImages, ClassImages]:
    options = run.config.read_options()
    splits = (run.train_split, run.config.eval_split)
    first, second = (_load(run.config.dataset, split, data_root, options) for split in splits)
    return first, second


@lru_cache(maxsize=8)
def _load(dataset: str, split: str, data_root: Path | None, options: ReadOptions) -> ClassImages:
    return load_dataset(dataset, split, data_root, options)
