"""Augmentation of tasks by name, the same for a task in every process: its random numbers come from (seed, task).

- `flip`: half of the images are mirrored left to right.
- `crop`: every image is moved by up to an eighth of its side, its border repeated.
- `colour`: contrast by a factor of 0.6 to 1.4 about the image's mean, and brightness by up to 0.4 of the data's
  standard deviation.

Support and query images are augmented alike. Test tasks are never augmented.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast.data.episodes import AUGMENT, RandomStreams
from metacontrast.errors import InputError
from metacontrast.fields import check_fields
from metacontrast.types import Episode

AugmentationName = Literal["flip", "crop", "colour"]
Images = Float[Tensor, "image channel height width"]
Numbers = Float[Tensor, "image 5"]

_LARGEST_SHIFT = 1 / 8
_CONTRAST, _BRIGHTNESS = 0.4, 0.4


@dataclass(frozen=True)
class Augmentation:
    """A transform of a batch of tasks and their numbers.

    Args:
        names: what is done, in this order.
        seed: of the random numbers.
    """

    names: tuple[AugmentationName, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if len(set(self.names)) < len(self.names):
            raise InputError(f"augmentation {','.join(self.names)} names one twice: give each once")

    def __call__(self, episodes: Episode, indices: Sequence[int]) -> Episode:
        """Augment the tasks of these numbers."""
        support = episodes.support_x.shape[1]
        images = torch.cat([episodes.support_x, episodes.query_x], 1)
        streams = RandomStreams(self.seed)
        drawn = np.stack([streams.at(index, AUGMENT).random((images.shape[1], 5)) for index in indices])
        numbers = torch.from_numpy(drawn).to(images.device, images.dtype, non_blocking=True).flatten(0, 1)
        changed = images.flatten(0, 1)
        for name in self.names:
            changed = _APPLY[name](changed, numbers)
        support_x, query_x = changed.unflatten(0, images.shape[:2]).split([support, images.shape[1] - support], 1)
        return episodes._replace(support_x=support_x, query_x=query_x)


def _flip(images: Images, numbers: Numbers) -> Images:
    return torch.where((numbers[:, 0] < 0.5)[:, None, None, None], images.flip(-1), images)


def _crop(images: Images, numbers: Numbers) -> Images:
    moved = images
    for axis, number in ((2, numbers[:, 1]), (3, numbers[:, 2])):
        side = images.shape[axis]
        shift = ((2 * number - 1) * (side * _LARGEST_SHIFT)).round().long()
        places = (torch.arange(side, device=images.device) + shift[:, None]).clamp(0, side - 1)
        shape = [-1, 1, 1, 1]
        shape[axis] = side
        moved = moved.take_along_dim(places.view(shape), axis)
    return moved


def _colour(images: Images, numbers: Numbers) -> Images:
    contrast = 1 + _CONTRAST * (2 * numbers[:, 3] - 1)[:, None, None, None]
    brightness = _BRIGHTNESS * (2 * numbers[:, 4] - 1)[:, None, None, None]
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + contrast * (images - mean) + brightness


_APPLY = {"flip": _flip, "crop": _crop, "colour": _colour}
