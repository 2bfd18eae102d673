"""How a classifier is to be fitted, checked before anything is computed."""

from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal, get_args

from metacontrast.classifier.candidates import Candidate, grid
from metacontrast.errors import InputError, check_choice
from metacontrast.fields import check_fields
from metacontrast.maml.inner import Inner

Baseline = Literal["none", "prototype", "auto"]
BASELINES = get_args(Baseline)
SCOPES = ("head", "all")
MOST_STEPS = 10_000


@dataclass(frozen=True)
class Plan:
    """What `fit` does.

    Args:
        inner: steps, step size, scope and loss.
        automatic: choose steps and step size by cross-validation, where images can be held out.
        baseline: `none` predicts with the adapted model, `prototype` with the nearest class mean, `auto` with whichever
            cross-validation prefers.
        folds: the most parts of the cross-validation; 0 leaves it out.
        reject: the share of images of known classes that may be refused; None refuses nothing.
        random_head: the seed of the random head to start from; None starts from the model's own, a head of zeros.
    """

    inner: Inner
    automatic: bool = False
    baseline: Baseline = "none"
    folds: int = 5
    reject: float | None = None
    random_head: int | None = None

    __post_init__ = check_fields

    @property
    def default(self) -> Candidate:
        """The way to adapt where nothing can be chosen."""
        return Candidate(self.inner.lr, self.inner.steps)

    @property
    def stepping(self) -> tuple[Candidate, ...]:
        """The adapted ways that are tried."""
        return grid(self.inner) if self.automatic else (self.default,)


def make_plan(
    inner: Inner, *, steps: Any, lr: Any, scope: Any, baseline: Any, folds: Any, reject: Any, random_head: Any = None
) -> Plan:
    """The plan that the classifier's parameters ask for; None stands for what the model was trained with."""
    if scope is not None:
        check_choice("scope", scope, SCOPES)
    if baseline is not None:
        check_choice("baseline", baseline, BASELINES)
    automatic = isinstance(steps, str) and steps == "auto"
    if not (steps is None or automatic or _is_whole(steps, 1)):
        raise InputError(f"steps={steps!r}, but it must be auto, or 1 or more; left out it is the model's own")
    if not (lr is None or (isinstance(lr, Real) and 0 < float(lr) < float("inf"))):
        raise InputError(f"lr={lr!r}, but it must be above 0 and finite; left out it is the model's own")
    if not (_is_whole(folds, 0) and folds != 1):
        raise InputError(f"folds={folds!r}, but it must be 2 or more, or 0 for no cross-validation")
    if not (reject is None or (isinstance(reject, Real) and 0 < float(reject) < 1)):
        raise InputError(f"reject={reject!r}, but it must lie between 0 and 1; left out nothing is refused")
    if reject is not None and folds == 0:
        raise InputError(
            f"reject={reject!r} is set on held-out images, and folds=0 holds out none: leave out one of them"
        )
    if not (random_head is None or (_is_whole(random_head, 0) and random_head < 2**63)):
        raise InputError(f"random_head={random_head!r}, but it must be a seed, 0 or more; left out the head is zero")
    own = max(inner.steps, 1) if steps is None or automatic else int(steps)
    if own > MOST_STEPS:
        raise InputError(f"steps={own}, but it must be {MOST_STEPS} or less")
    wanted = replace(inner, steps=own, lr=float(lr or inner.lr), scope=scope or inner.scope)
    rate, seed = None if reject is None else float(reject), None if random_head is None else int(random_head)
    return Plan(wanted, automatic, baseline or "none", int(folds), rate, seed)


def check_max_pixels(value: Any) -> int:
    """The most pixels that an image may have."""
    if not _is_whole(value, 1):
        raise InputError(f"max_pixels={value!r}, but it must be 1 or more: the most pixels that an image may have")
    return int(value)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
