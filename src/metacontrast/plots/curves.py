"""Curves against outer updates: accuracy, other scalars across checkpoints, and our means beside the authors'."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from metacontrast.plots import COLORS, new_figure, tidy


@dataclass(frozen=True)
class Look:
    """Colour, marker and line style of a curve, the same in every panel.

    Args:
        color: a name from `COLORS`.
        marker: of matplotlib.
        wide: to be seen below another line.
    """

    color: str
    marker: str
    dashed: bool = False
    wide: bool = False


@dataclass(frozen=True)
class MeanCurve:
    """An accuracy between 0 and 1 with a band, such as the mean over seeds with its standard deviation.

    Args:
        updates: or what else it is drawn against.
        mean, std: the accuracy, and half the height of its band.
    """

    label: str
    look: Look
    updates: Sequence[int | float]
    mean: Sequence[float]
    std: Sequence[float]


def select_curve(
    records: Sequence[Mapping], wanted: Mapping, label: str, color: str, dashed: bool = False
) -> MeanCurve:
    """Collect the evaluations among `records` that agree with `wanted` into a curve with 95 % intervals."""
    rows = [r for r in records if r.get("kind") == "evaluation" and all(r[k] == v for k, v in wanted.items())]
    updates, accuracy, ci95 = ([r[name] for r in rows] for name in ("update", "accuracy", "ci95"))
    return MeanCurve(label, Look(color, "", dashed), updates, accuracy, ci95)


def learning_curves(curves: Sequence[MeanCurve], title: str, chance: float) -> Figure:
    """Draw all curves in one panel, each with its 95 % interval as a band."""
    figure = new_figure(6.0, 3.6)
    axes = tidy(figure.subplots())
    for curve in curves:
        _add_curve(axes, curve, [*zip(curve.updates, curve.mean, curve.std, strict=True)], label=curve.label)
    axes.axhline(100 * chance, color=COLORS["grey"], linewidth=0.8, linestyle=":", label="chance")
    axes.set_ylim(max(0, axes.get_ylim()[0]), min(100, axes.get_ylim()[1]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="outer updates", ylabel="accuracy (%), band: 95 % interval", title=title)
    axes.legend(frameon=False, loc="lower right")
    return figure


Series = Mapping[str, Sequence[float | None]]


def draw_checkpoints(updates: Sequence[int], panels: Mapping[str, Series], title: str) -> Figure:
    """Draw one panel per quantity over a common axis of outer updates.

    Args:
        panels: by axis label, curves by legend label; a single curve has no legend, a value None leaves a gap. Panels
            with the same curves have one legend, below them. Later curves are thinner, to be seen on earlier ones.
    """
    figure = new_figure(5.8, 2.5)
    is_shared = len(panels) > 1 and len({tuple(curves) for curves in panels.values()}) == 1
    colors = [COLORS[name] for name in ("blue", "orange", "green", "red")]
    for axes, (label, curves) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for above, color, (name, values) in zip(reversed(range(len(curves))), colors, curves.items(), strict=False):
            numbers = [float("nan") if value is None else value for value in values]
            wide = 1.4 + 1.2 * above
            tidy(axes).plot(updates, numbers, "o-", color=color, markersize=2.1 + wide, linewidth=wide, label=name)
        axes.set_title(label, fontsize=9)
        drawn = [value for values in curves.values() for value in values if value is not None]
        axes.set(xlabel="outer updates", ylim=(1.1 * min(0.0, *drawn), 1.1 * max(0.0, *drawn) or 1.0))
        if len(curves) > 1 and not is_shared:
            axes.legend(frameon=False, fontsize=7.5)
        elif len(curves) > 1 and axes is figure.axes[0]:
            figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=7.5)
    figure.suptitle(title, fontsize=10)
    return figure


@dataclass(frozen=True)
class SideBySide:
    """Two panels: our curves beside the authors'.

    Args:
        here, authors: the curves of each; `authors` may be empty.
        here_label, authors_label: data, number of seeds.
        unit: of the vertical axis.
        band: half the height of a grey band around 0, in that unit; None for none.
    """

    title: str
    here: Sequence[MeanCurve]
    authors: Sequence[MeanCurve]
    here_label: str
    authors_label: str
    unit: str = "test accuracy (%)"
    band: float | None = None


_MOST_IN_LEGEND = 4
"""Where there are more curves, and room beside ours, their names stand at their ends."""
_LEAST_GAP = 0.065
"""Between two names at the ends of curves, as a share of the panel's height."""


def draw_side_by_side(rows: Sequence[SideBySide]) -> Figure:
    """Draw our curves left and the authors' right on the same axes, with a dotted line where ours end.

    Update 0 is left out of the logarithmic axis.
    """
    figure = new_figure(6.4, 0.75 + 2.35 * len(rows))
    panels = figure.subplots(len(rows), 2, squeeze=False)
    looks = _looks(curve for row in rows for curve in row.here)
    at_ends = len(looks) > _MOST_IN_LEGEND and all(map(_has_room, rows))
    for row, (left, right) in zip(rows, panels, strict=True):
        shown = [(axes, curves) for axes, curves in ((left, row.here), (right, row.authors)) if curves]
        for axes, curves in shown:
            _draw_curves(axes, curves, row.band)
        _share_axes([axes for axes, _ in shown], row)
        if at_ends:
            _name_ends(left, row.here)
        left.set_title(f"{row.title}\n{row.here_label}", fontsize=8, loc="left")
        left.set_ylabel(row.unit, fontsize=8)
        if row.authors:
            right.set_title(f"\n{row.authors_label}", fontsize=8, loc="left")
        else:
            right.text(0.5, 0.5, "no numbers of the authors", ha="center", fontsize=8, color=COLORS["grey"])
            right.set_axis_off()
    if not at_ends:
        _add_legend(figure, looks)
    return figure


def draw_panels(panels: Sequence[tuple[str, Sequence[MeanCurve]]], against: str) -> Figure:
    """Draw accuracy against something else than updates, a panel for each kind of tasks, two in a row."""
    rows = -(-len(panels) // 2)
    figure = new_figure(6.8, 1.0 + 2.5 * rows)
    every = [*figure.subplots(rows, min(2, len(panels)), squeeze=False).flat]
    for axes, (title, curves) in zip(every, panels, strict=False):
        _draw_curves(axes, curves, against=f"{against} (log scale)")
        axes.set_title(title, fontsize=8, loc="left")
        axes.set_ylabel("test accuracy (%)", fontsize=8)
    for axes in every[len(panels) :]:
        axes.set_axis_off()
    _add_legend(figure, _looks(curve for _, curves in panels for curve in curves))
    return figure


def draw_gains(panels: Sequence[tuple[str, Sequence[MeanCurve]]], base: str) -> Figure:
    """Draw points of one accuracy against another one, in a row of panels with a band where the gain is the mean one.

    Args:
        panels: titles, and curves of one point each, drawn against the accuracy of `base`; their deviation is that of
            the gain over seeds.
    """
    figure = new_figure(6.8, 3.4)
    row = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, curves) in zip(row, panels, strict=True):
        tidy(axes)
        across, up = [100 * curve.updates[0] for curve in curves], [100 * curve.mean[0] for curve in curves]
        gain = fmean(up) - fmean(across)
        ends = [min(across) - 1, max(across) + 1]
        axes.fill_between(ends, *([x + gain + d for x in ends] for d in (-1, 1)), color=COLORS["grey"], alpha=0.2, lw=0)
        for curve, x, y in zip(curves, across, up, strict=True):
            axes.errorbar(x, y, yerr=100 * curve.std[0], elinewidth=0.8, markersize=5, **_line(curve.look, False))
        shown = f"{gain:+.1f}".replace("-", "−")
        axes.set_title(f"{title}\nmean gain {shown}, band ± 1 point", fontsize=8, loc="left")
        axes.set_xlabel(f"{base}, accuracy (%)", fontsize=8)
        axes.tick_params(labelsize=8)
    row[0].set_ylabel("accuracy (%), bar: gain ± 1 s.d.", fontsize=8)
    _add_legend(figure, _looks(curve for _, curves in panels for curve in curves), is_line=False)
    return figure


def _looks(curves: Iterable[MeanCurve]) -> dict[str, Look]:
    """Map the name of every curve to how its first line is drawn."""
    looks: dict[str, Look] = {}
    for curve in curves:
        looks.setdefault(curve.label, curve.look)
    return looks


def _legend_entries(looks: Mapping[str, Look]) -> Mapping[str, Look]:
    """Return `looks`, or fewer entries: a color for each second part of the names, a line style for each first word.

    >>> looks = {"FO random": ("red", False), "FO zero init": ("green", False), "FO trick": ("blue", False)}
    >>> looks |= {"SO random": ("red", True), "SO zero init": ("green", True), "SO trick": ("blue", True)}
    >>> list(_legend_entries({name: Look(color, "", dashed) for name, (color, dashed) in looks.items()}))
    ['random', 'zero init', 'trick', 'SO (solid: FO)']
    """
    parts = {name: name.partition(" ")[::2] for name in looks}
    styles = {look.dashed: parts[name][0] for name, look in looks.items()}
    colors = {look.color: parts[name][1] for name, look in looks.items()}
    is_regular = all(parts[name] == (styles[look.dashed], colors[look.color]) for name, look in looks.items())
    if len(looks) <= _MOST_IN_LEGEND or len(styles) < 2 or not is_regular:
        return looks
    entries = {rest: look for name, look in looks.items() if (rest := parts[name][1]) and not look.dashed}
    if 2 * len(entries) != len(looks):
        return looks
    return entries | {f"{styles[True]} (solid: {styles[False]})": Look("grey", "", dashed=True)}


def _add_legend(figure: Figure, looks: Mapping[str, Look], is_line: bool = True) -> None:
    looks = _legend_entries(looks)
    lines = [Line2D([], [], label=label, markersize=4, **_line(look, is_line)) for label, look in looks.items()]
    columns = 4 if max(map(len, looks)) <= 16 or sum(map(len, looks)) < 60 else 3
    figure.legend(handles=lines, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def _updates(row: SideBySide) -> tuple[int | float, ...]:
    """Return the first update of all curves, the last of ours, and the last of all."""
    ours = [update for curve in row.here for update in curve.updates if update > 0]
    both = [*ours, *(update for curve in row.authors for update in curve.updates if update > 0)]
    return min(both), max(ours), max(both)


def _has_room(row: SideBySide) -> bool:
    """Tell whether our curves end in the left 60 % of a logarithmic axis."""
    first, end, last = map(log, _updates(row))
    return end - first < 0.6 * (last - first)


def _share_axes(panels: Sequence[Axes], row: SideBySide) -> None:
    """Give all panels the same ranges, and mark where our curves end unless that is where all do."""
    first, end, last = _updates(row)
    margin = (last / first) ** 0.03
    vertical = min(axes.get_ylim()[0] for axes in panels), max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_xlim(first / margin, last * margin)
        axes.set_ylim(vertical)
        if end < last:
            axes.axvline(end, color=COLORS["grey"], linewidth=0.9, linestyle=":")
            mark = {"rotation": 90, "ha": "left", "va": "bottom", "fontsize": 7, "color": COLORS["grey"]}
            axes.annotate(
                "ours end", (end, 0.03), (2, 0), xycoords=("data", "axes fraction"), textcoords="offset points", **mark
            )


def _name_ends(axes: Axes, curves: Sequence[MeanCurve]) -> None:
    """Write every curve's name right of all curves, at the height of its end; names that would overlap move apart."""
    end = max(update for curve in curves for update in curve.updates)
    low, high = axes.get_ylim()
    gap, at = _LEAST_GAP * (high - low), -float("inf")
    for curve in sorted(curves, key=lambda each: each.mean[-1]):
        at = max(100 * curve.mean[-1], at + gap)
        place = {"textcoords": "offset points", "va": "center", "fontsize": 7, "color": COLORS[curve.look.color]}
        axes.annotate(curve.label, (end, at), (12, 0), **place)


def _draw_curves(
    axes: Axes, curves: Sequence[MeanCurve], band: float | None = None, against: str = "outer updates (log scale)"
) -> None:
    tidy(axes)
    if band is not None:
        axes.axhspan(-band, band, color=COLORS["grey"], alpha=0.15, linewidth=0)
        axes.axhline(0, color=COLORS["grey"], linewidth=0.8)
    for curve in curves:
        points = [p for p in zip(curve.updates, curve.mean, curve.std, strict=True) if p[0] > 0]
        _add_curve(axes, curve, points, markersize=3 if len(points) < 12 else 0)
    axes.set_xlabel(against, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
    )


def _add_curve(axes: Axes, curve: MeanCurve, points: Sequence[tuple[float, float, float]], **options: Any) -> None:
    """Draw points of a curve, (update, mean, deviation), as a line with a band."""
    updates = [u for u, _, _ in points]
    alone = {"marker": "o"} if len(points) == 1 else {}
    axes.plot(updates, [100 * m for _, m, _ in points], **_line(curve.look) | alone, **options)
    low, high = ([100 * (m + sign * s) for _, m, s in points] for sign in (-1, 1))
    axes.fill_between(updates, low, high, color=COLORS[curve.look.color], alpha=0.15, linewidth=0)


def _line(look: Look, is_drawn: bool = True) -> dict:
    return {
        "color": COLORS[look.color],
        "linestyle": ("--" if look.dashed else "-") if is_drawn else "",
        "marker": look.marker,
        "linewidth": 2.8 if look.wide else 1.4,
    }
