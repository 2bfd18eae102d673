"""What a machine of a cluster must have in common with the one that hands out the runs."""

import contextlib
import platform
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from metacontrast.errors import InputError, InUseError
from metacontrast.files import exclusive
from metacontrast.version import __version__


@dataclass(frozen=True)
class Agreement:
    """The folder of runs, the versions, and the data.

    Args:
        marker: a file in the folder of runs that was made for this grid and is locked as long as it lasts.
        versions: of what decides the numbers.
        check_data: raises `InputError` where the data are not there.
    """

    marker: Path
    versions: dict[str, str]
    check_data: Callable[[], object]

    def breach(self) -> str:
        """Why this machine cannot take part, in one line; empty when it can."""
        here, others = platform.node(), versions()
        if not self.marker.exists():
            return f"{here} does not see the runs in {self.marker.parent}: choose an --out that all machines share"
        for name, wanted in self.versions.items():
            if others[name] != wanted:
                return f"{here} has {name} {others[name]}, not {wanted}: install the same version everywhere"
        try:
            self.check_data()
        except InputError as error:
            return f"{here} does not see the data: {error}"
        return ""

    def locks_reach_here(self) -> bool:
        """Whether this machine notices a lock that the machine which made the marker holds."""
        try:
            with exclusive(self.marker, "held, as it should be"):
                return False
        except InUseError:
            return True


def versions() -> dict[str, str]:
    """Of what decides the numbers, without the kind of build."""
    found = {"metacontrast": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return {name: str(version).partition("+")[0] for name, version in found.items()}


@contextlib.contextmanager
def agreement(runs: Path, check_data: Callable[[], object]) -> Iterator[Agreement]:
    """An agreement whose marker lies in the folder `runs`."""
    marker = runs / f".grid-{secrets.token_hex(8)}"
    with exclusive(marker, "held by this grid"):
        try:
            yield Agreement(marker, versions(), check_data)
        finally:
            marker.unlink(missing_ok=True)
