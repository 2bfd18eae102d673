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
from metacontrast.diagnostics.similarity import MAPS, contrasts, similarity_maps
from metacontrast.experiments.setting import MeasurementPlan
from metacontrast.experiments.spec import Accuracy, Similarity
from metacontrast.training.evaluate import Evaluation, evaluate_tasks
from metacontrast.training.records import Record
from metacontrast.training.run import TrainedRun
from metacontrast.training.step import Resources
from metacontrast.types import Inner

TEST_SEED = 2022
NEAREST_MEAN = "nearest-mean"
"""The baseline without adaptation, as records name it."""
_FIRST, _BACKSLASH = ord("0"), ord("\\")


def measured_names(plan: MeasurementPlan, update: int) -> set[str]:
    """Return the names of the values that `measure` returns."""
    if plan.what == "similarity":
        return set(MAPS)
    bounds = (False, True) if plan.also_bound else (False,)
    steps = plan.steps_at(update)
    names = {str(Accuracy(head, step, bound)) for bound in bounds for head in plan.heads for step in steps}
    return names | {NEAREST_MEAN}


def measure(
    run: TrainedRun, plan: MeasurementPlan, train_images: ClassImages, test_images: ClassImages, resources: Resources
) -> Record:
    """Measure a kept model: values by name, number of tasks, and the correct queries of every task."""
    if plan.what == "similarity":
        return {"tasks": 1} | _similarity(run, train_images)
    evaluation = Evaluation(plan.steps_at(run.updates), plan.heads, plan.tasks_at(run.updates))
    inner = run.config.inner()
    inner = inner if plan.scope is None else replace(inner, scope=plan.scope)
    sampler = common_tasks(run, test_images)
    found = count_correct(run, sampler, inner, evaluation, resources)
    if plan.also_bound:
        bound_tasks = replace(sampler, labels=run.config.labels)
        bound = count_correct(run, bound_tasks, inner, evaluation, resources, is_bound=True)
        for kind in ("values", "correct"):
            found[kind] |= {name: value for name, value in bound[kind].items() if name != NEAREST_MEAN}
    return found


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
    names = [*(str(Accuracy(head, step, is_bound)) for head in evaluation.heads for step in steps), NEAREST_MEAN]
    queries = tasks.ways * tasks.queries
    counts = (scores.T * queries).round().int()
    return {
        "queries": queries,
        "tasks": evaluation.episodes,
        "values": {name: round(row.mean().item(), 5) for name, row in zip(names, scores.T, strict=True)},
        "correct": {name: encode_counts(row.tolist()) for name, row in zip(names, counts, strict=True)},
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


def within_class(record: Record) -> dict[str, float]:
    """Average the similarity within classes, for every map that the record holds."""
    maps = record.get("maps", {})
    return {
        str(Similarity(name, is_within_class=True)): fmean(row[i] for i, row in enumerate(each))
        for name, each in maps.items()
    }


def _rounded(matrix: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in matrix.tolist()]


def encode_counts(counts: Iterable[int]) -> str:
    """Encode counts, one character each.

    >>> encode_counts([0, 43, 44, 75])
    '0[]|'
    """
    return "".join(chr(_FIRST + c + (_FIRST + c >= _BACKSLASH)) for c in counts)


def decode_counts(text: str) -> Int[np.ndarray, " task"]:
    """Decode what `encode_counts` returned.

    >>> decode_counts("0[]|").tolist()
    [0, 43, 44, 75]
    """
    found = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.int64)
    return found - _FIRST - (found > _BACKSLASH)
