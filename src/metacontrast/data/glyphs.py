"""Glyphs: the embedded set, some 1,200 typeset characters of many scripts, made on the spot.

This is typeset text under strong random distortion, not handwriting. It stands in for Omniglot where nothing can be
downloaded: in examples, tests and the demonstration. No published figure is about it.

A class is a character, such as `Greek/small-alpha`, with 20 drawings in the fonts that have it, among those that come
with matplotlib, each by a random hand. The random numbers of a class depend on its code point, and so does its split:
about 64 % of the classes are for training, 10 % for validation, 26 % for testing. The same versions of matplotlib,
Pillow and PyTorch give the same pixels on the same kind of processor.

A drawing shows at u the blurred ink of a character at A u + c + d(u): A turns, shears and scales by random amounts, c
moves, and the field d is smooth noise (Simard, Steinkraus, Platt 2003). The pen is a threshold on the blur: a low one
thickens the strokes, a high one thins them.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

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
from metacontrast.data.options import ClassArrays, ReadOptions, with_variants
from metacontrast.errors import InputError

READER_VERSION = 1
SIDE = 28
DRAWINGS = 20
SHARES = {"train": 0.64, "val": 0.10, "test": 0.26}
SEED = 2022
BATCH = 64
"""Classes drawn at once."""


class Hand(NamedTuple):
    """Random distortions of some drawings: affine maps, displacements, thresholds."""

    affine: NDArray[np.float32]
    knots: NDArray[np.float32]
    pen: NDArray[np.float32]


def sources(root: Path, options: ReadOptions) -> list[Path]:
    """List the font files; nothing is looked for under `root`."""
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
    """Return the folder of the fonts; there is nothing to fetch."""
    return font_path("").parent


def split_of(character: str) -> str:
    """Assign a character to a split by a hash of its code point, independently of the other characters."""
    digest = hashlib.sha256(f"{SEED}/{ord(character)}".encode()).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    if place < SHARES["train"]:
        return "train"
    return "val" if place < SHARES["train"] + SHARES["val"] else "test"


def draw_characters(characters: Sequence[str], size: int) -> ClassArrays:
    """Draw each character twenty times, as arrays `(20, 1, size, size)`."""
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


TURN = 0.35
"""Largest rotation in radians, about 20 degrees."""
SHEAR = 0.35
STRETCH = 0.22
"""Largest change of the logarithm of width or height."""
SHIFT = 0.14
"""Largest translation, in half widths of the image."""
WOBBLE = 0.075
"""Standard deviation of the displacements at the knots, in half widths of the image."""
KNOTS = 5
PEN = (0.2, 0.5)
"""Lowest and highest threshold."""
EDGE = 0.2
"""Width of a stroke's soft border, on the scale of the threshold."""
FINER = 2
"""Drawings are made this many times finer than asked and then averaged."""


def draw_hands(rng: np.random.Generator, count: int) -> Hand:
    """Draw distortions for n drawings: maps `(n, 2, 3)`, displacements `(n, 2, k, k)`, thresholds `(n,)`."""
    turn, shear = rng.uniform(-TURN, TURN, count), rng.uniform(-SHEAR, SHEAR, count)
    width, height = np.exp(rng.uniform(-STRETCH, STRETCH, (2, count)))
    cos, sin = np.cos(turn), np.sin(turn)
    rows = [[cos * width, (cos * shear - sin) * height], [sin * width, (sin * shear + cos) * height]]
    linear = np.array(rows).transpose(2, 0, 1)
    shift = rng.uniform(-SHIFT, SHIFT, (count, 2, 1))
    knots = rng.normal(0, WOBBLE, (count, 2, KNOTS, KNOTS))
    pen = rng.uniform(*PEN, count)
    return Hand(*(x.astype(np.float32) for x in (np.concatenate([linear, shift], 2), knots, pen)))


def distort(
    ink: Float[Tensor, "drawing canvas canvas"], hand: Hand, size: int
) -> UInt8[Tensor, "drawing 1 {size} {size}"]:
    """Distort characters with blurred ink 0 to 1 to grey drawings of `size` × `size` pixels, ink 0 on paper 255."""
    fine = FINER * size
    grid = F.affine_grid(torch.from_numpy(hand.affine), [len(ink), 1, fine, fine], align_corners=False)
    field = F.interpolate(torch.from_numpy(hand.knots), (fine, fine), mode="bicubic", align_corners=True)
    bent = F.grid_sample(ink[:, None], grid + field.permute(0, 2, 3, 1), align_corners=False)
    pen = torch.from_numpy(hand.pen)[:, None, None, None]
    written = ((bent - pen) / EDGE + 0.5).clamp(0, 1)
    return (255 * (1 - F.avg_pool2d(written, FINER))).round().to(torch.uint8)
