"""Where the reproduction departs from a protocol, item by item of what the paper says and what the code ran."""

from collections.abc import Sequence
from typing import NamedTuple

from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import FigureSpec


class Departure(NamedTuple):
    """Something done otherwise than the paper's text or the released code, None where there is no departure."""

    item: str
    from_paper: str | None
    from_released: str | None


DEPARTURES = (
    Departure(
        "test tasks",
        "the number that the paper says at full scale, the same tasks at every evaluation and for every seed",
        "the same tasks for every seed, fewer before the last evaluation (the first of them); there drawn with the "
        "training seed, on Omniglot anew at each evaluation",
    ),
    Departure("test steps", "the text does not name them: those of the released code, and others beside", None),
    Departure("inner steps", "the text does not name them (5; Omniglot 2): those of the released code", None),
    Departure("outer loss", "the mean over tasks in place of the sum, as in the released code; Adam undoes it", None),
    Departure("head", "it has a bias, and starts from a normal distribution of norm about 3, as in the code", None),
    Departure("batch norm", "batch statistics in every pass, scale and shift adapted, as in the released code", None),
    Departure(
        "zeroing in training",
        None,
        "after every update, as the paper says; there before it, so that a model tested with its head kept had a head "
        "one Adam step from zero",
    ),
    Departure(
        "Omniglot classes",
        None,
        "the first 1,200 by name are trained on; there in the order of an unknown file system",
    ),
    Departure(
        "Omniglot images",
        "28 × 28 by the reader's default filter, inverted as in the authors' older code",
        "28 × 28 by this library's default filter; there by that of an unknown version of Pillow",
    ),
    Departure("evaluations", "at chosen updates, more of them early", "at chosen updates; there every 30 to 250"),
    Departure("seeds", "0, 1, 2, …", "0, 1, 2, …; there 222 to 225, 1 to 4 and others, several curves lack some"),
)


def departures(setting: Setting, figures: Sequence[FigureSpec]) -> list[str]:
    """In words, for the chosen protocol, scale and figures."""
    found = [*_of_scale(setting)]
    for each in DEPARTURES:
        text = each.from_paper if setting.protocol == "paper" else each.from_released
        if text is not None:
            found.append(f"{each.item}: {text}")
    return found + [f"{figure.name}: {text}" for figure in figures for text in figure.departures]


def _of_scale(setting: Setting) -> list[str]:
    if setting.scale == "smoke":
        return ["smoke scale: 2 updates on tiny networks and embedded glyphs, 2 seeds; its verdicts mean nothing"]
    found = []
    if setting.colour != "mini-imagenet":
        found.append(
            "data: CIFAR-FS, 32 × 32, in place of miniImageNet; accuracies are not comparable with the paper's"
        )
    if setting.scale == "local":
        found.append("local scale: 100 to 600 updates, 3 seeds, 40 to 400 test tasks")
    return found
