"""When a cache file is stale: a short text that changes with the files, the options and the reader."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import PIL

from metacontrast.data.options import ReadOptions


def fingerprint(root: Path, sources: Sequence[Path], options: ReadOptions, reader_version: int) -> str:
    """A digest over all files' names, sizes and times, the options, the reader and Pillow's version."""
    listing = [_facts(root, file) for source in sources for file in _files(source)]
    return _digest([listing, asdict(options), reader_version, PIL.__version__])


def cache_name(name: str, split: str, root: Path, options: ReadOptions) -> str:
    """What a cache file is called: one for each data set, split, folder and choice of options."""
    return f"{name}-{split}-{_digest([str(root.resolve()), asdict(options)])[:12]}"


def _files(source: Path) -> Iterator[Path]:
    if not source.is_dir():
        yield source
        return
    yield from sorted(file for file in source.rglob("*") if file.is_file())


def _facts(root: Path, file: Path) -> tuple[str, int, int]:
    status = file.stat()
    name = file.relative_to(root) if file.is_relative_to(root) else file
    return name.as_posix(), status.st_size, status.st_mtime_ns


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
