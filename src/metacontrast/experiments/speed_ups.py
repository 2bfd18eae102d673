"""Ratios of the updates that two learning curves need to reach the same accuracy.

A curve is known at its evaluations only. So the time at which it reaches a level is known only to lie between two of
them, and log₂(updates of the slow curve / updates of the fast one) between the bounds

    log₂(last of slow below / first of fast there) … log₂(first of slow there / last of fast below),

mean over five levels between the higher of the two first points and the lower of the two highest ones, because a single
level is decided by the noise of one evaluation. Of several seeds the lower bounds give the lower end of the interval
and the upper bounds the upper end (Imbens and Manski 2004), each with two parts of error: the spread over seeds, and
the choice of test tasks, by bootstrap. The spread over seeds counts at least as much as if every time lay uniformly
between its two evaluations: seeds that fall between the same ones need not be alike.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np
from jaxtyping import Float

from metacontrast.experiments.statistics import Estimate

Points = Mapping[int, float]
"""Accuracy by update."""
_LEVELS = 5
_RESAMPLES = 100


@dataclass(frozen=True)
class SpeedUp:
    """Bounds of a ratio of updates.

    Args:
        low, high: of its logarithm to base 2.
        levels: between which accuracies.
        within: variance of the logarithm if both times lie uniformly between their evaluations.
    """

    low: float
    high: float
    levels: tuple[float, float]
    within: float


def speed_up(fast: Points, slow: Points) -> SpeedUp:
    """Bound the ratio of updates that `slow` needs to those that `fast` needs.

    >>> found = speed_up({10: 0.2, 20: 0.6}, {20: 0.2, 40: 0.6})
    >>> found.low, found.high
    (0.0, 2.0)
    """
    low, high = common_levels(fast, slow)
    levels = _between(low, high) if low < high else [high]
    cells = [(reached_between(fast, level), reached_between(slow, level)) for level in levels]
    return SpeedUp(
        fmean(_log2(slow_cell[0], fast_cell[1]) for fast_cell, slow_cell in cells),
        fmean(_log2(slow_cell[1], fast_cell[0]) for fast_cell, slow_cell in cells),
        (low, high),
        fmean((_width(fast, a) ** 2 + _width(slow, b) ** 2) / 12 for a, b in cells),
    )


def common_levels(fast: Points, slow: Points) -> tuple[float, float]:
    """Return the range of levels that both curves pass: from the higher first value to the lower maximum."""
    return max(fast[min(fast)], slow[min(slow)]), min(max(fast.values()), max(slow.values()))


def reached_between(curve: Points, level: float) -> tuple[float, float]:
    """Find the evaluations between which the curve first reaches the level.

    >>> reached_between({10: 0.25, 20: 0.75}, 0.5), reached_between({10: 0.6}, 0.5), reached_between({10: 0.1}, 0.5)
    ((10.0, 20.0), (0.0, 10.0), (10.0, inf))
    """
    before = 0.0
    for update, value in sorted(curve.items()):
        if value >= level:
            return before, float(update)
        before = float(update)
    return before, math.inf


def estimate_speed_up(
    fast: Mapping[int, Float[np.ndarray, "seed task"]], slow: Mapping[int, Float[np.ndarray, "seed task"]]
) -> tuple[Estimate, Estimate, tuple[float, float]]:
    """Estimate the lower and the upper bound over seeds and tasks; return them with the levels, mean over seeds.

    Args:
        fast, slow: by update, the accuracy on every seed and task; a single column counts as a mean over unknown tasks.
    """
    tasks = next(iter(fast.values())).shape[1]
    found = _of_seeds(fast, slow, np.full(tasks, 1 / tasks))
    generator = np.random.default_rng(0)
    resampled = [
        _of_seeds(fast, slow, generator.multinomial(tasks, np.full(tasks, 1 / tasks)) / tasks)
        for _ in range(_RESAMPLES if tasks > 1 else 0)
    ]
    lower, upper = (
        _estimate([end(each) for each in found], [fmean(map(end, each)) for each in resampled], found, tasks)
        for end in (lambda each: each.low, lambda each: each.high)
    )
    low, high = (fmean(each.levels[end] for each in found) for end in (0, 1))
    return lower, upper, (low, high)


def _of_seeds(fast: Mapping[int, np.ndarray], slow: Mapping[int, np.ndarray], weights: np.ndarray) -> list[SpeedUp]:
    curves = [{update: (values @ weights).tolist() for update, values in each.items()} for each in (fast, slow)]
    seeds = range(len(next(iter(curves[0].values()))))
    return [speed_up(*({update: values[seed] for update, values in each.items()} for each in curves)) for seed in seeds]


def _estimate(values: Sequence[float], resampled: Sequence[float], found: Sequence[SpeedUp], tasks: int) -> Estimate:
    n, mean = len(values), fmean(values)
    if n < 2 or math.isinf(mean):
        return Estimate(mean, ((math.inf, 1),), n, tasks if tasks > 1 else 0)
    of_seeds = max(variance(values), fmean(each.within for each in found)) / n
    if tasks == 1:
        return Estimate(mean, ((of_seeds, n - 1),), n)
    finite = [value for value in resampled if math.isfinite(value)]
    return Estimate(mean, ((of_seeds, n - 1), (variance(finite), tasks - 1)), n, tasks)


def _width(curve: Points, cell: tuple[float, float]) -> float:
    """Measure the distance of two evaluations on the scale of log₂; at an open end that of the neighbouring pair."""
    updates, (before, there) = sorted(map(float, curve)), cell
    if before == 0:
        return _log2(updates[min(1, len(updates) - 1)], updates[0])
    return _log2(there, before) if math.isfinite(there) else _log2(updates[-1], updates[max(0, len(updates) - 2)])


def _log2(larger: float, smaller: float) -> float:
    if larger == 0 or math.isinf(smaller):
        return -math.inf
    return math.inf if smaller == 0 or math.isinf(larger) else math.log2(larger / smaller)


def _between(low: float, high: float) -> list[float]:
    return [low + (high - low) * part / (_LEVELS + 1) for part in range(1, _LEVELS + 1)]


def mean_log_ratio(fast: Points, slow: Points, low: float, high: float) -> float:
    """Average log₂ of the ratio of updates over levels between `low` and `high`, with linear interpolation."""
    return fmean(
        math.log2(updates_to_reach(slow, level) / updates_to_reach(fast, level)) for level in _between(low, high)
    )


def updates_to_reach(curve: Points, level: float) -> float:
    """Interpolate the number of updates at which the curve first reaches the level; infinite if never.

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
