"""What a classifier learns from: labelled images of any kind, read, as a frozen encoder's features where there is one.

They are kept in an order that does not depend on how they were given.
"""

import copy
import logging
import os
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from metacontrast.classifier.cross_validation import ranks_of
from metacontrast.classifier.inputs import as_items, composed, dataset_items, distinct, folder_of
from metacontrast.classifier.starting_point import StartingPoint
from metacontrast.data.decode import BATCH, Item
from metacontrast.data.folder import Found, Nested, Use, find_classes, image_folders, items_of
from metacontrast.data.image_format import ImageFormat
from metacontrast.data.images import ClassImages, as_labels, group_by_class
from metacontrast.errors import InputError
from metacontrast.files import as_path, why_no_folder
from metacontrast.maml.engine import arithmetic
from metacontrast.model.frozen import frozen_features

PICTURE, GPU_BATCH = 64, 256
ADVICE = "replace or remove them, or raise max_pixels for those that are too large"

logger = logging.getLogger("metacontrast")


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

    @property
    def ranks(self) -> NDArray[np.int64]:
        """The number of every image among the different ones of its class; copies of an image share one."""
        return ranks_of(self.y, [image.tobytes() for image in self.images.numpy()])


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
    both = [each.features for each in (one, other) if each.features is not None]
    features = torch.cat(both) if both else None
    images = torch.cat([one.images, other.images])
    return make_support(images, [*one.labels, *other.labels], [*one.names, *other.names], features, least=1)


def images_from_dataset(data: Any, images: ImageFormat, name: str = "data set") -> ClassImages:
    """Build `ClassImages` from a data set of labelled images of any size.

    Args:
        data: pairs `(image, label)` with `classes`, as torchvision has them, or rows with `image` and `label`, as
            Hugging Face has them.
        images: what the images are made to look like.
        name: what they are called in messages and records.

    Raises:
        InputError: it is no such data set, or an image cannot be read.
    """
    if (found := dataset_items(data)) is None:
        raise InputError(
            f"{name} is a {type(data).__name__}, not a data set: give pairs (image, label) or rows of both"
        )
    items, pixels = images.read(found[0])
    labels = as_labels(found[1], len(items))
    classes = distinct(labels)
    rows = {label: [row for row, own in enumerate(labels) if own == label] for label in classes}
    by_class = [(str(label), pixels[rows[label]].numpy()) for label in classes]
    return group_by_class(name, by_class, mean=images.mean, std=images.std)


class Read(NamedTuple):
    """The items that could be read; their pixels, or small pictures and the features of a frozen encoder."""

    items: list[Item]
    images: UInt8[Tensor, "image channel height width"]
    features: Float[Tensor, "image feature"] | None


def labelled(X: Any, y: Any = None, nested: Nested = "classes", use: Use = "train") -> tuple[list[Item], Found | None]:
    """Items and their labels: those given, those of a data set, or those that a folder's folders are; what it holds.

    Args:
        nested, use: as of `find_classes`, for a folder.
    """
    folder = folder_of(X)
    if folder is not None and y is None:
        found = find_classes(folder, nested, use)
        items = list(items_of(folder, found.classes))
        return _with_labels(items, composed([item.label for item in items])), found
    if folder is not None and set(image_folders(folder, [])) - {"."}:
        raise InputError(f"{folder} has folders that name classes, and labels are given too: leave out one of them")
    if y is None and (pair := dataset_items(X)) is not None:
        return _with_labels(pair[0], as_labels(pair[1], len(pair[0]))), None
    if y is None and isinstance(X, str | Path):
        X = as_path(X)
        raise InputError(f"{X} {why_no_folder(X)}; give a folder that holds a folder of images for each class")
    if y is None:
        raise InputError("labels are missing: give one for each image, or a folder with a folder for each class")
    items = as_items(X)
    return _with_labels(items, as_labels(y, len(items))), None


def read(
    start: StartingPoint,
    items: Sequence[Item],
    max_pixels: int,
    *,
    frozen: bool,
    skip_unreadable: bool,
    device: str,
    verbose: bool,
) -> Read:
    """Items as a starting point sees them.

    Args:
        frozen: give features, with small pictures to show.
        max_pixels, skip_unreadable, device, verbose: as of the classifier.
    """
    stream = start.images.read_readable(
        tqdm(items, "reading", unit="image", leave=False, disable=not verbose),
        max_pixels,
        skip_unreadable=skip_unreadable,
        advice=f"{ADVICE}, or leave them out with skip_unreadable",
    )
    place = torch.device(device)
    encoder = start.frozen_encoder if frozen else None
    if encoder is not None and place.type != "cpu":
        encoder = copy.deepcopy(encoder).to(place)

    def features_of(some: Tensor) -> Tensor:
        assert encoder is not None
        return frozen_features(encoder, start.images.to_input(some.to(place))).cpu()

    kept, images, features = [], [], []
    while batch := list(islice(stream, BATCH)):
        pixels = torch.from_numpy(np.stack([each for _, each in batch]))
        kept += [item for item, _ in batch]
        images.append(pixels if encoder is None else pictures(pixels))
        features += [] if encoder is None else each_alone(features_of, pixels, place)
    return Read(kept, torch.cat(images), torch.cat(features) if features else None)


def emptied(labels: Sequence[Hashable], kept: Sequence[Hashable]) -> list[tuple[str, str]]:
    """The classes of which no image could be read, with a warning of each."""
    left = set(kept)
    lost = list(dict.fromkeys(label for label in labels if label not in left))
    for label in lost:
        logger.warning("class %r has no image that can be read: it is left out", label)
    return [(str(label), "has no image that can be read: the class is left out") for label in lost]


def pictures(pixels: UInt8[Tensor, "image channel height width"]) -> UInt8[Tensor, "image channel h w"]:
    """Small pictures of images, to show; of at most 64 pixels a side."""
    if pixels.shape[-1] <= PICTURE:
        return pixels
    small = [
        np.atleast_3d(np.asarray(Image.fromarray(each.squeeze()).resize((PICTURE, PICTURE), Image.Resampling.BOX)))
        for each in pixels.permute(0, 2, 3, 1).numpy()
    ]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).contiguous()


def each_alone(
    function: Callable[[Tensor], Any], pixels: UInt8[Tensor, "image channel height width"], device: torch.device
) -> list[Any]:
    """A function of images, applied to one image at a time on a CPU, in IEEE single precision.

    Kernels are chosen by the shape of a batch and the number of threads, and round differently, so only then is an
    image's result bit for bit the same whatever else is asked. Every image has one thread, also one that is alone, and
    there are as many at a time as PyTorch may use: that is faster than several threads for each. A GPU would idle:
    there images pass in batches.
    """

    def one(part: Tensor) -> Any:
        with torch.no_grad(), arithmetic("float32", device):
            return function(part)

    if device.type == "cuda":
        return list(map(one, pixels.split(GPU_BATCH)))
    before = torch.get_num_threads()
    if before == 1:
        return list(map(one, pixels.split(1)))
    threads = max(1, min(before, os.cpu_count() or 1, len(pixels)))
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(one, pixels.split(1)))
    finally:
        torch.set_num_threads(before)


def _with_labels(items: Sequence[Item], labels: Sequence[Hashable]) -> list[Item]:
    return [item._replace(label=label) for item, label in zip(items, labels, strict=True)]
