"""Pictures of a figure's records, ours beside the authors' numbers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from matplotlib.figure import Figure

from metacontrast.experiments.authors_numbers import (
    authors_numbers,
    authors_similarities,
    is_of_bound_tasks,
    is_same_test,
)
from metacontrast.experiments.figure_records import FigureRecords
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import Curve, FigureSpec, Panel, Quantity
from metacontrast.experiments.table import Table
from metacontrast.plots.curves import MeanCurve, SideBySide, draw_side_by_side
from metacontrast.plots.maps import Moment, draw_heatmaps
from metacontrast.plots.style import save_figure


def draw(folder: Path, spec: FigureSpec, records: FigureRecords, table: Table) -> list[Path]:
    """Draw and write the figure's pictures, one per data set."""
    match spec.plot:
        case "heatmaps":
            return _draw_similarities(folder, spec, records, table)
        case "illustration":
            return _draw_illustration(folder, spec, records)
        case _:
            return _draw_curves(folder, spec, records, table)


def _draw_curves(folder: Path, spec: FigureSpec, records: FigureRecords, table: Table) -> list[Path]:
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
    data = "Omniglot" if any(curve.config.dataset == "omniglot" for curve in curves) else "miniImageNet"
    data += ", tested on bound tasks" if (is_bound := any(map(is_of_bound_tasks, curves))) else ""
    ours = _seeds(sum(map(bool, table.values(curve.kind, curve.name, panel.quantity).values())) for curve in curves)
    theirs_label = f"authors ({data}):{chr(10) if is_bound else ' '}{_seeds(each.seeds for _, each in drawn)}, ± 1 s.d."
    labels = f"here: {ours}, band ± 1 s.d.", theirs_label
    return SideBySide(panel.title, here, theirs, *labels, same_data=all(is_same_test(curve) for curve, _ in drawn))


def _seeds(counts: Iterable[int]) -> str:
    """Format the numbers of seeds behind the curves of a panel."""
    found = sorted(set(counts)) or [0]
    return f"{' to '.join(map(str, dict.fromkeys((found[0], found[-1]))))} seed{'s' * (found[-1] != 1)}"


def _here(curve: Curve, quantity: Quantity, table: Table) -> MeanCurve:
    by_seed = [points for points in table.values(curve.kind, curve.name, quantity).values() if points]
    updates = sorted(set.intersection(*(set(points) for points in by_seed)))
    values = [[points[update] for points in by_seed] for update in updates]
    spreads = [stdev(each) if len(each) > 1 else 0.0 for each in values]
    return MeanCurve(curve.name, curve.look, updates, [*map(fmean, values)], spreads)


def _draw_similarities(folder: Path, spec: FigureSpec, records: FigureRecords, table: Table) -> list[Path]:
    return [
        save_figure(_heatmaps(panel, records), folder / f"{spec.name}-{panel.quantity}.png")
        for panel in panels_of(spec, records.settings, table)
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
