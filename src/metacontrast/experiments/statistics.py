"""Intervals and tests of differences that were measured on several training seeds and common test tasks.

A difference of seed i on task t is modelled with two crossed random effects,

    d_it = μ + S_i + T_t + E_it,        n seeds, m tasks,

so that its mean over both has the variance σ_S²/n + σ_T²/m + σ_E²/(nm). With the variances of the row means, of the
column means and of what is left (Searle, Casella and McCulloch, Variance Components, 1992) it is estimated as

    a + b,      a = var(d_i.)/n,    b = max(0, var(d_.t)/m − σ̂_E²/(nm)).

Its critical value lies between Student's t with n − 1 degrees of freedom and with m − 1, weighted as Cochran and Cox do
(Experimental Designs, 1957), but by a^1.5 and b^1.5. The exponent was chosen by simulation: with 1 the 95 % intervals
of three seeds cover up to 97.4 %, with Satterthwaite's degrees of freedom as few as 92.4 %, with 1.5 between 94.5 and
96.7 (`benchmarks/coverage.py`). Far out it errs too often: for three seeds 1.8 times as often as it says at a tail of
0.25 %, 4 times at 0.05 %. So below 0.5 %, the smallest tail at which verdicts are given, the half width is at least
√(a·t² + b·u²) with the two values of Student's t (Banerjee, Sankhyā 22, 1960), which errs no more often than it says.

Speed is compared by the updates that two learning curves need to reach the same accuracy.
A curve is known at its evaluations only. So the time at which it reaches a level is known only to lie between two of
them, and log₂(updates of the slow curve / updates of the fast one) between the bounds

    log₂(last of slow below / first of fast there) … log₂(first of slow there / last of fast below),

mean over five levels between the higher of the two first points and the lower of the two highest ones, because a single
level is decided by the noise of one evaluation. Where there are none, one curve having stayed below the other's first
point, the levels go up to the higher of the two highest points: the lower curve's time is then known to lie after its
last evaluation, and the ratio has one finite bound. Of several seeds the lower bounds give the lower end of the
interval and the upper bounds the upper end (Imbens and Manski 2004), each with two parts of error: the spread over
seeds, and the choice of test tasks, by bootstrap. The spread over seeds counts at least as much as if every time lay
uniformly between its two evaluations: seeds that fall between the same ones need not be alike. Where curves rise by
less than seeds differ, one of them stays below the other, and the bounds may be alike in all seeds by chance. So the
mean accuracy over all evaluations is compared too: a curve is faster only if it is also the higher one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, variance

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

ERROR = 0.05
"""Of a claim that is false, the chance to be called supported, over all looks; of a true one, to be called not so."""
LOOKS = {3: 0.5, 5: 0.25, 8: 0.15, 12: 0.1}
"""Numbers of seeds at which a verdict may be given, and the share of `ERROR` that each may spend: fixed beforehand."""
FEWEST_SEEDS = min(LOOKS)
_WEIGHT = 1.5
_FAR = min(LOOKS.values()) * ERROR
_HALVINGS = 50


@dataclass(frozen=True)
class Estimate:
    """A mean and the sources of its error.

    Args:
        parts: variance and degrees of freedom of every source of error; infinite variance where nothing is known.
        seeds, tasks: how many it rests on; no tasks where they are not covered.
    """

    mean: float
    parts: tuple[tuple[float, int], ...]
    seeds: int
    tasks: int = 0

    @property
    def error(self) -> float:
        """Standard error."""
        return math.sqrt(sum(variance for variance, _ in self.parts))

    def half_width(self, tail: float) -> float:
        """Return the distance from the mean to the end of an interval that leaves `tail` on one side."""
        if self.error in (0.0, math.inf):
            return self.error
        points = [float(stdtrit(df, 1 - tail)) for _, df in self.parts]
        weights = [variance**_WEIGHT for variance, _ in self.parts]
        half = self.error * sum(w * t for w, t in zip(weights, points, strict=True)) / sum(weights)
        if tail >= _FAR:
            return half
        return max(half, math.sqrt(sum(variance * t**2 for (variance, _), t in zip(self.parts, points, strict=True))))

    def interval(self, tail: float = 0.025) -> tuple[float, float]:
        """Return the interval that leaves `tail` on each side."""
        half = self.half_width(tail)
        return self.mean - half, self.mean + half

    def p_above(self, margin: float) -> float:
        """One-sided p value against a mean of `margin` or less; 1 where the estimate itself lies there."""
        return _tail_at(self, self.mean - margin)

    def p_below(self, margin: float) -> float:
        """One-sided p value against a mean of `margin` or more."""
        return _tail_at(self, margin - self.mean)

    def p_within(self, margin: float) -> float:
        """Two one-sided tests (TOST) that the mean lies within ± `margin` (Schuirmann 1987)."""
        return max(self.p_above(-margin), self.p_below(margin))

    def p_outside(self, margin: float) -> float:
        """p value against a mean within ± `margin`: of a result as far away or farther, on either side."""
        away = abs(self.mean)
        return min(1.0, _tail_at(self, away - margin) + _tail_at(self, away + margin))

    def with_more_seeds(self, seeds: int) -> "Estimate":
        """Extrapolate to more seeds of the same spread; the first part is the one of the seeds."""
        (of_seeds, _), *others = self.parts
        return replace(self, parts=((of_seeds * self.seeds / seeds, seeds - 1), *others), seeds=seeds)


def _tail_at(estimate: Estimate, distance: float) -> float:
    """Find by bisection the tail whose interval ends at `distance` from the mean."""
    if distance <= 0 or math.isinf(estimate.error):
        return 1.0
    if estimate.error == 0:
        return 0.0
    low, high = 0.0, 0.5
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if estimate.half_width(middle) <= distance else (middle, high)
    return high


def over_seeds(values: Sequence[float]) -> Estimate:
    """Estimate from one difference per seed: Student's interval, which does not cover the choice of test tasks.

    Equal differences give an interval of width 0.

    >>> low, high = over_seeds([1.0, 2.0, 3.0]).interval()
    >>> round((high - low) / 2, 3)  # 4.303 / sqrt(3)
    2.484
    """
    n = len(values)
    spread = variance(values) / n if n > 1 else math.inf
    return Estimate(fmean(values), ((spread, max(1, n - 1)),), n)


def over_seeds_and_tasks(differences: Float[np.ndarray, "seed task"]) -> Estimate:
    """Estimate from one difference per seed and task; the interval covers both."""
    n, m = differences.shape
    mean = float(differences.mean())
    if min(n, m) < 2:
        return Estimate(mean, ((math.inf, 1),), n, m)
    rows, columns = differences.mean(1), differences.mean(0)
    left = differences - rows[:, None] - columns + mean
    noise = float((left**2).sum()) / ((n - 1) * (m - 1)) / (n * m)
    of_seeds, of_tasks = float(rows.var(ddof=1)) / n, max(0.0, float(columns.var(ddof=1)) / m - noise)
    return Estimate(mean, ((of_seeds, n - 1), (of_tasks, m - 1)), n, m)


def seeds_at_look(available: int, planned: int) -> int:
    """Return how many seeds a verdict may use: those of the last look, or a number fixed beforehand."""
    if planned not in LOOKS:
        return min(available, planned)
    return max((look for look in LOOKS if look <= available), default=available)


def error_at_look(seeds: int, planned: int) -> float:
    """Return the one-sided error that a verdict on `seeds` seeds may spend; none before the first look.

    The shares add up to one, so that by Bonferroni all looks together err no more often than `ERROR`.
    """
    if planned in LOOKS:
        return ERROR * LOOKS.get(seeds, 0.0)
    return ERROR / 2 if seeds >= max(planned, FEWEST_SEEDS) else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values (Holm 1979): rejecting all below α errs with a probability of at most α.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, (len(p_values) - place) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


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
    >>> found = speed_up({10: 0.5, 20: 0.6}, {10: 0.2, 40: 0.4})
    >>> found.low, found.high
    (1.0, inf)
    """
    low, high = common_levels(fast, slow)
    if low >= high:
        high = max(*fast.values(), *slow.values())
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


@dataclass(frozen=True)
class SpeedEstimate:
    """How two curves compare over seeds and tasks.

    Args:
        lower, upper: bounds of the logarithm to base 2 of the ratio of updates.
        above: how far the mean accuracy of the fast curve lies above that of the slow one.
        levels: between which accuracies, mean over seeds.
    """

    lower: Estimate
    upper: Estimate
    above: Estimate
    levels: tuple[float, float]

    @property
    def p_faster(self) -> float:
        """One-sided p value against a fast curve that is not the faster one, or not the higher one."""
        return max(self.lower.p_above(0.0), self.above.p_above(0.0))

    @property
    def p_slower(self) -> float:
        """One-sided p value against a fast curve that is not the slower one, or not the lower one."""
        return max(self.upper.p_below(0.0), self.above.p_below(0.0))

    def with_more_seeds(self, seeds: int) -> "SpeedEstimate":
        """Extrapolate to more seeds of the same spread."""
        lower, upper, above = (each.with_more_seeds(seeds) for each in (self.lower, self.upper, self.above))
        return SpeedEstimate(lower, upper, above, self.levels)


def estimate_speed_up(
    fast: Mapping[int, Float[np.ndarray, "seed task"]], slow: Mapping[int, Float[np.ndarray, "seed task"]]
) -> SpeedEstimate:
    """Estimate the ratio of updates that `slow` needs to those that `fast` needs, over seeds and tasks.

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
    higher = np.mean([*fast.values()], axis=0) - np.mean([*slow.values()], axis=0)
    above = over_seeds_and_tasks(higher) if tasks > 1 else over_seeds(higher[:, 0].tolist())
    return SpeedEstimate(lower, upper, above, (low, high))


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
    of_tasks = variance(resampled) if all(map(math.isfinite, resampled)) else math.inf
    return Estimate(mean, ((of_seeds, n - 1), (of_tasks, tasks - 1)), n, tasks)


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
    before, there = reached_between(curve, level)
    if before == 0 or math.isinf(there):
        return there
    low, high = curve[int(before)], curve[int(there)]
    return before + (there - before) * (level - low) / (high - low)
