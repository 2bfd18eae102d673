"""Seeded random access to few-shot tasks: `sampler[i]` is task i of a seed, whoever asks, in whatever order.

Task i is drawn from its own counter-based generator, keyed by (seed, i), so that processes and workers need
no common state and a run can be taken up at any task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError
from metacontrast.types import Episode

Labels = Literal["fresh", "bound", "bound-uneven", "bound-tuples"]

_DRAW, _RELABEL, _ORDER = range(3)


class EpisodeRows(NamedTuple):
    """A task as row numbers into `ClassImages.images`, with a label for each."""

    support: NDArray[np.int64]
    support_y: NDArray[np.int64]
    query: NDArray[np.int64]
    query_y: NDArray[np.int64]


@dataclass(frozen=True)
class EpisodeSampler:
    """Tasks of `ways` classes with `shots` support and `queries` query images per class, no image in both.

    Args:
        images: where the tasks are drawn from.
        ways, shots, queries: classes per task, support and query images per class.
        seed: another seed is another endless list of tasks.
        labels: which class may get which label.
            `fresh`: any class any label.
            `bound`: label t always means one of the classes tL to (t+1)L, L = classes // ways (the paper's
            non-mutually-exclusive tasks; classes left over are not used).
            `bound-uneven`: the same with all classes, the first slots one larger (released miniImageNet code).
            `bound-tuples`: the classes cW to cW + W − 1 in this order for a random c (released Omniglot code).
        pool_size: None draws every task anew; N draws N tasks once and reuses them in shuffled epochs; 1 is one fixed
            task.
        relabel: permute a task's labels each time that it is used, support and query together.
    """

    images: ClassImages
    ways: int
    shots: int
    queries: int
    seed: int = 0
    labels: Labels = "fresh"
    pool_size: int | None = None
    relabel: bool = False

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_classes(self)

    def __getitem__(self, index: int) -> Episode:
        """Task number `index`, 0 or more."""
        if index < 0:
            raise IndexError(f"tasks are counted from 0, not {index}")
        return Episode(*(part[0] for part in self.batch([index])))

    def batch(self, indices: Sequence[int]) -> Episode:
        """These tasks, stacked along a leading axis, on the device where the images lie."""
        tasks = [self.rows(index) for index in indices]
        support, support_y, query, query_y = (self._stack(part) for part in zip(*tasks, strict=True))
        return Episode(self.images.pixels(support), support_y, self.images.pixels(query), query_y)

    def rows(self, index: int) -> EpisodeRows:
        """Task number `index` as row numbers, sorted by label as drawn."""
        task = self._draw(self._task_number(index))
        if not self.relabel:
            return task
        new_label = self._generator(index, _RELABEL).permutation(self.ways)
        return task._replace(support_y=new_label[task.support_y], query_y=new_label[task.query_y])

    def _stack(self, parts: Sequence[NDArray[np.int64]]) -> Int[Tensor, "task image"]:
        return torch.from_numpy(np.stack(parts)).to(self.images.images.device, non_blocking=True)

    def _generator(self, number: int, purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed, number], counter=[0, 0, 0, purpose]))

    def _task_number(self, index: int) -> int:
        if self.pool_size is None:
            return index
        epoch, position = divmod(index, self.pool_size)
        return int(self._generator(epoch, _ORDER).permutation(self.pool_size)[position])

    def _draw(self, number: int) -> EpisodeRows:
        generator = self._generator(number, _DRAW)
        per_class = self.shots + self.queries
        starts, counts = self._borders
        rows = np.stack(
            [starts[c] + generator.choice(counts[c], per_class, replace=False) for c in self._draw_classes(generator)]
        )
        label = np.arange(self.ways)
        return EpisodeRows(
            rows[:, : self.shots].ravel(),
            label.repeat(self.shots),
            rows[:, self.shots :].ravel(),
            label.repeat(self.queries),
        )

    @property
    def _borders(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.images.starts.numpy(), self.images.counts

    def _draw_classes(self, generator: np.random.Generator) -> NDArray[np.int64]:
        classes = len(self.images)
        match self.labels:
            case "fresh":
                return generator.choice(classes, self.ways, replace=False)
            case "bound-tuples":
                return generator.integers(classes // self.ways) * self.ways + np.arange(self.ways)
            case "bound":
                size = classes // self.ways
                return np.arange(self.ways) * size + generator.integers(size, size=self.ways)
            case "bound-uneven":
                slots = np.array_split(np.arange(classes), self.ways)
                return np.array([generator.choice(slot) for slot in slots])


def _check_sizes(sampler: EpisodeSampler) -> None:
    for name, least in (("ways", 2), ("shots", 1), ("queries", 1)):
        if (value := getattr(sampler, name)) < least:
            raise InputError(f"{name}={value}, but it must be {least} or more")
    if sampler.pool_size is not None and sampler.pool_size < 1:
        raise InputError(f"pool_size={sampler.pool_size}, but it must be 1 or more, or left out for fresh tasks")
    if not 0 <= sampler.seed < 2**63:
        raise InputError(f"seed={sampler.seed}, but it must be 0 or more and below 2**63")
    if sampler.relabel and sampler.labels != "fresh":
        raise InputError(f"labels={sampler.labels!r} binds labels to classes: relabel cannot permute them")


def _check_classes(sampler: EpisodeSampler) -> None:
    images, ways = sampler.images, sampler.ways
    if len(images) < ways:
        raise InputError(f"{images.name} has {len(images)} classes, but ways={ways}: lower it or add classes")
    needed = sampler.shots + sampler.queries
    few = np.flatnonzero(images.counts < needed)
    if len(few):
        others = f" (and {len(few) - 1} more classes have too few)" if len(few) > 1 else ""
        raise InputError(
            f"class {images.classes[few[0]]!r} of {images.name} has {images.counts[few[0]]} images{others}, but "
            f"shots={sampler.shots} and queries={sampler.queries} need {needed}: lower one of them or drop the class"
        )
