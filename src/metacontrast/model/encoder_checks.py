"""What an encoder must be, and one line for one that is not: a module that can be copied, from images to features."""

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from metacontrast.errors import InputError


def copy_encoder(encoder: nn.Module) -> nn.Module:
    """A copy of an encoder from elsewhere; `InputError` where it has none, or takes no other parameters."""
    if any(isinstance(each, torch.jit.ScriptModule) for each in encoder.modules()):
        raise InputError(
            "the encoder is compiled by TorchScript, which takes no other parameters: give its Python module"
        )
    if any(map(is_lazy, (*encoder.parameters(), *encoder.buffers()))):
        raise InputError("the encoder has lazy layers, whose shapes are not known yet: call it once on some images")
    try:
        return copy.deepcopy(encoder)
    except RuntimeError as error:
        raise InputError(
            f"the encoder cannot be copied ({str(error).splitlines()[0]}): use torch.nn.utils.parametrizations "
            "in place of the older weight_norm"
        ) from error


_CLASSIFIER_NAMES = {"fc", "classifier", "head", "heads", "logits", "last_linear"}


def warn_of_a_classifier(encoder: nn.Module, size: int, ways: int) -> None:
    """Warn where an encoder's last layer looks like a classifier's, on which the model would put a second head."""
    leaves = [(name, module) for name, module in encoder.named_modules() if not list(module.children())]
    if not leaves or not isinstance(leaves[-1][1], nn.Linear) or leaves[-1][1].out_features != size:
        return
    name, last = leaves[-1]
    if size in (ways, 1000) or _CLASSIFIER_NAMES & set(name.split(".")):
        warnings.warn(
            f"the encoder ends in the linear layer {name!r} ({last.in_features} to {size}), which looks like a whole "
            f"classifier: to cut it, replace that layer by nn.Identity() and pass feature_size={last.in_features}",
            stacklevel=4,
        )


def not_alike(images: torch.dtype, parameters: torch.dtype) -> str:
    """That images and parameters are of two kinds, and what to do about it."""
    scaled = "" if images.is_floating_point else ", scaled to 0 … 1"
    return f"images are {images}, but the encoder's parameters {parameters}: give images.to({parameters}){scaled}"


def not_features(found: object, images: int, size: int) -> str:
    """What an encoder returned in place of features, and what to do about it."""
    if not isinstance(found, Tensor):
        return (
            f"the encoder returns a {type(found).__name__}, not a tensor: wrap it in a module that picks the features"
        )
    if found.ndim == 2 and len(found) == images:
        return f"the encoder's features have length {found.shape[1]}, not feature_size={size}: pass that length"
    wanted = f"returns {tuple(found.shape)} for {images} images, not ({images}, {size})"
    return f"the encoder {wanted}: end it in a layer that flattens, such as nn.Flatten()"
