"""Downloads from official addresses: whole and verified, or not there at all."""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from metacontrast.errors import InputError
from metacontrast.files import atomic_path

ATTEMPTS = 3
PAUSE = 1.0
TIMEOUT = 30.0
BLOCK = 1 << 18


class NetworkFailure(Exception):
    """A connection that failed or broke off: worth another attempt, unlike a full disk."""


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
