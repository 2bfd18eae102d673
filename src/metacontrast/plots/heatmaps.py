"""Class-by-class similarity of features at several moments (paper, Fig. 2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metacontrast.plots.style import new_figure


@dataclass(frozen=True)
class Moment:
    """A row of maps.

    Args:
        label: what stands beside it.
        maps: `(map, way, way)`, mean cosine similarity.
        contrasts: of the maps; None where a map has no diagonal.
    """

    label: str
    maps: NDArray
    contrasts: Sequence[float | None]


def draw_heatmaps(moments: Sequence[Moment], names: Sequence[str], title: str, width: float = 5.6) -> Figure:
    """One row of maps per moment, all on one scale; a dash where there is no value.

    Args:
        names: of the maps, first what stands along the rows.
        width: of the picture in inches.
    """
    scale = float(np.nanmax(np.abs([moment.maps for moment in moments])))
    figure = new_figure(width, 0.7 + 1.7 * len(moments) * min(1.0, 3 * width / (5.6 * len(names))))
    panels = figure.subplots(len(moments), len(names), squeeze=False)
    drawn = None
    for row, moment in enumerate(moments):
        for axes, matrix, name, contrast in zip(panels[row], moment.maps, names, moment.contrasts, strict=True):
            drawn = _draw_map(axes, matrix, scale)
            value = "no pairs within a class" if contrast is None else f"contrast {contrast:.3f}"
            axes.set_title(f"{name}\n{value}" if row == 0 else value, fontsize=9)
        panels[row, 0].set_ylabel(moment.label)
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
