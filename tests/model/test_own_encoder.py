"""Encoders from elsewhere: frozen or adapted, with whatever layers they come with; what is wrong is said in a line."""

import copy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jaxtyping
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import reference
from metacontrast.diagnostics.gradient import explain
from metacontrast.errors import InputError
from metacontrast.maml.engine import Engine, meta_gradient
from metacontrast.maml.inner import adapt
from metacontrast.methods import conml, imaml
from metacontrast.model.encoders import build_encoder
from metacontrast.model.model import Model
from metacontrast.model.normalization import TaskBatchNorm
from metacontrast.training.checkpoint import Stored, save
from metacontrast.types import Episode, Inner, to_tensors

TOLERANCE = 1e-12
WAYS = 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Residual(nn.Module):
    """A small residual net with dropout and batch norms that have seen other data; nothing in it is symmetric."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.pool = nn.AdaptiveAvgPool2d(2)
        for i, tensor in enumerate((*self.parameters(), *self.buffers())):
            if tensor.is_floating_point():
                noise = 0.3 * torch.randn(tensor.shape, generator=generator(i))
                tensor.data = noise if tensor.ndim > 1 else 0.5 + noise.abs()

    def forward(self, x):
        x = torch.tanh(self.norm(self.stem(x)))
        return self.pool(x + self.block(x)).flatten(1)


class Transformer(nn.Module):
    """Patches, one layer of attention, the mean over patches; layer norm only."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.patches = nn.Conv2d(1, 16, 4, 4)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        return self.norm(self.layers(self.patches(x).flatten(2).transpose(1, 2))).mean(1)


def tasks(count: int = 2, dtype=torch.float64) -> Episode:
    """Two shots and two queries of each class, 8×8 pixels."""
    rng, y = generator(5), torch.arange(WAYS).repeat_interleave(2).expand(count, -1)
    support, query = (torch.rand(count, 2 * WAYS, 1, 8, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    return Episode(support.to(dtype), y, query.to(dtype), y)


def plain_features(own: nn.Module, names: list[str], mode: bool):
    """The module itself, in PyTorch's training or evaluation mode, as a function of its learned tensors."""
    module = copy.deepcopy(own).train(mode)
    for child in module.modules():
        if isinstance(child, nn.Dropout):
            child.eval()

    def features(encoder, x):
        fresh = {n: b.clone() for n, b in module.named_buffers()}
        return torch.func.functional_call(module, ({n: encoder[n] for n in names}, fresh), (x,))

    return features


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize(
    ("build", "size", "frozen", "norm"),
    [
        (Residual, 16, "nothing", "transductive"),
        (Residual, 16, "nothing", "running"),
        (Residual, 16, "stem", "transductive"),
        (Residual, 16, "everything", "running"),
        (Transformer, 16, "nothing", "transductive"),
        (Transformer, 16, "everything", "transductive"),
    ],
)
def test_the_outer_gradient_of_a_foreign_encoder_is_the_references(build, size, frozen, norm, order):
    """Its own forward pass, in training mode for batch statistics and in evaluation mode for running averages."""
    own = build().double()
    for name, parameter in own.named_parameters():
        parameter.requires_grad_(frozen == "nothing" or (frozen == "stem" and not name.startswith("stem")))
    model = Model(own, WAYS, feature_size=size, norm=norm)
    params = model.init(generator())
    names = [n for n, p in own.named_parameters() if p.requires_grad]
    assert list(params.encoder) == names
    episodes, inner = tasks(), Inner(2, 0.1, order=order)
    each = [Episode(*parts) for parts in zip(*episodes, strict=True)]
    features = plain_features(own, names, mode=norm != "running" and build is Residual)
    with sdpa_kernel(SDPBackend.MATH):
        found, _ = meta_gradient(model, params, episodes, inner)
        expected = reference.meta_gradient(features, params, each, 2, 0.1, "all", order)
    scale = max(t.abs().max() for t in to_tensors(expected))
    for a, b in zip(to_tensors(found), to_tensors(expected), strict=True):
        assert (a - b).abs().max() <= TOLERANCE * scale
    before = build().double().state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())


@pytest.mark.parametrize("build", [Residual, Transformer])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_few_outer_updates_lower_the_query_loss(build, frozen):
    model = Model(build().requires_grad_(not frozen), WAYS, feature_size=16)
    params, episodes, losses = model.init(generator()), tasks(dtype=torch.float32), []
    tensors = [t.requires_grad_() for t in to_tensors(params)]
    optimizer = torch.optim.Adam(tensors, lr=0.01)
    for _ in range(6):
        gradient, metrics = meta_gradient(model, params, episodes, Inner(1, 0.1))
        losses.append(metrics.loss.mean().item())
        for tensor, part in zip(tensors, to_tensors(gradient), strict=True):
            tensor.grad = part
        optimizer.step()
    assert losses[-1] < losses[0]


def test_running_averages_make_features_independent_of_the_batch():
    own = Residual().double().eval()
    model = Model(own, WAYS, feature_size=16, norm="running")
    encoder, x = model.init(generator()).encoder, tasks(1).support_x[0]
    assert torch.allclose(model.features(encoder, x), own(x), atol=1e-12)
    assert torch.allclose(model.query_features(encoder, x, x[:1]), own(x[:1]), atol=1e-12)
    inductive = model.with_norm("inductive")
    assert not torch.allclose(inductive.query_features(encoder, x, x[:1]), own(x[:1]), atol=1e-2)


def test_running_averages_that_are_not_there_are_not_promised():
    for encoder in (build_encoder("conv4", (1, 28, 28)), nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False))):
        with pytest.raises(InputError, match=r"norm='running', but .* keeps no averages"):
            Model(encoder, WAYS, feature_size=1, norm="running")
    converted = Model(Residual(), WAYS, feature_size=16)
    with pytest.raises(InputError, match="keeps no averages"):
        converted.with_norm("running")


def test_a_batch_norm_that_does_more_is_refused_or_kept():
    """timm's carry an activation: replacing them would lose it in silence."""

    class NormAndReLU(nn.BatchNorm2d):
        def forward(self, input):
            return torch.relu(super().forward(input))

    own = nn.Sequential(nn.Conv2d(1, 2, 3), NormAndReLU(2), nn.Flatten()).double().eval()
    with pytest.raises(InputError, match=r"of another class \(NormAndReLU\).*norm='running'"):
        Model(own, WAYS, feature_size=72)
    model = Model(own, WAYS, feature_size=72, norm="running")
    x = tasks(1).support_x[0]
    assert torch.allclose(model.features(model.init(generator()).encoder, x), own(x), atol=1e-12)


class OwnNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm for inputs of any shape."""

    def _check_input_dim(self, input):
        """Take all."""


@pytest.mark.parametrize("own", [nn.BatchNorm1d(4), OwnNorm(4), nn.Sequential(nn.Identity(), OwnNorm(4))])
def test_a_batch_norm_of_any_class_and_place_takes_the_tasks_statistics(own):
    x = 3 + 2 * torch.randn(6, 4, generator=generator(), dtype=torch.float64)
    model = Model(own.double(), WAYS, feature_size=4)
    wanted = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    assert torch.allclose(model.features(model.init(generator()).encoder, x), wanted, atol=1e-12)


class Exponential(nn.Module):
    def forward(self, weight):
        return weight.exp()


@pytest.mark.parametrize("change", ["hook", "parametrization", "forward"])
def test_a_batch_norm_with_additions_is_refused_rather_than_stripped(change):
    norm = nn.BatchNorm2d(1)
    if change == "hook":
        norm.register_forward_hook(lambda module, given, found: 3 * found)
    elif change == "parametrization":
        nn.utils.parametrize.register_parametrization(norm, "weight", Exponential())
    else:
        norm.forward = torch.tanh
    with pytest.raises(InputError, match="a batch norm with hooks, a parametrization or a forward of its own"):
        Model(nn.Sequential(norm, nn.Flatten()), WAYS, feature_size=64)


def test_a_batch_norm_without_any_tensor_has_the_encoders_dtype():
    own = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False, track_running_stats=False)).double()
    x = torch.randn(6, 4, generator=generator(), dtype=torch.float64)
    for fused in (True, False):
        model = Model(own, WAYS, feature_size=4, fused=fused)
        found = model.features(model.init(generator()).encoder, x)
        assert torch.allclose(found, own.train()(x), atol=1e-12)


def test_a_batch_norm_without_weights_gets_none_to_learn():
    own = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False), nn.Flatten()).double()
    model = Model(own, WAYS, feature_size=72)
    params = model.init(generator())
    assert list(params.encoder) == ["0.weight", "0.bias"]
    x = tasks(1).support_x[0]
    assert torch.allclose(model.features(params.encoder, x), own.train()(x), atol=1e-12)


def test_a_batch_norm_with_two_names_is_replaced_under_both():
    shared = nn.BatchNorm2d(1)
    shared.weight.data.fill_(2.0)
    shared.bias.requires_grad_(False)
    model = Model(nn.Sequential(shared, nn.Tanh(), shared, nn.Flatten()), WAYS, feature_size=64)
    assert model.encoder[0] is model.encoder[2]
    assert isinstance(model.encoder[2], TaskBatchNorm)
    assert list(model.init(generator()).encoder) == ["0.weight"]


def test_synchronized_batch_norm_becomes_that_of_the_task():
    own = nn.Sequential(nn.SyncBatchNorm(1), nn.Flatten())
    assert isinstance(Model(own, WAYS, feature_size=64).encoder[0], TaskBatchNorm)


def test_the_head_has_the_encoders_dtype():
    assert Model(Residual().double(), WAYS, feature_size=16).init(generator()).head.weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("encoder", "size", "message"),
    [
        (nn.Flatten(), 63, "features have length 64, not feature_size=63"),
        (nn.Identity(), 64, r"returns \(6, 1, 8, 8\) for 6 images, not \(6, 64\): .*nn\.Flatten"),
        (nn.Flatten(0), 64, r"returns \(384,\) for 6 images"),
        (nn.AdaptiveMaxPool2d(1, return_indices=True), 64, "returns a tuple, not a tensor: wrap it"),
    ],
)
def test_an_encoder_that_returns_something_else_is_told_what_to_do(encoder, size, message):
    model = Model(encoder, WAYS, feature_size=size)
    with pytest.raises(InputError, match=message):
        meta_gradient(model, model.init(generator()), tasks(1, torch.float32), Inner())


def wrong_labels(change) -> Episode:
    episodes = tasks(2, torch.float32)
    return episodes._replace(support_y=change(episodes.support_y))


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (wrong_labels(lambda y: y + 1), "support labels run from 1 to 3, but ways=3 needs 0 to 2"),
        (wrong_labels(lambda y: y - 1), "support labels run from -1 to 1"),
        (tasks()._replace(query_y=tasks().query_y * 5), "query labels run from 0 to 10"),
        (wrong_labels(lambda y: y[:, :4]), r"images of shape \(2, 6, 1, 8, 8\) have labels of shape \(2, 4\)"),
        (wrong_labels(lambda y: y.int()), r"support labels are torch\.int32.*labels\.long\(\)"),
        (Episode(*(part[:, :0] for part in tasks())), "the support set is empty"),
    ],
)
def test_labels_that_do_not_fit_are_one_line(episodes, message):
    model = Model(nn.Flatten(), WAYS, feature_size=64)
    params = model.init(generator())
    with pytest.raises(InputError, match=message):
        meta_gradient(model, params, episodes, Inner())
    if message.startswith("support"):
        with pytest.raises(InputError, match=message):
            adapt(model, params, episodes.support_x[0], episodes.support_y[0], Inner())


def test_prototypes_need_every_class():
    model = Model(Residual(), WAYS, feature_size=16, head="prototype")
    with pytest.raises(InputError, match="lacks some of its 3 classes"):
        meta_gradient(model, model.init(generator()), wrong_labels(lambda y: y.clamp(max=1)), Inner())


def test_what_is_frozen_in_a_built_in_encoder_stays_when_parameters_are_drawn():
    """In every thread and under every policy."""
    images = torch.rand(6, 1, 28, 28, generator=generator())
    model = Model(build_encoder("conv4", (1, 28, 28), 4).requires_grad_(False), WAYS)
    before = model.features({}, images)
    model.init(generator(5))
    with ThreadPoolExecutor(1) as executor:
        elsewhere = executor.submit(model.features, {}, images).result()
    copied = model.with_norm("inductive").features({}, images)
    assert torch.equal(before, elsewhere)
    assert torch.equal(before, copied)


class Counting(nn.Module):
    """An encoder that subtracts an average, which it keeps in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.zeros(64, dtype=torch.float64))

    def forward(self, x):
        features = x.flatten(1)
        self.average.mul_(0.9).add_(features.mean(0))
        return features - self.average


def test_what_an_encoder_changes_in_itself_does_not_reach_the_next_call():
    model, x = Model(Counting(), WAYS, feature_size=64), tasks(1).support_x[0]
    assert torch.equal(model.features({}, x), model.features({}, x))


@pytest.mark.parametrize("change", [lambda e: dict(list(e.items())[1:]), lambda e: e | {"more": torch.ones(1)}])
def test_parameters_that_are_not_the_models_are_refused(change):
    model, episodes = Model(Residual().double(), WAYS, feature_size=16), tasks(2)
    params = model.init(generator())
    params = params._replace(encoder=change(params.encoder))
    for use in (
        lambda: meta_gradient(model, params, episodes, Inner()),
        lambda: adapt(model, params, episodes.support_x[0], episodes.support_y[0], Inner()),
    ):
        with pytest.raises(InputError, match=r"the parameters (lack the encoder's|have a tensor that) .*model\.init"):
            use()


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(5))


def scripted():
    return nn.Sequential(nn.Flatten(), torch.jit.script(nn.Linear(64, 5)))


def weight_normed():
    return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(64, 5)))


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo):
        raise TypeError


def uncopied():
    return nn.Sequential(nn.Flatten(), Uncopied(64, 5))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lazy, "call it once"),
        (scripted, "give its Python module"),
        (weight_normed, "in place of the older weight_norm"),
        (uncopied, r"cannot be copied \(TypeError\)"),
    ],
)
def test_an_encoder_that_cannot_be_called_with_other_parameters_says_what_to_do(build, message):
    with pytest.raises(InputError, match=message) as error:
        Model(build(), WAYS, feature_size=5)
    assert "\n" not in str(error.value)


def test_one_task_without_its_axis_and_inference_mode_are_one_line():
    model, episodes = Model(Residual().double(), WAYS, feature_size=16), tasks(2)
    params, one = model.init(generator()), Episode(*(t[0] for t in episodes))
    with pytest.raises(InputError, match=r"support labels of shape \(6,\) are not \(task, image\)"):
        meta_gradient(model, params, one, Inner())
    with torch.inference_mode(), pytest.raises(InputError, match=r"use torch\.no_grad"):
        adapt(model, params, one.support_x, one.support_y, Inner())
    with pytest.raises(InputError, match="give one for each image"):
        adapt(model, params, one.support_x, one.support_y, Inner(), torch.ones(2).double())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (torch.uint8, r"images are torch.uint8, but the encoder's parameters torch.float32: .*float32\), scaled to 0"),
        (torch.float64, r"give images.to\(torch.float32\)$"),
    ],
)
def test_images_of_another_kind_than_the_parameters_are_one_line(kind, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model = Model(build_encoder("conv4", (1, 28, 28), 4), WAYS)
    with pytest.raises(InputError, match=message):
        model.features(model.init(generator()).encoder, torch.ones(6, 1, 28, 28, dtype=kind))


class Waves(nn.Module):
    """An encoder with complex numbers inside."""

    def __init__(self):
        super().__init__()
        parts = torch.randn(5, 64, 2, generator=generator(), dtype=torch.float64)
        self.weight = nn.Parameter(torch.view_as_complex(parts))

    def forward(self, x):
        return (x.flatten(1).to(self.weight.dtype) @ self.weight.T).abs()


def test_complex_parameters_are_differentiated_or_refused(tmp_path):
    """By finite differences along both axes of one of them; methods of real numbers, and files, say no."""
    model, episodes, inner = Model(Waves(), WAYS, feature_size=5), tasks(2), Inner(2, 0.1, order="second")
    params = model.init(generator())
    found = meta_gradient(model, params, episodes, inner)[0].encoder["weight"][0, 0]

    def loss(change):
        weight = params.encoder["weight"].clone()
        weight[0, 0] += change
        return meta_gradient(model, params._replace(encoder={"weight": weight}), episodes, inner)[1].loss.mean()

    slopes = [((loss(1e-5 * way) - loss(-1e-5 * way)) / 2e-5).item() for way in (1, 1j)]
    assert [found.real.item(), found.imag.item()] == pytest.approx(slopes, rel=1e-6, abs=1e-9)
    for use in (
        lambda: explain(model, params, episodes, inner),
        lambda: conml(model, params, episodes, inner),
        lambda: imaml(model, params, Episode(*(t[0] for t in episodes)), inner),
    ):
        with pytest.raises(InputError, match="is for real parameters"):
            use()
    with pytest.raises(InputError, match="is complex"):
        save(tmp_path / "file", Stored(params.encoder, {}))


def test_a_layer_with_two_places_is_in_blocks_only_if_both_are():
    """A convolution before a batch norm, and before tanh: the tasks pass one by one, in every engine alike."""
    torch.manual_seed(0)
    shared = nn.Conv2d(1, 1, 3, padding=1)
    own = nn.Sequential(nn.Sequential(shared, nn.BatchNorm2d(1), nn.ReLU()), nn.Sequential(shared, nn.Tanh()))
    model = Model(nn.Sequential(own, nn.Flatten()).double(), WAYS, feature_size=64)
    params, inner = model.init(generator()), Inner(2, 0.1, order="second")
    found = [meta_gradient(model, params, tasks(2), inner, engine=Engine(name))[0] for name in ("loop", "vmap")]
    for a, b in zip(*map(to_tensors, found), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-13)


def test_a_frozen_encoder_that_leaves_nothing_to_do_says_so():
    frozen = Residual().requires_grad_(False)
    model = Model(frozen, WAYS, feature_size=16)
    episodes = tasks(1, torch.float32)
    with pytest.raises(InputError, match="the encoder is frozen: use scope='head'"):
        adapt(model, model.init(generator()), episodes.support_x[0], episodes.support_y[0], Inner(scope="encoder"))
    prototypes = Model(frozen, WAYS, feature_size=16, head="prototype")
    params = prototypes.init(generator())
    with pytest.raises(InputError, match="nothing is learned"):
        meta_gradient(prototypes, params, episodes, Inner())
    adapted = adapt(prototypes, params, episodes.support_x[0], episodes.support_y[0], Inner(1, 0.1))
    assert adapted.head.weight.shape == (WAYS, 16)


def test_a_second_derivative_that_pytorch_lacks_says_what_to_do():
    """Fused attention on the CPU; the backend that is named in the message is tested above."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        model = Model(Transformer(), WAYS, feature_size=16)
        with pytest.raises(InputError, match=r"order='second' needs .*sdpa_kernel\(SDPBackend\.MATH\)"):
            meta_gradient(model, model.init(generator()), tasks(1, torch.float32), Inner(order="second"))


class Classifier(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.body, self.fc = nn.Flatten(), nn.Linear(64, classes)

    def forward(self, x):
        return self.fc(self.body(x))


@pytest.mark.parametrize("classes", [3, 7, 1000])
def test_a_whole_classifier_as_encoder_is_warned_of(classes):
    """Its outputs would get a second head; the warning says how to cut the first."""
    with pytest.warns(
        UserWarning, match=r"'fc' \(64 to .*replace that layer by nn.Identity\(\) and pass feature_size=64"
    ):
        Model(Classifier(classes), WAYS, feature_size=classes)
    cut = Classifier(classes)
    cut.fc = nn.Identity()
    assert Model(cut, WAYS, feature_size=64).feature_size == 64


def test_a_projection_at_the_end_of_an_encoder_is_not_a_classifier():
    assert Model(nn.Sequential(nn.Flatten(), nn.Linear(64, 16)), WAYS, feature_size=16).feature_size == 16


def test_a_step_size_that_is_a_tensor_is_refused_rather_than_its_gradient_lost():
    """In a process without the checks of types that tests run under."""
    code = "import torch; from metacontrast.maml.inner import Inner; Inner(lr=torch.tensor(0.1, requires_grad=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "InputError: inner lr is a tensor, whose gradient would be lost" in done.stderr
