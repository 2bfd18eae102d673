"""Class-by-class similarity of features, before and after adaptation (paper, Fig. 2)."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metacontrast.plots.style import new_figure

ROWS = ("before adaptation", "after adaptation")


def draw_heatmaps(
    before: NDArray, after: NDArray, names: Sequence[str], contrasts: Sequence[Sequence[float | None]], title: str
) -> Figure:
    """Three maps before adaptation over the same three after it, all on one scale; a dash where there is no value.

    Args:
        before, after: `(map, way, way)`, mean cosine similarity.
        names: of the maps, first what stands along the rows.
        contrasts: of the maps before and after; None where a map has no diagonal.
    """
    scale = float(np.nanmax(np.abs([before, after])))
    figure = new_figure(5.6, 4.1)
    panels = figure.subplots(2, len(names), squeeze=False)
    drawn = None
    for row, maps in enumerate((before, after)):
        for axes, matrix, name, contrast in zip(panels[row], maps, names, contrasts[row], strict=True):
            drawn = _draw_map(axes, matrix, scale)
            value = "no pairs within a class" if contrast is None else f"contrast {contrast:.3f}"
            axes.set_title(f"{name}\n{value}" if row == 0 else value, fontsize=9)
        panels[row, 0].set_ylabel(ROWS[row])
    if drawn is not None:
        figure.colorbar(drawn, ax=panels, label="mean cosine similarity", shrink=0.8, aspect=28)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_map(axes: Axes, matrix: NDArray, scale: float):
    cmap = colormaps["RdBu_r"].with_extremes(bad="none")
    ways = len(matrix)
    axes.set_facecolor("#eeeeee")
    drawn = axes.imshow(np.ma.masked_invalid(matrix), cmap=cmap, vmin=-scale, vmax=scale)
    names = [str(way) for way in range(1, ways + 1)]
    axes.set_xticks(range(ways), names, fontsize=7)
    axes.set_yticks(range(ways), names, fontsize=7)
    for place in np.argwhere(np.isnan(matrix)):
        axes.text(place[1], place[0], "–", ha="center", va="center", fontsize=8, color="#777777")
    return drawn
