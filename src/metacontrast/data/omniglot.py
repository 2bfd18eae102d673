"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each by 20 people.

Lake, Salakhutdinov, Tenenbaum: Human-level concept learning through probabilistic program induction,
Science 2015.

A drawing is a 1-bit PNG of 105 × 105 pixels, ink 0 on paper 1, read as grey 0 to 255 and resized to 28 × 28,
by Pillow's bicubic filter unless told otherwise. The set is read from `images_background` (964 characters)
and `images_evaluation` (659), as zip archives or as folders.

Splits: `default` is that of Vinyals et al. 2016, 1028/172/423 characters for train/val/test. `released` is
1200/423 without validation: the first 1,200 characters, background before evaluation, then the rest. The code
released with the paper took the first 1,200 in the order in which the file system listed them, which differs
from machine to machine; here the order is that of the sorted paths.
"""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

import numpy as np

from metacontrast.data.decode import ClassArrays, ReadOptions, with_variants
from metacontrast.data.images import ClassImages, group_by_class
from metacontrast.data.published import FileTree, check_complete, fetch, find_source, open_tree, pixels, split_list
from metacontrast.errors import InputError, NoSplitError

READER_VERSION = 1
URL = "https://github.com/brendenlake/omniglot/raw/master/python"
MD5 = {"images_background": "68d2efa1b9178cc56df9314c21c6e718", "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811"}
SIDE = 105
DRAWINGS = 20
PARTS = ("images_background", "images_evaluation")
FOLDERS = ("omniglot", "omniglot/python", "omniglot-py", "omniglot-master/python", "python")
SCHEMES = {
    "default": {"train": ("train",), "val": ("val",), "test": ("test",)},
    "released": {"train": ("train", "val"), "test": ("test",)},
}
DIGESTS = {
    "train": "dc68fa4e648a87d802f33185f7b7b83f66ff6170ce5b10ca8f540bd92b96738f",
    "val": "bee4ce7f86f1431cb637f088e908763edd9c9deda28b63415261a762c4031096",
    "test": "3f74d1193bc30a76883fed4c4a21b57edc4e0e2c06a51eed2c70ed5be9d22029",
}
"""SHA-256 of the 105 × 105 grey pixels of every list's drawings, characters and drawings in sorted order."""

Drawings = dict[str, list[tuple[FileTree, str]]]


def sources(root: Path) -> list[Path]:
    """Find the two archives or folders that hold the set."""
    return [find_source("omniglot", root, FOLDERS, part) for part in PARTS]


def read(root: Path, split: str, options: ReadOptions) -> ClassImages:
    """Read one split, verified: every character and drawing is there and every pixel is as published."""
    scheme = SCHEMES[options.split_scheme]
    if split not in scheme:
        raise NoSplitError(
            f"omniglot has no split {split!r} with split_scheme={options.split_scheme!r}, only "
            f"{', '.join(scheme)}: choose one of these"
        )
    with ExitStack() as stack:
        trees = [stack.enter_context(open_tree(path)) for path in sources(root)]
        drawings = drawings_by_character(trees)
        counts = {name: len(drawings.get(name, ())) for names in map(characters, DIGESTS) for name in names}
        check_complete("omniglot", counts, len(counts), DRAWINGS, ("characters", "drawings"), "omniglot")
        by_class = [pair for name in scheme[split] for pair in _read_list(name, drawings, options)]
    by_class.sort(key=lambda pair: pair[0])
    named = [(name.split("/", 1)[1], images) for name, images in by_class]
    return group_by_class(f"omniglot/{split}", with_variants(named, options))


def get(root: Path) -> Path:
    """Fetch both archives from their author's repository into `root/omniglot`; return that folder."""
    for part in PARTS:
        fetch(f"{URL}/{part}.zip", root / "omniglot" / f"{part}.zip", MD5[part])
    return root / "omniglot"


def characters(list_name: str) -> tuple[str, ...]:
    """Return the characters of one published list, such as `images_background/Futurama/character07`."""
    return split_list(f"omniglot_{list_name}")


def drawings_by_character(trees: Sequence[FileTree]) -> Drawings:
    """Locate the drawings of every character, sorted by file name."""
    found: Drawings = {}
    for tree in trees:
        for name in tree.names:
            path = PurePosixPath(name)
            if path.suffix == ".png" and not path.name.startswith("."):
                found.setdefault("/".join(path.parts[-4:-1]), []).append((tree, name))
    return found


def read_characters(names: Sequence[str], drawings: Drawings, options: ReadOptions) -> tuple[ClassArrays, str]:
    """Read the resized drawings of some characters, and the SHA-256 of their pixels before resizing."""
    digest = hashlib.sha256()
    by_class: ClassArrays = []
    for name in names:
        images = [tree.open_image(file, "L", SIDE) for tree, file in drawings[name]]
        for image in images:
            digest.update(image.tobytes())
        resized = [pixels(image, options.image_size or 28, options.resample) for image in images]
        by_class.append((name, np.stack(resized)))
    return by_class, digest.hexdigest()


def _read_list(list_name: str, drawings: Drawings, options: ReadOptions) -> ClassArrays:
    by_class, digest = read_characters(characters(list_name), drawings, options)
    if digest != DIGESTS[list_name]:
        raise InputError(
            f"omniglot: the pixels of the {list_name} characters have SHA-256 {digest[:12]}…, expected "
            f"{DIGESTS[list_name][:12]}…: a file was changed; run `metacontrast data get omniglot`"
        )
    return by_class
