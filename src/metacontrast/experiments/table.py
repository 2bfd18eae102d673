"""Measurements by kind of tasks, curve, seed and update, and the stage at which curves can be compared."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from metacontrast.experiments.authors_numbers import EARLY
from metacontrast.experiments.measurement import decode_counts, within_class
from metacontrast.experiments.setting import STAGE_TASKS
from metacontrast.experiments.spec import Curve, Endpoint, Measurement, Quantity, TaskKind, When
from metacontrast.experiments.statistics import FEWEST_SEEDS
from metacontrast.training.records import Record


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
        found = [(self._record(kind, each, update, seed), each) for seed in seeds for each in endpoints]
        counted = all(
            self._name(kind, each.curve, each.quantity) in record.get("correct", {}) for record, each in found
        )
        return min(record["tasks"] for record, _ in found), counted

    def scores(
        self, kind: TaskKind, endpoint: Endpoint, update: int, seeds: Sequence[int], tasks: int
    ) -> Float[np.ndarray, "seed task"]:
        """Return the shares of correct queries on the first `tasks` tasks; one column where there are means only."""
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

    def tasks_at(self, kind: TaskKind, curve: str, update: int, seeds: Sequence[int]) -> int:
        """Return the number of test tasks after `update` updates."""
        return min(self._records[kind, curve][seed][update]["tasks"] for seed in seeds)

    def _is_counted(self, kind: TaskKind, endpoints: Sequence[Endpoint], update: int, seeds: Sequence[int]) -> bool:
        tasks, counted = self.count_tasks(kind, endpoints, update, seeds)
        return counted and tasks >= STAGE_TASKS

    def _record(self, kind: TaskKind, endpoint: Endpoint, update: int, seed: int) -> Record:
        return self._records[kind, endpoint.curve][seed][update]

    def _scores(
        self, kind: TaskKind, endpoint: Endpoint, update: int, seed: int, tasks: int
    ) -> Float[np.ndarray, " task"]:
        record, name = self._record(kind, endpoint, update, seed), self._name(kind, endpoint.curve, endpoint.quantity)
        if name not in record.get("correct", {}):
            return np.array([record["values"][name]])
        return decode_counts(record["correct"][name])[:tasks] / record["queries"]

    def _name(self, kind: TaskKind, curve: str, quantity: Quantity) -> str:
        known = self.curves.get((kind, curve))
        return str(quantity) if known is None else quantity.key(known.config)
