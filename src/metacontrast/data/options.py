"""How images are read: the choices that published few-shot protocols differ in."""

from dataclasses import dataclass
from typing import Literal

from metacontrast.fields import check_fields

Resample = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
SplitScheme = Literal["default", "released"]


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
    """

    image_size: int | None = None
    resample: Resample | None = None
    invert: bool = False
    rotations: bool = False
    split_scheme: SplitScheme = "default"
    skip_unreadable: bool = False

    __post_init__ = check_fields
