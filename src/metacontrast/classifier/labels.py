"""Labels of any hashable kind: the distinct ones in order, and each as a number."""

import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metacontrast.classifier.inputs import as_numpy
from metacontrast.data.images import first_clash
from metacontrast.errors import InputError

SCALARS = (str, bool, int, float)


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
        _check_label(label)
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


def _check_label(label: object) -> None:
    if not isinstance(label, Hashable):
        raise InputError(f"label {label!r} is a {type(label).__name__}, not hashable: use text or numbers")
    if label is None or label != label:
        raise InputError(f"a label is {label!r}: give every image a label, or leave the image out")
