"""The eigenvalues of I − ηH: what second order multiplies the head's step by (paper, Fig. 7)."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from metacontrast.plots.style import COLORS, new_figure, tidy


def draw_spectrum(eigenvalues: NDArray, title: str) -> Figure:
    """Eigenvalues by rank, smallest first: median and range over tasks and classes; those that stay at 1 are cut off.

    Args:
        eigenvalues: `(task, way, rank)`, ascending.
        title: what stands above.
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
            min(1.15 * low[0], -0.1), 0, color=COLORS["red"], alpha=0.12, linewidth=0, label="below 0: it turns round"
        )
    axes.set(xlabel="rank", ylabel="eigenvalue of I − ηH")
    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure
