"""Choices of published protocols at reading time: size, filter, polarity, turned classes, split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metacontrast.fields import check_fields

Resample = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
SplitScheme = Literal["default", "released"]
Mode = Literal["L", "RGB"]
"""Pillow's names of grey and colour."""


@dataclass(frozen=True)
class ReadOptions:
    """Choices at reading time; None leaves a choice to the data set's own default.

    Args:
        image_size: side of the square images in pixels.
        resample: Pillow's filter for resizing.
        invert: swap black and white.
        rotations: add every class turned by 90, 180 and 270 degrees as three further classes.
        split_scheme: `default` is the literature's split; `released` is what the code released with the paper ran.
        skip_unreadable: leave out files that cannot be read instead of stopping at the first.
        split_seed: divide the classes of a folder that is not divided by numbers drawn from this seed.
    """

    image_size: int | None = None
    resample: Resample | None = None
    invert: bool = False
    rotations: bool = False
    split_scheme: SplitScheme = "default"
    skip_unreadable: bool = False
    split_seed: int | None = None

    __post_init__ = check_fields


def channels_first(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert an image of `(height, width)` or `(height, width, channel)` to `(channel, height, width)`."""
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


ClassArrays = list[tuple[str, NDArray[np.uint8]]]


def with_variants(by_class: Sequence[tuple[str, NDArray[np.uint8]]], options: ReadOptions) -> ClassArrays:
    """Invert the classes and append copies turned counterclockwise, where the options ask for it.

    A turned class is a class of its own, named with its angle: `Futurama/character07/rot090`.
    """
    upright = [(name, 255 - images if options.invert else images) for name, images in by_class]
    if not options.rotations:
        return upright
    turned = [
        (f"{name}/rot{90 * quarter:03d}", np.rot90(images, quarter, axes=(2, 3)).copy())
        for quarter in (1, 2, 3)
        for name, images in upright
    ]
    return upright + turned
