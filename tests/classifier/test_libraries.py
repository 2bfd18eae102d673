"""Encoders of timm, transformers and torchvision: their preprocessing, and real networks, built without weights where
nothing may be fetched.

What needs a library is skipped where it is not installed. Preprocessing is compared with plain steps of Pillow.
"""

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from classifier_kit import grey_images, write_folder
from metacontrast import FewShotClassifier, load_run
from metacontrast.classifier.export import export
from metacontrast.classifier.starting_point import from_source
from metacontrast.cli.main import run
from metacontrast.data.decode import Item
from metacontrast.data.image_format import ImageFormat
from metacontrast.errors import InputError
from metacontrast.training import sources
from metacontrast.training.libraries import as_prepared, hf_images, timm_images, without_classifier
from metacontrast.training.train_run import load_images


def library(name: str):
    """The library, or a reason to skip: some builds of torchvision do not fit some builds of PyTorch."""
    try:
        return pytest.importorskip(name)
    except (RuntimeError, ImportError) as error:
        pytest.skip(f"{name} cannot be imported: {error}")


# Preprocessing, against Pillow's plain steps

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 240, 3), dtype=np.uint8))
SHORT = {"shortest_edge": 32}


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def squashed(side: int, resample: int = BILINEAR) -> np.ndarray:
    return np.asarray(PICTURE.resize((side, side), resample), np.float64)


def shortened_and_cut(short: int, side: int, resample: int = BILINEAR) -> np.ndarray:
    """The shorter side is brought to `short`, and the central square of `side` is cut."""
    image = np.asarray(PICTURE.resize((2 * short, short), resample), np.float64)
    top, left = (short - side) // 2, (2 * short - side) // 2
    return image[top : top + side, left : left + side]


def processor(kind: str = "ViT", **settings: Any) -> dict[str, Any]:
    """Settings of a processor, as its `to_dict` gives them."""
    plain = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 2}
    plain |= {"image_mean": (0.5, 0.4, 0.3), "image_std": [0.1, 0.2, 0.3]}
    return plain | {"image_processor_type": f"{kind}ImageProcessor"} | settings


def normal(pixels: np.ndarray) -> np.ndarray:
    return (pixels / 255 - [0.5, 0.4, 0.3]) / [0.1, 0.2, 0.3]


CUT = {"do_center_crop": True, "crop_size": square(28)}
KEPT = {
    "squashed": (processor(size=square(32)), lambda: normal(squashed(32))),
    "filter": (processor(size=square(32), resample=3), lambda: normal(squashed(32, BICUBIC))),
    "shorter side, cut": (processor("CLIP", size=SHORT, **CUT), lambda: normal(shortened_and_cut(32, 28))),
    "shorter side, same cut": (
        processor("Bit", size=SHORT, do_center_crop=True, crop_size=square(32)),
        lambda: normal(shortened_and_cut(32, 32)),
    ),
    "no cut asked": (
        processor(size=square(32), do_center_crop=False, crop_size=square(28)),
        lambda: normal(squashed(32)),
    ),
    "cut of everything": (processor("DeiT", size=square(28), **CUT), lambda: normal(squashed(28))),
    "ConvNext": (
        processor("ConvNext", size={"shortest_edge": 224}, crop_pct=0.875, resample=3),
        lambda: normal(shortened_and_cut(256, 224, BICUBIC)),
    ),
    "ConvNext, large": (
        processor("ConvNext", size={"shortest_edge": 384}, crop_pct=0.875),
        lambda: normal(squashed(384)),
    ),
    "PoolFormer": (processor("PoolFormer", size=SHORT, crop_pct=0.8, **CUT), lambda: normal(shortened_and_cut(40, 28))),
    "PoolFormer, square": (
        processor("PoolFormer", size=square(32), crop_pct=0.8, **CUT),
        lambda: normal(shortened_and_cut(40, 28)),
    ),
    "Levit": (
        processor("Levit", size={"shortest_edge": 28}, **CUT),
        lambda: normal(shortened_and_cut(32, 28)),
    ),
    "not normalized": (processor(size=square(32), do_normalize=False), lambda: squashed(32) / 255),
    "not scaled": (
        processor(size=square(32), do_rescale=False),
        lambda: (squashed(32) - [0.5, 0.4, 0.3]) / [0.1, 0.2, 0.3],
    ),
    "neither": (processor(size=square(32), do_rescale=False, do_normalize=False), lambda: squashed(32)),
    "one mean": (
        processor(size=square(32), image_mean=0.5, image_std=0.25),
        lambda: (squashed(32) / 255 - 0.5) / 0.25,
    ),
    "EfficientNet": (
        processor("EfficientNet", size=square(32), include_top=True, rescale_offset=False),
        lambda: normal(squashed(32)) / [0.1, 0.2, 0.3],
    ),
    "EfficientNet, offset": (
        processor("EfficientNet", size=square(32), include_top=False, rescale_offset=True, rescale_factor=1 / 127.5),
        lambda: (squashed(32) / 127.5 - 1 - [0.5, 0.4, 0.3]) / [0.1, 0.2, 0.3],
    ),
    "MobileViT without a flip": (
        processor("MobileViT", size=SHORT, do_normalize=None, do_flip_channel_order=False, **CUT),
        lambda: shortened_and_cut(32, 28) / 255,
    ),
}


def as_input(images: ImageFormat, picture: Image.Image = PICTURE) -> torch.Tensor:
    return images.to_input(images.read([item(picture)])[1])[0]


def assert_same_input(images: ImageFormat, expected: np.ndarray) -> None:
    """The picture's numbers; as cutting comes before resizing, a value in a hundred may be rounded to the next grey."""
    grey = 1 / 255 / np.broadcast_to(images.std, 3)[:, None, None]
    far = np.abs(as_input(images).double().numpy() - expected) / grey
    assert far.max() < 1.001
    assert (far > 1e-3).mean() < 0.01


@pytest.mark.parametrize("case", KEPT)
def test_images_are_what_the_processor_makes_of_them(case):
    about, expected = KEPT[case]
    assert_same_input(hf_images(about), np.moveaxis(expected(), -1, 0))


@pytest.mark.parametrize(
    ("about", "part"),
    [
        (processor("DeiT", size=square(32), **CUT), "size {'height': 32, 'width': 32}, do_center_crop True"),
        (processor("PoolFormer", size=square(32), crop_pct=None, **CUT), "by PoolFormerImageProcessor"),
        (processor("Levit", size=square(32), **CUT), "by LevitImageProcessor"),
        (processor("EfficientNet", size=square(32), **CUT), "by EfficientNetImageProcessor"),
        (processor(size=SHORT), "size {'shortest_edge': 32}, do_center_crop None and crop_size None"),
        (processor(size=SHORT, do_center_crop=True, crop_size=square(48)), "crop_size {'height': 48, 'width': 48}"),
        (processor(size=SHORT, do_center_crop=True, crop_size={"height": 28, "width": 20}), "'width': 20"),
        (processor(size={"height": 32, "width": 64}), "'width': 64"),
        (processor(size={"longest_edge": 32}), "longest_edge"),
        (processor(), "size None"),
        (processor(size=square(32), do_resize=False), "do_resize False"),
        (processor(size=square(32), do_resize=False, **CUT), "do_resize False"),
        (processor("MobileViT", size=SHORT, do_flip_channel_order=True, **CUT), "with blue before red"),
    ],
)
def test_processors_that_no_format_describes(about, part):
    with pytest.raises(
        InputError, match=r"^it prepares images [^\n]*StartingPoint.from_encoder\(encoder, Image"
    ) as caught:
        hf_images(about)
    assert part in str(caught.value)


def timm_config(**settings: Any) -> dict[str, Any]:
    plain = {"input_size": (3, 28, 28), "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center"}
    return plain | {"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3)} | settings


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        (timm_config(), lambda: shortened_and_cut(32, 28, BICUBIC)),
        (timm_config(crop_pct=0.85), lambda: shortened_and_cut(32, 28, BICUBIC)),  # 32.9 is cut to whole pixels
        (timm_config(crop_pct=1.0), lambda: shortened_and_cut(28, 28, BICUBIC)),
        (timm_config(crop_pct=1.0, crop_mode="squash"), lambda: squashed(28, BICUBIC)),
    ],
)
def test_images_are_what_timm_makes_of_them(about, expected):
    assert_same_input(timm_images(about), np.moveaxis(normal(expected()), -1, 0))


@pytest.mark.parametrize(
    "settings",
    [
        {"crop_mode": "squash"},
        {"crop_mode": "border", "crop_pct": 1.0},
        {"crop_pct": 1.5},
        {"input_size": (3, 28, 14)},
    ],
)
def test_configurations_of_timm_that_no_format_describes(settings):
    with pytest.raises(InputError, match=r"^it prepares images to 28x[^\n]*StartingPoint"):
        timm_images(timm_config(**settings))


def test_what_settings_say_is_compared_with_what_the_library_does():
    """Guards: a class of processors whose settings mean something else is refused, not taken at its word."""
    images = hf_images(processor("CLIP", size={"shortest_edge": 33}, **CUT))
    wrong = [
        dataclasses.replace(images, crop=None),
        dataclasses.replace(images, crop=1.0),
        dataclasses.replace(images, mean=(0.4, 0.5, 0.3)),
        dataclasses.replace(images, std=(0.2, 0.2, 0.3)),
        dataclasses.replace(images, size=32),
        dataclasses.replace(images, invert=True),
    ]
    prepares: list[Callable[..., Any]] = [lambda picture, form=form: as_input(form, picture) for form in wrong]
    prepares.append(lambda picture: as_input(images, picture).flip(0))
    prepares.append(lambda picture: as_input(images, picture) * float("nan"))
    prepares.append(lambda picture: as_input(images, picture)[None])
    assert as_prepared(images, lambda picture: as_input(images, picture).numpy()) is images
    for prepare in prepares:
        with pytest.raises(InputError, match="in another way than its settings say"):
            as_prepared(images, prepare)


PROCESSORS = [
    ("ViT", {"size": 64}),
    ("CLIP", {"size": 64, "crop_size": 56}),
    ("ConvNext", {"size": 224, "crop_pct": 0.875}),
    ("ConvNext", {"size": 384}),
    ("PoolFormer", {}),
    ("Levit", {}),
    ("EfficientNet", {"size": 64}),
    ("EfficientNet", {"size": 64, "rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False}),
    ("Beit", {"size": 64}),
    ("MobileNetV2", {}),
    ("MobileViT", {"do_flip_channel_order": False, "size": 288, "crop_size": 256}),
    ("Siglip", {"do_normalize": False}),
]


@pytest.mark.parametrize(("kind", "settings"), PROCESSORS, ids=lambda value: value if isinstance(value, str) else "")
def test_preprocessing_is_transformers_own(kind, settings):
    transformers = library("transformers")
    name = f"{kind}ImageProcessor"
    own = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    own = own(**settings)
    images = hf_images(own.to_dict())
    expected = own(PICTURE, return_tensors="np")["pixel_values"][0]
    assert_same_input(images, expected)
    as_prepared(images, lambda picture: own(picture, return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize(("kind", "settings"), [("DeiT", {"size": 256, "crop_size": 224}), ("MobileViT", {})])
def test_processors_of_transformers_that_are_refused(kind, settings):
    transformers = library("transformers")
    name = f"{kind}ImageProcessor"
    own = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    with pytest.raises(InputError, match="it prepares images"):
        hf_images(own(**settings).to_dict())


# Networks

TIMM = ["resnet10t", "test_vit.r160_in1k", "test_convnext.r160_in1k", "test_efficientnet.r160_in1k"]


def alive(net: nn.Module) -> None:
    """Running averages that are not those of an untrained net."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)


@pytest.mark.parametrize("name", TIMM)
def test_networks_of_timm(name, tmp_path):
    """Guards a ResNet, a ViT, a ConvNeXt and an EfficientNet with `BatchNormAct2d`: weights from a file, timm's own
    features, fit, save, load, and export.
    """
    timm = library("timm")
    torch.manual_seed(0)
    body = timm.create_model(name.split(".")[0], num_classes=10).eval()
    alive(body)
    save_file({k: t.contiguous() for k, t in body.state_dict().items()}, tmp_path / "w.safetensors")
    start = from_source(f"timm:{name}", tmp_path / "w.safetensors")
    images, labels = grey_images(per_class=3)
    classifier = FewShotClassifier(start, head="ridge").fit(images, labels)
    pixels = start.images.read([item(image) for image in images[:2]])[1]
    with torch.no_grad():
        own = body.forward_head(body.forward_features(start.images.to_input(pixels)), pre_logits=True)
    expected = 4 * nn.functional.normalize(own, dim=1)
    np.testing.assert_allclose(classifier.transform(images[:2]), expected.numpy(), atol=1e-4)
    classifier.save(tmp_path / "whole", weights_inside=True)
    again = FewShotClassifier.load(tmp_path / "whole", start)
    np.testing.assert_array_equal(again.predict_proba(images), classifier.predict_proba(images))
    file = export(classifier.state_, tmp_path / "c.pt2", "torch")
    found = torch.export.load(file).module()(pixels)[0].numpy()
    np.testing.assert_allclose(found, classifier.predict_proba(images[:2]), atol=1e-4)


def test_preprocessing_is_timms_own():
    timm = library("timm")
    images = sources.build("timm:resnet10t", trained=False).images
    own = timm.data.resolve_model_data_config(timm.create_model("resnet10t"))
    assert images.shape == own["input_size"]
    assert (images.resample, images.mean, images.std) == (own["interpolation"], own["mean"], own["std"])
    assert images.crop == images.size / int(images.size / own["crop_pct"])


def test_a_network_of_transformers_from_a_folder(tmp_path):
    """Guards `hf:FOLDER`: a ViT saved with its processor's configuration; its first token, fit, save and load."""
    transformers = library("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    body = transformers.ViTModel(config).eval()
    body.save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(
        '{"size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    )
    start = from_source(f"hf:{tmp_path / 'vit'}")
    assert (start.images.size, start.images.mean) == (32, (0.5, 0.5, 0.5))
    images, labels = grey_images(per_class=3)
    classifier = FewShotClassifier(start, head="ridge").fit(images, labels)
    pixels = start.images.read([item(image) for image in images[:2]])[1]
    with torch.no_grad():
        own = body(pixel_values=start.images.to_input(pixels)).last_hidden_state[:, 0]
    expected = 4 * nn.functional.normalize(own, dim=1)
    np.testing.assert_allclose(classifier.transform(images[:2]), expected.numpy(), atol=1e-4)
    classifier.save(tmp_path / "out")
    again = FewShotClassifier.load(tmp_path / "out")
    np.testing.assert_array_equal(again.predict_proba(images), classifier.predict_proba(images))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_a_network_of_torchvision(name, tmp_path):
    torchvision = library("torchvision")
    torch.manual_seed(0)
    body = torchvision.models.get_model(name, weights=None).eval()
    save_file({k: t.contiguous() for k, t in body.state_dict().items()}, tmp_path / "w.safetensors")
    start = from_source(f"torchvision:{name}", tmp_path / "w.safetensors")
    assert (start.images.size, start.model.feature_size) == (224, 512)
    assert start.images.crop == pytest.approx(224 / 256)


def saved(folder: Path, body: nn.Module) -> str:
    """The name of a model of transformers in a folder, with a processor of its own kind for 32x32."""
    body.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 32, "width": 32}}))
    return f"hf:{folder}"


@pytest.mark.parametrize("kind", ["Beit", "Data2VecVision"])
@pytest.mark.parametrize("by_mean", [True, False])
def test_mean_pooling_is_the_models_own(kind, by_mean, tmp_path):
    """Guards BEiT and data2vec: with mean pooling the norm of the mean is trained, and the first token is not."""
    transformers = library("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(**sizes, image_size=32, patch_size=8, use_mean_pooling=by_mean)
    make = getattr(transformers, f"{kind}Model")
    body = make(config, add_pooling_layer=True).eval()
    if by_mean:
        nn.init.normal_(body.pooler.layernorm.weight)
    start = from_source(saved(tmp_path / "with", body))
    pixels = start.images.read([item(PICTURE)])[1]
    with torch.no_grad():
        tokens = body(pixel_values=start.images.to_input(pixels)).last_hidden_state
        own = body.pooler.layernorm(tokens[:, 1:].mean(1)) if by_mean else tokens[:, 0]
        found = start.model.features(start.params.encoder, start.images.to_input(pixels))
    torch.testing.assert_close(found, 4 * nn.functional.normalize(own, dim=1), atol=1e-5, rtol=1e-5)
    if by_mean:
        with pytest.raises(InputError, match=r"its weights lack pooler.layernorm[^\n]*its features"):
            from_source(saved(tmp_path / "without", make(config, add_pooling_layer=False)))


def test_a_model_without_a_class_token_gives_the_mean_of_its_places(tmp_path):
    transformers = library("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    body = transformers.IJepaModel(transformers.IJepaConfig(**sizes, image_size=32, patch_size=8)).eval()
    start = from_source(saved(tmp_path / "ijepa", body))
    x = as_input(start.images)[None]
    with torch.no_grad():
        own = body(pixel_values=x).last_hidden_state.mean(1)
        found = start.model.features(start.params.encoder, x)
    torch.testing.assert_close(found, 4 * nn.functional.normalize(own, dim=1), atol=1e-5, rtol=1e-5)


def test_a_model_that_hides_places_at_random_is_refused(tmp_path):
    """Guards ViT-MAE, which masks other places of an image every time."""
    transformers = library("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    body = transformers.ViTMAEModel(transformers.ViTMAEConfig(**sizes, image_size=32, patch_size=8))
    for weight in body.parameters():
        nn.init.normal_(weight)
    with pytest.raises(InputError, match="gives two equal images unequal features: it must not draw at random"):
        from_source(saved(tmp_path / "mae", body))


def test_a_classifier_that_ends_in_a_convolution_is_left_out():
    """Guards SqueezeNet: its features, not its 1,000 logits."""
    classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(8, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    body = nn.Sequential(OrderedDict(features=features, classifier=classifier)).eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = without_classifier(body)(x).flatten(1)
    torch.testing.assert_close(found, features(x).mean((2, 3)))


@pytest.mark.parametrize("kind", ["timm", "hf"])
def test_meta_training_starts_from_a_library(kind, tmp_path):
    """Guards `train --start` on an EfficientNet with `BatchNormAct2d` and weights from a file, and on a ViT without a
    pooling layer's weights: what is loaded gives the features that were trained.
    """
    torch.manual_seed(0)
    more = []
    if kind == "timm":
        timm = library("timm")
        body = timm.create_model("test_efficientnet", num_classes=10)
        alive(body)
        save_file({k: t.contiguous() for k, t in body.state_dict().items()}, tmp_path / "w.safetensors")
        start, more = "timm:test_efficientnet.r160_in1k", ["--weights", str(tmp_path / "w.safetensors")]
    else:
        transformers = library("transformers")
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8)
        transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
        (tmp_path / "vit" / "preprocessor_config.json").write_text('{"size": {"height": 16, "width": 16}}')
        start = f"hf:{tmp_path / 'vit'}"
    images, labels = grey_images(per_class=3)
    folder = write_folder(tmp_path / "images", np.stack([images, 255 - images, images], -1), labels)
    fields = {"ways": 2, "shots": 1, "queries": 1, "meta-batch": 1, "updates": 1, "eval-every": 0, "eval-episodes": 2}
    fields |= {"eval-split": "all", "inner-scope": "all", "inner-steps": 1, "start": start, "out": tmp_path / "run"}
    words = [str(word) for name, value in fields.items() for word in (f"--{name}", value)]
    assert run(["train", "--dataset", f"folder:{folder}", *words, *more]) == 0
    found = load_run(tmp_path / "run")
    config = found.config
    whole = config.model(found.image_shape)  # with the source's own weights
    assert whole.encoder.state_dict().keys() == found.model.encoder.state_dict().keys()
    x = load_images(config)[0].pixels(torch.arange(3))
    with torch.no_grad():
        moved, own = (model.features(found.params.encoder, x) for model in (found.model, whole))
        before = whole.features(whole.empty_params().encoder, x)
    torch.testing.assert_close(moved, own, atol=1e-6, rtol=1e-6)
    assert 0 < (moved - before).abs().max() < 0.1 * before.abs().max()


@pytest.mark.parametrize("name", ["timm:no_such_network", "hf:no/such-network", "torchvision:no_such_network"])
def test_names_that_a_library_does_not_know(name, monkeypatch):
    """Guards: offline or unknown, one line."""
    library({"timm": "timm", "hf": "transformers", "torchvision": "torchvision"}[name.partition(":")[0]])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=rf"^{name}[^\n]*$"):
        from_source(name)


def item(image):
    return Item("", "", image)
