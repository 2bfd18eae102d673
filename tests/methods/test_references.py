"""Every method against a slow, plain version in float64, written from its paper."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metacontrast.errors import InputError
from metacontrast.maml.engine import Engine, meta_gradient
from metacontrast.maml.inner import Inner
from metacontrast.methods import METHODS
from metacontrast.model.model import Model
from metacontrast.training.config import TrainConfig, with_fields
from metacontrast.types import Episode, map_params, to_named

# Hundreds of float64 terms: rounding is 1e-14.
NEAR = 1e-10
WAYS, SIZE, WIDTH = 3, 5, 4


def an_encoder():
    return nn.Sequential(nn.Linear(SIZE, 6), nn.Tanh(), nn.Linear(6, WIDTH))


def a_model(head, **options):
    return Model(an_encoder(), WAYS, WIDTH, head=head, **options)


def start(model, seed=0):
    """Every tensor random, whatever it starts from."""
    params = map_params(torch.Tensor.double, model.init(torch.Generator().manual_seed(seed)))
    g = torch.Generator().manual_seed(seed + 1)
    moved = map_params(lambda t: t + 0.3 * torch.randn(t.shape, generator=g, dtype=t.dtype), params)
    return moved._replace(head=params.head) if model.head == "zeroed" else moved


def a_batch(tasks=2, shots=2, queries=3, seed=0):
    g = torch.Generator().manual_seed(seed)

    def draw(per_class):
        y = torch.arange(WAYS).repeat(per_class).expand(tasks, -1)
        return torch.randn(*y.shape, SIZE, generator=g, dtype=torch.float64) + y[..., None], y.clone()

    return Episode(*draw(shots), *draw(queries))


def features(named, x):
    """The encoder above, by hand; names as in `to_named`, with the prefix that a wrapper gives."""
    find = {name.removeprefix("encoder.").removeprefix("encoder."): t for name, t in named.items()}
    return torch.tanh(x @ find["0.weight"].T + find["0.bias"]) @ find["2.weight"].T + find["2.bias"]


def relative_error(found, expected):
    """Over all tensors at once, by name."""
    assert found.keys() == expected.keys()
    difference = sum((found[name] - expected[name]).square().sum() for name in expected)
    return (difference / sum(each.square().sum() for each in expected.values())).sqrt().item()


def mean_gradient(loss, params, batch):
    """Of the mean over tasks of a loss of named parameters."""
    named = {name: t.detach().clone().requires_grad_() for name, t in to_named(params).items()}
    total = sum(loss(named, *task) for task in zip(*batch, strict=True)) / len(batch.support_y)
    found = torch.autograd.grad(total, list(named.values()), materialize_grads=True)
    return dict(zip(named, found, strict=True))


def prototype_loss(named, support_x, support_y, query_x, query_y):
    support, query = features(named, support_x), features(named, query_x)
    means = torch.stack([support[support_y == k].mean(0) for k in range(WAYS)])
    return F.cross_entropy(-(query[:, None] - means).square().sum(2), query_y)


def cosine_loss(named, support_x, support_y, query_x, query_y):
    support, query = (F.normalize(features(named, x), dim=1) for x in (support_x, query_x))
    means = torch.stack([support[support_y == k].mean(0) for k in range(WAYS)])
    return F.cross_entropy(named["extra.log_scale"].exp() * F.cosine_similarity(query[:, None], means, dim=2), query_y)


def ridge_loss(named, support_x, support_y, query_x, query_y):
    """The normal equations in the number of features."""
    support, query = features(named, support_x), features(named, query_x)
    square = support.T @ support + named["extra.log_penalty"].exp() * torch.eye(WIDTH).double()
    weight = torch.linalg.inv(square) @ support.T @ F.one_hot(support_y, WAYS).double()
    return F.cross_entropy(named["extra.log_scale"].exp() * query @ weight + named["extra.shift"], query_y)


HEAD_LOSSES = {"prototype": prototype_loss, "cosine": cosine_loss, "ridge": ridge_loss}


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("shots", [1, 4])
@pytest.mark.parametrize("head", HEAD_LOSSES)
def test_heads_that_are_built_from_the_support_set(head, shots, engine):
    """ProtoNet, cosine and R2D2, with fewer images than features and with more; gradient through mean and solve."""
    model, batch = a_model(head), a_batch(shots=shots)
    params = start(model)
    gradient, metrics = meta_gradient(model, params, batch, Inner(steps=0), engine=Engine(engine))
    assert relative_error(to_named(gradient), mean_gradient(HEAD_LOSSES[head], params, batch)) < NEAR
    named, tasks = to_named(params), list(zip(*batch, strict=True))
    assert torch.allclose(metrics.loss, torch.stack([HEAD_LOSSES[head](named, *task) for task in tasks]), rtol=NEAR)
    if head == "ridge":
        assert gradient.extra["shift"].abs() < 1e-15  # a softmax does not see what all outputs share


@pytest.mark.parametrize("head", HEAD_LOSSES)
def test_such_heads_know_no_number_of_classes(head):
    params = start(a_model(head))
    model = a_model(head).with_ways(2)
    few = a_batch()
    keep = few.support_y[0] < 2
    adapted = model.start(params, few.support_x[0][keep], few.support_y[0][keep])
    assert adapted.head.weight.shape == (2, WIDTH)


def test_a_cosine_head_keeps_its_encoder_under_another_head():
    """Features of length 1 stay so when the head is zeroed at test; a model without them is refused."""
    model = a_model("cosine")
    params = start(model)
    found = model.with_head("zeroed").features(params.encoder, torch.randn(4, SIZE).double())
    assert torch.allclose(found.norm(dim=1), torch.ones(4).double())
    with pytest.raises(InputError, match="needs features of length 1"):
        a_model("zeroed").with_head("cosine")


def meta_sgd_loss(named, support_x, support_y, query_x, query_y):
    """Two steps, one rate for each parameter, through the gradients."""
    rates = {name.removeprefix("rates."): t for name, t in named.items() if name.startswith("rates.")}
    moved = {name: t for name, t in named.items() if name in rates}
    for _ in range(2):
        outputs = features(moved, support_x) @ moved["head.weight"].T + moved["head.bias"]
        slopes = torch.autograd.grad(F.cross_entropy(outputs, support_y), list(moved.values()), create_graph=True)
        moved = {name: t - rates[name][0] * g for (name, t), g in zip(moved.items(), slopes, strict=True)}
    return F.cross_entropy(features(moved, query_x) @ moved["head.weight"].T + moved["head.bias"], query_y)


def test_meta_sgd():
    model, batch = a_model("learned"), a_batch()
    config = with_fields(TrainConfig(inner_steps=2, inner_lr=0.1, order="second"), method="meta-sgd")
    params = start(model)
    params = map_params(torch.Tensor.double, METHODS["meta-sgd"].start(model, params, config.inner()))
    gradient, _ = meta_gradient(model, params, batch, config.inner())
    assert relative_error(to_named(gradient), mean_gradient(meta_sgd_loss, params, batch)) < NEAR
