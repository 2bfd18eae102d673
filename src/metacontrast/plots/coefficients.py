"""The contrastive coefficients of one task between its images: who is pulled towards whom."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from metacontrast.plots.style import COLORS, new_figure
from metacontrast.plots.thumbnails import draw_strip

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
