"""Episodes: seeded, random access, disjoint, labelled as asked."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import episodes_plain
from metacontrast.data.episodes import EpisodeSampler
from metacontrast.errors import InputError
from toy_images import numbered_images

IMAGES = numbered_images([20, 6, 9, 20, 7, 20, 20, 20, 20, 20, 20, 20])


def class_of(rows: np.ndarray) -> np.ndarray:
    return np.searchsorted(IMAGES.starts.numpy(), rows, side="right") - 1


@given(
    seed=st.integers(0, 2**63 - 1),
    index=st.integers(0, 2**40),
    ways=st.integers(2, 12),
    shots=st.integers(1, 3),
    queries=st.integers(1, 3),
)
def test_every_task_has_its_classes_its_counts_and_no_image_twice(seed, index, ways, shots, queries):
    """The definition of a few-shot task, for any sizes."""
    rows = EpisodeSampler(IMAGES, ways, shots, queries, seed=seed).rows(index)
    everything = np.concatenate([rows.support, rows.query])
    assert len(set(everything)) == ways * (shots + queries)
    by_label = {label: set(class_of(rows.support[rows.support_y == label])) for label in range(ways)}
    assert all(len(classes) == 1 for classes in by_label.values())
    assert len(set.union(*by_label.values())) == ways
    for label in range(ways):
        assert set(class_of(rows.query[rows.query_y == label])) == by_label[label]
        assert (rows.support_y == label).sum() == shots
        assert (rows.query_y == label).sum() == queries


def test_a_task_is_the_same_whoever_asks_and_in_whatever_order():
    sampler = EpisodeSampler(IMAGES, 3, 1, 2, seed=4)
    forward = [sampler.rows(i).query.tolist() for i in range(20)]
    again = EpisodeSampler(IMAGES, 3, 1, 2, seed=4)
    backward = [again.rows(i).query.tolist() for i in reversed(range(20))][::-1]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        elsewhere = list(pool.map(rows_of_task, range(20)))
    assert forward == backward == elsewhere
    assert len({tuple(rows) for rows in forward}) == 20


@given(
    seed=st.integers(0, 2**63 - 1),
    first=st.integers(0, 2**40),
    ways=st.integers(2, 6),
    shots=st.integers(1, 3),
    queries=st.integers(1, 3),
    pool_size=st.sampled_from([None, 1, 7]),
    labels_and_relabel=st.sampled_from(
        [("fresh", False), ("fresh", True), ("bound", False), ("bound-uneven", False), ("bound-tuples", False)]
    ),
)
def test_a_batch_is_drawn_as_one_task_and_one_class_at_a_time(
    seed, first, ways, shots, queries, pool_size, labels_and_relabel
):
    """To the last bit, for every kind of task: committed results name the seeds that they were made with."""
    labels, relabel = labels_and_relabel
    sampler = EpisodeSampler(IMAGES, ways, shots, queries, seed, labels, pool_size, relabel)
    indices = range(first, first + 4)
    batch = sampler.batch(indices)
    for place, index in enumerate(indices):
        expected = episodes_plain.rows(sampler, index)
        assert all(map(np.array_equal, sampler.rows(index), expected))
        support, support_y, query, query_y = map(torch.from_numpy, expected)
        assert torch.equal(batch.support_y[place], support_y)
        assert torch.equal(batch.query_y[place], query_y)
        assert torch.equal(batch.support_x[place], IMAGES.images[support] / 255)
        assert torch.equal(batch.query_x[place], IMAGES.images[query] / 255)


def rows_of_task(index: int) -> list[int]:
    return EpisodeSampler(IMAGES, 3, 1, 2, seed=4).rows(index).query.tolist()


def test_another_seed_is_another_list_of_tasks():
    one, two = (EpisodeSampler(IMAGES, 3, 1, 2, seed=s) for s in (0, 1))
    assert all(one.rows(i).query.tolist() != two.rows(i).query.tolist() for i in range(20))


def test_episode_pixels_are_those_of_its_rows():
    sampler = EpisodeSampler(IMAGES, 3, 2, 2)
    episode, rows = sampler[5], sampler.rows(5)
    assert episode.support_x.shape == (6, 1, 4, 4)
    assert torch.equal(
        (episode.support_x[:, 0, 0, 0] * 255).round().int(), torch.from_numpy(class_of(rows.support)).int()
    )
    batch = sampler.batch([4, 5])
    assert torch.equal(batch.query_x[1], episode.query_x)
    assert torch.equal(batch.query_y[1], episode.query_y)


def test_every_class_and_every_image_comes_up_equally_often():
    """Frequencies over 3,000 tasks stay within five standard deviations of uniform."""
    sampler = EpisodeSampler(IMAGES, 3, 1, 1)
    rows = np.concatenate([sampler.rows(i).support for i in range(3000)])
    classes = np.bincount(class_of(rows), minlength=12)
    assert np.abs(classes - 750).max() < 5 * np.sqrt(3000 * 0.25 * 0.75)
    first = rows[class_of(rows) == 0]
    assert np.abs(np.bincount(first, minlength=20) - len(first) / 20).max() < 5 * np.sqrt(len(first) / 20)


@pytest.mark.parametrize(
    ("labels", "allowed"),
    [
        ("bound", [{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}]),
        ("bound-tuples", [{0, 3, 6, 9}, {1, 4, 7, 10}, {2, 5, 8, 11}]),
    ],
)
def test_bound_labels_mean_the_same_classes_in_every_task(labels, allowed):
    """The non-mutually-exclusive setting: a label's classes never change, and all of them are used."""
    sampler = EpisodeSampler(IMAGES, 3, 1, 1, labels=labels)
    seen = [set(), set(), set()]
    for index in range(200):
        rows = sampler.rows(index)
        classes = class_of(rows.support)
        for label, c in zip(rows.support_y, classes, strict=True):
            seen[label].add(int(c))
        if labels == "bound-tuples":
            assert np.array_equal(np.diff(classes), [1, 1])
    assert seen == allowed


def test_uneven_slots_use_every_class():
    """64 classes over 5 labels are 13, 13, 13, 13 and 12, as the released miniImageNet code has it."""
    images = numbered_images([2] * 64)
    sampler = EpisodeSampler(images, 5, 1, 1, labels="bound-uneven")
    seen = [set() for _ in range(5)]
    for index in range(1500):
        for label, row in enumerate(sampler.rows(index).support):
            seen[label].add(int(row) // 2)
    assert [len(s) for s in seen] == [13, 13, 13, 13, 12]
    assert [min(s) for s in seen] == [0, 13, 26, 39, 52]


def test_a_pool_is_reused_in_shuffled_epochs():
    """Each epoch holds every task of the pool once, in another order."""
    sampler = EpisodeSampler(IMAGES, 3, 1, 1, pool_size=10)
    epochs = [[tuple(sampler.rows(10 * e + i).query) for i in range(10)] for e in range(3)]
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert len(set(epochs[0])) == 10
    assert epochs[0] != epochs[1] != epochs[2]


def test_relabelling_permutes_support_and_query_together():
    """One fixed task under fresh labels: the images stay, the class-to-label map changes (Fig. 2)."""
    sampler = EpisodeSampler(IMAGES, 3, 1, 2, pool_size=1, relabel=True)
    maps = set()
    for index in range(60):
        rows = sampler.rows(index)
        assert rows.support.tolist() == sampler.rows(0).support.tolist()
        label_of = dict(zip(class_of(rows.support), rows.support_y, strict=True))
        assert all(label_of[c] == y for c, y in zip(class_of(rows.query), rows.query_y, strict=True))
        maps.add(tuple(rows.support_y))
    assert len(maps) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ways": 13}, "numbered has 12 classes, but ways=13"),
        ({"ways": 1}, "ways=1, but it must be 2 or more"),
        ({"shots": 0}, "shots=0, but it must be 1 or more"),
        ({"queries": -3}, "queries=-3, but it must be 1 or more"),
        ({"pool_size": 0}, "pool_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"labels": "bound", "relabel": True}, "binds labels to classes"),
        ({"shots": 2, "queries": 5}, "class 'class1' of numbered has 6 images, but shots=2 and queries=5 need 7"),
        ({"shots": 3, "queries": 5}, r"has 6 images \(and 1 more classes have too few\)"),
    ],
)
def test_impossible_tasks_are_refused_by_name_and_number(arguments, message):
    with pytest.raises(InputError, match=message):
        EpisodeSampler(IMAGES, **{"ways": 3, "shots": 1, "queries": 1} | arguments)


def test_tasks_are_counted_from_zero():
    with pytest.raises(IndexError):
        EpisodeSampler(IMAGES, 3, 1, 1)[-1]


@pytest.mark.parametrize("indices", [[], [-1], [0, -1], [1.5]])
def test_numbers_of_no_task_are_refused(indices, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for those who check no types
    tasks = EpisodeSampler(IMAGES, 3, 1, 2)
    with pytest.raises(IndexError, match=r"no tasks were asked for|there is none of number"):
        tasks.batch(indices)
