"""Under which protocol and at which scale a figure is reproduced, and the training that follows from it.

`released` is what the authors' code ran, `paper` what their text says. The scales are `smoke` (seconds, embedded
glyphs, proves only that everything runs), `local` (hours on two cores) and `full` (the paper's own size).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from metacontrast.data.catalog import find_dataset
from metacontrast.data.options import ReadOptions
from metacontrast.errors import InputError
from metacontrast.experiments.schedule import Schedule
from metacontrast.training.config import TrainConfig
from metacontrast.training.recipes import recipe

ScaleName = Literal["smoke", "local", "full"]
Protocol = Literal["paper", "released"]
Family = Literal["omniglot", "colour"]


@dataclass(frozen=True)
class Setting:
    """A scale, a protocol, and the data set that stands where the paper has miniImageNet."""

    scale: ScaleName = "local"
    protocol: Protocol = "released"
    colour: str = "cifar-fs"

    @property
    def folder(self) -> str:
        """Where its records lie among others'."""
        return self.scale if self.protocol == "released" else f"{self.scale}-{self.protocol}"

    def dataset(self, family: Family) -> str:
        """The data set that is really used."""
        if self.scale == "smoke":
            return "glyphs"
        return "omniglot" if family == "omniglot" else self.colour

    def seeds(self, at_local: int = 3) -> range:
        """Training seeds; 4 at full scale unless more are asked for."""
        return {"smoke": range(2), "local": range(at_local), "full": range(max(4, at_local))}[self.scale]


def choose_setting(scale: ScaleName, protocol: Protocol, data_root: Path | None) -> Setting:
    """At full scale miniImageNet where it is to be found; CIFAR-FS elsewhere."""
    if scale == "full":
        spec, place = find_dataset("mini-imagenet", data_root)
        try:
            spec.reader.sources(place, ReadOptions())
            return Setting(scale, protocol, "mini-imagenet")
        except InputError:
            pass
    return Setting(scale, protocol)


def base_config(setting: Setting, family: Family, shots: int, **changes: Any) -> TrainConfig:
    """The protocol's training for that family and number of shots, with `changes`.

    Evaluation is left to the figures, so that what is measured does not decide which run it is.
    """
    name = "omniglot" if family == "omniglot" else setting.colour
    config = recipe(f"{name}-5w{1 if shots == 1 else 5}s-{setting.protocol}")
    if family == "colour" and shots == 25:
        config = replace(config, pool_size=None, relabel=False)
    config = replace(config, shots=shots, eval_every=0, eval_episodes=2, eval_steps=(1,), checkpoint_every=25)
    config = replace(config, **changes)
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


_STAGES = {
    "omniglot": (30, 60, 150, 300, 600, 900, 1500, 2250, 3000, 6000, 10_000, 20_000, 30_000),
    "colour": (50, 100, 200, 300, 600, 1000, 2000, 5000, 10_000, 15_000, 20_000, 30_000),
}
_NOTHING: Mapping[str, Any] = {}
_FULL_TASKS = {("omniglot", "released"): 992, ("omniglot", "paper"): 500}


def schedule(
    setting: Setting, family: Family, local: int, full: int, at_local: Mapping[str, Any] = _NOTHING, **options: Any
) -> Schedule:
    """The family's measured updates up to the end: `local` or `full` updates.

    Args:
        at_local: fields of `Schedule` that are otherwise at local scale.
        options: fields of `Schedule`.

    The stages of a smaller scale are among those of a larger one, which therefore continues its runs.
    """
    if setting.scale == "smoke":
        return Schedule((1, 2), **{**options, "tasks": 2, "last_tasks": 2})
    if setting.scale == "local":
        return Schedule(_stages(family, local), **{**_LOCAL_TASKS[family], **options, **at_local})
    many = _FULL_TASKS.get((family, setting.protocol), 400)
    return Schedule(_stages(family, full), **{"tasks": many, "last_tasks": many, **options})


def _stages(family: Family, end: int) -> tuple[int, ...]:
    return (*(stage for stage in _STAGES[family] if stage < end), end)


_LOCAL_TASKS: dict[Family, dict[str, Any]] = {
    "omniglot": {"tasks": 150, "last_tasks": 400},
    "colour": {"tasks": 60, "last_tasks": 120},
}
