"""Glyphs: the embedded set, some 1,200 typeset characters of many scripts, made on the spot.

This is typeset text under strong random distortion, not handwriting. It stands in for Omniglot where nothing
can be downloaded: in examples, tests and the demonstration. No published figure is about it.

A class is a character, such as `Greek/small-alpha`, with 20 drawings in the fonts that have it, among those
that come with matplotlib, each by a random hand. The random numbers of a class depend on its code point,
and so does its split: about 64 % of the classes are for training, 10 % for validation, 26 % for testing.
The same versions of matplotlib, Pillow and PyTorch give the same pixels on the same kind of processor.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from metacontrast.data.glyph_distortion import Hand, distort, draw_hands
from metacontrast.data.glyph_fonts import (
    ASCII_FONTS,
    WIDE_FONTS,
    class_name,
    distinct_characters,
    font_path,
    fonts_with,
    typeset,
)
from metacontrast.data.images import ClassImages, group_by_class
from metacontrast.data.options import ReadOptions
from metacontrast.data.variants import ClassArrays, with_variants
from metacontrast.errors import InputError

READER_VERSION = 1
SIDE = 28
DRAWINGS = 20
SHARES = {"train": 0.64, "val": 0.10, "test": 0.26}
SEED = 2022
BATCH = 64
"""Classes drawn at once."""


def sources(root: Path, options: ReadOptions) -> list[Path]:
    """The font files; nothing is looked for under `root`."""
    fonts = sorted({*WIDE_FONTS, *ASCII_FONTS})
    return [font_path(font) for font in fonts]


def read(root: Path, split: str, options: ReadOptions) -> ClassImages:
    """Draw one split; `root` is not used."""
    if split not in SHARES:
        raise InputError(f"glyphs has no split {split!r}, only {', '.join(SHARES)}")
    characters = [c for c in distinct_characters() if split_of(c) == split]
    by_class: ClassArrays = []
    for start in range(0, len(characters), BATCH):
        by_class += draw_characters(characters[start : start + BATCH], options.image_size or SIDE)
    return group_by_class(f"glyphs/{split}", with_variants(by_class, options))


def get(root: Path) -> Path:
    """Nothing to fetch: the folder of the fonts."""
    return font_path("").parent


def split_of(character: str) -> str:
    """The split of a character, by a hash of its code point: it stays when other characters come or go."""
    digest = hashlib.sha256(f"{SEED}/{ord(character)}".encode()).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    if place < SHARES["train"]:
        return "train"
    return "val" if place < SHARES["train"] + SHARES["val"] else "test"


def draw_characters(characters: Sequence[str], size: int) -> ClassArrays:
    """Twenty drawings of each character, `(20, 1, size, size)`."""
    drawings = [_hands_and_ink(c) for c in characters]
    hands = Hand(*(np.concatenate(parts) for parts in zip(*(hand for hand, _ in drawings), strict=True)))
    ink = np.concatenate([ink for _, ink in drawings])
    images = distort(torch.from_numpy(ink), hands, size).numpy()
    names = map(class_name, characters)
    return list(zip(names, images.reshape(-1, DRAWINGS, 1, size, size), strict=True))


def _hands_and_ink(character: str) -> tuple[Hand, NDArray[np.float32]]:
    rng = np.random.Generator(np.random.Philox(key=[SEED, ord(character)]))
    inks = [typeset(character, font) for font in fonts_with(character)]
    faces = [ink for ink in inks if ink is not None]
    chosen = rng.integers(len(faces), size=DRAWINGS)
    return draw_hands(rng, DRAWINGS), np.stack([faces[i] for i in chosen])
