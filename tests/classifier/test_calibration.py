"""Temperature, refusal and folds, each against what defines it."""

import math

import numpy as np
import pytest
import torch

from classifier_kit import grey_images, tiny_start
from metacontrast import FewShotClassifier
from metacontrast.classifier.confidence import cross_entropy, fit_temperature, rejection_threshold
from metacontrast.classifier.cross_validation import held_out_folds, ranks_of
from metacontrast.classifier.support import make_support
from metacontrast.errors import InputError
from metacontrast.model.solvers import balanced_weights


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_temperature_has_the_least_cross_entropy():
    """Against its neighbours and a wide grid."""
    logits = 3 * normal(40, 5)
    y = (logits + 3 * normal(40, 5, seed=1)).argmax(1)
    found = fit_temperature(logits, y)
    least = cross_entropy(logits, y, found)
    for factor in (1e-3, 0.1, 0.5, 0.99, 1.01, 2, 10, 1e3):
        assert cross_entropy(logits, y, factor * found) > least


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_temperature_scales_with_the_logits(scale):
    logits, y = normal(30, 4), torch.arange(30) % 4
    logits[range(30), y] += 1
    assert fit_temperature(scale * logits, y) == pytest.approx(scale * fit_temperature(logits, y), rel=1e-9)


def test_all_right_is_not_certainty():
    """n right answers of equal logits are given Platt's probability (n + 1)/(n + 2)."""
    logits = torch.tensor([[7.0, 0.0]]).repeat(10, 1)
    p = (logits / fit_temperature(logits, torch.zeros(10, dtype=torch.long))).softmax(1)
    assert p[0, 0].item() == pytest.approx(11 / 12, rel=1e-5)


def test_equal_logits_have_any_temperature():
    assert fit_temperature(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])) == 1.0


@pytest.mark.parametrize(("rate", "count"), [(0.1, 19), (0.05, 60), (0.5, 3)])
def test_known_images_are_refused_at_most_at_the_rate(rate, count):
    """Over 4,000 draws of scores and one more: the share refused is at most the rate, within three standard errors."""
    rng = np.random.default_rng(0)
    draws = torch.from_numpy(rng.normal(size=(4000, count + 1)))
    refused = np.mean([bool(row[-1] < rejection_threshold(row[:-1], rate)) for row in draws])
    assert refused <= rate + 3 * math.sqrt(rate * (1 - rate) / 4000)
    assert refused >= rate - 1 / (count + 1) - 3 * math.sqrt(rate / 4000)


def test_a_rate_finer_than_the_images_is_refused_with_their_number():
    with pytest.raises(InputError, match=r"needs 99 images.*there are 10.*above 0.091"):
        rejection_threshold(torch.arange(10.0), 0.01)
    assert rejection_threshold(torch.arange(99.0), 0.01) == 0


def test_every_image_that_has_company_is_held_out_once():
    y = torch.tensor([0] * 7 + [1] + [2] * 3 + [3] * 2)
    for folds in (2, 5, 20):
        held = held_out_folds(y, ranks_of(y, range(13)), folds)
        assert sorted(np.concatenate(held).tolist()) == [row for row in range(13) if row != 7]
        for rows in held:
            assert set(range(4)) <= set(np.delete(y.numpy(), rows).tolist())


def test_with_one_image_a_class_or_no_folds_nothing_is_held_out():
    assert held_out_folds(torch.arange(5), np.zeros(5, int), 5) == []
    assert held_out_folds(torch.tensor([0, 0, 1, 1]), np.array([0, 1, 0, 1]), 0) == []


def test_equal_counts_leave_one_of_each_class_out():
    held = held_out_folds(torch.arange(4).repeat_interleave(3), np.tile(range(3), 4), 5)
    assert [len(rows) for rows in held] == [4, 4, 4]


def test_copies_of_an_image_are_held_out_together():
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    ranks = ranks_of(y, "aabbabcaaa")
    assert ranks.tolist() == [0, 0, 1, 1, 0, 1, 2, 0, 0, 0]
    assert [rows.tolist() for rows in held_out_folds(y, ranks, 5)] == [[0, 1, 4, 7], [2, 3, 5], [6]]


def test_copies_do_not_make_noise_look_learned():
    """Guards: every image of noise given twice; from its copy each would be right."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 28, 28), np.uint8)
    labels = ["a", "b"] * 12
    once = FewShotClassifier("omniglot-conv4", head="prototype").fit(noise, labels)
    twice = FewShotClassifier("omniglot-conv4", head="prototype").fit([*noise, *noise], labels + labels)
    assert twice.compare_[0].accuracy == once.compare_[0].accuracy < 0.8
    assert twice.temperature_ == pytest.approx(once.temperature_)
    assert twice.compare_[0].images == once.compare_[0].images
    assert twice.notes_[0].startswith("24 of 48 images are copies of others of their class")


def test_copies_do_not_buy_a_guarantee():
    """Guards: 15 held-out images cannot promise 95 %, and giving them twice tells nothing new."""
    images, labels = grey_images()
    classifier = FewShotClassifier(tiny_start()).fit([*images, *images], [*labels, *labels])
    with pytest.raises(InputError, match="there are 15"):
        classifier.set_threshold(0.95)


def test_weights_are_equal_by_class_and_sum_to_one():
    weights = balanced_weights(torch.tensor([2, 0, 0, 1, 0, 2]), torch.float64)
    assert weights.sum().item() == pytest.approx(1)
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 9, 1 / 9, 1 / 3, 1 / 9, 1 / 6])


def test_a_support_set_is_sorted_by_class_and_content():
    images = torch.randint(0, 255, (4, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one = make_support(images, ["b", "a", "b", "a"], list("wxyz"))
    other = make_support(images[[3, 1, 0, 2]], ["a", "a", "b", "b"], list("zxwy"))
    assert torch.equal(one.images, other.images)
    assert (one.names, one.classes, one.labels) == (other.names, ("a", "b"), ["a", "a", "b", "b"])
