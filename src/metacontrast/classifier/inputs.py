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
itself, so that it is read alike in any company.
"""

import logging
import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from metacontrast.data.decode import ImageSource, Item
from metacontrast.data.folder import image_folders
from metacontrast.data.images import first_clash
from metacontrast.errors import InputError
from metacontrast.files import as_path, is_folder

CHANNELS = (1, 3, 4)
SCALARS = (str, bool, int, float)
logger = logging.getLogger("metacontrast")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "y")
IMAGE_COLUMNS = ("image", "img", "pixel_values", "picture", "photo")


def as_numpy(values: Any) -> Any:
    """As a NumPy array what is none but makes one of itself; tensors, lists and all else as they are."""
    is_foreign = hasattr(values, "__array__") and not isinstance(values, np.ndarray | np.generic | torch.Tensor)
    return np.asarray(values) if is_foreign and not isinstance(values, Image.Image) else values


def folder_of(images: Any) -> Path | None:
    """The folder that `images` names, if it names one; an empty name would silently be the current folder."""
    if isinstance(images, str) and not images.strip():
        raise InputError("the name of the images' folder is empty: check the variable that it comes from")
    return as_path(images) if isinstance(images, str | Path) and is_folder(as_path(images)) else None


def dataset_items(images: Any) -> tuple[list[Item], list[Hashable]] | None:
    """The images and labels of a data set; None of anything else.

    The label of a data set with `classes`, or with class names in its `features`, is the name.
    """
    if isinstance(images, str | bytes | Sequence | np.ndarray | torch.Tensor | Mapping | Path | Image.Image):
        return None
    if not (hasattr(images, "__getitem__") and hasattr(images, "__len__")) or not len(images):
        return None
    first = images[0]
    if isinstance(first, Mapping):
        keys = [next((key for key in known if key in first), None) for known in (IMAGE_COLUMNS, LABEL_COLUMNS)]
        if None in keys:
            raise InputError(
                f"the rows of the data set have {', '.join(map(str, first))}, but no image and label: name their "
                "columns 'image' and 'label'"
            )
        names = getattr((getattr(images, "features", None) or {}).get(keys[1]), "names", None)
    elif isinstance(first, tuple) and len(first) == 2:
        keys, names = [0, 1], getattr(images, "classes", None)
    else:
        return None
    rows = [[row[key] for key in keys] for row in (images[number] for number in range(len(images)))]
    return _items([image for image, _ in rows]), [_named_label(label, names) for _, label in rows]


def _named_label(label: Any, names: Sequence[str] | None) -> Hashable:
    if names is not None and isinstance(label, int | np.integer) and not isinstance(label, bool):
        if not 0 <= label < len(names):
            raise InputError(f"a label is {label}, but the data set has {len(names)} classes: repair the data set")
        return names[int(label)]
    return label


def files_below(folder: Path) -> list[Path]:
    """All image files in a folder and below it, in order of their paths; links out of it are left out."""
    ignored: list[tuple[str, str]] = []
    found = [file for files in image_folders(folder, ignored).values() for file in files]
    for name, reason in ignored:
        if "link" in reason:
            logger.warning("%s %s: it is left out", name, reason)
    if not found:
        raise InputError(f"{folder} holds no images (.jpg, .png, ...), nor does a folder below it: check its name")
    return found


def as_items(images: Any) -> list[Item]:
    """One or several images as items without a label."""
    if (folder := folder_of(images)) is not None:
        images = files_below(folder)
    elif isinstance(images, str | Path | bytes | bytearray | Image.Image) or callable(getattr(images, "read", None)):
        images = [images]
    elif (found := dataset_items(images)) is not None:
        return found[0]
    return _items(images)


def _items(images: Any) -> list[Item]:
    if isinstance(images, dict):
        return [Item("", str(name), _source(image, str(name))) for name, image in images.items()]
    numbered = enumerate(_stack(images))
    named = ((str(each) if isinstance(each, str | Path) else f"image {number}", each) for number, each in numbered)
    return [Item("", name, _source(image, name)) for name, image in named]


def _source(image: Any, name: str) -> ImageSource:
    """An image as `decode` takes it, or what a row, an open file or a buffer holds."""
    if isinstance(image, Mapping):
        found = next((image[key] for key in (*IMAGE_COLUMNS, "bytes", "path") if image.get(key) is not None), None)
        if found is None:
            raise InputError(f"{name} is a row with {', '.join(map(str, image))}, but no image: name it 'image'")
        return _source(found, name)
    if isinstance(image, str | Path):
        return as_path(image)
    if isinstance(image, bytes | Image.Image):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    return _content(image, name) if callable(getattr(image, "read", None)) else _pixels(image, name)


def _content(file: Any, name: str) -> bytes:
    """All that an open file holds, from its start where it has one."""
    try:
        if callable(getattr(file, "seek", None)):
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
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if kind not in "buif":
        raise InputError(f"{name} holds {array.dtype}, not numbers: give uint8, or floats between 0 and 1")
    if kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinity: fix or remove the image")
    low, high = array.min(), array.max()
    top = 1 if kind in "bf" else 65535 if array.dtype == np.uint16 else 255
    if low < 0 or high > top:
        raise InputError(f"{name} reaches from {low} to {high}, but {array.dtype} images lie between 0 and {top}")
    return np.rint(array.astype(np.float64) * (255 / top)).astype(np.uint8)


def as_labels(labels: Any, images: int) -> list[Hashable]:
    """The labels as plain Python values, checked: as many as there are images, hashable, none of them NaN."""
    labels = as_numpy(labels)
    if isinstance(labels, str | bytes) or not isinstance(labels, Iterable):
        raise InputError(f"labels must be a list with a label for each image, not {type(labels).__name__}")
    shape = getattr(labels, "shape", None)
    if shape is not None and len(shape) != 1:
        raise InputError(f"labels have shape {tuple(shape)}, but there must be one label for each image")
    to_list = getattr(labels, "tolist", None)
    plain = [as_plain(label) for label in (labels if to_list is None else to_list())]
    if len(plain) != images:
        raise InputError(f"{images} images and {len(plain)} labels: there must be one label for each image")
    for label in plain:
        if not isinstance(label, Hashable):
            raise InputError(f"label {label!r} is a {type(label).__name__}, not hashable: use text or numbers")
        if label is None or label != label:
            raise InputError(f"a label is {label!r}: give every image a label, or leave the image out")
    return plain


def distinct(labels: Sequence[Hashable], least: int = 2) -> list[Hashable]:
    """Each label once, sorted where that is possible, else in order of first appearance; `least` of them or more."""
    found = list(dict.fromkeys(labels))
    _check_clashes([label for label in found if isinstance(label, str)])
    if len(found) < least:
        only = ", ".join(map(repr, found)) or "none"
        raise InputError(
            f"the images are of {len(found)} {'class' if len(found) == 1 else 'classes'} ({only}), but a classifier "
            f"needs at least {least}: add one"
        )
    try:
        return sorted(found)  # type: ignore[type-var]
    except TypeError:
        return found


def as_array(classes: Sequence[Any]) -> NDArray[Any]:
    """The labels as a one-dimensional array: of numbers or text where all are of one such kind, else of objects."""
    kinds = {type(label) for label in classes}
    if len(kinds) == 1 and kinds <= set(SCALARS):
        return np.array(classes)
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


def weighted_mean(values: Sequence[bool], weights: Any = None) -> float:
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


def as_plain(label: Any) -> Any:
    """NumPy's and PyTorch's single numbers as Python's: the latter are equal to nothing but themselves."""
    is_number = isinstance(label, np.generic) or (isinstance(label, torch.Tensor) and label.ndim == 0)
    return label.item() if is_number else label


def _check_clashes(names: Sequence[str]) -> None:
    if clash := first_clash(names):
        raise InputError(f"labels {clash[0]!r} and {clash[1]!r} are the same text to a reader: rename one of them")
