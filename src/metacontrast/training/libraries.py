"""Encoders of timm, Hugging Face transformers and torchvision, with each library's own preprocessing.

Preprocessing is read from the library's settings and compared with what the library does; what an `ImageFormat`
cannot describe is refused. Where a library resizes the shorter side and then cuts, the square is cut and resized in one
step: places differ by less than a pixel.

What a library's classifier has on top of the features is left out. Features are brought to one length, so that nearest
means are compared by angle. The libraries are imported when they are asked for.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from metacontrast.data.decode import Item, Resample, enumerate_some
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
    """A library's model, its features brought to one length."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body
        self.direction = FixedLength()

    def forward(self, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image feature"]:
        """The features of every image."""
        return self.direction(self.body(images).flatten(1))


def as_prepared(images: ImageFormat, prepare: Callable[[Image.Image], Any]) -> ImageFormat:
    """The format, once the library's own preprocessing made the same of two pictures.

    The pictures are ramps: libraries cut at whole pixels, and a part of a pixel is a small difference there; another
    cut, scale, mean or order of channels is a large one.

    Raises:
        InputError: the library prepares images in another way.
    """
    near = ((2 + 300 / images.size) / 255 / torch.tensor(images.std))[:, None, None]
    for width, height in ((240, 120), (300, 450)):
        across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
        ramps = np.stack([across, down, 255 - across], -1).round().astype(np.uint8)
        picture = Image.fromarray(ramps).convert("L" if images.channels == 1 else "RGB")
        ours = images.to_input(images.read([Item("", "the picture", picture)])[1])[0]
        theirs = torch.as_tensor(prepare(picture))
        if theirs.shape != ours.shape or not bool(((theirs - ours).abs() <= near).all()):
            raise _other_preprocessing("in another way than its settings say")
    return images


def _other_preprocessing(how: str) -> InputError:
    return InputError(
        f"it prepares images {how}, which an ImageFormat cannot describe: choose one of your own and give "
        "StartingPoint.from_encoder(encoder, ImageFormat(...)) in Python"
    )


def _build_timm(name: str, trained: bool) -> Built:
    timm = _library("timm")
    body = timm.create_model(name, pretrained=trained, num_classes=0)
    about = timm.data.resolve_model_data_config(body)
    return Built(Features(body), as_prepared(timm_images(about), timm.data.create_transform(**about)))


def timm_images(about: Mapping[str, Any]) -> ImageFormat:
    """What the configuration of a timm model says of its images; `InputError` where no `ImageFormat` describes it."""
    channels, size, width = about["input_size"]
    resized, mode = int(size / float(about.get("crop_pct") or 0.875)), about.get("crop_mode") or "center"
    if width != size or resized < size or (mode != "center" and (mode, resized) != ("squash", size)):
        raise _other_preprocessing(f"to {size}x{width} by crop_mode {mode} from {resized}")
    crop = size / resized if mode == "center" else None
    return ImageFormat(channels, size, about["interpolation"], False, tuple(about["mean"]), tuple(about["std"]), crop)


def _build_hf(name: str, trained: bool) -> Built:
    transformers = _library("transformers")
    config = transformers.AutoConfig.from_pretrained(name)
    more = {"add_pooling_layer": True} if getattr(config, "use_mean_pooling", False) else {}  # BEiT and data2vec
    if trained:
        body, about_loading = transformers.AutoModel.from_pretrained(name, output_loading_info=True, **more)
        absent = about_loading["missing_keys"]
    else:
        body, absent = transformers.AutoModel.from_config(config, **more), ()
    body = getattr(body, "vision_model", body)
    pooler: Any = getattr(body, "pooler", None)
    if pooler is not None and any(isinstance(part, nn.Linear) for part in pooler.modules()):
        body.pooler = None  # a layer for its own task, which many files lack
        absent = [key for key in absent if "pooler" not in key]
    if absent:
        raise InputError(
            f"its weights lack {enumerate_some(sorted(absent))}: it is not a model of images, or its features were not "
            "trained"
        )
    processor = transformers.AutoImageProcessor.from_pretrained(name, backend="pil")
    images = hf_images(processor.to_dict())
    own = as_prepared(images, lambda picture: processor(picture, return_tensors="pt")["pixel_values"][0])
    return Built(Features(_Pixels(body)), own)


class _Pixels(nn.Module):
    """A model of transformers from images to its own pooled features, else its class token, else the mean of places."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.has_token = any(key.endswith(("cls_token", "class_embedding")) for key, _ in model.named_parameters())

    def forward(self, images: Tensor) -> Tensor:
        """The features of every image."""
        output = self.model(pixel_values=images)
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled
        hidden = output.last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean((2, 3))
        return hidden[:, 0] if self.has_token else hidden.mean(1)


def hf_images(about: Mapping[str, Any]) -> ImageFormat:
    """What an image processor of transformers says of itself by `to_dict`, its defaults included.

    Raises:
        InputError: no `ImageFormat` describes it.
    """
    side, crop = _hf_square(about)
    if about.get("do_flip_channel_order"):
        raise _other_preprocessing("with blue before red (do_flip_channel_order)")
    filters: tuple[Resample, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
    scale = 255 * (float(about["rescale_factor"]) if about.get("do_rescale") else 1.0)
    low, spread = np.zeros(3), np.ones(3)
    if about.get("do_normalize"):
        low, spread = low + about["image_mean"], spread * about["image_std"]
    if about.get("rescale_offset") and about.get("do_rescale"):
        low = low + 1
    if about.get("include_top"):  # EfficientNet's classifiers were trained on images divided a second time
        spread = spread * about["image_std"]
    mean, std = tuple((low / scale).tolist()), tuple((spread / scale).tolist())
    return ImageFormat(3, side, filters[int(about.get("resample", 2))], False, mean, std, crop)


def _hf_square(about: Mapping[str, Any]) -> tuple[int, float | None]:
    """The side of the square images, and `crop` of an `ImageFormat`."""
    sizes, cuts = dict(about.get("size") or {}), dict(about.get("crop_size") or {})
    short, height, width = (int(sizes.get(key) or 0) for key in ("shortest_edge", "height", "width"))
    cut = (int(cuts.get("height") or 0), int(cuts.get("width") or 0)) if about.get("do_center_crop") else (0, 0)
    kind, share = str(about.get("image_processor_type")), float(about.get("crop_pct") or 0)
    if kind.startswith("ConvNext") and short >= 384:
        short, height, width = 0, short, short
    elif kind.startswith("ConvNext") and share:
        short, cut = int(short / share), (short, short)
    elif kind.startswith("PoolFormer") and share:
        short = int((short or height) / share)
    elif kind.startswith("Levit"):
        short = int(256 / 224 * short)
    if about.get("do_resize") and short >= cut[0] == cut[1] > 0:
        return cut[0], cut[0] / short
    if about.get("do_resize") and not short and height == width > 0 and cut in ((0, 0), (height, width)):
        return height, None
    raise _other_preprocessing(
        f"by {kind} with do_resize {about.get('do_resize')}, size {sizes or None}, do_center_crop "
        f"{about.get('do_center_crop')} and crop_size {cuts or None}"
    )


def _build_torchvision(name: str, trained: bool) -> Built:
    models = _library("torchvision").models
    about = models.get_model_weights(name).DEFAULT
    body = models.get_model(name, weights=about if trained else None)
    preset = about.transforms()
    (size,), (resized,) = preset.crop_size, preset.resize_size
    if resized < size:
        raise _other_preprocessing(f"by a central cut of {size} from {resized}")
    mean, std = tuple(preset.mean), tuple(preset.std)
    images = ImageFormat(3, size, preset.interpolation.value, False, mean, std, size / resized)
    return Built(Features(without_classifier(body)), as_prepared(images, preset))


def without_classifier(body: nn.Module) -> nn.Module:
    """The model with its last linear layer, which in SqueezeNet is a convolution, left out."""
    key = [key for key, module in body.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    parent, _, child = key.rpartition(".")
    setattr(body.get_submodule(parent), child, nn.Identity())
    return body


def inner_model(encoder: nn.Module) -> nn.Module:
    """The library's own model, whose names of tensors its files have."""
    body = encoder.body if isinstance(encoder, Features) else encoder
    return body.model if isinstance(body, _Pixels) else body


def _library(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise InputError(f"it needs the package {name}, which is not installed: pip install {name}")
    return importlib.import_module(name)


BUILDERS: dict[str, Callable[[str, bool], Built]] = {
    "timm": _build_timm,
    "hf": _build_hf,
    "torchvision": _build_torchvision,
}
