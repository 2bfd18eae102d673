"""Data sets by name: their facts, loading, fetching and checking."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import platformdirs

from metacontrast.data.cache import cache_name, cached, fingerprint
from metacontrast.data.decode import ReadOptions, Resample
from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError, NoSplitError, did_you_mean
from metacontrast.fields import check_fields, no_type_check
from metacontrast.files import as_path

SPLITS = ("train", "val", "test")


@runtime_checkable
class Reader(Protocol):
    """Interface of a data set's module."""

    READER_VERSION: int
    """Raised whenever the same files give other images than before."""

    def read(self, root: Path, split: str, options: ReadOptions) -> ClassImages:
        """Read one split of the set in `root`, complete, or raise `InputError`."""
        ...

    def sources(self, root: Path) -> list[Path]:
        """List the files and folders that the set is read from; `InputError` says where missing ones belong."""
        ...


@dataclass(frozen=True)
class DatasetSpec:
    """Facts about one data set.

    Args:
        name: as the command line takes it.
        shape: channels, height and width of its images by default; None where the files decide.
        options: the fields of `ReadOptions` that apply.
        resample: the filter for resizing, by default.
    """

    name: str
    description: str
    splits: tuple[str, ...]
    source: str
    licence: str
    shape: tuple[int, int, int] | None
    options: tuple[str, ...]
    resample: Resample = "bilinear"

    __post_init__ = check_fields

    @property
    def reader(self) -> Reader:
        """Import the module that reads the set, when it is first needed."""
        return cast(Reader, import_module(f"metacontrast.data.{self.name.replace('-', '_')}"))


FOLDER = DatasetSpec(
    name="folder",
    description="your own images, one folder per class: folder:PATH",
    splits=("all", *SPLITS),
    source="your files",
    licence="yours",
    shape=None,
    options=("image_size", "resample", "invert", "rotations", "skip_unreadable", "split_seed"),
)

DATASETS: Mapping[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="glyphs",
            description="typeset characters of many scripts, distorted; embedded, nothing to fetch",
            splits=SPLITS,
            source="drawn from the fonts that come with matplotlib",
            licence="free fonts (DejaVu, STIX, Computer Modern)",
            shape=(1, 28, 28),
            options=("image_size", "invert"),
        ),
        DatasetSpec(
            name="omniglot",
            description="handwritten characters of 50 alphabets, 20 drawings each",
            splits=SPLITS,
            source="https://github.com/brendenlake/omniglot",
            licence="MIT",
            shape=(1, 28, 28),
            options=("image_size", "resample", "invert", "rotations", "split_scheme"),
            resample="bicubic",
        ),
        DatasetSpec(
            name="cifar-fs",
            description="colour photographs of 100 classes (CIFAR-100), 600 each",
            splits=SPLITS,
            source="https://www.cs.toronto.edu/~kriz/cifar.html",
            licence="none stated; made for research",
            shape=(3, 32, 32),
            options=("image_size", "resample", "rotations"),
            resample="bicubic",
        ),
        DatasetSpec(
            name="mini-imagenet",
            description="colour photographs of 100 classes of ImageNet, 600 each",
            splits=SPLITS,
            source="https://image-net.org, with an account; in the split of Ravi and Larochelle",
            licence="ImageNet's terms: research, no redistribution",
            shape=(3, 84, 84),
            options=("image_size", "resample", "rotations", "skip_unreadable"),
        ),
    )
}


LARGEST_SIZE = 1024
DEFAULTS = ReadOptions()


@no_type_check
def load_dataset(
    name: str, split: str = "train", root: Path | str | None = None, options: ReadOptions = DEFAULTS, cache: bool = True
) -> ClassImages:
    """Load one split of a data set, from its own files the first time, then from a memory-mapped cache file.

    Args:
        name: one of `DATASETS`, or `folder:PATH` for a folder of your own images.
        split: `train`, `val` or `test`; folders also know `all`.
        root: the folder that holds the data sets; None is `$METACONTRAST_DATA`, else the user's cache folder.
        options: how images are read; an option that does not apply to the set is an error.
        cache: keep what was read under `$METACONTRAST_CACHE`, else in the user's cache folder.

    Raises:
        InputError: the name, the split or an option is unknown; files are missing, incomplete or damaged.

    >>> load_dataset("glyphs", split="test").shape
    (1, 28, 28)
    """
    spec, place = find_dataset(name, root)
    if not isinstance(options, ReadOptions):
        raise InputError(f"options={options!r}, but they must be ReadOptions(...)")
    check_options(spec, options)
    if split not in spec.splits:
        known = ", ".join(spec.splits)
        raise NoSplitError(
            f"{name} has no split {split!r}, only {known}; {did_you_mean(split, spec.splits)}".rstrip("; ")
        )
    reader = spec.reader
    if not cache:
        return reader.read(place, split, options)
    source = fingerprint(place, reader.sources(place), options, reader.READER_VERSION)
    file = cache_name(spec.name, split, place, options)
    return cached(
        _user_folder("METACONTRAST_CACHE", "images"), file, source, lambda: reader.read(place, split, options)
    )


def load_evaluation_split(
    name: str, split: str, root: Path | str | None = None, options: ReadOptions = DEFAULTS
) -> ClassImages:
    """Load the split that a training is evaluated on; `auto` is `val`, and `test` where there is no `val`."""
    if split != "auto":
        return load_dataset(name, split, root, options)
    try:
        return load_dataset(name, "val", root, options)
    except NoSplitError:
        return load_dataset(name, "test", root, options)


@no_type_check
def find_dataset(name: str, root: Path | str | None = None) -> tuple[DatasetSpec, Path]:
    """Look up a data set by name; return its facts and the folder in which it is looked for."""
    if not isinstance(name, str):
        raise InputError(f"no data set {name!r}: name it by text, a folder of your own as 'folder:PATH'")
    kind, _, path = name.partition(":")
    if kind == FOLDER.name and path:
        return FOLDER, as_path(path)
    if name not in DATASETS:
        raise InputError(
            f"no data set {name!r}: {did_you_mean(name, DATASETS)}there are {', '.join(DATASETS)} and folder:PATH"
        )
    return DATASETS[name], data_root(root)


def is_same_dataset(one: str, other: str) -> bool:
    """Tell whether two names stand for one data set: equal names, or two ways to write one folder."""
    (spec, place), (other_spec, other_place) = find_dataset(one), find_dataset(other)
    return one == other or (spec is other_spec is FOLDER and place.resolve() == other_place.resolve())


def dataset_files(name: str, root: Path | str | None = None) -> list[Path]:
    """List the files that a data set is read from; `InputError` where they are missing."""
    spec, place = find_dataset(name, root)
    return spec.reader.sources(place)


def check_options(spec: DatasetSpec, options: ReadOptions) -> None:
    """Raise `InputError` for an option that does not apply to the set, or a size that no set takes."""
    for option in fields(options):
        if option.name not in spec.options and (value := getattr(options, option.name)) != option.default:
            raise InputError(f"{option.name}={value!r} does not apply to {spec.name}: leave it out")
    size = options.image_size
    if size is not None and not 1 <= size <= LARGEST_SIZE:
        raise InputError(f"image_size={size} is not between 1 and {LARGEST_SIZE} pixels: choose one that is")


def get_dataset(name: str, root: Path | str | None = None) -> Path:
    """Download a data set from its official source unless it is complete; return its folder."""
    spec, place = find_dataset(name, root)
    try:
        if check_dataset(name, root)["verified"]:
            return spec.reader.sources(place)[0].parent
    except InputError:
        pass
    fetch = getattr(spec.reader, "get", None)
    if fetch is None:
        raise InputError(
            f"{name} cannot be fetched automatically ({spec.licence}): get it from {spec.source}, and put it in {place}"
        )
    return fetch(place)


def check_dataset(name: str, root: Path | str | None = None) -> dict[str, Any]:
    """Read a whole data set from its files; return counts, digests and what is wrong.

    Returns:
        `name`; `root`; `splits`, for each its `classes`, `images` and `digest` (SHA-256 over names and pixels
        as read by default); `verified`, whether everything published was found; `problem`, one line or None.

    Raises:
        InputError: the set is not there at all.
    """
    spec, place = find_dataset(name, root)
    spec.reader.sources(place)
    splits, problem = {}, None
    try:
        for split in ("all",) if spec is FOLDER else spec.splits:
            found = spec.reader.read(place, split, DEFAULTS)
            splits[split] = {"classes": len(found), "images": len(found.images), "digest": found.digest}
    except InputError as error:
        problem = str(error)
    return {"name": name, "root": str(place), "splits": splits, "verified": problem is None, "problem": problem}


def data_root(root: Path | str | None = None) -> Path:
    """Return the folder of the data sets: `root`, else `$METACONTRAST_DATA`, else `data` in the user's cache folder."""
    return as_path(root) if root is not None else _user_folder("METACONTRAST_DATA", "data")


def runs_folder() -> Path:
    """Return the folder of the figures' runs: `figure-runs` in `$METACONTRAST_CACHE` or in the user's cache folder."""
    return _user_folder("METACONTRAST_CACHE", "") / "figure-runs"


def _user_folder(variable: str, default: str) -> Path:
    """Return the folder that an environment variable names, else one in the user's cache folder."""
    named = os.environ.get(variable)
    return as_path(named) if named else platformdirs.user_cache_path("metacontrast") / default
