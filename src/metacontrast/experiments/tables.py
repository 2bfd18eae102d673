"""A figure's numbers as rows of text: published, released and here."""

from collections.abc import Sequence
from statistics import fmean, stdev

from metacontrast.experiments.pictures import lines_of
from metacontrast.experiments.released import Released, is_same_test, released_curve
from metacontrast.experiments.spec import Line, Reading, View
from metacontrast.experiments.speed_ups import mean_log_ratio
from metacontrast.experiments.statistics import ERROR
from metacontrast.experiments.table import Table
from metacontrast.experiments.verdicts import Judged, Verdict

NEAREST_MEAN = "nearest-mean"
NUMBERS_HEAD = (
    "",
    "published curve ends at",
    "released, at the end",
    "released, after as many updates",
    "here",
    "here − released, after as many updates",
    "seeds, updates, tasks",
)


def numbers_rows(view: View, table: Table) -> list[Sequence[str]]:
    """One row per line of a view: its accuracy in per cent where it was last measured, beside the released one."""
    return [_numbers_row(line, view.quantity, table) for line in lines_of(view, table)]


def _numbers_row(line: Line, quantity: str, table: Table) -> Sequence[str]:
    update, seeds = table.last(line.panel, line.name, quantity)
    curves = table.curves(line.panel, line.name, quantity)
    values = [curves[seed][update] for seed in seeds]
    tasks = table.tasks_at(line.panel, line.name, update, seeds)
    found = released_curve(line, quantity)
    there = None if found is None else found.at(update)
    here = f"{percent(fmean(values))} ± {percent(stdev(values))}" if len(values) > 1 else percent(values[0])
    difference = "—" if there is None or not is_same_test(line) else _points(fmean(values) - there[0])
    cells = (line.name, *_released_cells(found, update), here, difference)
    return (*cells, f"{len(values)}, {update:,}, {tasks}")


def _released_cells(found: Released | None, update: int) -> Sequence[str]:
    if found is None:
        return ("—", "—", "—")
    there, end = found.at(update), "—"
    if found.final is not None:
        mean, std = found.final
        end = f"{_spread(mean, std, found.seeds)} ({found.seeds} seed{'s' * (found.seeds > 1)}, {found.end:,})"
    as_far = "—" if there is None else _spread(*there, found.seeds)
    return ("—" if found.as_plotted is None else percent(found.as_plotted), end, as_far)


def steps_head(lines: Sequence[Line], table: Table) -> list[str]:
    """All quantities that were last measured of any of the lines, in order."""
    names: dict[str, None] = {}
    for line in lines:
        update, _ = table.last(line.panel, line.name, NEAREST_MEAN)
        names |= dict.fromkeys(table.quantities(line.panel, line.name, update))
    return list(names)


def steps_row(line: Line, quantities: Sequence[str], table: Table) -> Sequence[str]:
    """The means over seeds of all quantities at the line's last update, in per cent."""
    update, cells = table.last(line.panel, line.name, NEAREST_MEAN)[0], [line.name]
    for name in quantities:
        curves = table.curves(line.panel, line.name, name).values()
        values = [curve[update] for curve in curves if update in curve]
        cells.append(percent(fmean(values)) if values else "—")
    return cells


def comparison_row(judged: Judged, table: Table) -> Sequence[str]:
    """One comparison: what, where, the difference with its interval, how measured, outcome, released."""
    comparison = judged.comparison
    tasks = f"{judged.lower.tasks:,}" if judged.lower.tasks else "means only"
    measured = f"{judged.lower.seeds}, {updates_of([judged])}, {tasks}"
    return (
        comparison.label,
        comparison.panel,
        describe_interval(judged),
        measured,
        f"{judged.outcome} ({describe_p(min(judged.p_for, judged.p_against))})",
        _released_as_far(judged, table),
        comparison.released or "—",
    )


def _released_as_far(judged: Judged, table: Table) -> str:
    """The same comparison of the released means after as many updates, or to the same levels; — where unknown."""
    comparison = judged.comparison
    if comparison.measure == "faster":
        return _released_speed_up(judged, table)
    signed = [(1, reading) for reading in comparison.plus] + [(-1, reading) for reading in comparison.minus]
    found = [(sign, _released_value(comparison.panel, reading, table)) for sign, reading in signed]
    values = [sign * value for sign, value in found if value is not None]
    return _points(sum(values)) if len(values) == len(signed) else "—"


def _released_value(panel: str, reading: Reading, table: Table) -> float | None:
    line = table.lines.get((panel, reading.line))
    curve = None if line is None else released_curve(line, reading.quantity)
    stage = table.stage(panel, [reading], reading.when)
    found = None if stage is None or curve is None else curve.at(stage[0])
    return None if found is None else found[0]


def _released_speed_up(judged: Judged, table: Table) -> str:
    """To the same levels, where the data are the same and the released curves start below them and reach them."""
    readings = (judged.comparison.plus[0], judged.comparison.minus[0])
    lines = [line for each in readings if (line := table.lines.get((judged.comparison.panel, each.line))) is not None]
    found = [released_curve(line, reading.quantity) for line, reading in zip(lines, readings, strict=False)]
    if judged.levels is None or judged.levels[0] >= judged.levels[1] or not all(map(is_same_test, lines)):
        return "—"
    curves = [dict(zip(each.updates, each.mean, strict=True)) for each in found if each is not None and each.updates]
    low, high = judged.levels
    if len(curves) < 2 or any(not min(c.values()) <= low < high <= max(c.values()) for c in curves):
        return "—"
    return f"{2 ** mean_log_ratio(curves[0], curves[1], low, high):.2f} times"


def data_and_updates(verdict: Verdict) -> str:
    """The data sets of a verdict's comparisons, with how far their trainings went."""
    by_data: dict[str, list[Judged]] = {}
    for judged in verdict.judged:
        by_data.setdefault(data_of(judged.comparison.panel), []).append(judged)
    trained = {name: updates_of(those) for name, those in by_data.items()}
    return "; ".join(name if updates == "1" else f"{name}, {updates} updates" for name, updates in trained.items())


def data_of(panel: str) -> str:
    """The data set of a panel, and whose models they are if not ours."""
    name, _, rest = panel.partition(",")
    return f"{name} (the authors' models)" if rest.startswith(" the authors' models") else name


def updates_of(judged: Sequence[Judged]) -> str:
    """After how many updates the comparisons are judged, of how many in the published training: `300 of 3,000`."""
    here = _range([each.updates for each in judged])
    full = [each.full_updates for each in judged if each.full_updates]
    return here if not full or _range(full) == here else f"{here} of {_range(full)}"


def _range(numbers: Sequence[int]) -> str:
    return " to ".join(f"{n:,}" for n in sorted({min(numbers), max(numbers)}))


def describe_interval(judged: Judged) -> str:
    """The interval in its unit: points, a ratio of updates, or the plain difference."""
    (low, high), comparison = judged.interval, judged.comparison
    mean, half = judged.lower.mean, high - judged.lower.mean
    level = f" ({100 - 200 * judged.error:.3g} %)" if judged.error not in (0, ERROR / 2) else ""
    if judged.levels is not None:
        bounds = f"{_ratio(mean)} to {_ratio(judged.upper.mean)} times [{_ratio(low)}, {_ratio(high)}]{level}"
        return f"{bounds}, {_to_levels(*judged.levels)}"
    if "/" not in comparison.plus[0].quantity:
        goal = f" (claim: within {comparison.margin:g})" if comparison.measure == "equal" else ""
        return _minus(f"{mean:+.3f} ± {half:.3f}{level}{goal}")
    margin = f"{100 * comparison.margin:g}"
    goal = f" (claim: more than {margin})" if comparison.margin else ""
    goal = f" (claim: within ± {margin})" if comparison.measure == "equal" else goal
    return _minus(f"{100 * mean:+.2f} ± {100 * half:.2f} points{level}{goal}")


def describe_p(p: float) -> str:
    """A p value in a few characters.

    >>> describe_p(0.00001), describe_p(0.0312)
    ('p < .001', 'p = .031')
    """
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".")


def _to_levels(low: float, high: float) -> str:
    if low < high:
        return f"to levels between {percent(low)} and {percent(high)} %"
    return f"to {percent(high)} %, reached before the first evaluation"


def _spread(mean: float, std: float, seeds: int) -> str:
    return f"{percent(mean)} ± {percent(std)}" if seeds > 1 else percent(mean)


def _points(difference: float) -> str:
    """A difference of accuracies with its sign, in points."""
    return _minus(f"{round(100 * difference, 1) + 0.0:+.1f}")


def _minus(text: str) -> str:
    return text.replace("-", "−")


def percent(value: float) -> str:
    """An accuracy in per cent.

    >>> percent(0.8302)
    '83.0'
    """
    return f"{100 * value:.1f}"


def _ratio(log2: float) -> str:
    return "∞" if log2 > 20 else "0" if log2 < -20 else f"{2**log2:.2f}"
