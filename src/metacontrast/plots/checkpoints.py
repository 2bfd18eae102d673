"""How a run came to what it is: its scalars across the copies of the model that training kept."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from metacontrast.plots.style import COLORS, new_figure, tidy

Series = Mapping[str, Sequence[float | None]]


def draw_checkpoints(updates: Sequence[int], panels: Mapping[str, Series], title: str) -> Figure:
    """One panel per quantity over a common axis of outer updates.

    Args:
        updates: outer updates behind each model.
        panels: by axis label, curves by legend label; a single curve has no legend, a value None leaves a gap.
    """
    figure = new_figure(5.8, 2.5)
    colors = [COLORS[name] for name in ("blue", "orange", "green", "red")]
    for axes, (label, curves) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for color, (name, values) in zip(colors, curves.items(), strict=False):
            numbers = [float("nan") if value is None else value for value in values]
            tidy(axes).plot(updates, numbers, "o-", color=color, markersize=3.5, linewidth=1.4, label=name)
        axes.set_title(label, fontsize=9)
        drawn = [value for values in curves.values() for value in values if value is not None]
        axes.set(xlabel="outer updates", ylim=(1.1 * min(0.0, *drawn), 1.1 * max(0.0, *drawn) or 1.0))
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize=7.5)
    figure.suptitle(title, fontsize=10)
    return figure
