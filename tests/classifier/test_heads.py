"""Ridge and logistic regression as heads: closed forms, balance, exact contributions, and the choice among heads."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from classifier_kit import SIZE, grey_images, tiny_start
from metacontrast import FewShotClassifier
from metacontrast.classifier.candidates import (
    MOST_LOGISTIC,
    PROTOTYPE,
    Candidate,
    Plan,
    make_plan,
)
from metacontrast.classifier.cross_validation import HeldOut, held_out_folds, report
from metacontrast.classifier.starting_point import StartingPoint
from metacontrast.data.image_format import ImageFormat
from metacontrast.errors import InputError
from metacontrast.model.solvers import logistic_head, ridge_heads
from metacontrast.types import Inner

TOLERANCE = 1e-12


def features(images: int, size: int, ways: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.arange(ways), torch.randint(ways, (images - ways,), generator=generator)]).sort().values
    return torch.randn(images, size, generator=generator, dtype=torch.float64) + y[:, None], y


def pixels_start() -> StartingPoint:
    """A frozen encoder that gives the pixels themselves."""
    return StartingPoint.from_encoder(nn.Flatten(), ImageFormat(1, SIZE), feature_size=SIZE * SIZE)


@pytest.mark.parametrize(("images", "size"), [(7, 20), (40, 6)], ids=["few images", "few features"])
def test_ridge_is_scikit_learns_with_balanced_weights(images, size):
    """Guards the closed form, both ways round: scikit-learn's Ridge on one-hot targets, weights a_s, penalty λ m."""
    phi, y = features(images, size)
    a = 1 / (3 * torch.bincount(y)[y].double())
    m = (a @ phi.square().sum(1)).item()
    for strength, head in zip((0.5, 0.01), ridge_heads(phi, y, 3, (0.5, 0.01)), strict=True):
        other = Ridge(alpha=strength * m, solver="svd").fit(phi.numpy(), np.eye(3)[y.numpy()], sample_weight=a.numpy())
        np.testing.assert_allclose(head.weight.numpy(), other.coef_, atol=1e-10)
        np.testing.assert_allclose(head.bias.numpy(), other.intercept_, atol=1e-10)


def test_ridge_of_two_images_by_hand():
    """Features ±1 on a line, m = 1: w = ±1/(2(1 + λ)), b = 1/2."""
    (head,) = ridge_heads(torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([0, 1]), 2, (0.25,))
    assert torch.allclose(head.weight, torch.tensor([[0.4], [-0.4]]).double(), atol=TOLERANCE)
    assert torch.allclose(head.bias, torch.tensor([0.5, 0.5]).double(), atol=TOLERANCE)


@pytest.mark.parametrize("ways", [2, 3])
def test_logistic_regression_is_scikit_learns(ways):
    """Guards the penalty's unit and the two rows of two classes: the same probabilities as scikit-learn's."""
    phi, y = features(12, 4, ways)
    a = 1 / (ways * torch.bincount(y)[y].double())
    m = (a @ phi.square().sum(1)).item()
    other = LogisticRegression(C=1 / (0.1 * m), max_iter=300).fit(phi.numpy(), y.numpy(), sample_weight=a.numpy())
    head = logistic_head(phi, y, ways, 0.1)
    found = (phi @ head.weight.T + head.bias).softmax(1)
    np.testing.assert_allclose(found.numpy(), other.predict_proba(phi.numpy()), atol=1e-10)


@pytest.mark.parametrize("head", ["ridge", "logistic", "prototype", "adapted"])
@pytest.mark.parametrize("classes", [2, 3])
def test_contributions_sum_to_the_difference(head, classes):
    """Guards `explain` for every head: contributions and start sum to the difference; with ridge the start is 0."""
    images, labels = grey_images(classes=classes)
    classifier = FewShotClassifier(pixels_start(), head=head, lr=0.01).fit(images, labels)
    found = classifier.explain(grey_images(classes=classes, seed=3)[0][2])
    assert found.is_exact
    assert found.contributions.sum() + found.start == pytest.approx(found.difference, abs=1e-4)
    if head == "ridge":
        assert abs(found.start) < 1e-4 * np.abs(found.contributions).sum()
    if head == "logistic":
        bias = classifier.state_.fitted.network.bias
        one, other = (classifier.classes_.tolist().index(each) for each in (found.label, found.against))
        assert found.start == pytest.approx((bias[one] - bias[other]).item(), abs=5e-2 * abs(found.difference))


def test_contributions_of_logistic_regression_in_float64():
    """Guards the stationary form: at scikit-learn's optimum the sum over support images is the weight, to its 1e-4."""
    from metacontrast.classifier.explanation import trace
    from metacontrast.model.model import Model
    from metacontrast.types import Head, Params

    phi, y = features(12, 4)
    head = logistic_head(phi, y, 3, 0.1)
    model = Model(nn.Flatten(), 3, 4, "zeroed")
    params = Params({}, Head(head.weight * 0, head.bias * 0))
    found = trace(model, params, phi[:, :, None, None], y, Inner(), Candidate(method="logistic", strength=0.1), head)
    ((coefficients, shown),) = found.parts
    assert (coefficients.T @ shown - head.weight).abs().max() < 1e-3 * head.weight.abs().max()


def test_auto_is_the_head_with_the_least_cross_entropy():
    classifier = FewShotClassifier(pixels_start(), head="auto").fit(*grey_images())
    used = [row for row in classifier.compare_ if row.chosen]
    assert {row.method for row in classifier.compare_} == {"adapted", "prototype", "ridge", "logistic"}
    assert used[0].cross_entropy == min(row.cross_entropy for row in classifier.compare_)


def test_a_frozen_encoder_tries_every_head_and_a_trained_model_its_own():
    """Guards the defaults of `head`: of encoders from elsewhere `auto`, of meta-trained models inner steps, and `auto`
    where the model is chosen too, whatever it is."""
    assert FewShotClassifier(pixels_start()).fit(*grey_images()).state_.plan.head == "auto"
    assert FewShotClassifier(tiny_start()).fit(*grey_images()).state_.plan.head == "adapted"
    assert FewShotClassifier(pixels_start(), steps=3).fit(*grey_images()).state_.plan.head == "adapted"
    assert FewShotClassifier().fit(*grey_images()).state_.plan.head == "auto"
    assert FewShotClassifier(steps=3).fit(*grey_images()).state_.plan.head == "adapted"


def test_a_chosen_meta_trained_model_adapts_where_no_image_can_be_held_out():
    """Black and white images are taken for drawings, which have a meta-trained model."""
    images, labels = grey_images(per_class=1)
    plan = FewShotClassifier().fit(255 * (images > 127).astype(np.uint8), labels).state_.plan
    assert (plan.head, plan.default.method) == ("auto", "adapted")


def test_with_one_image_of_each_class_a_frozen_encoder_takes_ridge():
    images, labels = grey_images(per_class=1)
    classifier = FewShotClassifier(pixels_start()).fit(images, labels)
    assert classifier.state_.fitted.candidate == Candidate(method="ridge", strength=0.03)
    assert classifier.score(images, labels) == 1


def test_logistic_regression_of_many_classes_is_not_tried():
    plan = Plan(Inner(), head="auto")
    assert any(each.method == "logistic" for each in plan.wanted(MOST_LOGISTIC))
    assert not any(each.method == "logistic" for each in plan.wanted(MOST_LOGISTIC + 1))
    assert {each.method for each in Plan(Inner(), head="logistic").wanted(500)} == {"logistic"}


def test_two_names_for_the_head_are_refused():
    wishes = dict.fromkeys(("steps", "lr", "scope", "reject"))
    with pytest.raises(InputError, match="both name the head"):
        make_plan(Inner(), **wishes, folds=5, baseline="prototype", head="ridge")


def test_the_report_gives_every_class_the_same_share():
    """Guards: with 9 of 10 images of one class right and the one of the other wrong, 90 % is 45 % … 50 %."""
    logits = torch.tensor([[1.0, 0.0]] * 10)
    y = torch.tensor([0] * 9 + [1])
    found = HeldOut(logits, y, torch.zeros(10))
    (row,) = report({PROTOTYPE: found}, PROTOTYPE, PROTOTYPE)
    assert (row.accuracy, row.balanced_accuracy) == pytest.approx((0.9, 0.5))


def test_the_difference_is_balanced_and_paired():
    """One image of a class of two gained: +1/2 · 1/2, and the other class, which did not change, adds no width."""
    y = torch.tensor([0, 0, 1, 1])
    right = HeldOut(torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]), y, torch.zeros(4))
    wrong = HeldOut(torch.tensor([[0.0, 1], [1, 0], [0, 1], [0, 1]]), y, torch.zeros(4))
    other = Candidate(0.1, 1)
    rows = {row.method: row for row in report({PROTOTYPE: wrong, other: right}, PROTOTYPE, other)}
    assert rows["adapted"].difference == pytest.approx(0.25)
    assert rows["adapted"].ci95 == pytest.approx(1.96 * (0.25 / 2) ** 0.5 / 2)


def test_enough_held_out_images_are_enough():
    """5 × 500: one fold of 500 images; 5 × 5: all five."""
    for each, expected in ((500, [500]), (5, [5] * 5)):
        held = held_out_folds(torch.arange(5).repeat_interleave(each), np.tile(range(each), 5), 5)
        assert [len(rows) for rows in held] == expected


def test_a_classifier_near_chance_is_said_loudly(caplog):
    """Guards: noise under random labels; the note is in `notes_` and among the warnings."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (20, SIZE, SIZE), dtype=np.uint8)
    classifier = FewShotClassifier(pixels_start(), head="ridge").fit(images, [i % 4 for i in range(20)])
    assert "cannot be told from chance" in classifier.notes_[0]
    assert "cannot be told from chance" in caplog.text
    assert FewShotClassifier(pixels_start()).fit(*grey_images()).notes_ == ()
