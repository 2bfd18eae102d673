"""Ridge and logistic regression as heads: closed forms, balance, exact contributions, and the choice among heads."""

from dataclasses import replace

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
from metacontrast.classifier.choice import _best, fit_notes, installed
from metacontrast.classifier.confidence import cross_entropy, fit_temperature
from metacontrast.classifier.cross_validation import HeldOut, cross_validate, held_out_folds, report
from metacontrast.classifier.fitted import task_of
from metacontrast.classifier.starting_point import StartingPoint
from metacontrast.classifier.support import make_support
from metacontrast.data.image_format import ImageFormat
from metacontrast.errors import InputError
from metacontrast.maml.inner import adapt
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


def test_every_class_has_the_same_share_in_temperature_and_cross_entropy():
    """Nine answers of one class, two of them wrong, and one of another: the one counts as much as the nine."""
    y = torch.tensor([0] * 9 + [1])
    margins = torch.tensor([3.0, 2, 4, 3, 2, 3, 2, -1, -0.5, 1])
    logits = margins[:, None] * torch.eye(2)[y]
    found = HeldOut(logits, y, torch.zeros(10))
    shares = torch.tensor([1 / 18] * 9 + [1 / 2], dtype=torch.float64)
    assert found.temperature == pytest.approx(fit_temperature(logits, y, shares))
    assert found.cross_entropy == pytest.approx(cross_entropy(logits, y, found.temperature, shares))
    assert found.temperature != pytest.approx(fit_temperature(logits, y), rel=1e-2)
    assert found.cross_entropy != pytest.approx(cross_entropy(logits, y, found.temperature), rel=1e-2)


@pytest.mark.parametrize("scope", ["head", "all"])
def test_held_out_images_have_no_part_in_the_answers_to_each_other(scope):
    """Statistics of batch norm are those of the rest: against adapting to it and asking about one image alone."""
    start = tiny_start()
    images, labels = grey_images(2, 4)
    support = make_support(torch.from_numpy(images)[:, None], labels, labels)
    model, params, x = task_of(start, support)
    inner, way = replace(start.inner, scope=scope), Candidate(start.inner.lr, 1)
    found = cross_validate(model, params, x, support.y, support.ranks, inner, [way], 2)[way]
    rows = held_out_folds(support.y, support.ranks, 2)
    expected = []
    for held in rows:
        rest = np.setdiff1d(np.arange(len(x)), held)
        adapted = adapt(model, params, x[rest], support.y[rest], replace(inner, steps=1))
        expected += [model.query_logits(adapted, x[rest], x[[row]]) for row in held]
    torch.testing.assert_close(found.logits, torch.cat(expected).detach(), rtol=1e-3, atol=1e-4)


def losses(*values: float) -> HeldOut:
    """Answers of one class of two whose cross entropies are these, at temperature 1."""
    right = torch.tensor([-value for value in values]).exp()
    logits, zeros = torch.stack([right, 1 - right], 1).log(), torch.zeros(len(values))
    return HeldOut(logits, zeros.long(), zeros)


def test_another_model_is_chosen_only_where_it_is_better_by_a_standard_error(monkeypatch):
    """Gains of mean 0.1 with deviations of 0.01, and of 1: only the first can be told from none."""
    monkeypatch.setattr(HeldOut, "temperature", 1.0)
    favourite = [0.5, 0.6, 0.7, 0.4, 0.5, 0.6]
    surely = [each - gain for each, gain in zip(favourite, (0.09, 0.11, 0.1, 0.1, 0.11, 0.09), strict=True)]
    hardly = [each - gain for each, gain in zip(favourite, (0.4, -0.6, 0.6, 0.3, -0.5, 0.4), strict=True)]
    assert _best({"a": losses(*favourite), "b": losses(*surely)}, "a") == "b"
    assert _best({"a": losses(*favourite), "b": losses(*hardly)}, "a") == "a"
    assert _best({"a": losses(*favourite), "b": losses(*surely)}, "b") == "b"


def test_a_classifier_below_the_nearest_class_mean_is_told_so():
    """Only where the interval of the difference lies below 0."""
    y = torch.arange(2).repeat(30)
    good = HeldOut(2 * torch.eye(2)[y], y, torch.zeros(60))
    for wrong, told in ((2, False), (12, True)):
        logits = good.logits.clone()
        logits[:wrong] = logits[:wrong].flip(1)
        scores = report(
            {PROTOTYPE: good, Candidate(0.1, 1): HeldOut(logits, y, torch.zeros(60))}, PROTOTYPE, Candidate(0.1, 1)
        )
        state = FewShotClassifier(tiny_start()).fit(*grey_images(2, 4)).state_
        notes = fit_notes(replace(state, fitted=replace(state.fitted, scores=scores)))
        assert any("below the nearest class mean" in note for note in notes) == told


def test_a_temperature_is_that_of_the_steps_and_scope_that_it_was_measured_with():
    start = replace(tiny_start(), temperatures={"adapted": 0.5, "prototype": 80.0})
    own = Candidate(start.inner.lr, start.inner.steps)
    assert start.temperature(own, start.inner.scope, 5) == 0.5
    assert start.temperature(own, "head" if start.inner.scope == "all" else "all", 5) == 1
    assert start.temperature(replace(own, steps=own.steps + 1), start.inner.scope, 5) == 1
    assert start.temperature(PROTOTYPE, "head", 5) == 80


def test_one_class_alone_begins_with_the_model_that_its_look_suggests():
    """Coloured noise is no drawing."""
    noise = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    begun = FewShotClassifier("auto").partial_fit(noise, ["a", "a"])
    assert begun._begun.name == installed()[0] != "omniglot-conv4"


def test_what_looks_like_photographs_without_an_encoder_for_them_is_told(monkeypatch, caplog):
    monkeypatch.setattr("metacontrast.classifier.choice.pretrained_names", lambda: ["cifar-fs-conv4", "omniglot-conv4"])
    noise = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    FewShotClassifier("auto").partial_fit(noise, ["a", "a"])
    assert "pip install 'metacontrast[photos]'" in caplog.text
    caplog.clear()
    FewShotClassifier("auto").partial_fit((noise > 200).any(-1) * np.uint8(255), ["a", "a"])
    assert not caplog.text
