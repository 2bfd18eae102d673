"""How well each way of adapting does on support images that it was not shown.

The folds leave out one image of every class at a time where there are few, a share of each class where there are
many (see `held_out_folds`). The rest is adapted to as the whole support set will be. Every class has the same
share in all numbers, however many images it has.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from metacontrast.classifier.candidates import Candidate, FitMethod, on_features, solve
from metacontrast.classifier.confidence import cross_entropy, fit_temperature
from metacontrast.model.head import class_means
from metacontrast.model.model import Model, apply_head
from metacontrast.model.solvers import balanced_weights
from metacontrast.types import Inner, Params

ENOUGH_HELD_OUT = 500


@dataclass(frozen=True)
class HeldOut:
    """Answers of one candidate for the images that were held out."""

    logits: Float[Tensor, "image way"]
    y: Int[Tensor, " image"]
    similarity: Float[Tensor, " image"]

    @cached_property
    def right(self) -> Float[Tensor, " image"]:
        """1 for every image that was classified correctly, else 0."""
        return (self.logits.argmax(1) == self.y).double()

    @cached_property
    def weights(self) -> Float[Tensor, " image"]:
        """Of the images, the same sum for every class."""
        return balanced_weights(self.y, torch.float64)

    @property
    def balanced_accuracy(self) -> float:
        """The mean over classes of the share of its images that were classified correctly."""
        return min((self.weights * self.right).sum().item(), 1.0)

    @cached_property
    def temperature(self) -> float:
        """The one that fits these answers."""
        return fit_temperature(self.logits, self.y, self.weights)

    @cached_property
    def cross_entropy(self) -> float:
        """In nats, calibrated on the same images."""
        return cross_entropy(self.logits, self.y, self.temperature, self.weights)

    @property
    def true_probabilities(self) -> Float[Tensor, " image"]:
        """Of every image's own class, calibrated on the same images."""
        return (self.logits.double() / self.temperature).softmax(1)[torch.arange(len(self.y)), self.y]


@dataclass(frozen=True)
class Score:
    """A row of the report: how one way did in cross-validation.

    Args:
        accuracy: share of the held-out images that were right.
        balanced_accuracy: the mean of that share over the classes.
        difference, ci95: balanced accuracy minus that of the nearest class mean, paired by image, and half its 95 %
            interval.
        cross_entropy: in nats, every class with the same share, after the temperature was fitted to the same images.
        images: how many were held out.
    """

    method: FitMethod
    steps: int
    lr: float
    accuracy: float
    difference: float
    ci95: float
    cross_entropy: float
    images: int
    chosen: bool = False
    balanced_accuracy: float = float("nan")
    strength: float = 0.0


def cross_validate(
    model: Model,
    params: Params,
    x: Float[Tensor, "support channel height width"],
    y: Int[Tensor, " support"],
    ranks: NDArray[np.int64],
    inner: Inner,
    candidates: Sequence[Candidate],
    folds: int,
    verbose: bool = False,
) -> dict[Candidate, HeldOut]:
    """The candidates' answers; empty where no class has a second image or `folds` is below 2.

    Args:
        model, params: from `candidates.task_start`.
        ranks: as of `held_out_folds`.
        folds: the most parts that the support set is divided into.
        verbose: show a progress bar on standard error.
    """
    parts: dict[Candidate, list[HeldOut]] = {}
    rows_of_folds = held_out_folds(y.cpu(), ranks, folds)
    _, different = np.unique(np.stack([y.cpu().numpy(), ranks]), axis=1, return_index=True)
    first = torch.zeros_like(y, dtype=torch.bool)
    first[torch.from_numpy(different)] = True  # of its copies, which are one answer
    for rows in tqdm(rows_of_folds, "cross-validating", unit="fold", leave=False, disable=not verbose):
        held = torch.zeros_like(y, dtype=torch.bool)
        held[torch.from_numpy(rows)] = True
        asked = held & first
        rest, rest_y, apart = x[~held], y[~held], x[asked]
        net, start = model, params
        if inner.scope == "head":
            net, start, features = on_features(model, params, torch.cat([rest, apart]), len(rest))
            rest, apart = features[: len(rest)], features[len(rest) :]
        for candidate, adapted in solve(net, start, rest, rest_y, inner, candidates):
            parts.setdefault(candidate, []).append(_answer(net, adapted, rest, rest_y, apart, y[asked]))
    return {candidate: _joined(found) for candidate, found in parts.items()}


def ranks_of(y: Int[Tensor, " image"], contents: Iterable[Hashable]) -> NDArray[np.int64]:
    """The number of every image among the different contents of its class, counted from 0."""
    seen: dict[int, dict[Hashable, int]] = {}
    owns = (seen.setdefault(k, {}) for k in y.tolist())
    return np.array([own.setdefault(content, len(own)) for own, content in zip(owns, contents, strict=True)])


def held_out_folds(y: Int[Tensor, " image"], ranks: NDArray[np.int64], folds: int) -> list[NDArray[np.int64]]:
    """Row numbers that are left out together, each image of a class with at least two once, some always staying.

    Fold f holds out the images f, f + k, … of every class, k the number of folds: with k images per class that is one
    of each. A class with one image is never held out; it stays as a class to be confused with. Copies of an image are
    held out together, because an answer to one from the other would tell nothing. Once 500 images were held out the
    folds that follow are left out: more would say little more.

    Args:
        y: the class of every image.
        ranks: its number among the different images of its class.
    """
    labels = y.numpy()
    counts = np.zeros(labels.max() + 1, np.int64)
    np.maximum.at(counts, labels, ranks + 1)
    k = min(folds, int(counts.max()))
    held = [np.flatnonzero((ranks % k == f) & (counts[labels] > 1)) for f in range(k)] if k > 1 else []
    held = [rows for rows in held if len(rows)]
    before = np.cumsum([0, *map(len, held)])
    return [rows for rows, earlier in zip(held, before, strict=False) if earlier < ENOUGH_HELD_OUT]


def similarity(
    features: Float[Tensor, "image feature"], means: Float[Tensor, "way feature"], centre: Float[Tensor, " feature"]
) -> Float[Tensor, " image"]:
    """The largest cosine between a feature vector and a class mean, both seen from `centre`: how much an image is like
    any class at all.

    Seen from the mean of the class means, an image of another kind points nowhere in particular; seen from 0 all
    images point much the same way where features have a common part, as those of photographs do.
    """
    images, classes = (torch.nn.functional.normalize(t - centre, dim=1) for t in (features, means))
    return torch.matmul(images, classes.T).amax(1)


def report(held_out: dict[Candidate, HeldOut], baseline: Candidate, chosen: Candidate) -> tuple[Score, ...]:
    """Every candidate beside the baseline, most accurate first."""
    if not held_out:
        return ()
    base = held_out[baseline]
    rows = [_score(candidate, found, base, candidate == chosen) for candidate, found in held_out.items()]
    return tuple(sorted(rows, key=lambda row: (-row.balanced_accuracy, row.cross_entropy, row.method, row.steps)))


def _score(candidate: Candidate, found: HeldOut, base: HeldOut, chosen: bool) -> Score:
    gain = found.right - base.right
    difference = (found.weights * gain).sum().item()
    by_class = found.y[:, None] == found.y.unique()
    counts = by_class.sum(0)
    means = (by_class * gain[:, None]).sum(0) / counts
    variances = (by_class * (gain[:, None] - means).square()).sum(0) / counts
    return Score(
        **vars(candidate),
        accuracy=found.right.mean().item(),
        difference=difference,
        ci95=1.96 * (variances / counts).sum().sqrt().item() / len(counts),
        cross_entropy=found.cross_entropy,
        images=len(gain),
        chosen=chosen,
        balanced_accuracy=found.balanced_accuracy,
    )


def _answer(model: Model, adapted: Params, x: Tensor, y: Tensor, query: Tensor, query_y: Tensor) -> HeldOut:
    with torch.no_grad():
        features = model.features(adapted.encoder, torch.cat([x, query]), len(x))
        support, held = features[: len(x)], features[len(x) :]
        means = class_means(support, y, model.ways)
        logits = apply_head(adapted.head, held)
        return HeldOut(logits.cpu(), query_y.cpu(), similarity(held, means, means.mean(0)).cpu())


def _joined(parts: Sequence[HeldOut]) -> HeldOut:
    return HeldOut(*(torch.cat([getattr(part, name) for part in parts]) for name in ("logits", "y", "similarity")))
