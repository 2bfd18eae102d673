"""Built-in encoders φ: images `(batch, channel, height, width)` to features `(batch, feature)`.

Every one has `feature_size` and draws its own starting values from a generator. Convolutions and linear layers start
from He's normal distribution (fan-in), biases from 0, normalization from weight 1 and bias 0.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metacontrast.errors import InputError, check_choice
from metacontrast.model.normalization import TaskBatchNorm

BlockOrder = Literal["conv-bn-relu", "conv-relu-bn"]
Downsampling = Literal["pool", "stride"]


class Encoder(nn.Module):
    """A network that ends in a flat feature vector of known length.

    Args:
        body: maps images `(batch, channel, height, width)` to anything that flattens to `(batch, feature)`.
        image_shape: channels, height and width of one image.
    """

    def __init__(self, body: nn.Module, image_shape: tuple[int, int, int]):
        super().__init__()
        self.body = body
        with torch.no_grad():
            self.feature_size = self(torch.zeros(2, *image_shape)).shape[1]

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch feature"]:
        """The features of every image."""
        return self.body(images).flatten(1)

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw all initial values from `generator`."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=he_std(module.weight), generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class UnitLength(nn.Module):
    """An encoder whose features are brought to length 1; zeros stay zeros."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.feature_size = getattr(encoder, "feature_size", 0)

    def forward(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch feature"]:
        """φ(x) / |φ(x)|."""
        return nn.functional.normalize(self.encoder(images), dim=1)

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw the encoder's starting values again, where it draws them itself."""
        if isinstance(self.encoder, Encoder):
            self.encoder.draw_parameters(generator)


def he_std(weight: Float[Tensor, "out in *kernel"]) -> float:
    """Standard deviation sqrt(2 / fan-in) of He's normal initialization."""
    return math.sqrt(2 / weight[0].numel())


def conv4(
    channels: int = 1,
    image_size: int = 28,
    *,
    filters: int = 64,
    blocks: int = 4,
    block_order: BlockOrder = "conv-bn-relu",
    downsampling: Downsampling = "pool",
    padding: int = 1,
    last_kernel: int = 3,
) -> Encoder:
    """The four-block convolutional encoder of the MAML literature, with every choice that versions differ in.

    The preset `--encoder conv4` is `conv4_paper`, which differs for grey images: it downsamples by strides.

    Args:
        channels, image_size: of the images.
        filters: of each convolution.
        blocks: number of convolutions, each with normalization and ReLU.
        block_order: whether normalization comes before or after the ReLU.
        downsampling: halve the image by 2×2 max-pooling or by stride 2.
        padding: of the 3×3 convolutions.
        last_kernel: kernel of the last convolution; with strides, a kernel other than 3 stands at stride 1, unpadded.
    """
    check_choice("block_order", block_order, get_args(BlockOrder))
    check_choice("downsampling", downsampling, get_args(Downsampling))
    layers: list[nn.Module] = []
    size = image_size
    for block in range(blocks):
        kernel = last_kernel if block == blocks - 1 else 3
        pad, stride = (padding, 2 if downsampling == "stride" else 1) if kernel == 3 else (0, 1)
        size = (size + 2 * pad - kernel) // stride + 1
        size = size // 2 if downsampling == "pool" else size
        if size < 1:
            raise InputError(f"images of {image_size}×{image_size} are too small for {blocks} blocks: enlarge them")
        convolution = nn.Conv2d(channels if block == 0 else filters, filters, kernel, stride, pad)
        norm_and_relu = [TaskBatchNorm(filters), nn.ReLU()]
        layers += [convolution, *(norm_and_relu if block_order == "conv-bn-relu" else norm_and_relu[::-1])]
        if downsampling == "pool":
            layers.append(nn.MaxPool2d(2))
    return Encoder(nn.Sequential(*layers), (channels, image_size, image_size))


def mlp(channels: int = 1, image_size: int = 28, *, hidden: tuple[int, ...] = (256, 128, 64, 64)) -> Encoder:
    """Fully connected layers, each with batch norm and ReLU, on the flattened image."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = channels * image_size**2
    for units in hidden:
        layers += [nn.Linear(width, units), TaskBatchNorm(units), nn.ReLU()]
        width = units
    return Encoder(nn.Sequential(*layers), (channels, image_size, image_size))


class ResidualBlock(nn.Module):
    """Three 3×3 convolutions beside a 1×1 shortcut, then leaky ReLU and 2×2 max-pooling."""

    def __init__(self, before: int, after: int):
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(3):
            layers += [
                nn.Conv2d(before if index == 0 else after, after, 3, padding=1, bias=False),
                TaskBatchNorm(after),
                nn.LeakyReLU(0.1),
            ]
        self.main = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), TaskBatchNorm(after))
        self.finish = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))

    def forward(self, x: Float[Tensor, "batch before height width"]) -> Float[Tensor, "batch after half_h half_w"]:
        """Main path plus shortcut."""
        return self.finish(self.main(x) + self.shortcut(x))


def resnet12(
    channels: int = 3, image_size: int = 84, *, filters: tuple[int, int, int, int] = (64, 160, 320, 640)
) -> Encoder:
    """The ResNet-12 of the few-shot literature, global average pooling at the end, without dropout."""
    if image_size < 16:
        raise InputError(f"images of {image_size}×{image_size} are too small for resnet12: it needs at least 16×16")
    widths = [channels, *filters]
    blocks = [ResidualBlock(before, after) for before, after in pairwise(widths)]
    return Encoder(nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1)), (channels, image_size, image_size))


def conv4_paper(channels: int, image_size: int, filters: int | None = None) -> Encoder:
    """The paper's text: 64 filters, conv-BN-ReLU; max-pooling, or strides for small grey images (Omniglot)."""
    downsampling = "stride" if channels == 1 else "pool"
    return conv4(channels, image_size, filters=filters or 64, downsampling=downsampling)


def conv4_released(channels: int, image_size: int, filters: int | None = None) -> Encoder:
    """What the released code ran: conv-ReLU-BN; grey: 64 filters, stride 2 unpadded, last kernel 2; colour: 32, pooled.

    28×28 grey images give 64 features and 84×84 colour images 800.
    """
    if channels == 1:
        return conv4(
            channels,
            image_size,
            filters=filters or 64,
            block_order="conv-relu-bn",
            downsampling="stride",
            padding=0,
            last_kernel=2,
        )
    return conv4(channels, image_size, filters=filters or 32, block_order="conv-relu-bn")


def _resnet12_preset(channels: int, image_size: int, filters: int | None = None) -> Encoder:
    first = filters or 64
    return resnet12(channels, image_size, filters=(first, first * 5 // 2, first * 5, first * 10))


def _mlp_preset(channels: int, image_size: int, filters: int | None = None) -> Encoder:
    return mlp(channels, image_size) if filters is None else mlp(channels, image_size, hidden=(filters,) * 4)


EncoderName = Literal["conv4", "conv4-released", "resnet12", "mlp"]

PRESETS: dict[EncoderName, Callable[[int, int, int | None], Encoder]] = {
    "conv4": conv4_paper,
    "conv4-released": conv4_released,
    "resnet12": _resnet12_preset,
    "mlp": _mlp_preset,
}


def build_encoder(name: EncoderName, image_shape: tuple[int, int, int], filters: int | None = None) -> Encoder:
    """The encoder of that name for images of that shape `(channels, height, width)`, square.

    Args:
        filters: width of the (first) layer; None is the preset's own.
    """
    check_choice("encoder", name, PRESETS)
    channels, height, width = image_shape
    if height != width:
        raise InputError(f"the built-in encoders take square images, not {height}×{width}: choose one image size")
    return PRESETS[name](channels, height, filters)
