"""Measurements of trained models: accuracy on common test tasks, or how alike features are; and their table.

Every run of a data set and shape of tasks is tested on the same tasks, whatever its training seed, so that runs can
be compared pair by pair and task by task. What is kept is the number of correct queries on every single task, one
character each: 0 … 43 are the characters from `0` on, 44 and more those after the backslash, which JSON would escape.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Int

from metacontrast.data.episodes import EpisodeSampler
from metacontrast.data.images import ClassImages
from metacontrast.diagnostics.gradient import cyclic_orders, label_order_accuracy, spread
from metacontrast.diagnostics.task_view import MAPS, contrasts, similarity_maps
from metacontrast.errors import InputError
from metacontrast.experiments.claims import (
    EARLY,
    Accuracy,
    Endpoint,
    Number,
    Quantity,
    Similarity,
    Solved,
    TaskKind,
    When,
)
from metacontrast.experiments.setting import STAGE_TASKS, MeasurementPlan
from metacontrast.experiments.spec import Curve, Measurement
from metacontrast.experiments.statistics import FEWEST_SEEDS
from metacontrast.training.evaluate import Evaluation, evaluate_tasks
from metacontrast.training.records import Record
from metacontrast.training.run import TrainedRun
from metacontrast.training.step import Resources
from metacontrast.types import Inner

TEST_SEED = 2022
NEAREST_MEAN = "nearest-mean"
"""The baseline without adaptation, as records name it."""
LABEL_ORDER, ORDERED_TASKS = "label order", 100
"""What the order of labels moves the accuracy by, as records name it, and on how many tasks at most."""
CORE_SECONDS = "core-seconds"
"""The time of a core that an update takes, as records name it."""
UNCOUNTED = frozenset({LABEL_ORDER, CORE_SECONDS, *MAPS})
"""Quantities of which there are no correct answers to count."""
_FIRST, _BACKSLASH = ord("0"), ord("\\")


def measured_names(plan: MeasurementPlan, update: int) -> set[str]:
    """Return the names of the values that `measure` returns."""
    if plan.what == "similarity":
        return set(MAPS)
    bounds = (False, True) if plan.also_bound else (False,)
    names = {name for bound in bounds for name in measured_quantities(plan.evaluation(update), bound)}
    if plan.selects and update == plan.end:
        selected = names.union(measured_quantities(plan.detailed))
        names |= {f"selected {name}" for name in selected} | {LABEL_ORDER, CORE_SECONDS}
    return names


def measure(
    run: TrainedRun,
    plan: MeasurementPlan,
    train_images: ClassImages,
    test_images: ClassImages,
    resources: Resources,
    evaluation: Evaluation | None = None,
) -> Record:
    """Measure a kept model: values by name, number of tasks, and the correct queries of every task.

    Args:
        evaluation: of the test tasks; None is what the plan has for the run's number of updates.
    """
    if plan.what == "similarity":
        return {"tasks": 1} | _similarity(run, train_images)
    evaluation = evaluation or plan.evaluation(run.updates)
    inner = run.config.inner()
    inner = inner if plan.scope is None else replace(inner, scope=plan.scope)
    sampler = common_tasks(run, test_images)
    found = count_correct(run, sampler, inner, evaluation, resources)
    if plan.also_bound:
        bound_tasks = replace(sampler, labels=run.config.labels)
        bound = count_correct(run, bound_tasks, inner, evaluation, resources, is_bound=True)
        for kind in ("values", "correct"):
            found[kind] |= {name: value for name, value in bound[kind].items() if name.startswith("bound")}
    return found


def label_order_spread(run: TrainedRun, test_images: ClassImages, tasks: int, resources: Resources) -> float:
    """Return best minus worst accuracy over cyclic orders of a test task's labels, mean over tasks."""
    model, params = run.model.to(resources.device), run.params_on(resources.device)
    episodes = common_tasks(run, test_images).batch(range(tasks))
    orders = cyclic_orders(run.config.ways)
    found = label_order_accuracy(model, params, episodes, run.config.inner(), orders, resources.executor)
    return spread(found)


def common_tasks(run: TrainedRun, images: ClassImages) -> EpisodeSampler:
    """Return the test tasks that every run of the data set and shape shares."""
    return replace(run.config.test_tasks(images), seed=TEST_SEED)


def measured_quantities(evaluation: Evaluation, is_bound: bool = False) -> list[str]:
    """Return the names of what an evaluation measures, in its order."""
    steps = sorted(set(evaluation.steps))
    names = [str(Accuracy(head, step, is_bound)) for head in evaluation.heads for step in steps]
    return [*names, *(str(Solved(solver)) for solver in evaluation.solvers)]


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
    names = measured_quantities(evaluation, is_bound)
    queries = tasks.ways * tasks.queries
    counts = (scores.T * queries).round().int()
    return {
        "queries": queries,
        "tasks": evaluation.episodes,
        "values": {name: round(row.mean().item(), 5) for name, row in zip(names, scores.T, strict=True)},
        "correct": {name: encode_counts(row.tolist()) for name, row in zip(names, counts, strict=True)},
    }


def _similarity(run: TrainedRun, images: ClassImages) -> Record:
    """Measure similarities on the one task of the training, support and query normalized separately."""
    support_x, support_y, query_x, query_y = run.config.test_tasks(images)[0]
    with torch.no_grad():
        support = run.model.features(run.params.encoder, support_x)
        query = run.model.query_features(run.params.encoder, support_x, query_x)
    maps = similarity_maps(support, support_y, query, query_y, run.config.ways)
    rounded = [[[round(value, 4) for value in row] for row in each] for each in maps.tolist()]
    values = {name: round(value or 0.0, 5) for name, value in contrasts(maps).items()}
    return {"values": values, "maps": dict(zip(MAPS, rounded, strict=True))}


def measured_once(values: Mapping[str, float], update: int = 1) -> Record:
    """Build the record of values that are computed without images or test tasks."""
    return {"update": update, "tasks": 1, "values": dict(values)}


def within_class(record: Record) -> dict[str, float]:
    """Average the similarity within classes, for every map that the record holds."""
    maps = record.get("maps", {})
    return {
        str(Similarity(name, is_within_class=True)): fmean(row[i] for i, row in enumerate(each))
        for name, each in maps.items()
    }


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


class Table:
    """Measurements of a figure's curves.

    Args:
        curves: those that may have been measured; the table keeps those that were.
        full_updates: of every curve, how many updates the published training has, where that is known.
    """

    def __init__(
        self,
        curves: Sequence[Curve],
        measurements: Sequence[Measurement],
        full_updates: Mapping[tuple[TaskKind, str], int] = MappingProxyType({}),
    ):
        self.full_updates = full_updates
        self._records: dict[tuple[TaskKind, str], dict[int, dict[int, Record]]] = {}
        for each in measurements:
            by_update = self._records.setdefault((each.kind, each.curve), {}).setdefault(each.seed, {})
            values = each.record["values"] | within_class(each.record)
            by_update[each.record["update"]] = each.record | {"values": values}
        self.curves = {key: each for each in curves if (key := (each.kind, each.name)) in self._records}

    def has(self, kind: TaskKind, endpoint: Endpoint) -> bool:
        """Tell whether anything was measured of the endpoint."""
        return any(self.values(kind, endpoint.curve, endpoint.quantity).values())

    def values(self, kind: TaskKind, curve: str, quantity: Quantity) -> dict[int, dict[int, float]]:
        """Return the quantity by seed and update, where it was measured."""
        name = self._name(kind, curve, quantity)
        return {
            seed: {update: record["values"][name] for update, record in by_update.items() if name in record["values"]}
            for seed, by_update in self._records.get((kind, curve), {}).items()
        }

    def means(self, kind: TaskKind, curve: str, quantity: Quantity) -> dict[int, float]:
        """Return the mean over seeds of the quantity by update, where it was measured."""
        found: dict[int, list[float]] = {}
        for values in self.values(kind, curve, quantity).values():
            for update, value in values.items():
                found.setdefault(update, []).append(value)
        return {update: fmean(values) for update, values in sorted(found.items())}

    def core_seconds(self, kind: TaskKind, curve: str) -> float | None:
        """Return what an update takes of a core, mean over seeds, as last measured; None where it was not."""
        found = self.means(kind, curve, Number(CORE_SECONDS))
        return found[max(found)] if found else None

    def planned(self, kind: TaskKind, curve: str) -> int:
        """Return how many seeds of the curve were planned."""
        known = self.curves.get((kind, curve))
        return len(self._records[kind, curve] if known is None else known.seeds)

    def common(self, kind: TaskKind, endpoints: Iterable[Endpoint]) -> dict[int, list[int]]:
        """Return by update the seeds of which all endpoints were measured."""
        curves = [self.values(kind, endpoint.curve, endpoint.quantity) for endpoint in endpoints]
        seeds = sorted(set.intersection(*(set(each) for each in curves)))
        updates = {update for each in curves for curve in each.values() for update in curve}
        found = {u: [seed for seed in seeds if all(u in each[seed] for each in curves)] for u in sorted(updates)}
        return {update: those for update, those in found.items() if those}

    def stage(self, kind: TaskKind, endpoints: Sequence[Endpoint], when: When) -> tuple[int, list[int]] | None:
        """Find the last update (of the early ones if asked) at which all endpoints can be compared, and on which seeds.

        An update with enough seeds comes before one without, and one with enough counted test tasks before one with
        fewer tasks or means only.
        """
        full = self.full(kind, endpoints)
        found = self.common(kind, endpoints)
        if when == "early" and full is not None:
            found = {update: seeds for update, seeds in found.items() if EARLY * update <= full}
        rank = {
            update: (len(seeds) >= FEWEST_SEEDS, self._is_counted(kind, endpoints, update, seeds), update)
            for update, seeds in found.items()
        }
        best = max(rank, key=rank.__getitem__, default=None)
        return None if best is None else (best, found[best])

    def full(self, kind: TaskKind, endpoints: Sequence[Endpoint]) -> int | None:
        """Return the published length of the shortest of the curves; None where it is unknown."""
        known = [self.full_updates.get((kind, endpoint.curve)) for endpoint in endpoints]
        return min((each for each in known if each is not None), default=None)

    def count_tasks(
        self, kind: TaskKind, endpoints: Sequence[Endpoint], update: int, seeds: Sequence[int]
    ) -> tuple[int, bool]:
        """Count the common test tasks, and tell whether correct answers were counted on every one."""
        found = [(self._records[kind, each.curve][seed][update], each) for seed in seeds for each in endpoints]
        counted = all(
            self._name(kind, each.curve, each.quantity) in record.get("correct", {}) for record, each in found
        )
        return min(record["tasks"] for record, _ in found), counted

    def scores(
        self, kind: TaskKind, endpoint: Endpoint, update: int, seeds: Sequence[int], tasks: int
    ) -> Float[np.ndarray, "seed task"]:
        """Return the shares of correct queries on the first `tasks` tasks; one column where there are means only.

        Raises:
            InputError: a mean is over more tasks than these.
        """
        rows = [self._scores(kind, endpoint, update, seed, tasks) for seed in seeds]
        return np.stack(rows if len({len(row) for row in rows}) == 1 else [row.mean(keepdims=True) for row in rows])

    def names(self, kind: TaskKind, curve: str, update: int) -> list[str]:
        """List the names of what was measured after `update` updates, on any seed."""
        records = [each[update] for each in self._records[kind, curve].values() if update in each]
        return list(dict.fromkeys(name for record in records for name in record["values"]))

    def last(self, kind: TaskKind, curve: str, quantity: Quantity) -> tuple[int, list[int]]:
        """Return the last update at which a curve is shown, and its seeds."""
        found = self.stage(kind, [Endpoint(curve, quantity)], "end")
        return found or max((update, [seed]) for seed, curve in self._records[kind, curve].items() for update in curve)

    def _is_counted(self, kind: TaskKind, endpoints: Sequence[Endpoint], update: int, seeds: Sequence[int]) -> bool:
        tasks, counted = self.count_tasks(kind, endpoints, update, seeds)
        return counted and tasks >= STAGE_TASKS

    def _scores(
        self, kind: TaskKind, endpoint: Endpoint, update: int, seed: int, tasks: int
    ) -> Float[np.ndarray, " task"]:
        record = self._records[kind, endpoint.curve][seed][update]
        name = self._name(kind, endpoint.curve, endpoint.quantity)
        if name not in record.get("correct", {}):
            if record["tasks"] > tasks:
                raise InputError(
                    f"{kind}, {endpoint.curve}, seed {seed}: a mean over {record['tasks']} tasks cannot be compared on "
                    f"the first {tasks} of them: train it again, with counts for each task"
                )
            return np.array([record["values"][name]])
        return decode_counts(record["correct"][name])[:tasks] / record["queries"]

    def _name(self, kind: TaskKind, curve: str, quantity: Quantity) -> str:
        known = self.curves.get((kind, curve))
        return str(quantity) if known is None else quantity.key(known.config)
