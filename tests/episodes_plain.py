"""The draws of `EpisodeSampler`, one task and one class at a time: slow and obvious."""

import numpy as np

from metacontrast.data.episodes import EpisodeSampler

_DRAW, _RELABEL, _ORDER = range(3)


def rows(sampler: EpisodeSampler, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Support rows, their labels, query rows, their labels."""
    number = index
    if sampler.pool_size is not None:
        epoch, position = divmod(index, sampler.pool_size)
        number = int(generator(sampler, epoch, _ORDER).permutation(sampler.pool_size)[position])
    random = generator(sampler, number, _DRAW)
    support, query = [], []
    for c in classes(sampler, random):
        begin, end = sampler.images.starts[c : c + 2].tolist()
        picked = begin + random.choice(end - begin, sampler.shots + sampler.queries, replace=False)
        support.append(picked[: sampler.shots])
        query.append(picked[sampler.shots :])
    label = np.arange(sampler.ways)
    if sampler.relabel:
        label = generator(sampler, index, _RELABEL).permutation(sampler.ways)
    labels = label.repeat(sampler.shots), label.repeat(sampler.queries)
    return np.concatenate(support), labels[0], np.concatenate(query), labels[1]


def generator(sampler: EpisodeSampler, number: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[sampler.seed, number], counter=[0, 0, 0, purpose]))


def classes(sampler: EpisodeSampler, random: np.random.Generator) -> np.ndarray:
    total, ways = len(sampler.images), sampler.ways
    size = total // ways
    if sampler.labels == "bound":
        return np.arange(ways) * size + random.integers(size, size=ways)
    if sampler.labels == "bound-tuples":
        return random.integers(size) * ways + np.arange(ways)
    if sampler.labels == "bound-uneven":
        return np.array([random.choice(slot) for slot in np.array_split(np.arange(total), ways)])
    return random.choice(total, ways, replace=False)
