"""Pictures with images or matrices in them: tasks and their predictions, contributions of support images, heat maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from metacontrast.plots import COLORS, new_figure


@dataclass(frozen=True)
class EpisodePicture:
    """One task to draw.

    Args:
        support, query: images `(way, image, height, width[, 3])`, values 0 to 255 or 0 to 1.
        predicted: predicted class of every query image, `(way, image)`.
    """

    title: str
    support: NDArray
    query: NDArray
    predicted: NDArray[np.int64]


def draw_episodes(episodes: Sequence[EpisodePicture]) -> Figure:
    """Draw tasks side by side, one class a row: support images, then query images framed green or orange (wrong)."""
    ways = len(episodes[0].support)
    widths = [e.support.shape[1] + e.query.shape[1] for e in episodes]
    figure = new_figure(max(0.62 * sum(widths) + 0.8, 2.6 * len(episodes)), 0.74 * ways + 0.7)
    panels = figure.subfigures(1, len(episodes), width_ratios=widths, squeeze=False)[0]
    for panel, episode in zip(panels, episodes, strict=True):
        panel.suptitle(episode.title, fontsize=9)
        shots, queries = episode.support.shape[1], episode.query.shape[1]
        grid = panel.subplots(ways, shots + queries, squeeze=False)
        for way in range(ways):
            for column in range(shots):
                _framed(grid[way, column], episode.support[way, column], "black", 2.0)
            grid[way, 0].set_ylabel(str(way + 1), rotation=0, ha="right", va="center")
            for column in range(queries):
                guess = int(episode.predicted[way, column])
                axes = grid[way, shots + column]
                _framed(axes, episode.query[way, column], "green" if guess == way else "red", 2.0)
                if guess != way:
                    axes.set_xlabel(f"taken for {guess + 1}", fontsize=6.5, color=COLORS["red"], labelpad=1)
        grid[0, 0].set_title("support", fontsize=8)
        grid[0, shots].set_title("query", fontsize=8)
    return figure


def _framed(axes: Axes, image: NDArray, color: str, width: float) -> None:
    axes.imshow(image, cmap="gray", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=COLORS[color], linewidth=width)


def draw_contributions(
    title: str, image: NDArray[np.uint8], support: NDArray[np.uint8], labels: Sequence[str], values: NDArray[np.float64]
) -> Figure:
    """Draw an image, its support images in order of strength, and a bar for each: blue attracts, orange repels.

    Args:
        title: the answer in words.
        image: `(channel, height, width)`.
        support: the support images that count most, `(image, channel, height, width)`, the strongest first.
        values: their signed contributions.
    """
    count = len(values)
    figure = new_figure(1.1 * (count + 1) + 0.4, 2.6)
    grid = figure.subplots(2, count + 1, height_ratios=(3, 2), squeeze=False)
    _show(grid[0, 0], image, "this image")
    grid[1, 0].axis("off")
    reach = float(np.abs(values).max()) * 1.35 or 1.0
    for column, (shown, label, value) in enumerate(zip(support, labels, values, strict=True), start=1):
        _show(grid[0, column], shown, label)
        _bar(grid[1, column], float(value), reach)
    figure.suptitle(title, fontsize=9)
    return figure


def _show(axes: Axes, image: NDArray[np.uint8], label: str) -> None:
    axes.imshow(drawable(image[None])[0], cmap="gray", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_title(_shortened(label), fontsize=7)


def _bar(axes: Axes, value: float, reach: float) -> None:
    axes.bar([0], [value], color=COLORS["blue" if value > 0 else "orange"], width=0.6)
    axes.axhline(0, color=COLORS["grey"], linewidth=0.5)
    axes.text(0, value, f"{value:+.2g}", ha="center", va="bottom" if value > 0 else "top", fontsize=7)
    axes.set(xticks=[], yticks=[], xlim=(-1, 1), ylim=(-reach, reach))
    axes.spines[:].set_visible(False)


def _shortened(label: str) -> str:
    """Return the end of a long label, which for paths is what distinguishes it."""
    return label if len(label) <= 18 else f"…{label[-17:]}"


def drawable(images: NDArray) -> NDArray:
    """Arrange images `(image, channel, height, width)` for matplotlib: colour last, or no colour axis if grey."""
    pixels = np.moveaxis(images, 1, -1)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def draw_strip(axes: Axes, images: NDArray, *, upright: bool) -> None:
    """Draw images in a row, or with `upright` in a column from the top, without ticks or frame."""
    strip = np.concatenate(list(images), axis=0 if upright else 1)
    axes.imshow(strip, cmap="gray", aspect="auto", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


@dataclass(frozen=True)
class Moment:
    """A row of maps.

    Args:
        maps: `(map, way, way)`, mean cosine similarity.
        contrasts: of the maps; None where a map has no diagonal.
    """

    label: str
    maps: NDArray
    contrasts: Sequence[float | None]


def draw_heatmaps(moments: Sequence[Moment], names: Sequence[str], title: str, width: float = 5.6) -> Figure:
    """Draw one row of maps per moment, all on one scale; a dash where there is no value.

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
    """Draw the matrix with query images on the left, support images above, and frames round pairs of one class.

    Args:
        coefficients: `(query, support)`.
        query_images, support_images: as `drawable` gives them.
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
