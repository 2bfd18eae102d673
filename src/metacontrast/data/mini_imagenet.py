"""miniImageNet: 100 classes of ImageNet, 600 photographs each, split 64/16/20, read as 84 × 84 RGB.

Vinyals et al.: Matching networks for one shot learning, NeurIPS 2016; the split is that of Ravi and Larochelle:
Optimization as a model for few-shot learning, ICLR 2017. ImageNet's terms forbid passing the images on, so there is
nothing to fetch: the set is read in whichever of `LAYOUTS` it lies in the folder, and must be complete. A layout finds
the files of a split without decoding images, and opens them as a `Listing`. Images are resized bilinearly without
keeping their aspect, and shown with ImageNet's mean and standard deviation.

Data set hubs provide images in parquet files, `data/SPLIT-00000-of-00001.parquet`. Column `image` holds the encoded
file, alone or as `bytes` beside its `path`; `label` holds a class name, or a number whose name stands in the file's
metadata.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metacontrast.data.decode import BATCH, Item, Listing, ReadOptions, enumerate_some, gather, with_variants
from metacontrast.data.folder import IMAGENET_MEAN, IMAGENET_STD, image_folders
from metacontrast.data.images import ClassImages, group_by_class
from metacontrast.data.published import split_list
from metacontrast.data.safe_pickle import load
from metacontrast.errors import InputError
from metacontrast.files import parse_json

READER_VERSION = 1
IMAGES = 600
SPLITS = ("train", "val", "test")
FOLDERS = ("", "mini-imagenet", "miniImagenet", "mini_imagenet", "miniimagenet")


class DiskLayout(NamedTuple):
    """Layout on disk: functions that find the files of a split in a folder (none if absent) and open them."""

    description: str
    find: Callable[[Path, str], list[Path]]
    open: Callable[[list[Path]], Listing]


def read(root: Path, split: str, options: ReadOptions) -> ClassImages:
    """Read one split, verified by counts: exactly its published classes, with 600 images each."""
    where = f"mini-imagenet/{split}"
    expected = class_names(split)
    found = locate(root, split)
    if found is None:
        raise InputError(_not_found(root, split))
    layout, files = found
    listing = layout.open(files)
    check_listed(f"{where} in {files[0].parent}", listing.counts, expected)
    by_class = dict(gather(where, listing.items, "RGB", options))
    ordered = [(name, by_class[name]) for name in expected if name in by_class]
    return group_by_class(where, with_variants(ordered, options), mean=IMAGENET_MEAN, std=IMAGENET_STD)


def sources(root: Path) -> list[Path]:
    """List the files, or folders of files, of all splits that are there."""
    found = [locate(root, split) for split in SPLITS]
    files = [file for place in found if place for file in place[1] if file.exists()]
    if not files:
        raise InputError(_not_found(root, "train"))
    return list(dict.fromkeys(files))


def class_names(split: str) -> tuple[str, ...]:
    """Return the published classes of a split, as WordNet identifiers in sorted order."""
    if split not in SPLITS:
        raise InputError(f"mini-imagenet has no split {split!r}, only {', '.join(SPLITS)}")
    return split_list(f"mini_imagenet_{split}")


def locate(root: Path, split: str) -> tuple[DiskLayout, list[Path]] | None:
    """Find the first layout that holds the split, with its files, in `root` or a folder named after the set."""
    found = ((layout, layout.find(root / folder, split)) for folder in FOLDERS for layout in LAYOUTS)
    return next((each for each in found if each[1]), None)


def check_listed(where: str, counts: Mapping[str, int], expected: Sequence[str]) -> None:
    """Raise `InputError` unless there are exactly these classes with 600 images each."""
    missing = [name for name in expected if name not in counts]
    unknown = [name for name in counts if name not in expected]
    if missing or unknown:
        raise InputError(
            f"{where}: {len(missing)} of the {len(expected)} classes are missing{_listed(missing)} and "
            f"{len(unknown)} are not of this split{_listed(unknown)}: get the split of Ravi and Larochelle"
        )
    wrong = [f"{name} has {counts[name]}" for name in expected if counts[name] != IMAGES]
    if wrong:
        raise InputError(
            f"{where}: {len(wrong)} of {len(expected)} classes do not have {IMAGES} images "
            f"({enumerate_some(wrong)}): get the set again"
        )


def _listed(names: Sequence[str]) -> str:
    return f" ({enumerate_some(names)})" if names else ""


def _not_found(root: Path, split: str) -> str:
    layouts = "; ".join(layout.description.format(split=split) for layout in LAYOUTS)
    return (
        f"mini-imagenet: {split} is not in {root} or {root / FOLDERS[1]}; put it there in one of these "
        f"layouts, since ImageNet's terms forbid a download: {layouts}"
    )


CLASS_ID = re.compile(r"n\d{8}")


def find_csv(folder: Path, split: str) -> list[Path]:
    """Find the split's list (columns `filename`, `label`), and the folder `images/` with its images."""
    lists = [folder / place / f"{split}.csv" for place in ("", "csv", "splits")]
    found = next((file for file in lists if file.is_file()), None)
    images = folder / "images"
    return [found, images] if found and images.is_dir() else []


def open_csv(files: Sequence[Path]) -> Listing:
    """Open the images in the order of the list."""
    listed, images = files
    return _listing([Item(label, name, images / name) for name, label in _csv_rows(listed)])


def find_pickle(folder: Path, split: str) -> list[Path]:
    """Find the cache file with all images of a split."""
    file = folder / f"mini-imagenet-cache-{split}.pkl"
    return [file] if file.is_file() else []


def open_pickle(files: Sequence[Path]) -> Listing:
    """Open `image_data`, uint8 of shape `(image, height, width, 3)`, by the row numbers in `class_dict`."""
    images, rows = _cache_content(files[0], load(files[0]))
    counts = Counter({name: len(chosen) for name, chosen in rows.items()})
    return Listing(counts, (Item(name, f"row {row}", images[row]) for name, chosen in rows.items() for row in chosen))


def find_split_folders(folder: Path, split: str) -> list[Path]:
    """Find the images in `SPLIT/CLASS/`."""
    return _by_class_id(folder / split)


def find_flat(folder: Path, split: str) -> list[Path]:
    """Find the images of the split's published classes in `images/`, by the names of files or of their folders."""
    classes = split_list(f"mini_imagenet_{split}")
    return [file for file in _by_class_id(folder / "images") if _class_id(file) in classes]


def open_files(files: Sequence[Path]) -> Listing:
    """Open images whose folders or names begin with the class."""
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
    """Return the two parts of a cache file, with every row number checked."""
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
    """Return the class with which the name of the folder, or else of the file, begins, or an empty text."""
    found = CLASS_ID.fullmatch(file.parent.name) or CLASS_ID.match(file.name)
    return found[0] if found else ""


HUB_NAMES = {"val": ("validation", "val")}
# The standard errors from which those of pyarrow are derived.
_PARQUET_DAMAGE = (OSError, ValueError, NotImplementedError)


def find_parquet(folder: Path, split: str) -> list[Path]:
    """Find the files of a split, in order."""
    names = HUB_NAMES.get(split, (split,))
    return sorted(file for name in names for file in (folder / "data").glob(f"{name}-*.parquet"))


def open_parquet(files: Sequence[Path]) -> Listing:
    """Open the files as a listing; images are read a few hundred at a time on demand."""
    counts = Counter(label for file in files for label, _ in _rows(file, ["label"]))
    return Listing(counts, (item for file in files for item in _items(file)))


def _items(file: Path) -> Iterator[Item]:
    for number, (label, image) in enumerate(_rows(file, ["label", "image"])):
        content = image.get("bytes") if isinstance(image, dict) else image
        yield Item(label, f"{file.name} row {number}", content or b"")


def _rows(file: Path, columns: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the label of every row and the last of these columns."""
    table = _open(file)
    missing = {"label", "image"} - set(table.schema_arrow.names)
    if missing:
        raise InputError(f"{file} has no column {' and '.join(sorted(missing))}; fetch another snapshot")
    name_of = _label_names(file, table.schema_arrow.metadata or {})
    try:
        for batch in table.iter_batches(batch_size=BATCH, columns=columns):
            labels, values = (batch.column(column).to_pylist() for column in ("label", columns[-1]))
            yield from zip(map(name_of, labels), values, strict=True)
    except _PARQUET_DAMAGE as error:
        raise _damaged(file, error) from error


def _open(file: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InputError(f"reading {file} needs pyarrow: pip install 'metacontrast[parquet]'") from error
    try:
        return ParquetFile(file)
    except _PARQUET_DAMAGE as error:
        raise _damaged(file, error) from error


def _label_names(file: Path, metadata: dict[bytes, bytes]) -> Callable[[Any], str]:
    """Return a function from labels to class names: numbers by the hub's list, text as it is."""
    try:
        features = parse_json(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        names = features.get("label", {}).get("names", [])
    except (ValueError, AttributeError) as error:
        raise _damaged(file, error) from error

    def name_of(label: Any) -> str:
        if isinstance(label, str):
            return label
        return str(names[label]) if isinstance(label, int) and 0 <= label < len(names) else f"label {label}"

    return name_of


def _damaged(file: Path, error: Exception) -> InputError:
    return InputError(f"{file} is not a readable parquet file ({' '.join(str(error).split())}); fetch it again")


LAYOUTS = (
    DiskLayout("{split}.csv and images/", find_csv, open_csv),
    DiskLayout("mini-imagenet-cache-{split}.pkl", find_pickle, open_pickle),
    DiskLayout("{split}/n01532829/*.jpg", find_split_folders, open_files),
    DiskLayout("images/n01532829*.jpg", find_flat, open_files),
    DiskLayout("data/{split}-*.parquet", find_parquet, open_parquet),
)
