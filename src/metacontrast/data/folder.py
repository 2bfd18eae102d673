"""A user's own images: a folder for each class.

    root/cat/1.jpg                    a class is a folder that directly holds images, named by its path: `cat`
    root/Futurama/character07/1.png   ... or `Futurama/character07`
    root/train/cat/1.jpg              folders named train (training), val (validation, valid), test (testing) may
                                      divide them

With such folders a split is what lies in its folder, and `all` is everything, a class of the same name in two
of them being one class. Without them `train` and `all` are everything, and `val` and `test` are refused:
accuracy on classes seen in training says nothing about new ones. With a `split_seed` the classes are divided by
it: in order of the SHA-256 of seed and name the first fifth, rounded up, is `test`, the second is `val`.

Images are grey if all files of all splits say that they are (modes 1, L and 16 bits, not palettes), else RGB
with ImageNet's mean and standard deviation. Files are sorted by name. Hidden files and images outside a class
are ignored.
"""

import hashlib
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal

from metacontrast.data.decode import Item, ReadOptions, enumerate_some, gather, is_grey, suffixes, with_variants
from metacontrast.data.images import ClassImages, group_by_class
from metacontrast.errors import InputError, NoSplitError, check_choice
from metacontrast.files import is_folder, why_no_folder

READER_VERSION = 2
SPLITS = ("all", "train", "val", "test")
FOLDER_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
FOLDER_SPLITS |= dict.fromkeys(("val", "valid", "validation"), "val")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ClassFiles = dict[str, list[Path]]
Nested = Literal["classes", "flatten"]
Use = Literal["train", "test"]
HEIC = (".heic", ".heif")


@dataclass
class Found:
    """Classes of a folder, and what was left out.

    Args:
        classes: the images of each class.
        ignored: name and reason of everything else.
    """

    classes: ClassFiles
    ignored: list[tuple[str, str]] = field(default_factory=list)


logger = logging.getLogger("metacontrast")


def read(root: Path, split: str, options: ReadOptions) -> ClassImages:
    """Read one split of the folder as images of `options.image_size` pixels a side (default 84).

    Raises:
        InputError: there are no classes or only one, the split is not there, a file cannot be read (unless
            `options.skip_unreadable`), two class names are the same text, or a link leads out of the folder.
    """
    where = f"folder:{root.resolve().name}/{split}"
    found = class_files(root)
    _warn_of_shared_classes(root, found)
    classes = split_classes(root, found, split, options.split_seed)
    mode = "L" if all(map(is_grey, chain(*found.values()))) else "RGB"
    by_class = gather(where, items_of(root, classes), mode, options)
    if len(by_class) < 2:
        only = ", ".join(repr(name) for name, _ in by_class) or "none"
        raise InputError(
            f"{where}: classes with readable images: {len(by_class)} ({only}), but a task needs at least 2: add a "
            "folder of images for each further class"
        )
    named = [(unicodedata.normalize("NFC", name), images) for name, images in by_class]
    mean, std = ((0.0,), (1.0,)) if mode == "L" else (IMAGENET_MEAN, IMAGENET_STD)
    return group_by_class(where, with_variants(named, options), mean=mean, std=std)


def sources(root: Path) -> list[Path]:
    """List the image files of all splits: even one outside a split decides between grey and RGB."""
    return [file for file in chain(*class_files(root).values()) if file.exists()]


def image_folders(root: Path, ignored: list[tuple[str, str]] | None = None) -> ClassFiles:
    """List the images directly in `root` (`.`) and in each folder below it, where there are some.

    Args:
        ignored: takes the names of what is left out, with the reason; without it a link out of the folder is an error.
    """
    return {folder.relative_to(root).as_posix(): files for folder, files in _walk(root, root, ignored)}


def class_files(root: Path) -> ClassFiles:
    """List the image files of every class folder under `root`, by its path below `root`."""
    if not is_folder(root):
        raise InputError(f"{root} {why_no_folder(root)}; give a folder that holds a folder of images for each class")
    found = image_folders(root)
    loose = found.pop(".", [])
    if not found:
        raise InputError(
            f"{root} has no class folders (and {len(loose)} images outside of any): put the images of each class "
            "(.jpg, .png, ...) into a folder named after the class"
        )
    return found


def find_classes(root: Path, nested: Nested = "classes", use: Use = "train") -> Found:
    """Find the classes of a folder for one use, and name everything that is left out, such as links out of it.

    Args:
        use: as of `split_for`.
        nested: what folders below a class's folder are: `classes` of their own, named by their path, which is refused
            where the folder above holds images too; or `flatten`, more images of the class above.
    """
    check_choice("nested", nested, ("classes", "flatten"))
    ignored: list[tuple[str, str]] = []
    found = image_folders(root, ignored)
    ignored += [(file.name, "is outside of any class folder") for file in found.pop(".", [])]
    if not found:
        class_files(root)  # says what is wrong
    split = split_for(root, found, use)
    classes = split_classes(root, found, split)
    left = sum(map(len, found.values())) - sum(map(len, classes.values()))
    ignored += [(f"{left} images of other splits", f"are not in {split}")] if left else []
    if nested == "flatten":
        return Found(_flattened(classes), ignored)
    for name in sorted(classes):
        if above := next((str(each) for each in PurePosixPath(name).parents if str(each) in classes), None):
            raise InputError(
                f"{root}: {above!r} holds images and so does {name!r} in it: one class or two? "
                "Pass nested='flatten' for one, or move the images"
            )
    return Found(classes, ignored)


def _flattened(classes: ClassFiles) -> ClassFiles:
    """Give every class the images of the folders below it."""
    flat: ClassFiles = {}
    for name, files in classes.items():
        flat.setdefault(name.partition("/")[0], []).extend(files)
    return flat


def is_coloured(root: Path) -> bool:
    """Whether any image of a folder says that it has colours."""
    return not all(map(is_grey, chain(*class_files(root).values())))


def split_for(root: Path, found: ClassFiles, use: Use) -> str:
    """The split that is learned from (`train`) or tested on (`test`): that of a divided folder, else `all`."""
    return use if _split_folders(root, found) else "all"


def split_classes(root: Path, found: ClassFiles, split: str, seed: int | None = None) -> ClassFiles:
    """Select the classes of one split by the rules in the module's docstring; `seed` is the `split_seed`."""
    if split not in SPLITS:
        raise InputError(f"folder:{root} has no split {split!r}, only {', '.join(SPLITS)}")
    tops = _split_folders(root, found)
    if tops and seed is not None:
        raise InputError(f"{root} is divided by its folders {', '.join(sorted(tops))}: leave out split_seed={seed}")
    if seed is not None:
        return found if split == "all" else _drawn_split(found, split, seed)
    if not tops:
        if split in ("val", "test"):
            raise NoSplitError(
                f"{root} has no train/ and test/ folders, so its {split!r} classes would be those that are trained on: "
                "divide them by a seed (--split-seed 0), put class folders into train/ and test/, or take all classes "
                "(train --eval-split all, evaluate --split all)"
            )
        return found
    wanted = {top for top, name in tops.items() if split in ("all", name)}
    if not wanted:
        raise NoSplitError(f"{root} has folders {', '.join(sorted(tops))}, but none for {split!r}: ask for another")
    return _merged(found, wanted)


def _drawn_split(found: ClassFiles, split: str, seed: int) -> ClassFiles:
    """The classes of one split, drawn from a seed."""

    def mark(name: str) -> str:
        plain = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
        return hashlib.sha256(b"%d/%s" % (seed, plain)).hexdigest()

    order, fifth = sorted(found, key=mark), -(-len(found) // 5)
    wanted = {"test": order[:fifth], "val": order[fifth : 2 * fifth], "train": order[2 * fifth :]}[split]
    return {name: files for name, files in found.items() if name in wanted}


def _split_folders(root: Path, found: ClassFiles) -> dict[str, str]:
    """Find the folders of `root` that hold the classes of a split, and which split that is."""
    divided = {name.split("/")[0] for name in found if "/" in name}
    tops = {top: FOLDER_SPLITS[top.casefold()] for top in divided if top.casefold() in FOLDER_SPLITS}
    others = sorted({name.split("/")[0] for name in found} - set(tops))
    if tops and others:
        raise InputError(
            f"{root} holds images in {', '.join(sorted(tops))} and also in {enumerate_some(others)}: move "
            "these into one of the split folders, or elsewhere"
        )
    return tops


def _warn_of_shared_classes(root: Path, found: ClassFiles) -> None:
    tops = _split_folders(root, found)
    parts = (path.partition("/") for path in found)
    composed = ((top, unicodedata.normalize("NFC", name)) for top, _, name in parts)
    places = dict.fromkeys((name, tops[top]) for top, name in composed if name and top in tops)
    if shared := [name for name, splits in Counter(name for name, _ in places).items() if splits > 1]:
        logger.warning(
            "%s: %s in more than one split, so testing does not show new classes", root, enumerate_some(shared)
        )


def _merged(found: ClassFiles, tops: set[str]) -> ClassFiles:
    merged: ClassFiles = {}
    for path, files in found.items():
        top, _, name = path.partition("/")
        if top in tops and name:
            merged.setdefault(name, []).extend(files)
    return dict(sorted(merged.items()))


def _walk(folder: Path, root: Path, ignored: list[tuple[str, str]] | None = None) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each folder that directly holds images with its images, sorted by name; `ignored` as of `image_folders`."""
    entries = sorted(_visible(folder), key=lambda entry: unicodedata.normalize("NFC", entry.name))
    near = [entry for entry in entries if not (entry.is_symlink() and _is_far_link(entry, root, ignored))]
    files = [entry for entry in near if _is_image_file(entry)]
    folders = [entry for entry in near if entry.is_dir()]
    if ignored is not None:
        for entry in near:
            if entry not in files and entry not in folders:
                ignored.append((entry.relative_to(root).as_posix(), _why_not(entry)))
        if not files and not folders and folder != root:
            ignored.append((folder.relative_to(root).as_posix() + "/", "holds no images: the class is left out"))
    if files:
        yield folder, files
    for entry in folders:
        yield from _walk(entry, root, ignored)


def _why_not(entry: Path) -> str:
    """Say why a file is not taken for an image."""
    end = entry.suffix.lower()
    if end in HEIC:
        return "is HEIC: pip install pillow-heif and call pillow_heif.register_heif_opener(), or save it as JPEG"
    return f"has the ending {end}, which no image has" if end else "has no file name ending"


def _is_far_link(link: Path, root: Path, ignored: list[tuple[str, str]] | None) -> bool:
    """Whether a link leads outside, or to a folder, which would duplicate a class or make a cycle.

    Unless it may be left out, that is an `InputError`.
    """
    target = Path(os.path.realpath(link))  # unlike Path.resolve, this does not raise on a link to itself
    if not target.is_dir() and target.is_relative_to(root.resolve()):
        return False
    if ignored is None:
        raise InputError(
            f"{link} is a symbolic link to {link.readlink()}, which is a folder or lies outside {root}: put "
            "a copy in its place or remove it"
        )
    ignored.append((link.relative_to(root).as_posix(), "is a link out of the folder, or to a folder"))
    return True


def _visible(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise InputError(f"cannot list {folder}: {error.strerror}; check its permissions") from error


def _is_image_file(entry: Path) -> bool:
    return entry.suffix.lower() in suffixes() and (entry.is_file() or (entry.is_symlink() and not entry.is_dir()))


def items_of(root: Path, classes: ClassFiles) -> Iterator[Item]:
    """The images of the classes, named by their paths below `root`."""
    for label, files in classes.items():
        for file in files:
            yield Item(label, file.relative_to(root).as_posix(), file)
