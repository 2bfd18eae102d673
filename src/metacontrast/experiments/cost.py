"""What runs cost, roughly, before they are started: image passes times the measured time of one.

The times are of one core of an x86-64 server, two runs at a time, and serve to tell minutes from days.
"""

from collections.abc import Iterable
from pathlib import Path

from metacontrast.experiments.grid import PlannedRun
from metacontrast.experiments.schedule import Schedule
from metacontrast.training.config import TrainConfig

_SECONDS_PER_PASS = {"glyphs": 1.5e-4, "omniglot": 5e-5, "cifar-fs": 1e-4, "mini-imagenet": 7e-4}
_WIDER = 3.0
"""The paper's networks against the released ones."""
_SECOND_ORDER = 1.8
_SMALL_BATCHES = 2.0
"""Adaptation at test is made of small batches, which are slower image by image."""
_BACKWARD = 3
"""A pass with its gradient against one without."""


def seconds(run: PlannedRun) -> float:
    """Of a whole run on one core, training and measuring."""
    config, schedule = run.config, run.schedule
    per_pass = _SECONDS_PER_PASS[config.dataset] * (1.0 if config.encoder == "conv4-released" else _WIDER)
    training = schedule.end * config.meta_batch * _training_passes(config)
    testing = sum(_test_passes(config, schedule, update) for update in schedule.updates)
    return per_pass * (training + _SMALL_BATCHES * testing)


def remaining_seconds(runs: Iterable[PlannedRun], root: Path) -> float:
    """Of the runs that are not complete; what is partly done counts in whole."""
    return sum((seconds(run) for run in runs if not run.is_complete(root)), 0.0)


def as_time(value: float) -> str:
    """A duration in words.

    >>> as_time(5400)
    '1.5 hours'
    """
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if value >= 1.5 * size or (unit == "hours" and value >= size):
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} seconds"


def _training_passes(config: TrainConfig) -> float:
    """Of one task, in forward passes of one image."""
    support = 0 if config.inner_scope == "head" and config.objective == "contrastive" else config.inner_steps
    images = config.ways * (support * config.shots + config.queries)
    return _BACKWARD * images * (_SECOND_ORDER if config.order == "second" else 1.0)


def _test_passes(config: TrainConfig, schedule: Schedule, update: int) -> int:
    if schedule.what == "similarity":
        return config.ways * (config.shots + config.queries)
    steps = schedule.steps_at(update)
    heads = 1 if config.head == "zeroed" else len(schedule.heads)
    adapting = max(steps) * _BACKWARD * config.ways * config.shots + len(steps) * config.ways * config.queries
    baseline = config.ways * (config.shots + config.queries)
    return schedule.tasks_at(update) * (heads * adapting + baseline) * (2 if schedule.also_bound else 1)
