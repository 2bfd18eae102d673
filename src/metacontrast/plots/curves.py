"""Learning curves: accuracy on fixed test tasks against outer updates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metacontrast.plots.style import COLORS, new_figure, tidy


@dataclass(frozen=True)
class Curve:
    """One curve.

    Args:
        label: what the legend says.
        updates, accuracy, ci95: one entry per evaluation; accuracy and half its interval on the scale 0 to 1.
        color: a name from `style.COLORS`.
        dashed: for a second reading of the same run.
    """

    label: str
    updates: Sequence[int]
    accuracy: Sequence[float]
    ci95: Sequence[float]
    color: str
    dashed: bool = False


def select_curve(records: Sequence[Mapping], wanted: Mapping, label: str, color: str, dashed: bool = False) -> Curve:
    """The evaluations among `records` that agree with `wanted`, as a curve."""
    rows = [r for r in records if r.get("kind") == "evaluation" and all(r[k] == v for k, v in wanted.items())]
    updates, accuracy, ci95 = ([r[name] for r in rows] for name in ("update", "accuracy", "ci95"))
    return Curve(label, updates, accuracy, ci95, color, dashed)


def learning_curves(curves: Sequence[Curve], title: str, chance: float | None = None) -> Figure:
    """All curves in one panel, each with its 95 % interval as a band."""
    figure = new_figure(6.0, 3.6)
    axes = tidy(figure.subplots())
    for curve in curves:
        color, accuracy = COLORS[curve.color], [100 * a for a in curve.accuracy]
        low = [a - 100 * c for a, c in zip(accuracy, curve.ci95, strict=True)]
        high = [a + 100 * c for a, c in zip(accuracy, curve.ci95, strict=True)]
        axes.plot(curve.updates, accuracy, "--" if curve.dashed else "-", color=color, label=curve.label)
        axes.fill_between(curve.updates, low, high, color=color, alpha=0.15, linewidth=0)
    if chance is not None:
        axes.axhline(100 * chance, color=COLORS["grey"], linewidth=0.8, linestyle=":", label="chance")
    axes.set_ylim(max(0, axes.get_ylim()[0]), min(100, axes.get_ylim()[1]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="outer updates", ylabel="test accuracy (%), band: 95 % interval", title=title)
    axes.legend(frameon=False, loc="lower right")
    return figure
