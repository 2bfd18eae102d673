"""Seeded random access to few-shot tasks: `sampler[i]` is task i of a seed, always the same one, in any order.

Task i is drawn from its own counter-based generator, keyed by (seed, i), so that processes and workers need
no common state and a run can be taken up at any task.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError, check_counts
from metacontrast.fields import check_fields, no_type_check
from metacontrast.types import Episode

Labels = Literal["fresh", "bound", "bound-uneven", "bound-tuples"]

_DRAW, _RELABEL, _ORDER, AUGMENT, _SIZE, REGRESSION = range(6)
"""Purposes of random numbers; each has a stream of its own."""


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
        seed: random seed; each seed gives another unlimited sequence of tasks.
        labels: which class may get which label.
            `fresh`: any class any label.
            `bound`: label t always means one of the classes tL to (t+1)L − 1, L = classes // ways (the paper's
            non-mutually-exclusive tasks; remaining classes are not used).
            `bound-uneven`: the same with all classes, the first slots one larger (released miniImageNet code).
            `bound-tuples`: the classes cW to cW + W − 1 in this order for a random c (released Omniglot code).
        pool_size: None draws new tasks; N draws N tasks once and reuses them in shuffled epochs; 1 is one fixed
            task.
        relabel: permute a task's labels each time that it is used, support and query together.
        least_ways, least_shots: with them every block of tasks has a size of its own, drawn evenly from these to `ways`
            and `shots`.
        block: how many tasks in a row have one size: as many as an update has.
        unequal_shots: share the ways · shots support images of a task out among its classes at random, each at least
            one, by the rule of Meta-Dataset (Triantafillou et al. 2020): in proportion to e^α times the class's number
            of images, α uniform in [log ½, log 2], rounded so that the total stays.
    """

    images: ClassImages
    ways: int
    shots: int
    queries: int
    seed: int = 0
    labels: Labels = "fresh"
    pool_size: int | None = None
    relabel: bool = False
    least_ways: int | None = None
    least_shots: int | None = None
    block: int = 1
    unequal_shots: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        _check_sizes(self)
        _check_varied(self)
        _check_classes(self)

    def __getitem__(self, index: int) -> Episode:
        """Return task number `index`, 0 or more."""
        return Episode(*(part[0] for part in self.batch([index])))

    def batch(self, indices: Sequence[int]) -> Episode:
        """Draw tasks, stacked along a leading axis, on the device where the images lie.

        Where sizes are drawn they must be tasks of one block.
        """
        device = self.images.images.device
        rows = (torch.from_numpy(each).to(device, non_blocking=True) for each in self._rows(indices))
        support, support_y, query, query_y = rows
        pixels = self.images.pixels(torch.cat([support.flatten(), query.flatten()]))
        support_x, query_x = pixels.split([support.numel(), query.numel()])
        tasks = (len(indices), -1)
        return Episode(support_x.unflatten(0, tasks), support_y, query_x.unflatten(0, tasks), query_y)

    def rows(self, index: int) -> EpisodeRows:
        """Return task number `index` as row numbers, sorted by label as drawn."""
        return EpisodeRows(*(part[0] for part in self._rows([index])))

    def ways_at(self, index: int) -> int:
        """Return the number of classes of task number `index`."""
        return self._of_size(index // self.block).ways

    def _of_size(self, block: int) -> "EpisodeSampler":
        """Return the sampler of a block's tasks, whose size is fixed."""
        if self.least_ways is None and self.least_shots is None:
            return self
        random = RandomStreams(self.seed).at(block, _SIZE)
        ways = int(random.integers(self.least_ways or self.ways, self.ways + 1))
        shots = int(random.integers(self.least_shots or self.shots, self.shots + 1))
        return replace(self, ways=ways, shots=shots, least_ways=None, least_shots=None)

    def _rows(self, indices: Sequence[int]) -> EpisodeRows:
        """Return row numbers and labels of tasks, `(task, image)`."""
        check_indices(indices)
        blocks = {index // self.block for index in indices}
        sized = self._of_size(min(blocks))
        if sized is not self:
            if len(blocks) > 1:
                raise InputError(
                    f"tasks {min(indices)} to {max(indices)} have sizes of their own every {self.block}: ask for tasks "
                    "of one block at a time, or leave out least_ways and least_shots"
                )
            return sized._rows(indices)
        random = RandomStreams(self.seed)
        drawn = [self._draw(random.at(self._task_number(index), _DRAW)) for index in indices]
        classes, places, shots = map(np.stack, zip(*drawn, strict=True))
        rows = self.images.starts.numpy()[classes][..., None] + places
        labels = np.tile(np.arange(self.ways), (len(indices), 1))
        if self.relabel:
            labels = np.stack([random.at(index, _RELABEL).permutation(self.ways) for index in indices])
        place, tasks = np.arange(rows.shape[2]), (len(indices), -1)
        in_support = place < shots[..., None]
        in_query = ~in_support & (place < shots[..., None] + self.queries)
        every = np.broadcast_to(labels[..., None], rows.shape)
        chosen = (each[where].reshape(tasks) for where in (in_support, in_query) for each in (rows, every))
        return EpisodeRows(*chosen)

    def _task_number(self, index: int) -> int:
        if self.pool_size is None:
            return index
        epoch, position = divmod(index, self.pool_size)
        return int(_order_of_epoch(self.seed, epoch, self.pool_size)[position])

    def _draw(self, random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Draw a task's classes, images of each, support first, and the number of support images of each."""
        classes = self._draw_classes(random)
        shots, most = np.full(self.ways, self.shots), self.shots
        if self.unequal_shots:
            shots, most = self._draw_shots(random, classes), self.ways * (self.shots - 1) + 1
        places = np.zeros((self.ways, most + self.queries), np.int64)
        for row, number, count in zip(places, classes.tolist(), (shots + self.queries).tolist(), strict=True):
            row[:count] = random.choice(self._counts[number], count, replace=False)
        return classes, places, shots

    def _draw_shots(self, random: np.random.Generator, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Divide the ways · shots support images by Meta-Dataset's rule, as far as the classes' images reach."""
        counts = np.array(self._counts)[classes]
        shares = np.exp(random.uniform(-np.log(2), np.log(2), self.ways)) * counts
        shots, total = np.ones(self.ways, np.int64), self.ways * self.shots
        while shots.sum() < total:
            has_more = shots < counts - self.queries
            shots[np.argmax(np.where(has_more, shares / shots, -1))] += 1
        return shots

    def _draw_classes(self, random: np.random.Generator) -> NDArray[np.int64]:
        classes = len(self.images)
        match self.labels:
            case "fresh":
                return random.choice(classes, self.ways, replace=False)
            case "bound-tuples":
                return random.integers(classes // self.ways) * self.ways + np.arange(self.ways)
            case "bound":
                size = classes // self.ways
                return np.arange(self.ways) * size + random.integers(size, size=self.ways)
            case "bound-uneven":
                return np.array([random.choice(slot) for slot in self._slots])

    @cached_property
    def _counts(self) -> list[int]:
        return self.images.counts.tolist()

    @cached_property
    def _slots(self) -> list[NDArray[np.int64]]:
        return np.array_split(np.arange(len(self.images)), self.ways)


class RandomStreams:
    """Random generators of one seed, by number and purpose; each invalidates the one before it.

    Setting the state of one generator is four times as fast as making a new one.
    """

    def __init__(self, seed: int):
        self._bits = np.random.Philox(key=[seed, 0])
        self._generator = np.random.Generator(self._bits)
        self._start = self._bits.state

    def at(self, number: int, purpose: int) -> np.random.Generator:
        """Return the equivalent of `Generator(Philox(key=[seed, number], counter=[0, 0, 0, purpose]))`."""
        self._start["state"]["key"][1] = number
        self._start["state"]["counter"][3] = purpose
        self._bits.state = self._start
        return self._generator


@lru_cache(maxsize=4)
def _order_of_epoch(seed: int, epoch: int, pool_size: int) -> NDArray[np.int64]:
    """Return the order in which an epoch takes the tasks of a pool."""
    return RandomStreams(seed).at(epoch, _ORDER).permutation(pool_size)


@no_type_check
def check_indices(indices: Sequence[int]) -> None:
    """Raise `IndexError` unless these are numbers of tasks, at least one."""
    if not len(indices):
        raise IndexError("no tasks were asked for: give at least one number")
    for index in indices:
        if not hasattr(index, "__index__") or index < 0:
            raise IndexError(f"tasks are counted 0, 1, 2, …: there is none of number {index!r}")


def check_seed(seed: int) -> None:
    """Raise `InputError` unless random streams can have this seed."""
    if not 0 <= seed < 2**63:
        raise InputError(f"seed={seed}, but it must be 0 or more and below 2**63")


def _check_sizes(sampler: EpisodeSampler) -> None:
    check_counts(2, ways=sampler.ways)
    check_counts(shots=sampler.shots, queries=sampler.queries, block=sampler.block)
    if sampler.pool_size is not None and sampler.pool_size < 1:
        raise InputError(f"pool_size={sampler.pool_size}, but it must be 1 or more, or left out for fresh tasks")
    check_seed(sampler.seed)
    if sampler.relabel and sampler.labels != "fresh":
        raise InputError(f"labels={sampler.labels!r} binds labels to classes: relabel cannot permute them")


def _check_varied(sampler: EpisodeSampler) -> None:
    """Raise `InputError` for drawn sizes that no task can have, or that contradict another option."""
    for name, least, most in (("least_ways", 2, sampler.ways), ("least_shots", 1, sampler.shots)):
        value = getattr(sampler, name)
        if value is not None and not least <= value <= most:
            raise InputError(f"{name}={value}, but it must be {least} to {most}, the largest size")
    if sampler.least_ways is None and sampler.least_shots is None:
        return
    if sampler.labels != "fresh" or sampler.pool_size is not None:
        option = f"pool_size={sampler.pool_size}" if sampler.labels == "fresh" else f"labels={sampler.labels!r}"
        raise InputError(f"{option} cannot have tasks of several sizes: leave it out, or give one size")


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


@dataclass(frozen=True)
class BalancedBatches:
    """Class-balanced batches of images, each an `Episode` with an empty support set.

    A batch has as many classes as there are, or as give two images each; a class has one image more than another where
    the size does not divide. Labels are the numbers of the classes in `images`.

    Args:
        images: where the batches are drawn from.
        size: images of a batch.
        seed: random seed; each seed gives another unlimited sequence of batches.
    """

    images: ClassImages
    size: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_seed(self.seed)
        if self.size < 4 or len(self.images) < 2:
            raise InputError(
                f"size={self.size} and {len(self.images)} classes make no batch of two classes with two images each"
            )
        most = int(self._shares.max())
        if (few := np.flatnonzero(self.images.counts < most)).size:
            name, count = self.images.classes[few[0]], self.images.counts[few[0]]
            raise InputError(
                f"class {name!r} has {count} images, but a batch of {self.size} takes {most}: make batches smaller, "
                "by --queries, --shots or --ways"
            )

    def batch(self, indices: Sequence[int]) -> Episode:
        """Draw batches, stacked along a leading axis, on the device where the images lie."""
        check_indices(indices)
        drawn = [self._draw(RandomStreams(self.seed).at(index, _DRAW)) for index in indices]
        device = self.images.images.device
        rows, labels = (torch.from_numpy(np.stack(each)).to(device) for each in zip(*drawn, strict=True))
        pixels = self.images.pixels(rows)
        return Episode(pixels[:, :0], labels[:, :0], pixels, labels)

    @property
    def _shares(self) -> NDArray[np.int64]:
        """How many images each class of a batch has."""
        classes = min(len(self.images), self.size // 2)
        return np.full(classes, self.size // classes) + (np.arange(classes) < self.size % classes)

    def _draw(self, random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row numbers and labels of a batch."""
        shares, starts, counts = self._shares, self.images.starts.numpy(), self.images.counts
        classes = random.choice(len(self.images), len(shares), replace=False)
        rows = [
            starts[c] + random.choice(counts[c], share, replace=False) for c, share in zip(classes, shares, strict=True)
        ]
        return np.concatenate(rows), np.repeat(classes, shares)
