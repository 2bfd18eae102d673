"""Encoders of timm, Hugging Face transformers and torchvision, with each library's own preprocessing.

What a library's classifier has on top of the features is left out. Features are brought to one length, so that nearest
means are compared by angle. The libraries are imported when they are asked for.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from metacontrast.data.decode import Resample, enumerate_some
from metacontrast.data.folder import IMAGENET_MEAN, IMAGENET_STD
from metacontrast.data.image_format import ImageFormat
from metacontrast.errors import InputError
from metacontrast.model.efficientnet_lite import FixedLength


class Built(NamedTuple):
    """An encoder with the images that it takes; `digest` where its weights are known by that of their file.

    `made` is what a function of the user's returned where that is more than an encoder.
    """

    encoder: nn.Module
    images: ImageFormat
    digest: str | None = None
    made: Any = None


class Features(nn.Module):
    """A library's model, what is read from its output, and the features brought to one length."""

    def __init__(self, body: nn.Module, read: Callable[[Any], Tensor] | None = None):
        super().__init__()
        self.body = body
        self.read = read
        self.direction = FixedLength()

    def forward(self, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image feature"]:
        """The features of every image."""
        found = self.body(images)
        return self.direction(found.flatten(1) if self.read is None else self.read(found))


def _build_timm(name: str, trained: bool) -> Built:
    timm = _library("timm", "timm")
    body = timm.create_model(name, pretrained=trained, num_classes=0)
    about = timm.data.resolve_model_data_config(body)
    channels, size, _ = about["input_size"]
    crop = min(float(about.get("crop_pct") or 1), 1.0)
    images = ImageFormat(channels, size, about["interpolation"], False, about["mean"], about["std"], crop)
    return Built(Features(body), images)


def _build_hf(name: str, trained: bool) -> Built:
    transformers = _library("transformers", "transformers")
    if trained:
        body, about_loading = transformers.AutoModel.from_pretrained(name, output_loading_info=True)
        if absent := sorted(key for key in about_loading["missing_keys"] if "pooler" not in key):
            raise InputError(f"its weights lack {enumerate_some(absent)}: it is not a model of images")
    else:
        body = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(name))
    body = getattr(body, "vision_model", body)
    if any(True for _ in getattr(getattr(body, "pooler", None), "parameters", tuple)()):
        body.pooler = None  # a layer for its own task, which many files lack
    about, _ = transformers.image_processing_base.ImageProcessingMixin.get_image_processor_dict(name)
    return Built(Features(_Pixels(body), _pooled), hf_images(about))


class _Pixels(nn.Module):
    """A model of transformers that takes images as its first argument and answers in a tuple."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """The model's own output."""
        return self.model(pixel_values=images)


def _pooled(output: Any) -> Tensor:
    """A model's own pooled features, else the first token, or the mean over the places of a map."""
    pooled = getattr(output, "pooler_output", None)
    if pooled is not None:
        return pooled.flatten(1)
    hidden = output.last_hidden_state
    return hidden[:, 0] if hidden.ndim == 3 else hidden.mean((2, 3))


def hf_images(about: Mapping[str, Any]) -> ImageFormat:
    """What an image processor's configuration says."""
    resized, keeps_aspect = _side(about.get("size"))
    wanted, _ = _side(about.get("crop_size"))
    cuts = bool(about.get("do_center_crop")) and wanted > 0
    side = wanted if cuts else resized or 224
    crop = min(side / (resized or side), 1.0) if keeps_aspect or cuts else None
    filters: tuple[Resample, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
    mean, std = (
        tuple(about.get(key) or short) for key, short in (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD))
    )
    return ImageFormat(3, side, filters[int(about.get("resample", 2))], False, mean, std, crop)


def _side(size: Any) -> tuple[int, bool]:
    """The side that a configuration names, 0 where it names none, and whether it is that of the shorter side."""
    if isinstance(size, Mapping):
        return int(size.get("shortest_edge") or size.get("height") or 0), "shortest_edge" in size
    return int(size or 0), size is not None


def _build_torchvision(name: str, trained: bool) -> Built:
    models = _library("torchvision", "torchvision").models
    about = models.get_model_weights(name).DEFAULT
    body = models.get_model(name, weights=about if trained else None)
    preset = about.transforms()
    (size,), (resized,) = preset.crop_size, preset.resize_size
    mean, std, crop = tuple(preset.mean), tuple(preset.std), min(size / resized, 1.0)
    images = ImageFormat(3, size, preset.interpolation.value, False, mean, std, crop)
    return Built(Features(_without_classifier(body)), images)


def _without_classifier(body: nn.Module) -> nn.Module:
    """The model with its last linear layer left out."""
    linear = [key for key, module in body.named_modules() if isinstance(module, nn.Linear)]
    if linear:
        parent, _, child = linear[-1].rpartition(".")
        setattr(body.get_submodule(parent), child, nn.Identity())
    return body


def inner_model(encoder: nn.Module) -> nn.Module:
    """The library's own model, whose names of tensors its files have."""
    body = encoder.body if isinstance(encoder, Features) else encoder
    return body.model if isinstance(body, _Pixels) else body


def _library(module: str, package: str) -> Any:
    if importlib.util.find_spec(module) is None:
        raise InputError(f"it needs the package {package}, which is not installed: pip install {package}")
    return importlib.import_module(module)


BUILDERS: dict[str, Callable[[str, bool], Built]] = {
    "timm": _build_timm,
    "hf": _build_hf,
    "torchvision": _build_torchvision,
}
