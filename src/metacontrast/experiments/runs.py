"""The runs behind figures: each is trained once, and can be stopped and continued at any moment.

A run's folder is named by everything that decides its parameters but the number of updates, so that a longer run
continues a shorter one. Training halts at every measured update, keeps a copy of the model and measures it; what is
there is not done again. A lock says that a run is being worked on; it falls with the process that holds it.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

from metacontrast.data.catalog import dataset_files, load_evaluation_split
from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError
from metacontrast.experiments.measurement import (
    CORE_SECONDS,
    LABEL_ORDER,
    ORDERED_TASKS,
    UNCOUNTED,
    label_order_spread,
    measure,
    measured_names,
)
from metacontrast.experiments.runners import RunContext, RunStatus
from metacontrast.experiments.setting import MeasurementPlan, Setting
from metacontrast.experiments.spec import Curve, FigureSpec
from metacontrast.files import exclusive, write_text
from metacontrast.methods import METHODS
from metacontrast.training.config import TrainConfig
from metacontrast.training.evaluate import Evaluation
from metacontrast.training.records import Record, read_records
from metacontrast.training.run import BEST, check_same_data, data_digests, load_run, model_copy, open_run, read_config
from metacontrast.training.step import Resources
from metacontrast.training.train import update_tasks
from metacontrast.training.train_run import initial_state, outer_step, train_run

MEASURED_FILE = "measured.jsonl"


@dataclass(frozen=True)
class PlannedRun:
    """A run that a figure needs.

    Args:
        config: of the full length.
    """

    label: str
    config: TrainConfig
    plan: MeasurementPlan
    train_split: str = "train"

    @property
    def key(self) -> str:
        """Digest of everything that decides the parameters after a given number of updates."""
        return run_key(self.config, self.train_split)

    def folder(self, root: Path) -> Path:
        """Return the run's folder below `root`."""
        return root / f"{self.config.dataset}-{self.key}"

    def is_complete(self, root: Path) -> bool:
        """Tell whether everything that is wanted of the run has been measured."""
        return not self.missing(root)

    def summary(self, root: Path) -> str:
        """Name the first two values at the end of the run."""
        values = self.measured(root)[self.plan.end]["values"]
        return ", ".join(f"{name} {value:.3f}" for name, value in list(values.items())[:2])

    def missing(self, root: Path) -> list[int]:
        """List the updates after which something is still to be measured."""
        return self.lacking(self.measured(root))

    def lacking(self, found: Mapping[int, Record]) -> list[int]:
        """List the updates that the measurements `found` leave to be done."""
        return [update for update in self.plan.updates if not self._suffices(update, found.get(update))]

    def _suffices(self, update: int, record: Record | None) -> bool:
        if record is None:
            return False
        found = {*record.get("correct", {}), *(UNCOUNTED & set(record["values"]))}
        tasks = 1 if self.plan.what == "similarity" else self.plan.evaluation(update).episodes
        return measured_names(self.plan, update) <= found and record["tasks"] >= tasks

    def measured(self, root: Path) -> dict[int, Record]:
        """Read what has been measured, by update."""
        file = self.folder(root) / MEASURED_FILE
        return {record["update"]: record for record in read_records(file)} if file.exists() else {}

    def note(self, root: Path, record: Record) -> None:
        """Keep a measurement in place of an earlier one of the same update; the file is rewritten whole."""
        found = self.measured(root) | {record["update"]: record}
        write_text(self.folder(root) / MEASURED_FILE, "".join(json.dumps(each) + "\n" for each in found.values()))

    def execute(self, context: RunContext, should_stop: Callable[[], bool]) -> RunStatus:
        """Train and measure what is missing."""
        folder = self.folder(context.runs)
        with exclusive(context.runs / f".{folder.name}.lock", f"another process works on {folder}: wait for it"):
            resources, options = Resources(context.device), self.config.read_options()
            train, evaluated, tested = (
                load_split(self.config.dataset, split, context.data_root, options)
                for split in (self.train_split, self.config.eval_split, "test")
            )
            seen = train.to(context.device), tested.to(context.device)
            if read_config(folder) is not None:
                check_same_data(folder, data_digests(self.config, (train, evaluated)))
            for update in self.missing(context.runs):
                if not _train_to(self, update, folder, (train, evaluated), resources, should_stop):
                    return RunStatus.STOPPED
                record = measure(load_run(model_copy(folder, update)), self.plan, *seen, resources)
                if self.plan.selects and update == self.plan.end:
                    record = self._with_selected(record, folder, seen, resources)
                self.note(context.runs, {"update": update, **record})
        return RunStatus.COMPLETE

    def _with_selected(
        self, record: Record, folder: Path, seen: tuple[ClassImages, ClassImages], resources: Resources
    ) -> Record:
        """Join the record of the end with that of the model that validation chose, and with the time of an update."""
        end = self.plan.end
        if not (folder / BEST).exists():
            raise InputError(f"{folder} has chosen no model by validation after {end} updates: ask for more")
        best = load_run(folder / BEST)
        if best.updates > end:
            raise InputError(
                f"{folder} was trained further, and the best model that it keeps is that after {best.updates} "
                f"updates, not one of the first {end}: ask for as many as it has, or choose another --out"
            )
        own = record if best.updates == end else measure(best, self.plan, *seen, resources, self.plan.evaluation(end))
        for selected in (own, measure(best, self.plan, *seen, resources, self.plan.detailed)):
            for kind in ("values", "correct"):
                record[kind] |= {f"selected {name}": value for name, value in selected[kind].items()}
        tasks = min(ORDERED_TASKS, self.plan.stage_tasks)
        order = label_order_spread(best, seen[1], tasks, resources)
        seconds = core_seconds(self.config, seen[0], resources)
        record["values"] |= {LABEL_ORDER: round(order, 5), CORE_SECONDS: round(seconds, 5)}
        return record


_NOT_DECIDING = {f.name for f in fields(TrainConfig) if f.name.startswith("eval_") or f.name.endswith("_every")}
_NOT_DECIDING |= {"updates"}
_KEY_NAMES = {"method": "objective"}
"""Names that fields had when the first runs were made, whose folders are named by them."""


def not_default(value: Any) -> dict[str, Any]:
    """Collect the fields of a dataclass that differ from their defaults, so that a new field changes no digest."""
    return {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default}


@cache
def run_key(config: TrainConfig, train_split: str) -> str:
    """Compute the digest of what decides a run except its length, on which only some methods depend."""
    deciding = {_KEY_NAMES.get(name, name): v for name, v in not_default(config).items() if name not in _NOT_DECIDING}
    if config.follows_length:
        deciding["updates"] = config.updates
    text = json.dumps(deciding | {"train_split": train_split}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def planned_runs(curves: Iterable[Curve]) -> list[PlannedRun]:
    """List the runs behind the curves, each once, in order; two curves must not measure one run differently."""
    runs: dict[str, PlannedRun] = {}
    for curve in curves:
        for seed, config in curve.configs().items():
            run = PlannedRun(f"{curve.kind}, {curve.name}, seed {seed}", config, curve.plan, curve.train_split)
            other = runs.setdefault(run.key, run)
            if other.plan != run.plan:
                raise InputError(f"{run.label} and {other.label} are one run with two plans: give them one")
    return list(runs.values())


def all_runs(figures: Sequence[FigureSpec], setting: Setting, claims: Sequence[int] = ()) -> list[PlannedRun]:
    """List the runs behind the figures, each once, in the order of the figures.

    Args:
        claims: numbers of the claims, from 1, that the runs are for; none is everything that the figures show.
    """
    return planned_runs(curve for figure in figures for curve in _curves_for(figure, setting, claims))


def _curves_for(figure: FigureSpec, setting: Setting, claims: Sequence[int]) -> list[Curve]:
    """Select the curves that the claims compare."""
    curves = figure.curves(setting)
    if not claims:
        return curves
    known = figure.claims(setting)
    if wrong := [number for number in claims if not 1 <= number <= len(known)]:
        raise InputError(f"{figure.name} has no claim {wrong[0]}: it has 1 to {len(known)}, in the order of its page")
    chosen = [comparison for number in claims for comparison in known[number - 1].comparisons]
    needed = {(each.kind, endpoint.curve) for each in chosen for endpoint in each.endpoints}
    return [curve for curve in curves if (curve.kind, curve.name) in needed]


def check_data(
    runs: Sequence[PlannedRun], setting: Setting, data_root: Path | None, figures: Sequence[FigureSpec]
) -> None:
    """Raise `InputError` for a missing data set, naming those of `figures` that can be made without it."""
    for name in sorted({run.config.dataset for run in runs}):
        try:
            dataset_files(name, data_root)
        except InputError as error:
            used = {each.name: {curve.config.dataset for curve in each.curves(setting)} for each in figures}
            free = [figure for figure, datasets in used.items() if name not in datasets]
            raise InputError(
                f"{error}; without {name} there {'is' if len(free) == 1 else 'are'} {', '.join(free) or 'no figures'}, "
                "and with --scale smoke all"
            ) from error


def _train_to(
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
    whole = run.config.follows_length or run.plan.selects  # which validates at the end, and not at every halt
    end = run.config.updates if whole else update
    if (trained := read_config(folder)) is not None and trained.updates > end:
        raise InputError(
            f"{folder} is to be trained for {trained.updates} updates and keeps no copy of the model after {update}: "
            f"ask for {trained.updates}, or choose another --out"
        )
    config, seen = replace(run.config, updates=end, keep_every=update), [0]
    with open_run(folder, config, images, resources.device, resume=True) as opened:
        status = train_run(
            config,
            opened,
            *images,
            resources,
            on_record=lambda record: seen.append(record["update"]),
            should_stop=lambda: should_stop() or seen[-1] >= update,
        )
    return status == "finished" or seen[-1] >= update


_TIMED, _SPREAD = 7, 20


def core_seconds(config: TrainConfig, images: ClassImages, resources: Resources) -> float:
    """Measure the processor time of an update in this process: the median of a few, after one that warms up.

    Where the inner loop changes during training, it is the mean of updates all over it.
    """
    model, tasks = config.model(images.shape).to(resources.device), config.training_tasks(images)
    state = initial_state(config, model, resources.device, len(images))
    step, taken, anneals = outer_step(config, model, resources), [], METHODS[config.method].anneals
    spread = [config.updates * (2 * part + 1) // (2 * _SPREAD) for part in range(_SPREAD)]
    for update in [0, *(spread if anneals else range(1, _TIMED + 1))]:
        state.updates = update
        started = time.process_time()
        step(state, tasks.batch(update_tasks(update, config.meta_batch)))
        taken.append(time.process_time() - started)
    return fmean(taken[1:]) if anneals else median(taken[1:])


load_split = lru_cache(maxsize=8)(load_evaluation_split)
"""Load a split of a data set once, for all runs that use it."""


_SECONDS_PER_PASS = {"glyphs": 1.5e-4, "omniglot": 5e-5, "cifar-fs": 1e-4, "mini-imagenet": 7e-4}
_WIDER = 3.0
"""The paper's networks against those of the authors' code."""
_SECOND_ORDER = 1.8
_SMALL_BATCHES = 2.0
"""Adaptation at test is made of small batches, which are slower image by image."""
_BACKWARD = 3
"""A pass with its gradient against one without."""


def estimate_seconds(run: PlannedRun) -> float:
    """Estimate the time of a whole run on one core, training and measuring.

    Image passes times the measured time of one, on a core of an x86-64 server with two runs at a time: it serves to
    tell minutes from days.
    """
    config, plan = run.config, run.plan
    per_pass = _SECONDS_PER_PASS[config.dataset] * (1.0 if config.encoder == "conv4-released" else _WIDER)
    training = plan.end * config.meta_batch * _training_passes(config)
    tests = [plan.evaluation(update) for update in plan.updates]
    if plan.selects:
        validation = Evaluation(config.eval_steps, ("kept",), config.eval_episodes)
        tests += [tests[-1], plan.detailed, *[validation] * (plan.end // config.eval_every)]
    testing = sum(_test_passes(config, plan, test) for test in tests)
    return per_pass * (training + _SMALL_BATCHES * testing)


def _training_passes(config: TrainConfig) -> float:
    """Count the cost of one training task in forward passes of one image."""
    images = config.ways * METHODS[config.method].cost(config.inner_steps, config.shots, config.queries)
    return _BACKWARD * images * (_SECOND_ORDER if config.order == "second" else 1.0)


def _test_passes(config: TrainConfig, plan: MeasurementPlan, tested: Evaluation) -> int:
    if plan.what == "similarity":
        return config.ways * (config.shots + config.queries)
    heads = 1 if config.head == "zeroed" else len(tested.heads)
    adapting = max(tested.steps) * _BACKWARD * config.shots + len(tested.steps) * config.queries
    per_task = config.ways * (heads * adapting + config.shots + config.queries)
    return tested.episodes * per_task * (2 if plan.also_bound else 1)
