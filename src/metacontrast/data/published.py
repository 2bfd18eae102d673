"""Files of published data sets: downloads, zip archives and folders read alike, images of a known size, class lists.

A download is complete and verified, or not there. Nothing is ever unpacked to disk. An image that is not of the
published size is an error; any other image is for `decode`.
"""

import hashlib
import http.client
import io
import lzma
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from metacontrast.data.decode import Mode, Resample, channels_first
from metacontrast.errors import InputError
from metacontrast.files import atomic_path

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
        names: every file, sorted, with `/` between the parts; for a folder its own name comes first.
        read: the content of the file with this name; where that fails, an `InputError` names it.
    """

    path: Path
    names: tuple[str, ...]
    read: Callable[[str], bytes]

    def open_image(self, name: str, mode: Mode, side: int) -> Image.Image:
        """Decode the published image of that name, as grey (`L`) or `RGB`; it must be `side` × `side` pixels large."""
        where, data = f"{self.path}: {name}", self.read(name)
        try:
            with Image.open(io.BytesIO(data)) as image:
                if image.size == (side, side):
                    return image.convert(mode)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{where} is not a readable image ({error}); fetch the data set again") from error
        raise InputError(f"{where} has {image.width} × {image.height} pixels, not {side} × {side}; fetch it again")


@contextmanager
def open_tree(path: Path) -> Iterator[FileTree]:
    """Open a zip archive or a folder; its files are readable inside the `with` block."""
    if path.is_dir():
        names = sorted(file.relative_to(path.parent).as_posix() for file in path.rglob("*") if file.is_file())
        yield FileTree(path, tuple(names), lambda name: _read_file(path.parent / name))
        return
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise InputError(f"{path} is not a readable zip archive ({error}); fetch it again") from error
    with archive:
        yield FileTree(path, _archive_names(path, archive), lambda name: _read_member(path, archive, name))


def find_source(dataset: str, root: Path, folders: Sequence[str], name: str) -> Path:
    """Find the archive or folder of that name in one of `folders` below `root`, or in `root` itself."""
    places = [*(root / folder for folder in folders), root]
    for path in (place / each for place in places for each in (f"{name}.zip", name)):
        if path.exists():
            return path
    raise InputError(
        f"{dataset}: no {name}.zip or {name}/ in {root} or {root / dataset}; run `metacontrast data get {dataset}` or "
        "set METACONTRAST_DATA to the folder that holds it"
    )


def check_complete(
    where: str, counts: Mapping[str, int], expected: int, each: int, kinds: tuple[str, str], dataset: str
) -> None:
    """Raise `InputError` unless all classes have `each` images; `kinds` names classes and images in the message."""
    gaps = [f"{name} has {count}" for name, count in counts.items() if count != each]
    if gaps or len(counts) != expected:
        found = sum(count > 0 for count in counts.values())
        raise InputError(
            f"{where} is incomplete: {found} of {expected} {kinds[0]} and {sum(counts.values())} of {expected * each} "
            f"{kinds[1]} found{f' ({gaps[0]} of {each})' if gaps else ''}; run `metacontrast data get {dataset}`"
        )


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


def pixels(image: Image.Image, size: int | None = None, resample: Resample | None = None) -> NDArray[np.uint8]:
    """Convert an image to `(channel, height, width)`, resized to `size` × `size` pixels (default filter: bicubic)."""
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling[(resample or "bicubic").upper()])
    return channels_first(np.asarray(image))


def split_list(name: str) -> tuple[str, ...]:
    """Read the packaged list `splits/NAME.txt`, one class a line."""
    text = resources.files("metacontrast.data").joinpath("splits", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.split())


ATTEMPTS = 3
PAUSE = 1.0
TIMEOUT = 30.0
BLOCK = 1 << 18


class NetworkFailure(Exception):
    """A failed or broken connection: worth another attempt, unlike a full disk."""


def fetch(url: str, path: Path, md5: str | None = None) -> Path:
    """Fetch a file from the network, with progress on standard error.

    Args:
        url: an http or https address.
        path: the file to write, whole or not at all; one that already has the checksum is kept.
        md5: the checksum known for this file, in hexadecimal; None accepts any content.

    Raises:
        InputError: three attempts brought no whole answer, the server refused, or the checksum is wrong.
    """
    if md5 and path.is_file() and _file_md5(path) == md5:
        return path
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch_once(url, path, md5)
            break
        except NetworkFailure as error:
            if attempt == ATTEMPTS:
                raise _by_hand(url, path, f"{ATTEMPTS} attempts failed, the last with: {error}") from error
            time.sleep(PAUSE * attempt)
    return path


def _fetch_once(url: str, path: Path, md5: str | None) -> None:
    with _open(url, path) as answer, atomic_path(path) as temporary:
        digest = hashlib.md5(usedforsecurity=False)
        with temporary.open("wb") as file:
            for block in _blocks(answer, path.name):
                file.write(block)
                digest.update(block)
        if md5 and digest.hexdigest() != md5:
            raise _by_hand(url, path, f"what came has MD5 {digest.hexdigest()}, expected {md5}")


def _open(url: str, path: Path) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "metacontrast"})
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            raise _by_hand(url, path, f"the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise NetworkFailure(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise NetworkFailure(str(error) or type(error).__name__) from error


def _blocks(answer: http.client.HTTPResponse, name: str) -> Iterator[bytes]:
    """Yield the answer block by block; `NetworkFailure` when it ends before its announced length."""
    length = answer.headers.get("Content-Length")
    announced = int(length) if length else None
    received = 0
    with tqdm(desc=name, total=announced, unit="B", unit_scale=True) as progress:
        while block := _read(answer):
            received += len(block)
            progress.update(len(block))
            yield block
    if announced is not None and received != announced:
        raise NetworkFailure(f"the connection broke off after {received} of {announced} bytes")


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise NetworkFailure(str(error) or type(error).__name__) from error


def _by_hand(url: str, path: Path, problem: str) -> InputError:
    return InputError(f"could not fetch {url}: {problem}; fetch it by hand and put it at {path}")


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
