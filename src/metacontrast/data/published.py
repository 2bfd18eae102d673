"""Files of published data sets: zip archives and folders read alike, images of a known size, lists of class names.

Nothing is ever unpacked to disk. An image that is not of the published size is an error; any other image is for
`decode`.
"""

import io
import lzma
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from metacontrast.data.options import Mode, Resample, channels_first
from metacontrast.errors import InputError

LARGEST_FILE = 64 * 2**20
# What zipfile and its decompressors raise on damaged archives.
DAMAGE = (
    *(OSError, EOFError, RuntimeError, NotImplementedError, ValueError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


@dataclass(frozen=True)
class FileTree:
    """The files under one archive or folder.

    Args:
        path: the archive or folder.
        names: every file, sorted, with `/` between the parts; for a folder its own name comes first.
        read: the content of the file with this name; where that fails, an `InputError` names it.
    """

    path: Path
    names: tuple[str, ...]
    read: Callable[[str], bytes]


@contextmanager
def open_tree(path: Path) -> Iterator[FileTree]:
    """Open a zip archive or a folder; its files are readable inside the `with` block."""
    if path.is_dir():
        yield FileTree(path, _folder_names(path), lambda name: _read_file(path.parent / name))
        return
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise InputError(f"{path} is not a readable zip archive ({error}); fetch it again") from error
    with archive:
        yield FileTree(path, _archive_names(path, archive), lambda name: _read_member(path, archive, name))


def find_source(root: Path, folders: Sequence[str], names: Sequence[str]) -> Path | None:
    """Find the first of `names` that exists in one of `folders` below `root`, or in `root` itself."""
    places = [*(root / folder for folder in folders), root]
    return next((place / name for place in places for name in names if (place / name).exists()), None)


def _folder_names(folder: Path) -> tuple[str, ...]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return tuple(sorted(file.relative_to(folder.parent).as_posix() for file in files))


def _archive_names(path: Path, archive: zipfile.ZipFile) -> tuple[str, ...]:
    files = [info for info in archive.infolist() if not info.filename.endswith("/")]
    for info in files:
        if _points_outside(info.filename):
            raise InputError(
                f"{path} holds a file named {info.filename!r}, which points outside the archive; fetch a clean copy"
            )
        if stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(f"{path} holds a link, {info.filename!r}, where files should be; fetch a clean copy")
    return tuple(sorted(info.filename for info in files))


def _points_outside(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/"))
    return not parts.name or parts.is_absolute() or ".." in parts.parts or ":" in name.split("/")[0]


def _read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}; fetch it again or check its permissions") from error


def _read_member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > LARGEST_FILE:
        raise InputError(f"{path}: {name} unpacks to {size} bytes, more than the {LARGEST_FILE} an image may have")
    try:
        return archive.read(name)
    except DAMAGE as error:
        raise InputError(f"{path}: {name} is damaged ({error}); fetch the archive again") from error


def open_image(data: bytes, mode: Mode, side: int, where: str) -> Image.Image:
    """Decode a published image from a file's bytes, as grey or colour.

    Args:
        data: the whole file.
        mode: Pillow's `L` (grey) or `RGB`.
        side: width and height that the image must have, in pixels.
        where: the file's name for messages.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.size != (side, side):
                raise InputError(
                    f"{where} has {image.width} × {image.height} pixels, not {side} × {side}; fetch it again"
                )
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} is not a readable image ({error}); fetch the data set again") from error


def pixels(image: Image.Image, size: int | None = None, resample: Resample | None = None) -> NDArray[np.uint8]:
    """Convert an image to `(channel, height, width)`, resized to `size` × `size` pixels (default filter: bicubic)."""
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling[(resample or "bicubic").upper()])
    return channels_first(np.asarray(image))


def split_list(name: str) -> tuple[str, ...]:
    """Read the packaged list `splits/NAME.txt`, one class a line."""
    text = resources.files("metacontrast.data").joinpath("splits", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.split())
