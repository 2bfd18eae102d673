"""Bad input to the theory: one line that says what is wrong, with the numbers, and what to do."""

import jaxtyping
import pytest
import torch
from torch import nn

from feature_tasks import make_case
from metacontrast import theory
from metacontrast.errors import InputError
from metacontrast.maml.inner import learned_rates
from metacontrast.model.model import Model
from metacontrast.types import Episode, Head, Inner

case = make_case(0, bias=True)
support, t, query, u, head = case.task
nan = support.clone()
nan[1, 2] = float("nan")

bad_tasks = {
    "1 of 10 rows are not finite": (nan, t, query, u, head),
    "a contrast needs two classes": (support, torch.zeros_like(t), query, u, head),
    "labels run from 1 to 9, but 5 classes have labels 0 to 4": (
        support,
        t,
        query,
        torch.cat([u[1:], t[:1] + 9]),
        head,
    ),
    "labels run from -1": (support, t - 1, query, u, head),
    r"values \(10, 7\) and labels \(9,\)": (support, t[1:], query, u, head),
    "take both from the same encoder": (support, t, query[:, 1:], u, head),
    r"head weight \(5, 6\) does not fit 7 features": (
        support,
        t,
        query,
        u,
        Head(head.weight[:, 1:], head.bias),
    ),
    r"head bias \(4,\) does not fit 5 classes": (support, t, query, u, Head(head.weight, head.bias[1:])),
    "labels are torch.float32, but classes are whole numbers": (support, t + 0.9, query, u, head),
    r"values \(10, 7, 1\)": (support[..., None], t, query, u, head),
    r"values \(0, 7\)": (support, t, query[:0], u[:0], head),
}


@pytest.fixture
def untyped():
    """Shape types are checked under test only; a user meets the library without them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("function", ["split_feature_gradient", "contrastive_loss", "head_gradient"])
@pytest.mark.parametrize("message", bad_tasks)
def test_a_task_that_is_none_is_told_in_one_line(function, message):
    with pytest.raises(InputError, match=message) as error:
        getattr(theory, function)(theory.FeatureTask(*bad_tasks[message]), Inner())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (Inner(steps=0), "inner steps=0, but the theory is that of 1 step or more"),
        (Inner(loss="mean_square_error"), "the theory is that of loss='cross_entropy', but"),
        (Inner(loss=lambda outputs, labels: outputs.mean()), "a loss of your own"),
        (Inner(steps=2, loss_weights=(0.5, 0.5)), "without query_loss, loss_weights and direction"),
        (Inner(steps=2, order="second"), "split_encoder_gradient"),
    ],
)
def test_an_inner_loop_that_the_theory_does_not_describe_is_told_in_one_line(inner, message):
    with pytest.raises(InputError, match=message) as error:
        theory.contrastive_loss(case.task, inner)
    assert "\n" not in str(error.value)


def test_a_task_prints_its_shapes():
    assert repr(case.task) == "FeatureTask(support 10×7, support_y 10, query 8×7, query_y 8, head 5×7)"


@pytest.mark.usefixtures("untyped")
def test_coefficients_check_their_probabilities_and_labels():
    q, s = torch.full((2, 3), 1 / 3), torch.full((4, 3), 1 / 3)
    y = torch.tensor([0, 1, 2, 0])
    with pytest.raises(InputError, match=r"query: values \(2, 3\) and labels \(4,\)"):
        theory.contrastive_coefficients(q, y, s, y)
    with pytest.raises(InputError, match="support: labels run from 0 to 3"):
        theory.contrastive_coefficients(q, y[:2], s, torch.tensor([0, 1, 3, 0]))
    with pytest.raises(InputError, match="do not fit 2 query"):
        theory.wrong_sign_share(torch.ones(2, 3), y[:2], y)


def test_no_tasks_have_no_mean():
    with pytest.raises(InputError, match="no tasks"):
        theory.mean_split([])


def test_a_split_is_of_one_step_size_and_of_an_encoder_that_is_learned():
    """Learned rates would be left out; of a frozen encoder there is nothing to split."""
    model = Model(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), 2, feature_size=3)
    task = Episode(torch.rand(2, 1, 2, 2), torch.arange(2), torch.rand(2, 1, 2, 2), torch.arange(2))
    params = model.init(torch.Generator())
    with pytest.raises(InputError, match="without learned rates"):
        theory.split_encoder_gradient(model.features, learned_rates(model, params, Inner()), task, Inner())
    with pytest.raises(InputError, match="no gradient to split"):
        theory.split_encoder_gradient(model.features, params._replace(encoder={}), task, Inner())
