"""EfficientNet-Lite (Tan & Le 2019, without squeeze-and-excitation): photographs to 1,280 features.

    stem 3×3/2 → inverted residuals (expand 1×1, depthwise k×k, project 1×1, + x where shapes agree) → head 1×1 → mean

with ReLU6 and TensorFlow's "SAME" padding. The network is for inference: every batch norm is folded into the
convolution before it,

    w ← w · γ / √(var + ε),    b ← β − mean · γ / √(var + ε),    ε = 1e-3,

so that an image's features depend on that image alone. The features f ≥ 0 are given as L √(f / Σf), of length L, as in
Hellinger's distance: nearest means are then compared by angle, and no single large feature decides.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metacontrast.errors import InputError

EPSILON = 1e-3
FEATURES = 1280
_DIVISOR = 8
_SMALL = 1e-8  # keeps the slope of the root finite


class FixedLength(nn.Module):
    """Features brought to length L, or with `root` their square roots.

    With L = 4 the nearest class mean's logits suit a temperature of 1 where each class has one image.
    """

    def __init__(self, length: float = 4.0, root: bool = False):
        super().__init__()
        self.length = length
        self.root = root

    def forward(self, features: Float[Tensor, "image feature"]) -> Float[Tensor, "image feature"]:
        """Every image's features, of one length; 0 stays 0."""
        features = (features.clamp_min(0) + _SMALL).sqrt() if self.root else features
        return nn.functional.normalize(features, dim=1) * self.length


class EfficientNetLite(nn.Module):
    """The layers in order; unlike the encoders that are meta-trained from scratch it draws no starting values."""

    feature_size = FEATURES

    def __init__(self, body: nn.Sequential):
        super().__init__()
        self.body = body

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1280"]:
        """The features of every image."""
        return self.body(images)


class Stage(NamedTuple):
    """Blocks of one kind: how many, kernel, stride of the first, expansion, channels out."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class InvertedResidual(nn.Module):
    """Layers with a shortcut around them where they keep the shape."""

    def __init__(self, layers: nn.Sequential, keeps_shape: bool):
        super().__init__()
        self.layers = layers
        self.keeps_shape = keeps_shape

    def forward(self, x: Float[Tensor, "batch before height width"]) -> Float[Tensor, "batch after h w"]:
        """The layers' output, plus `x` where the shapes agree."""
        return x + self.layers(x) if self.keeps_shape else self.layers(x)


def efficientnet_lite(width: float = 1.0, depth: float = 1.0, image_size: int = 224) -> EfficientNetLite:
    """The network with untrained weights: Lite0 is `(1.0, 1.0)`, Lite2 `(1.1, 1.2)`.

    Args:
        width: factor on the channels of the blocks.
        depth: factor on the repeats of all stages but the first and the last.
        image_size: side of the images in pixels, at least 32.
    """
    if image_size < 32:
        raise InputError(f"images of {image_size}×{image_size} are too small for EfficientNet-Lite: 32×32 at least")
    size = image_size
    layers: list[nn.Module] = [*_convolution(3, 32, 3, 2, size), nn.ReLU6()]
    size, channels = math.ceil(size / 2), 32
    for number, stage in enumerate(_STAGES):
        ends = number in (0, len(_STAGES) - 1)
        after = _rounded(stage.channels * width)
        for repeat in range(stage.repeats if ends else math.ceil(stage.repeats * depth)):
            stride = stage.stride if repeat == 0 else 1
            layers.append(_block(channels, after, stage, stride, size))
            size, channels = math.ceil(size / stride), after
    layers += [
        nn.Conv2d(channels, FEATURES, 1),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        FixedLength(root=True),
    ]
    return EfficientNetLite(nn.Sequential(*layers))


def load_weights(encoder: EfficientNetLite, weights: Mapping[str, Tensor]) -> EfficientNetLite:
    """Put weights with batch norms, under the names of the PyTorch port by L. Melas-Kyriazi, into the encoder."""
    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    names = _names(weights)
    if len(names) != len(convolutions):
        raise InputError(
            f"the weights are those of {len(names)} convolutions and the network has {len(convolutions)}: "
            "they belong to another network"
        )
    with torch.no_grad():
        for layer, (convolution, norm) in zip(convolutions, names, strict=True):
            _load_folded(layer, weights, convolution, norm)
    return encoder


def _load_folded(layer: nn.Conv2d, weights: Mapping[str, Tensor], convolution: str, norm: str) -> None:
    weight = weights[f"{convolution}.weight"].double()
    if weight.shape != layer.weight.shape:
        raise InputError(
            f"{convolution} has shape {tuple(weight.shape)}, not {tuple(layer.weight.shape)}: "
            "the weights belong to another network"
        )
    gain, shift, mean, var = (
        weights[f"{norm}.{name}"].double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gain / (var + EPSILON).sqrt()
    assert layer.bias is not None
    layer.weight.copy_(weight * scale[:, None, None, None])
    layer.bias.copy_(shift - mean * scale)


def _names(weights: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Each convolution and the batch norm behind it, in order."""
    blocks = 1 + max((int(name.split(".")[1]) for name in weights if name.startswith("_blocks.")), default=-1)
    names = [("_conv_stem", "_bn0")]
    for block in range(blocks):
        parts = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
        names += [(f"_blocks.{block}.{conv}", f"_blocks.{block}.{norm}") for conv, norm in parts]
    names.append(("_conv_head", "_bn1"))
    return [(conv, norm) for conv, norm in names if f"{conv}.weight" in weights]


def _block(before: int, after: int, stage: Stage, stride: int, size: int) -> InvertedResidual:
    inside = before * stage.expansion
    layers: list[nn.Module] = [nn.Conv2d(before, inside, 1), nn.ReLU6()] if stage.expansion > 1 else []
    layers += [*_convolution(inside, inside, stage.kernel, stride, size, groups=inside), nn.ReLU6()]
    layers.append(nn.Conv2d(inside, after, 1))
    return InvertedResidual(nn.Sequential(*layers), stride == 1 and before == after)


def _convolution(before: int, after: int, kernel: int, stride: int, size: int, groups: int = 1) -> list[nn.Module]:
    """A convolution whose output has ⌈size / stride⌉ pixels a side; an odd pixel of padding goes right and below."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    left, right = total // 2, total - total // 2
    if left == right:
        return [nn.Conv2d(before, after, kernel, stride, left, groups=groups)]
    return [nn.ZeroPad2d((left, right, left, right)), nn.Conv2d(before, after, kernel, stride, groups=groups)]


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, not more than 10 % below."""
    near = max(_DIVISOR, int(channels + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return near + _DIVISOR if near < 0.9 * channels else near
