"""Learning curves made here beside released ones: one row per quantity, one legend for all."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from metacontrast.plots.style import COLORS, new_figure, tidy


@dataclass(frozen=True)
class Look:
    """How a line is drawn, the same in every panel.

    Args:
        color: a name from `style.COLORS`.
        marker: of matplotlib.
        dashed: or solid.
        wide: to be seen below another line.
    """

    color: str
    marker: str
    dashed: bool = False
    wide: bool = False


@dataclass(frozen=True)
class MeanCurve:
    """The mean over seeds of an accuracy between 0 and 1, with its standard deviation over seeds."""

    label: str
    look: Look
    updates: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]


@dataclass(frozen=True)
class Row:
    """Two panels.

    Args:
        title: what is measured on what.
        here, released: the curves of each; `released` may be empty.
        here_label, released_label: data, number of seeds.
        same_data: whether the vertical axes may be shared.
    """

    title: str
    here: Sequence[MeanCurve]
    released: Sequence[MeanCurve]
    here_label: str
    released_label: str
    same_data: bool


def draw_side_by_side(rows: Sequence[Row]) -> Figure:
    """Left what was made here, right what was released; a dotted line where the left one ends. Update 0 is left out."""
    figure = new_figure(6.4, 0.75 + 2.35 * len(rows))
    panels = figure.subplots(len(rows), 2, squeeze=False)
    for row, (left, right) in zip(rows, panels, strict=True):
        _draw_curves(left, row.here)
        left.set_title(f"{row.title}\n{row.here_label}", fontsize=8, loc="left")
        _draw_released(right, row)
        if row.same_data and row.released:
            low, high = (pick(left.get_ylim()[i], right.get_ylim()[i]) for i, pick in ((0, min), (1, max)))
            left.set_ylim(low, high)
            right.set_ylim(low, high)
        left.set_ylabel("test accuracy (%)", fontsize=8)
    figure.legend(handles=_legend(rows), loc="outside lower center", ncols=_columns(rows), frameon=False, fontsize=8)
    return figure


def _draw_released(axes: Axes, row: Row) -> None:
    if not row.released:
        axes.text(0.5, 0.5, "nothing released at this test step", ha="center", fontsize=8, color=COLORS["grey"])
        axes.set_axis_off()
        return
    _draw_curves(axes, row.released)
    axes.set_title(f"\n{row.released_label}", fontsize=8, loc="left")
    end = max(update for curve in row.here for update in curve.updates)
    axes.axvline(end, color=COLORS["grey"], linewidth=0.9, linestyle=":")


def _draw_curves(axes: Axes, curves: Sequence[MeanCurve]) -> None:
    tidy(axes)
    for curve in curves:
        points = [p for p in zip(curve.updates, curve.mean, curve.std, strict=True) if p[0] > 0]
        updates, mean = [u for u, _, _ in points], [100 * m for _, m, _ in points]
        axes.plot(updates, mean, **_line(curve.look), markersize=3 if len(mean) < 12 else 0)
        low, high = ([100 * (m + sign * s) for _, m, s in points] for sign in (-1, 1))
        axes.fill_between(updates, low, high, color=COLORS[curve.look.color], alpha=0.15, linewidth=0)
    axes.set_xlabel("outer updates (log scale)", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _line(look: Look) -> dict:
    style = "--" if look.dashed else "-"
    return {
        "color": COLORS[look.color],
        "linestyle": style,
        "marker": look.marker,
        "linewidth": 2.8 if look.wide else 1.4,
    }


def _columns(rows: Sequence[Row]) -> int:
    labels = {curve.label for row in rows for curve in row.here}
    return 4 if len(labels) == 4 and max(map(len, labels)) < 16 else 3


def _legend(rows: Sequence[Row]) -> list[Line2D]:
    looks = {curve.label: curve.look for row in rows for curve in row.here}
    return [Line2D([], [], label=label, markersize=4, **_line(look)) for label, look in looks.items()]
