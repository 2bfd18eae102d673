"""Prediction sets, refusals and calibration, on simulated images whose distribution is known."""

import numpy as np
import pytest
import torch

from classifier_kit import grey_images, tiny_start
from metacontrast import FewShotClassifier
from metacontrast.classifier.confidence import prediction_set, set_threshold
from metacontrast.classifier.cross_validation import similarity
from metacontrast.errors import InputError


@pytest.mark.parametrize("coverage", [0.8, 0.9])
@pytest.mark.parametrize("held_out", [19, 49])
def test_sets_cover_as_often_as_they_say(coverage, held_out):
    """Guards the order statistic: of exchangeable images the next true class is in its set with probability
    ⌈(n + 1) coverage⌉ / (n + 1) exactly; 4,000 draws have a standard error of 0.7 points at most, 4 are allowed.
    """
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(4000, held_out + 1, generator=generator, dtype=torch.float64)
    covered = [row[-1].item() >= set_threshold(row[:-1], coverage) for row in draws]
    expected = 1 - int((1 - coverage) * (held_out + 1) + 1e-9) / (held_out + 1)
    assert np.mean(covered) == pytest.approx(expected, abs=4 * 0.007)


def test_a_set_always_holds_the_most_probable_class():
    assert prediction_set([0.4, 0.3, 0.3], 0.5) == [0]
    assert prediction_set([0.9, 0.05, 0.05], 0.5) == [0]
    assert prediction_set([0.35, 0.4, 0.25], 0.3) == [1, 0]


def test_the_threshold_is_a_held_out_probability_in_full():
    """Guards float64: a class of just that probability belongs to the set; rounded to float32 it might not."""
    classifier = FewShotClassifier(tiny_start()).fit(*grey_images())
    held_out = classifier.state_.fitted.true_probabilities
    thresholds = {classifier.set_threshold(1 - j / (len(held_out) + 1)) for j in range(1, len(held_out) + 1)}
    assert thresholds == set(held_out)


def test_the_classifiers_sets_hold_its_answers_and_cover_new_images(tmp_path):
    """Guards `predict_set` on held-out images, before and after saving: 90 % asked, 300 new images."""
    images, labels = grey_images(classes=4, per_class=12)
    noise = np.random.default_rng(7)
    classifier = FewShotClassifier(tiny_start()).fit(noisy(images, noise), labels)
    new, truth = grey_images(classes=4, per_class=75, seed=9)
    new = noisy(new, noise)
    sets = classifier.predict_set(new, 0.9)
    assert np.mean([label in found for label, found in zip(truth, sets, strict=True)]) > 0.85
    assert [found[0] for found in sets] == classifier.predict(new).tolist()
    classifier.save(tmp_path)
    assert FewShotClassifier.load(tmp_path).predict_set(new[:20], 0.9) == sets[:20]


def noisy(images, generator):
    return np.clip(images + generator.normal(0, 60, images.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("per_class", "coverage", "part"),
    [
        (1, 0.9, "need 9 images"),
        (5, 0.99, "need 99 images"),
        (5, 1.0, "between 0 and 1"),
        (5, "high", "between 0 and 1"),
    ],
)
def test_sets_that_cannot_be_made_are_refused(per_class, coverage, part):
    classifier = FewShotClassifier(tiny_start()).fit(*grey_images(per_class=per_class))
    with pytest.raises(InputError, match=part):
        classifier.predict_set(grey_images()[0], coverage)


def test_similarity_is_seen_from_the_centre():
    """A common part of all features, however large, changes nothing."""
    generator = torch.Generator().manual_seed(0)
    phi, means = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (4, 3))
    shift = torch.full((5,), 100.0, dtype=torch.float64)
    one = similarity(phi, means, means.mean(0))
    other = similarity(phi + shift, means + shift, (means + shift).mean(0))
    torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-10)
    assert similarity(means, means, means.mean(0)).tolist() == pytest.approx([1, 1, 1])
