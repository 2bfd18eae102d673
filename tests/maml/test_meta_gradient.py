"""The package's MAML against the slow reference, in float64."""

import itertools

import jaxtyping
import pytest
import torch

import encoders_plain
import reference
from metacontrast.errors import InputError
from metacontrast.maml.engine import meta_gradient
from metacontrast.maml.inner import adapt, trajectory
from metacontrast.model.encoders import build_encoder
from metacontrast.model.head import zero_head
from metacontrast.model.model import Model
from metacontrast.types import Episode, Head, Inner, Params, map_params, to_tensors

TOLERANCE = 1e-12
"""Two orders of summation of about 1e5 float64 terms differ by some 1e-14 of the largest; 1e-12 leaves room."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(model: Model, seed: int = 0) -> Params:
    """Float64 parameters with nothing at a symmetric value."""
    noise = generator(seed + 1)
    params = map_params(lambda t: t.double(), model.init(generator(seed)))
    return map_params(lambda t: t + 0.05 * torch.randn(t.shape, generator=noise, dtype=t.dtype), params)


def tasks(shape: tuple[int, int, int], ways: int = 3, queries: int = 2, count: int = 2) -> list[Episode]:
    """Two shots: batch norm over three 1×1 maps alone amplifies rounding to 1e-11 in second order."""
    rng = generator(7)
    return [encoders_plain.random_episode(rng, ways, 2, queries, shape) for _ in range(count)]


def stack(episodes: list[Episode]) -> Episode:
    return Episode(*(torch.stack(parts) for parts in zip(*episodes, strict=True)))


def assert_equal(found: Params, expected: Params) -> None:
    scale = max(t.abs().max() for t in to_tensors(expected) if t.numel())
    assert scale > 1e-6, "a gradient that vanishes proves nothing"
    for a, b in zip(to_tensors(found), to_tensors(expected), strict=True):
        assert (a - b).abs().max() <= TOLERANCE * scale if a.numel() else a.shape == b.shape


def conv_released(head_bias: bool = True) -> Model:
    return Model(build_encoder("conv4-released", (1, 28, 28)), ways=3, head_bias=head_bias)


@pytest.mark.parametrize(
    ("order", "steps", "scope"),
    list(itertools.product(("first", "second"), (1, 5), ("all", "head", "encoder"))),
)
def test_outer_gradient_is_the_references_on_the_released_omniglot_encoder(order, steps, scope):
    """Algorithm 1 in every order and scope; the encoder's forward pass is the reference's own plain one."""
    model = conv_released()
    params, episodes = start(model), tasks((1, 28, 28))
    plain_names = list(encoders_plain.init_omniglot(generator()))

    def features(encoder, x):
        return encoders_plain.omniglot(dict(zip(plain_names, encoder.values(), strict=True)), x)

    found, _ = meta_gradient(model, params, stack(episodes), Inner(steps, 0.1, scope, order))
    expected = reference.meta_gradient(features, params, episodes, steps, 0.1, scope, order)
    assert_equal(found, expected)


@pytest.mark.parametrize("order", ["first", "second"])
def test_outer_gradient_is_the_references_on_the_released_colour_encoder(order):
    """The pooled 84×84 encoder in its true width; two steps, so that second order is not a special case."""
    model = Model(build_encoder("conv4-released", (3, 84, 84)), ways=2)
    params, episodes = start(model), tasks((3, 84, 84), ways=2, queries=1, count=1)
    plain_names = list(encoders_plain.init_mini(generator()))

    def features(encoder, x):
        return encoders_plain.mini(dict(zip(plain_names, encoder.values(), strict=True)), x)

    found, _ = meta_gradient(model, params, stack(episodes), Inner(2, 0.05, order=order))
    assert_equal(found, reference.meta_gradient(features, params, episodes, 2, 0.05, "all", order))


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize(
    ("name", "shape", "filters"),
    [("conv4", (1, 28, 28), 8), ("conv4", (3, 32, 32), 8), ("resnet12", (3, 16, 16), 4), ("mlp", (1, 8, 8), 16)],
)
def test_outer_gradient_is_the_references_on_every_other_encoder(name, shape, filters, order):
    """The same algorithm whatever the encoder; here the forward pass is the package's, the derivatives are not."""
    model = Model(build_encoder(name, shape, filters), ways=3)
    params, episodes = start(model), tasks(shape)
    found, _ = meta_gradient(model, params, stack(episodes), Inner(2, 0.05, order=order))
    assert_equal(found, reference.meta_gradient(model.features, params, episodes, 2, 0.05, "all", order))


@pytest.mark.parametrize("loss", ["cross_entropy", "mean_square_error"])
@pytest.mark.parametrize("bias", [True, False])
def test_losses_and_head_bias_agree_with_the_reference(loss, bias):
    """Cross entropy and half the squared error, head with and without bias."""
    model = conv_released(bias)
    params, episodes = start(model), tasks((1, 28, 28))
    found, _ = meta_gradient(model, params, stack(episodes), Inner(2, 0.05, order="second", loss=loss))
    expected = reference.meta_gradient(model.features, params, episodes, 2, 0.05, "all", "second", loss)
    assert_equal(found, expected)


@pytest.mark.parametrize("order", ["first", "second"])
def test_inductive_gradient_runs_through_the_support_statistics(order):
    """Query features are those of [support; query] with support statistics: written here with plain operations."""
    model = Model(build_encoder("conv4-released", (1, 28, 28), 8), ways=3, norm="inductive")
    params, (episode,) = start(model), tasks((1, 28, 28), count=1)
    inner = Inner(1, 0.1, order=order)
    found, _ = meta_gradient(model, params, stack([episode]), inner)

    leaves = map_params(lambda t: t.clone().requires_grad_(), params)
    logits = reference_logits(leaves, episode.support_x, 0)
    loss = torch.nn.functional.cross_entropy(logits, episode.support_y)
    steps = torch.autograd.grad(loss, to_tensors(leaves), create_graph=order == "second")
    moved = [t - 0.1 * (g if order == "second" else g.detach()) for t, g in zip(to_tensors(leaves), steps, strict=True)]
    *encoder, weight, bias = moved
    adapted = Params(dict(zip(params.encoder, encoder, strict=True)), Head(weight, bias))
    both = torch.cat([episode.support_x, episode.query_x])
    logits = reference_logits(adapted, both, len(episode.support_x))[len(episode.support_x) :]
    outer = torch.nn.functional.cross_entropy(logits, episode.query_y)
    gradients = torch.autograd.grad(outer, to_tensors(leaves))
    for a, b in zip(to_tensors(found), gradients, strict=True):
        assert (a - b).abs().max() <= 1e-10 * max(g.abs().max() for g in gradients)


def reference_logits(params: Params, x: torch.Tensor, reference_examples: int) -> torch.Tensor:
    """conv-ReLU-BN in elementary operations, statistics from the first examples (0: all)."""
    tensors = list(params.encoder.values())
    for block in range(4):
        weight, bias, gamma, beta = tensors[4 * block : 4 * block + 4]
        x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, stride=1 if block == 3 else 2))
        seen = x[: reference_examples or len(x)].transpose(0, 1).flatten(1)
        mean, var = seen.mean(1), seen.var(1, correction=0)
        shape = (1, -1, 1, 1)
        x = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * gamma.view(shape) + beta.view(shape)
    return x.flatten(1) @ params.head.weight.T + params.head.bias


def test_shared_head_gradient_is_the_sum_over_the_classes_rows():
    """UNICORN-MAML: all rows start equal, so the one meta-learned row collects the gradients of all of them."""
    encoder = build_encoder("conv4-released", (1, 28, 28), 8)
    shared, learned = Model(encoder, 3, head="shared"), Model(encoder, 3)
    params, episodes = start(shared), tasks((1, 28, 28))
    repeated = Params(params.encoder, Head(params.head.weight.repeat(3, 1), params.head.bias.repeat(3)))
    inner = Inner(2, 0.1, order="second")
    found, _ = meta_gradient(shared, params, stack(episodes), inner)
    expected, _ = meta_gradient(learned, repeated, stack(episodes), inner)
    assert torch.allclose(found.head.weight, expected.head.weight.sum(0, keepdim=True), rtol=1e-10, atol=1e-13)
    assert torch.allclose(found.head.bias, expected.head.bias.sum(0, keepdim=True), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("order", ["first", "second"])
def test_prototype_head_gradient_is_a_finite_difference(order):
    """ProtoMAML differentiates through the prototypes; checked along a random direction on a smooth encoder.

    In first order the inner gradient is a constant, so the finite difference keeps it fixed at its value.
    """
    from torch import nn

    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh())
    model = Model(body.double(), ways=3, feature_size=6, head="prototype")
    params, (episode,) = start(model), tasks((1, 4, 4), count=1)
    inner = Inner(1, 0.1, order=order)
    found, _ = meta_gradient(model, params, stack([episode]), inner)
    rng = generator(3)
    direction = {n: torch.randn(t.shape, generator=rng, dtype=t.dtype) for n, t in params.encoder.items()}

    def inner_gradient(p: Params) -> Params:
        begin = model.start(p, episode.support_x, episode.support_y)
        end = adapt(model, p, episode.support_x, episode.support_y, inner)
        return map_params(lambda a, b: (a - b) / 0.1, begin, end)

    fixed = inner_gradient(params)

    def loss(size: float) -> torch.Tensor:
        moved = Params({n: t + size * direction[n] for n, t in params.encoder.items()}, params.head)
        begin = model.start(moved, episode.support_x, episode.support_y)
        step = fixed if order == "first" else inner_gradient(moved)
        end = map_params(lambda a, g: a - 0.1 * g, begin, step)
        return torch.nn.functional.cross_entropy(model.logits(end, episode.query_x), episode.query_y)

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    along = sum((found.encoder[n] * direction[n]).sum() for n in direction)
    assert along.item() == pytest.approx(slope.item(), rel=1e-7, abs=1e-9)  # rounding: 1e-16 / 1e-5


def test_result_does_not_depend_on_the_number_of_threads_over_tasks():
    """Bit for bit: each task is one program of one operator thread, and they are summed in their order."""
    from concurrent.futures import ThreadPoolExecutor

    torch.set_num_threads(1)
    model = conv_released()
    params, episodes = model.init(generator()), stack(tasks((1, 28, 28), count=6))
    episodes = Episode(episodes.support_x.float(), episodes.support_y, episodes.query_x.float(), episodes.query_y)
    inner = Inner(2, 0.4)
    alone, _ = meta_gradient(model, params, episodes, inner)
    with ThreadPoolExecutor(3, initializer=lambda: torch.set_num_threads(1)) as executor:
        together, _ = meta_gradient(model, params, episodes, inner, executor)
    assert all(torch.equal(a, b) for a, b in zip(to_tensors(alone), to_tensors(together), strict=True))


def test_first_and_second_order_differ():
    """Guards the two options from being the same thing."""
    model = conv_released()
    params, episodes = start(model), stack(tasks((1, 28, 28)))
    first, _ = meta_gradient(model, params, episodes, Inner(1, 0.1))
    second, _ = meta_gradient(model, params, episodes, Inner(1, 0.1, order="second"))
    difference = sum((a - b).square().sum() for a, b in zip(to_tensors(first), to_tensors(second), strict=True))
    assert difference > 1e-4 * sum(t.square().sum() for t in to_tensors(second))


def test_adapt_returns_plain_tensors_and_leaves_its_input_alone():
    """A user's `adapt` holds no graph, in either order."""
    model = conv_released()
    params, (episode,) = start(model), tasks((1, 28, 28), count=1)
    before = map_params(torch.clone, params)
    for order in ("first", "second"):
        adapted = adapt(model, params, episode.support_x, episode.support_y, Inner(2, 0.1, order=order))
        assert not any(t.requires_grad for t in to_tensors(adapted))
    assert all(torch.equal(a, b) for a, b in zip(to_tensors(before), to_tensors(params), strict=True))


def test_no_step_changes_nothing_and_a_trajectory_has_every_step():
    model = conv_released()
    params, (episode,) = start(model), tasks((1, 28, 28), count=1)
    path = list(trajectory(model, params, episode.support_x, episode.support_y, Inner(3, 0.1)))
    assert len(path) == 4
    assert all(torch.equal(a, b) for a, b in zip(to_tensors(path[0]), to_tensors(params), strict=True))
    direct = adapt(model, params, episode.support_x, episode.support_y, Inner(2, 0.1))
    assert torch.equal(direct.head.weight, path[2].head.weight)


def test_a_zeroed_head_adapts_to_any_number_of_ways():
    """Trained 3-way, used 7-way: only the head's shape knew the number."""
    model = conv_released()
    params, (episode,) = start(model), tasks((1, 28, 28), ways=7, count=1)
    adapted = adapt(model.with_ways(7), zero_head(params, ways=7), episode.support_x, episode.support_y, Inner(1, 0.1))
    assert adapted.head.weight.shape == (7, 64)
    assert adapted.head.weight.abs().max() > 0


def test_a_kept_head_refuses_another_number_of_ways():
    model = conv_released()
    params, (episode,) = start(model), tasks((1, 28, 28), ways=7, count=1)
    with pytest.raises(InputError, match="trained for 3 classes and cannot be kept for 7"):
        adapt(model.with_ways(7), params, episode.support_x, episode.support_y, Inner(1, 0.1))


@pytest.mark.parametrize(("field", "value"), [("steps", -1), ("lr", 0.0), ("lr", float("nan"))])
def test_impossible_inner_settings_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        Inner(**{field: value})


@pytest.mark.parametrize(
    ("head", "change", "inner", "message"),
    [
        ("zeroed", {}, {"scope": "encoder"}, "leaves the rows of a zeroed head alike, and nothing is learned"),
        ("shared", {}, {"scope": "encoder"}, "leaves the rows of a shared head alike, and nothing is learned"),
        ("learned", {"query_x": slice(1), "query_y": slice(1)}, {}, "2 tasks have support sets and 1 query sets"),
        ("learned", {}, {"loss": lambda outputs, labels: outputs.sum() * 1j}, "the loss is torch.complex64"),
        ("learned", {}, {"loss": lambda outputs, labels: outputs.detach().sum()}, "does not depend on the parameters"),
    ],
)
def test_tasks_and_losses_without_an_outer_gradient_are_refused(head, change, inner, message):
    model = Model(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)), 2, 3, head=head)
    y = torch.arange(2).expand(2, -1)
    episodes = Episode(torch.rand(2, 2, 1, 2, 2), y, torch.rand(2, 2, 1, 2, 2), y)
    episodes = episodes._replace(**{name: getattr(episodes, name)[part] for name, part in change.items()})
    with pytest.raises(InputError, match=message):
        meta_gradient(model, model.init(torch.Generator()), episodes, Inner(**inner))


def test_points_of_one_task_are_not_taken_for_tasks_of_one_point(monkeypatch):
    """Regression on inputs of shape (point, 1) has labels of shape (point,)."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model = Model(torch.nn.Linear(1, 3), 1, 3)
    x, loss = torch.rand(10, 1), lambda outputs, targets: (outputs[:, 0] - targets).square().mean()
    params = model.init(torch.Generator())
    with pytest.raises(InputError, match=r"labels of shape \(10, 1\) would be one-image tasks: give \(image,\)"):
        adapt(model, params, x, x, Inner(loss=loss))
    assert adapt(model, params, x, x[:, 0], Inner(loss=loss)).head.weight.shape == (1, 3)


def test_parameters_of_several_adapted_tasks_are_no_start_and_serve_no_single_task():
    """A batch's parameters have a task axis, which would broadcast over the images of one task."""
    model = Model(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)), 2, 3)
    params, y = model.init(torch.Generator()), torch.arange(2).expand(3, -1)
    batch = Episode(torch.rand(3, 2, 1, 2, 2), y, torch.rand(3, 2, 1, 2, 2), y)
    adapted = adapt(model, params, batch.support_x, batch.support_y, Inner())
    with pytest.raises(InputError, match="several adapted tasks, the images of one"):
        model.query_logits(adapted, batch.support_x[0], batch.query_x[0])
    with pytest.raises(InputError, match="several adapted tasks, the images of one"):
        model.logits(adapted, batch.query_x[0])
    with pytest.raises(InputError, match="several adapted tasks: start from the parameters before adapt"):
        adapt(model, adapted, batch.support_x, batch.support_y, Inner())
    with pytest.raises(InputError, match="do not have the sum 1"):
        adapt(model, params, batch.support_x, batch.support_y, Inner(), torch.ones(3, 2))


def test_a_head_of_class_means_has_no_regression(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model = Model(torch.nn.Linear(1, 3), 2, 3, head="prototype")
    loss = lambda outputs, targets: (outputs[:, 0] - targets).square().mean()  # noqa: E731
    with pytest.raises(InputError, match="averages the images of a class, and labels are numbers"):
        adapt(model, model.init(torch.Generator()), torch.rand(4, 1), torch.rand(4), Inner(loss=loss))
