"""What a figure is: a question, the runs that answer it, what is drawn of them, and claims with a verdict each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from matplotlib.figure import Figure

from metacontrast.experiments.schedule import Schedule
from metacontrast.experiments.setting import Setting
from metacontrast.fields import check_fields
from metacontrast.training.config import TrainConfig
from metacontrast.training.records import Record

When = Literal["early", "end"]
Speaks = Literal["early", "end", "throughout"]
Measure = Literal["higher", "equal", "faster"]
PlotKind = Literal["curves", "heatmaps", "illustration"]


@dataclass(frozen=True)
class ReleasedCurve:
    """Where a line's counterpart stands among the released numbers."""

    figure: str
    curve: str
    shots: int


@dataclass(frozen=True)
class Line:
    """One line of a figure: a configuration that is trained on every seed.

    Args:
        panel: data set and shape of the tasks, such as `Omniglot, 5-way 1-shot`.
        name: what the legend says.
        config: the training; its seed is replaced.
        schedule: what is measured.
        seeds: the training seeds.
        released: the released numbers that belong to it.
        train_split: split that is trained on.
        until: the last update that the figure looks at, where another figure trains the run for longer.
    """

    panel: str
    name: str
    config: TrainConfig
    schedule: Schedule
    seeds: Sequence[int]
    released: ReleasedCurve | None = None
    train_split: str = "train"
    until: int | None = None

    @property
    def updates(self) -> tuple[int, ...]:
        """The measured updates that the figure looks at."""
        end = self.schedule.end if self.until is None else self.until
        return tuple(update for update in self.schedule.updates if update <= end)

    def named(self, quantity: str) -> str:
        """A quantity of this line: `own` stands for as many inner steps as in training."""
        return quantity.replace("/own", f"/{self.config.inner_steps}")

    def configs(self) -> dict[int, TrainConfig]:
        """The full-length training of every seed."""
        return {seed: replace(self.config, updates=self.schedule.end, seed=seed) for seed in self.seeds}


@dataclass(frozen=True)
class Reading:
    """A quantity of a line on every seed and test task.

    Args:
        when: `end`: at the last stage that all curves of the comparison have reached; `early`: at the last of these
            within the first fifth of the published training.
    """

    line: str
    quantity: str
    when: When = "end"

    __post_init__ = check_fields


@dataclass(frozen=True)
class Comparison:
    """A signed sum of readings in one panel, paired by seed.

    Args:
        label: what is compared, in a few words.
        panel: where.
        plus, minus: the readings that are added and taken away.
        measure: `higher`: the sum lies above `margin`; `equal`: within ± `margin`; `faster`: the first of `plus`
            reaches levels that both reach in fewer updates than the first of `minus` does.
        margin: on the scale of the quantity; for `faster` unused.
        released: what the released numbers say of it, over the whole of their training.
    """

    label: str
    panel: str
    plus: tuple[Reading, ...]
    minus: tuple[Reading, ...]
    measure: Measure = "higher"
    margin: float = 0.0
    released: str = ""

    __post_init__ = check_fields


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and the comparisons that must all hold for it to hold.

    Args:
        released: what the released numbers say of it.
        speaks: of which part of training: of the `early` part, which any length tests; of the `end`, which nothing
            else tests; or of training `throughout`, which any length can refute and only the end can support.
        authors: the same sentence, of the authors' own models as measured here.
    """

    text: str
    comparisons: tuple[Comparison, ...]
    released: str
    speaks: Speaks
    authors: tuple[Comparison, ...] = ()

    __post_init__ = check_fields


@dataclass(frozen=True)
class View:
    """One drawn panel: a quantity of the lines of a panel against updates.

    Args:
        panel: of the lines.
        quantity: what is drawn; `zeroed/own` is with as many inner steps as in training.
        title: what stands above.
        lines: which lines; none: all of the panel.
    """

    panel: str
    quantity: str
    title: str
    lines: tuple[str, ...] | None = None


@dataclass(frozen=True)
class FigureSpec:
    """A figure.

    Args:
        name: as the command line takes it.
        title: of its page.
        question: what it answers.
        papers: the paper's figures.
        lines, views, claims: as functions of the setting.
        plot: how it is drawn.
        compute: the records of an illustration, which trains nothing; one of them holds what is `drawn`.
        draw: the picture of an illustration.
        faults: what is wrong with the published figure, and how it is done here.
        departures: what differs from the chosen protocol, beyond what holds for all figures.
    """

    name: str
    title: str
    question: str
    papers: str
    lines: Callable[[Setting], list[Line]]
    views: Callable[[Setting], list[View]]
    claims: Callable[[Setting], list[Claim]]
    plot: PlotKind = "curves"
    compute: Callable[[], list[Record]] | None = None
    draw: Callable[[Record], Figure] | None = None
    faults: tuple[str, ...] = ()
    departures: tuple[str, ...] = ()

    __post_init__ = check_fields

    def full_updates(self, setting: Setting) -> dict[tuple[str, str], int]:
        """By panel and line, how many updates the published training has."""
        lines = self.lines(replace(setting, scale="full", until=None))
        return {(line.panel, line.name): line.updates[-1] for line in lines}


def above(
    panel: str, better: str, worse: str, quantity: str, when: When = "end", margin: float = 0.0, released: str = ""
) -> Comparison:
    """That one line lies above another by more than `margin`."""
    label = f"{better} − {worse}, {quantity}, {when}"
    plus, minus = (Reading(better, quantity, when),), (Reading(worse, quantity, when),)
    return Comparison(label, panel, plus, minus, "higher", margin, released)


def same(
    panel: str, one: str, other: str, quantity: str, margin: float, when: When = "end", released: str = ""
) -> Comparison:
    """That two lines lie within `margin` of one another."""
    return replace(above(panel, one, other, quantity, when, margin, released), measure="equal")


def faster(panel: str, fast: str, slow: str, quantity: str, released: str = "") -> Comparison:
    """That one line reaches common levels in fewer updates than another."""
    comparison = above(panel, fast, slow, quantity, released=released)
    return replace(comparison, measure="faster", label=f"{slow} needs more updates than {fast}, {quantity}")
