"""What a classifier is given, read: labelled images of any kind, as a frozen encoder's features where there is one."""

import copy
import logging
from collections.abc import Hashable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from metacontrast.classifier.cross_validation import Track
from metacontrast.classifier.fitted import each_alone
from metacontrast.classifier.inputs import as_items, dataset_items, folder_of
from metacontrast.classifier.labels import as_labels, composed
from metacontrast.classifier.starting_point import StartingPoint
from metacontrast.data.decode import BATCH, Item
from metacontrast.data.folder import Found, Nested, Use, find_classes, image_folders, items_of
from metacontrast.errors import InputError
from metacontrast.files import as_path, why_no_folder

PICTURE = 64
ADVICE = "replace or remove them, or raise max_pixels for those that are too large"

logger = logging.getLogger("metacontrast")


class Labelled(NamedTuple):
    """Items whose `label` is the position of their label in `labels`, and what a folder held besides."""

    items: list[Item]
    labels: list[Hashable]
    found: Found | None = None


class Read(NamedTuple):
    """The items that could be read; their pixels, or small pictures and the features of a frozen encoder."""

    items: list[Item]
    images: UInt8[Tensor, "image channel height width"]
    features: Float[Tensor, "image feature"] | None


def labelled(X: Any, y: Any = None, nested: Nested = "classes", use: Use = "train") -> Labelled:
    """Items and their labels: those given, those of a data set, or those that a folder's folders are.

    Args:
        nested, use: as of `find_classes`, for a folder.
    """
    folder = folder_of(X)
    if folder is not None and y is None:
        found = find_classes(folder, nested, use)
        items = list(items_of(folder, found.classes))
        return _numbered(items, composed([item.label for item in items]), found)
    if folder is not None and set(image_folders(folder, [])) - {"."}:
        raise InputError(f"{folder} has folders that name classes, and labels are given too: leave out one of them")
    if y is None and (pair := dataset_items(X)) is not None:
        return _numbered(pair[0], as_labels(pair[1], len(pair[0])))
    if y is None and isinstance(X, str | Path):
        X = as_path(X)
        raise InputError(f"{X} {why_no_folder(X)}; give a folder that holds a folder of images for each class")
    if y is None:
        raise InputError("labels are missing: give one for each image, or a folder with a folder for each class")
    items = as_items(X)
    return _numbered(items, as_labels(y, len(items)))


def read(
    start: StartingPoint,
    items: Sequence[Item],
    max_pixels: int,
    *,
    frozen: bool,
    skip_unreadable: bool,
    device: str,
    track: Track,
) -> Read:
    """Items as a starting point sees them.

    Args:
        frozen: give features, with small pictures to show.
        max_pixels, skip_unreadable, device: as of the classifier.
        track: shows how far it is.
    """
    stream = start.images.read_readable(
        track(items, "reading", "image"),
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
        return encoder(start.images.to_input(some.to(place))).cpu()

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


def _numbered(items: list[Item], labels: list[Hashable], found: Found | None = None) -> Labelled:
    return Labelled([item._replace(label=str(i)) for i, item in enumerate(items)], labels, found)
