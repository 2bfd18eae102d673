"""Heat maps: similarity of classes (paper, Fig. 2), and contrastive coefficients between the images of a task."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from metacontrast.plots.style import COLORS, new_figure
from metacontrast.plots.thumbnails import draw_strip


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


LABEL = "c(q, s)   < 0 attracts, > 0 repels"


def draw_coefficients(
    coefficients: NDArray,
    query_y: NDArray,
    support_y: NDArray,
    query_images: NDArray,
    support_images: NDArray,
    title: str,
) -> Figure:
    """The matrix with query images on the left, support images above, and a frame round each pair of one class.

    Args:
        coefficients: `(query, support)`.
        query_y, support_y: labels.
        query_images, support_images: as `thumbnails.drawable` gives them.
        title: what stands above.
    """
    by_query, by_support = (np.argsort(y, kind="stable") for y in (query_y, support_y))
    matrix = coefficients[np.ix_(by_query, by_support)]
    queries, supports = matrix.shape
    cell = min(0.5, 4.6 / max(queries, supports))
    figure = new_figure(max(3.4, cell * supports + 1.9), cell * (queries + 1) + 1.0)
    grid = figure.add_gridspec(2, 3, width_ratios=[1, supports, 0.35], height_ratios=[1, queries], wspace=0, hspace=0)
    above, left = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 0])
    draw_strip(above, support_images[by_support], upright=False)
    draw_strip(left, query_images[by_query], upright=True)
    above.set_title("support images", fontsize=8)
    left.set_ylabel("query images", fontsize=8)
    axes = figure.add_subplot(grid[1, 1], xticks=[], yticks=[])
    scale = float(np.abs(matrix).max()) or 1.0
    drawn = axes.imshow(matrix, cmap="RdBu_r", vmin=-scale, vmax=scale, aspect="auto")
    for row, column in np.argwhere(query_y[by_query][:, None] == support_y[by_support][None]):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=COLORS["black"], linewidth=0.7))
    figure.colorbar(drawn, cax=figure.add_subplot(grid[1, 2]), label=LABEL)
    figure.suptitle(title, fontsize=10)
    return figure
