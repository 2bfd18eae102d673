"""Where the reproduction departs from a protocol, item by item of what the paper says and what the code ran."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from metacontrast.experiments.setting import Setting
from metacontrast.experiments.spec import FigureSpec, Line


def _is_of_tasks(line: Line) -> bool:
    return line.schedule.what == "accuracy"


def _is_omniglot(line: Line) -> bool:
    return line.config.dataset == "omniglot"


class Departure(NamedTuple):
    """Something done otherwise than the paper's text or the released code, None where there is no departure.

    `concerns` says of which lines; a departure that concerns no line of a figure is not told of it.
    """

    item: str
    from_paper: str | None
    from_released: str | None
    concerns: Callable[[Line], bool] = lambda line: True


_CIFAR_FS = "CIFAR-FS, 32 × 32, in place of miniImageNet; accuracies are not comparable with the paper's"
DEPARTURES = (
    Departure(
        "test tasks",
        "1,000 at the stages and 250 between, the same ones at every evaluation and for every seed",
        "1,000 at the stages and 250 between, the same ones for every seed; the authors used 200 to 992, drawn with "
        "the training seed, and on Omniglot new ones for each evaluation",
        _is_of_tasks,
    ),
    Departure(
        "test steps", "the text does not name them: those of the released code, and others beside", None, _is_of_tasks
    ),
    Departure(
        "inner steps",
        "the text does not name them (5; Omniglot 2): those of the released code",
        None,
        lambda line: line.config.inner_scope == "all" and line.config.inner_steps == (2 if _is_omniglot(line) else 5),
    ),
    Departure("outer loss", "the mean over tasks in place of the sum, as in the released code; Adam undoes it", None),
    Departure(
        "head",
        "it has a bias, and starts from a normal distribution of norm about 3, as in the code",
        None,
        lambda line: line.config.head_bias,
    ),
    Departure("batch norm", "batch statistics in every pass, scale and shift adapted, as in the released code", None),
    Departure(
        "zeroing in training",
        None,
        "after every update, as the paper says; there before it, so that a model tested with its head kept had a head "
        "one Adam step from zero",
        lambda line: line.config.head == "zeroed",
    ),
    Departure(
        "Omniglot classes",
        None,
        "the first 1,200 by name are trained on; there in the order of an unknown file system",
        _is_omniglot,
    ),
    Departure(
        "Omniglot images",
        "28 × 28 by the reader's default filter, inverted as in the authors' older code",
        "28 × 28 by this library's default filter; there by that of an unknown version of Pillow",
        _is_omniglot,
    ),
    Departure(
        "evaluations",
        "at chosen updates, more of them early",
        "at chosen updates; there every 30 to 250",
        _is_of_tasks,
    ),
    Departure("seeds", "0, 1, 2, …", "0, 1, 2, …; there 222 to 225, 1 to 4 and others, several curves lack some"),
    Departure(
        "data",
        _CIFAR_FS,
        _CIFAR_FS,
        lambda line: line.config.dataset == "cifar-fs",
    ),
)


def departures(protocol: str, figure: FigureSpec, lines: Sequence[Line]) -> list[str]:
    """In words, of the lines of one figure."""
    if not lines:
        return []
    if all(line.config.dataset == "glyphs" for line in lines):
        return [
            "2 updates on tiny networks and embedded glyphs, 2 seeds: the verdicts mean nothing",
            *figure.departures,
        ]
    found = []
    for each in DEPARTURES:
        text = each.from_paper if protocol == "paper" else each.from_released
        if text is not None and any(map(each.concerns, lines)):
            found.append(f"{each.item}: {text}")
    return [*found, *figure.departures]


def all_departures(setting: Setting, figures: Sequence[FigureSpec]) -> list[str]:
    """Of several figures, each once."""
    return [
        *dict.fromkeys(text for each in figures for text in departures(setting.protocol, each, each.lines(setting)))
    ]
