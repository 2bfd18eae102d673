"""Deviations of the reproduction from a protocol: from what the paper says, and from what the authors' code ran."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import Curve, FigureSpec


def _is_of_tasks(curve: Curve) -> bool:
    return curve.plan.what == "accuracy"


def _is_omniglot(curve: Curve) -> bool:
    return curve.config.dataset == "omniglot"


class Deviation(NamedTuple):
    """A difference from the paper's text or from the authors' code; None where there is no difference.

    `concerns` says of which curves; a figure is told only of the deviations that concern one of its curves.
    """

    item: str
    from_paper: str | None
    from_authors: str | None
    concerns: Callable[[Curve], bool] = lambda curve: True


_CIFAR_FS = "CIFAR-FS, 32 × 32, instead of miniImageNet; accuracies are not comparable with the paper's"
_SAME_TASKS = (
    "every seed is tested on the same tasks, 1,000 at each stage and 250 at the evaluations in between; older runs, "
    "shown as means only, on the first 40 to 150 of them"
)
DEVIATIONS = (
    Deviation(
        "test tasks",
        _SAME_TASKS,
        f"{_SAME_TASKS}; the authors drew 200 to 992 tasks with the training seed, and on Omniglot drew new tasks for "
        "each evaluation",
        _is_of_tasks,
    ),
    Deviation(
        "test steps",
        "the text does not name them; they are those of the authors' code and some more",
        None,
        _is_of_tasks,
    ),
    Deviation(
        "inner steps",
        "the text does not name them; they are those of the authors' code (5, on Omniglot 2)",
        None,
        lambda curve: (
            curve.config.inner_scope == "all" and curve.config.inner_steps == (2 if _is_omniglot(curve) else 5)
        ),
    ),
    Deviation(
        "outer loss",
        "the mean over tasks instead of the sum, as in the authors' code; Adam is invariant to that factor",
        None,
    ),
    Deviation(
        "head",
        "it has a bias and starts from a normal distribution with a norm of about 3, as in the authors' code",
        None,
        lambda curve: curve.config.head_bias,
    ),
    Deviation("batch norm", "batch statistics in every pass, scale and shift adapted, as in the authors' code", None),
    Deviation(
        "zeroing in training",
        None,
        "the head is set to zero after every update, as the paper says; the authors' code does so before the update, "
        "so that a model tested with its meta-learned head had a head one Adam step away from zero",
        lambda curve: curve.config.head == "zeroed",
    ),
    Deviation(
        "Omniglot classes",
        None,
        "the first 1,200 by name are trained on; the authors took them in the order of a file system that is not known",
        _is_omniglot,
    ),
    Deviation(
        "Omniglot images",
        "resized to 28 × 28 with the reader's default filter, and inverted as in the authors' older code",
        "resized to 28 × 28 with this library's default filter; the authors used that of an unknown version of Pillow",
        _is_omniglot,
    ),
    Deviation(
        "evaluations",
        "at chosen updates, more of them early",
        "at chosen updates; the authors evaluated every 30 to 250 updates",
        _is_of_tasks,
    ),
    Deviation(
        "seeds",
        "0, 1, 2, …",
        "0, 1, 2, …; the authors used 222 to 225, 1 to 4 and others, and several curves lack some of them",
    ),
    Deviation("data", _CIFAR_FS, _CIFAR_FS, lambda curve: curve.config.dataset == "cifar-fs"),
)


def deviations(protocol: str, figure: FigureSpec, curves: Sequence[Curve]) -> list[str]:
    """List the deviations that concern one figure's curves, in words."""
    if not curves:
        return [*figure.deviations]
    if all(curve.config.dataset == "glyphs" for curve in curves):
        return [
            "2 updates on tiny networks and embedded glyphs, 2 seeds: the verdicts mean nothing",
            *figure.deviations,
        ]
    found = []
    for each in DEVIATIONS if figure.of_paper else ():
        text = each.from_paper if protocol == "paper" else each.from_authors
        if text is not None and any(map(each.concerns, curves)):
            found.append(f"{each.item}: {text}")
    return [*found, *figure.deviations]


def all_deviations(setting: Setting, figures: Sequence[FigureSpec]) -> list[str]:
    """List the deviations of several figures, each once."""
    return [
        *dict.fromkeys(text for each in figures for text in deviations(setting.protocol, each, each.curves(setting)))
    ]
