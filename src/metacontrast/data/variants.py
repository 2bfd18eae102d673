"""Inverted images and turned classes: the variants that a protocol may ask for."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metacontrast.data.options import ReadOptions

ClassArrays = list[tuple[str, NDArray[np.uint8]]]


def with_variants(by_class: Sequence[tuple[str, NDArray[np.uint8]]], options: ReadOptions) -> ClassArrays:
    """The classes, inverted if asked, followed if asked by their copies turned counterclockwise.

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
