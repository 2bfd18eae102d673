"""Measurements of a trained model: accuracy on common test tasks, or how alike its features are.

Every run of a data set and shape of tasks is tested on the same tasks, whatever its training seed, so that runs can
be compared pair by pair and task by task. What is kept is the number of correct queries on every single task, one
character each: 0 … 43 are the characters from `0` on, 44 and more those after the backslash, which JSON would escape.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from metacontrast.data.episodes import EpisodeSampler
from metacontrast.data.images import ClassImages
from metacontrast.diagnostics.label_order import cyclic_orders, label_order_accuracy, spread
from metacontrast.diagnostics.similarity import MAPS, contrasts, similarity_maps
from metacontrast.experiments.setting import Schedule
from metacontrast.experiments.spec import Accuracy, Similarity, Solved
from metacontrast.maml.inner import Inner
from metacontrast.training.evaluate import Evaluation, evaluate_tasks
from metacontrast.training.records import Record
from metacontrast.training.run import TrainedRun
from metacontrast.training.step import Resources

TEST_SEED = 2022
NEAREST_MEAN = "nearest-mean"
"""The baseline without adaptation, as records name it."""
LABEL_ORDER, ORDERED_TASKS = "label order", 100
"""What the order of labels moves the accuracy by, as records name it, and on how many tasks at most."""
CORE_SECONDS = "core-seconds"
"""The time of a core that an update takes, as records name it."""
_FIRST, _BACKSLASH = ord("0"), ord("\\")


def measured_names(schedule: Schedule, update: int) -> set[str]:
    """Return the names of the values that `measure` returns."""
    if schedule.what == "similarity":
        return set(MAPS)
    bounds = (False, True) if schedule.also_bound else (False,)
    steps = schedule.steps_at(update)
    names = {str(Accuracy(head, step, bound)) for bound in bounds for head in schedule.heads for step in steps}
    names |= {str(Solved(solver)) for solver in schedule.solvers_at(update)}
    if schedule.selects and update == schedule.end:
        names |= {f"selected {name}" for name in names} | {LABEL_ORDER, CORE_SECONDS}
    return names


def measure(
    run: TrainedRun,
    schedule: Schedule,
    train_images: ClassImages,
    test_images: ClassImages,
    resources: Resources,
    update: int | None = None,
) -> Record:
    """Measure a kept model: values by name, number of tasks, and the correct queries of every task.

    Args:
        update: measure as after so many updates; None is as many as there were.
    """
    if schedule.what == "similarity":
        return {"tasks": 1} | _similarity(run, train_images)
    at = run.updates if update is None else update
    evaluation = Evaluation(schedule.steps_at(at), schedule.heads, schedule.tasks_at(at), schedule.solvers_at(at))
    inner = run.config.inner()
    inner = inner if schedule.scope is None else replace(inner, scope=schedule.scope)
    sampler = common_tasks(run, test_images)
    found = count_correct(run, sampler, inner, evaluation, resources)
    if schedule.also_bound:
        bound_tasks = replace(sampler, labels=run.config.labels)
        bound = count_correct(run, bound_tasks, inner, evaluation, resources, is_bound=True)
        for kind in ("values", "correct"):
            found[kind] |= {name: value for name, value in bound[kind].items() if name.startswith("bound")}
    return found


def with_selected(record: Record, selected: Record, order: float, core_seconds: float) -> Record:
    """The record of a run's end with that of the model that validation chose.

    Args:
        order: what the order of labels moves its accuracy by.
        core_seconds: the time of an update.
    """
    for kind in ("values", "correct"):
        record[kind] |= {f"selected {name}": value for name, value in selected[kind].items()}
    record["values"] |= {LABEL_ORDER: round(order, 5), CORE_SECONDS: round(core_seconds, 5)}
    return record


def label_order_spread(run: TrainedRun, test_images: ClassImages, tasks: int, resources: Resources) -> float:
    """Best minus worst accuracy over cyclic orders of a test task's labels, mean over tasks, as the method answers."""
    model, params = run.model.to(resources.device), run.params_on(resources.device)
    episodes = common_tasks(run, test_images).batch(range(tasks))
    orders = cyclic_orders(run.config.ways)
    found = label_order_accuracy(model, params, episodes, run.config.inner(), orders, resources.executor)
    return spread(found)


def common_tasks(run: TrainedRun, images: ClassImages) -> EpisodeSampler:
    """Return the test tasks that every run of the data set and shape shares."""
    return replace(run.config.test_tasks(images), seed=TEST_SEED)


def count_correct(
    run: TrainedRun,
    tasks: EpisodeSampler,
    inner: Inner,
    evaluation: Evaluation,
    resources: Resources,
    is_bound: bool = False,
) -> Record:
    """Evaluate and return, by quantity, the accuracy and the number of correct queries of every task."""
    model, params = run.model.to(resources.device), run.params_on(resources.device)
    scores = evaluate_tasks(model, params, tasks, inner, evaluation, resources.executor)
    steps = sorted(set(evaluation.steps))
    names = [str(Accuracy(head, step, is_bound)) for head in evaluation.heads for step in steps]
    names += [str(Solved(solver)) for solver in evaluation.solvers]
    queries = tasks.ways * tasks.queries
    counts = (scores.T * queries).round().int()
    return {
        "queries": queries,
        "tasks": evaluation.episodes,
        "values": {name: round(row.mean().item(), 5) for name, row in zip(names, scores.T, strict=True)},
        "correct": {name: encode(row.tolist()) for name, row in zip(names, counts, strict=True)},
    }


def _similarity(run: TrainedRun, images: ClassImages) -> Record:
    """Measure similarities on the one task that the run is trained on, support and query normalized apart."""
    support_x, support_y, query_x, query_y = run.config.test_tasks(images)[0]
    with torch.no_grad():
        support = run.model.features(run.params.encoder, support_x)
        query = run.model.query_features(run.params.encoder, support_x, query_x)
    maps = similarity_maps(support, support_y, query, query_y, run.config.ways)
    rounded = {name: _rounded(each) for name, each in zip(MAPS, maps, strict=True)}
    return {"values": {name: round(value or 0.0, 5) for name, value in contrasts(maps).items()}, "maps": rounded}


def measured_once(values: Mapping[str, float]) -> Record:
    """Build the record of values that are computed without training or tasks."""
    return {"update": 1, "tasks": 1, "values": dict(values)}


def same_class(record: Record) -> dict[str, float]:
    """Average the similarity within classes, for every map that the record holds."""
    maps = record.get("maps", {})
    return {
        str(Similarity(name, is_within_class=True)): fmean(row[i] for i, row in enumerate(each))
        for name, each in maps.items()
    }


def _rounded(matrix: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in matrix.tolist()]


def encode(counts: Iterable[int]) -> str:
    """Encode counts, one character each.

    >>> encode([0, 43, 44, 75])
    '0[]|'
    """
    return "".join(chr(_FIRST + c + (_FIRST + c >= _BACKSLASH)) for c in counts)


def decode(text: str) -> Int[np.ndarray, " task"]:
    """Decode what `encode` returned.

    >>> decode("0[]|").tolist()
    [0, 43, 44, 75]
    """
    found = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.int64)
    return found - _FIRST - (found > _BACKSLASH)
