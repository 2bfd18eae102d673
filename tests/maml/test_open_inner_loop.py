"""What the inner loop lets a researcher replace: losses, learned rates, the direction, a loss after every step.

Every one is compared with a loop that is written out by hand on `torch.autograd`, in float64.
"""

from dataclasses import replace

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metacontrast.data.episodes import EpisodeSampler
from metacontrast.diagnostics.gradient import explain
from metacontrast.errors import InputError
from metacontrast.maml.engine import Engine, meta_gradient
from metacontrast.maml.inner import adapt, learned_rates
from metacontrast.maml.outer import accuracies
from metacontrast.model.encoders import conv4
from metacontrast.model.model import Model
from metacontrast.training.evaluate import logits_after
from metacontrast.types import Episode, Head, Inner, Params, map_params, to_named, to_tensors
from toy_images import noisy_images

WAYS = 3
ORDERS = ("first", "second")
ENGINES = [Engine("loop"), Engine("vmap")]


def double(params):
    return map_params(torch.Tensor.double, params)


def a_model(head="learned"):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 6), nn.Softplus())
    model = Model(encoder, WAYS, 6, head=head)
    return model, double(model.init(torch.Generator().manual_seed(0)))


def some_tasks(count=3):
    batch = EpisodeSampler(noisy_images(seed=0), WAYS, 2, 4).batch(range(count))
    return Episode(batch.support_x.double(), batch.support_y, batch.query_x.double(), batch.query_y)


def plain_outputs(named, images):
    """The same network by hand."""
    features = F.softplus(images.flatten(1) @ named["encoder.1.weight"].T + named["encoder.1.bias"])
    return features @ named["head.weight"].T + named["head.bias"]


def plain_gradient(params, tasks, inner, loss=F.cross_entropy, query_loss=None, direction=None):
    """The mean outer gradient, with the inner loop written out."""
    start = {name: t.clone().requires_grad_() for name, t in to_named(params).items()}
    moving = [name for name in start if not name.startswith("rates.")]
    weights = inner.loss_weights or [0.0] * (inner.steps - 1) + [1.0]
    total = 0.0
    for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
        here, memory = {name: start[name] for name in moving}, None
        for step in range(inner.steps):
            value = loss(plain_outputs(here, support_x), support_y)
            found = torch.autograd.grad(value, list(here.values()), create_graph=inner.order == "second")
            gradient = dict(zip(moving, found, strict=True))
            if direction:
                gradient, memory = direction(gradient, memory)
            rate = {n: start[f"rates.{n}"][step] if params.rates else inner.lr for n in moving}
            here = {name: t - rate[name] * gradient[name] for name, t in here.items()}
            total = total + weights[step] * (query_loss or loss)(plain_outputs(here, query_x), query_y)
    return torch.autograd.grad(total / len(tasks.query_y), list(start.values()))


def assert_equal(found, expected):
    for a, b in zip(to_tensors(found), expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-13)


def momentum(gradient, memory):
    velocity = gradient if memory is None else {n: 0.9 * memory[n] + g for n, g in gradient.items()}
    return velocity, velocity


def clipped(gradient, memory):
    """The gradient shortened to a norm of 0.1, which no value of it alone decides."""
    size = torch.stack([g.square().sum() for g in gradient.values()]).sum().sqrt()
    return {n: g * (0.1 / size).clamp_max(1) for n, g in gradient.items()}, memory


def weights_only(gradient, memory):
    """Matrices alone, known by their number of axes."""
    return {n: g if g.ndim > 1 else 0 * g for n, g in gradient.items()}, memory


def smooth_hinge(outputs, labels):
    """A loss that no name stands for."""
    others = outputs - outputs.gather(1, labels[:, None])
    return F.softplus(1 + others).sum(1).mean()


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("inner", "options"),
    [
        ({"loss": smooth_hinge}, {"loss": smooth_hinge}),
        ({"query_loss": smooth_hinge}, {"query_loss": smooth_hinge}),
        ({"direction": momentum}, {"direction": momentum}),
        ({"direction": clipped}, {"direction": clipped}),
        ({"direction": weights_only}, {"direction": weights_only}),
        ({"loss_weights": (0.2, 0.0, 1.5)}, {}),
        ({"loss_weights": (0.2, 0.3, 0.5), "direction": momentum}, {"direction": momentum}),
    ],
    ids=["loss", "query-loss", "momentum", "clipped", "weights-only", "multi-step", "multi-step-momentum"],
)
def test_the_outer_gradient_is_the_hand_written_loops(inner, options, order, engine):
    model, params = a_model()
    inner = Inner(3, 0.1, order=order, **inner)
    gradient, metrics = meta_gradient(model, params, some_tasks(), inner, engine=engine)
    assert_equal(gradient, plain_gradient(params, some_tasks(), inner, **options))
    assert metrics.loss.shape == metrics.accuracy.shape == (3,)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("per", ["tensor", "parameter"])
def test_rates_are_learned_by_their_own_gradient(per, order, engine):
    """Per layer and step (MAML++), or per parameter (Meta-SGD), from different values at every place."""
    model, params = a_model()
    inner = Inner(2, 0.1, order=order)
    params = learned_rates(model, params, inner, per)
    torch.manual_seed(0)
    params = params._replace(rates={n: r * (1 + 0.5 * torch.rand_like(r)) for n, r in params.rates.items()})
    gradient, _ = meta_gradient(model, params, some_tasks(), inner, engine=engine)
    assert set(gradient.rates) == set(to_named(params._replace(rates={})))
    assert_equal(gradient, plain_gradient(params, some_tasks(), inner))


@pytest.mark.parametrize("order", ORDERS)
def test_equal_rates_are_the_plain_loop_and_a_zeroed_head_stays_no_parameter(order):
    """In the first step from zero the encoder stands, so that its first rates have no gradient."""
    model, params = a_model("zeroed")
    inner = Inner(2, 0.1, order=order)
    with_rates = learned_rates(model, params, inner)
    found, _ = meta_gradient(model, with_rates, some_tasks(), inner)
    plain, _ = meta_gradient(model, params, some_tasks(), inner)
    assert_equal(found._replace(rates={}), to_tensors(plain))
    assert not found.head.weight.any()
    assert all((rate[0] == 0).all() for name, rate in found.rates.items() if name.startswith("encoder"))
    assert all((rate[-1] != 0).all() for rate in found.rates.values())


def test_a_direction_is_asked_task_by_task_also_where_tasks_are_one_batch():
    """The built-in encoder takes several tasks at once; a direction that clips must not know of it."""
    model = Model(conv4(1, 28, filters=2), WAYS)
    params, tasks, inner = double(model.init(torch.Generator().manual_seed(0))), some_tasks(4), Inner(2, 1.0)
    inner = replace(inner, direction=clipped)
    found, _ = meta_gradient(model, params, tasks, inner, engine=Engine("vmap"))
    single = [meta_gradient(model, params, Episode(*(t[k : k + 1] for t in tasks)), inner)[0] for k in range(4)]
    assert_equal(found, to_tensors(map_params(lambda *each: sum(each) / 4, *single)))


def test_a_direction_must_be_like_the_gradient():
    model, params = a_model()
    inner = Inner(1, direction=lambda gradient, memory: ({"encoder.1.weight": gradient["encoder.1.weight"]}, memory))
    with pytest.raises(InputError, match=r"the direction has no encoder\.1\.bias of shape \(6,\): give one like"):
        meta_gradient(model, params, some_tasks(), inner)


def test_a_direction_moves_the_encoder_also_in_the_first_step_from_zero():
    """Weight decay as a direction is not 0 where the gradient is: the shortcut of a zeroed head is not taken."""

    def decayed(gradient, memory):
        return {name: g + 0.1 for name, g in gradient.items()}, memory

    model, params = a_model("zeroed")
    task = Episode(*(t[0] for t in some_tasks()))
    adapted = adapt(model, params, task.support_x, task.support_y, Inner(1, 0.5, direction=decayed))
    for name, tensor in params.encoder.items():
        assert torch.allclose(adapted.encoder[name], tensor - 0.05, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_regression_on_inputs_that_are_no_images(order, engine):
    """One output, float targets, inputs of shape (image, 1): the sine of the MAML paper."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 10, 1, generator=generator, dtype=torch.float64)
    y = torch.sin(5 * x[..., 0] + torch.arange(4.0)[:, None])
    tasks = Episode(x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])
    model = Model(nn.Sequential(nn.Flatten(), nn.Linear(1, 6), nn.Softplus()), ways=1, feature_size=6)
    params = double(model.init(generator))
    loss = lambda outputs, targets: F.mse_loss(outputs[:, 0], targets)  # noqa: E731
    inner = Inner(2, 0.1, order=order, loss=loss)
    gradient, metrics = meta_gradient(model, params, tasks, inner, engine=engine)
    assert_equal(gradient, plain_gradient(params, tasks, inner, loss=loss))
    assert metrics.accuracy.isnan().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inner(2, loss_weights=(1.0,)), "2 inner steps need one of 0 or more for each"),
        (lambda: Inner(2, loss_weights=(1.0, -1.0)), "2 inner steps need one of 0 or more for each"),
        (lambda: Inner(2, loss_weights=(1.0, 0.0)), "leave out the last step: take fewer"),
        (lambda: Inner(loss="hinge"), "loss='hinge' is not one of"),
        (lambda: Inner(direction="momentum"), "direction='momentum' is not"),
        (lambda: Inner(lr=torch.tensor(0.1)), "see learned_rates"),
        (lambda: learned_rates(*a_model(), Inner(), "layer"), "per='layer' is not one of"),
        (lambda: learned_rates(*a_model(), Inner(), steps=0), "rates need 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message, monkeypatch):
    """By the library itself, without the shape checks that only tests have."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=message):
        make()


def test_a_loss_that_is_no_mean_is_refused():
    model, params = a_model()
    losses = lambda outputs, labels: F.cross_entropy(outputs, labels, reduction="none")  # noqa: E731
    with pytest.raises(
        InputError, match=r"the loss returns shape \(6,\) for one task, not a scalar tensor: take its mean"
    ):
        meta_gradient(model, params, some_tasks(), Inner(loss=losses))


def test_labels_that_are_no_classes_need_a_loss_of_their_own():
    model, params = a_model()
    tasks = some_tasks()
    with pytest.raises(InputError, match=r"support labels are torch[.]float64, but must be"):
        meta_gradient(model, params, tasks._replace(support_y=tasks.support_y.double()), Inner())


def test_the_tensors_of_parameters_with_rates_have_their_order():
    params = Params({"w": torch.zeros(1)}, Head(torch.zeros(2, 1), None), {"w": torch.ones(3)})
    assert [len(t) for t in to_tensors(params)] == [1, 2, 3]
    assert list(to_named(params)) == ["encoder.w", "head.weight", "rates.w"]
    assert map_params(torch.clone, params).rates["w"].sum() == 3


@pytest.mark.parametrize(
    "changes",
    [{"query_loss": smooth_hinge}, {"loss_weights": (0.5, 0.5)}, {"direction": momentum}, {"rates": True}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_the_theory_does_not_know_is_not_explained(changes):
    model, params = a_model()
    if changes.pop("rates", False):
        params = learned_rates(model, params, Inner(2))
    with pytest.raises(InputError, match="the theory is that of one"):
        explain(model, params, some_tasks(), Inner(2, **changes))


@pytest.mark.parametrize("options", [{"direction": momentum}, {"rates": True}], ids=lambda options: next(iter(options)))
def test_evaluation_adapts_as_training_does(options):
    """Learned rates and the direction hold at test too, with a number of steps of its own."""
    model, params = a_model()
    inner = Inner(3, 0.1, loss_weights=(0.2, 0.3, 0.5), direction=options.get("direction"))
    if "rates" in options:
        params = learned_rates(model, params, inner, steps=2)
        params = params._replace(
            rates={n: r * torch.tensor([3.0, 0.5], dtype=r.dtype) for n, r in params.rates.items()}
        )
    tasks, right = some_tasks(5), []
    for task in zip(*tasks, strict=True):
        adapted = adapt(model, params, *task[:2], inner.at_test(4))
        right.append((model.query_logits(adapted, task[0], task[2]).argmax(1) == task[3]).double().mean())
    found = torch.stack([*logits_after(model, params, tasks, inner.at_test(4), [4])])[0]
    assert torch.allclose(accuracies(found, tasks.query_y), torch.stack(right), rtol=1e-12)
