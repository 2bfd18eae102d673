"""Anything that people call an image, as the 8-bit pixels that `decode` takes, and labels of any hashable kind.

- a path, the bytes of a file, an open file, or a PIL image: any size and mode;
- a NumPy array `(height, width)` or `(height, width, channel)`, whatever NumPy makes one of, or a tensor
  `(channel, height, width)`;
- several: a list that may mix all of these, an array `(image, height, width[, channel])`, a tensor with a leading axis;
- several by name: a dict of these;
- a column of a table, or a table of one column, with any of these;
- a data set: pairs `(image, label)` as torchvision has them, or rows with image and label as Hugging Face has them;
- a folder: the images in it and below it.

Whole numbers lie between 0 and 255 (65535 in arrays of 16 bits), floats between 0 and 1; each image is judged by
itself, so that it is read alike in any company. What counts is the order in which images are given: an index is not
looked at.
"""

import logging
import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from metacontrast.data.decode import ImageSource, Item, UnreadableImage, quiet
from metacontrast.data.folder import image_folders
from metacontrast.data.images import as_numpy, as_plain, first_clash, in_order
from metacontrast.errors import InputError
from metacontrast.files import as_path, is_folder

CHANNELS = (1, 3, 4)
SCALARS = (str, bool, int, float)
logger = logging.getLogger("metacontrast")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "y")
IMAGE_COLUMNS = ("image", "img", "pixel_values", "picture", "photo")


def folder_of(images: Any) -> Path | None:
    """The folder that `images` names, if it names one; an empty name would silently be the current folder."""
    if isinstance(images, str) and not images.strip():
        raise InputError("the name of the images' folder is empty: check the variable that it comes from")
    return as_path(images) if isinstance(images, str | Path) and is_folder(as_path(images)) else None


def dataset_items(images: Any) -> tuple[list[Item], list[Hashable]] | None:
    """The images and labels of a data set; None of anything else, and `InputError` where it has no labels.

    The label of a data set with `classes`, or with class names in its `features`, is the name; also in a part of one,
    such as `torch.utils.data.Subset`.
    """
    if (first := _first_row(images)) is None:
        return None
    if isinstance(first, Mapping):
        key = next((key for key in LABEL_COLUMNS if key in first), None)
        if key is None:
            raise InputError(
                f"the rows of the data set have {', '.join(map(str, first))}, but no label: name that column 'label'"
            )
        names = getattr((getattr(images, "features", None) or {}).get(key), "names", None)
    else:
        key, whole = None, images
        while not hasattr(whole, "classes") and hasattr(whole, "dataset"):
            whole = whole.dataset
        names = getattr(whole, "classes", None)
    items, labels = [], []
    for number, row in enumerate(_rows(images)):
        image, label = (row, row.get(key)) if isinstance(row, Mapping) else row
        items.append(_item(number, image, is_held=False))
        labels.append(_named_label(as_plain(label), names))
    return items, labels


def _first_row(images: Any) -> Any:
    """The first row of a data set: a pair of image and label, or a mapping with an image; None of anything else."""
    if isinstance(images, str | bytes | Sequence | np.ndarray | torch.Tensor | Mapping | Path | Image.Image):
        return None
    if not (hasattr(images, "__getitem__") and hasattr(images, "__len__")) or getattr(images, "ndim", 1) != 1:
        return None
    first = next(_rows(images), None)
    return first if isinstance(first, Mapping) or (isinstance(first, tuple) and len(first) == 2) else None


def _rows(images: Any) -> Iterator[Any]:
    """The rows by position, in their order: to a column of a table, `images[0]` is the row that is labelled 0."""
    return islice(iter(images), len(images))


def _named_label(label: Any, names: Sequence[str] | None) -> Hashable:
    if names is not None and isinstance(label, int) and not isinstance(label, bool):
        if not 0 <= label < len(names):
            raise InputError(f"a label is {label}, but the data set has {len(names)} classes: repair the data set")
        return names[label]
    return label


def files_below(folder: Path) -> list[Path]:
    """All image files in a folder and below it, in order of their paths.

    What may well be an image and is left out is told: links out of the folder, HEIC, and files without an ending.
    """
    ignored: list[tuple[str, str]] = []
    found = sorted(file for files in image_folders(folder, ignored).values() for file in files)
    told: dict[str, list[str]] = {}
    for name, reason in ignored:
        if any(word in reason for word in ("link", "HEIC", "no file name ending")):
            told.setdefault(reason, []).append(name)
    left_out = [
        f"{names[0]} {reason}" + (f" ({len(names) - 1} more like it)" if names[1:] else "")
        for reason, names in told.items()
    ]
    if not found:
        hint = left_out[0] if left_out else "check its name"
        raise InputError(f"{folder} holds no images (.jpg, .png, ...), nor does a folder below it: {hint}")
    for line in left_out:
        logger.warning("%s: left out", line)
    return found


def as_items(images: Any) -> list[Item]:
    """One or several images as items without a label."""
    if (folder := folder_of(images)) is not None:
        images = files_below(folder)
    elif isinstance(images, str | Path | bytes | bytearray | Image.Image) or callable(getattr(images, "read", None)):
        images = [images]
    elif _first_row(images) is not None:
        shown = (row[0] if isinstance(row, tuple) else row for row in _rows(images))
        return [_item(number, image, is_held=False) for number, image in enumerate(shown)]
    elif isinstance(images, Mapping):
        named = ((str(name), image) for name, image in images.items())
        return _checked([Item("", name, _source(_image_of(image, name), name)) for name, image in named])
    stack = _stack(images)
    is_held = isinstance(stack, list | tuple | np.ndarray | torch.Tensor)
    return _checked([_item(number, image, is_held=is_held) for number, image in enumerate(stack)])


def _item(number: int, image: Any, *, is_held: bool) -> Item:
    """An image, or a row with one, as an item.

    Args:
        is_held: it is held by a list or an array. What an iterator gives is copied: the next may be in its place.
    """
    image = _image_of(image, f"image {number}")
    name = str(image) if isinstance(image, str | Path) else f"image {number}"
    source = _source(image, name)
    return Item("", name, source if is_held else _copied(source, name))


def _image_of(row: Any, name: str) -> Any:
    """What a row has as its image; anything else as it is."""
    if not isinstance(row, Mapping):
        return row
    found = next((row[key] for key in (*IMAGE_COLUMNS, "bytes", "path") if row.get(key) is not None), None)
    if found is None:
        raise InputError(f"{name} is a row with {', '.join(map(str, row))}, but no image: name it 'image'")
    return _image_of(found, name)


def _source(image: Any, name: str) -> ImageSource:
    """An image as `decode` takes it, or what an open file or a buffer holds."""
    if isinstance(image, str | Path):
        return as_path(image)
    if isinstance(image, bytes | Image.Image):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    return _content(image, name) if callable(getattr(image, "read", None)) else _pixels(image, name)


def _copied(source: ImageSource, name: str) -> ImageSource:
    """A copy of what may change when its iterator goes on; not of a file that was opened only, if it has one frame."""
    if isinstance(source, np.ndarray):
        return source.copy()
    if not isinstance(source, Image.Image):
        return source
    if getattr(source, "tile", None) and not _is_animation(source):
        return source
    try:
        with quiet():
            upright = ImageOps.exif_transpose(source)  # a copy would forget the orientation of some formats
    except Exception as error:  # as below
        raise UnreadableImage(name, f"cannot be read ({error})") from error
    upright.format = source.format
    return upright


def _is_animation(image: Image.Image) -> bool:
    """Whether an open image has further frames that can be read."""
    try:
        with quiet():
            return getattr(image, "is_animated", False)
    except Exception:  # on damaged files Pillow's readers raise nearly anything
        return False


def _checked(items: list[Item]) -> list[Item]:
    """The items; `InputError` where two of them are one open animation, which is at one frame for both."""
    first: dict[int, Item] = {}
    for item in items:
        other = first.setdefault(id(item.source), item)
        if other is not item and isinstance(item.source, Image.Image) and _is_animation(item.source):
            raise InputError(
                f"{other.name} and {item.name} are one open animation, which is at one frame at a time: give copies "
                "of its frames, frame.copy()"
            )
    return items


def _content(file: Any, name: str) -> bytes:
    """All that an open file holds, from its start where it has one."""
    try:
        if callable(getattr(file, "seek", None)) and getattr(file, "seekable", lambda: True)():
            file.seek(0)
        content = file.read()
    except (OSError, ValueError) as error:
        raise InputError(f"{name} is a file that cannot be read ({error}): open it again") from error
    if not isinstance(content, bytes):
        raise InputError(f"{name} is a file opened as text: open it with mode 'rb'")
    return content


def _stack(images: Any) -> Iterable[Any]:
    """The images of a stack one by one, after a check that it is a stack."""
    images = as_numpy(images)
    if isinstance(images, torch.Tensor):
        _check_stack(tuple(images.shape), (4,), is_one=images.ndim in (2, 3))
    elif isinstance(images, np.ndarray) and (images.dtype == object or (images.dtype.kind == "U" and images.ndim < 3)):
        images = images[:, 0] if images.ndim == 2 and images.shape[1] == 1 else images
        _check_stack(tuple(images.shape), (1,), is_one=False)
    elif isinstance(images, np.ndarray):
        _check_stack(tuple(images.shape), (3, 4), is_one=images.ndim == 3 and images.shape[-1] in (3, 4))
    elif isinstance(images, set | frozenset):
        raise InputError("images are a set, which has no order for answers or labels to follow: give a list")
    elif not isinstance(images, Iterable):
        raise InputError(f"images must be a folder or a list of images, not {type(images).__name__}: put it in a list")
    return images


def _check_stack(shape: tuple[int, ...], axes: tuple[int, ...], *, is_one: bool) -> None:
    if is_one:
        raise InputError(f"shape {shape} looks like one image: put it in a list, predict([image])")
    if len(shape) not in axes:
        raise InputError(
            f"shape {shape} is not a stack of images: give a NumPy array (image, height, width[, channel]), a tensor "
            "(image, channel, height, width) or a list"
        )


def _pixels(image: Any, name: str) -> NDArray[np.uint8]:
    """An array or tensor as uint8 `(height, width)` or `(height, width, channel)`."""
    image = as_numpy(image)
    if isinstance(image, torch.Tensor):
        image = image.float() if image.dtype == torch.bfloat16 else image  # NumPy has no bfloat16
        array, is_tensor = image.detach().cpu().numpy(), True
    elif isinstance(image, np.ndarray):
        array, is_tensor = image, False
    else:
        raise InputError(f"{name} is a {type(image).__name__}: give a path, bytes, a PIL image, an array or a tensor")
    return _to_8_bits(_channels_last(array, name, is_tensor), name)


def _channels_last(array: np.ndarray, name: str, is_tensor: bool) -> np.ndarray:
    if array.ndim == 2 and array.size:
        return array
    if array.ndim == 3 and array.size:
        for axis in (0, 2) if is_tensor else (2, 0):
            if array.shape[axis] in CHANNELS:
                last = np.moveaxis(array, axis, 2)
                return last[..., 0] if last.shape[2] == 1 else last
    raise InputError(
        f"{name} has shape {array.shape}, but an image is (height, width), (height, width, channel) or, as a tensor, "
        "(channel, height, width) with 1, 3 or 4 channels"
    )


def _to_8_bits(array: np.ndarray, name: str) -> NDArray[np.uint8]:
    kind, number = array.dtype.kind, array.dtype.name  # the name is the same in either order of bytes
    if number == "uint8":
        return np.ascontiguousarray(array)
    if kind not in "buif":
        raise InputError(f"{name} holds {array.dtype}, not numbers: give uint8, or floats between 0 and 1")
    if kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinity: fix or remove the image")
    low, high = array.min(), array.max()
    top = 1 if kind in "bf" else 65535 if number == "uint16" else 255
    if low < 0 or high > top:
        raise InputError(f"{name} reaches from {low} to {high}, but {number} images lie between 0 and {top}")
    return np.rint(array.astype(np.float64) * (255 / top)).astype(np.uint8)


def distinct(labels: Sequence[Hashable], least: int = 2) -> list[Hashable]:
    """Each label once, in the order of `in_order`; `least` of them or more."""
    found = in_order(labels)
    _check_clashes([label for label in found if isinstance(label, str)])
    if len(found) < least:
        only = ", ".join(map(repr, found)) or "none"
        raise InputError(
            f"the images are of {len(found)} {'class' if len(found) == 1 else 'classes'} ({only}), but a classifier "
            f"needs at least {least}: add one"
        )
    return found


def as_array(classes: Sequence[Any]) -> NDArray[Any]:
    """The labels as a one-dimensional array: of numbers or text where all are of one such kind, else of objects.

    Objects too where NumPy would change a label: integers beyond 64 bits, and text that ends with NUL.
    """
    kinds = {type(label) for label in classes}
    if len(kinds) == 1 and kinds <= set(SCALARS):
        array = np.array(classes)
        if array.tolist() == list(classes) and {type(label) for label in array.tolist()} == kinds:
            return array
    array = np.empty(len(classes), dtype=object)
    array[:] = classes
    return array


def composed(names: Sequence[str]) -> list[Hashable]:
    """Folder names in Unicode's composed form; two that become one are an `InputError`."""
    _check_clashes(list(dict.fromkeys(names)))
    return [unicodedata.normalize("NFC", name) for name in names]


def check_reject_label(label: Any, classes: Sequence[Hashable]) -> Hashable:
    """What a refused image is called, as a plain value; `InputError` where that is a class's label."""
    plain = as_plain(label)
    if not isinstance(plain, Hashable) or plain in classes:
        raise InputError(f"reject_label={plain!r} is a class's label or not hashable: name one that no class has")
    return plain


def weighted_mean(values: Sequence[Any], weights: Any = None) -> float:
    """The mean; `InputError` unless the weights are as many finite numbers, none below 0 and not all of them 0."""
    if weights is None:
        return float(np.mean(values))
    try:
        found = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"sample_weight is not numeric ({error}): give one number for each image") from error
    if found.shape != (len(values),):
        raise InputError(
            f"sample_weight has shape {found.shape}, but there are {len(values)} images: give one for each"
        )
    if not np.isfinite(found).all() or found.min() < 0 or found.sum() == 0:
        raise InputError("sample_weight must be finite, 0 or more, and not 0 everywhere")
    return float(np.average(values, weights=found))


def to_json(label: Hashable) -> Any:
    """A label as JSON has it, a tuple as a list; an `InputError` for what JSON has not.

    >>> from_json(to_json(("left", (1, 2.5))))
    ('left', (1, 2.5))
    """
    label = as_plain(label)
    if type(label) is tuple:
        return [to_json(part) for part in label]
    if type(label) not in SCALARS:
        raise InputError(
            f"label {label!r} is a {type(label).__name__}, which cannot be written to a file: use text, numbers or "
            "tuples of them as labels"
        )
    return label


def from_json(label: Any) -> Hashable:
    """The label that `to_json` wrote."""
    return tuple(map(from_json, label)) if isinstance(label, list) else label


def _check_clashes(names: Sequence[str]) -> None:
    if clash := first_clash(names):
        raise InputError(f"labels {clash[0]!r} and {clash[1]!r} are the same text to a reader: rename one of them")
