"""What a model file says of its model beside the configuration: how long it was trained, and on which images."""

import math
from typing import Any, NamedTuple

from metacontrast.data.catalog import LARGEST_SIZE
from metacontrast.errors import InputError


class ModelFacts(NamedTuple):
    """Facts that a model cannot be used without.

    Args:
        updates: outer updates behind it.
        image_shape: channels, height and width of its images.
        mean, std: normalization of its images.
    """

    updates: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def model_facts(facts: dict[str, Any], where: str) -> ModelFacts:
    """The facts that the file `where` holds; `InputError` names what is missing or cannot be."""
    if missing := set(ModelFacts._fields) - set(facts):
        raise InputError(f"{where} lacks {', '.join(sorted(missing))}: it is damaged or not from here")
    found = {name: facts[name] for name in ModelFacts._fields}
    for name, value in found.items():
        if not _FITS[name](value):
            raise InputError(f"{where} has {name}={value!r}, which no model has: it is damaged or not from here")
    channels, height, width = found["image_shape"]
    mean, std = tuple(found["mean"]), tuple(found["std"])
    if not {len(mean), len(std)} <= {1, channels}:
        raise InputError(f"{where} has mean and std for other than {channels} channels: it is damaged or not from here")
    return ModelFacts(found["updates"], (channels, height, width), mean, std)


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= LARGEST_SIZE


def _are_per_channel(value: Any) -> bool:
    is_list = isinstance(value, list) and len(value) > 0
    return is_list and all(type(v) in (int, float) and math.isfinite(v) for v in value)


_FITS = {
    "updates": lambda value: type(value) is int and value >= 0,
    "image_shape": lambda value: isinstance(value, list) and len(value) == 3 and all(map(_is_size, value)),
    "mean": _are_per_channel,
    "std": lambda value: _are_per_channel(value) and min(value) > 0,
}
