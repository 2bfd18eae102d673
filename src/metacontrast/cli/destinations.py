"""Where a command writes, looked at before any work: never over what it reads, and only where it can."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from metacontrast.errors import InputError
from metacontrast.files import as_path, check_writable


def check_destinations(
    reads: Iterable[Path], *, folders: Iterable[Path] = (), files: Iterable[Path] = (), endings: Sequence[str] = ()
) -> None:
    """Raise `InputError` where a command would write over its own input, or cannot write.

    Args:
        reads: the files and folders that it reads.
        folders: the folders in which it will make files of its own names.
        files: the files that it will write.
        endings: of files that it makes itself, which may also lie in a folder that it reads.
    """
    sources = {_real(path) for path in reads}
    folders, files = list(folders), list(files)
    for path in (*folders, *files):
        if _real(path) in sources or (path in files and path.suffix not in endings and _lies_in(path, sources)):
            raise InputError(f"{path} is read by this command and would be written over: name another place to write")
    for folder in folders:
        check_writable(folder)
    for file in files:
        check_writable(file.parent, file.name)


def images_folder(dataset: str) -> list[Path]:
    """The folder of a data set that is a folder of your own images."""
    kind, _, path = dataset.partition(":")
    return [as_path(path)] if kind == "folder" and path else []


def _real(path: Path) -> str:
    """One name for all spellings of a path and all links to it; what cannot be a path is its own name."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)


def _lies_in(file: Path, folders: set[str]) -> bool:
    """Whether there is such a file already, in one of these folders."""
    return os.path.lexists(file) and any(str(parent) in folders for parent in Path(_real(file)).parents)
