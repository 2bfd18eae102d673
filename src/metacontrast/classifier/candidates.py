"""The ways of turning a support set into a linear classifier, and which of them a fit tries.

Of features φ with class means c_k, K classes:

- `prototype`, the nearest class mean, the baseline: w_k = 2 c_k, b_k = −|c_k|²;
- `adapted`, inner steps from a head of zeros; one step gives w_k = η/K (c_k − mean of the c's), b_k = 0;
- `ridge`, in closed form, and `logistic`, by scikit-learn: see `metacontrast.model.solvers`.

All but `adapted` take the un-adapted features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from numbers import Integral, Real
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.errors import InputError, check_choice
from metacontrast.fields import check_fields
from metacontrast.maml.checks import check_rates
from metacontrast.maml.inner import trajectory
from metacontrast.model.head import class_means, draw_head, prototype_head, zero_head
from metacontrast.model.model import Model
from metacontrast.model.solvers import STRENGTHS, balanced_weights, logistic_head, ridge_heads
from metacontrast.types import Head, Inner, Params, map_params

FitMethod = Literal["adapted", "prototype", "ridge", "logistic"]
HeadChoice = Literal["adapted", "prototype", "ridge", "logistic", "auto"]
Baseline = Literal["none", "prototype", "auto"]
FIT_METHODS, HEADS, BASELINES = get_args(FitMethod), get_args(HeadChoice), get_args(Baseline)
SCOPES = ("head", "all")
MOST_STEPS = 10_000
STEPS = (1, 2, 3, 5, 10)
FACTORS = (1.0, 0.25, 0.0625)
"""Of the model's step size, among which `steps="auto"` chooses: with many images of few classes the first full step
already answers with certainty, and no later one then improves anything.
"""
MOST_LOGISTIC = 50
RIDGE = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
LOGISTIC = (0.1, 0.01, 0.001)
TEMPERATURES: dict[str, float] = {"prototype": 1.0, "adapted": 0.23, "ridge": 0.043, "logistic": 0.15}
"""Of each head where no image can be held out: the best on tasks of five classes with one image each, drawn from the
validation classes of miniImageNet, for `photos`.
"""
FALL_WITH_WAYS: dict[FitMethod, float] = {"prototype": 0.0, "adapted": 0.5, "ridge": 0.5, "logistic": 0.25}
"""The best temperature falls with the number of classes to about this power, found with 2 to 50 classes."""


@dataclass(frozen=True, order=True)
class Candidate:
    """One way: a number of steps of a size, or a method of its own with a penalty λ of that strength."""

    lr: float = 0.0
    steps: int = 0
    method: FitMethod = "adapted"
    strength: float = 0.0


PROTOTYPE = Candidate(method="prototype")
FALLBACK: dict[FitMethod, Candidate] = {
    "prototype": PROTOTYPE,
    "ridge": Candidate(method="ridge", strength=STRENGTHS["ridge"]),
    "logistic": Candidate(method="logistic", strength=STRENGTHS["logistic"]),
}


@dataclass(frozen=True)
class Plan:
    """What `fit` does.

    Args:
        inner: steps, step size, scope and loss.
        automatic: choose steps and step size by cross-validation, where images can be held out.
        head: which of the methods predicts; `auto` is the one with the least cross entropy in cross-validation.
        folds: the most parts of the cross-validation; 0 leaves it out.
        reject: the share of images of known classes that may be refused; None refuses nothing.
        fallback: what `auto` is where no image can be held out.
        random_head: the seed of the random head to start from; None starts from the model's own, a head of zeros.
    """

    inner: Inner
    automatic: bool = False
    head: HeadChoice = "adapted"
    folds: int = 5
    reject: float | None = None
    fallback: FitMethod = "adapted"
    random_head: int | None = None

    __post_init__ = check_fields

    @property
    def default(self) -> Candidate:
        """The way where nothing can be chosen."""
        method = self.fallback if self.head == "auto" else self.head
        return FALLBACK.get(method, Candidate(self.inner.lr, self.inner.steps))

    def wanted(self, classes: int) -> tuple[Candidate, ...]:
        """The ways among which cross-validation chooses; `auto` leaves out logistic regression of many classes, which
        takes minutes and does what ridge does.
        """
        rates = [self.inner.lr * factor for factor in (FACTORS if self.automatic else (1.0,))]
        counts = STEPS if self.automatic else (self.inner.steps,)
        ways: dict[FitMethod, tuple[Candidate, ...]] = {
            "adapted": tuple(Candidate(lr, steps) for lr in rates for steps in counts),
            "prototype": (PROTOTYPE,),
            "ridge": tuple(Candidate(method="ridge", strength=each) for each in RIDGE),
            "logistic": tuple(Candidate(method="logistic", strength=each) for each in LOGISTIC),
        }
        if self.head == "auto" and classes > MOST_LOGISTIC:
            del ways["logistic"]
        return tuple(each for method, some in ways.items() if self.head in (method, "auto") for each in some)


def make_plan(
    inner: Inner,
    *,
    steps: Any,
    lr: Any,
    scope: Any,
    folds: Any,
    reject: Any,
    baseline: Any = None,
    head: Any = None,
    random_head: Any = None,
    default_head: HeadChoice = "adapted",
    fallback: FitMethod = "adapted",
) -> Plan:
    """The plan that the classifier's parameters ask for; None stands for what the model was trained with.

    Args:
        baseline: an alias of `head`: `prototype`, `auto`, or `none` for `adapted`.
        default_head: the head where neither `head` nor a parameter of the inner loop is given.
        fallback: what `auto` is where no image can be held out.
    """
    for name, value, choices in (("scope", scope, SCOPES), ("baseline", baseline, BASELINES), ("head", head, HEADS)):
        if value is not None:
            check_choice(name, value, choices)
    if head is not None and baseline not in (None, "none"):
        raise InputError(f"head={head!r} and baseline={baseline!r} both name the head: leave out baseline")
    automatic = isinstance(steps, str) and steps == "auto"
    if not (steps is None or automatic or _is_whole(steps, 1)):
        raise InputError(f"steps={steps!r}, but it must be auto, or 1 or more; left out it is the model's own")
    if not (lr is None or (isinstance(lr, Real) and not isinstance(lr, bool) and 0 < float(lr) < float("inf"))):
        raise InputError(f"lr={lr!r}, but it must be above 0 and finite; left out it is the model's own")
    if not (_is_whole(folds, 0) and folds != 1):
        raise InputError(f"folds={folds!r}, but it must be 2 or more, or 0 for no cross-validation")
    if not (reject is None or (isinstance(reject, Real) and 0 < float(reject) < 1)):
        raise InputError(f"reject={reject!r}, but it must lie between 0 and 1; left out no image is rejected")
    if reject is not None and folds == 0:
        raise InputError(
            f"reject={reject!r} is set on held-out images, and folds=0 holds out none: leave out one of them"
        )
    if not (random_head is None or (_is_whole(random_head, 0) and random_head < 2**63)):
        raise InputError(f"random_head={random_head!r}, but it must be a seed, 0 or more; left out the head is zero")
    own = max(inner.steps, 1) if steps is None or automatic else int(steps)
    if own > MOST_STEPS:
        raise InputError(f"steps={own}, but it must be {MOST_STEPS} or less")
    asked = any(each is not None for each in (steps, lr, scope, random_head))
    named: dict[Any, HeadChoice] = {"prototype": "prototype", "auto": "auto", "none": "adapted"}
    chosen: HeadChoice | None = head or named.get(baseline)
    wanted = replace(inner, steps=own, lr=lr or inner.lr, scope=scope or inner.scope)
    final = chosen or ("adapted" if asked else default_head)
    share = None if reject is None else float(reject)
    return Plan(wanted, automatic, final, folds, share, fallback, random_head)


def check_max_pixels(value: Any) -> int:
    """The most pixels that an image may have."""
    if not _is_whole(value, 1):
        raise InputError(f"max_pixels={value!r}, but it must be 1 or more: the most pixels that an image may have")
    return int(value)


def task_start(model: Model, params: Params, ways: int, random_head: int | None = None) -> tuple[Model, Params]:
    """The model for that many classes, and where its inner loop starts: a head of zeros unless it was trained to start
    otherwise without knowing the number of classes.

    Args:
        random_head: start from a random head of this seed instead, which a zeroed head is compared with.
    """
    model = model.with_ways(ways)
    if random_head is not None:
        like, generator = params.head.weight, torch.Generator().manual_seed(random_head)
        drawn = draw_head(ways, model.feature_size, params.head.bias is not None, 1.0, generator)
        return model.with_head("learned"), map_params(lambda t: t.to(like), params._replace(head=drawn))
    if model.head in ("shared", "prototype"):
        return model, params
    return model.with_head("zeroed"), zero_head(params, ways)


def on_features(
    model: Model, params: Params, x: Float[Tensor, "image channel height width"], reference: int = 0
) -> tuple[Model, Params, Float[Tensor, "image feature 1 1"]]:
    """Features in place of images: where the head alone moves they are the same at every step.

    Args:
        reference: how many of the images, from the first on, normalize all; 0 is all.
    """
    with torch.no_grad():
        return with_features(model, params, model.features(params.encoder, x, reference))


def with_features(
    model: Model, params: Params, features: Float[Tensor, "image feature"]
) -> tuple[Model, Params, Float[Tensor, "image feature 1 1"]]:
    """The same of features that are there already."""
    return model.on_features(), params._replace(encoder={}), features[:, :, None, None]


def solve(
    model: Model,
    params: Params,
    x: Float[Tensor, "support channel height width"],
    y: Int[Tensor, " support"],
    inner: Inner,
    candidates: Sequence[Candidate],
) -> Iterator[tuple[Candidate, Params]]:
    """Every candidate with its parameters; candidates of one step size share a trajectory.

    Args:
        model, params: from `task_start`.
        inner: scope and loss; steps and step size are the candidates'.
    """
    stepping = sorted(each for each in candidates if each.method == "adapted")
    if stepping and inner.scope == "encoder":
        raise InputError("the model adapts its encoder alone, and a zeroed head stays zero: pass scope='all' or 'head'")
    if len(stepping) < len(candidates):
        with torch.no_grad():
            features = model.features(params.encoder, x)
        for candidate, head in _closed_forms(features, y, model.ways, candidates):
            yield candidate, Params(params.encoder, head)
    check_rates(model, params)
    moving = on_features(model, params, x) if stepping and inner.scope == "head" else (model, params, x)
    for lr, group in groupby(stepping, key=lambda candidate: candidate.lr):
        wanted = {candidate.steps: candidate for candidate in group}
        steps = replace(inner, lr=lr, steps=max(wanted), order="first")
        for step, adapted in enumerate(trajectory(*moving, y, steps, balanced_weights(y, x.dtype))):
            if step in wanted:
                yield wanted[step], Params(adapted.encoder or params.encoder, adapted.head)


def _closed_forms(
    features: Float[Tensor, "support feature"], y: Int[Tensor, " support"], ways: int, candidates: Sequence[Candidate]
) -> Iterator[tuple[Candidate, Head]]:
    if PROTOTYPE in candidates:
        yield PROTOTYPE, prototype_head(class_means(features, y, ways))
    ridges = [each for each in candidates if each.method == "ridge"]
    heads = ridge_heads(features, y, ways, [each.strength for each in ridges])
    yield from zip(ridges, heads, strict=True)
    for candidate in sorted((each for each in candidates if each.method == "logistic"), reverse=True):
        yield candidate, logistic_head(features, y, ways, candidate.strength)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
