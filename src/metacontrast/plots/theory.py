"""Pictures of the theory: features compared (paper, Fig. 1), the head's step (Fig. 7), parts of the gradient."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from metacontrast.plots import COLORS, new_figure, tidy

_CLASS_COLORS = ("blue", "orange", "green", "purple")


def draw_illustration(support: NDArray, query: NDArray, outputs: NDArray, signal: NDArray, own: int) -> Figure:
    """Draw a query among one support feature per class, in the plane, and its outputs with their targets.

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
        _arrow(axes, (0.0, 0.0), (x, y), color)
        place = (-4, 5) if y > 0.3 else (-24, -14)
        axes.annotate(f"φ(s$_{way + 1}$) = w$_{way + 1}$", (x, y), place, textcoords="offset points", color=color)
    at = tuple(query)
    axes.plot(*query, "o", color=COLORS["black"], markersize=6)
    axes.annotate(f"φ(q), class {own + 1}", at, (7, 0), textcoords="offset points")
    step = query - signal
    tip, middle = tuple(step), tuple((query + step) / 2)
    _arrow(axes, at, tip, COLORS["red"], 1.8)
    axes.annotate("−∂L/∂φ(q)", middle, (6, -3), textcoords="offset points", color=COLORS["red"])
    points = np.vstack([support, query, step, np.zeros(2)])
    margin = 0.25
    axes.set(
        xlim=(points[:, 0].min() - margin, points[:, 0].max() + 2.2 * margin),
        ylim=(points[:, 1].min() - margin, points[:, 1].max() + margin),
        aspect="equal",
    )
    axes.set_title("features", fontsize=10)


def _arrow(axes: Axes, start: Sequence[Any], tip: Sequence[Any], color: str, width: float = 1.6) -> None:
    arrow = {"arrowstyle": "-|>", "color": color, "lw": width}
    axes.annotate("", (tip[0], tip[1]), (start[0], start[1]), arrowprops=arrow)


def _draw_outputs(axes: Axes, outputs: NDArray, own: int) -> None:
    ways = np.arange(len(outputs))
    targets = (ways == own).astype(float)
    axes.bar(ways, outputs, width=0.5, color=[COLORS[_CLASS_COLORS[way]] for way in ways])
    axes.axhline(0, color=COLORS["black"], linewidth=0.8)
    for way, (output, target) in enumerate(zip(outputs, targets, strict=True)):
        axes.hlines(target, way - 0.38, way + 0.38, color=COLORS["black"], linewidth=1.4, linestyle="--")
        _arrow(axes, (way + 0.32, output), (way + 0.32, target), COLORS["red"], 1.0)
    axes.set_xticks(ways, [f"φ(q)·φ(s$_{way + 1}$)" for way in ways])
    axes.set_title("outputs (bars) and their targets (dashed)", fontsize=10)


def draw_preconditioner(features: NDArray, crowded: NDArray, first: NDArray, second: NDArray) -> Figure:
    """Draw support features in the plane, and the head's step with and without second order.

    Args:
        features: `(sample, 2)`.
        crowded: `(2,)`, unit vector of the direction in which features are largest.
        first, second: `(2,)`, the step of one row of the head; both are drawn at one scale.
    """
    figure = new_figure(4.4, 3.9)
    axes = tidy(figure.subplots())
    axes.scatter(*features.T, s=14, color=COLORS["grey"], label="support features φ(s)")
    reach = np.abs(features).max()
    ends = np.stack([-crowded, crowded]) * reach
    axes.plot(*ends.T, color=COLORS["grey"], linewidth=0.8, linestyle=":", label="crowded direction")
    size = 0.8 * reach / np.linalg.norm(first)
    for step, color, name in ((first, "red", "first order"), (second, "blue", "second order, (I − ηH) times it")):
        tip = tuple(size * step)
        _arrow(axes, (0.0, 0.0), tip, COLORS[color], 2.0)
        axes.plot([], [], color=COLORS[color], linewidth=2, label=f"step of the head, {name}")
    axes.set(aspect="equal", xlabel="feature 1", ylabel="feature 2")
    axes.set(xlim=(-1.15 * reach, 1.15 * reach), ylim=(-1.15 * reach, 1.15 * reach))
    figure.legend(loc="outside lower center", fontsize=7.5, frameon=False, ncols=1)
    return figure


def draw_spectrum(eigenvalues: NDArray, title: str) -> Figure:
    """Draw eigenvalues by rank, smallest first: median and range over tasks and classes, without those that stay at 1.

    Args:
        eigenvalues: `(task, way, rank)`, ascending.
    """
    values = eigenvalues.reshape(-1, eigenvalues.shape[-1])
    moved = int((np.abs(values - 1) > 1e-6).any(0).sum())
    shown = min(values.shape[1], moved + 3)
    rank = np.arange(1, shown + 1)
    low, middle, high = (f(values[:, :shown], axis=0) for f in (np.min, np.median, np.max))
    figure = new_figure(4.2, 3.2)
    axes = tidy(figure.subplots())
    axes.vlines(rank, low, high, color=COLORS["sky"], linewidth=4, label="range over tasks and classes")
    axes.plot(rank, middle, "o", color=COLORS["blue"], markersize=5, label="median")
    axes.axhline(1, color=COLORS["grey"], linestyle=":", linewidth=1, label="1: the step stays as it is")
    axes.axhline(0, color=COLORS["black"], linewidth=0.8)
    if low[0] < 0:
        axes.axhspan(
            min(1.15 * low[0], -0.1), 0, color=COLORS["red"], alpha=0.12, linewidth=0, label="below 0: it reverses"
        )
    axes.set(xlabel="rank", ylabel="eigenvalue of I − ηH")
    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


LABELS = {
    "interference": ("interference", "red"),
    "contrastive_query": ("contrastive,\nquery side", "blue"),
    "contrastive_support": ("contrastive,\nsupport side", "sky"),
    "head_curvature": ("head\ncurvature", "orange"),
    "remainder": ("residual", "grey"),
}


def draw_gradient_parts(parts: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Draw norm against the whole, share and cosine of every part that is not zero, one panel each.

    Args:
        parts: `norm_ratio`, `share` and `cosine` by name of the part, names from `LABELS`.
    """
    shown = [name for name in LABELS if parts[name]["norm_ratio"] > 0]
    figure = new_figure(5.6, 0.55 * len(shown) + 1.3)
    panels = figure.subplots(1, 3, sharey=True)
    columns = {"norm_ratio": "norm (gradient: 1)", "share": "share of it", "cosine": "cosine with it"}
    for axes, (key, label) in zip(panels, columns.items(), strict=True):
        _draw_bars(axes, shown, [parts[name][key] for name in shown])
        axes.set_xlabel(label)
    panels[0].set_yticks(range(len(shown)), [LABELS[name][0] for name in shown])
    panels[0].invert_yaxis()
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_bars(axes: Axes, names: list[str], values: list[float]) -> None:
    tidy(axes).grid(axis="y", visible=False)
    axes.barh(range(len(names)), values, color=[COLORS[LABELS[name][1]] for name in names], height=0.62)
    axes.axvline(0, color=COLORS["black"], linewidth=0.8)
    low, high = min(0.0, *values), max(0.0, *values)
    axes.set_xlim(low - (0.3 * (high - low) if low < 0 else 0), high + 0.3 * (high - low))
    for row, value in enumerate(values):
        side = {"ha": "left", "xytext": (3, 0)} if value >= 0 else {"ha": "right", "xytext": (-3, 0)}
        axes.annotate(f"{value:.2f}", (value, row), textcoords="offset points", va="center", fontsize=8, **side)
