"""The released four-block encoders in plain `torch.nn.functional`: conv, ReLU, batch norm by batch
statistics.

    omniglot   3 x conv3x3 stride 2, then conv2x2 stride 1, no padding     1x28x28 -> 28-13-6-2-1
    mini       4 x conv3x3 padding 1, each followed by max-pool 2          3x84x84 -> 84-42-21-10-5

`init_*` gives the tensors, the function of the same name the features `(image, feature)`. The affine part
of batch norm is drawn at random, so that no gradient vanishes by symmetry.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from metacontrast.types import Episode, Head, Params


def init_blocks(
    generator: torch.Generator, channels: int, width: int, kernels: tuple[int, ...], dtype=torch.float64
) -> dict[str, Tensor]:
    def normal(*shape: int, scale: float) -> Tensor:
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    params = {}
    for block, kernel in enumerate(kernels):
        fan_in = channels * kernel * kernel
        params[f"{block}.conv.weight"] = normal(width, channels, kernel, kernel, scale=(2 / fan_in) ** 0.5)
        params[f"{block}.conv.bias"] = normal(width, scale=0.1)
        params[f"{block}.norm.weight"] = 1 + normal(width, scale=0.1)
        params[f"{block}.norm.bias"] = normal(width, scale=0.1)
        channels = width
    return params


def init_omniglot(generator: torch.Generator, width: int = 64, dtype=torch.float64) -> dict[str, Tensor]:
    return init_blocks(generator, 1, width, (3, 3, 3, 2), dtype)


def init_mini(generator: torch.Generator, width: int = 32, dtype=torch.float64) -> dict[str, Tensor]:
    return init_blocks(generator, 3, width, (3, 3, 3, 3), dtype)


def block(params: dict[str, Tensor], number: int, x: Tensor, stride: int, padding: int) -> Tensor:
    weight, bias = params[f"{number}.conv.weight"], params[f"{number}.conv.bias"]
    x = F.relu(F.conv2d(x, weight, bias, stride=stride, padding=padding))
    return batch_norm(x, params[f"{number}.norm.weight"], params[f"{number}.norm.bias"])


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """As the textbook writes it: torch's own sums one after the other and is wrong by 5e-14 on 84×84 images."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)


def omniglot(params: dict[str, Tensor], x: Tensor) -> Tensor:
    for number, stride in enumerate((2, 2, 2, 1)):
        x = block(params, number, x, stride, padding=0)
    return x.flatten(1)


def mini(params: dict[str, Tensor], x: Tensor) -> Tensor:
    for number in range(4):
        x = F.max_pool2d(block(params, number, x, stride=1, padding=1), 2)
    return x.flatten(1)


def init_mlp(generator: torch.Generator, sizes: tuple[int, ...], dtype=torch.float64) -> dict[str, Tensor]:
    params = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        weight = torch.randn(fan_out, fan_in, generator=generator, dtype=torch.float64) / fan_in**0.5
        params[f"{layer}.weight"] = weight.to(dtype)
        params[f"{layer}.bias"] = 0.1 * torch.randn(fan_out, generator=generator, dtype=torch.float64).to(dtype)
    return params


def mlp(params: dict[str, Tensor], x: Tensor) -> Tensor:
    """Smooth, so that finite differences are honest on it."""
    x = x.flatten(1)
    for layer in range(len(params) // 2):
        x = torch.tanh(x @ params[f"{layer}.weight"].T + params[f"{layer}.bias"])
    return x


def random_head(
    generator: torch.Generator, ways: int, size: int, bias: bool, scale: float = 0.3, dtype=torch.float64
) -> Head:
    weight = scale * torch.randn(ways, size, generator=generator, dtype=torch.float64).to(dtype)
    offset = scale * torch.randn(ways, generator=generator, dtype=torch.float64).to(dtype)
    return Head(weight, offset if bias else None)


def random_episode(
    generator: torch.Generator,
    ways: int = 5,
    shots: int = 1,
    queries: int = 3,
    image: tuple[int, int, int] = (1, 28, 28),
    dtype=torch.float64,
) -> Episode:
    """Each class is a random image plus noise, so that there is something to learn."""
    means = torch.rand(ways, *image, generator=generator, dtype=torch.float64)

    def draw(per_class: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(ways).repeat_interleave(per_class)
        noise = torch.randn(len(y), *image, generator=generator, dtype=torch.float64)
        return (means[y] + 0.5 * noise).to(dtype), y

    return Episode(*draw(shots), *draw(queries))


def random_params(generator: torch.Generator, encoder: dict[str, Tensor], ways: int, size: int, bias: bool) -> Params:
    return Params(encoder, random_head(generator, ways, size, bias, dtype=next(iter(encoder.values())).dtype))
