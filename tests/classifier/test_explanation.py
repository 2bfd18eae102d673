"""Contributions of support images: they are the logit difference, and for the paper's one step a closed form."""

import numpy as np
import pytest
import torch

from classifier_kit import grey_images, tiny_start
from metacontrast import FewShotClassifier, InputError
from metacontrast.classifier.candidates import PROTOTYPE, Candidate, solve, task_start
from metacontrast.classifier.explanation import contributions, draw_explanation, save_explanation, trace
from metacontrast.classifier.support import make_support
from metacontrast.data.image_format import ImageFormat
from metacontrast.model.model import apply_head
from metacontrast.types import Inner, map_params


def double_task(head: str = "zeroed", drop: int = 0):
    """Model, parameters, support images and labels, and features-to-be of one query, all in float64."""
    start = tiny_start(head="zeroed" if head == "random" else head)
    images, labels = grey_images()
    support = make_support(torch.from_numpy(images[drop:, None]), labels[drop:], [""] * (15 - drop))
    model, params = task_start(start.model, start.params, 3, 5 if head == "random" else None)
    query = torch.from_numpy(grey_images(seed=3)[0][:1, None])
    x, q = (start.images.to_input(t).double() for t in (support.images, query))
    return model, map_params(torch.Tensor.double, params), x, support.y, q


@pytest.mark.parametrize("head", ["zeroed", "shared", "prototype", "random"])
@pytest.mark.parametrize("scope", ["head", "all"])
@pytest.mark.parametrize("candidate", [PROTOTYPE, Candidate(0.4, 1), Candidate(0.1, 4)])
@pytest.mark.parametrize("loss", ["cross_entropy", "mean_square_error"])
def test_contributions_sum_to_the_logit_difference(head, scope, candidate, loss):
    """To 1e-12 in float64, for every pair of classes, unequal classes, any steps, both scopes, both losses."""
    model, params, x, y, q = double_task(head, drop=2)
    inner = Inner(1, 0.4, scope, loss=loss)
    ((_, adapted),) = solve(model, params, x, y, inner, [candidate])
    query = model.query_features(adapted.encoder, x, q)[0]
    logits = apply_head(adapted.head, query[None])[0]
    found = trace(model, params, x, y, inner, candidate)
    for one, other in ((0, 1), (1, 2), (2, 0)):
        parts, coefficients, similarities, start = contributions(found, query, one, other)
        torch.testing.assert_close(parts.sum() + start, logits[one] - logits[other], atol=1e-12, rtol=1e-12)
        if candidate.steps and not found.moved:
            torch.testing.assert_close(coefficients * similarities, parts, atol=1e-12, rtol=1e-12)


def test_one_step_from_a_head_of_zeros_is_the_closed_form():
    """η/|S| (1[y_s = k] − 1/K) (φ(s)ᵀφ(q) + 1), Eq. 9 of the paper with a bias, classes of equal size."""
    model, params, x, y, q = double_task()
    features, query = model.features(params.encoder, x), model.query_features(params.encoder, x, q)[0]
    errors = torch.nn.functional.one_hot(y, 3).double() - 1 / 3
    expected = 0.4 / 15 * (errors[:, 0] - errors[:, 2]) * (features @ query + 1)
    found = trace(model, params, x, y, Inner(1, 0.4, "all"), Candidate(0.4, 1))
    torch.testing.assert_close(contributions(found, query, 0, 2)[0], expected, atol=1e-12, rtol=1e-12)
    assert not found.moved


def test_the_encoder_moves_from_the_second_step_on_only():
    """A head of zeros sends no gradient back; scope `head` never moves the encoder."""
    model, params, x, y, _ = double_task()
    moved = {
        (scope, steps): trace(model, params, x, y, Inner(1, 0.1, scope), Candidate(0.1, steps)).moved
        for scope in ("head", "all")
        for steps in (1, 2)
    }
    assert moved == {("head", 1): False, ("head", 2): False, ("all", 1): False, ("all", 2): True}


@pytest.mark.parametrize(
    ("parameters", "exact"),
    [({}, True), ({"baseline": "prototype"}, True), ({"steps": 3, "scope": "head"}, True), ({"steps": 3}, False)],
)
def test_an_explanation_says_when_it_is_not_the_whole_story(parameters, exact, in_float64):
    classifier = FewShotClassifier(tiny_start(), lr=0.05, **parameters).fit(*grey_images())
    image = grey_images(seed=3)[0][7]
    found = classifier.explain(image)
    assert found.is_exact == exact
    assert found.label == classifier.predict([image])[0]
    assert found.contributions.sum() + found.start == pytest.approx(found.difference, rel=1e-10)
    odds = classifier.predict_proba([image])[0]
    names = classifier.classes_.tolist()
    ratio = np.log(odds[names.index(found.label)] / odds[names.index(found.against)])
    assert found.difference / classifier.temperature_ == pytest.approx(ratio, rel=1e-10)


def test_images_of_the_class_pull_and_those_of_the_other_push():
    """For the baseline's own images: mean contribution above 0 for the answer's class, below for the rival's."""
    classifier = FewShotClassifier(tiny_start()).fit(*grey_images())
    found = classifier.explain(grey_images()[0][0])
    by_label = {label: found.contributions[[x == label for x in found.labels]].mean() for label in set(found.labels)}
    assert by_label[found.label] > by_label[found.against]
    assert abs(found.contributions[found.strongest(1)[0]]) == np.abs(found.contributions).max()


def test_the_picture_shows_the_persons_own_polarity(tmp_path):
    classifier = FewShotClassifier(tiny_start()).fit(*grey_images())
    image = grey_images(seed=3)[0][7]
    found, pixels = classifier.explain(image), torch.from_numpy(image[None])
    figure = draw_explanation(classifier.state_, found, pixels, count=4)
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(shown) == 5
    np.testing.assert_array_equal(shown[0], image)
    path = save_explanation(classifier.state_, found, pixels, tmp_path / "why.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_classifier_draws_what_it_explains():
    classifier = FewShotClassifier(tiny_start()).fit(*grey_images())
    figure = classifier.draw_explanation(grey_images(seed=3)[0][7], count=3)
    assert len([axes for axes in figure.axes if axes.images]) == 4


def test_inverted_models_see_inverted_images():
    form = ImageFormat(1, 4, invert=True)
    black = np.zeros((4, 4), np.uint8)
    from metacontrast.classifier.inputs import as_items

    assert form.read(as_items([black]))[1].unique().tolist() == [255]


def test_a_random_head_is_drawn_from_its_seed_and_adds_what_no_image_did(tmp_path):
    """`start` is what the head adds before any step; the same seed is the same classifier, also from its folder."""
    images, labels = grey_images()
    query = grey_images(seed=3)[0][0]
    zero, one, again, other = (
        FewShotClassifier(tiny_start(), scope="head", random_head=seed).fit(images, labels) for seed in (None, 1, 1, 2)
    )
    assert zero.explain(query).start == 0
    assert one.explain(query).start != 0
    assert np.array_equal(one.predict_proba([query]), again.predict_proba([query]))
    assert not np.allclose(one.predict_proba([query]), other.predict_proba([query]))
    one.save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path)
    assert loaded.random_head == 1
    assert loaded.explain(query).start == one.explain(query).start
    for wrong in (-1, 1.5, "1", True, 2**63):
        with pytest.raises(InputError, match="random_head"):
            FewShotClassifier(tiny_start(), random_head=wrong).fit(images, labels)


def test_an_explainer_explains_as_explain_does_and_names_come_from_a_dict():
    """Images by name: messages and explanations call them so."""
    images, labels = grey_images()
    named = {f"photo {k}": image for k, image in enumerate(images)}
    classifier = FewShotClassifier(tiny_start()).fit(named, labels)
    one, two = classifier.explainer()(images[0]), classifier.explain(images[0])
    assert np.array_equal(one.contributions, two.contributions)
    assert sorted(one.names) == sorted(named)
    with pytest.raises(InputError, match="photo x"):
        classifier.predict({"photo x": b"no image"})
