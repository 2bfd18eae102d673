"""Measurements by panel, line, seed and update, and the stage at which lines can be compared."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from metacontrast.experiments.counts import decode
from metacontrast.experiments.measurement import same_class
from metacontrast.experiments.schedule import STAGE_TASKS
from metacontrast.experiments.spec import Line, Reading, When
from metacontrast.experiments.statistics import FEWEST_SEEDS
from metacontrast.training.records import Record

_EARLY = 5
"""The first fifth of training is early."""


class Table:
    """What was measured.

    Args:
        lines: those that may have been measured; the table keeps those that were.
        full_updates: by panel and line, how many updates the published training has, where that is known.
    """

    def __init__(
        self,
        lines: Sequence[Line],
        measurements: Sequence[Record],
        full_updates: Mapping[tuple[str, str], int] = MappingProxyType({}),
    ):
        self.full_updates = full_updates
        self._records: dict[tuple[str, str], dict[int, dict[int, Record]]] = {}
        for record in measurements:
            place = self._records.setdefault((record["panel"], record["line"]), {})
            values = record["values"] | same_class(record)
            place.setdefault(record["seed"], {})[record["update"]] = record | {"values": values}
        self.lines = {(line.panel, line.name): line for line in lines if (line.panel, line.name) in self._records}

    def has(self, panel: str, reading: Reading) -> bool:
        """Whether anything was measured of it."""
        return any(self.curves(panel, reading.line, reading.quantity).values())

    def curves(self, panel: str, line: str, quantity: str) -> dict[int, dict[int, float]]:
        """By seed, the quantity by update, where it was measured."""
        name = self._name(panel, line, quantity)
        return {
            seed: {update: record["values"][name] for update, record in by_update.items() if name in record["values"]}
            for seed, by_update in self._records.get((panel, line), {}).items()
        }

    def planned(self, panel: str, line: str) -> int:
        """How many seeds were planned."""
        known = self.lines.get((panel, line))
        return len(self._records[panel, line] if known is None else known.seeds)

    def common(self, panel: str, readings: Iterable[Reading]) -> dict[int, list[int]]:
        """By update, the seeds of which all readings were measured."""
        curves = [self.curves(panel, reading.line, reading.quantity) for reading in readings]
        seeds = sorted(set.intersection(*(set(each) for each in curves)))
        updates = {update for each in curves for curve in each.values() for update in curve}
        found = {u: [seed for seed in seeds if all(u in each[seed] for each in curves)] for u in sorted(updates)}
        return {update: those for update, those in found.items() if those}

    def stage(self, panel: str, readings: Sequence[Reading], when: When) -> tuple[int, list[int]] | None:
        """The last update, of the early ones if asked, after which all readings can be compared, and on which seeds.

        An update with enough seeds comes before one without, and one with enough counted test tasks before one with
        fewer tasks or means only.
        """
        full = self.full(panel, readings)
        found = self.common(panel, readings)
        if when == "early" and full is not None:
            found = {update: seeds for update, seeds in found.items() if _EARLY * update <= full}
        rank = {
            update: (len(seeds) >= FEWEST_SEEDS, self._is_counted(panel, readings, update, seeds), update)
            for update, seeds in found.items()
        }
        best = max(rank, key=rank.__getitem__, default=None)
        return None if best is None else (best, found[best])

    def full(self, panel: str, readings: Sequence[Reading]) -> int | None:
        """The published length of the shortest of the lines; None where it is unknown."""
        known = [self.full_updates.get((panel, reading.line)) for reading in readings]
        return min((each for each in known if each is not None), default=None)

    def tasks(self, panel: str, readings: Sequence[Reading], update: int, seeds: Sequence[int]) -> tuple[int, bool]:
        """On how many common test tasks, and whether every one of them was counted."""
        found = [(self._record(panel, each, update, seed), each) for seed in seeds for each in readings]
        counted = all(
            self._name(panel, each.line, each.quantity) in record.get("correct", {}) for record, each in found
        )
        return min(record["tasks"] for record, _ in found), counted

    def scores(
        self, panel: str, reading: Reading, update: int, seeds: Sequence[int], tasks: int
    ) -> Float[np.ndarray, "seed task"]:
        """The share of correct queries on the first so many tasks; a single column where there are means only."""
        rows = [self._scores(panel, reading, update, seed, tasks) for seed in seeds]
        return np.stack(rows if len({len(row) for row in rows}) == 1 else [row.mean(keepdims=True) for row in rows])

    def quantities(self, panel: str, line: str, update: int) -> list[str]:
        """What was measured after so many updates, on any seed."""
        records = [each[update] for each in self._records[panel, line].values() if update in each]
        return list(dict.fromkeys(name for record in records for name in record["values"]))

    def last(self, panel: str, line: str, quantity: str) -> tuple[int, list[int]]:
        """The last update at which a line is shown, and its seeds."""
        found = self.stage(panel, [Reading(line, quantity)], "end")
        return found or max((update, [seed]) for seed, curve in self._records[panel, line].items() for update in curve)

    def tasks_at(self, panel: str, line: str, update: int, seeds: Sequence[int]) -> int:
        """The number of test tasks after so many updates."""
        return min(self._records[panel, line][seed][update]["tasks"] for seed in seeds)

    def _is_counted(self, panel: str, readings: Sequence[Reading], update: int, seeds: Sequence[int]) -> bool:
        tasks, counted = self.tasks(panel, readings, update, seeds)
        return counted and tasks >= STAGE_TASKS

    def _record(self, panel: str, reading: Reading, update: int, seed: int) -> Record:
        return self._records[panel, reading.line][seed][update]

    def _scores(self, panel: str, reading: Reading, update: int, seed: int, tasks: int) -> Float[np.ndarray, " task"]:
        record, name = self._record(panel, reading, update, seed), self._name(panel, reading.line, reading.quantity)
        if name not in record.get("correct", {}):
            return np.array([record["values"][name]])
        return decode(record["correct"][name])[:tasks] / record["queries"]

    def _name(self, panel: str, line: str, quantity: str) -> str:
        known = self.lines.get((panel, line))
        return quantity if known is None else known.named(quantity)
