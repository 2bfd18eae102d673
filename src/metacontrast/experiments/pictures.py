"""A figure's records as pictures, ours beside the released numbers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from metacontrast.experiments.records import FigureRecords
from metacontrast.experiments.released import Released, is_of_bound_tasks, released_curve, released_similarities
from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import FigureSpec, Line, View
from metacontrast.experiments.table import Table
from metacontrast.plots.curves import Look, MeanCurve, Row, draw_side_by_side
from metacontrast.plots.maps import Moment, draw_heatmaps
from metacontrast.plots.style import save_figure

_HEADS = {
    "random": Look("red", "o"),
    "random × 0.7": Look("orange", "v"),
    "random × 0.5": Look("purple", "D"),
    "zero init": Look("green", "s", wide=True),
    "zeroing trick": Look("blue", "^"),
    "ordinary tasks, zeroing trick": Look("grey", "x"),
}
_OTHERS = {
    "MAML, FO, random": Look("red", "o"),
    "Eq. 7": Look("purple", "D", dashed=True),
    "MAML, FO, zeroing trick": Look("green", "s"),
    "Eq. 15": Look("green", "s", dashed=True),
    "MAML, SO, zeroing trick": Look("blue", "^"),
    "Eq. 16": Look("blue", "^", dashed=True),
    "no interference": Look("orange", "v"),
    "no noise": Look("green", "s"),
    "both dropped": Look("blue", "^"),
}
_STEPS = {
    1: Look("red", "o"),
    2: Look("orange", "v"),
    3: Look("purple", "D"),
    5: Look("green", "s"),
    7: Look("blue", "^"),
}


def draw(folder: Path, spec: FigureSpec, records: FigureRecords) -> list[Path]:
    """Write the figure's pictures; one per data set."""
    match spec.plot:
        case "heatmaps":
            return _draw_similarities(folder, spec, records)
        case "illustration":
            return _draw_illustration(folder, spec, records)
        case _:
            return _draw_curves(folder, spec, records)


def _draw_curves(folder: Path, spec: FigureSpec, records: FigureRecords) -> list[Path]:
    table = Table(records.lines, records.measurements)
    by_data: dict[str, list[View]] = {}
    for view in views_of(spec, records.settings, table):
        by_data.setdefault(view.panel.partition(",")[0], []).append(view)
    return [
        save_figure(
            draw_side_by_side([_row(view, table) for view in views]),
            folder / f"{spec.name}-{data.lower().replace(' ', '-')}.png",
        )
        for data, views in by_data.items()
    ]


def views_of(spec: FigureSpec, settings: Sequence[Setting], table: Table) -> list[View]:
    """The panels of which there is something to draw, each once."""
    views = dict.fromkeys(view for setting in settings for view in spec.views(setting.in_full()))
    return [view for view in views if lines_of(view, table)]


def lines_of(view: View, table: Table) -> list[Line]:
    """The lines of a drawn panel."""
    found = [line for (panel, _), line in table.lines.items() if panel == view.panel]
    return [line for line in found if view.lines is None or line.name in view.lines]


def _row(view: View, table: Table) -> Row:
    lines = lines_of(view, table)
    here = [_here(line, view.quantity, table) for line in lines]
    found = {line.name: released_curve(line, view.quantity) for line in lines}
    drawn = {name: curve for name, curve in found.items() if curve is not None and curve.updates}
    released = [_released(name, curve) for name, curve in drawn.items()]
    numbers = sorted({curve.seeds for curve in drawn.values()})
    seeds = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else "".join(map(str, numbers))
    same_data = view.panel.startswith("Omniglot")
    data = "Omniglot" if any(line.config.dataset == "omniglot" for line in lines) else "miniImageNet"
    data += ", tested on bound tasks" if any(map(is_of_bound_tasks, lines)) else ""
    count = len(table.curves(lines[0].panel, lines[0].name, view.quantity))
    here_label = f"here: {count} seeds, band ± 1 s.d."
    return Row(view.title, here, released, here_label, f"released ({data}): {seeds} seeds, ± 1 s.d.", same_data)


def _here(line: Line, quantity: str, table: Table) -> MeanCurve:
    curves = [curve for curve in table.curves(line.panel, line.name, quantity).values() if curve]
    updates = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = [[curve[update] for curve in curves] for update in updates]
    return MeanCurve(line.name, _look(line.name), updates, [*map(fmean, values)], [*map(_spread, values)])


def _spread(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _released(name: str, curve: Released) -> MeanCurve:
    return MeanCurve(name, _look(name), curve.updates, curve.mean, curve.std)


def _look(name: str) -> Look:
    """Colour and marker of a line: by head, number of steps, or equation; second order dashed."""
    if name in _OTHERS:
        return _OTHERS[name]
    plain = name.removeprefix("FO ").removeprefix("SO ")
    if plain in _HEADS:
        look = _HEADS[plain]
        return replace(look, dashed=name.startswith("SO ") or "ordinary" in name)
    return _STEPS[int(name.split()[-2])]


def _draw_similarities(folder: Path, spec: FigureSpec, records: FigureRecords) -> list[Path]:
    return [
        save_figure(_heatmaps(view, records), folder / f"{spec.name}-{view.quantity}.png")
        for view in views_of(spec, records.settings, Table(records.lines, records.measurements))
    ]


def _heatmaps(view: View, records: FigureRecords) -> Any:
    lines = [line for line in records.lines if line.panel == view.panel]
    moments = [_moment(line, view.quantity, records) for line in lines]
    names = [f"here, update {update}" for update in lines[0].updates]
    names += [f"released, {update}" for update in ("1", "11", "101")]
    return draw_heatmaps(moments, names, view.title, width=9.0)


def _moment(line: Line, name: str, records: FigureRecords) -> Moment:
    maps, contrasts = [], []
    for update in line.updates:
        rows = [r for r in records.measurements if (r["panel"], r["line"]) == (line.panel, line.name)]
        rows = [r for r in rows if r["update"] == update]
        maps.append(np.mean([r["maps"][name] for r in rows], axis=0))
        contrasts.append(fmean(r["values"][name] for r in rows))
    for released in released_similarities()[line.name].values():
        maps.append(np.array(released[name]["map"]))
        contrasts.append(released[name].get("contrast_without_self_pairs", released[name]["contrast"]))
    return Moment(line.name, np.stack(maps), contrasts)


def _draw_illustration(folder: Path, spec: FigureSpec, records: FigureRecords) -> list[Path]:
    if spec.draw is None:
        return []
    drawn = next(record for record in records.measurements if "drawn" in record)["drawn"]
    return [save_figure(spec.draw(drawn), folder / f"{spec.name}.png")]
