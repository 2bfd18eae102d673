"""Small images inside figures."""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray


def drawable(images: NDArray) -> NDArray:
    """Images `(image, channel, height, width)` as matplotlib takes them: colour last, or no colour axis if grey."""
    pixels = np.moveaxis(images, 1, -1)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def draw_strip(axes: Axes, images: NDArray, *, upright: bool) -> None:
    """Images in a row, or with `upright` in a column from the top, without ticks or frame."""
    strip = np.concatenate(list(images), axis=0 if upright else 1)
    axes.imshow(strip, cmap="gray", aspect="auto", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
