"""Regression tasks: sources for `train` whose labels are numbers. Equal numbers of tasks give equal tasks.

A task's loss is a function of its outputs, `(image, 1)` for a model with `ways=1`, and its labels, `(image,)`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from metacontrast.data.episodes import REGRESSION, RandomStreams, check_seed
from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError, check_counts
from metacontrast.fields import check_fields
from metacontrast.types import Episode


@dataclass(frozen=True)
class SineTasks:
    """Sine waves y = a sin(x + p) on [−5, 5], amplitude a in [0.1, 5] and phase p in [0, π] (Finn et al. 2017).

    Args:
        shots, queries: points of the support and query set.
        seed: random seed; each seed gives another unlimited sequence of tasks.
    """

    shots: int = 10
    queries: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        _check(self)

    def batch(self, indices: Sequence[int]) -> Episode:
        """Draw tasks, inputs `(task, point, 1)` and labels `(task, point)`."""
        streams, points = RandomStreams(self.seed), self.shots + self.queries
        drawn = np.stack([streams.at(index, REGRESSION).random(2 + points) for index in indices])
        numbers = torch.from_numpy(drawn).float()
        amplitude, phase, x = 0.1 + 4.9 * numbers[:, :1], math.pi * numbers[:, 1:2], 10 * numbers[:, 2:] - 5
        return _divided(x[..., None], amplitude * torch.sin(x + phase), self.shots)


@dataclass(frozen=True)
class AngleTasks:
    """Regression of rotation angles: a task has images of one class, each rotated by its own angle.

    Labels are angles in units of the largest one, from −1 to 1, counter-clockwise.

    Args:
        images: upright images; each class needs as many as a task has.
        shots, queries: images of the support and query set.
        largest: the largest angle in degrees.
        seed: random seed; each seed gives another unlimited sequence of tasks.
    """

    images: ClassImages
    shots: int = 5
    queries: int = 10
    largest: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        _check(self)
        if not 0 < self.largest <= 180:
            raise InputError(f"largest={self.largest}, but it must be above 0 and at most 180 degrees")
        needed, fewest = self.shots + self.queries, int(self.images.counts.min())
        if fewest < needed:
            raise InputError(
                f"a class of {self.images.name} has {fewest} images, but shots={self.shots} and queries={self.queries} "
                f"need {needed}: lower one of them"
            )

    def batch(self, indices: Sequence[int]) -> Episode:
        """Draw tasks, images `(task, image, channel, height, width)` and labels `(task, image)`."""
        rows, angles = map(np.stack, zip(*map(self._draw, indices), strict=True))
        device = self.images.images.device
        y = torch.from_numpy(angles).float().to(device)
        pixels = self.images.pixels(torch.from_numpy(rows).to(device))
        return _divided(turn(pixels.flatten(0, 1), self.largest * y.flatten()).view_as(pixels), y, self.shots)

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers and labels of a task."""
        random, count = RandomStreams(self.seed).at(index, REGRESSION), self.shots + self.queries
        number = int(random.integers(len(self.images)))
        rows = int(self.images.starts[number]) + random.choice(self.images.counts[number], count, replace=False)
        return rows, 2 * random.random(count) - 1


def turn(images: Tensor, degrees: Tensor) -> Tensor:
    """Images `(image, channel, height, width)`, each turned counter-clockwise by its angle; what comes in is border.

    >>> turn(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([90.0]))[0, 0].round()
    tensor([[2., 4.],
            [1., 3.]])
    """
    angle = torch.deg2rad(degrees.to(images))
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    aspect = images.shape[-2] / images.shape[-1]  # coordinates run from −1 to 1 along either side
    maps = torch.stack([torch.stack([cos, -sin * aspect, zero], 1), torch.stack([sin / aspect, cos, zero], 1)], 1)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _divided(x: Tensor, y: Tensor, shots: int) -> Episode:
    return Episode(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])


def _check(tasks: SineTasks | AngleTasks) -> None:
    check_counts(shots=tasks.shots, queries=tasks.queries)
    check_seed(tasks.seed)
