"""What second order does to a step of the head: it is held back where support features crowd (paper, Fig. 7)."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metacontrast.plots.style import COLORS, new_figure, tidy


def draw_preconditioner(features: NDArray, crowded: NDArray, first: NDArray, second: NDArray) -> Figure:
    """Support features in the plane, and the head's step with and without the second order.

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
        axes.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": COLORS[color], "lw": 2})
        axes.plot([], [], color=COLORS[color], linewidth=2, label=f"step of the head, {name}")
    axes.set(aspect="equal", xlabel="feature 1", ylabel="feature 2")
    axes.set(xlim=(-1.15 * reach, 1.15 * reach), ylim=(-1.15 * reach, 1.15 * reach))
    figure.legend(loc="outside lower center", fontsize=7.5, frameon=False, ncols=1)
    return figure
