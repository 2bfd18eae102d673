"""Few-shot tasks as pictures: support images and query images with what was predicted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metacontrast.plots.style import COLORS, new_figure


@dataclass(frozen=True)
class EpisodePicture:
    """One task to draw.

    Args:
        title: what stands above.
        support, query: images `(way, image, height, width[, 3])`, values 0 to 255 or 0 to 1.
        predicted: predicted class of every query image, `(way, image)`.
        names: of the classes.
    """

    title: str
    support: NDArray
    query: NDArray
    predicted: NDArray[np.int64]
    names: Sequence[str]


def draw_episodes(episodes: Sequence[EpisodePicture]) -> Figure:
    """Side by side, one class a row: support images, then query images framed green if right and orange if wrong."""
    ways = len(episodes[0].names)
    widths = [e.support.shape[1] + e.query.shape[1] for e in episodes]
    figure = new_figure(max(0.62 * sum(widths) + 0.8, 2.6 * len(episodes)), 0.74 * ways + 0.7)
    panels = figure.subfigures(1, len(episodes), width_ratios=widths, squeeze=False)[0]
    for panel, episode in zip(panels, episodes, strict=True):
        panel.suptitle(episode.title, fontsize=9)
        shots, queries = episode.support.shape[1], episode.query.shape[1]
        grid = panel.subplots(ways, shots + queries, squeeze=False)
        for way in range(ways):
            for column in range(shots):
                _show(grid[way, column], episode.support[way, column], "black", 2.0)
            grid[way, 0].set_ylabel(str(way + 1), rotation=0, ha="right", va="center")
            for column in range(queries):
                guess = int(episode.predicted[way, column])
                axes = grid[way, shots + column]
                _show(axes, episode.query[way, column], "green" if guess == way else "red", 2.0)
                if guess != way:
                    axes.set_xlabel(f"taken for {guess + 1}", fontsize=6.5, color=COLORS["red"], labelpad=1)
        grid[0, 0].set_title("support", fontsize=8)
        grid[0, shots].set_title("query", fontsize=8)
    return figure


def _show(axes: Axes, image: NDArray, color: str, width: float) -> None:
    axes.imshow(image, cmap="gray", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=COLORS[color], linewidth=width)
