"""The paper's first picture: from a head at zero, with squared errors, MAML compares query and support features."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metacontrast.plots.style import COLORS, new_figure, tidy

_CLASS_COLORS = ("blue", "orange", "green", "purple")


def draw_illustration(support: NDArray, query: NDArray, outputs: NDArray, signal: NDArray, own: int) -> Figure:
    """One query among one support feature per class, in the plane of the features, and its outputs with their targets.

    Args:
        support: `(way, 2)`, which are also the rows of the adapted head; at most four classes.
        query: `(2,)`.
        outputs: `(way,)`, the products of the query's feature with each support feature.
        signal: `(2,)`, derivative of the loss with respect to the query's feature; it moves against it.
        own: the query's class.
    """
    figure = new_figure(6.8, 3.1)
    plane, bars = figure.subplots(1, 2, width_ratios=[1, 1.1])
    _draw_plane(tidy(plane), support, query, signal, own)
    _draw_outputs(tidy(bars), outputs, own)
    return figure


def _draw_plane(axes: Axes, support: NDArray, query: NDArray, signal: NDArray, own: int) -> None:
    for way, (x, y) in enumerate(support):
        color = COLORS[_CLASS_COLORS[way]]
        axes.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.6})
        place = (-4, 5) if y > 0.3 else (-24, -14)
        axes.annotate(f"φ(s$_{way + 1}$) = w$_{way + 1}$", (x, y), place, textcoords="offset points", color=color)
    at = tuple(query)
    axes.plot(*query, "o", color=COLORS["black"], markersize=6)
    axes.annotate(f"φ(q), class {own + 1}", at, (7, 0), textcoords="offset points")
    step = query - signal
    tip, middle = tuple(step), tuple((query + step) / 2)
    axes.annotate("", tip, at, arrowprops={"arrowstyle": "-|>", "color": COLORS["red"], "lw": 1.8})
    axes.annotate("−∂L/∂φ(q)", middle, (6, -3), textcoords="offset points", color=COLORS["red"])
    points = np.vstack([support, query, step, np.zeros(2)])
    margin = 0.25
    axes.set(
        xlim=(points[:, 0].min() - margin, points[:, 0].max() + 2.2 * margin),
        ylim=(points[:, 1].min() - margin, points[:, 1].max() + margin),
        aspect="equal",
    )
    axes.set_title("features", fontsize=10)


def _draw_outputs(axes: Axes, outputs: NDArray, own: int) -> None:
    ways = np.arange(len(outputs))
    targets = (ways == own).astype(float)
    axes.bar(ways, outputs, width=0.5, color=[COLORS[_CLASS_COLORS[way]] for way in ways])
    axes.axhline(0, color=COLORS["black"], linewidth=0.8)
    for way, (output, target) in enumerate(zip(outputs, targets, strict=True)):
        axes.hlines(target, way - 0.38, way + 0.38, color=COLORS["black"], linewidth=1.4, linestyle="--")
        axes.annotate(
            "", (way + 0.32, target), (way + 0.32, output), arrowprops={"arrowstyle": "-|>", "color": COLORS["red"]}
        )
    axes.set_xticks(ways, [f"φ(q)·φ(s$_{way + 1}$)" for way in ways])
    axes.set_title("outputs (bars) and their targets (dashed)", fontsize=10)
