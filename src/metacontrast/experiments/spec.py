"""Figures as typed values: curves that are trained and measured, the claims about them, and the panels that are drawn.

A comparison names its curves by the tasks that they are measured on and by their legend; a quantity by how it is
measured. Nothing is parsed from the text of a page.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from matplotlib.figure import Figure

from metacontrast.experiments.setting import MeasurementPlan, Setting
from metacontrast.fields import check_fields
from metacontrast.model.head import TestHead
from metacontrast.model.solvers import Solver
from metacontrast.plots.curves import Look
from metacontrast.training.config import TrainConfig
from metacontrast.training.records import Record
from metacontrast.types import Scope

When = Literal["early", "end"]
EARLY = 5
"""The first fifth of training is early."""
Speaks = Literal["early", "end", "throughout"]
Measure = Literal["higher", "equal", "faster"]
PlotKind = Literal["curves", "heatmaps", "illustration", "costs", "steps", "answers"]


@dataclass(frozen=True)
class TaskKind:
    """Kind of tasks that curves are measured on and compared.

    Args:
        data: the data set in words.
        shape: of the tasks, and what else sets their training apart, in words.
        is_authors: whether the models are the authors' own, measured here.
    """

    data: str
    shape: str
    is_authors: bool = False

    __post_init__ = check_fields

    def __str__(self) -> str:
        return ", ".join(part for part in (self.data, "the authors' models" * self.is_authors, self.shape) if part)


class Quantity:
    """A quantity that is measured of a model; as text it is its name in the records."""

    is_accuracy: ClassVar[bool] = False
    """Whether it is a share of correct answers, whose differences are points."""

    def key(self, config: TrainConfig) -> str:
        """Return the name in the records of a run."""
        return str(self)

    @property
    def description(self) -> str:
        """Description for a title."""
        return str(self)


@dataclass(frozen=True)
class Accuracy(Quantity):
    """The accuracy after adaptation at test.

    Args:
        head: what the inner loop starts from.
        steps: its length; None is as many steps as in training.
        is_bound: whether the labels of the test tasks are bound to classes as in training.
        is_selected: of the model of the run that was best on the validation tasks, not of the last one.
    """

    head: TestHead
    steps: int | None
    is_bound: bool = False
    is_selected: bool = False

    __post_init__ = check_fields
    is_accuracy: ClassVar[bool] = True

    def __str__(self) -> str:
        which = "selected " * self.is_selected + "bound " * self.is_bound
        return f"{which}{self.head}/{'own' if self.steps is None else self.steps}"

    def key(self, config: TrainConfig) -> str:
        """Return the name in the records of a run."""
        return str(replace(self, steps=config.inner_steps) if self.steps is None else self)

    @property
    def description(self) -> str:
        """Description for a title.

        >>> Accuracy("zeroed", 1).description
        'head zeroed at test, step 1'
        """
        after = "steps as in training" if self.steps is None else f"step {self.steps}"
        return f"head {self.head} at test, {after}"


@dataclass(frozen=True)
class Solved(Quantity):
    """The accuracy of a solver on the un-adapted features.

    Args:
        solver: see `metacontrast.model.solvers`.
        is_selected: as for `Accuracy`.
    """

    solver: Solver
    is_selected: bool = False

    __post_init__ = check_fields
    is_accuracy: ClassVar[bool] = True

    def __str__(self) -> str:
        return "selected " * self.is_selected + self.solver


@dataclass(frozen=True)
class Similarity(Quantity):
    """Similarity of features: their contrast, or the mean within a class.

    Args:
        pair: of sets of features, as in `diagnostics.task_view.MAPS`.
        is_within_class: the latter.
    """

    pair: str
    is_within_class: bool = False

    __post_init__ = check_fields

    def __str__(self) -> str:
        return f"{self.pair}{', same class' * self.is_within_class}"


@dataclass(frozen=True)
class Number(Quantity):
    """Any other quantity, by its name in the records."""

    name: str

    __post_init__ = check_fields

    def __str__(self) -> str:
        return self.name


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
        look: how it is drawn.
        config: the training; its seed is replaced.
        plan: what is measured, and when.
        seeds: the training seeds.
        authors: the authors' numbers that belong to it.
        train_split: split that is trained on.
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
class Endpoint:
    """A quantity of a curve, on every seed and test task.

    Args:
        when: `end`: at the last stage that all curves of the comparison have reached; `early`: at the last of these
            within the first fifth of the published training.
    """

    curve: str
    quantity: Quantity
    when: When = "end"

    __post_init__ = check_fields


@dataclass(frozen=True)
class Comparison:
    """A signed sum of endpoints on the same tasks, paired by seed.

    Args:
        label: what is compared, in a few words.
        kind: of tasks.
        plus, minus: the endpoints that are added and subtracted.
        measure: `higher`: the sum lies above `margin`; `equal`: within ± `margin`; `faster`: the first of `plus`
            reaches levels that both reach in fewer updates than the first of `minus` does.
        margin: on the scale of the quantity; for `faster` unused.
    """

    label: str
    kind: TaskKind
    plus: tuple[Endpoint, ...]
    minus: tuple[Endpoint, ...]
    measure: Measure = "higher"
    margin: float = 0.0

    __post_init__ = check_fields

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All endpoints, those that are added first."""
        return (*self.plus, *self.minus)

    def signed_sum(self, values: Sequence[Any]) -> Any:
        """Add the values of `plus` and subtract those of `minus`; they come in the order of `endpoints`."""
        added = len(self.plus)
        return sum(values[:added]) - sum(values[added:])


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and the comparisons that must all hold for it to hold.

    Args:
        authors_say: what the authors' numbers say of it.
        speaks: of which part of training: of the `early` part, which any length tests; of the `end`, which nothing
            else tests; or of training `throughout`, which any length can refute and only the end can support.
        of_authors: the same sentence, of the authors' own models as measured here.
        authors_lack: what of the sentence these models do not cover: then they can refute it, not support it.
    """

    text: str
    comparisons: tuple[Comparison, ...]
    authors_say: str
    speaks: Speaks
    of_authors: tuple[Comparison, ...] = ()
    authors_lack: str = ""

    __post_init__ = check_fields


@dataclass(frozen=True)
class Panel:
    """One drawn panel: a quantity of curves against updates.

    Args:
        kind: of tasks.
        quantity: what is drawn.
        title: what stands above.
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
        folder: of its records.
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
        title: of its page.
        question: what it answers.
        paper_figures: their numbers; none where it is only among the authors' data, or of other papers.
        claims, curves, panels: as functions of the setting; an illustration has claims alone, and a test of the
            authors' models has no curves.
        plot: how it is drawn.
        authors_test: what is measured of the authors' models; nothing is trained then.
        compute: the measurements of an illustration, which trains nothing; one of them holds what is `drawn`.
        draw: the picture of an illustration.
        faults: what is wrong with the published figure, and how it is done here.
        deviations: what differs from the chosen protocol, beyond what holds for all figures.
        of_paper: whether the paper, or its authors' data, has it; `all` is the figures that it has.
    """

    name: str
    title: str
    question: str
    paper_figures: tuple[int, ...]
    claims: Callable[[Setting], list[Claim]]
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


def above(
    kind: TaskKind, better: str, worse: str, quantity: Quantity, when: When = "end", margin: float = 0.0
) -> Comparison:
    """Compare two curves: `better` lies above `worse` by more than `margin`."""
    plus, minus = (Endpoint(better, quantity, when),), (Endpoint(worse, quantity, when),)
    return Comparison(f"{better} − {worse}, {quantity}, {when}", kind, plus, minus, "higher", margin)


def same(kind: TaskKind, one: str, other: str, quantity: Quantity, margin: float, when: When = "end") -> Comparison:
    """Compare two curves: they lie within `margin` of one another."""
    return replace(above(kind, one, other, quantity, when, margin), measure="equal")


def same_gain(kind: TaskKind, one: str, other: str, better: Quantity, base: Quantity, margin: float) -> Comparison:
    """Compare two curves: `better` gains the same over `base` on both, within `margin`."""
    plus, minus = (Endpoint(one, better), Endpoint(other, base)), (Endpoint(one, base), Endpoint(other, better))
    return Comparison(f"gain of {better} on {one} − on {other}", kind, plus, minus, "equal", margin)


def faster(kind: TaskKind, fast: str, slow: str, quantity: Quantity) -> Comparison:
    """Compare two curves: `fast` reaches common levels in fewer updates than `slow`."""
    label = f"{slow} needs more updates than {fast}, {quantity}"
    return replace(above(kind, fast, slow, quantity), measure="faster", label=label)
