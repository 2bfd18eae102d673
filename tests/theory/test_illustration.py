"""The paper's Fig. 1: with squared errors and a zeroed head, MAML compares query features with support
features."""

import pytest
import torch

import reference
from feature_tasks import as_params, make_case, relative_error, table
from metacontrast.errors import InputError
from metacontrast.theory import FeatureTask, mean_square_error_illustration
from metacontrast.types import Head, Inner

# A handful of float64 products: rounding is 1e-16, 1e-12 leaves room.
EXACT = 1e-12


def one_shot(seed: int = 0):
    case = make_case(seed, ways=5, scale=0.0)
    support = case.support[:5]
    return case._replace(support=support, support_y=torch.tensor([2, 0, 4, 1, 3]))


def test_the_adapted_head_is_the_support_features():
    """Fig. 1, inner loop: row i of w^1 is the support feature of class i (the learning rate left out, η =
    |S|)."""
    case = one_shot()
    fig1 = mean_square_error_illustration(case.task)
    assert torch.equal(fig1.adapted_head.weight[case.support_y], case.support)


def test_the_output_is_the_inner_product_with_every_support_feature():
    """Fig. 1, outer loop: z_t(q) = φ(q)ᵀφ(s_t); rounding."""
    case = one_shot()
    fig1 = mean_square_error_illustration(case.task)
    for j, t in enumerate(case.support_y):
        assert relative_error([fig1.outputs[:, t]], [case.query @ case.support[j]]) < EXACT


def test_products_are_pulled_to_one_within_a_class_and_to_zero_between_classes():
    """Fig. 1's two boxes: on orthonormal support features a step of size 1 against the signal lands there;
    exact."""
    support, y = torch.eye(3, dtype=torch.float64), torch.arange(3)
    query = torch.tensor([[0.2, -0.4, 3.0]], dtype=torch.float64)
    zero = Head(torch.zeros(3, 3, dtype=torch.float64), None)
    fig1 = mean_square_error_illustration(FeatureTask(support, y, query, torch.tensor([1]), zero))
    torch.testing.assert_close((query - fig1.query_signal) @ support.T, torch.tensor([[0.0, 1.0, 0.0]]).double())
    assert float(fig1.loss[0]) == 0.5 * (0.2**2 + 1.4**2 + 3.0**2)


@pytest.mark.parametrize("bias", [False, True], ids=["without bias", "with bias"])
@pytest.mark.parametrize("scale", [0.0, 0.5], ids=["zeroed head", "random head"])
def test_it_is_maml_with_half_squared_errors(scale, bias):
    """The arithmetic against automatic differentiation, several shots, any η and head: adapted head and FOMAML's
    signal."""
    case = make_case(4, scale=scale, bias=bias)
    params, episode = as_params(case)
    loss = "mean_square_error"
    fig1 = mean_square_error_illustration(case.task, Inner(lr=0.3, loss=loss))
    adapted = reference.adapt(table, params, episode.support_x, case.support_y, 1, 0.3, "head", loss=loss)
    assert relative_error(fig1.adapted_head, adapted.head) < EXACT
    expected = reference.task_meta_gradient(table, params, episode, 1, 0.3, "head", "first", loss).encoder
    assert relative_error([fig1.query_signal / len(case.query)], [expected["query"]]) < EXACT


def test_another_loss_or_another_number_of_steps_is_refused():
    for inner, message in ((Inner(), "loss='cross_entropy'"), (Inner(2, loss="mean_square_error"), "that of 1 step")):
        with pytest.raises(InputError, match=message):
            mean_square_error_illustration(one_shot().task, inner)
