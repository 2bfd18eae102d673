"""miniImageNet: 100 classes of ImageNet, 600 photographs each, split 64/16/20, read as 84 × 84 RGB.

Vinyals et al.: Matching networks for one shot learning, NeurIPS 2016; the split is that of Ravi and
Larochelle: Optimization as a model for few-shot learning, ICLR 2017. ImageNet's terms forbid passing the
images on, so there is nothing to fetch: the set is read in whichever of the layouts of
`mini_imagenet_layouts` it lies in the folder, and must be complete. Images are resized bilinearly without
keeping their aspect, and shown with ImageNet's mean and standard deviation.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from metacontrast.data.folder import IMAGENET_MEAN, IMAGENET_STD
from metacontrast.data.gather import enumerate_some, gather
from metacontrast.data.images import ClassImages, group_by_class
from metacontrast.data.mini_imagenet_layouts import LAYOUTS, Layout
from metacontrast.data.options import ReadOptions
from metacontrast.data.split_lists import split_list
from metacontrast.data.variants import with_variants
from metacontrast.errors import InputError

READER_VERSION = 1
IMAGES = 600
SPLITS = ("train", "val", "test")
FOLDERS = ("", "mini-imagenet", "miniImagenet", "mini_imagenet", "miniimagenet")


def read(root: Path, split: str, options: ReadOptions) -> ClassImages:
    """One split, verified by counts: exactly its published classes are there, with 600 images each."""
    where = f"mini-imagenet/{split}"
    expected = class_names(split)
    found = locate(root, split)
    if found is None:
        raise InputError(_not_found(root, split))
    layout, files = found
    listing = layout.open(files, split)
    check_complete(f"{where} in {files[0].parent}", listing.counts, expected)
    by_class = dict(gather(where, listing.items, "RGB", options))
    ordered = [(name, by_class[name]) for name in expected if name in by_class]
    return group_by_class(where, with_variants(ordered, options), mean=IMAGENET_MEAN, std=IMAGENET_STD)


def sources(root: Path, options: ReadOptions) -> list[Path]:
    """The files, or folders of files, of all splits that are there."""
    found = [locate(root, split) for split in SPLITS]
    files = [file for place in found if place for file in place[1] if file.exists()]
    if not files:
        raise InputError(_not_found(root, "train"))
    return list(dict.fromkeys(files))


def class_names(split: str) -> tuple[str, ...]:
    """The published classes of a split, as WordNet identifiers in sorted order."""
    if split not in SPLITS:
        raise InputError(f"mini-imagenet has no split {split!r}, only {', '.join(SPLITS)}")
    return split_list(f"mini_imagenet_{split}")


def locate(root: Path, split: str) -> tuple[Layout, list[Path]] | None:
    """The first layout that holds the split, with its files, in `root` or a folder named after the set."""
    for folder in FOLDERS:
        for layout in LAYOUTS:
            if files := layout.find(root / folder, split):
                return layout, files
    return None


def check_complete(where: str, counts: Mapping[str, int], expected: Sequence[str]) -> None:
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
