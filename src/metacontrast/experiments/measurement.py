"""What is measured of a kept model: accuracy on the test tasks of one seed, or how alike its features are.

Every run of a data set and shape of tasks is tested on the same tasks, whatever its training seed, so that runs can
be compared pair by pair. The interval of such a difference covers the training seed, not the choice of test tasks.
"""

from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from metacontrast.analysis.similarity import MAPS, contrasts, similarity_maps
from metacontrast.data.episodes import EpisodeSampler
from metacontrast.data.images import ClassImages
from metacontrast.experiments.schedule import Schedule, quantity
from metacontrast.training.evaluate import Evaluation, evaluate
from metacontrast.training.records import Record
from metacontrast.training.run import TrainedRun
from metacontrast.training.step import Resources

TEST_SEED = 2022


def measured_names(schedule: Schedule, update: int) -> set[str]:
    """The names of the values that `measure` returns."""
    if schedule.what == "similarity":
        return set(MAPS)
    bounds = (False, True) if schedule.also_bound else (False,)
    steps = schedule.steps_at(update)
    names = {quantity(head, step, bound) for bound in bounds for head in schedule.heads for step in steps}
    return names | {"nearest-mean"}


def measure(
    run: TrainedRun, schedule: Schedule, train_images: ClassImages, test_images: ClassImages, resources: Resources
) -> Record:
    """The values of a kept model, by name, and on how many tasks."""
    if schedule.what == "similarity":
        return {"tasks": 1} | _similarity(run, train_images)
    tasks = schedule.tasks_at(run.updates)
    sampler = replace(run.config.test_tasks(test_images), seed=TEST_SEED)
    values = _accuracies(run, schedule, sampler, resources)
    if schedule.also_bound:
        bound = _accuracies(run, schedule, replace(sampler, labels=run.config.labels), resources)
        values |= {f"bound {name}": value for name, value in bound.items() if "/" in name}
    return {"tasks": tasks, "values": values}


def _accuracies(run: TrainedRun, schedule: Schedule, tasks: EpisodeSampler, resources: Resources) -> dict[str, float]:
    evaluation = Evaluation(schedule.steps_at(run.updates), schedule.heads, schedule.tasks_at(run.updates))
    inner = run.config.inner()
    inner = inner if schedule.scope is None else replace(inner, scope=schedule.scope)
    model, params = run.model.to(resources.device), run.params_on(resources.device)
    rows = evaluate(model, params, tasks, inner, evaluation, resources.executor)
    names = (quantity(row.head, row.steps) if row.method == "maml" else row.method for row in rows)
    return {name: round(row.accuracy, 5) for name, row in zip(names, rows, strict=True)}


def _similarity(run: TrainedRun, images: ClassImages) -> Record:
    """Of the one task that the run is trained on, support and query images normalized apart."""
    support_x, support_y, query_x, query_y = run.config.test_tasks(images)[0]
    with torch.no_grad():
        support = run.model.features(run.params.encoder, support_x)
        query = run.model.query_features(run.params.encoder, support_x, query_x)
    maps = similarity_maps(support, support_y, query, query_y, run.config.ways)
    rounded = {name: _rounded(each) for name, each in zip(MAPS, maps, strict=True)}
    return {"values": {name: round(value or 0.0, 5) for name, value in contrasts(maps).items()}, "maps": rounded}


def same_class(record: Record) -> dict[str, float]:
    """How alike features of one class are, mean over classes, of every map that the record holds."""
    maps = record.get("maps", {})
    return {f"{name}, same class": fmean(row[i] for i, row in enumerate(each)) for name, each in maps.items()}


def _rounded(matrix: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in matrix.tolist()]
