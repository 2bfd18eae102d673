"""Figures as typed values: curves that are trained and measured, tests of the authors' models, and the panels drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from matplotlib.figure import Figure

from metacontrast.experiments.claims import Claim, Quantity, TaskKind
from metacontrast.experiments.setting import MeasurementPlan, Setting
from metacontrast.fields import check_fields
from metacontrast.model.head import TestHead
from metacontrast.model.solvers import Solver
from metacontrast.plots.curves import Look
from metacontrast.training.config import TrainConfig
from metacontrast.training.records import Record
from metacontrast.types import Scope

PlotKind = Literal["curves", "heatmaps", "illustration", "costs", "steps", "answers"]


@dataclass(frozen=True)
class AuthorsCurve:
    """The place of a curve's counterpart among the authors' numbers."""

    figure: str
    curve: str
    shots: int


@dataclass(frozen=True)
class Curve:
    """One curve of a figure: a configuration that is trained on every seed.

    Args:
        kind: of tasks that it is measured on.
        name: its legend; with `kind` what it is known by.
        config: the training; its seed is replaced.
        authors: the authors' numbers that belong to it.
        until: the last update that the figure looks at, where another figure trains the run for longer.
    """

    kind: TaskKind
    name: str
    look: Look
    config: TrainConfig
    plan: MeasurementPlan
    seeds: Sequence[int]
    authors: AuthorsCurve | None = None
    train_split: str = "train"
    until: int | None = None

    @property
    def updates(self) -> tuple[int, ...]:
        """Updates at which the curve is measured and shown."""
        end = self.plan.end if self.until is None else self.until
        return tuple(update for update in self.plan.updates if update <= end)

    def configs(self) -> dict[int, TrainConfig]:
        """Return the full-length training of every seed."""
        return {seed: self.config_of(seed) for seed in self.seeds}

    def config_of(self, seed: int) -> TrainConfig:
        """Return the full-length training of a seed; one that depends on its length has the configuration's own."""
        updates = self.config.updates if self.config.follows_length else self.plan.end
        return replace(self.config, updates=updates, seed=seed)


@dataclass(frozen=True)
class Measurement:
    """One measurement of one seed of a curve; `record` has its update, tasks and values as they are stored."""

    kind: TaskKind
    curve: str
    seed: int
    record: Record


@dataclass(frozen=True)
class Panel:
    """One drawn panel: a quantity of curves against updates.

    Args:
        curves: their names; None is all curves of this kind.
        dashed: a second quantity of the same curves, drawn with dashed lines.
        minus: pairs of curves; only the first less the second of each pair is drawn then.
    """

    kind: TaskKind
    quantity: Quantity
    title: str
    curves: tuple[str, ...] | None = None
    dashed: Quantity | None = None
    minus: tuple[tuple[str, str], ...] = ()

    def tabulated(self) -> list["Panel"]:
        """List the panels, of one quantity each, whose numbers the page's tables hold."""
        if self.minus:
            return [
                replace(
                    self,
                    title=f"{self.kind}, {self.quantity.description}: {', '.join(one for one, _ in self.minus)}",
                    curves=tuple(one for one, _ in self.minus),
                    minus=(),
                )
            ]
        if self.dashed is None:
            return [self]
        shown = [self.quantity, self.dashed]
        return [replace(self, quantity=q, title=f"{self.kind}, {q.description}", dashed=None) for q in shown]


@dataclass(frozen=True)
class MeasuredCurve:
    """One of the authors' ways of training: from which head its models adapt at test, and how they are drawn."""

    head: TestHead
    look: Look

    __post_init__ = check_fields


@dataclass(frozen=True)
class AuthorsTest:
    """A test of the last checkpoints of the authors' models.

    Args:
        shape: of the test, in words.
        curves: which ones, by name.
        steps: numbers of inner steps.
        solvers: what else classifies the features.
        tasks: number of test tasks.
        shots: support images of a class.
        scope: what the inner steps move.
        reorders: whether other orders of labels are tried.
    """

    folder: str
    shape: str
    curves: Mapping[str, MeasuredCurve]
    steps: tuple[int, ...]
    solvers: tuple[Solver, ...] = ("nearest-mean",)
    tasks: int = 250
    shots: int = 1
    scope: Scope = "all"
    reorders: bool = False

    __post_init__ = check_fields

    @property
    def kind(self) -> TaskKind:
        """Its kind of tasks."""
        return TaskKind("miniImageNet", self.shape, is_authors=True)


@dataclass(frozen=True)
class FigureSpec:
    """A figure: its runs, what is drawn, and the claims that are judged.

    Args:
        name: as the command line takes it.
        claims, curves, panels: as functions of the setting; an illustration has claims alone, and a test of the
            authors' models has no curves.
        paper_figures: their numbers; none where it is only among the authors' data, or of other papers.
        authors_test: what is measured of the authors' models; nothing is trained then.
        compute: the measurements of an illustration, which trains nothing; one of them holds what is `drawn`.
        faults: what is wrong with the published figure, and how it is done here.
        deviations: what differs from the chosen protocol, beyond what holds for all figures.
        of_paper: whether the paper, or its authors' data, has it; `all` is the figures that it has.
    """

    name: str
    title: str
    question: str
    claims: Callable[[Setting], list[Claim]]
    paper_figures: tuple[int, ...] = ()
    curves: Callable[[Setting], list[Curve]] = lambda setting: []
    panels: Callable[[Setting], list[Panel]] = lambda setting: []
    plot: PlotKind = "curves"
    authors_test: AuthorsTest | None = None
    compute: Callable[[], list[Measurement]] | None = None
    draw: Callable[[Record], Figure] | None = None
    faults: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()
    of_paper: bool = True

    __post_init__ = check_fields

    def full_updates(self, setting: Setting) -> dict[tuple[TaskKind, str], int]:
        """Return the number of updates of every curve's published training."""
        curves = self.curves(replace(setting, scale="full", until=None))
        return {(curve.kind, curve.name): curve.updates[-1] for curve in curves}
