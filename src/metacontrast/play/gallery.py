"""Ready examples, so that a first visitor sees something work at once; all of them are made on this computer."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from metacontrast.data.decode import to_png
from metacontrast.data.glyphs import draw_characters
from metacontrast.play.session import Session, Settings

SIDE = 56


class Entry(NamedTuple):
    """One example of the gallery.

    Args:
        colour: whether a model of photographs is needed.
        make: classes with their images, and an image to ask about.
    """

    title: str
    note: str
    colour: bool
    make: Callable[[], tuple[dict[str, list[bytes]], bytes]]


def open_entry(session: Session, name: str) -> None:
    """Teach the session an entry, with its image to ask about."""
    entry = GALLERY[name]
    classes, query = entry.make()
    channels = 3 if entry.colour else 1
    model = next(model for model, start in session.models.items() if start.images.channels == channels)
    boards = tuple((label, tuple(images)) for label, images in classes.items())
    session.start_over(boards, Settings(model))
    session.query = query


@cache
def _digits() -> tuple[dict[str, list[bytes]], bytes]:
    """scikit-learn's handwritten digits, 8 × 8 pixels, enlarged."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    shown = [255 - np.rint(image * (255 / 16)).astype(np.uint8).repeat(7, 0).repeat(7, 1) for image in found.images]
    rows = {str(digit): np.flatnonzero(found.target == digit)[:4] for digit in range(10)}
    classes = {digit: [to_png(shown[row]) for row in four[:3]] for digit, four in rows.items()}
    return classes, to_png(shown[rows["4"][3]])


@cache
def _photographs() -> tuple[dict[str, list[bytes]], bytes]:
    """Pieces of the two photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_image

    found = {name: np.asarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")}
    pieces = {
        label: [to_png(found[name][y : y + 96, x : x + 96]) for y, x in corners]
        for label, (name, corners) in _CORNERS.items()
    }
    return {label: images[:3] for label, images in pieces.items()}, pieces["pagoda"][3]


@cache
def _glyphs(characters: str, shots: int, ask: int) -> tuple[dict[str, list[bytes]], bytes]:
    """The first `shots` drawings of every character, and the next one of the character at place `ask`."""
    drawn = [images[:, 0] for _, images in draw_characters(characters, SIDE)]
    shown = {c: [to_png(image) for image in images] for c, images in zip(characters, drawn, strict=True)}
    return {c: images[:shots] for c, images in shown.items()}, shown[characters[ask]][shots]


_CORNERS = {
    "pagoda": ("china", [(110, 120), (170, 200), (240, 110), (230, 230)]),
    "sky": ("china", [(0, 0), (5, 400), (20, 520)]),
    "trees": ("china", [(320, 40), (320, 420), (200, 544)]),
    "dahlia": ("flower", [(100, 180), (140, 260), (220, 220)]),
}
GALLERY = {
    "letters": Entry(
        "Five letters", "Lao, an alphabet the model never saw", False, partial(_glyphs, "ກຄງຈມ", 3, ask=4)
    ),
    "look-alikes": Entry(
        "Look-alikes", "O, Q, 0, C and G: see which examples mislead", False, partial(_glyphs, "OQ0CG", 4, ask=1)
    ),
    "digits": Entry("Ten digits", "Handwriting from scikit-learn", False, _digits),
    "photographs": Entry("Photographs", "Pieces of two photographs, in colour", True, _photographs),
    "twenty": Entry(
        "Twenty classes",
        "The Georgian alphabet, five drawings each",
        False,
        partial(_glyphs, "აბგდევზთიკლმნოპჟრსტუ", 5, ask=3),
    ),
}
