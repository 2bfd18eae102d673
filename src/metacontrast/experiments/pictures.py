"""Pictures of a figure's records, ours beside the authors' numbers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import hypot
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from metacontrast.experiments.authors import authors_numbers, authors_similarities, is_of_bound_tasks
from metacontrast.experiments.claims import Accuracy, Quantity, Solved, TaskKind
from metacontrast.experiments.figure_records import FigureRecords
from metacontrast.experiments.measurement import Table
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import Curve, FigureSpec, Panel, PlotKind
from metacontrast.experiments.statistics import FEWEST_SEEDS
from metacontrast.plots import save_figure
from metacontrast.plots.curves import Look, MeanCurve, SideBySide, draw_gains, draw_panels, draw_side_by_side
from metacontrast.plots.images import Moment, draw_heatmaps


def draw(folder: Path, spec: FigureSpec, records: FigureRecords, table: Table) -> list[Path]:
    """Draw and write the figure's pictures, one per data set or quantity."""
    pictures = _DRAWN[spec.plot](spec, records, table)
    return [save_figure(picture, folder / f"{spec.name}{ending}.png") for ending, picture in pictures.items()]


Pictures = dict[str, Figure]
"""By what is added to the figure's name."""


def _curves(spec: FigureSpec, records: FigureRecords, table: Table) -> Pictures:
    by_data: dict[str, list[SideBySide]] = {}
    for panel in panels_of(spec, records.settings, table):
        row = _side_by_side(panel, table)
        if any(update > 0 for curve in row.here for update in curve.updates):
            by_data.setdefault(panel.kind.data, []).append(row)
    return {f"-{data.lower().replace(' ', '-')}": draw_side_by_side(rows) for data, rows in by_data.items()}


def _costs(spec: FigureSpec, records: FigureRecords, table: Table) -> Pictures:
    """Draw accuracy against core-time, in one picture; curves whose time is not known are left out."""
    panels = []
    for panel in panels_of(spec, records.settings, table):
        lines = [
            (mean_curve(line, table), table.core_seconds(panel.kind, line.curve.name)) for line in _lines(panel, table)
        ]
        curves = [replace(curve, updates=[s * u for u in curve.updates]) for curve, s in lines if s]
        panels += [(panel.title, curves)] if curves else []
    return {"": draw_panels(panels, "core-seconds of training")} if panels else {}


def _steps(spec: FigureSpec, records: FigureRecords, table: Table) -> Pictures:
    """Draw accuracy against inner steps at test."""
    assert spec.authors_test is not None
    kind, lines = spec.authors_test.kind, []
    for name, curve in spec.authors_test.curves.items():
        ends = {step: _ends(kind, name, Accuracy(curve.head, step), table) for step in spec.authors_test.steps}
        ends = {step: values for step, values in ends.items() if len(values) > 1}
        means, spreads = [*map(fmean, ends.values())], [*map(stdev, ends.values())]
        label = f"{name}, head {curve.head} at test"
        lines += [MeanCurve(label, curve.look, [*ends], means, spreads)] if ends else []
    return {"": draw_panels([(str(kind), lines)], "inner steps at test")} if lines else {}


def _answers(spec: FigureSpec, records: FigureRecords, table: Table) -> Pictures:
    """Draw the accuracy of ways to classify against that of the nearest class mean, one point per way of training."""
    assert spec.authors_test is not None
    panels = []
    for panel in spec.panels(records.settings[0]):
        points = []
        for name, curve in spec.authors_test.curves.items():
            base, found = (_ends(panel.kind, name, q, table) for q in (Solved("nearest-mean"), panel.quantity))
            gains = [after - before for after, before in zip(found, base, strict=True)]
            if len(gains) > 1:
                points.append(MeanCurve(name, curve.look, [fmean(base)], [fmean(found)], [stdev(gains)]))
        panels += [(panel.title, points)] if points else []
    return {"": draw_gains(panels, "nearest mean")} if panels else {}


def _ends(kind: TaskKind, curve: str, quantity: Quantity, table: Table) -> list[float]:
    """Return the values of all seeds that reached the last update."""
    by_seed = table.values(kind, curve, quantity).values()
    last = max((update for points in by_seed for update in points), default=0)
    return [points[last] for points in by_seed if last in points]


def panels_of(spec: FigureSpec, settings: Sequence[Setting], table: Table) -> list[Panel]:
    """List the panels of which there is something to draw, each once."""
    panels = dict.fromkeys(panel for setting in settings for panel in spec.panels(setting.in_full()))
    return [panel for panel in panels if curves_of(panel, table)]


def curves_of(panel: Panel, table: Table) -> list[Curve]:
    """Select the curves of a panel."""
    found = [curve for curve in table.curves.values() if curve.kind == panel.kind]
    return [curve for curve in found if panel.curves is None or curve.name in panel.curves]


class Drawn(NamedTuple):
    """A line of a panel: a quantity of a curve, less that of a second curve where one is named."""

    curve: Curve
    look: Look
    quantity: Quantity
    minus: Curve | None = None


def _side_by_side(panel: Panel, table: Table) -> SideBySide:
    lines = _lines(panel, table)
    here = [mean_curve(line, table) for line in lines]
    found = [_authors(line) for line in lines]
    theirs = [curve for curve in found if curve is not None]
    curves = [line.curve for line in lines]
    data = "Omniglot" if any(curve.config.dataset == "omniglot" for curve in curves) else "miniImageNet"
    data += ",\nlabels fixed at test too" if any(map(is_of_bound_tasks, curves)) else ""
    ours = _span(len(values) for line in lines for values in _values(line, table).values())
    seeds = _span(numbers.seeds for line in lines if (numbers := authors_numbers(line.curve, line.quantity)))
    labels = f"here: {ours} seeds, band ± 1 s.d.", f"authors ({data}): {seeds} seeds, ± 1 s.d."
    if not panel.minus:
        return SideBySide(panel.title, here, theirs, *labels)
    return SideBySide(panel.title, here, theirs, *labels, unit="difference (points)", band=1.0)


def _lines(panel: Panel, table: Table) -> list[Drawn]:
    curves = curves_of(panel, table)
    if panel.minus:
        by_name = {curve.name: curve for curve in curves}
        pairs = [(by_name.get(name), by_name.get(base)) for name, base in panel.minus]
        return [Drawn(one, one.look, panel.quantity, other) for one, other in pairs if one and other]
    solid = [Drawn(curve, curve.look, panel.quantity) for curve in curves]
    if panel.dashed is None:
        return solid
    return [*solid, *(Drawn(curve, replace(curve.look, dashed=True, wide=False), panel.dashed) for curve in curves)]


def _span(counts: Iterable[int]) -> str:
    """Format the smallest and largest of some counts.

    >>> _span([3, 4, 3])
    '3 to 4'
    """
    known = sorted(set(counts))
    return f"{known[0]} to {known[-1]}" if len(known) > 1 else "".join(map(str, known))


def mean_curve(line: Drawn, table: Table) -> MeanCurve:
    """Compute mean and deviation over the seeds that got as far, three at least; differences are paired by seed."""
    values = _values(line, table)
    spreads = [stdev(each) if len(each) > 1 else 0.0 for each in values.values()]
    return MeanCurve(line.curve.name, line.look, [*values], [*map(fmean, values.values())], spreads)


def _values(line: Drawn, table: Table) -> dict[int, list[float]]:
    """Return what is drawn, by update: one value for each seed that got as far."""
    curves = [line.curve] if line.minus is None else [line.curve, line.minus]
    one, *other = (table.values(curve.kind, curve.name, line.quantity) for curve in curves)
    by_seed = [
        {
            u: value - sum(each[seed][u] for each in other)
            for u, value in points.items()
            if all(u in each[seed] for each in other)
        }
        for seed, points in one.items()
        if points and all(seed in each for each in other)
    ]
    reached = {u: [points[u] for points in by_seed if u in points] for u in sorted(set().union(*by_seed))}
    return {u: values for u, values in reached.items() if len(values) >= min(FEWEST_SEEDS, len(by_seed))}


def _authors(line: Drawn) -> MeanCurve | None:
    """Return the authors' means and deviations; the deviation of a difference is as if seeds were not paired."""
    numbers = authors_numbers(line.curve, line.quantity)
    if numbers is None or not numbers.updates:
        return None
    points = {u: (m, s) for u, m, s in zip(numbers.updates, numbers.mean, numbers.std, strict=True)}
    if line.minus is not None:
        other = authors_numbers(line.minus, line.quantity)
        if other is None:
            return None
        base = {u: (m, s) for u, m, s in zip(other.updates, other.mean, other.std, strict=True)}
        points = {u: (m - base[u][0], hypot(s, base[u][1])) for u, (m, s) in points.items() if u in base}
    means, spreads = zip(*points.values(), strict=True) if points else ((), ())
    return MeanCurve(line.curve.name, line.look, [*points], means, spreads) if points else None


def _heatmaps(spec: FigureSpec, records: FigureRecords, table: Table) -> Pictures:
    pictures = {}
    for panel in panels_of(spec, records.settings, table):
        curves = curves_of(panel, table)
        reached = [set(table.means(curve.kind, curve.name, panel.quantity)) for curve in curves]
        updates = sorted(set.intersection(*reached))
        moments = [_moment(curve, str(panel.quantity), updates, records) for curve in curves]
        names = [f"here, update {update}" for update in updates]
        names += [f"authors, {update}" for update in authors_similarities()[curves[0].name]]
        pictures[f"-{panel.quantity}"] = draw_heatmaps(moments, names, panel.title, width=9.0)
    return pictures


def _moment(curve: Curve, name: str, updates: Sequence[int], records: FigureRecords) -> Moment:
    maps, contrasts = [], []
    own = [m.record for m in records.measurements if (m.kind, m.curve) == (curve.kind, curve.name)]
    for update in updates:
        rows = [record for record in own if record["update"] == update]
        maps.append(np.mean([record["maps"][name] for record in rows], axis=0))
        contrasts.append(fmean(record["values"][name] for record in rows))
    for theirs in authors_similarities()[curve.name].values():
        maps.append(np.array(theirs[name]["map"]))
        contrasts.append(theirs[name].get("contrast_without_self_pairs", theirs[name]["contrast"]))
    return Moment(curve.name, np.stack(maps), contrasts)


def _illustration(spec: FigureSpec, records: FigureRecords, table: Table) -> Pictures:
    assert spec.draw is not None
    return {"": spec.draw(next(m.record["drawn"] for m in records.measurements if "drawn" in m.record))}


_DRAWN: dict[PlotKind, Callable[[FigureSpec, FigureRecords, Table], Pictures]] = {
    "curves": _curves,
    "heatmaps": _heatmaps,
    "illustration": _illustration,
    "costs": _costs,
    "steps": _steps,
    "answers": _answers,
}
