"""Random hands for typeset characters: every drawing is moved, bent and drawn with a pen of its own width.

A drawing shows at u the blurred ink of a character at A u + c + d(u): A turns, shears and scales by random
amounts, c moves, and the field d is smooth noise (Simard, Steinkraus, Platt 2003). The pen is a threshold on
the blur: a low one thickens the strokes, a high one thins them.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

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


class Hand(NamedTuple):
    """How each of some drawings is distorted."""

    affine: NDArray[np.float32]
    knots: NDArray[np.float32]
    pen: NDArray[np.float32]


def draw_hands(rng: np.random.Generator, count: int) -> Hand:
    """Distortions of n drawings: maps `(n, 2, 3)`, displacements `(n, 2, k, k)`, thresholds `(n,)`."""
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
    """Grey drawings of `size` × `size` pixels, ink 0 on paper 255, of characters with blurred ink 0 to 1."""
    fine = FINER * size
    grid = F.affine_grid(torch.from_numpy(hand.affine), [len(ink), 1, fine, fine], align_corners=False)
    field = F.interpolate(torch.from_numpy(hand.knots), (fine, fine), mode="bicubic", align_corners=True)
    bent = F.grid_sample(ink[:, None], grid + field.permute(0, 2, 3, 1), align_corners=False)
    pen = torch.from_numpy(hand.pen)[:, None, None, None]
    written = ((bent - pen) / EDGE + 0.5).clamp(0, 1)
    return (255 * (1 - F.avg_pool2d(written, FINER))).round().to(torch.uint8)
