"""Protocol and length of a reproduction, and the training and the measurements that follow from them.

The protocol `authors` is what the authors' code ran, `paper` what their text says. The length is a number of updates,
or a name: `local` (what two cores do in hours), `full` (the published length), `smoke` (2 updates on embedded glyphs;
proves only that everything runs). A longer run continues a shorter one.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from metacontrast.data.catalog import dataset_files
from metacontrast.errors import InputError
from metacontrast.experiments.statistics import FEWEST_SEEDS
from metacontrast.fields import check_fields
from metacontrast.model.head import TestHead
from metacontrast.model.solvers import Solver
from metacontrast.training.config import TrainConfig
from metacontrast.training.evaluate import Evaluation
from metacontrast.training.recipes import recipe
from metacontrast.types import Scope

ScaleName = Literal["smoke", "local", "full"]
Protocol = Literal["paper", "authors"]
Family = Literal["omniglot", "colour"]
COLOURS = ("mini-imagenet", "cifar-fs")
"""The paper's colour images, and what stands in where they are not to be had."""
BOTH: tuple[TestHead, ...] = ("kept", "zeroed")
STAGES = (300, 600, 1500, 3000, 5000, 10_000, 17_500, 30_000)
"""Updates after which a verdict may be given, apart from the end of a run."""
STAGE_TASKS = 1000
"""Test tasks behind a verdict."""


@dataclass(frozen=True)
class MeasurementPlan:
    """Measurements of a run by number of updates; the last one is the run's end.

    The stages, after which a verdict may be given, are `STAGES` and the end: there it is measured in more detail.

    Args:
        updates: ascending.
        steps, stage_steps: inner steps at test, between the stages and at them.
        tasks, stage_tasks: number of test tasks, the same ones for every run of a data set and shape.
        heads: what the inner loop starts from.
        scope: what the inner loop moves at test; none: what it moved at training.
        also_bound: test also on tasks whose labels are bound as in training, which is a fault of the authors' code.
        solvers: what else classifies the un-adapted features at the stages.
        selects: test every model from its own head with `steps`, and at the end also the model that was best on the
            validation tasks, which is tested in the detail of a stage too; and measure the time of an update.
        what: `accuracy` on test tasks, or the `similarity` of the features of the one task that is trained on.
    """

    updates: tuple[int, ...]
    steps: tuple[int, ...] = (1,)
    stage_steps: tuple[int, ...] = (1, 2, 3)
    tasks: int = 250
    stage_tasks: int = STAGE_TASKS
    heads: tuple[TestHead, ...] = ("zeroed",)
    scope: Scope | None = None
    also_bound: bool = False
    solvers: tuple[Solver, ...] = ()
    selects: bool = False
    what: Literal["accuracy", "similarity"] = "accuracy"

    __post_init__ = check_fields

    @property
    def end(self) -> int:
        """The run's number of updates."""
        return self.updates[-1]

    @property
    def detailed(self) -> Evaluation:
        """Return what is measured at a stage, or of the selected model only."""
        return Evaluation(self.stage_steps, self.heads, self.stage_tasks, ("nearest-mean", *self.solvers))

    def evaluation(self, update: int) -> Evaluation:
        """Return what is measured after `update` outer updates."""
        is_stage = update in STAGES or update == self.end
        if self.selects:
            return Evaluation(self.steps, ("kept",), self.stage_tasks if is_stage else self.tasks)
        return self.detailed if is_stage else Evaluation(self.steps, self.heads, self.tasks)


@dataclass(frozen=True)
class Setting:
    """Length, protocol, colour images and number of seeds of a reproduction.

    Args:
        scale: the length by name.
        colour: the data set that stands where the paper has miniImageNet.
        until: the length in updates, in place of the name's; the published length is never exceeded.
    """

    scale: ScaleName = "local"
    protocol: Protocol = "authors"
    colour: str = "cifar-fs"
    until: int | None = None
    seeds: int = FEWEST_SEEDS

    __post_init__ = check_fields

    @property
    def folder(self) -> str:
        """Name of the folder of pages and records."""
        name = "smoke" if self.scale == "smoke" else "runs"
        return name if self.protocol == "authors" else f"{name}-{self.protocol}"

    def dataset(self, family: Family) -> str:
        """Return the data set that stands for the family."""
        if self.scale == "smoke":
            return "glyphs"
        return "omniglot" if family == "omniglot" else self.colour

    def seed_numbers(self, at_least: int = 0) -> range:
        """Return the training seeds."""
        return range(2) if self.scale == "smoke" else range(max(self.seeds, at_least))

    def in_full(self) -> "Setting":
        """Return the same setting at the published length."""
        return self if self.scale == "smoke" else replace(self, scale="full", until=None)


def choose_setting(setting: Setting, data_root: Path | None) -> Setting:
    """Choose miniImageNet where a length or the full one is asked for and it is there, else CIFAR-FS."""
    if setting.scale == "full" or setting.until is not None:
        try:
            dataset_files("mini-imagenet", data_root)
            return replace(setting, colour="mini-imagenet")
        except InputError:
            pass
    return setting


def base_config(setting: Setting, family: Family, shots: int, **changes: Any) -> TrainConfig:
    """Build the protocol's training for a family and number of shots, with `changes`.

    Evaluation is left to the figures, so that what is measured does not decide which run it is.
    """
    name = "omniglot" if family == "omniglot" else setting.colour
    variant = "released" if setting.protocol == "authors" else "paper"
    config = recipe(f"{name}-5w{1 if shots == 1 else 5}s-{variant}")
    fields = {"shots": shots, "eval_every": 0, "eval_episodes": 2, "eval_steps": (1,), "eval_split": "test"}
    if family == "colour" and shots == 25:
        fields |= {"pool_size": None, "relabel": False}
    config = replace(config, **{**fields, "checkpoint_every": 25, **changes})
    return _tiny(config) if setting.scale == "smoke" else config


def _tiny(config: TrainConfig) -> TrainConfig:
    return replace(
        config,
        dataset="glyphs",
        split_scheme="default",
        invert=False,
        filters=4,
        shots=min(config.shots, 10),
        queries=min(config.queries, 5),
        meta_batch=min(config.meta_batch, 2),
        pool_size=None if config.pool_size is None else min(config.pool_size, 8),
    )


_OMNIGLOT = (*range(30, 301, 30), 360, 420, 480, 540, 600, 750, 900, *range(1200, 3001, 300), 6000)
_COLOUR = (50, 100, 200, 300, 400, 500, 600, 800, 1000, 1500, 2000, 3000, 4000, 5000, 7500)
_LATE = (10_000, 12_500, 15_000, 17_500, 20_000, 22_500, 25_000, 27_500, 30_000)
MEASURED_UPDATES = {
    "omniglot": (*_OMNIGLOT, *_LATE),
    "cifar-fs": (*_COLOUR, *_LATE),
    "mini-imagenet": (*sorted({*_COLOUR, 1250, 2500}), *_LATE),
}
"""By data set, the updates after which a run is measured: many early ones, where the curves are steep."""


def measurement_plan(setting: Setting, family: Family, local: int, full: int, **options: Any) -> MeasurementPlan:
    """Build the family's measurements up to the end of the chosen length.

    Args:
        local, full: the lengths of these names.
        options: fields of `MeasurementPlan`.
    """
    if setting.scale == "smoke":
        return MeasurementPlan((1, 2), **{**options, "tasks": 2, "stage_tasks": 2})
    end = min(setting.until or (local if setting.scale == "local" else full), full)
    measured = MEASURED_UPDATES[setting.dataset(family)]
    return MeasurementPlan((*(update for update in measured if update < end), end), **options)
