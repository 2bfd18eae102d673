"""An explanation as a picture."""

import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from metacontrast.classifier.explanation import Explanation
from metacontrast.classifier.storage import State
from metacontrast.errors import one_line
from metacontrast.plots.style import save_figure
from metacontrast.plots.thumbnails import ContributionPicture, draw_contributions


def draw_explanation(state: State, found: Explanation, pixels: Tensor, count: int = 8) -> Figure:
    """The image, in the model's format, and the `count` support images that mattered most."""
    rows = found.strongest(count)
    return draw_contributions(
        ContributionPicture(
            f"{_shown(found.label)} rather than {_shown(found.against)}: logit difference {found.difference:.3g}",
            _as_seen(state, pixels),
            _as_seen(state, state.support.images[rows]),
            [_shown(found.labels[row]) for row in rows],
            found.contributions[rows],
        )
    )


def save_explanation(state: State, found: Explanation, pixels: Tensor, path: Path) -> Path:
    """Write the picture; letters that matplotlib's font has not are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        return save_figure(draw_explanation(state, found, pixels), path)


def _shown(label: object) -> str:
    """A label on one line, in which matplotlib sees no formula."""
    return one_line(str(label)).replace("$", r"\$")


def _as_seen(state: State, pixels: Tensor) -> NDArray[np.uint8]:
    """With black and white as in the person's own files."""
    array = pixels.numpy()
    return 255 - array if state.start.images.invert else array
