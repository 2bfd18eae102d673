"""Records and arrays in, matplotlib figures out: no torch, no training, no global state.

All pictures have one style: readable at column width, colour-blind safe (Okabe & Ito's palette).
"""

from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metacontrast.files import atomic_path

COLORS = {
    "black": "#000000",
    "orange": "#e69f00",
    "sky": "#56b4e9",
    "green": "#009e73",
    "blue": "#0072b2",
    "red": "#d55e00",
    "purple": "#cc79a7",
    "grey": "#8a8a8a",
}

_RC: dict[Any, Any] = {"font.size": 9, "axes.titlesize": 10, "svg.hashsalt": "metacontrast", "pdf.fonttype": 42}


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of that size in inches, laid out without overlaps."""
    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes) -> Axes:
    """Keep the two axis lines that carry numbers, over a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)
    return axes


def save_figure(figure: Figure, path: Path) -> Path:
    """Write the figure in the format of the ending, without timestamps, so that equal figures are equal files."""
    metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix, {})
    drawn = BytesIO()  # matplotlib's own writers do not survive a full disk
    with rc_context(_RC):
        figure.savefig(drawn, dpi=160, metadata=metadata, format=path.suffix[1:])
    with atomic_path(path) as temporary:
        temporary.write_bytes(drawn.getvalue())
    return path
