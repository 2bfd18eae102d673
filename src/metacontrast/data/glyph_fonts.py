"""Characters of many scripts, typeset with the fonts that come with matplotlib.

Which characters: the letters, digits, currency signs and pictures (chess, zodiac, ...) that DejaVu Sans or
STIX has, without accented and other composed ones. Of characters that look alike (Latin A, Greek Α, Cyrillic А)
only the first by code point makes a class.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

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
    """The file of one of matplotlib's fonts."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


@cache
def code_points(font: str) -> frozenset[int]:
    """The characters that a font has."""
    return frozenset(FT2Font(str(font_path(font))).get_charmap())


def fonts_with(character: str) -> list[str]:
    """The fonts that have a character; those of TeX follow Unicode in ASCII alone."""
    fonts = [font for font in WIDE_FONTS if ord(character) in code_points(font)]
    return fonts + list(ASCII_FONTS) if character.isascii() else fonts


@cache
def typeset(character: str, font: str) -> NDArray[np.float32] | None:
    """A character's blurred ink, 0 to 1, centred on a square canvas at one extent; None when blank or faint."""
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
    """Script and character by their Unicode names, such as `Greek/small-alpha` or `Digit/seven`."""
    name = unicodedata.name(character).replace("OLD ITALIC", "OLD_ITALIC").replace("EXTENDED ARABIC", "ARABIC EXTENDED")
    words = name.replace("LETTER ", "").replace("-", " ").lower().split()
    if ord(character) in PICTURES:
        return f"Picture/{'-'.join(words)}"
    if unicodedata.category(character) == "Sc":
        return f"Currency/{'-'.join(words)}"
    return f"{words[0].capitalize()}/{'-'.join(words[1:])}"


@cache
def distinct_characters() -> tuple[str, ...]:
    """The characters that make a class, by code point: no two of them look alike in the reference fonts."""
    candidates = {c: ink for c in _candidates() if (ink := _reference(c)) is not None}
    alike = look_alike(list(candidates.values()))
    kept: list[int] = []
    for i in range(len(alike)):
        if not alike[i, kept].any():
            kept.append(i)
    characters = list(candidates)
    return tuple(characters[i] for i in kept)


def look_alike(inks: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_]:
    """Which pairs look alike as they are, or, being of similar proportions, once stretched to one frame."""
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
    """The smallest frame around what is inked, as rows and columns."""
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _correlations(inks: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Correlation of every pair, on 16 × 16 squares to which they are stretched."""
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
