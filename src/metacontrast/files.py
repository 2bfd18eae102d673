"""Files that are either whole or not there: write beside, flush, rename."""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from metacontrast.errors import InputError, InUseError


@contextlib.contextmanager
def atomic_path(path: Path, before: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what the block writes there replaces `path` in one step.

    When the block raises, `path` is as it was. A full disk or a folder that cannot be written becomes an
    `InputError` that names the path.

    Args:
        before: where in the same folder to keep what is replaced; in between `path` is missing for a moment.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        flush_to_disk(temporary)
        temporary.chmod(0o644)
        if before is not None and path.exists():
            path.replace(before)
        temporary.replace(path)
        flush_to_disk(path.parent)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove what a process left that was killed while it wrote `folder`/`name`, a name or a pattern of names.

    Nobody may be writing there meanwhile.
    """
    for part in folder.glob(f".{name}.*.part"):
        with contextlib.suppress(OSError):
            part.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], before: Path | None = None
) -> None:
    """Write a safetensors file, whole or not at all; what it replaces is kept as `before`, if that is given."""
    with atomic_path(path, before) as temporary:
        try:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, dict(metadata))
        except SafetensorError as error:
            raise OSError(str(error)) from error
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file in order: the library writes it in another order in every process."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length))


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text holds; `ValueError` for every text that is none, also for one nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def flush_to_disk(path: Path) -> None:
    """Wait until what was written to the file, or renamed in the folder, has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def exclusive(path: Path, taken: str) -> Iterator[None]:
    """Hold the lock file `path` during the block; when another process holds it, `InUseError` says `taken`.

    The operating system drops the lock when its holder dies, so a lock file that is left over does no harm.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUseError(taken) from error
        except OSError as error:
            raise InputError(
                f"cannot lock {path}: {error.strerror}; choose a folder whose file system locks"
            ) from error
        yield
    finally:
        os.close(handle)
