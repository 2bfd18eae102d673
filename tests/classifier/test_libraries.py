"""Encoders of timm, transformers and torchvision: real networks, built without weights where nothing may be fetched.

Each is skipped where its library is not installed.
"""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from classifier_kit import grey_images, write_folder
from metacontrast import FewShotClassifier, load_run
from metacontrast.classifier.export import export
from metacontrast.classifier.starting_point import from_source
from metacontrast.cli.main import run
from metacontrast.errors import InputError
from metacontrast.training import sources
from metacontrast.training.train_run import load_images


def library(name: str):
    """The library, or a reason to skip: some builds of torchvision do not fit some builds of PyTorch."""
    try:
        return pytest.importorskip(name)
    except (RuntimeError, ImportError) as error:
        pytest.skip(f"{name} cannot be imported: {error}")


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
    assert images.crop == own["crop_pct"]


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


def test_a_network_of_torchvision(tmp_path):
    torchvision = library("torchvision")
    torch.manual_seed(0)
    body = torchvision.models.get_model("resnet18", weights=None).eval()
    save_file({k: t.contiguous() for k, t in body.state_dict().items()}, tmp_path / "w.safetensors")
    start = from_source("torchvision:resnet18", tmp_path / "w.safetensors")
    assert (start.images.size, start.model.feature_size) == (224, 512)
    assert start.images.crop == pytest.approx(224 / 256)


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
    from metacontrast.data.decode import Item

    return Item("", "", image)
