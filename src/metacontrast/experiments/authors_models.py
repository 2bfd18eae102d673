"""The authors' own miniImageNet models, measured on the common test tasks.

Their models, our measurement, another copy of the images: accuracies lie two to three points below those that they
published, differences between runs do not. Every run has a file of the same form as a run's records, one line per
checkpoint. Runs of Fig. 8 and 9 have a checkpoint every 2,500 updates up to 20,000; two of them stop at 10,000, so that
first-order MAML has two seeds at the end. Of Fig. 3 there is one run, every 200 updates.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any

from metacontrast.errors import InputError
from metacontrast.experiments.claims import TaskKind
from metacontrast.experiments.figure_records import RunRecords, read_run_records, write_run_records
from metacontrast.experiments.measurement import (
    LABEL_ORDER,
    ORDERED_TASKS,
    common_tasks,
    count_correct,
    label_order_spread,
    measured_quantities,
)
from metacontrast.experiments.runs import load_split
from metacontrast.experiments.setting import BOTH, STAGE_TASKS
from metacontrast.experiments.spec import AuthorsCurve, AuthorsTest, Measurement
from metacontrast.files import exclusive
from metacontrast.training.authors_checkpoints import load_released
from metacontrast.training.evaluate import Evaluation
from metacontrast.training.records import Record, provenance
from metacontrast.training.step import Resources

HEAD_ONLY = TaskKind("miniImageNet", "one step of the head", is_authors=True)
WHOLE = TaskKind("miniImageNet", "", is_authors=True)
CHECKPOINTS = "authors"
"""Folder of the records of `measure_all`."""
_NAMES = {
    "mini_maml_FO_init1": "MAML, FO, random",
    "mini_maml_FO_zero": "MAML, FO, zeroing trick",
    "mini_maml_SO_init1": "MAML, SO, random",
    "mini_maml_SO_zero": "MAML, SO, zeroing trick",
    "mini_contrastive_FO_zero": "Eq. 15",
    "mini_contrastive_SO_zero": "Eq. 16",
    "mini_contrastive_FO_IFR1": "Eq. 7, head frozen",
    "mini_contrastive_FO_IFR0": "no interference, head frozen",
    "mini_contrastive_FO_IFR1_q_contrast": "no noise",
    "mini_contrastive_FO_IFR0_q_contrast": "both dropped, head frozen",
}
"""By the name of the folder without its seed; what the figures do not compare keeps that name."""
_PUBLISHED = {
    "MAML, FO, random": ("8", "MAML_FO_random"),
    "MAML, FO, zeroing trick": ("8", "MAML_FO_zeroing"),
    "MAML, SO, random": ("none (8/9 family)", "MAML_SO_random"),
    "MAML, SO, zeroing trick": ("8", "MAML_SO_zeroing"),
    "Eq. 15": ("8", "contrastive_FO_zeroing (Eq 15)"),
    "Eq. 16": ("8", "contrastive_SO_zeroing (Eq 16)"),
    "Eq. 7, head frozen": ("9", "contrastive_FO ITF=1 nCTT=1"),
    "no interference, head frozen": ("9", "contrastive_FO ITF=0 nCTT=1"),
    "no noise": ("9", "contrastive_FO ITF=1 nCTT=0"),
    "both dropped, head frozen": ("9", "contrastive_FO ITF=0 nCTT=0"),
}
PUBLISHED = {(HEAD_ONLY, name): AuthorsCurve(*place, shots=1) for name, place in _PUBLISHED.items()}
"""The published numbers of the same models."""


@dataclass(frozen=True)
class AuthorsRun:
    """One of the authors' runs.

    Args:
        kind, curve, seed: where it stands in the tables.
    """

    folder: Path
    kind: TaskKind
    curve: str
    seed: int

    def checkpoints(self) -> list[Path]:
        """List the checkpoints, the last one first, then from the first on; of copies one."""
        files = [file for file in self.folder.glob("*.pt") if not file.name.startswith("final_")]
        found = sorted(files, key=lambda file: [int(n) for n in re.findall(r"\d+", file.stem)])
        return found[-1:] + found[:-1]


def find_runs(folder: Path) -> list[AuthorsRun]:
    """Find all runs below `folder`, which is their `results/miniimagenet` or contains it."""
    places = {file.parent for file in folder.rglob("*.pt")} if folder.is_dir() else set()
    runs = [run for run in (_identify(place) for place in sorted(places)) if run is not None]
    if not runs:
        raise InputError(f"{folder} holds none of the authors' runs: give the results/miniimagenet of their repository")
    return runs


def _identify(place: Path) -> AuthorsRun | None:
    seed = re.search(r"_seed(\d+)", place.name)
    if seed is None or not place.name.startswith("mini_"):
        return None
    name = place.name.replace(seed[0], "")
    if name.startswith(("mini_maml", "mini_contrastive")):
        return AuthorsRun(place, HEAD_ONLY, _NAMES.get(name, name), int(seed[1]))
    return AuthorsRun(place, WHOLE, "zeroing trick" if "_zero1" in name else name, int(seed[1]))


def measure_all(
    runs: list[AuthorsRun], records: Path, data_root: Path | None, resources: Resources, tasks: int = STAGE_TASKS
) -> Iterator[str]:
    """Measure every checkpoint that is not recorded, the last ones of all runs first; yield what was done."""
    folder = records / CHECKPOINTS
    for nth_of_each in zip_longest(*(run.checkpoints() for run in runs)):
        for run, file in zip(runs, nth_of_each, strict=True):
            if file is None:
                continue
            update = _measure(run, file, folder, data_root, resources, Evaluation((1,), BOTH, tasks))
            if update is not None:
                yield f"{run.folder.name}, {file.name}: update {update:,}"


def measure_again(
    test: AuthorsTest, runs: list[AuthorsRun], records: Path, data_root: Path | None, resources: Resources
) -> Iterator[str]:
    """Measure the last checkpoints of the runs that a test is of, where they are not recorded; yield what was done."""
    fields = {"shots": test.shots, "inner_scope": test.scope}
    for run in runs:
        if curve := test.curves.get(run.curve):
            file, evaluation = run.checkpoints()[0], Evaluation(test.steps, (curve.head,), test.tasks, test.solvers)
            if _measure(run, file, records / test.folder, data_root, resources, evaluation, fields, test.reorders):
                steps = ", ".join(map(str, test.steps))
                yield f"{run.folder.name}, {file.name}: {steps} inner steps, {', '.join(test.solvers)}"


def _measure(
    run: AuthorsRun,
    file: Path,
    folder: Path,
    data_root: Path | None,
    resources: Resources,
    evaluation: Evaluation,
    fields: Mapping[str, Any] = MappingProxyType({}),
    reorders: bool = False,
) -> int | None:
    """Measure one checkpoint into the run's file in `folder`; return its updates, or None when it is recorded already.

    Args:
        fields: of its configuration that the test changes.
        reorders: whether other orders of labels are measured too.
    """
    with exclusive(folder / f".{run.folder.name}.lock", "another process measures it: wait for it"):
        digest, records = hashlib.sha256(file.read_bytes()).hexdigest(), folder / f"{run.folder.name}.jsonl"
        known = read_run_records(records) if records.exists() else None
        if known is not None and known.header.get("shots", 1) != fields.get("shots", 1):
            raise InputError(f"{records} is of tasks with another number of shots: restore or remove it")
        wanted = set(measured_quantities(evaluation))
        if known is not None and any(
            each.get("sha256") == digest and each["tasks"] >= evaluation.episodes and wanted <= set(each["correct"])
            for each in known.measured.values()
        ):
            return None
        adaptation = {"inner_lr": 0.1, "inner_steps": 1} if run.kind == HEAD_ONLY else {}
        start = {"head": "zeroed"} if evaluation.heads == ("zeroed",) else {}
        trained = load_released(file, dataset="mini-imagenet", **adaptation, **start, **fields)
        images = load_split("mini-imagenet", "test", data_root, trained.config.read_options())
        found = count_correct(trained, common_tasks(trained, images), trained.config.inner(), evaluation, resources)
        if reorders:
            order = label_order_spread(trained, images, min(evaluation.episodes, ORDERED_TASKS), resources)
            found["values"][LABEL_ORDER] = round(order, 5)
        line = {"kind": "measurement", "update": trained.updates, "file": file.name, "sha256": digest, **found}
        made = provenance(resources.device) | {"data": {images.name: images.digest}}
        header: Record = {
            "kind": "header",
            "run": run.folder.name,
            "inner": trained.config.inner().plain_values(),
            "shots": trained.config.shots,
            "made": [made],
        }
        measured = RunRecords(header, {trained.updates: line})
        write_run_records(records, measured if known is None else known | measured)
        return trained.updates


def load_authors(records: Path, tests: Iterable[AuthorsTest] = ()) -> list[Measurement]:
    """Load what is recorded of the authors' models in folders of `records`; runs that stop early keep their seed.

    Args:
        tests: what is measured of them beyond all their checkpoints.
    """
    found = _load(records / CHECKPOINTS)
    return found + [replace(each, kind=test.kind) for test in tests for each in _load(records / test.folder)]


def _load(folder: Path) -> list[Measurement]:
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        run = _identify(Path(file.stem))
        if run is None:
            raise InputError(f"{file} is not named like one of the authors' runs: restore or remove it")
        found += [Measurement(run.kind, run.curve, run.seed, each) for each in read_run_records(file).measured.values()]
    return found


def published_updates(kind: TaskKind) -> int:
    """Return how many updates the authors trained their models of some kind for."""
    return 29_801 if kind == WHOLE else 20_000
