"""The authors' published numbers, packaged, and their own miniImageNet models, measured on the common test tasks.

The numbers are learning curves, final accuracies and similarity maps.

Their models, our measurement, another copy of the images: accuracies lie two to three points below those that they
published, differences between runs do not. Every run has a file of the same form as a run's records, one line per
checkpoint. Runs of Fig. 8 and 9 have a checkpoint every 2,500 updates up to 20,000; two of them stop at 10,000, so that
first-order MAML has two seeds at the end. Of Fig. 3 there is one run, every 200 updates.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from metacontrast.data.catalog import load_dataset
from metacontrast.data.decode import ReadOptions
from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError
from metacontrast.experiments.figure_records import RunRecords, read_run_records, write_run_records
from metacontrast.experiments.measurement import (
    LABEL_ORDER,
    ORDERED_TASKS,
    common_tasks,
    count_correct,
    label_order_spread,
)
from metacontrast.experiments.setting import BOTH, STAGE_TASKS
from metacontrast.experiments.spec import (
    EARLY,
    Accuracy,
    AuthorsCurve,
    Curve,
    Measurement,
    Quantity,
    Similarity,
    TaskKind,
    When,
)
from metacontrast.files import exclusive
from metacontrast.model.head import TestHead
from metacontrast.training.authors_checkpoints import load_released
from metacontrast.training.evaluate import Evaluation
from metacontrast.training.records import Record, provenance
from metacontrast.training.step import Resources


@dataclass(frozen=True)
class AuthorsNumbers:
    """Numbers of one of the authors' curves.

    Args:
        seeds: how many it averages.
        updates, mean, std: accuracy and its sample standard deviation over seeds; empty where only the end is known.
        end: the last update.
        final: mean of the last five evaluations, and its standard deviation over seeds.
        as_plotted: where the published curve ends, if that is something else.
    """

    seeds: int
    updates: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    end: int
    final: tuple[float, float] | None
    as_plotted: float | None

    def at(self, update: int) -> tuple[float, float] | None:
        """Interpolate mean and deviation after `update` updates of a training that has begun.

        None where the curve is unknown.
        """
        first = next((each for each in self.updates if each > 0), None)
        if first is None or not first <= update <= self.updates[-1]:
            return None
        mean, std = (float(np.interp(update, self.updates, values)) for values in (self.mean, self.std))
        return mean, std

    @property
    def points(self) -> dict[int, float]:
        """Mean by update, after the start of training."""
        return {update: mean for update, mean in zip(self.updates, self.mean, strict=True) if update > 0}

    def of(self, when: When) -> tuple[float, float] | None:
        """Return mean and deviation at the end of the training, or after the first fifth of it."""
        return self.final if when == "end" else self.at(self.end // EARLY)


def authors_numbers(curve: Curve, quantity: Quantity) -> AuthorsNumbers | None:
    """Find the authors' numbers of a curve's quantity; None where there are none."""
    if curve.authors is None or not isinstance(quantity, Accuracy) or quantity.is_bound:
        return None
    steps = curve.config.inner_steps if quantity.steps is None else quantity.steps
    return find_numbers(curve.authors, Accuracy(quantity.head, steps))


def find_numbers(place: AuthorsCurve, accuracy: Accuracy) -> AuthorsNumbers | None:
    """Find the numbers of one of the authors' curves; None where there are none."""
    wanted = {"shots": place.shots, "curve": place.curve, "zeroed": int(accuracy.head == "zeroed")}
    for row in _rows():
        if place.figure in row["figures"] and all(row[name] == value for name, value in wanted.items()):
            return _as_numbers(row, str(accuracy.steps))
    return None


def final_difference(one: AuthorsCurve, other: AuthorsCurve, accuracy: Accuracy) -> str:
    """Format the difference of two curves at the end of the authors' training, in points."""
    first, second = (find_numbers(each, accuracy) for each in (one, other))
    if first is None or second is None or first.final is None or second.final is None:
        return "—"
    return in_points(first.final[0] - second.final[0])


def in_points(difference: float) -> str:
    """Format a difference of accuracies with its sign, in points.

    >>> in_points(-0.0123), in_points(-0.0001)
    ('−1.2', '+0.0')
    """
    return f"{round(100 * difference, 1) + 0.0:+.1f}".replace("-", "−")


def is_of_bound_tasks(curve: Curve) -> bool:
    """Tell whether the authors' code tested the curve's counterpart on tasks with bound labels, as it trained it."""
    return curve.config.labels == "bound-tuples"


def is_same_test(curve: Curve) -> bool:
    """Tell whether the authors' numbers are of the curve's own data set and kind of test tasks."""
    return curve.config.dataset in ("omniglot", "mini-imagenet") and not is_of_bound_tasks(curve)


@cache
def authors_similarities() -> Mapping[str, Mapping[str, Any]]:
    """Load the authors' maps and contrasts by treatment of the head and update."""
    return json.loads(_read("released-similarities.json"))["variants"]


def authors_similarity(name: str, quantity: Similarity, when: When) -> float | None:
    """Return the value after 11 updates (early) or 101, mean over seeds, without pairs of an image with itself."""
    values = authors_similarities()[name]["11" if when == "early" else "101"].get(quantity.pair, {})
    kind = "diag" if quantity.is_within_class else "contrast"
    return values.get(f"{kind}_without_self_pairs", values.get(kind))


def source() -> str:
    """Return where the numbers come from."""
    return json.loads(_read("released-accuracies.jsonl").splitlines()[0])["source"]


def _as_numbers(row: Mapping[str, Any], steps: str) -> AuthorsNumbers | None:
    final = row["final"].get(steps)
    is_drawn = int(steps) == row["steps"]
    if final is None and not is_drawn:
        return None
    updates, mean, std = (row[name] if is_drawn else () for name in ("updates", "mean", "std"))
    plotted = row.get("as_plotted") if is_drawn else None
    seeds = row["seeds"]
    of_a_sample = math.sqrt(seeds / max(1, seeds - 1))  # the file has the deviation of a population
    deviations = [value * of_a_sample for value in std]
    at_the_end = final and (final[0], final[1] * of_a_sample)
    return AuthorsNumbers(seeds, updates, mean, deviations, row["updates"][-1], at_the_end, plotted)


@cache
def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in _read("released-accuracies.jsonl").splitlines()[1:]]


def _read(name: str) -> str:
    return (files("metacontrast.experiments") / "data" / name).read_text(encoding="utf-8")


HEAD_ONLY = TaskKind("miniImageNet", "one step of the head", is_authors=True)
WHOLE = TaskKind("miniImageNet", "", is_authors=True)
MORE_STEPS = TaskKind("miniImageNet", "trained with one step of the head", is_authors=True)
"""The runs that are also tested with more inner steps, of the whole network, and with other orders of labels."""
FULL_UPDATES = {HEAD_ONLY: 20_000, WHOLE: 29_801, MORE_STEPS: 20_000}
CHECKPOINTS, MORE_STEPS_FOLDER = "authors", "authors-steps"
"""Folders of the records of `measure_all` and of `measure_steps`."""
STEPS, STEPS_TASKS = (1, 5, 20), 250
STEPS_HEADS: dict[str, TestHead] = {"MAML, SO, random": "kept", "MAML, SO, zeroing trick": "zeroed"}
"""By their curve, from which head."""
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
        folder: of its checkpoints.
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


def measure_steps(
    runs: list[AuthorsRun], records: Path, data_root: Path | None, resources: Resources, tasks: int = STEPS_TASKS
) -> Iterator[str]:
    """Measure the last checkpoints of the runs of `STEPS_HEADS` with more inner steps; yield what was done."""
    for run in runs:
        if head := STEPS_HEADS.get(run.curve):
            file, evaluation = run.checkpoints()[0], Evaluation(STEPS, (head,), tasks)
            if _measure(run, file, records / MORE_STEPS_FOLDER, data_root, resources, evaluation):
                yield f"{run.folder.name}, {file.name}: {', '.join(map(str, STEPS))} inner steps"


def _measure(
    run: AuthorsRun,
    file: Path,
    folder: Path,
    data_root: Path | None,
    resources: Resources,
    evaluation: Evaluation,
) -> int | None:
    """Measure one checkpoint into the run's file in `folder`; return its updates, or None when it is recorded already.

    With several numbers of inner steps, other orders of labels are measured too.
    """
    with exclusive(folder / f".{run.folder.name}.lock", "another process measures it: wait for it"):
        digest, records = hashlib.sha256(file.read_bytes()).hexdigest(), folder / f"{run.folder.name}.jsonl"
        known = read_run_records(records) if records.exists() else None
        if known is not None and any(
            each.get("sha256") == digest and each["tasks"] >= evaluation.episodes for each in known.measured.values()
        ):
            return None
        found = _measured(run, file, digest, data_root, resources, evaluation)
        write_run_records(records, found if known is None else known | found)
        return max(found.measured)


def _measured(
    run: AuthorsRun, file: Path, digest: str, data_root: Path | None, resources: Resources, evaluation: Evaluation
) -> RunRecords:
    adaptation = {"inner_lr": 0.1, "inner_steps": 1} if run.kind == HEAD_ONLY else {}
    start = {"head": "zeroed"} if evaluation.heads == ("zeroed",) else {}
    trained = load_released(file, dataset="mini-imagenet", **adaptation, **start)
    images = _test_images(data_root, trained.config.read_options())
    found = count_correct(trained, common_tasks(trained, images), trained.config.inner(), evaluation, resources)
    if len(evaluation.steps) > 1:
        order = label_order_spread(trained, images, min(evaluation.episodes, ORDERED_TASKS), resources)
        found["values"][LABEL_ORDER] = round(order, 5)
    line = {"kind": "measurement", "update": trained.updates, "file": file.name, "sha256": digest, **found}
    made = provenance(resources.device) | {"data": {images.name: images.digest}}
    header: Record = {
        "kind": "header",
        "run": run.folder.name,
        "inner": trained.config.inner().plain_values(),
        "made": [made],
    }
    return RunRecords(header, {trained.updates: line})


@lru_cache(maxsize=2)
def _test_images(data_root: Path | None, options: ReadOptions) -> ClassImages:
    return load_dataset("mini-imagenet", "test", data_root, options)


def load_authors(records: Path) -> list[Measurement]:
    """Load what is recorded of the authors' models in folders of `records`; runs that stop early keep their seed."""
    return [*_load(records / CHECKPOINTS), *_load(records / MORE_STEPS_FOLDER, MORE_STEPS)]


def _load(folder: Path, kind: TaskKind | None = None) -> list[Measurement]:
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        run = _identify(Path(file.stem))
        if run is None:
            raise InputError(f"{file} is not named like one of the authors' runs: restore or remove it")
        measured = read_run_records(file).measured.values()
        found += [Measurement(kind or run.kind, run.curve, run.seed, each) for each in measured]
    return found
