"""How many times the updates of one learning curve another needs to get as far.

    log₂(updates of the slow curve / updates of the fast one) to a level,    mean over five levels

between the higher of the two first points and the lower of the two highest ones, because a single level is decided by
the noise of one evaluation. Between evaluations curves count as straight.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

Bound = Literal["at least", "at most"]
_LEVELS = 5


@dataclass(frozen=True)
class SpeedUp:
    """A ratio of updates.

    Args:
        log2: its logarithm.
        levels: between which accuracies.
        bound: whether the ratio is only known to lie on one side, because one curve starts above all of the other.
    """

    log2: float
    levels: tuple[float, float]
    bound: Bound | None = None


def speed_up(fast: Mapping[int, float], slow: Mapping[int, float]) -> SpeedUp:
    """How many times the updates of `fast` does `slow` need? Curves are accuracies by update.

    >>> round(speed_up({10: 0.2, 20: 0.4, 30: 0.6}, {20: 0.2, 40: 0.4, 60: 0.6}).log2, 6)
    1.0
    >>> speed_up({10: 0.5, 20: 0.6}, {10: 0.2, 40: 0.4})
    SpeedUp(log2=2.0, levels=(0.5, 0.4), bound='at least')
    """
    starts = fast[min(fast)], slow[min(slow)]
    low, high = max(starts), min(max(fast.values()), max(slow.values()))
    if low < high:
        return SpeedUp(mean_log_ratio(fast, slow, low, high), (low, high))
    return SpeedUp(_log_ratio(fast, slow, high), (low, high), "at least" if starts[0] >= starts[1] else "at most")


def mean_log_ratio(fast: Mapping[int, float], slow: Mapping[int, float], low: float, high: float) -> float:
    """log₂ of the ratio of updates, mean over levels inside of `low` to `high`."""
    return fmean(_log_ratio(fast, slow, low + (high - low) * part / (_LEVELS + 1)) for part in range(1, _LEVELS + 1))


def _log_ratio(fast: Mapping[int, float], slow: Mapping[int, float], level: float) -> float:
    return math.log2(updates_to_reach(slow, level) / updates_to_reach(fast, level))


def updates_to_reach(curve: Mapping[int, float], level: float) -> float:
    """Updates until the curve, straight between its points, first reaches the level; infinite if never.

    A curve that starts at or above the level counts as reaching it at its first point.

    >>> updates_to_reach({10: 0.25, 20: 0.75}, 0.5)
    15.0
    """
    points = sorted(curve.items())
    before, low = points[0]
    if low >= level:
        return float(before)
    for update, value in points[1:]:
        if value >= level:
            return before + (update - before) * (level - low) / (value - low)
        before, low = update, value
    return math.inf
