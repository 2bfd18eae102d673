"""What each method's gradient of the encoder is in the paper's terms, where that is exact."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metacontrast.maml.engine import mean_task_gradient, meta_gradient
from metacontrast.maml.inner import learned_rates
from metacontrast.methods import reptile, supervised
from metacontrast.model.head import zero_head
from metacontrast.model.model import Model
from metacontrast.theory import contrastive_coefficients, split_encoder_gradient
from metacontrast.types import Episode, Inner, map_params

# One backward pass of a small float64 network: 1e-15.
EXACT = 1e-12
WAYS, SIZE = 3, 5


def a_model(head="learned"):
    torch.manual_seed(0)
    return Model(nn.Sequential(nn.Linear(SIZE, 6), nn.Tanh(), nn.Linear(6, 4)), WAYS, 4, head=head)


def a_start(model):
    return map_params(torch.Tensor.double, model.init(torch.Generator().manual_seed(1)))


def a_task(shots, queries, seed=0):
    """One task with a task axis, sorted by class."""
    g = torch.Generator().manual_seed(seed)

    def draw(count):
        y = torch.arange(WAYS).repeat_interleave(count)
        return torch.randn(1, len(y), SIZE, generator=g, dtype=torch.float64), y[None]

    return Episode(*draw(shots), *draw(queries))


def flat(encoder):
    return torch.cat([t.flatten() for t in encoder.values()])


def error(found, expected):
    return ((flat(found) - flat(expected)).norm() / flat(expected).norm()).item()


def parts_of(task, steps):
    """What the steps of `reptile` see: every N-th of the images sorted by class."""
    x, y = (torch.cat(pair, 1)[0] for pair in ((task.support_x, task.query_x), (task.support_y, task.query_y)))
    order = y.argsort(stable=True)
    return [(x[order[i::steps]], y[order[i::steps]]) for i in range(steps)]


def alone(task):
    return Episode(*(t[0] for t in task))


def test_reptile_with_one_step_is_interference_alone():
    """η times the gradient of plain training on the task's labels, Σ_j (s_j − 1{j=t}) w_j at every feature, without
    contrast; from a head of zeros nothing."""
    model, task = a_model(), a_task(2, 2)
    params = a_start(model)
    found, _ = mean_task_gradient(reptile, model, params, task, Inner(1, 0.3))
    ((x, y),) = parts_of(task, 1)
    parts = split_encoder_gradient(model.features, params, Episode(x, y, x, y), Inner(1, 1e-30))
    assert error(found.encoder, {name: 0.3 * t for name, t in parts.interference.items()}) < EXACT
    found, _ = mean_task_gradient(reptile, model, zero_head(params), task, Inner(1, 0.3))
    assert not flat(found.encoder).any()


def test_reptile_with_two_steps_from_zeros_is_the_contrast_of_its_two_parts():
    """η times Eq. 8 with the first part as support set and the second as query set, though the encoder adapts."""
    model, task = a_model("zeroed"), a_task(2, 2)
    params = a_start(model)
    found, _ = mean_task_gradient(reptile, model, params, task, Inner(2, 0.3))
    (x, y), (then_x, then_y) = parts_of(task, 2)
    parts = split_encoder_gradient(model.features, params, Episode(x, y, then_x, then_y), Inner(1, 0.3))
    assert error(found.encoder, {name: 0.3 * t for name, t in parts.contrastive_query.items()}) < EXACT
    assert not flat(parts.interference).any()


def test_reptile_is_a_sum_of_first_order_maml_gradients():
    """One for each step p: parts 1 … p − 1 adapted to in turn, part p asked. Its first one is plain training."""
    model, task = a_model(), a_task(3, 3)
    params = a_start(model)
    found, _ = mean_task_gradient(reptile, model, params, task, Inner(3, 0.2))
    total, moved = map_params(torch.zeros_like, params), params
    for x, y in parts_of(task, 3):
        asked = Episode(x[None], y[None], x[None], y[None])
        gradient, _ = meta_gradient(model, moved, asked, Inner(steps=0))
        total = map_params(lambda a, b: a + 0.2 * b, total, gradient)
        moved = map_params(lambda a, b: a - 0.2 * b, moved, gradient)
    assert error(found.encoder, total.encoder) < EXACT


def test_supervised_training_is_interference_alone():
    """Its rows are those of the classes it was trained on; nothing compares images with one another."""
    model, task = a_model("prototype"), a_task(2, 2)
    params = a_start(model)
    head = map_params(lambda t: t, a_start(a_model())).head
    params = params._replace(extra={"classifier.weight": head.weight, "classifier.bias": head.bias})
    batch = Episode(task.query_x[:, :0], task.query_y[:, :0], task.query_x, task.query_y)
    found, _ = mean_task_gradient(supervised, model, params, batch, Inner())
    learned = params._replace(head=head, extra={})
    parts = split_encoder_gradient(model.features, learned, alone(task), Inner(1, 1e-30))
    assert error(found.encoder, parts.interference) < EXACT


def test_meta_sgd_learns_the_inner_product_of_the_contrast():
    """With a head of zeros that alone adapts, one step and a rate η_f for each feature: φ(s)ᵀ diag(η) φ(q) in the place
    of η φ(s)ᵀφ(q), in Eq. 8 as in the outputs."""
    model, task = a_model("zeroed"), a_task(2, 3)
    inner = Inner(1, 0.3, "head")
    params = learned_rates(model, a_start(model), inner, "parameter")
    g = torch.Generator().manual_seed(2)
    rates = {name: t + 0.2 * torch.rand(t.shape, generator=g, dtype=t.dtype) for name, t in params.rates.items()}
    params = params._replace(rates=rates)
    found, _ = meta_gradient(model, params, task, inner)
    support_x, support_y, query_x, query_y = alone(task)
    encoder = {name: t.clone().requires_grad_() for name, t in params.encoder.items()}
    support, query = model.features(encoder, support_x).detach(), model.features(encoder, query_x)
    weighted = support * rates["head.weight"][0, 0]
    bias = rates["head.bias"][0].item()
    uniform = torch.full((len(support_y), WAYS), 1 / WAYS).double()
    errors = F.one_hot(support_y, WAYS).double() - uniform
    outputs = (query @ weighted.T + bias) @ errors / len(support_y)
    c = contrastive_coefficients(outputs.detach().softmax(1), query_y, uniform, support_y)
    loss = (c * (query @ weighted.T)).mean()
    expected = dict(zip(encoder, torch.autograd.grad(loss, list(encoder.values())), strict=True))
    assert error(found.encoder, expected) < EXACT


@pytest.mark.parametrize("head", ["prototype", "cosine", "ridge"])
def test_order_does_not_matter_where_there_is_no_inner_step(head):
    """The path through the support set is always there: such heads are of second order by themselves."""
    model, task = a_model(head), a_task(2, 2)
    one, two = (meta_gradient(model, a_start(model), task, Inner(0, order=o))[0] for o in ("first", "second"))
    assert torch.equal(flat(one.encoder), flat(two.encoder))
