"""Encoders of kinds that nothing here was built for: the slow right path, whatever they do with their batch.

Tasks must never meet: not in training, evaluation, the classifier or explain. The reference calls the plain module,
task by task, under ordinary autograd in float64.
"""

import copy
import pickle
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.checkpoint import checkpoint

import reference
from metacontrast import FewShotClassifier
from metacontrast.classifier.starting_point import StartingPoint
from metacontrast.data.episodes import EpisodeSampler
from metacontrast.data.image_format import ImageFormat
from metacontrast.diagnostics.task_view import view_task
from metacontrast.errors import InputError
from metacontrast.maml.engine import Engine, meta_gradient
from metacontrast.maml.inner import adapt
from metacontrast.model.head import class_means, zero_head
from metacontrast.model.image_wise import keeps_images_apart
from metacontrast.model.model import Model
from metacontrast.training.evaluate import Evaluation, evaluate
from metacontrast.types import Episode, Inner, map_params, to_tensors
from once_squared import OnceSquared
from toy_images import noisy_images

TOLERANCE = 1e-12
WAYS, SIZE, SIDE = 3, 5, 6


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, SIZE), nn.Tanh())


class Wrapped(nn.Module):
    """A body and a function of its input or output, as a user would write it."""

    def __init__(self):
        super().__init__()
        self.body = layers()


class Mirrored(Wrapped):
    """Features averaged over an image and its mirror image."""

    def forward(self, x):
        one, other = self.body(torch.cat([x, x.flip(-1)])).chunk(2)
        return (one + other) / 2


class Centred(Wrapped):
    """Features minus the batch's mean."""

    def forward(self, x):
        found = self.body(x)
        return found - found.mean(0)


class Standardized(Wrapped):
    """Batch standardization written by hand."""

    def forward(self, x):
        found = self.body(x)
        return (found - found.mean(0)) / (found.var(0, correction=0) + 0.1).sqrt()


class Attending(Wrapped):
    """Attention across the images of the batch."""

    def forward(self, x):
        found = self.body(x)
        return torch.softmax(found @ found.T, 1) @ found


class Ranked(Wrapped):
    """Features divided by the largest of the batch."""

    def forward(self, x):
        found = self.body(x)
        return found / found.abs().amax(0)


class Iterated(Wrapped):
    """A forward that iterates over its layers."""

    def forward(self, x):
        for layer in self.body:
            x = layer(x)
        return x


class Sliced(Wrapped):
    """A forward that slices and indexes its layers."""

    def forward(self, x):
        return self.body[-1](self.body[3](self.body[:3](x)))


class Recurrent(nn.Module):
    """A recurrent network over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.rows = nn.GRU(SIDE, SIZE, batch_first=True)

    def forward(self, x):
        return self.rows(x[:, 0])[1][0]


class Tokens(nn.Module):
    """A class token of the batch's size, as vision transformers have it."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, SIZE))
        self.project = nn.Linear(SIDE, SIZE)

    def forward(self, x):
        rows = torch.cat([self.token.expand(len(x), -1, -1), self.project(x[:, 0])], 1)
        return (torch.softmax(rows @ rows.mT, -1) @ rows)[:, 0]


class Reused(nn.Module):
    """One layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Linear(SIDE**2, SIZE), nn.Linear(SIZE, SIZE)

    def forward(self, x):
        return torch.tanh(self.again(torch.tanh(self.again(self.first(x.flatten(1))))))


class MeanTaker(nn.Module):
    """A layer without parameters that mixes images, for use within known layers."""

    def forward(self, x):
        return x - x.mean(0)


class MixingConvolution(nn.Conv2d):
    """A subclass of a known layer that mixes images."""

    def forward(self, input):
        return super().forward(input - input.mean(0))


def sequential_with(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), layer, nn.Flatten(), nn.Linear(32, SIZE))


def hooked() -> nn.Module:
    body = layers()
    body[0].register_forward_hook(lambda module, inputs, output: output - output.mean(0))
    return body


class Viewed(nn.Module):
    """A view of the usual memory order, of features and of a weight."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 2, 3), nn.Conv2d(2, SIZE, 3)

    def forward(self, x):
        found = self.two(torch.tanh(self.one(x)))
        return found.view(len(x), SIZE, -1).sum(-1) + self.two.weight.view(SIZE, -1).sum(1)


class Branching(Wrapped):
    """Control flow that depends on the images."""

    def forward(self, x):
        return self.body(x if x.max() > 0.9 else -x)


class Overwriting(Wrapped):
    """Writes to its images and, outside of autograd, to its weights."""

    def forward(self, x):
        x.sub_(0.5).mul_(2)
        with torch.no_grad():
            self.body[3].weight.copy_(self.body[3].weight.clamp(-0.1, 0.1))
        return self.body(x)


class Listed(nn.Module):
    """A batch norm that is reached by a list too."""

    def __init__(self):
        super().__init__()
        self.body, self.norm = layers(), nn.BatchNorm2d(2)
        self.norms = [self.norm]

    def forward(self, x):
        return self.body[1:](self.norms[0](self.body[0](x)))


class Twins(Wrapped):
    """Two batch norms with the same weights, without a bias."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.BatchNorm2d(1, affine=True), nn.BatchNorm2d(1)
        self.two.weight, self.two.bias = self.one.weight, None

    def forward(self, x):
        return self.body(self.two(self.one(x).square()))


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def reparametrized() -> nn.Module:
    body = layers()
    register_parametrization(body[3], "weight", Doubled())
    return body


class Softmaxed(Wrapped):
    """A softmax over the batch, by a known layer with an unusual argument."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*layers(), nn.Softmax(dim=0))

    def forward(self, x):
        return self.body(x)


class Padded(nn.Module):
    """An embedding of grey levels whose padding is not learned."""

    def __init__(self):
        super().__init__()
        self.levels, self.last = nn.Embedding(4, 3, padding_idx=1), nn.Linear(3, SIZE)

    def forward(self, x):
        return self.last(self.look_up((4 * x).long().flatten(1)).tanh().mean(1))

    def look_up(self, places):
        return self.levels(places)


class PaddedByFunction(Padded):
    def look_up(self, places):
        return nn.functional.embedding(places, self.levels.weight, 1)


def double_the_gradient(module, inputs, outputs):
    return tuple(None if each is None else 2 * each for each in inputs)


def hooked_backward() -> nn.Module:
    body = layers()
    body[1].register_full_backward_hook(double_the_gradient)
    return body


class Counted(Padded):
    """An embedding whose gradient is divided by how often a row is looked up."""

    def __init__(self):
        super().__init__()
        self.levels = nn.Embedding(4, 3, scale_grad_by_freq=True)


class PaddedDirectly(Padded):
    def look_up(self, places):
        return torch.embedding(self.levels.weight, places, 1)


class AskingForTheGraph(Wrapped):
    """A gradient that is changed where there is a graph."""

    def forward(self, x):
        found = self.body(x)
        if found.grad_fn is not None and not found.is_leaf:
            found.grad_fn.register_hook(lambda after, before: tuple(None if g is None else 2 * g for g in after))
        return found


class HookedGradient(Wrapped):
    """A gradient that is changed where there is one."""

    def forward(self, x):
        found = self.body[:2](x)
        if found.requires_grad:
            found.register_hook(lambda gradient: gradient * 2)
        return self.body[2:](found)


class Transformed(nn.Module):
    """A transformer layer, which PyTorch runs in another way where no gradient seems to be needed."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(SIDE, 2, 8, dropout=0.0, batch_first=True)
        self.last = nn.Linear(SIDE, SIZE)

    def forward(self, x):
        return self.last(self.layer(x[:, 0]).mean(1))


class Described(nn.Module):
    """Layers that carry a value, which the forward reads."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, SIZE, 3), nn.BatchNorm2d(SIZE), nn.ReLU())
        self.body.scale = 3.0

    def forward(self, x):
        return self.body.scale * self.body(x).mean((2, 3))


class Changing(nn.Module):
    """Sets its activation at every call."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, SIZE, 3), nn.BatchNorm2d(SIZE), nn.LeakyReLU(0.01))

    def forward(self, x):
        self.body[2].negative_slope = 0.9
        return self.body(x).mean((2, 3))


class TakingOutputs(Changing):
    """Takes the output of an inner layer, by a hook for the time of a call."""

    def forward(self, x):
        kept = []
        handle = self.body[1].register_forward_hook(lambda module, given, output: kept.append(output))
        self.body(x)
        handle.remove()
        return kept[0].mean((2, 3))


KINDS = {
    "padded": Padded,
    "padded by a function": PaddedByFunction,
    "padded directly": PaddedDirectly,
    "counted": Counted,
    "asking for the graph": AskingForTheGraph,
    "hooked backward": hooked_backward,
    "hooked gradient": HookedGradient,
    "transformed": Transformed,
    "changing": Changing,
    "taking outputs": TakingOutputs,
    "described": Described,
    "mirrored": Mirrored,
    "centred": Centred,
    "standardized": Standardized,
    "attending": Attending,
    "ranked": Ranked,
    "iterated": Iterated,
    "sliced": Sliced,
    "recurrent": Recurrent,
    "tokens": Tokens,
    "reused": Reused,
    "mixing layer": lambda: sequential_with(MeanTaker()),
    "mixing subclass": lambda: nn.Sequential(MixingConvolution(1, 2, 3), *list(layers())[1:]),
    "hooked": hooked,
    "softmax over the batch": Softmaxed,
    "viewed": Viewed,
    "branching": Branching,
    "overwriting": Overwriting,
    "listed": Listed,
    "twins": Twins,
    "reparametrized": reparametrized,
}
MIXING = ("centred", "standardized", "attending", "ranked", "mixing layer", "mixing subclass", "hooked")


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return KINDS[kind]().double()


def model_of(kind: str, **options) -> tuple[Model, reference.Params]:
    model = Model(build(kind), WAYS, feature_size=SIZE, **options)
    params = model.init(torch.Generator().manual_seed(1))
    return model, params


def plain_features(kind: str):
    """The module itself, in training mode so that batch norms take the batch's statistics."""
    module = build(kind).train()

    def features(encoder, x):
        fresh = {name: buffer.clone() for name, buffer in module.named_buffers()}
        own = {name: tensor.clone() for name, tensor in encoder.items()}
        return torch.func.functional_call(module, (own, fresh), (x.clone(),))

    return features


def batch(tasks: int = 4) -> Episode:
    rng, y = torch.Generator().manual_seed(5), torch.arange(WAYS).repeat_interleave(2).expand(tasks, -1)
    support, query = (torch.rand(tasks, 2 * WAYS, 1, SIDE, SIDE, generator=rng, dtype=torch.float64) for _ in range(2))
    return Episode(support, y, query, y)


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = TOLERANCE) -> None:
    scale = max(t.abs().max() for t in expected)
    assert scale > 1e-6, "a gradient that vanishes proves nothing"
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= tolerance * scale


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("scope", ["all", "head", "encoder"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_the_outer_gradient_is_plain_autograds(kind, scope, order):
    """Several tasks a batch, in every scope and order, by loop and by map: a task meets its own images alone."""
    if kind in ("recurrent", "transformed") and order == "second":
        pytest.skip("PyTorch has no second derivative of its fused recurrent layers and attention")
    model, params = model_of(kind)
    episodes = batch()
    each = [Episode(*parts) for parts in zip(*episodes, strict=True)]
    expected = reference.meta_gradient(plain_features(kind), params, each, 2, 0.1, scope, order)
    for engine in ("loop", "vmap"):  # what cannot be mapped takes one task after the other
        found, _ = meta_gradient(model, params, episodes, Inner(2, 0.1, scope, order), engine=Engine(engine))
        assert_same(to_tensors(found), to_tensors(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_scores_every_task_alone(kind, in_float64):
    """Accuracies of kept and zeroed heads and of the nearest mean against tasks that are computed one by one.

    In float64, so that no two logits are so close that rounding decides.
    """
    images = noisy_images(seed=2)
    tasks = EpisodeSampler(images, WAYS, 2, 3)
    torch.manual_seed(0)
    side = nn.AdaptiveAvgPool2d(SIDE)
    encoder = nn.Sequential(side, KINDS[kind]()).double()
    model = Model(encoder, WAYS, feature_size=SIZE)
    params, inner = model.init(torch.Generator().manual_seed(1)), Inner(1, 0.3)
    rows = evaluate(model, params, tasks, inner, Evaluation((1,), episodes=6))
    for row in rows:
        right = []
        for index in range(6):
            support_x, support_y, query_x, query_y = tasks[index]
            if row.method == "maml":
                start = params if row.head == "kept" else zero_head(params)
                adapted = adapt(model, start, support_x, support_y, inner)
                answers = model.query_logits(adapted, support_x, query_x).argmax(1)
            else:
                means = class_means(model.features(params.encoder, support_x), support_y, WAYS)
                answers = torch.cdist(model.features(params.encoder, query_x), means).argmin(1)
            right.append((answers == query_y).double().mean())
        assert row.accuracy == pytest.approx(torch.stack(right).mean().item(), abs=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "recurrent"])
def test_explain_takes_the_same_gradient(kind):
    """What `explain` takes apart is the gradient of plain autograd."""
    model, params = model_of(kind)
    episode = Episode(*(part[0] for part in batch()))
    expected = reference.meta_gradient(plain_features(kind), params, [episode], 1, 0.1, "all", "first")
    found = view_task(model, params, Inner(1, 0.1), episode).gradients[0]
    assert_same([found], [torch.cat([t.flatten() for t in expected.encoder.values()])])


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_refuses_an_encoder_that_mixes_images_and_serves_any_other(kind):
    """An answer must not depend on what else is asked: such an encoder is refused in one line."""
    torch.manual_seed(0)
    start = StartingPoint.from_encoder(KINDS[kind](), ImageFormat(1, SIDE), Inner(2, 0.3, "head"), SIZE)
    x = torch.rand(6, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).mul(255).byte().numpy()
    classifier = FewShotClassifier(start)
    if kind in MIXING or kind == "softmax over the batch":
        with pytest.raises(InputError, match="change by"):
            classifier.fit(x, [0, 0, 1, 1, 2, 2])
        return
    classifier.fit(x, [0, 0, 1, 1, 2, 2])
    one_by_one = [classifier.predict_proba(image[None])[0].tolist() for image in x]
    assert classifier.predict_proba(x).tolist() == one_by_one


def test_what_is_known_to_keep_images_apart_is_what_does():
    """Known layers are recognized, in the built-in encoders too; none of the kinds above passes for known."""
    assert keeps_images_apart(layers().eval())
    assert not keeps_images_apart(nn.Sequential(nn.Flatten(0)).eval())
    assert not keeps_images_apart(nn.Sequential(nn.BatchNorm2d(3)).train())
    assert not any(keeps_images_apart(copy.deepcopy(build(kind)).eval()) for kind in KINDS)


@pytest.mark.parametrize("seed", range(60))
def test_any_part_of_a_convolution_may_be_frozen(seed):
    """Weights and biases frozen at random: the gradient of the rest is the reference's."""
    rng = torch.Generator().manual_seed(seed)
    torch.manual_seed(0)
    own = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Flatten())
    ).double()
    for parameter in own.parameters():
        parameter.requires_grad_(bool(torch.rand((), generator=rng) < 0.5))
    if not any(p.requires_grad for p in own.parameters()):
        own[0].weight.requires_grad_(True)
    model = Model(own, WAYS, feature_size=12)
    params, episodes = model.init(rng), batch()
    module = copy.deepcopy(own).train()

    def features(encoder, x):
        fresh = {name: buffer.clone() for name, buffer in module.named_buffers()}
        return torch.func.functional_call(module, (encoder, fresh), (x,))

    each = [Episode(*parts) for parts in zip(*episodes, strict=True)]
    expected = reference.meta_gradient(features, params, each, 2, 0.1, "all", "second")
    found, _ = meta_gradient(model, params, episodes, Inner(2, 0.1, order="second"))
    assert_same(to_tensors(found), to_tensors(expected))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", ["transductive", "inductive"])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("scope", ["all", "head"])
def test_what_a_zeroed_head_saves_changes_no_number(scope, order, steps, norm, bias):
    """From a head of zeros the first step leaves the encoder: skipping its gradient is exact, to 1e-12 in float64.

    The plain path is that of a learned head whose start happens to be zero.
    """
    from metacontrast.model.encoders import conv4

    encoder = conv4(1, 16, filters=4)
    zeroed = Model(encoder, WAYS, head="zeroed", norm=norm, head_bias=bias)
    plain = replace(zeroed, head="learned", fused=False)
    params = zeroed.init(torch.Generator().manual_seed(0))
    params = reference.Params({n: t.double() for n, t in params.encoder.items()}, params.head)
    params = params._replace(head=type(params.head)(*(None if t is None else t.double() for t in params.head)))
    rng, y = torch.Generator().manual_seed(5), torch.arange(WAYS).repeat_interleave(2).expand(4, -1)
    support, query = (torch.rand(4, 2 * WAYS, 1, 16, 16, generator=rng, dtype=torch.float64) for _ in range(2))
    episodes, inner = Episode(support, y, query, y), Inner(steps, 0.1, scope, order)
    expected, losses = meta_gradient(plain, params, episodes, inner)
    for engine in ("loop", "vmap"):
        found, metrics = meta_gradient(zeroed, params, episodes, inner, engine=Engine(engine))
        assert_same(list(found.encoder.values()), list(expected.encoder.values()))
        assert not any(t.any() for t in found.head if t is not None)
        torch.testing.assert_close(metrics.loss, losses.loss, rtol=1e-12, atol=0)


def test_a_zeroed_head_that_is_not_zero_is_refused():
    """The shortcut would be wrong from any other head."""
    model, params = model_of("reused", head="zeroed")
    params.head.weight[0, 0] = 1
    with pytest.raises(InputError, match="is not zero"):
        meta_gradient(model, params, batch(), Inner(1, 0.1))


class Checkpointed(Wrapped):
    """A part that is computed again in the backward pass, when the module's parameters are others."""

    def __init__(self, reentrant: bool):
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x):
        return self.body[3:](checkpoint(self.body[:3], x.requires_grad_(), use_reentrant=self.reentrant))


class Once(Wrapped):
    def forward(self, x):
        return OnceSquared.apply(self.body(x))


class Unlearned(Wrapped):
    def forward(self, x):
        with torch.no_grad():
            return self.body(x)


class Whole(Wrapped):
    def forward(self, x):
        return self.body(x).argsort()


def closed_over() -> nn.Module:
    body = layers()
    body.forward = lambda x: nn.Sequential.forward(body, x)
    return body


def hooked_by_itself() -> nn.Module:
    body = Wrapped()
    body.scale = nn.Parameter(torch.ones(()))
    body.body.register_forward_hook(partial(lambda module, inputs, output: output * body.scale))
    return body


class Unregistered(Wrapped):
    """Parameters that the forward takes from a list, where nothing can put others in their place."""

    def __init__(self, registered: bool):
        super().__init__()
        self.scales = [nn.Parameter(torch.rand(SIZE).double() + 1)]
        if registered:
            self.scale = self.scales[0]

    def forward(self, x):
        return self.body(x) * self.scales[0]


class Remembering(Wrapped):
    """A weight that is made from a parameter once, and kept."""

    def __init__(self):
        super().__init__()
        self.raw, self.kept = nn.Parameter(torch.rand(SIZE)), None

    def forward(self, x):
        if self.kept is None:
            self.kept = self.raw.tanh()
        return self.body(x) * self.kept


class Stacked(nn.Module):
    """Two halves of every image, one after the other, in a block that runs as one."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, SIZE, 3), nn.BatchNorm2d(SIZE), nn.ReLU())

    def forward(self, x):
        return self.body(torch.cat(x.chunk(2, 3))).mean((2, 3)).unflatten(0, (2, len(x))).sum(0)


def halved_away() -> nn.Module:
    block = [nn.Conv2d(1, SIZE, 3, stride=6), nn.BatchNorm2d(SIZE), nn.MaxPool2d(2)]
    return nn.Sequential(*block, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Imaginary(Wrapped):
    def forward(self, x):
        return self.body(x) * 1j


def hooked_weight() -> nn.Module:
    body = layers()
    body[0].weight.register_hook(lambda gradient: 0 * gradient)
    return body


class Normed(Wrapped):
    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.body[3])

    def forward(self, x):
        return self.body(x)


REFUSED = {
    "weight norm": (Normed, "second", "weight_norm, whose second derivative is wrong in PyTorch"),
    "in DataParallel": (lambda: nn.DataParallel(layers()), "first", r"in nn\.DataParallel.*: give its \.module"),
    "checkpoint": (lambda: Checkpointed(False), "first", "computes a part again in the backward pass"),
    "checkpoint, second order": (lambda: Checkpointed(False), "second", "computes a part again in the backward pass"),
    "reentrant checkpoint": (lambda: Checkpointed(True), "first", "computes a part again in the backward pass"),
    "once differentiable": (Once, "second", "once_differentiable: use order='first'"),
    "no gradient": (Unlearned, "first", "does not depend on the parameters"),
    "list": (lambda: Unregistered(True), "first", "trained values besides its registered parameters"),
    "list alone": (lambda: Unregistered(False), "second", "trained values besides its registered parameters"),
    "kept weight": (Remembering, "first", "kept from an earlier call"),
    "kept weight, second order": (Remembering, "second", "kept from an earlier call"),
    "kept weight, made without a graph": (Remembering, "head only", "kept from an earlier call"),
    "pooled away": (halved_away, "first", "maps of 1×1 cannot be halved"),
    "complex features": (Imaginary, "first", r"features are torch\.complex128"),
    "whole numbers": (Whole, "first", r"features are torch\.int64"),
    "closure": (closed_over, "first", r"holds a function \(closed_over.* that uses the encoder itself"),
    "hook with a closure": (hooked_by_itself, "first", r"holds a function \(hooked_by_itself.* that uses the encoder"),
    "hook on a weight": (hooked_weight, "first", r"0\.weight has a hook on its gradient"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_what_cannot_be_computed_rightly_is_refused(kind):
    """Each of these would else have a wrong gradient, or a traceback."""
    build_one, order, problem = REFUSED[kind]

    def gradient(engine: str) -> None:
        model = Model(build_one().double(), WAYS, feature_size=SIZE)
        params = model.init(torch.Generator())
        inner = Inner(2, 0.1, scope="head") if order == "head only" else Inner(2, 0.1, order=order)
        meta_gradient(model, params, batch(2), inner, engine=Engine(engine))

    for engine in ("loop", "vmap"):
        with pytest.raises(InputError, match=problem):
            gradient(engine)


@pytest.mark.parametrize("in_forward", [False, True])
def test_a_layer_that_is_used_twice_and_tied_to_another_stays_so(in_forward):
    """At every call; the reference is written by hand, since `functional_call` breaks the tie."""
    first, last = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)
    last.weight = first.weight
    body = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, SIZE), first, nn.Tanh(), first, nn.Tanh(), last)
    module = nn.Sequential(Around(body)) if in_forward else body
    model = Model(module.double(), WAYS, feature_size=SIZE)
    params, episodes = model.init(torch.Generator().manual_seed(1)), batch()

    names = [name.removeprefix("0.body.") for name in params.encoder]
    assert names == ["1.weight", "1.bias", "2.weight", "2.bias", "6.bias"]

    def features(encoder, x):
        into, into_bias, weight, bias, end = encoder.values()
        x = x.flatten(1) @ into.T + into_bias
        for _ in range(2):
            x = torch.tanh(x @ weight.T + bias)
        return x @ weight.T + end

    for order in ("first", "second"):
        each = [Episode(*parts) for parts in zip(*episodes, strict=True)]
        expected = reference.meta_gradient(features, params, each, 2, 0.1, "all", order)
        for engine in ("loop", "vmap"):
            found, _ = meta_gradient(model, params, episodes, Inner(2, 0.1, order=order), engine=Engine(engine))
            assert_same(to_tensors(found), to_tensors(expected))


class Around(nn.Module):
    """A body, and what is said of it twice: its last weight is a buffer too."""

    def __init__(self, body, alias=None):
        super().__init__()
        self.body = body
        if alias is not None:
            self.register_buffer("alias", alias)

    def forward(self, x):
        return self.body(x)


def test_a_weight_may_be_a_buffer_too():
    torch.manual_seed(0)
    body = layers().double()
    module = Around(body, body[3].weight)
    model = Model(module, WAYS, feature_size=SIZE)
    params, episodes = model.init(torch.Generator().manual_seed(1)), batch()

    def features(encoder, x):
        return torch.func.functional_call(body, {n.removeprefix("body."): t for n, t in encoder.items()}, x)

    each = [Episode(*parts) for parts in zip(*episodes, strict=True)]
    expected = reference.meta_gradient(features, params, each, 2, 0.1, "all", "second")
    found, _ = meta_gradient(model, params, episodes, Inner(2, 0.1, order="second"))
    assert_same(to_tensors(found), to_tensors(expected))


def test_a_transposed_convolution_of_grey_images_has_its_second_derivative():
    """PyTorch has none where the memory order of one channel can be read in two ways."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.ConvTranspose2d(1, SIZE, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    model = Model(module, WAYS, feature_size=SIZE)
    params, episodes = model.init(torch.Generator().manual_seed(1)), batch()
    each = [Episode(*parts) for parts in zip(*episodes, strict=True)]
    features = partial(torch.func.functional_call, module)
    expected = reference.meta_gradient(features, params, each, 2, 0.1, "all", "second")
    found, _ = meta_gradient(model, params, episodes, Inner(2, 0.1, order="second"))
    assert_same(to_tensors(found), to_tensors(expected))


def test_a_head_alone_may_require_a_gradient_through_second_order_steps():
    """Those of the encoder depend on the head's start."""
    model, params = model_of("mirrored")
    episodes, inner = batch(1), Inner(2, 0.5, order="second")
    weight = params.head.weight.clone().requires_grad_()
    support_x, support_y, query_x, query_y = (t[0] for t in episodes)
    adapted = adapt(model, params._replace(head=params.head._replace(weight=weight)), support_x, support_y, inner)
    loss = nn.functional.cross_entropy(model.query_logits(adapted, support_x, query_x), query_y)
    expected, _ = meta_gradient(model, params, episodes, inner)
    assert_same([torch.autograd.grad(loss, weight)[0]], [expected.head.weight])


def test_a_loss_that_is_once_differentiable_is_refused_in_second_order():
    model, params = model_of("mirrored")

    def loss(outputs, labels):
        return OnceSquared.apply(outputs - nn.functional.one_hot(labels, WAYS)).mean()

    meta_gradient(model, params, batch(2), Inner(1, 0.1, loss=loss))
    with pytest.raises(InputError, match="the encoder or the loss has an autograd function that is marked"):
        meta_gradient(model, params, batch(2), Inner(1, 0.1, order="second", loss=loss))


def test_the_mean_over_many_tasks_is_exact_in_half_precision():
    """A sum in bfloat16 stops to grow after 256 equal tasks."""
    model = Model(nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, SIZE)).bfloat16(), WAYS, feature_size=SIZE)
    params, one = model.init(torch.Generator().manual_seed(1)), batch(1)
    many = Episode(*(t.bfloat16() if t.is_floating_point() else t for t in one))
    single, _ = meta_gradient(model, params, many, Inner(1, 0.1))
    found, _ = meta_gradient(model, params, Episode(*(t.expand(600, *t.shape[1:]) for t in many)), Inner(1, 0.1))
    assert_same(to_tensors(found), to_tensors(single), 2**-7)


@pytest.mark.parametrize("engine", ["compiled-loop", "compiled-vmap"])
def test_compiled_engines_refuse_layers_of_unknown_kind(engine):
    model, params = model_of("mirrored")
    with pytest.raises(InputError, match=f"engine={engine} takes only PyTorch's own layers"):
        meta_gradient(model, params, batch(2), Inner(1, 0.1), engine=Engine(engine))


def test_layers_that_run_as_one_keep_the_mode_of_the_encoder():
    class Dropping(Described):
        def forward(self, x):
            return nn.functional.dropout(super().forward(x), 0.5, self.body.training)

    model = Model(Dropping(), WAYS, feature_size=SIZE)
    params, x = model.init(torch.Generator()), torch.rand(6, 1, SIDE, SIDE)
    assert torch.equal(model.features(params.encoder, x), model.features(params.encoder, x))


def test_frozen_layers_of_another_precision_are_refused():
    """Their part of the sums would be as coarse as they are."""
    model = Model(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False), nn.Flatten()), WAYS, 32)
    params = map_params(torch.Tensor.double, model.init(torch.Generator()))
    with pytest.raises(InputError, match=r"1\.weight is torch.float32 and frozen, but what is given torch.float64"):
        meta_gradient(model, params, batch(2), Inner(1, 0.1))


@pytest.mark.parametrize(
    ("rates", "problem"),
    [
        (
            {"0.weight": torch.ones(1)},
            "rates has '0.weight', which is no parameter: names are such as 'encoder.0.weight'",
        ),
        ({"encoder.0.weight": torch.tensor(0.1)}, r"have shape \(\): give \(step,\)"),
        ({"encoder.0.weight": torch.ones(0)}, r"have shape \(0,\): give \(step,\)"),
        ({"encoder.0.weight": torch.ones(1, 7)}, r"must fit \(2, 1, 3, 3\)"),
    ],
)
def test_rates_that_belong_to_no_parameter_are_refused(rates, problem):
    torch.manual_seed(0)
    model = Model(layers().double(), WAYS, SIZE)
    params = model.init(torch.Generator())._replace(rates=rates)
    with pytest.raises(InputError, match=problem):
        meta_gradient(model, params, batch(2), Inner(1, 0.1))


def test_a_direction_returns_a_pair():
    torch.manual_seed(0)
    model = Model(layers().double(), WAYS, SIZE)
    params = model.init(torch.Generator())
    with pytest.raises(InputError, match="the direction returns something else than a pair"):
        meta_gradient(model, params, batch(2), Inner(1, 0.1, direction=lambda gradient, memory: gradient))


def test_an_encoder_of_unknown_layers_runs_in_inference_mode():
    model, params = model_of("mirrored")
    expected = model.features(params.encoder, batch(1).support_x[0])
    with torch.inference_mode():
        found = model.features(params.encoder, batch(1).support_x[0])
    assert torch.equal(found, expected)


def test_images_that_require_a_gradient_may_be_written_to():
    """The graph that they came with is not the encoder's."""

    class Shifted(Wrapped):
        def forward(self, x):
            mean = x.mean((1, 2, 3))
            x.sub_(mean[:, None, None, None])
            return self.body(x) + mean[:, None]

    torch.manual_seed(0)
    model = Model(Shifted().double(), WAYS, feature_size=SIZE)
    params, x = model.init(torch.Generator()), batch(1).support_x[0]
    learned = {name: t.requires_grad_() for name, t in params.encoder.items()}
    assert torch.equal(model.features(learned, (2 * x.requires_grad_()) / 2), model.features(learned, x.detach()))


def test_a_function_that_is_once_differentiable_serves_first_order():
    """Its first derivative is right."""
    torch.manual_seed(0)
    module = Once().double()
    model = Model(module, WAYS, feature_size=SIZE)
    params, episodes = model.init(torch.Generator().manual_seed(1)), batch()

    def features(encoder, x):
        return torch.func.functional_call(module.body, {n.removeprefix("body."): t for n, t in encoder.items()}, x) ** 2

    each = [Episode(*parts) for parts in zip(*episodes, strict=True)]
    expected = reference.meta_gradient(features, params, each, 2, 0.1, "all", "first")
    found, _ = meta_gradient(model, params, episodes, Inner(2, 0.1))
    assert_same(to_tensors(found), to_tensors(expected))


def test_neither_images_nor_parameters_of_the_caller_are_written_to():
    """Also by known layers that work in place."""
    for module in (Overwriting(), nn.Sequential(nn.ReLU(inplace=True), *layers())):
        model = Model(module.double(), WAYS, feature_size=SIZE)
        params, episodes = model.init(torch.Generator().manual_seed(1)), batch()
        episodes = Episode(*(t - 0.5 if t.is_floating_point() else t for t in episodes))
        before = [t.clone() for t in (*to_tensors(params), *episodes)]
        meta_gradient(model, params, episodes, Inner(2, 0.1))
        assert all(map(torch.equal, (*to_tensors(params), *episodes), before))


def test_support_and_query_sets_stay_apart_under_the_support_sets_statistics():
    """An encoder without batch norms has none to take from the support set: its query batch is its own."""
    model, params = model_of("centred", norm="inductive")
    task = Episode(*(t[0] for t in batch(1)))
    alone = plain_features("centred")(params.encoder, task.query_x)
    torch.testing.assert_close(model.query_features(params.encoder, task.support_x, task.query_x), alone)


def test_models_of_unknown_layers_can_be_copied_and_pickled():
    """The parameters that a thread's own module withholds are in the copy."""
    model, params = model_of("overwriting")
    expected, _ = meta_gradient(model, params, batch(), Inner(2, 0.1))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.with_norm("inductive")):
        found, _ = meta_gradient(twin, twin.init(torch.Generator().manual_seed(1)), batch(), Inner(2, 0.1))
        assert all(map(torch.equal, to_tensors(found), to_tensors(expected)))


class OnTokens(nn.Module):
    """A batch norm over the rows of tokens of all images."""

    def __init__(self):
        super().__init__()
        self.project, self.norm = nn.Conv2d(1, SIZE, 2, stride=2), nn.BatchNorm1d(SIZE)

    def forward(self, x):
        tokens = self.project(x).flatten(2).mT
        return self.norm(tokens.flatten(0, 1)).view(*tokens.shape).mean(1)


def test_a_batch_norm_that_cannot_tell_the_support_images_is_refused():
    """Under the batch's own statistics rows do not matter; under the support set's they do."""
    episodes = batch(2)
    torch.manual_seed(0)
    stacked = Model(Stacked().double(), WAYS, feature_size=SIZE, norm="inductive")
    with pytest.raises(InputError, match="sees 24 rows for 12 images"):
        meta_gradient(stacked, stacked.init(torch.Generator()), episodes, Inner(1, 0.1))
    module = OnTokens().double()
    for norm in ("transductive", "inductive"):
        model = Model(module, WAYS, feature_size=SIZE, norm=norm)
        params = model.init(torch.Generator().manual_seed(1))
        if norm == "transductive":
            meta_gradient(model, params, episodes, Inner(1, 0.1))
            continue
        with pytest.raises(InputError, match="sees 108 rows for 12 images"):
            meta_gradient(model, params, episodes, Inner(1, 0.1))


class Keeping(Wrapped):
    """Keeps its activation on itself, as those do who want to look at it, and an average that drifts."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(SIZE))

    def forward(self, x):
        self.kept = self.body(x)
        self.seen.mul_(0.999).add_(1e-4 * self.kept.detach().mean(0))
        return self.kept - self.seen


class OwnLoading(Wrapped):
    """Loads its body's state only."""

    def load_state_dict(self, state_dict, strict=True, **options):
        return self.body.load_state_dict(state_dict, strict, **options)

    def forward(self, x):
        return self.body(x)


class Filtered(nn.Module):
    """A complex filter in the space of frequencies."""

    def __init__(self):
        super().__init__()
        self.register_buffer("filter", torch.randn(SIDE, SIDE // 2 + 1, dtype=torch.complex64))

    def forward(self, x):
        return torch.fft.irfft2(torch.fft.rfft2(x) * self.filter, s=(SIDE, SIDE)).flatten(1)[:, :SIZE]


class Halved(Wrapped):
    """Returns numbers of 16 bits."""

    def forward(self, x):
        return self.body(x).half()


class WithExtra(Wrapped):
    """Has a state that is no tensor."""

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("build_one", [Keeping, OwnLoading, Filtered, Halved, WithExtra])
def test_a_classifier_takes_its_features_from_the_encoder_as_it_is(build_one, monkeypatch):
    """From several threads and again and again, as the plain module's first call gives them."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    torch.manual_seed(0)
    module = build_one().eval()
    x = torch.rand(40, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).mul(255).byte()
    plain = copy.deepcopy(module)
    with torch.no_grad():
        expected = torch.cat([copy.deepcopy(plain)(image[None, None] / 255) for image in x]).float()
    module.train()
    for child in module.children():
        child.eval()
    modes = [each.training for each in module.modules()]
    start = StartingPoint.from_encoder(module, ImageFormat(1, SIDE), Inner(2, 0.3, "head"))
    assert [each.training for each in module.modules()] == modes
    assert all(map(torch.equal, module.buffers(), plain.buffers()))
    classifier = FewShotClassifier(start, head="prototype").fit(list(x.numpy()), [k % 2 for k in range(40)])
    for _ in range(2):
        found = torch.as_tensor(classifier.transform(list(x.numpy())))
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5)


def test_an_encoder_that_loads_in_its_own_way_is_adapted_too():
    """The adapted parameters are set by name, whatever `load_state_dict` does."""
    x = torch.rand(6, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).mul(255).byte().numpy()
    answers = []
    for kind in (Iterated, OwnLoading):
        torch.manual_seed(0)
        start = StartingPoint.from_encoder(kind(), ImageFormat(1, SIDE), Inner(5, 1.0, "all"), SIZE)
        answers.append(FewShotClassifier(start, folds=0).fit(x, [0, 0, 1, 1, 2, 2]).predict_proba(x))
    assert abs(answers[0] - answers[1]).max() < 1e-5


def test_a_batch_norm_that_does_not_run_has_no_statistics_to_fix():
    """Under the support set's statistics; the same encoder is taken with its own averages."""

    class Unused(Wrapped):
        def __init__(self):
            super().__init__()
            self.aside = nn.BatchNorm2d(2)

        def forward(self, x):
            return self.body(x)

    x = torch.rand(4, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).mul(255).byte().numpy()
    for batch_stats in ("running", "support"):
        start = StartingPoint.from_encoder(Unused(), ImageFormat(1, SIDE), Inner(1, 0.3), SIZE, batch_stats)
        classifier = FewShotClassifier(start, folds=0)
        if batch_stats == "running":
            classifier.fit(x, [0, 0, 1, 1])
            continue
        with pytest.raises(InputError, match="does not run on the support images"):
            classifier.fit(x, [0, 0, 1, 1])
