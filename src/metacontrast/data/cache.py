"""Images kept in memory-mapped files, so that a data set is read from its own files once.

A cache file is stale when its fingerprint differs: a short text that changes with the files, the options and the
reader.
"""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from logging.handlers import MemoryHandler
from pathlib import Path

import PIL
from safetensors import SafetensorError

from metacontrast.data.decode import ReadOptions
from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError
from metacontrast.files import exclusive, open_tensors, parse_json, remove_leftovers, write_tensors

logger = logging.getLogger("metacontrast")


def fingerprint(root: Path, sources: Sequence[Path], options: ReadOptions, reader_version: int) -> str:
    """Compute a digest over all files' names, sizes and times, the options, the reader and Pillow's version."""
    found = [sorted(filter(Path.is_file, each.rglob("*"))) if each.is_dir() else [each] for each in sources]
    listing = [_facts(root, file) for files in found for file in files]
    return _digest([listing, asdict(options), reader_version, PIL.__version__])


def cache_name(name: str, split: str, root: Path, options: ReadOptions) -> str:
    """Name a cache file: one for each data set, split, folder and choice of options."""
    return f"{name}-{split}-{_digest([str(root.resolve()), asdict(options)])[:12]}"


def _facts(root: Path, file: Path) -> tuple[str, int, int]:
    status = file.stat()
    name = file.relative_to(root) if file.is_relative_to(root) else file
    return name.as_posix(), status.st_size, status.st_mtime_ns


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def cached(folder: Path, name: str, source: str, build: Callable[[], ClassImages]) -> ClassImages:
    """Build images, or map them from the file under `folder` where they were kept before.

    Args:
        source: a text that changes whenever the images would: files, their sizes and times, options, reader version.
        build: makes the images when the file is missing, stale or damaged.
    """
    path = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.safetensors"
    if found := _read_cache(path, source, warn=True):
        return found
    collector = MemoryHandler(2**20)  # without a target it keeps what it is given
    collector.setLevel(logging.WARNING)
    logger.addHandler(collector)
    try:
        built = build()
    finally:
        logger.removeHandler(collector)
    said = [record.getMessage() for record in collector.buffer]
    try:
        _write_cache(path, source, built, said)
    except InputError:
        return built
    return _read_cache(path, source, warn=False) or built


def _write_cache(path: Path, source: str, images: ClassImages, warnings: list[str]) -> None:
    facts = {
        "name": images.name,
        "classes": list(images.classes),
        "mean": images.mean,
        "std": images.std,
        "digest": images.digest,
        "source": source,
        "warnings": warnings,
    }
    text = json.dumps(facts)
    tensors = {"images": images.images, "starts": images.starts}
    with exclusive(path.with_name(f".{path.stem}.lock"), f"another process writes {path}"):
        remove_leftovers(path.parent, path.name)
        write_tensors(path, tensors, {"facts": text, "facts_digest": hashlib.sha256(text.encode()).hexdigest()})


def _read_cache(path: Path, source: str, *, warn: bool) -> ClassImages | None:
    """Read the cache file; None when it is missing, stale or damaged. `warn` repeats what was said of the images."""
    try:
        with open_tensors(path) as file:
            metadata = file.metadata() or {}
            facts = parse_json(metadata["facts"])
            is_whole = hashlib.sha256(metadata["facts"].encode()).hexdigest() == metadata["facts_digest"]
            if not is_whole or facts["source"] != source:
                return None
            found = ClassImages(
                name=facts["name"],
                images=file.get_tensor("images"),
                starts=file.get_tensor("starts"),
                classes=tuple(facts["classes"]),
                mean=tuple(facts["mean"]),
                std=tuple(facts["std"]),
            )
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    if found.digest != facts["digest"]:
        return None
    for warning in facts.get("warnings", ()) if warn else ():
        logger.warning("%s", warning)
    return found
