"""Rows of text for a figure's tables: the authors' numbers and ours."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from metacontrast.experiments.authors import (
    AuthorsNumbers,
    authors_numbers,
    authors_similarity,
    find_numbers,
    in_points,
    is_same_test,
)
from metacontrast.experiments.authors_models import PUBLISHED
from metacontrast.experiments.claims import Accuracy, Comparison, Endpoint, Number, Quantity, Similarity, TaskKind
from metacontrast.experiments.measurement import CORE_SECONDS, LABEL_ORDER, NEAREST_MEAN, Table
from metacontrast.experiments.pictures import curves_of
from metacontrast.experiments.spec import Curve, Panel
from metacontrast.experiments.statistics import ERROR, common_levels, mean_log_ratio
from metacontrast.experiments.verdicts import Judged, Verdict

NUMBERS_HEAD = (
    "",
    "published curve ends at",
    "authors, at the end",
    "authors, after as many updates",
    "here",
    "here − authors, after as many updates",
    "seeds, updates, tasks",
)


def numbers_rows(panel: Panel, table: Table) -> list[Sequence[str]]:
    """Build a row per curve of a panel: its last accuracy in per cent beside the authors'."""
    return [_numbers_row(curve, panel.quantity, table) for curve in curves_of(panel, table)]


def _numbers_row(curve: Curve, quantity: Quantity, table: Table) -> Sequence[str]:
    update, seeds = table.last(curve.kind, curve.name, quantity)
    by_seed = table.values(curve.kind, curve.name, quantity)
    values = [by_seed[seed][update] for seed in seeds]
    tasks, _ = table.count_tasks(curve.kind, [Endpoint(curve.name, quantity)], update, seeds)
    found = authors_numbers(curve, quantity)
    there = None if found is None else found.at(update)
    here = _spread(fmean(values), stdev(values) if len(values) > 1 else 0.0, len(values))
    difference = "—" if there is None or not is_same_test(curve) else in_points(fmean(values) - there[0])
    cells = (curve.name, *_authors_cells(found, update), here, difference)
    return (*cells, f"{len(values)}, {update:,}, {tasks}")


def _authors_cells(found: AuthorsNumbers | None, update: int) -> Sequence[str]:
    if found is None:
        return ("—", "—", "—")
    there, end = found.at(update), "—"
    if found.final is not None:
        mean, std = found.final
        end = f"{_spread(mean, std, found.seeds)} ({found.seeds} seed{'s' * (found.seeds > 1)}, {found.end:,})"
    as_far = "—" if there is None else _spread(*there, found.seeds)
    return ("—" if found.as_plotted is None else percent(found.as_plotted), end, as_far)


def steps_head(curves: Sequence[Curve], table: Table) -> list[str]:
    """List the names of all quantities that were last measured of any of the curves, in order."""
    names: dict[str, None] = {}
    for curve in curves:
        update, _ = table.last(curve.kind, curve.name, Number(NEAREST_MEAN))
        names |= dict.fromkeys(table.names(curve.kind, curve.name, update))
    return [name for name in names if name not in (LABEL_ORDER, CORE_SECONDS) and not name.startswith("selected")]


def steps_row(curve: Curve, names: Sequence[str], table: Table) -> Sequence[str]:
    """Build a row with means over seeds of all quantities at the curve's last update, in per cent."""
    update, cells = table.last(curve.kind, curve.name, Number(NEAREST_MEAN))[0], [curve.name]
    for name in names:
        by_seed = table.values(curve.kind, curve.name, Number(name)).values()
        values = [values[update] for values in by_seed if update in values]
        cells.append(percent(fmean(values)) if values else "—")
    return cells


def comparison_row(judged: Judged, table: Table) -> Sequence[str]:
    """Build a row: comparison, tasks, difference with its interval, sizes, verdict, the authors' numbers."""
    comparison = judged.comparison
    tasks = f"{judged.lower.tasks:,}" if judged.lower.tasks else "means only"
    measured = f"{judged.lower.seeds}, {updates_of([judged])}, {tasks}"
    return (
        comparison.label,
        str(comparison.kind),
        describe_interval(judged),
        measured,
        f"{judged.outcome} ({describe_p(min(judged.p_for, judged.p_against))})",
        _authors_as_far(judged, table),
        authors_whole(comparison, table),
    )


def _authors_as_far(judged: Judged, table: Table) -> str:
    """Compare the authors' means after as many updates, or to the same levels; — where unknown."""
    comparison = judged.comparison
    if comparison.measure == "faster":
        return _ratio_as_far(judged, table)
    values = []
    for endpoint in comparison.endpoints:
        stage = table.stage(comparison.kind, comparison.endpoints, endpoint.when)
        found = None if comparison.kind.is_authors else _numbers_of(comparison.kind, endpoint, table)
        there = None if stage is None or found is None else found.at(stage[0])
        if there is None:
            return "—"
        values.append(there[0])
    return in_points(comparison.signed_sum(values))


def _ratio_as_far(judged: Judged, table: Table) -> str:
    """Compare to the same levels, where the data are the same and the authors' curves pass them."""
    curves = [table.curves.get((judged.comparison.kind, each.curve)) for each in judged.comparison.endpoints]
    if judged.levels is None or not all(each is None or is_same_test(each) for each in curves):
        return "—"
    return _authors_ratio(judged.comparison, table, judged.levels)


def _authors_ratio(comparison: Comparison, table: Table, levels: tuple[float, float] | None = None) -> str:
    """Compute the ratio of updates to levels that both curves of the authors reach."""
    found = [_numbers_of(comparison.kind, each, table) for each in comparison.endpoints]
    fast, slow = ({} if each is None else each.points for each in found)
    if not fast or not slow:
        return "—"
    low, high = levels or common_levels(fast, slow)
    if not max(min(fast.values()), min(slow.values())) <= low < high <= min(max(fast.values()), max(slow.values())):
        return "—"
    return f"{2 ** mean_log_ratio(fast, slow, low, high):.2f} times"


def authors_whole(comparison: Comparison, table: Table) -> str:
    """Compare the authors' numbers over the whole of their training; — where unknown."""
    if comparison.measure == "faster":
        return _authors_ratio(comparison, table)
    similarities = [
        authors_similarity(each.curve, each.quantity, each.when)
        for each in comparison.endpoints
        if isinstance(each.quantity, Similarity)
    ]
    if known := [value for value in similarities if value is not None]:
        return _minus(f"{comparison.signed_sum(known):+.3f}")
    found = [(_numbers_of(comparison.kind, each, table), each) for each in comparison.endpoints]
    ends = [(value, numbers.seeds) for numbers, each in found if numbers and (value := numbers.of(each.when))]
    if not ends or len(ends) < len(found):
        return "—"
    seeds = sorted(number for _, number in ends)
    error = math.sqrt(sum(std**2 / number for (_, std), number in ends))
    spread = f" ± {percent(error)}" if seeds[0] > 1 else ""
    difference = in_points(comparison.signed_sum([mean for (mean, _), _ in ends]))
    return f"{difference}{spread} ({_range(seeds)} seed{'s' * (seeds[-1] > 1)})"


def _numbers_of(kind: TaskKind, endpoint: Endpoint, table: Table) -> AuthorsNumbers | None:
    """Return the authors' numbers of a curve, or the published ones of a model of theirs."""
    curve = table.curves.get((kind, endpoint.curve))
    if curve is not None:
        return authors_numbers(curve, endpoint.quantity)
    place = PUBLISHED.get((kind, endpoint.curve))
    return find_numbers(place, endpoint.quantity) if place and isinstance(endpoint.quantity, Accuracy) else None


def data_and_updates(verdict: Verdict) -> str:
    """Describe the data sets of a verdict's comparisons, and how far their trainings went."""
    by_data: dict[str, list[Judged]] = {}
    for judged in verdict.judged:
        by_data.setdefault(data_of(judged.comparison.kind), []).append(judged)
    trained = {name: updates_of(those) for name, those in by_data.items()}
    return "; ".join(name if updates == "1" else f"{name}, {updates} updates" for name, updates in trained.items())


def data_of(kind: TaskKind) -> str:
    """Name the data set of some tasks, and whose models they are if not ours."""
    return f"{kind.data} (the authors' models)" if kind.is_authors else kind.data


def updates_of(judged: Sequence[Judged]) -> str:
    """Describe the updates at which comparisons are judged and those of the published training: `300 of 3,000`."""
    here = _range([each.updates for each in judged])
    full = [each.full_updates for each in judged if each.full_updates]
    return here if not full or _range(full) == here else f"{here} of {_range(full)}"


def _range(numbers: Sequence[int]) -> str:
    return " to ".join(f"{n:,}" for n in sorted({min(numbers), max(numbers)}))


def describe_interval(judged: Judged) -> str:
    """Format the interval in its unit: points, a ratio of updates, or the plain difference."""
    (low, high), comparison = judged.interval, judged.comparison
    mean, half = judged.lower.mean, high - judged.lower.mean
    level = f" ({100 - 200 * judged.error:.3g} %)" if judged.error not in (0, ERROR / 2) else ""
    if judged.levels is not None:
        bounds = f"{_ratio(mean)} to {_ratio(judged.upper.mean)} times [{_ratio(low)}, {_ratio(high)}]{level}"
        return f"{bounds}, {_to_levels(*judged.levels)}"
    if not comparison.plus[0].quantity.is_accuracy:
        goal = f" (claim: within {comparison.margin:g})" if comparison.measure == "equal" else ""
        return _minus(f"{_rounded(mean, 3):+.3f} ± {half:.3f}{level}{goal}")
    margin = f"{100 * comparison.margin:g}"
    goal = f" (claim: more than {margin})" if comparison.margin else ""
    goal = f" (claim: within ± {margin})" if comparison.measure == "equal" else goal
    return _minus(f"{_rounded(100 * mean, 2):+.2f} ± {100 * half:.2f} points{level}{goal}")


def describe_p(p: float) -> str:
    """Format a p value, with more than three digits where these would put it on the other side of 5 %.

    >>> describe_p(0.00001), describe_p(0.0312), describe_p(0.0503)
    ('p < .001', 'p = .031', 'p = .0503')
    """
    digits = next((digits for digits in range(3, 17) if (round(p, digits) <= ERROR) == (p <= ERROR)), 17)
    return "p < .001" if p < 0.001 else f"p = {p:.{digits}f}".replace("0.", ".", 1)


def _to_levels(low: float, high: float) -> str:
    if low < high:
        return f"to levels between {percent(low)} and {percent(high)} %"
    return f"to {percent(high)} %, reached before the first evaluation"


def _spread(mean: float, std: float, seeds: int) -> str:
    return f"{percent(mean)} ± {percent(std)}" if seeds > 1 else percent(mean)


def _rounded(value: float, digits: int) -> float:
    """Round a number, to +0 where rounding errors alone would give it a sign."""
    return round(value, digits) + 0.0


def _minus(text: str) -> str:
    return text.replace("-", "−")


def percent(value: float) -> str:
    """Format an accuracy in per cent.

    >>> percent(0.8302)
    '83.0'
    """
    return f"{100 * value:.1f}"


def _ratio(log2: float) -> str:
    return "∞" if log2 > 20 else "0" if log2 < -20 else f"{2**log2:.2f}"
