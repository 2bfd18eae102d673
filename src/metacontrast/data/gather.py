"""Many images decoded side by side and put together by class; those that cannot be read are told by name."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metacontrast.data.decode import MAX_PIXELS, Mode, Source, UnreadableImage, decode, quiet
from metacontrast.data.options import ReadOptions, Resample
from metacontrast.errors import InputError

DEFAULT_SIZE = 84
BATCH = 256
SHOWN = 3

logger = logging.getLogger("metacontrast")

Decoded = NDArray[np.uint8] | UnreadableImage


class Item(NamedTuple):
    """One image to read: the class it belongs to, what messages call it, and where it comes from."""

    label: str
    name: str
    source: Source


class Listing(NamedTuple):
    """How many images each class has, and the images, which may stay on disk until they are asked for."""

    counts: Counter[str]
    items: Iterable[Item]


def gather(where: str, items: Iterable[Item], mode: Mode, options: ReadOptions) -> list[tuple[str, NDArray[np.uint8]]]:
    """Images by class, each array `(image, channel, height, width)`, classes in order of their first image.

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
    if unreadable:
        total = sum(map(len, by_class.values())) + len(unreadable)
        _report(_summary(where, unreadable, emptied, total), options)
    return [(label, np.stack(images)) for label, images in by_class.items() if images]


def enumerate_some(names: Sequence[str]) -> str:
    """The first few names, and how many there are besides.

    >>> enumerate_some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def decoder(
    mode: Mode, size: int, resample: Resample, max_pixels: int = MAX_PIXELS, crop: float | None = None
) -> Callable[[Item], Decoded]:
    """A function that decodes an item to images of that kind, or returns why it cannot."""

    def decode_item(item: Item) -> Decoded:
        try:
            return decode(item.source, size, mode, resample, name=item.name, max_pixels=max_pixels, crop=crop)
        except UnreadableImage as error:
            return error

    return decode_item


def decode_all(items: Iterable[Item], decode_item: Callable[[Item], Decoded]) -> Iterator[tuple[Item, Decoded]]:
    """Every item with its pixels, in order; sources are read, and let go, batch by batch."""
    pending = iter(items)
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(pending, BATCH)):
            with quiet():
                found = list(pool.map(decode_item, batch))
            yield from zip(batch, found, strict=True)


def _summary(where: str, unreadable: Sequence[str], emptied: Sequence[str], total: int) -> str:
    emptied_note = f", and nothing is left of class {enumerate_some(emptied)}" if emptied else ""
    return f"{where}: {len(unreadable)} of {total} images cannot be used: {enumerate_some(unreadable)}{emptied_note}"


def _report(summary: str, options: ReadOptions) -> None:
    if not options.skip_unreadable:
        raise InputError(f"{summary}; replace or remove them, or leave them out with skip_unreadable")
    logger.warning("%s; they are left out", summary)
