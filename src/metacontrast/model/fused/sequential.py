"""Layers of an encoder that run as one on the CPU: convolution, activation, batch norm, activation and 2×2 max-pooling.

`fuse` finds such blocks in every `nn.Sequential`, whichever of the layers around a batch norm are there, so that any
encoder profits. Layers keep their names and parameters. The arithmetic is in `block`.
"""

from collections import OrderedDict
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn

from metacontrast.model.fused.block import convolution_block, norm_block
from metacontrast.model.fused.convolution import Geometry
from metacontrast.model.fused.kernels import BlockLayout
from metacontrast.model.normalization import TaskBatchNorm, check_rows, has_own_call

_DTYPES = (torch.float32, torch.float64)

Layers = list[nn.Module]
Block = nn.Module | partial[Tensor]


def fuse(module: nn.Module, *, may_change: bool = False) -> nn.Module:
    """Replace every `nn.Sequential` in `module`, itself included, by one that runs its blocks as one; return it.

    Args:
        may_change: whether layers may be set or replaced at a call, as by a `forward` of another kind around them.
    """
    for name, child in module._modules.items():
        module._modules[name] = None if child is None else fuse(child, may_change=may_change)
    if type(module) is not nn.Sequential or module._parameters or module._buffers:
        return module
    return module if any(map(has_own_call, module.modules())) else FusedSequential(module, may_change)


def takes_tasks(encoder: nn.Module) -> bool:
    """Whether all parameters of a fused encoder may have a leading axis for tasks: they are in blocks only."""
    if isinstance(encoder, FusedSequential):
        return all(isinstance(block, partial) or takes_tasks(block) for block in encoder.blocks)
    return not any(p is not None for p in encoder._parameters.values()) and all(map(takes_tasks, encoder.children()))


def runs_fused(x: Tensor) -> bool:
    """Whether blocks run as one on `x`: on a CPU, outside `torch.func` transforms and `torch.compile`.

    In bfloat16 only under autocast, where the parameters are float32.
    """
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    known = x.dtype in _DTYPES or (x.dtype == torch.bfloat16 and torch.is_autocast_enabled("cpu"))
    return x.device.type == "cpu" and known and not transformed


class FusedSequential(nn.Sequential):
    """The layers of `layers` under the same names, run block by block where `runs_fused` says so.

    Its mode and whatever else was set on `layers` are its own too.
    """

    def __init__(self, layers: nn.Sequential, may_change: bool):
        super().__init__(OrderedDict(layers._modules))
        own = vars(self)
        own.update({name: value for name, value in vars(layers).items() if name not in own}, training=layers.training)
        self.blocks, self.may_change = tuple(_blocks(list(layers))), may_change

    def __getitem__(self, idx: slice | int) -> nn.Module:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One layer, or some of them as an ordinary `nn.Sequential`."""
        if isinstance(idx, slice):
            return nn.Sequential(OrderedDict(list(self._modules.items())[idx]))
        return super().__getitem__(idx)

    def forward(self, input: Tensor) -> Tensor:
        """The output of the last layer."""
        if not runs_fused(input) or (self.may_change and any(map(has_own_call, self.modules()))):
            return super().forward(input)
        for block in _blocks(list(self)) if self.may_change else self.blocks:
            input = block(input)
        return input


def _blocks(layers: Layers) -> list[Block]:
    """The layers as functions, as few as possible; those around a batch norm go into one."""
    blocks: list[Block] = []
    while layers:
        block, used = _first_block(layers)
        blocks.append(block)
        layers = layers[used:]
    return blocks


def _first_block(layers: Layers) -> tuple[Block, int]:
    """The block that starts with the first layer, and the number of its layers."""
    convolution = layers[0] if _is_plain_convolution(layers[0]) else None
    rest = list(layers) if convolution is None else layers[1:]
    before = _pop_slope(rest)
    if not rest or not isinstance(norm := rest.pop(0), TaskBatchNorm):
        return layers[0], 1
    after = _pop_slope(rest)
    window = 2 if rest and _is_halving(rest[0]) else 1
    used = len(layers) - len(rest) + (window == 2)
    return partial(_run, convolution, norm, before, after, window), used


def _run(
    convolution: nn.Conv2d | None, norm: TaskBatchNorm, before: float, after: float, window: int, x: Tensor
) -> Tensor:
    groups, reference, images, _ = norm.tasks.shape
    check_rows(len(x), reference, images)
    if window > 1 and x.ndim != 4:
        return torch.max_pool2d(_run(convolution, norm, before, after, 1, x), window)
    layout = BlockLayout(len(x) // groups, reference or len(x) // groups, before, after, window)
    if convolution is None:
        return norm_block(x, norm.weight, norm.bias, layout, norm.eps)
    assert not isinstance(convolution.padding, str)
    geometry = Geometry(convolution.stride, convolution.padding, convolution.dilation, convolution.groups)
    return convolution_block(
        x, convolution.weight, convolution.bias, geometry, norm.weight, norm.bias, layout, norm.eps
    )


def _is_plain_convolution(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _pop_slope(layers: Layers) -> float:
    """Slope below 0 of the activation that comes first, which is taken away; 1 if there is none that blocks know."""
    match layers[:1]:
        case [nn.ReLU() as layer] if type(layer) is nn.ReLU:
            slope = 0.0
        case [nn.LeakyReLU(negative_slope=slope) as layer] if type(layer) is nn.LeakyReLU and slope >= 0:
            pass
        case _:
            return 1.0
    layers.pop(0)
    return slope


def _is_halving(layer: nn.Module) -> bool:
    if type(layer) is not nn.MaxPool2d or layer.ceil_mode or layer.return_indices:
        return False
    wanted = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1}
    return all(getattr(layer, name) in (value, (value, value)) for name, value in wanted.items())
