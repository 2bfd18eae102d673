"""Verdicts: differences paired by training seed on the same test tasks, with their 95 % interval.

    d_i = Σ plus − Σ minus, one per seed;     d̄ ± t · s / √n,     t = 97.5 % point of Student's t with n − 1 degrees

A claim that d lies above m `holds` when the whole interval does, `does not hold` when the whole interval lies at m or
below; that d lies within ± m `holds` when the whole interval does, `does not hold` when none of it does. Otherwise, and
with fewer than three seeds, it is `undecided at this scale`.

That A is faster than B is judged on d = log₂(updates of B / updates of A), see `speed_ups`. Where d is only known to
lie beyond a bound, the bound takes its place, and the claim is only decided in the bound's favour.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Literal

from metacontrast.experiments.measurement import same_class
from metacontrast.experiments.spec import Claim, Comparison, Line, Reading
from metacontrast.experiments.speed_ups import Bound, SpeedUp, speed_up
from metacontrast.training.records import Record

Outcome = Literal["holds", "does not hold", "undecided at this scale"]
FEWEST_SEEDS = 3

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""97.5 % points of Student's t for 1, 2, … degrees of freedom."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval."""

    mean: float
    half: float
    seeds: int

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half


@dataclass(frozen=True)
class Judged:
    """A comparison with what came out; for `faster` the interval is of the logarithm to base 2 of the ratio.

    Args:
        updates: after how many it is judged.
        tasks: least and largest number of test tasks behind its numbers.
        full_updates: how many the published training has, where that is known.
        levels: for `faster`, between which accuracies, mean over seeds.
        bounds: for `faster`, on which sides the ratio is only bounded.
    """

    comparison: Comparison
    interval: Interval
    outcome: Outcome
    updates: int
    tasks: tuple[int, int]
    full_updates: int | None = None
    levels: tuple[float, float] | None = None
    bounds: frozenset[Bound] = frozenset()


@dataclass(frozen=True)
class Verdict:
    """A claim, its comparisons, and the verdict that follows from them."""

    claim: Claim
    judged: Sequence[Judged]
    outcome: Outcome


def student_interval(values: Sequence[float]) -> Interval:
    """Mean and half the 95 % interval; infinite for a single value.

    >>> round(student_interval([1.0, 2.0, 3.0]).half, 3)  # 4.303 / sqrt(3)
    2.484
    """
    n = len(values)
    if n < 2:
        return Interval(fmean(values), math.inf, n)
    t = _T_975[n - 2] if n - 2 < len(_T_975) else 2.13
    return Interval(fmean(values), t * stdev(values) / math.sqrt(n), n)


def outcome_of(interval: Interval, comparison: Comparison, bounds: Collection[Bound] = ()) -> Outcome:
    """What an interval says of a comparison; a bound decides on its own side only."""
    margin = comparison.margin
    if interval.seeds < FEWEST_SEEDS:
        return "undecided at this scale"
    if comparison.measure == "equal":
        holds, fails = -margin <= interval.low and interval.high <= margin, _apart(interval, margin)
    else:
        holds = interval.low > margin and "at most" not in bounds
        fails = interval.high <= margin and "at least" not in bounds
    return "holds" if holds else "does not hold" if fails else "undecided at this scale"


def overall(outcomes: Sequence[Outcome]) -> Outcome:
    """All must hold; one that does not hold decides."""
    if "does not hold" in outcomes:
        return "does not hold"
    return "holds" if all(outcome == "holds" for outcome in outcomes) else "undecided at this scale"


def judge(claim: Claim, table: "Table") -> Verdict:
    """The verdict on a claim; one about the end of the published training is undecided before it."""
    judged = [_judge(comparison, table) for comparison in claim.comparisons]
    if claim.about_the_end and any(each.updates < (each.full_updates or 0) for each in judged):
        return Verdict(claim, judged, "undecided at this scale")
    return Verdict(claim, judged, overall([each.outcome for each in judged]))


class Table:
    """Measurements by panel, line, seed and update.

    Args:
        full_updates: by panel, how many updates the published training has, where that is known.
    """

    def __init__(
        self,
        lines: Sequence[Line],
        measurements: Sequence[Record],
        full_updates: Mapping[str, int] = MappingProxyType({}),
    ):
        self.lines = {(line.panel, line.name): line for line in lines}
        self.full_updates = full_updates
        self._records: dict[tuple[str, str], dict[int, dict[int, Record]]] = {}
        for record in measurements:
            place = self._records.setdefault((record["panel"], record["line"]), {})
            values = record["values"] | same_class(record)
            place.setdefault(record["seed"], {})[record["update"]] = record | {"values": values}

    def curves(self, panel: str, line: str, quantity: str) -> dict[int, dict[int, float]]:
        """By seed, the quantity by update, where it was measured."""
        known = self.lines.get((panel, line))
        name = quantity if known is None else known.named(quantity)
        return {
            seed: {update: record["values"][name] for update, record in by_update.items() if name in record["values"]}
            for seed, by_update in self._records[panel, line].items()
        }

    def read(self, panel: str, reading: Reading) -> dict[int, float]:
        """One number per seed."""
        update = self.update(panel, reading)
        curves = self.curves(panel, reading.line, reading.quantity)
        return {seed: curve[update] for seed, curve in curves.items()}

    def update(self, panel: str, reading: Reading) -> int:
        """When it is taken; what was computed without training has one moment."""
        line = self.lines.get((panel, reading.line))
        return 1 if line is None else line.at(reading.when)

    def tasks(self, panel: str, reading: Reading) -> int:
        """The number of test tasks behind it."""
        return self.tasks_at(panel, reading.line, self.update(panel, reading))

    def tasks_at(self, panel: str, line: str, update: int) -> int:
        """The number of test tasks after so many updates."""
        return min(by_update[update]["tasks"] for by_update in self._records[panel, line].values())

    def quantities(self, panel: str, line: str, update: int) -> list[str]:
        """What was measured after so many updates."""
        return list(next(iter(self._records[panel, line].values()))[update]["values"])


def _judge(comparison: Comparison, table: Table) -> Judged:
    if comparison.measure == "faster":
        return _judge_speed(comparison, table)
    first, interval = comparison.plus[0], student_interval(_differences(comparison, table))
    updates, tasks = table.update(comparison.panel, first), table.tasks(comparison.panel, first)
    full = table.full_updates.get(comparison.panel)
    return Judged(comparison, interval, outcome_of(interval, comparison), updates, (tasks, tasks), full)


def _judge_speed(comparison: Comparison, table: Table) -> Judged:
    line = table.lines[comparison.panel, comparison.plus[0].line]
    found = _speed_ups(comparison, table)
    interval = student_interval([each.log2 for each in found])
    bounds: frozenset[Bound] = frozenset(each.bound for each in found if each.bound is not None)
    low, high = (fmean(each.levels[end] for each in found) for end in (0, 1))
    tasks = [table.tasks_at(line.panel, line.name, update) for update in line.updates]
    outcome, end, full = outcome_of(interval, comparison, bounds), line.updates[-1], table.full_updates.get(line.panel)
    return Judged(comparison, interval, outcome, end, (min(tasks), max(tasks)), full, (low, high), bounds)


def _differences(comparison: Comparison, table: Table) -> list[float]:
    plus = [table.read(comparison.panel, reading) for reading in comparison.plus]
    minus = [table.read(comparison.panel, reading) for reading in comparison.minus]
    seeds = sorted(set.intersection(*(set(each) for each in plus + minus)))
    return [sum(each[seed] for each in plus) - sum(each[seed] for each in minus) for seed in seeds]


def _speed_ups(comparison: Comparison, table: Table) -> list[SpeedUp]:
    """By seed."""
    fast, slow = (
        table.curves(comparison.panel, reading.line, reading.quantity)
        for reading in (comparison.plus[0], comparison.minus[0])
    )
    return [speed_up(fast[seed], slow[seed]) for seed in sorted(set(fast) & set(slow))]


def _apart(interval: Interval, margin: float) -> bool:
    return interval.low > margin or interval.high < -margin
