"""What a model's images look like, and how images of a user are made to look the same."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from metacontrast.data.decode import MAX_PIXELS, Item, Resample, UnreadableImage, decode_all, decoder, report_unreadable
from metacontrast.data.folder import class_files, items_of, split_classes, split_for
from metacontrast.data.images import ClassImages, check_moments, group_by_class, normalize
from metacontrast.errors import InputError, check_counts
from metacontrast.fields import check_fields


@dataclass(frozen=True)
class ImageFormat:
    """Format of a model's input: square images, normalized as `(x / 255 - mean) / std`.

    Args:
        channels: 1 for grey, 3 for colour.
        size: side in pixels.
        resample: Pillow's filter for resizing.
        invert: whether black and white are swapped.
        mean, std: per channel on the scale 0 to 1.
        crop: the central square is taken whose side is this share of the shorter side; None resizes the whole image
            without keeping its aspect.
    """

    channels: int
    size: int
    resample: Resample = "bilinear"
    invert: bool = False
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    crop: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.channels not in (1, 3):
            raise InputError(f"channels={self.channels}, but images are grey, 1 channel, or coloured, 3")
        check_counts(size=self.size)
        check_moments("the images' format", self.channels, self.mean, self.std)
        if self.crop is not None and not 0 < self.crop <= 1:
            raise InputError(f"crop={self.crop}, but it must lie above 0 and be 1 at most: a share of the shorter side")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.size, self.size

    def read_each(
        self, items: Iterable[Item], max_pixels: int = MAX_PIXELS
    ) -> Iterator[tuple[Item, NDArray[np.uint8] | UnreadableImage]]:
        """Every item with its pixels, inverted if the model's were, or with why it cannot be read."""
        mode = "L" if self.channels == 1 else "RGB"
        for item, found in decode_all(items, decoder(mode, self.size, self.resample, max_pixels, self.crop)):
            yield item, (255 - found if self.invert and isinstance(found, np.ndarray) else found)

    def read_readable(
        self,
        items: Iterable[Item],
        max_pixels: int = MAX_PIXELS,
        *,
        skip_unreadable: bool = False,
        advice: str = "replace or remove them",
    ) -> Iterator[tuple[Item, NDArray[np.uint8]]]:
        """The items that can be read, with their pixels; one that cannot is an `InputError` at the end.

        Args:
            skip_unreadable: warn of these in place of raising.
            advice: what the caller can do about images that cannot be read.
        """
        count, problems = 0, []
        for item, found in self.read_each(items, max_pixels):
            if isinstance(found, UnreadableImage):
                problems.append(found.finding)
            else:
                count += 1
                yield item, found
        report_unreadable(problems, len(problems) + count, skip_unreadable, advice)
        if not count:
            raise InputError("there are no images to read: give at least one")

    def read(
        self,
        items: Iterable[Item],
        max_pixels: int = MAX_PIXELS,
        *,
        skip_unreadable: bool = False,
        advice: str = "replace or remove them",
    ) -> tuple[list[Item], UInt8[Tensor, "image channel height width"]]:
        """The items of `read_readable` and their pixels."""
        found = self.read_readable(items, max_pixels, skip_unreadable=skip_unreadable, advice=advice)
        kept, pixels = zip(*found, strict=True)
        return list(kept), torch.from_numpy(np.stack(pixels))

    def to_input(self, images: UInt8[Tensor, "image channel height width"]) -> Float[Tensor, "image channel h w"]:
        """Pixels as the model sees them."""
        return normalize(images, self.mean, self.std)


def read_folder_like(form: ImageFormat, folder: Path, split: str | None) -> ClassImages:
    """A folder of a user's images, read as a model's images were: the classes of one split.

    Args:
        split: None is `test`, or everything in a folder that is not divided.
    """
    found = class_files(folder)
    split = split or split_for(folder, found, "test")
    items, pixels = form.read(items_of(folder, split_classes(folder, found, split)))
    rows = groupby(range(len(items)), key=lambda row: items[row].label)
    by_class = [(label, pixels[list(group)].numpy()) for label, group in rows]
    return group_by_class(f"folder:{folder.resolve().name}/{split}", by_class, mean=form.mean, std=form.std)
