"""learn2learn's MAML on this library: gradients of the core, and the behaviour that old scripts rely on."""

import doctest
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import encoders_plain
from metacontrast.compat import learn2learn as l2l
from metacontrast.compat.learn2learn.algorithms import clone_module
from metacontrast.errors import InputError
from metacontrast.maml.engine import meta_gradient
from metacontrast.model.encoders import build_encoder
from metacontrast.model.head import zero_head
from metacontrast.model.model import Model
from metacontrast.types import Episode, Head, Inner, Params, from_tensors, to_tensors

TOLERANCE = 1e-12
"""The two make the same float64 operations, save for how batch norm keeps its averages."""

WAYS, INNER_LR = 3, 0.1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain_encoder() -> nn.Sequential:
    """Two blocks with PyTorch's own batch norm, as old scripts have them, down to 32 features."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.MaxPool2d(3), nn.Flatten()),
    )


def wrapped(encoder: nn.Module, size: int, **settings) -> l2l.algorithms.MAML:
    """An encoder under a linear head, in float64, nothing at a symmetric value."""
    net = nn.Sequential(encoder, nn.Linear(size, WAYS)).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator(parameter.numel()))
    return l2l.algorithms.MAML(net, lr=INNER_LR, **settings)


def as_params(maml: l2l.algorithms.MAML) -> Params:
    encoder, head = maml.module[0], maml.module[1]
    return Params({n: p.detach() for n, p in encoder.named_parameters()}, Head(head.weight.data, head.bias.data))


def tasks(count: int = 2) -> Episode:
    each = [encoders_plain.random_episode(generator(7 + i), WAYS, 2, 2) for i in range(count)]
    return Episode(*(torch.stack(parts) for parts in zip(*each, strict=True)))


def backward(maml: l2l.algorithms.MAML, episodes: Episode, steps: int) -> None:
    """The loop of every learn2learn script: the mean of the query losses, one backward pass a task."""
    for support_x, support_y, query_x, query_y in zip(*episodes, strict=True):
        learner = maml.clone()
        for _ in range(steps):
            learner.adapt(F.cross_entropy(learner(support_x), support_y))
        (F.cross_entropy(learner(query_x), query_y) / len(episodes.support_x)).backward()


def assert_close(found: list, expected: list) -> None:
    scale = max(t.abs().max() for t in expected)
    assert scale > 1e-6, "a gradient that vanishes proves nothing"
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= TOLERANCE * scale


@pytest.mark.parametrize(
    ("first_order", "steps", "encoder"),
    list(itertools.product((True, False), (1, 3), ("own", "plain"))),
)
def test_the_outer_gradient_is_that_of_the_core(first_order, steps, encoder):
    """On the released encoder, and on one with PyTorch's batch norm, which the core replaces in its copy."""
    net = build_encoder("conv4-released", (1, 28, 28), 8) if encoder == "own" else plain_encoder()
    maml = wrapped(net, 8 if encoder == "own" else 32, first_order=first_order)
    size = maml.module[1].in_features
    backward(maml, tasks(), steps)
    model = Model(maml.module[0], WAYS, feature_size=size)
    inner = Inner(steps, INNER_LR, order="first" if first_order else "second")
    expected, _ = meta_gradient(model, as_params(maml), tasks(), inner)
    assert_close([p.grad for p in maml.parameters()], to_tensors(expected))


def test_a_script_trains_to_the_parameters_of_the_core():
    """Three outer updates by Adam and the zeroing trick, once as an old script would do it and once with the core."""
    maml = wrapped(plain_encoder(), 32)
    model, params = Model(maml.module[0], WAYS, feature_size=32), zero_head(as_params(maml))
    leaves = [t.clone() for t in to_tensors(params)]
    ours = torch.optim.Adam(leaves, lr=0.01)
    theirs = torch.optim.Adam(maml.parameters(), lr=0.01)
    for update in range(3):
        for parameter in maml.module[1].parameters():
            nn.init.zeros_(parameter)
        theirs.zero_grad()
        backward(maml, tasks(update + 1), 1)
        theirs.step()
        gradient, _ = meta_gradient(
            model, zero_head(from_tensors(params, leaves)), tasks(update + 1), Inner(1, INNER_LR, order="second")
        )
        for leaf, zero in zip(leaves[-2:], zero_head(from_tensors(params, leaves)).head, strict=True):
            leaf.copy_(zero)
        for leaf, part in zip(leaves, to_tensors(gradient), strict=True):
            leaf.grad = part
        ours.step()
    for found, expected in zip(maml.parameters(), leaves, strict=True):
        # Adam divides by the gradient's size, so that where it nearly vanishes rounding is magnified
        assert (found - expected).abs().max() <= 1e-8


def test_first_and_second_order_differ_and_can_be_chosen_at_every_place():
    """In the constructor, at `clone` and at `adapt`, the later choice winning."""

    def gradient(at_start: bool, at_clone: bool | None, at_adapt: bool | None) -> float:
        maml = l2l.algorithms.MAML(nn.Linear(1, 1, bias=False), lr=0.1, first_order=at_start)
        nn.init.ones_(maml.module.weight)
        learner = maml.clone(first_order=at_clone)
        learner.adapt(learner.weight.square().sum(), first_order=at_adapt)
        learner.weight.square().sum().backward()
        return maml.module.weight.grad.item()

    second, first = pytest.approx(2 * 0.8 * 0.8), pytest.approx(2 * 0.8)
    assert gradient(False, None, None) == second
    assert gradient(True, None, None) == first
    assert gradient(True, False, None) == second
    assert gradient(False, None, True) == first


def test_defaults_and_names_are_learn2learns():
    maml = l2l.algorithms.MAML(nn.Linear(2, 3), lr=0.5)
    assert isinstance(maml, nn.Module)
    assert (maml.lr, maml.first_order, maml.allow_unused, maml.allow_nograd) == (0.5, False, False, False)
    assert l2l.algorithms.MAML(nn.Linear(2, 3), lr=0.5, allow_nograd=True).allow_unused
    assert list(maml.state_dict()) == ["module.weight", "module.bias"]
    assert maml.in_features == 2
    learner = maml.clone(allow_nograd=True)
    assert (learner.lr, learner.allow_nograd, learner.allow_unused) == (0.5, True, False)
    with pytest.raises(AttributeError, match="no_such_name"):
        maml.no_such_name  # noqa: B018


def test_what_is_not_here_is_an_attribute_error_that_says_where_to_look():
    for place, name in ((l2l, "vision"), (l2l, "clone_module"), (l2l.algorithms, "MetaSGD")):
        with pytest.raises(AttributeError, match=rf"'{name}' is not here.*migrating"):
            getattr(place, name)


class Tied(nn.Module):
    """Its weight is a buffer, too."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False, dtype=torch.float64)
        self.register_buffer("again", self.layer.weight)

    def forward(self, x):
        return self.layer(x) @ self.again


@pytest.mark.parametrize("first_order", [True, False])
def test_a_buffer_that_is_a_parameter_moves_with_it(first_order):
    """f(x) = (x Wᵀ) W with one matrix W, which the step moves at both places."""
    x, net = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), Tied()
    maml = l2l.algorithms.MAML(net, lr=0.1, first_order=first_order)
    learner = maml.clone()
    learner.adapt(learner(x).square().sum())
    loss = learner(x).square().sum()
    loss.backward()
    w = net.layer.weight.detach().requires_grad_()
    (inner,) = torch.autograd.grad((x @ w.T @ w).square().sum(), w, create_graph=not first_order)
    moved = w - 0.1 * inner
    expected = (x @ moved.T @ moved).square().sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(expected, w)
    assert torch.allclose(net.layer.weight.grad, gradient, rtol=1e-12, atol=1e-14)


def test_a_learner_leaves_the_original_alone_and_is_a_module_of_the_same_kind():
    maml = wrapped(plain_encoder(), 32)
    before = [p.clone() for p in maml.parameters()]
    episode = tasks(1)
    learner = maml.clone()
    module = learner.module
    learner.adapt(F.cross_entropy(learner(episode.support_x[0]), episode.support_y[0]))
    assert learner.module is module
    assert isinstance(module, nn.Sequential)
    assert all(torch.equal(a, b) for a, b in zip(maml.parameters(), before, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(learner.parameters(), before, strict=True))
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in maml.parameters())


def test_clones_share_running_averages_with_the_original():
    """Two batches through two clones, one of them adapted, move them as two batches through a plain network would."""
    maml = wrapped(plain_encoder(), 32)
    plain = nn.BatchNorm2d(8).double()
    for batch in range(2):
        x = torch.randn(6, 1, 28, 28, generator=generator(batch), dtype=torch.float64)
        learner = maml.clone()
        loss = learner(x).square().sum()
        plain(learner.module[0][0](x))
        learner.adapt(loss)
        assert learner.module[0][1].running_mean is maml.module[0][1].running_mean
    for name, average in plain.named_buffers():
        assert torch.allclose(dict(maml.module[0][1].named_buffers())[name], average, atol=1e-12)
    query = maml.clone().eval()
    assert torch.allclose(query(x)[:1], query(x[:1]), atol=1e-12)


def test_a_clone_of_an_adapted_learner_goes_on_from_there():
    """w = 1, steps of 0.1 on w²: after two of them 0.64, and dL/dw = 2 · 0.64 · 0.8²."""
    maml = l2l.algorithms.MAML(nn.Linear(1, 1, bias=False), lr=0.1)
    nn.init.ones_(maml.module.weight)
    learner = maml.clone()
    learner.adapt(learner.weight.square().sum())
    again = learner.clone()
    again.adapt(again.weight.square().sum())
    assert learner.weight.item() == pytest.approx(0.8)
    assert again.weight.item() == pytest.approx(0.64)
    again.weight.square().sum().backward()
    assert maml.module.weight.grad.item() == pytest.approx(2 * 0.64 * 0.64)


def test_a_tensor_or_layer_that_is_shared_stays_shared():
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    net[2].weight = net[0].weight
    net.append(net[0])
    learner = l2l.algorithms.MAML(net, lr=0.1).clone()
    learner.adapt(learner(torch.ones(2, 3)).square().sum())
    assert learner.module[0] is learner.module[3]
    assert learner.module[0].weight is learner.module[2].weight
    assert len(list(learner.parameters())) == 1


def test_a_recurrent_layer_computes_with_its_adapted_weights():
    """Its second list of parameters would otherwise keep the old ones."""
    torch.manual_seed(0)
    maml = l2l.algorithms.MAML(nn.GRU(2, 3, dtype=torch.float64), lr=0.5)
    x = torch.randn(4, 1, 2, generator=generator(), dtype=torch.float64)
    learner = maml.clone()
    before = learner(x)[0]
    learner.adapt(before.square().sum())
    assert not torch.allclose(learner(x)[0], before)
    plain = nn.GRU(2, 3, dtype=torch.float64)
    plain.load_state_dict({n: t.detach() for n, t in learner.module.named_parameters()})
    assert torch.allclose(learner(x)[0], plain(x)[0], atol=1e-12)


def test_parametrized_weights_are_adapted_through_their_parametrization():
    for first_order, parametrize in ((True, nn.utils.parametrizations.weight_norm), (False, squared)):
        maml = l2l.algorithms.MAML(parametrize(nn.Linear(2, 2)), lr=0.1, first_order=first_order)
        learner = maml.clone()
        learner.adapt(learner(torch.ones(1, 2)).square().sum())
        learner(torch.ones(1, 2)).square().sum().backward()
        assert all(p.grad is not None for p in maml.parameters())


class Square(nn.Module):
    def forward(self, x):
        return x.square()


def squared(layer):
    nn.utils.parametrize.register_parametrization(layer, "weight", Square())
    return layer


def test_the_second_derivative_of_a_weight_norm_is_refused():
    """PyTorch's is wrong, so that a finite difference misses it; once it is right, the refusal can go."""
    v, g = (
        torch.rand(3, 2, dtype=torch.float64).requires_grad_(),
        torch.ones(3, 1, dtype=torch.float64).requires_grad_(),
    )
    assert torch.autograd.gradcheck(torch._weight_norm, (v, g, 0))
    assert not torch.autograd.gradgradcheck(torch._weight_norm, (v, g, 0), raise_exception=False)
    learner = l2l.algorithms.MAML(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), lr=0.1).clone()
    with pytest.raises(InputError, match="whose second derivative is wrong in PyTorch: take first order"):
        learner.adapt(learner(torch.ones(1, 2)).square().sum())


def test_frozen_and_unused_parameters_are_named_unless_allowed():
    net = nn.ModuleDict({"used": nn.Linear(2, 2), "frozen": nn.Linear(2, 2), "idle": nn.Linear(2, 2)})
    net["frozen"].requires_grad_(False)
    maml = l2l.algorithms.MAML(net, lr=0.1)

    def learner_and_loss(**allowed):
        learner = maml.clone(**allowed)
        return learner, learner.module["frozen"](learner.module["used"](torch.ones(1, 2))).sum()

    learner, loss = learner_and_loss()
    with pytest.raises(InputError, match=r"'frozen\.weight' \(and 1 more\) is frozen: pass allow_nograd=True"):
        learner.adapt(loss)
    learner, loss = learner_and_loss(allow_nograd=True)
    with pytest.raises(InputError, match=r"'idle\.weight' \(and 1 more\) is not part of the loss: pass allow_unused"):
        learner.adapt(loss)
    learner, loss = learner_and_loss()
    learner.adapt(loss, allow_nograd=True, allow_unused=True)
    for name, moved in {"used": True, "frozen": False, "idle": False}.items():
        assert torch.equal(learner.module[name].weight, net[name].weight) != moved


def test_a_loss_without_a_graph_says_what_to_do():
    learner = l2l.algorithms.MAML(nn.Linear(2, 2), lr=0.1).clone()
    with torch.no_grad():
        loss = learner(torch.ones(1, 2)).sum()
    with pytest.raises(InputError, match=r"outside torch\.no_grad\(\)"):
        learner.adapt(loss)


def test_a_learnt_step_size_receives_its_gradient():
    """d/dη of (1 − 2η)² at 0.1 is −4 · 0.8."""
    rate = nn.Parameter(torch.tensor(0.1))
    maml = l2l.algorithms.MAML(nn.Linear(1, 1, bias=False), lr=rate)
    nn.init.ones_(maml.module.weight)
    learner = maml.clone()
    learner.adapt(learner.weight.square().sum())
    learner.weight.square().sum().backward()
    assert rate.grad.item() == pytest.approx(-3.2)


def test_the_example_of_the_documentation_is_right():
    assert doctest.testmod(l2l.algorithms) == doctest.TestResults(failed=0, attempted=6)


def test_a_cloned_module_computes_the_same_and_has_no_parameters_of_its_own():
    net = plain_encoder().eval()
    x = torch.randn(2, 1, 28, 28, generator=generator())
    clone = clone_module(net)
    assert torch.equal(clone(x), net(x))
    assert not any(isinstance(p, nn.Parameter) for p in clone.parameters())
