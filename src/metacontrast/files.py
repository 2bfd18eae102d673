"""Files that are either whole or not there: write beside, flush, rename."""

import contextlib
import errno
import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
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
        temporary = _temporary(path.parent, path.name)
        yield temporary
        flush_to_disk(temporary)
        temporary.chmod(0o644)
        if before is not None and path.exists():
            path.replace(before)
        temporary.replace(path)
        flush_to_disk(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def check_writable(folder: Path, name: str = "") -> None:
    """Raise `InputError` unless a file, of that name, can be made in `folder`, or in what there is of its parents.

    Nothing is left behind, and nothing that is there changes.
    """
    try:
        folder = folder.absolute()
        place = next(each for each in (folder, *folder.parents) if each.exists())
        for part in (folder / name).relative_to(place).parts:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                (place / part).lstat()  # raises for names that no file can have
        if name and (folder / name).is_dir():
            raise InputError(f"cannot write {folder / name}: it is a folder; name a file")
        _temporary(place, name).unlink()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise cannot_write(folder, error) from error


def cannot_write(path: Path, error: OSError | ValueError) -> InputError:
    """Why `path` cannot be written, and what to do."""
    code = error.errno if isinstance(error, OSError) else errno.EINVAL
    if code in (errno.ENOTDIR, errno.EEXIST):
        taken = next((each for each in (path, *path.parents) if each.is_file()), path)
        return InputError(f"cannot write {path}: {taken} is a file, not a folder; choose another folder")
    return InputError(f"cannot write {path}: {_reason(error)}; {_FULL.get(code, '')}choose another folder")


def what_failed(error: OSError) -> str:
    """What the operating system refused, of which file, and what to do."""
    name = "" if error.filename is None else f"{error.filename}: "
    return f"{name}{_reason(error)}; {_FULL.get(error.errno, '')}check the path and its permissions"


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


_FULL = dict.fromkeys((None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space or ")


def as_path(name: str | Path) -> Path:
    """The path, with the user's own folder in place of a leading `~`; the folder of a user who is not known stays."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def is_folder(path: Path) -> bool:
    """Whether it is one; False, where `Path.is_dir` may raise, for what no file system takes or lets one look at."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def why_no_folder(path: Path) -> str:
    """What is wrong with a name that was given for a folder's, in words that follow the name."""
    try:
        path.stat()
    except FileNotFoundError:
        return "is an address, not a folder: download it first" if is_address(path) else "is not a folder"
    except (OSError, ValueError) as error:
        return f"is not a folder ({_reason(error)})"
    return "is a file, not a folder"


def is_address(path: Path) -> bool:
    """Whether the name looks like an address in the network; as a path it has lost one of its two slashes."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) is not None


def _temporary(folder: Path, name: str) -> Path:
    """A new file in which `name` will be written."""
    handle, path = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=".part")
    os.close(handle)
    return Path(path)


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove what a process left that was killed while it wrote `folder`/`name`, a name or a pattern of names.

    Nobody may be writing there meanwhile.
    """
    for part in folder.glob(f".{name}.*.part"):
        with contextlib.suppress(OSError):
            part.unlink()


def write_text(path: Path, text: str) -> None:
    r"""Write `text` as UTF-8, whole or not at all.

    Halves of surrogate pairs, which stand for bytes of file names that are not UTF-8, are written as `\udcff`, from
    which JSON reads them again.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(as_utf8(text))


def as_utf8(text: str) -> bytes:
    """What `write_text` writes."""
    return text.encode("utf-8", "backslashreplace")


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


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file; by its number where its path is not UTF-8, which safetensors does not take."""
    with contextlib.ExitStack() as stack:
        is_utf8 = as_utf8(str(path)).decode() == str(path)
        name = path if is_utf8 else f"/dev/fd/{stack.enter_context(path.open('rb')).fileno()}"
        try:
            opened = stack.enter_context(safe_open(name, framework="pt"))
        except RuntimeError as error:  # PyTorch's, when the file has gone since it was looked at
            raise OSError(str(error)) from error
        yield opened


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


def read_facts(file: Path) -> dict[str, Any]:
    """What the object in a JSON file says; nothing where there is no such file, or something else in it."""
    try:
        facts = parse_json(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def flush_to_disk(path: Path) -> None:
    """Wait until what was written to the file, or renamed in the folder, has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def exclusive(path: Path, taken: str, patience: float = 0) -> Iterator[None]:
    """Hold the lock file `path` during the block; when another process holds it, `InUseError` says `taken`.

    The operating system drops the lock when its holder dies, so a leftover lock file can be ignored.

    Args:
        patience: for how many seconds to wait for another process.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        _lock(handle, path, taken, time.monotonic() + patience)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, path: Path, taken: str, until: float) -> None:
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise InUseError(taken) from error
            time.sleep(0.01)
        except OSError as error:
            raise InputError(
                f"cannot lock {path}: {error.strerror}; choose a folder whose file system locks"
            ) from error
