"""An image beside the support images that pulled and pushed its answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metacontrast.plots.style import COLORS, new_figure
from metacontrast.plots.thumbnails import drawable


@dataclass(frozen=True)
class ContributionPicture:
    """What is drawn.

    Args:
        title: the answer in words.
        image: `(channel, height, width)`.
        support: the support images that count most, `(image, channel, height, width)`, the strongest first.
        labels: what they are.
        values: their signed contributions.
    """

    title: str
    image: NDArray[np.uint8]
    support: NDArray[np.uint8]
    labels: Sequence[str]
    values: NDArray[np.float64]


def draw_contributions(picture: ContributionPicture) -> Figure:
    """The image, the support images in order of strength, and a bar for each: blue pulls, orange pushes away."""
    count = len(picture.values)
    figure = new_figure(1.1 * (count + 1) + 0.4, 2.6)
    grid = figure.subplots(2, count + 1, height_ratios=(3, 2), squeeze=False)
    _show(grid[0, 0], picture.image, "this image")
    grid[1, 0].axis("off")
    reach = float(np.abs(picture.values).max()) * 1.35 or 1.0
    for column, (image, label, value) in enumerate(
        zip(picture.support, picture.labels, picture.values, strict=True), start=1
    ):
        _show(grid[0, column], image, label)
        _bar(grid[1, column], float(value), reach)
    figure.suptitle(picture.title, fontsize=9)
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
    """The end of a long label, which for paths is what distinguishes it."""
    return label if len(label) <= 18 else f"…{label[-17:]}"
