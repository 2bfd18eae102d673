"""Deviations of the reproduction from a protocol: from what the paper says, and from what the authors' code ran."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import Curve, FigureSpec


def _is_of_tasks(curve: Curve) -> bool:
    return curve.schedule.what == "accuracy"


def _is_omniglot(curve: Curve) -> bool:
    return curve.config.dataset == "omniglot"


class Deviation(NamedTuple):
    """Something done otherwise than in the paper's text or the authors' code; None where it is done alike.

    `concerns` says of which curves; a figure is told only of the deviations that concern one of its curves.
    """

    item: str
    from_paper: str | None
    from_authors: str | None
    concerns: Callable[[Curve], bool] = lambda curve: True


_CIFAR_FS = "CIFAR-FS, 32 × 32, in place of miniImageNet; accuracies are not comparable with the paper's"
DEVIATIONS = (
    Deviation(
        "test tasks",
        "1,000 at the stages and 250 between, the same ones at every evaluation and for every seed",
        "1,000 at the stages and 250 between, the same ones for every seed; the authors used 200 to 992, drawn with "
        "the training seed, and on Omniglot new ones for each evaluation",
        _is_of_tasks,
    ),
    Deviation(
        "test steps", "the text does not name them: those of the authors' code, and others beside", None, _is_of_tasks
    ),
    Deviation(
        "inner steps",
        "the text does not name them (5; Omniglot 2): those of the authors' code",
        None,
        lambda curve: (
            curve.config.inner_scope == "all" and curve.config.inner_steps == (2 if _is_omniglot(curve) else 5)
        ),
    ),
    Deviation("outer loss", "the mean over tasks in place of the sum, as in the authors' code; Adam undoes it", None),
    Deviation(
        "head",
        "it has a bias, and starts from a normal distribution of norm about 3, as in the code",
        None,
        lambda curve: curve.config.head_bias,
    ),
    Deviation("batch norm", "batch statistics in every pass, scale and shift adapted, as in the authors' code", None),
    Deviation(
        "zeroing in training",
        None,
        "after every update, as the paper says; there before it, so that a model tested with its head kept had a head "
        "one Adam step from zero",
        lambda curve: curve.config.head == "zeroed",
    ),
    Deviation(
        "Omniglot classes",
        None,
        "the first 1,200 by name are trained on; there in the order of an unknown file system",
        _is_omniglot,
    ),
    Deviation(
        "Omniglot images",
        "28 × 28 by the reader's default filter, inverted as in the authors' older code",
        "28 × 28 by this library's default filter; there by that of an unknown version of Pillow",
        _is_omniglot,
    ),
    Deviation(
        "evaluations",
        "at chosen updates, more of them early",
        "at chosen updates; there every 30 to 250",
        _is_of_tasks,
    ),
    Deviation("seeds", "0, 1, 2, …", "0, 1, 2, …; there 222 to 225, 1 to 4 and others, several curves lack some"),
    Deviation(
        "data",
        _CIFAR_FS,
        _CIFAR_FS,
        lambda curve: curve.config.dataset == "cifar-fs",
    ),
)


def deviations(protocol: str, figure: FigureSpec, curves: Sequence[Curve]) -> list[str]:
    """List the deviations that concern one figure's curves, in words."""
    if not curves:
        return []
    if all(curve.config.dataset == "glyphs" for curve in curves):
        return [
            "2 updates on tiny networks and embedded glyphs, 2 seeds: the verdicts mean nothing",
            *figure.deviations,
        ]
    found = []
    for each in DEVIATIONS:
        text = each.from_paper if protocol == "paper" else each.from_authors
        if text is not None and any(map(each.concerns, curves)):
            found.append(f"{each.item}: {text}")
    return [*found, *figure.deviations]


def all_deviations(setting: Setting, figures: Sequence[FigureSpec]) -> list[str]:
    """List the deviations of several figures, each once."""
    return [
        *dict.fromkeys(text for each in figures for text in deviations(setting.protocol, each, each.curves(setting)))
    ]
