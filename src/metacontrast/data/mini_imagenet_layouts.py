"""The layouts in which miniImageNet is found on disk.

A layout finds the files of a split without decoding images, and opens them as a `Listing`. `LAYOUTS` is in
the order in which they are tried.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metacontrast.data import parquet
from metacontrast.data.folder import image_folders
from metacontrast.data.gather import Item, Listing
from metacontrast.data.safe_pickle import load
from metacontrast.data.split_lists import split_list
from metacontrast.errors import InputError

CLASS_ID = re.compile(r"n\d{8}")


class Layout(NamedTuple):
    """How to find the files of a split in a folder, none if they are not there, and how to open them."""

    description: str
    find: Callable[[Path, str], list[Path]]
    open: Callable[[list[Path], str], Listing]


def find_csv(folder: Path, split: str) -> list[Path]:
    """The split's list (columns `filename`, `label`), and the folder `images/` with what it names."""
    lists = [folder / place / f"{split}.csv" for place in ("", "csv", "splits")]
    found = next((file for file in lists if file.is_file()), None)
    images = folder / "images"
    return [found, images] if found and images.is_dir() else []


def open_csv(files: Sequence[Path], split: str) -> Listing:
    """The images in the order of the list."""
    listed, images = files
    return _listing([Item(label, name, images / name) for name, label in _csv_rows(listed)])


def find_pickle(folder: Path, split: str) -> list[Path]:
    """The cache file with all images of a split."""
    file = folder / f"mini-imagenet-cache-{split}.pkl"
    return [file] if file.is_file() else []


def open_pickle(files: Sequence[Path], split: str) -> Listing:
    """`image_data`, uint8 of shape `(image, height, width, 3)`, by the row numbers in `class_dict`."""
    images, rows = _cache_content(files[0], load(files[0]))
    counts = Counter({name: len(chosen) for name, chosen in rows.items()})
    return Listing(counts, (Item(name, f"row {row}", images[row]) for name, chosen in rows.items() for row in chosen))


def find_split_folders(folder: Path, split: str) -> list[Path]:
    """The images in `SPLIT/CLASS/`."""
    return _by_class_id(folder / split)


def find_flat(folder: Path, split: str) -> list[Path]:
    """The images of the split's published classes in `images/`, by the names of files or of their folders."""
    classes = split_list(f"mini_imagenet_{split}")
    return [file for file in _by_class_id(folder / "images") if _class_id(file) in classes]


def open_files(files: Sequence[Path], split: str) -> Listing:
    """Images whose folders or names begin with the class."""
    return _listing([Item(_class_id(file), str(file), file) for file in files])


def _listing(items: Sequence[Item]) -> Listing:
    return Listing(Counter(item.label for item in items), items)


def _csv_rows(file: Path) -> Iterator[tuple[str, str]]:
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{file} is not a readable list ({error}); fetch it again") from error
    for number, row in enumerate(rows, start=2):
        name, label = row.get("filename"), row.get("label")
        if not name or not label or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{file}, line {number}: expected a filename inside images/ and a label; fetch it again")
        yield name, label


def _cache_content(file: Path, content: object) -> tuple[NDArray[np.uint8], dict[str, list[int]]]:
    """The two parts of a cache file, with every row number checked."""
    images, rows = (content.get("image_data"), content.get("class_dict")) if isinstance(content, dict) else (None, None)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[3:] != (3,):
        raise InputError(
            f"{file} holds no image_data of shape (image, height, width, 3) and dtype uint8; fetch it again"
        )
    if not isinstance(rows, dict) or not all(_are_rows(chosen, len(images)) for chosen in rows.values()):
        raise InputError(
            f"{file} holds no class_dict with row numbers below {len(images)} for each class; fetch it again"
        )
    return images, {str(name): [int(row) for row in chosen] for name, chosen in rows.items()}


def _are_rows(chosen: object, limit: int) -> bool:
    return isinstance(chosen, list | tuple | np.ndarray) and all(
        isinstance(row, int | np.integer) and 0 <= row < limit for row in chosen
    )


def _by_class_id(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [file for files in image_folders(folder).values() for file in files if _class_id(file)]


def _class_id(file: Path) -> str:
    """The class that the folder's or else the file's name begins with, or an empty text."""
    found = CLASS_ID.fullmatch(file.parent.name) or CLASS_ID.match(file.name)
    return found[0] if found else ""


LAYOUTS = (
    Layout("{split}.csv and images/", find_csv, open_csv),
    Layout("mini-imagenet-cache-{split}.pkl", find_pickle, open_pickle),
    Layout("{split}/n01532829/*.jpg", find_split_folders, open_files),
    Layout("images/n01532829*.jpg", find_flat, open_files),
    Layout("data/{split}-*.parquet", parquet.find, parquet.open_listing),
)
