"""A figure's numbers as rows of text: published, released and here."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from metacontrast.experiments.pictures import lines_of
from metacontrast.experiments.released import Released, released_curve
from metacontrast.experiments.spec import Line, View
from metacontrast.experiments.verdicts import Judged, Table, Verdict

NUMBERS_HEAD = (
    "",
    "published",
    "released, at the end",
    "released, as far",
    "here",
    "here − released, as far",
    "seeds, updates, tasks",
)


def numbers_rows(view: View, table: Table) -> list[Sequence[str]]:
    """One row per line of a view: its accuracy in per cent where it was last measured, beside the released one."""
    return [_numbers_row(line, view.quantity, table) for line in lines_of(view, table)]


def _numbers_row(line: Line, quantity: str, table: Table) -> Sequence[str]:
    update = line.updates[-1]
    values = [curve[update] for curve in table.curves(line.panel, line.name, quantity).values()]
    tasks = table.tasks_at(line.panel, line.name, update)
    found = released_curve(line, quantity)
    here = f"{percent(fmean(values))} ± {percent(stdev(values))}"
    difference = _difference(line, fmean(values), found, update)
    return (line.name, *_released_cells(found, update), here, difference, f"{len(values)}, {update:,}, {tasks}")


def _difference(line: Line, mean: float, found: Released | None, update: int) -> str:
    """In points, where data and number of updates are the same."""
    near = None if found is None else found.near(update)
    data_differ = line.config.dataset not in ("omniglot", "mini-imagenet")
    return "—" if near is None or near[0] != update or data_differ else f"{100 * (mean - near[1]):+.1f}"


def _released_cells(found: Released | None, update: int) -> Sequence[str]:
    if found is None:
        return ("—", "—", "—")
    end, near = "—", found.near(update)
    if found.final is not None:
        mean, std = found.final
        end = f"{percent(mean)} ± {percent(std)} ({found.seeds} seeds, {found.end:,})"
    as_far = "—" if near is None else f"{percent(near[1])} ± {percent(near[2])} ({near[0]:,})"
    published = "the same" if found.as_plotted is None else percent(found.as_plotted)
    return (published, end, as_far)


def steps_head(view_lines: Sequence[Line], table: Table) -> list[str]:
    """All quantities that were measured at the end of any of the lines, in order."""
    names: dict[str, None] = {}
    for line in view_lines:
        names |= dict.fromkeys(table.quantities(line.panel, line.name, line.updates[-1]))
    return list(names)


def steps_row(line: Line, quantities: Sequence[str], table: Table) -> Sequence[str]:
    """The means over seeds of all quantities at the line's last update, in per cent."""
    update, cells = line.updates[-1], [line.name]
    for name in quantities:
        curves = table.curves(line.panel, line.name, name).values()
        values = [curve[update] for curve in curves if update in curve]
        cells.append(percent(fmean(values)) if values else "—")
    return cells


def comparison_row(judged: Judged, full_updates: Mapping[str, int]) -> Sequence[str]:
    """One comparison: what, where, the difference with its interval, how measured, outcome, released."""
    comparison = judged.comparison
    measured = f"{judged.interval.seeds}, {updates_of([judged], full_updates)}, {judged.tasks}"
    return (
        comparison.label,
        comparison.panel,
        describe_interval(judged),
        measured,
        judged.outcome,
        comparison.released or "—",
    )


def data_and_updates(verdict: Verdict, full_updates: Mapping[str, int]) -> str:
    """The data sets of a verdict's comparisons, with how far their trainings went."""
    by_data: dict[str, list[Judged]] = {}
    for judged in verdict.judged:
        by_data.setdefault(judged.comparison.panel.partition(",")[0], []).append(judged)
    trained = {name: updates_of(those, full_updates) for name, those in by_data.items()}
    return "; ".join(name if updates == "1" else f"{name}, {updates} updates" for name, updates in trained.items())


def updates_of(judged: Sequence[Judged], full_updates: Mapping[str, int]) -> str:
    """After how many updates the comparisons are judged, of how many in the published training: `300 of 3,000`."""
    here = _range([each.updates for each in judged])
    full = [full_updates[each.comparison.panel] for each in judged if each.comparison.panel in full_updates]
    return here if not full or _range(full) == here else f"{here} of {_range(full)}"


def _range(numbers: Sequence[int]) -> str:
    return " to ".join(f"{n:,}" for n in sorted({min(numbers), max(numbers)}))


def describe_interval(judged: Judged) -> str:
    """The interval in its unit: points, a ratio of updates, or the plain difference."""
    interval, comparison = judged.interval, judged.comparison
    if comparison.measure == "faster":
        level = f"to reach {percent(judged.level or 0.0)} %"
        return f"{2**interval.mean:.2f} times [{_ratio(interval.low)}, {_ratio(interval.high)}], {level}"
    if "/" not in comparison.plus[0].quantity:
        return f"{interval.mean:+.3f} ± {interval.half:.3f}" + (
            f", within {comparison.margin:g}" * bool(_equal(judged))
        )
    goal = f"; within {100 * comparison.margin:g}" if _equal(judged) else ""
    goal = goal or (f"; more than {100 * comparison.margin:g}" if comparison.margin else "")
    return f"{100 * interval.mean:+.2f} ± {100 * interval.half:.2f} points{goal}"


def percent(value: float) -> str:
    """An accuracy in per cent.

    >>> percent(0.8302)
    '83.0'
    """
    return f"{100 * value:.1f}"


def _equal(judged: Judged) -> bool:
    return judged.comparison.measure == "equal"


def _ratio(log2: float) -> str:
    return "∞" if log2 > 20 else f"{2**log2:.2f}"
