"""The images that a classifier learns from, in an order that does not depend on how they were given."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from metacontrast.classifier.labels import distinct
from metacontrast.errors import InputError

ENOUGH_HELD_OUT = 500


@dataclass(frozen=True)
class Support:
    """Labelled images, sorted by class and then by content, so that shuffling them changes no bit of the result.

    Args:
        images: pixels in the model's format; where `features` stand for them, small pictures to show.
        y: class of every image, as a number.
        names: what messages and pictures call the images.
        classes: the label of every class.
        features: of a frozen encoder, which needs no pixels any more; None where the images pass through it at every
            fit.
    """

    images: UInt8[Tensor, "image channel height width"]
    y: Int[Tensor, " image"]
    names: tuple[str, ...]
    classes: tuple[Hashable, ...]
    features: Float[Tensor, "image feature"] | None = None

    @property
    def counts(self) -> Int[Tensor, " way"]:
        """How many images each class has."""
        return torch.bincount(self.y, minlength=len(self.classes))

    @property
    def labels(self) -> list[Hashable]:
        """The label of every image."""
        return [self.classes[k] for k in self.y.tolist()]


def make_support(
    images: UInt8[Tensor, "image channel height width"],
    labels: Sequence[Hashable],
    names: Sequence[str],
    features: Float[Tensor, "image feature"] | None = None,
    *,
    least: int = 2,
) -> Support:
    """Sorted as `Support` says; `InputError` when there are fewer than `least` classes."""
    classes = distinct(labels, least)
    number = {label: k for k, label in enumerate(classes)}
    content = [image.tobytes() for image in (images if features is None else features).numpy()]
    order = sorted(range(len(labels)), key=lambda i: (number[labels[i]], content[i], names[i]))
    y = torch.tensor([number[labels[i]] for i in order])
    sorted_features = None if features is None else features[order]
    return Support(images[order], y, tuple(names[i] for i in order), tuple(classes), sorted_features)


def join(one: Support, other: Support) -> Support:
    """The union of two support sets; `InputError` where only one of them holds features in place of images."""
    if (one.features is None) != (other.features is None):
        raise InputError("scope was changed between the examples: call fit with all of them")
    features = None
    if one.features is not None and other.features is not None:
        features = torch.cat([one.features, other.features])
    images = torch.cat([one.images, other.images])
    return make_support(images, [*one.labels, *other.labels], [*one.names, *other.names], features, least=1)


def held_out_folds(y: Int[Tensor, " image"], folds: int) -> list[np.ndarray]:
    """Row numbers that are left out together, each image of a class with at least two once, some always staying.

    Fold f holds out the images f, f + k, … of every class, k the number of folds: with k images per class that is one
    of each. A class with one image is never held out; it stays as a class to be confused with. Once 500 images were
    held out the folds that follow are left out: more would say little more.
    """
    labels = y.numpy()
    counts = np.bincount(labels)
    rank = np.concatenate([np.arange(count) for count in counts])[np.argsort(np.argsort(labels, kind="stable"))]
    k = min(folds, int(counts.max()))
    held = [np.flatnonzero((rank % k == f) & (counts[labels] > 1)) for f in range(k)] if k > 1 else []
    held = [rows for rows in held if len(rows)]
    before = np.cumsum([0, *map(len, held)])
    return [rows for rows, earlier in zip(held, before, strict=False) if earlier < ENOUGH_HELD_OUT]
