"""What the outer gradient is made of, as bars."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metacontrast.plots.style import COLORS, new_figure, tidy

LABELS = {
    "interference": ("interference", "red"),
    "contrastive_query": ("contrastive,\nquery side", "blue"),
    "contrastive_support": ("contrastive,\nsupport side", "sky"),
    "head_curvature": ("head\ncurvature", "orange"),
    "remainder": ("not in the\ntheory", "grey"),
}


def draw_gradient_parts(parts: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Norm against the whole, share and cosine of every part that is not zero, one panel each.

    Args:
        parts: `norm_ratio`, `share` and `cosine` by name of the part, names from `LABELS`.
        title: what stands above.
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
