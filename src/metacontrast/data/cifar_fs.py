"""CIFAR-FS: the 100 classes of CIFAR-100, 600 colour photographs each, split 64/16/20 for few-shot learning.

Bertinetto, Henriques, Torr, Vedaldi: Meta-learning with differentiable closed-form solvers, ICLR 2019.
Krizhevsky: Learning multiple layers of features from tiny images, 2009.

An image is a PNG of 32 × 32 pixels in `cifar100/data/CLASS/`, in the archive `cifar100.zip` or in a folder. A
list of classes in `cifar100/splits/bertinetto/` is preferred to the same list in the package. Pixels are
shown to a model with the mean and standard deviation of the channels of CIFAR-100's training images.
"""

import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metacontrast.data import safe_pickle
from metacontrast.data.decode import ClassArrays, ReadOptions, to_png, with_variants
from metacontrast.data.images import ClassImages, group_by_class
from metacontrast.data.published import FileTree, check_complete, fetch, find_source, open_tree, pixels, split_list
from metacontrast.errors import InputError
from metacontrast.files import atomic_path

READER_VERSION = 2
SIDE = 32
IMAGES = 600
CLASSES = {"train": 64, "val": 16, "test": 20}
FOLDERS = ("cifar-fs", "cifar_fs", "cifarfs", "CIFAR-FS")
MEAN = (0.5071, 0.4866, 0.4409)
STD = (0.2673, 0.2564, 0.2762)
URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
PARTS = ("train", "test")
LARGEST_PICKLE = 2**28


def sources(root: Path) -> list[Path]:
    """Find the archive or folder that holds the set."""
    return [find_source("cifar-fs", root, FOLDERS, "cifar100")]


def read(root: Path, split: str, options: ReadOptions) -> ClassImages:
    """Read one split, verified by counts: all its classes, with 600 images each."""
    with open_tree(sources(root)[0]) as tree:
        _check_apart(str(tree.path), {each: class_names(tree, each) for each in CLASSES})
        by_class = read_classes(tree, class_names(tree, split), options)
    counts = {name: len(images) for name, images in by_class}
    check_complete(str(tree.path), counts, CLASSES[split], IMAGES, ("classes", "images"), "cifar-fs")
    return group_by_class(f"cifar-fs/{split}", with_variants(by_class, options), mean=MEAN, std=STD)


def get(root: Path) -> Path:
    """Fetch CIFAR-100 from its authors and write it as `root/cifar-fs/cifar100.zip`; return that path."""
    folder, lists = root / "cifar-fs", {split: split_list(f"cifar_fs_{split}") for split in CLASSES}
    return convert(fetch(URL, folder / "cifar-100-python.tar.gz", MD5), folder / "cifar100.zip", lists)


def class_names(tree: FileTree, split: str) -> tuple[str, ...]:
    """Return the sorted classes of a split, by the list beside the images, else by the one in the package."""
    wanted = f"cifar100/splits/bertinetto/{split}.txt"
    listed = next((name for name in tree.names if name.endswith(wanted)), None)
    names = tree.read(listed).decode("utf-8", "replace").split() if listed else split_list(f"cifar_fs_{split}")
    return tuple(sorted(names))


def _check_apart(where: str, lists: Mapping[str, Sequence[str]]) -> None:
    """Raise `InputError` where a class stands in two lists, or twice in one."""
    places = [(name, split) for split, names in lists.items() for name in names]
    if twice := next((name for name, times in Counter(name for name, _ in places).items() if times > 1), None):
        splits = " and ".join(split for name, split in places if name == twice)
        raise InputError(f"{where}: the lists of its splits name {twice!r} more than once ({splits}): restore them")


def read_classes(tree: FileTree, names: Iterable[str], options: ReadOptions) -> ClassArrays:
    """Read the images of some classes, in the order of their file names."""
    files: dict[str, list[str]] = {name: [] for name in names}
    for file in tree.names:
        folders = PurePosixPath(file).parts[-3:]
        if len(folders) == 3 and folders[0] == "data" and folders[1] in files and file.endswith(".png"):
            files[folders[1]].append(file)

    def read_image(file: str) -> NDArray[np.uint8]:
        return pixels(tree.open_image(file, "RGB", SIDE), options.image_size, options.resample)

    return [(name, np.stack([*map(read_image, found)])) for name, found in files.items() if found]


def convert(published: Path, path: Path, splits: Mapping[str, Sequence[str]]) -> Path:
    """Write the images in `cifar-100-python.tar.gz` as PNG files by class into the archive `path`.

    Raises:
        InputError: the file is damaged, is something else, or its pickles ask for more than plain data.
    """
    images = read_images(published)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for split, classes in splits.items():
            archive.writestr(f"cifar100/splits/bertinetto/{split}.txt", "\n".join(classes) + "\n")
        for name, image in images:
            archive.writestr(f"cifar100/data/{name}", to_png(image))
    return path


def read_images(published: Path) -> list[tuple[str, NDArray[np.uint8]]]:
    """Read the published file: `CLASS/NAME_PART_NUMBER.png` and pixels `(height, width, channel)` of every image."""
    try:
        with tarfile.open(published) as archive, TemporaryDirectory() as folder:
            pickles = {name: _read_pickle(archive, name, Path(folder)) for name in ("meta", *PARTS)}
        return list(_named_images(pickles))
    except (OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, tarfile.TarError) as error:
        raise InputError(f"{published} is not CIFAR-100 as published: {error}; delete it and fetch {URL}") from error


def _named_images(pickles: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    classes = pickles["meta"]["fine_label_names"]
    for part in PARTS:
        batch = pickles[part]
        images = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labelled = zip(batch["fine_labels"], batch["filenames"], images, strict=True)
        for number, (label, name, image) in enumerate(labelled):
            yield f"{classes[label]}/{Path(name).stem}_{part}_{number:05d}.png", image


def _read_pickle(archive: tarfile.TarFile, name: str, folder: Path) -> Any:
    member = archive.getmember(f"cifar-100-python/{name}")
    file = archive.extractfile(member)
    if file is None or not member.isreg() or member.size > LARGEST_PICKLE:
        raise tarfile.TarError(f"{member.name} is not a file of at most {LARGEST_PICKLE} bytes")
    (folder / name).write_bytes(file.read())
    return safe_pickle.load(folder / name)
