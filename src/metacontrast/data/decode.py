"""Images of any kind as uint8 pixels: upright, opaque, 8 bits a channel, of the wanted size; and how a set is read.

What is done, in this order: the first frame is taken, the EXIF orientation is applied, greys of more than 8 bits are
scaled to 8, transparency is laid on white, colours are converted to grey or RGB, and the whole image, or its central
square, is resized to a square. Colour profiles are ignored.
"""

import functools
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from metacontrast.errors import InputError, check_choice, one_line
from metacontrast.fields import check_fields
from metacontrast.files import is_address

Resample = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
SplitScheme = Literal["default", "released"]
Mode = Literal["L", "RGB"]
"""Pillow's names of grey and colour."""


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading a data set; None leaves a choice to the data set's own default.

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


ImageSource = Path | bytes | NDArray[np.uint8] | Image.Image

MAX_PIXELS = 64_000_000
GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
# Pillow hands EPS to Ghostscript, another program; the others it can only identify.
LEFT_OUT = ("EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF")


class UnreadableImage(InputError):
    """An image that cannot be decoded; `finding` is the message without the advice."""

    def __init__(self, name: str, reason: str, advice: str = "replace or remove it") -> None:
        self.finding = one_line(f"{name} {reason}")
        super().__init__(f"{self.finding}; {advice}")


def decode(
    source: ImageSource,
    size: int,
    mode: Mode = "RGB",
    resample: Resample = "bilinear",
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    crop: float | None = None,
) -> UInt8[np.ndarray, "channel height width"]:
    """Decode an image to pixels, 1 channel for mode `L` and 3 for `RGB`.

    Args:
        source: a file, its bytes, an open image, or an array `(height, width)` or `(height, width, channel)`.
        size: height and width of the result in pixels.
        mode: `L` for grey, `RGB` for colour.
        resample: the filter for resizing.
        name: what messages call the image; the path where there is one.
        max_pixels: a larger image is refused before it is unpacked; Pillow opens none above 178,956,970.
        crop: take the central square whose side is this share of the shorter side; None takes the whole image, resized
            without keeping its aspect.

    Raises:
        UnreadableImage: the image is empty, damaged, of no known format or too large; the message names it.
    """
    check_choice("mode", mode, get_args(Mode))
    check_choice("resample", resample, get_args(Resample))
    name = name or (str(source) if isinstance(source, Path) else "the image")
    try:
        with quiet(), _open(source) as image:
            if image.width * image.height > max_pixels:
                raise _too_large(name, image.width * image.height, max_pixels)
            flat = _upright_and_opaque(image).convert(mode)
            box = None if crop is None else _central_square(flat.size, crop)
            array = np.array(flat.resize((size, size), Image.Resampling[resample.upper()], box))
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        pixels = re.search(r"\d+", str(error))
        raise _too_large(name, int(pixels[0]) if pixels else limit + 1, limit, "make it smaller") from error
    except Exception as error:  # on damaged files Pillow's readers raise nearly anything
        raise UnreadableImage(name, _reason(source, error)) from error
    return channels_first(array)


def is_grey(file: Path) -> bool:
    """Tell from the header whether an image is grey; a file that cannot be read counts as grey."""
    try:
        with quiet(), _open(file) as image:
            return image.mode in GREY_MODES
    except Exception:  # as above
        return True


def quiet() -> AbstractContextManager[None]:
    """Silence Pillow's warnings inside the block: what matters of them is raised as an error here.

    Warning filters belong to the whole process: around threads that decode, enter this once outside them.
    """
    return warnings.catch_warnings(action="ignore")


@functools.cache
def formats() -> tuple[str, ...]:
    """Return the names of the file formats that are read."""
    Image.preinit()
    Image.init()
    return tuple(name for name in Image.OPEN if name not in LEFT_OUT)


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the file name endings of these formats, such as `.png`, in lower case."""
    return frozenset(end for end, name in Image.registered_extensions().items() if name in formats())


def _open(source: ImageSource) -> AbstractContextManager[Image.Image]:
    if isinstance(source, Image.Image):
        return nullcontext(source)
    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    return Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=formats())


def _upright_and_opaque(image: Image.Image) -> Image.Image:
    # Pillow scales PGM of more than 8 bits to 16
    has_16_bits = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image)
        opaque = _to_8_bits(grey, has_16_bits)
        if (clear := image.info.get("transparency")) is not None:
            opaque = np.where(grey == clear, np.uint8(255), opaque)
        return Image.fromarray(opaque)
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def _to_8_bits(grey: np.ndarray, has_16_bits: bool) -> NDArray[np.uint8]:
    """Convert greys to 0 … 255: those of 16 bits reach 65535.

    Of whole numbers of 32 bits the scale is not known: it is 255, or 65535 where an image has more than that; that of
    floats is 1, 255 or 65535.
    """
    low, high = grey.min(), grey.max()
    tops = (65535,) if has_16_bits else (1, 255, 65535) if grey.dtype.kind == "f" else (255, 65535)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    if top is None:
        raise ValueError(f"its greys lie between {low} and {high}, save it with 8 or 16 bits")
    return np.rint(grey * (255 / top)).astype(np.uint8)


def _central_square(size: tuple[int, int], share: float) -> tuple[float, float, float, float]:
    side = share * min(size)
    left, top = ((length - side) / 2 for length in size)
    return left, top, left + side, top + side


def _too_large(
    name: str, pixels: int, limit: int, advice: str = "make it smaller, or raise max_pixels"
) -> UnreadableImage:
    return UnreadableImage(name, f"has {pixels} pixels, more than the limit of {limit}", advice)


def _reason(source: ImageSource, error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and isinstance(source, Path) and is_address(source):
        return "is an address, not a file: download it first"
    if isinstance(error, UnidentifiedImageError):
        is_empty = source.stat().st_size == 0 if isinstance(source, Path) else source == b""
        return "is empty (0 bytes)" if is_empty else "is not an image of a known format"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot be read ({' '.join(text.split()) or type(error).__name__})"


DEFAULT_SIZE = 84
BATCH = 256
SHOWN = 3

logger = logging.getLogger("metacontrast")

Decoded = NDArray[np.uint8] | UnreadableImage


class Item(NamedTuple):
    """One image to read: the label of its class, hashable, what messages call it, and where it comes from."""

    label: Any
    name: str
    source: ImageSource


class Listing(NamedTuple):
    """Number of images per class, and the images, which may stay on disk until they are asked for."""

    counts: Counter[str]
    items: Iterable[Item]


def gather(where: str, items: Iterable[Item], mode: Mode, options: ReadOptions) -> list[tuple[str, NDArray[np.uint8]]]:
    """Decode images and group them by class, as arrays `(image, channel, height, width)` in order of the first image.

    Images that cannot be read are an `InputError` that names the first of them; with
    `options.skip_unreadable` they are left out, as is a class that has no others, and a warning in the log
    says so.
    """
    by_class: dict[str, list[NDArray[np.uint8]]] = {}
    unreadable: list[str] = []
    decode_item = decoder(mode, options.image_size or DEFAULT_SIZE, options.resample or "bilinear")
    for item, image in decode_all(items, decode_item):
        images = by_class.setdefault(item.label, [])
        if isinstance(image, UnreadableImage):
            unreadable.append(image.finding)
        else:
            images.append(image)
    emptied = [label for label, images in by_class.items() if not images]
    note = f", and nothing is left of class {enumerate_some(emptied)}" if emptied else ""
    total = sum(map(len, by_class.values())) + len(unreadable)
    advice = "replace or remove them, or leave them out with skip_unreadable"
    report_unreadable(unreadable, total, options.skip_unreadable, advice, f"{where}: ", note)
    return [(label, np.stack(images)) for label, images in by_class.items() if images]


def enumerate_some(names: Sequence[str]) -> str:
    """List the first few names, and count the rest.

    >>> enumerate_some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def decoder(
    mode: Mode, size: int, resample: Resample, max_pixels: int = MAX_PIXELS, crop: float | None = None
) -> Callable[[Item], Decoded]:
    """Return a function that decodes an item to images of that kind, or returns why it cannot."""

    def decode_item(item: Item) -> Decoded:
        try:
            return decode(item.source, size, mode, resample, name=item.name, max_pixels=max_pixels, crop=crop)
        except UnreadableImage as error:
            return error

    return decode_item


def decode_all(items: Iterable[Item], decode_item: Callable[[Item], Decoded]) -> Iterator[tuple[Item, Decoded]]:
    """Decode every item, in order; sources are read and released batch by batch.

    Items that share an open image or its file are decoded by one thread: Pillow reads the file when the image is used.
    """

    def decode_group(group: list[Item]) -> Iterator[Decoded]:
        return iter([decode_item(item) for item in group])

    pending = iter(items)
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(pending, BATCH)):
            keys = [_shared(item) for item in batch]
            groups: dict[int, list[Item]] = {}
            for key, item in zip(keys, batch, strict=True):
                groups.setdefault(key, []).append(item)
            with quiet():
                found = dict(zip(groups, pool.map(decode_group, groups.values()), strict=True))
            yield from ((item, next(found[key])) for key, item in zip(keys, batch, strict=True))


def _shared(item: Item) -> int:
    """A number that is the same for items that are read from one open image or file, before they are read."""
    source = item.source
    return id((getattr(source, "fp", None) or source) if isinstance(source, Image.Image) else item)


def report_unreadable(
    findings: Sequence[str], total: int, skip: bool, advice: str, where: str = "", note: str = ""
) -> None:
    """Raise `InputError` if there are images that cannot be read, or warn of them where they may be skipped."""
    summary = f"{where}{len(findings)} of {total} images cannot be used: {enumerate_some(findings)}{note}"
    if findings and not skip:
        raise InputError(f"{summary}; {advice}")
    if findings:
        logger.warning("%s; they are left out", summary)


def to_png(image: NDArray[np.uint8]) -> bytes:
    """Encode an image `(height, width)`, `(height, width, 1)` or `(height, width, 3)` as PNG."""
    file = BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image).save(file, "PNG")
    return file.getvalue()
