"""The images of published sets: of a known size, decoded strictly, resized. For any other image see `decode`."""

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from metacontrast.data.options import Resample
from metacontrast.errors import InputError

Mode = Literal["L", "RGB"]


def decode(data: bytes, mode: Mode, side: int, where: str) -> Image.Image:
    """The image in a file's bytes, as grey or colour.

    Args:
        data: the whole file.
        mode: Pillow's `L` (grey) or `RGB`.
        side: width and height that the image must have, in pixels.
        where: the file's name for messages.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.size != (side, side):
                raise InputError(
                    f"{where} has {image.width} × {image.height} pixels, not {side} × {side}; fetch it again"
                )
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} is not a readable image ({error}); fetch the data set again") from error


def pixels(image: Image.Image, size: int | None = None, resample: Resample | None = None) -> NDArray[np.uint8]:
    """An image as `(channel, height, width)`, resized to `size` × `size` pixels (bicubic unless told)."""
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling[(resample or "bicubic").upper()])
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))
