"""Pictures of a figure's records, ours beside the authors' numbers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from matplotlib.figure import Figure

from metacontrast.experiments.authors_numbers import authors_numbers, authors_similarities, is_of_bound_tasks
from metacontrast.experiments.figure_records import FigureRecords
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import Curve, FigureSpec, Panel, Quantity, TaskKind
from metacontrast.experiments.table import Table
from metacontrast.plots.curves import MeanCurve, SideBySide, draw_costs, draw_side_by_side
from metacontrast.plots.maps import Moment, draw_heatmaps
from metacontrast.plots.style import save_figure


def draw(folder: Path, spec: FigureSpec, records: FigureRecords) -> list[Path]:
    """Draw and write the figure's pictures, one per data set."""
    match spec.plot:
        case "heatmaps":
            return _draw_similarities(folder, spec, records)
        case "illustration":
            return _draw_illustration(folder, spec, records)
        case "costs":
            return _draw_costs(folder, spec, records)
        case _:
            return _draw_curves(folder, spec, records)


def _draw_curves(folder: Path, spec: FigureSpec, records: FigureRecords) -> list[Path]:
    table = Table(records.curves, records.measurements)
    by_data: dict[str, list[Panel]] = {}
    for panel in panels_of(spec, records.settings, table):
        by_data.setdefault(panel.kind.data, []).append(panel)
    return [
        save_figure(
            draw_side_by_side([_side_by_side(panel, table) for panel in panels]),
            folder / f"{spec.name}-{data.lower().replace(' ', '-')}.png",
        )
        for data, panels in by_data.items()
    ]


def _draw_costs(folder: Path, spec: FigureSpec, records: FigureRecords) -> list[Path]:
    """Accuracy against core-time, in one picture; curves whose time is not known are left out."""
    table = Table(records.curves, records.measurements)
    panels = []
    for panel in panels_of(spec, records.settings, table):
        timed = [
            (_here(curve, panel.quantity, table), table.core_seconds(*_key(curve))) for curve in curves_of(panel, table)
        ]
        curves = [replace(curve, updates=[s * u for u in curve.updates]) for curve, s in timed if s]
        panels += [(panel.title, curves)] if curves else []
    return [save_figure(draw_costs(panels), folder / f"{spec.name}.png")] if panels else []


def _key(curve: Curve) -> tuple[TaskKind, str]:
    return curve.kind, curve.name


def panels_of(spec: FigureSpec, settings: Sequence[Setting], table: Table) -> list[Panel]:
    """List the panels of which there is something to draw, each once."""
    panels = dict.fromkeys(panel for setting in settings for panel in spec.panels(setting.in_full()))
    return [panel for panel in panels if curves_of(panel, table)]


def curves_of(panel: Panel, table: Table) -> list[Curve]:
    """Select the curves of a panel."""
    found = [curve for curve in table.curves.values() if curve.kind == panel.kind]
    return [curve for curve in found if panel.curves is None or curve.name in panel.curves]


def _side_by_side(panel: Panel, table: Table) -> SideBySide:
    curves = curves_of(panel, table)
    here = [_here(curve, panel.quantity, table) for curve in curves]
    found = [(curve, authors_numbers(curve, panel.quantity)) for curve in curves]
    drawn = [(curve, numbers) for curve, numbers in found if numbers is not None and numbers.updates]
    theirs = [MeanCurve(curve.name, curve.look, each.updates, each.mean, each.std) for curve, each in drawn]
    numbers = sorted({each.seeds for _, each in drawn})
    seeds = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else "".join(map(str, numbers))
    is_omniglot = any(curve.config.dataset == "omniglot" for curve in curves)
    data = "Omniglot" if is_omniglot else "miniImageNet"
    data += ", tested on bound tasks" if any(map(is_of_bound_tasks, curves)) else ""
    count = len(table.values(curves[0].kind, curves[0].name, panel.quantity))
    labels = f"here: {count} seeds, band ± 1 s.d.", f"authors ({data}): {seeds} seeds, ± 1 s.d."
    return SideBySide(panel.title, here, theirs, *labels, same_data=is_omniglot)


def _here(curve: Curve, quantity: Quantity, table: Table) -> MeanCurve:
    by_seed = [points for points in table.values(curve.kind, curve.name, quantity).values() if points]
    updates = sorted(set.intersection(*(set(points) for points in by_seed)))
    values = [[points[update] for points in by_seed] for update in updates]
    spreads = [stdev(each) if len(each) > 1 else 0.0 for each in values]
    return MeanCurve(curve.name, curve.look, updates, [*map(fmean, values)], spreads)


def _draw_similarities(folder: Path, spec: FigureSpec, records: FigureRecords) -> list[Path]:
    return [
        save_figure(_heatmaps(panel, records), folder / f"{spec.name}-{panel.quantity}.png")
        for panel in panels_of(spec, records.settings, Table(records.curves, records.measurements))
    ]


def _heatmaps(panel: Panel, records: FigureRecords) -> Figure:
    curves = [curve for curve in records.curves if curve.kind == panel.kind]
    moments = [_moment(curve, str(panel.quantity), records) for curve in curves]
    names = [f"here, update {update}" for update in curves[0].updates]
    names += [f"authors, {update}" for update in ("1", "11", "101")]
    return draw_heatmaps(moments, names, panel.title, width=9.0)


def _moment(curve: Curve, name: str, records: FigureRecords) -> Moment:
    maps, contrasts = [], []
    own = [m.record for m in records.measurements if (m.kind, m.curve) == (curve.kind, curve.name)]
    for update in curve.updates:
        rows = [record for record in own if record["update"] == update]
        maps.append(np.mean([record["maps"][name] for record in rows], axis=0))
        contrasts.append(fmean(record["values"][name] for record in rows))
    for theirs in authors_similarities()[curve.name].values():
        maps.append(np.array(theirs[name]["map"]))
        contrasts.append(theirs[name].get("contrast_without_self_pairs", theirs[name]["contrast"]))
    return Moment(curve.name, np.stack(maps), contrasts)


def _draw_illustration(folder: Path, spec: FigureSpec, records: FigureRecords) -> list[Path]:
    if spec.draw is None:
        return []
    drawn = next(m.record["drawn"] for m in records.measurements if "drawn" in m.record)
    return [save_figure(spec.draw(drawn), folder / f"{spec.name}.png")]
