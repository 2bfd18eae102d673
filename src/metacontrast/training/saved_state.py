"""The last two states of a training on disk: when the last one is damaged, the one before it takes its place.

A training that goes on from there does the lost updates again, bit for bit.
"""

import logging
from pathlib import Path

from metacontrast.errors import InputError
from metacontrast.training import checkpoint
from metacontrast.training.checkpoint import Stored

LAST, BEFORE = "state.safetensors", "state-before.safetensors"
_DAMAGED = "state-damaged.safetensors"

logger = logging.getLogger("metacontrast")


def save_state(folder: Path, stored: Stored) -> None:
    """Write the last state; the one that was last becomes the one before it."""
    checkpoint.save(folder / LAST, stored, before=folder / BEFORE)


def load_state(folder: Path) -> Stored | None:
    """The last state that is whole; None when none was ever written.

    A damaged last state is set aside under another name, so that it never takes the good one's place.

    Raises:
        InputError: none is whole.
    """
    if not any((folder / name).exists() for name in (LAST, BEFORE)):
        return None
    try:
        return checkpoint.load(folder / LAST)
    except InputError as error:
        problem = f"{folder / LAST} is missing" if not (folder / LAST).exists() else str(error)
    stored = _load_before(folder, problem)
    logger.warning("%s; going on from the checkpoint before it, %s", problem, folder / BEFORE)
    if (folder / LAST).exists():
        (folder / LAST).replace(folder / _DAMAGED)
    return stored


def _load_before(folder: Path, problem: str) -> Stored:
    try:
        return checkpoint.load(folder / BEFORE)
    except InputError as error:
        raise InputError(f"{problem}, and the checkpoint before it, {BEFORE}, is no help either") from error
