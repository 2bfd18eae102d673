"""Progress bars around work that may take long."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tqdm import tqdm

Track = Callable[[Sequence[Any], str, str], Iterable[Any]]


def unseen(work: Sequence[Any], name: str, unit: str) -> Iterable[Any]:
    """The work itself."""
    return work


def with_bar(work: Sequence[Any], name: str, unit: str) -> Iterable[Any]:
    """The work, with a progress bar on standard error while it is gone through."""
    return tqdm(work, desc=name, unit=unit, leave=False)
