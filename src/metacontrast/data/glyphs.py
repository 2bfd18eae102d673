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

Which characters: the letters, digits, currency signs and pictures (chess, zodiac, ...) that DejaVu Sans or
STIX has, without accented and other composed ones. Of characters that look alike (Latin A, Greek Α, Cyrillic А)
only the first by code point makes a class.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor
from torch.nn import functional as F

from metacontrast.data.decode import ClassArrays, ReadOptions, with_variants
from metacontrast.data.images import ClassImages, group_by_class

READER_VERSION = 1
SIDE = 28
DRAWINGS = 20
SHARES = {"train": 0.64, "val": 0.10, "test": 0.26}
SEED = 2022
BATCH = 64
"""Classes drawn at once."""


class Hand(NamedTuple):
    """Random distortions of drawings: affine maps, displacements, thresholds."""

    affine: NDArray[np.float32]
    knots: NDArray[np.float32]
    pen: NDArray[np.float32]


def sources(root: Path) -> list[Path]:
    """List the font files; `root` is not used."""
    fonts = sorted({*WIDE_FONTS, *ASCII_FONTS})
    return [font_path(font) for font in fonts]


def read(root: Path, split: str, options: ReadOptions) -> ClassImages:
    """Draw one split; `root` is not used."""
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
    return list(zip(map(class_name, characters), images.reshape(-1, DRAWINGS, 1, size, size), strict=True))


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


REFERENCE_FONTS = ("DejaVuSans", "STIXGeneral")
WIDE_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "STIXGeneral",
    "STIXGeneralBol",
)
ASCII_FONTS = ("cmr10", "cmss10", "cmtt10")
CATEGORIES = ("Lu", "Ll", "Lo", "Nd", "Sc")
CANVAS = 64
EXTENT = 46
BLUR = 1.3
"""Standard deviation of the blur that the pen's width is taken from; all three in pixels of the canvas."""
PICTURES = range(0x2600, 0x27C0)
ALIKE = 0.88
"""Correlation of two reference drawings from which on they count as the same character."""
PROPORTION = 0.4
"""Difference of log(width / height) up to which characters are compared in one frame too: 0 and O."""
LEGIBLE = 0.4
"""Share of its area that a character must keep under the hardest pen compared with the softest."""
SOLID = 0.85
"""Share of ink in its frame from which on a character is a featureless bar or block."""


def font_path(name: str) -> Path:
    """Return the file of one of matplotlib's fonts."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


@cache
def code_points(font: str) -> frozenset[int]:
    """Return the characters that a font has."""
    return frozenset(FT2Font(str(font_path(font))).get_charmap())


def fonts_with(character: str) -> list[str]:
    """List the fonts that have a character; those of TeX follow Unicode in ASCII alone."""
    fonts = [font for font in WIDE_FONTS if ord(character) in code_points(font)]
    return fonts + list(ASCII_FONTS) if character.isascii() else fonts


@cache
def typeset(character: str, font: str) -> NDArray[np.float32] | None:
    """Draw a character's blurred ink, 0 to 1, centred on a square canvas at one extent; None when blank or faint."""
    face = _face(font)
    left, top, right, bottom = (int(x) for x in face.getbbox(character))
    if right <= left or bottom <= top:
        return None
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=face)
    box = image.getbbox()
    ink = _centred(image.crop(box)) if box else np.zeros((CANVAS, CANVAS), np.float32)
    return ink if np.count_nonzero(ink > 0.5) > LEGIBLE * np.count_nonzero(ink > 0.2) else None


def class_name(character: str) -> str:
    """Name a character's class by its Unicode name, such as `Greek/small-alpha` or `Digit/seven`."""
    name = unicodedata.name(character).replace("OLD ITALIC", "OLD_ITALIC").replace("EXTENDED ARABIC", "ARABIC EXTENDED")
    words = name.replace("LETTER ", "").replace("-", " ").lower().split()
    if ord(character) in PICTURES:
        return f"Picture/{'-'.join(words)}"
    if unicodedata.category(character) == "Sc":
        return f"Currency/{'-'.join(words)}"
    return f"{words[0].capitalize()}/{'-'.join(words[1:])}"


@cache
def distinct_characters() -> tuple[str, ...]:
    """Return the characters that make a class, by code point: no two look alike in the reference fonts."""
    candidates = {c: ink for c in _candidates() if (ink := _reference(c)) is not None}
    alike = look_alike(list(candidates.values()))
    kept: list[int] = []
    for i in range(len(alike)):
        if not alike[i, kept].any():
            kept.append(i)
    characters = list(candidates)
    return tuple(characters[i] for i in kept)


def look_alike(inks: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_]:
    """Tell which pairs look alike as they are, or, being of similar proportions, once stretched to one frame."""
    frames = [ink[_frame(ink)] for ink in inks]
    proportion = np.log([frame.shape[1] / frame.shape[0] for frame in frames])
    similar = np.abs(proportion[:, None] - proportion) < PROPORTION
    return (_correlations(inks) > ALIKE) | (similar & (_correlations(frames) > ALIKE))


def _candidates() -> list[str]:
    codes = frozenset.union(*map(code_points, REFERENCE_FONTS))
    characters = (chr(code) for code in sorted(codes))
    named = (c for c in characters if unicodedata.category(c) in CATEGORIES or ord(c) in PICTURES)
    return [c for c in named if not unicodedata.decomposition(c)]


def _reference(character: str) -> NDArray[np.float32] | None:
    ink = typeset(character, next(f for f in REFERENCE_FONTS if ord(character) in code_points(f)))
    if ink is None:
        return None
    inked = ink[_frame(ink)] > 0.5
    return ink if inked.mean() < SOLID else None


def _frame(ink: NDArray[np.float32]) -> tuple[slice, slice]:
    """Return the smallest frame around the ink, as rows and columns."""
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _correlations(inks: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Correlate every pair, on 16 × 16 squares to which they are stretched."""
    small = [np.asarray(Image.fromarray(ink).resize((16, 16), Image.Resampling.BOX)).ravel() for ink in inks]
    centred = np.stack([x - x.mean() for x in small])
    units = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return units @ units.T


@cache
def _face(font: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_path(font), CANVAS, layout_engine=ImageFont.Layout.BASIC)


def _centred(image: Image.Image) -> NDArray[np.float32]:
    scale = EXTENT / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new("L", (CANVAS, CANVAS))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas.paste(resized, ((CANVAS - width) // 2, (CANVAS - height) // 2))
    blurred = canvas.filter(ImageFilter.GaussianBlur(BLUR))
    return np.asarray(blurred, dtype=np.float32) / np.float32(255)
