"""Spectrum, similarity maps and label orders, each against a second computation."""

from itertools import permutations
from statistics import median

import pytest
import torch

from explained_tasks import small_model, tasks
from metacontrast import theory
from metacontrast.diagnostics.gradient import cyclic_orders, explain, label_order_accuracy, spread
from metacontrast.diagnostics.task_view import contrasts, similarity_maps, spectrum, support_curvature
from metacontrast.errors import InputError
from metacontrast.maml.inner import adapt
from metacontrast.types import Episode, Head, Inner


@pytest.mark.parametrize("features", [3, 20], ids=["more images than features", "more features than images"])
@pytest.mark.parametrize("bias", [False, True])
def test_the_spectrum_is_that_of_the_whole_matrix(features, bias):
    """I − ηH from `theory.head_preconditioner` and its eigenvalues; rounding."""
    g = torch.Generator().manual_seed(0)
    phi, y = torch.randn(8, features, generator=g, dtype=torch.float64), torch.arange(4).repeat(2)
    head = Head(torch.randn(4, features, generator=g).double(), torch.randn(4, generator=g).double() if bias else None)
    expected = theory.head_preconditioner(theory.FeatureTask(phi, y, phi, y, head), Inner(lr=0.7)).eigenvalues
    found = spectrum(support_curvature(phi, head), features + bias, 0.7)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_the_condition_number_is_the_median_of_an_even_count_too():
    """Two tasks of three classes; between the two in the middle."""
    model, params = small_model()
    found = explain(model, params, tasks(2), Inner(steps=1, lr=0.1))
    size = found.eigenvalues.abs()
    assert found.condition_number == pytest.approx(median((size.amax(-1) / size.amin(-1)).flatten().tolist()))


def test_maps_are_the_theorys_before_and_after_adaptation():
    """Features of the un-adapted and of the adapted encoder, mean over tasks; two shots so that all pairs exist."""
    model, params = small_model()
    episodes, inner = tasks(shots=2), Inner(steps=2, lr=0.1)
    found = explain(model, params, episodes, inner)
    for maps, adapted in ((found.before, False), (found.after, True)):
        expected = []
        for parts in zip(*episodes, strict=True):
            e = Episode(*parts)
            encoder = adapt(model, params, e.support_x, e.support_y, inner).encoder if adapted else params.encoder
            support, query = model.features(encoder, e.support_x), model.features(encoder, e.query_x)
            across = theory.similarity_heatmap(query, e.query_y, support, e.support_y)
            among = (theory.similarity_heatmap(*pair) for pair in ((query, e.query_y), (support, e.support_y)))
            expected.append(torch.stack([across, *among]))
        assert torch.allclose(maps, torch.stack(expected).mean(0), rtol=0, atol=1e-12)
    assert not torch.allclose(found.before, found.after, rtol=0, atol=1e-3)


def test_a_head_only_inner_loop_leaves_the_maps_alone():
    model, params = small_model()
    found = explain(model, params, tasks(shots=2), Inner(steps=2, lr=0.1, scope="head"))
    assert torch.allclose(found.before, found.after, rtol=0, atol=1e-12)


def test_a_class_of_one_image_has_no_similarity_with_itself():
    """Not a 1 that would pass for a measurement; the contrast of such a map is not defined."""
    x, y = torch.eye(2), torch.tensor([0, 1])
    maps = similarity_maps(x, y, x.repeat(2, 1), y.repeat(2), ways=2)
    assert maps[2].diagonal().isnan().all()
    assert maps[2][0, 1] == 0
    assert contrasts(maps) == {"query-support": 1, "query-query": 1, "support-support": None}


@pytest.mark.parametrize("head", ["zeroed", "shared", "prototype"])
def test_label_order_means_nothing_to_a_head_whose_rows_start_equal(head):
    """Exactly 0 over all six orders of three labels, with an encoder that adapts in two steps."""
    model, params = small_model(head)
    accuracies = label_order_accuracy(
        model, params, tasks(3, queries=5), Inner(steps=2, lr=0.1), list(permutations(range(3)))
    )
    assert accuracies.shape == (6, 3)
    assert spread(accuracies) == 0


def test_label_order_matters_to_a_learned_head():
    """The control: rows of its own for every label."""
    model, params = small_model("learned")
    accuracies = label_order_accuracy(model, params, tasks(3, queries=5), Inner(steps=1, lr=0.01), cyclic_orders(3))
    assert spread(accuracies) > 0.1


def test_the_explanation_tries_the_labels_as_they_are_first():
    """So that its first accuracy is that of the algorithm itself."""
    model, params = small_model("learned")
    found = explain(model, params, tasks(2), Inner(steps=1, lr=0.1), label_orders=2)
    assert found.orders == [(0, 1, 2), (1, 2, 0)]
    assert found.order_accuracy[0].mean().item() == pytest.approx(found.accuracy)


def test_one_order_of_the_labels_has_no_spread():
    model, params = small_model("learned")
    found = explain(model, params, tasks(2), Inner(steps=1, lr=0.1), label_orders=1)
    assert (found.orders, found.order_spread) == ([(0, 1, 2)], 0)
    with pytest.raises(InputError, match="label_orders=0, but it must be 1 or more"):
        explain(model, params, tasks(2), Inner(), label_orders=0)


def test_an_order_must_name_every_label_once():
    model, params = small_model()
    with pytest.raises(InputError, match=r"label order \(0, 1, 1\) is not a permutation of 0 to 2"):
        label_order_accuracy(model, params, tasks(), Inner(), [(0, 1, 1)])
