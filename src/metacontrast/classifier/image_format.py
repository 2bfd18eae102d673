"""What a trained model's images looked like, and how one's own are made to look the same."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from metacontrast.data.decode import MAX_PIXELS, Item, UnreadableImage, decode_all, decoder, enumerate_some
from metacontrast.data.images import normalize
from metacontrast.data.options import Resample
from metacontrast.errors import InputError
from metacontrast.fields import check_fields

logger = logging.getLogger("metacontrast")


@dataclass(frozen=True)
class ImageFormat:
    """The model's input: `(x / 255 - mean) / std` of square images.

    Args:
        channels: 1 for grey, 3 for colour.
        size: side in pixels.
        resample: Pillow's filter for resizing.
        invert: whether black and white are swapped.
        mean, std: per channel on the scale 0 to 1.
    """

    channels: int
    size: int
    resample: Resample = "bilinear"
    invert: bool = False
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    __post_init__ = check_fields

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.channels, self.size, self.size

    def read_each(
        self, items: Iterable[Item], max_pixels: int = MAX_PIXELS
    ) -> Iterator[tuple[Item, NDArray[np.uint8] | UnreadableImage]]:
        """Every item with its pixels, inverted if the model's were, or with why it cannot be read."""
        mode = "L" if self.channels == 1 else "RGB"
        for item, found in decode_all(items, decoder(mode, self.size, self.resample, max_pixels)):
            yield item, (255 - found if self.invert and isinstance(found, np.ndarray) else found)

    def read(
        self,
        items: Iterable[Item],
        max_pixels: int = MAX_PIXELS,
        *,
        skip_unreadable: bool = False,
        advice: str = "replace or remove them",
    ) -> tuple[list[Item], UInt8[Tensor, "image channel height width"]]:
        """The items that could be read and their pixels; unless skipped, one that cannot be read is an `InputError`.

        Args:
            advice: what the caller can do about images that cannot be read.
        """
        kept, pixels, problems = [], [], []
        for item, found in self.read_each(items, max_pixels):
            if isinstance(found, UnreadableImage):
                problems.append(found.finding)
            else:
                kept.append(item)
                pixels.append(found)
        summary = f"{len(problems)} of {len(problems) + len(kept)} images cannot be used: {enumerate_some(problems)}"
        if problems and not skip_unreadable:
            raise InputError(f"{summary}; {advice}")
        if problems:
            logger.warning("%s; they are left out", summary)
        if not pixels:
            raise InputError("there are no images to read: give at least one")
        return kept, torch.from_numpy(np.stack(pixels))

    def to_input(self, images: UInt8[Tensor, "image channel height width"]) -> Float[Tensor, "image channel h w"]:
        """Pixels as the model sees them."""
        return normalize(images, self.mean, self.std)
