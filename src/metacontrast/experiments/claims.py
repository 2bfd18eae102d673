"""Claims as typed values: what is measured of a model, on which tasks, and the comparisons that a claim rests on.

A comparison names its curves by the tasks that they are measured on and by their legend; a quantity by how it is
measured. Nothing is parsed from the text of a page.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from metacontrast.fields import check_fields
from metacontrast.model.head import TestHead
from metacontrast.model.solvers import Solver
from metacontrast.training.config import TrainConfig

When = Literal["early", "end"]
EARLY = 5
"""The first fifth of training is early."""
Speaks = Literal["early", "end", "throughout"]
Measure = Literal["higher", "equal", "faster"]


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
        is_bound: whether the test tasks are non-mutually-exclusive ones, as in training.
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
        plus, minus: the endpoints that are added and subtracted.
        measure: `higher`: the sum lies above `margin`; `equal`: within ± `margin`; `faster`: the first of `plus`
            reaches common levels in fewer updates than the first of `minus` does.
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
    authors_say: str = "—"
    speaks: Speaks = "end"
    of_authors: tuple[Comparison, ...] = ()
    authors_lack: str = ""

    __post_init__ = check_fields


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
