"""Normalization with what stands around it, in one pass: leaky ReLU, batch norm, leaky ReLU, max-pooling, derivatives.

    z = lrelu(y, a)       μ, var over the reference images of a task        r = 1 / sqrt(var + ε)        x̂ = (z − μ) r
    v = γ x̂ + β           o = lrelu(v, b)                                   out = o, or its maximum over 2×2 windows

with lrelu(y, a) = y above 0 and a y below: ReLU at a = 0, leaky ReLU between, the identity at 1. Because lrelu and
v(x̂) are monotone, the maximum is found on y, and neither z, x̂, v nor o is ever written at full size. An ordinary
block of convolution, ReLU, batch norm and pooling writes each of them, which costs more than its convolution.

First derivative, G = the output's cotangent at the picked places times lrelu'(v), M = examples per channel:

    ∂y = lrelu'(y) γ r (G − (A₁ + x̂ A₂) / M),    A₁ = Σ G,   A₂ = Σ G x̂,    ∂γ = A₂,    ∂β = A₁

Second derivative, for cotangents (u, p, q) of (∂y, ∂γ, ∂β), U = u lrelu'(y), B₁ = Σ U, B₂ = Σ U x̂, C = Σ U G:

    at G:  γ r U + (q − γ r B₁ / M) + (p − γ r B₂ / M) x̂
    at γ:  r (C − (A₁ B₁ + A₂ B₂) / M)
    at y:  lrelu'(y) (k x̂ + s (U − (B₁ + x̂ B₂) / M) + t (G − (A₁ + x̂ A₂) / M)),
           k = −γ r² (C − (A₁ B₁ + A₂ B₂) / M) / M,   s = −γ r² A₂ / M,   t = r (p − γ r B₂ / M)

Where only the first images of a task set the statistics, the terms with 1 / M and k reach those alone, and s U too.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from metacontrast.errors import InputError
from metacontrast.model.fused import kernels
from metacontrast.model.fused.convolution import (
    Geometry,
    convolve,
    differentiable_gradients,
    gradients,
    plain_convolution,
)
from metacontrast.model.fused.kernels import BlockLayout, NormArrays
from metacontrast.model.normalization import check_examples

Gradients = tuple[Tensor, Tensor, Tensor]


def norm_block(
    y: Float[Tensor, "batch channel *space"],
    gamma: Float[Tensor, "*task channel"],
    beta: Float[Tensor, "*task channel"],
    layout: BlockLayout,
    epsilon: float,
) -> Float[Tensor, "batch channel *smaller"]:
    """The block's output, on a CPU; twice differentiable in `y`, `gamma` and `beta`.

    Args:
        gamma, beta: the same for all tasks, or with a leading axis for them.
    """
    if y.ndim != 4:
        flat = norm_block(y.reshape(*y.shape[:2], -1, 1), gamma, beta, layout, epsilon)
        return flat.reshape(y.shape)
    return _Block.apply(channels_last(y), *_for_tasks(y, gamma, beta, layout), _typed(layout, gamma), epsilon)


def convolution_block(
    x: Float[Tensor, "batch channel height width"],
    weight: Float[Tensor, "*task filter channel kernel_h kernel_w"],
    bias: Float[Tensor, "*task filter"] | None,
    geometry: Geometry,
    gamma: Float[Tensor, "*task filter"],
    beta: Float[Tensor, "*task filter"],
    layout: BlockLayout,
    epsilon: float,
) -> Float[Tensor, "batch filter smaller_h smaller_w"]:
    """The output of a convolution followed by the block; twice differentiable in `x` and the four parameters.

    Each parameter is the same for all tasks or has a leading axis for them.
    """
    if torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
    at_once = _images_at_once(x, weight, geometry)
    if at_once >= len(x):
        return norm_block(convolve(channels_last(x), weight, bias, geometry), gamma, beta, layout, epsilon)
    rest = _Rest(geometry, at_once, _typed(layout, gamma), epsilon)
    return _ConvolutionBlock.apply(channels_last(x), weight, bias, *_for_tasks(x, gamma, beta, layout), rest)


_CACHE_BYTES = 6 * 2**20


def _images_at_once(x: Tensor, weight: Tensor, geometry: Geometry) -> int:
    """How many images' convolutions stay in a processor's cache."""
    sizes = zip(x.shape[2:], weight.shape[-2:], *geometry[:3], strict=True)
    places = math.prod(
        (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for size, kernel, stride, pad, dilation in sizes
    )
    return max(1, _CACHE_BYTES // (weight.shape[-4] * max(1, places) * x.element_size()))


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, gamma: Tensor, beta: Tensor, layout: BlockLayout, epsilon: float) -> Tensor:
        out, *saved = _forward([y], gamma, beta, layout, epsilon)
        ctx.save_for_backward(y, gamma, beta, *saved)
        ctx.layout = layout
        return out

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return *_BlockGradient.apply(channels_last(cotangent), *ctx.saved_tensors, ctx.layout), None, None


class _ConvolutionBlock(torch.autograd.Function):
    """The same after a convolution, a few images at a time, so that what one writes the other finds in the cache."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, gamma: Tensor, beta: Tensor, rest: "_Rest"
    ) -> Tensor:
        parts = list(_parts(len(x), weight, rest))
        ys = [
            channels_last(plain_convolution(x[here], *_own_both(weight, bias, task), rest.geometry))
            for here, task in parts
        ]
        out, *saved = _forward(ys, gamma, beta, rest.layout, rest.epsilon)
        ctx.save_for_backward(x, weight, bias, gamma, beta, *saved)
        ctx.ys, ctx.parts, ctx.rest = ys, parts, rest
        return out

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cotangent = channels_last(cotangent)
        if torch.is_grad_enabled():
            return *_differentiable_gradient(ctx, cotangent), None
        x, weight, _, gamma, beta, mean, scale, picked, argmax = ctx.saved_tensors
        layout, norm = ctx.rest.layout, _norm(gamma, beta, mean, scale)
        sums = _picked_sums(cotangent, ctx.ys if layout.window == 1 else [picked], norm, layout)
        shares = (sums / _count(ctx.ys[0], layout)).numpy()
        buffer, found = torch.empty_like(max(ctx.ys, key=len)), []
        for y, (here, task) in zip(ctx.ys, ctx.parts, strict=True):
            dy = buffer[: len(y)]
            kernels.input_gradient(
                _array(cotangent[here]), _array(y), _argmax(argmax, here), here.start, layout, norm, shares, _array(dy)
            )
            found.append(gradients(dy, x[here], _own(weight, task), ctx.rest.geometry, ctx.needs_input_grad[:3]))
        at_x, at_weight, at_bias = zip(*found, strict=True)
        tasks = [task for _, task in ctx.parts]
        whole_x = torch.cat(at_x) if ctx.needs_input_grad[0] else None
        whole_bias = _summed(at_bias, tasks) if ctx.needs_input_grad[2] else None
        return whole_x, _summed(at_weight, tasks), whole_bias, sums[1], sums[0], None


def _parts(images: int, weight: Tensor, rest: "_Rest") -> Iterator[tuple[slice, int | None]]:
    """Images that are convolved together, and the task whose weight they take, None where all share one."""
    tasks = [None] if weight.ndim == 4 else list(range(len(weight)))
    size = images // len(tasks)
    for number, task in enumerate(tasks):
        end = (number + 1) * size
        for start in range(number * size, end, rest.at_once):
            yield slice(start, min(start + rest.at_once, end)), task


def _own(tensor: Tensor, task: int | None) -> Tensor:
    """A task's own part of a parameter."""
    return tensor if task is None else tensor[task]


def _own_both(weight: Tensor, bias: Tensor | None, task: int | None) -> tuple[Tensor, Tensor | None]:
    return _own(weight, task), None if bias is None else _own(bias, task)


def _summed(parts: Sequence[Tensor], tasks: list[int | None]) -> Tensor:
    """The sum of the parts, or of each task's own."""
    sums: dict[int | None, Tensor] = {}
    for part, task in zip(parts, tasks, strict=True):
        sums[task] = sums[task] + part if task in sums else part
    return sums[None] if None in sums else torch.stack(list(sums.values()))


class _Rest(NamedTuple):
    """What `_ConvolutionBlock` needs beside tensors; convolve `at_once` images at once."""

    geometry: Geometry
    at_once: int
    layout: BlockLayout
    epsilon: float


def _differentiable_gradient(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient as a function that can be differentiated again; y is computed again for that."""
    x, weight, bias, gamma, beta, *saved = ctx.saved_tensors
    y = convolve(x, weight, bias, ctx.rest.geometry)
    dy, at_gamma, at_beta = _BlockGradient.apply(cotangent, y, gamma, beta, *saved, ctx.rest.layout)
    return *differentiable_gradients(dy, x, weight, ctx.rest.geometry, ctx.needs_input_grad[:3]), at_gamma, at_beta


class _BlockGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        cotangent: Tensor,
        y: Tensor,
        gamma: Tensor,
        beta: Tensor,
        mean: Tensor,
        scale: Tensor,
        picked: Tensor,
        argmax: Tensor,
        layout: BlockLayout,
    ) -> Gradients:
        norm = _norm(gamma, beta, mean, scale)
        sums = _picked_sums(cotangent, [y if layout.window == 1 else picked], norm, layout)
        shares, out = (sums / _count(y, layout)).numpy(), torch.empty_like(y)
        kernels.input_gradient(_array(cotangent), _array(y), _array(argmax), 0, layout, norm, shares, _array(out))
        ctx.save_for_backward(cotangent, y, gamma, beta, mean, scale, argmax, sums)
        ctx.layout = layout
        ctx.set_materialize_grads(False)
        return out, sums[1], sums[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor | None, p: Tensor | None, q: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cotangent, y, gamma, beta, mean, scale, argmax, (a1, a2) = ctx.saved_tensors
        u = torch.zeros_like(y) if u is None else channels_last(u)
        p, q = (torch.zeros_like(gamma) if given is None else given for given in (p, q))
        layout, norm, m = ctx.layout, _norm(gamma, beta, mean, scale), _count(y, ctx.layout)
        arrays = tuple(map(_array, (u, cotangent, y, argmax)))
        sums = gamma.new_zeros(3, *mean.shape)
        kernels.cotangent_sums(*arrays, 0, layout, norm, sums.numpy())
        b1, b2, c = sums
        r, inner = scale, c - (a1 * b1 + a2 * b2) / m
        k, s, t = -gamma * r**2 * inner / m, -gamma * r**2 * a2 / m, r * (p - gamma * r * b2 / m)
        at_cotangent = torch.stack([gamma * r, q - gamma * r * b1 / m, p - gamma * r * b2 / m])
        at_y = torch.stack([s, -(s * b1 + t * a1) / m, k - (s * b2 + t * a2) / m, t])
        out_cotangent, out = torch.zeros_like(cotangent), torch.empty_like(y)
        kernels.second_gradients(
            *arrays, 0, layout, norm, at_cotangent.numpy(), at_y.numpy(), _array(out_cotangent), _array(out)
        )
        return out_cotangent, out, r * inner, None, None, None, None, None, None


def _forward(
    ys: list[Tensor], gamma: Tensor, beta: Tensor, layout: BlockLayout, epsilon: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Output, μ, r, the picked elements (none without pooling) and their places, of images that come in parts."""
    images, (_, channels, height, width) = sum(map(len, ys)), ys[0].shape
    small = (images, channels, height // layout.window, width // layout.window)
    if 0 in small[2:]:
        raise InputError(f"maps of {height}×{width} cannot be halved: give larger images, or take fewer poolings")
    if layout.reference == layout.size:
        check_examples(_count(ys[0], layout))
    pools = layout.window == 2
    picked = _empty(ys[0], small if pools else (0, channels, 1, 1))
    argmax = torch.empty(small, dtype=torch.uint8, memory_format=torch.channels_last) if pools else _no_argmax(channels)
    pivot, sums = (
        gamma.new_empty(images // layout.size, channels),
        torch.zeros(2, images // layout.size, channels, dtype=torch.float64),
    )
    for start, y in _numbered(ys):
        here = slice(start, start + len(y))
        chosen = _array(picked[here]), _argmax(argmax, here)
        kernels.summarize(_array(y), start, layout, gamma.detach().numpy(), pivot.numpy(), sums.numpy(), *chosen)
    shift, square = sums / _count(ys[0], layout)
    mean = (pivot + shift).to(gamma.dtype)
    scale = (square - shift**2).clamp_min(0).add(epsilon).rsqrt().to(gamma.dtype)
    out, norm = _empty(ys[0], small), _norm(gamma, beta, mean, scale)
    for start, y in _numbered([picked] if pools else ys):
        kernels.normalize(_array(y), start, layout, norm, _array(out[start : start + len(y)]))
    return out, mean, scale, picked, argmax


def _picked_sums(cotangent: Tensor, picked: list[Tensor], norm: NormArrays, layout: BlockLayout) -> Tensor:
    """A₁ and A₂ of every task and channel."""
    sums = torch.zeros(2, *norm.mean.shape, dtype=torch.float64)
    for start, part in _numbered(picked):
        here = _array(cotangent[start : start + len(part)])
        kernels.picked_sums(here, _array(part), start, layout, norm, sums.numpy())
    return sums.to(torch.from_numpy(norm.mean).dtype)


def _for_tasks(x: Tensor, gamma: Tensor, beta: Tensor, layout: BlockLayout) -> tuple[Tensor, Tensor]:
    """γ and β with an axis for tasks."""
    tasks = len(x) // layout.size
    return gamma.expand(tasks, -1).contiguous(), beta.expand(tasks, -1).contiguous()


def _numbered(parts: list[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Each part with the number of its first image."""
    return zip(accumulate(map(len, parts), initial=0), parts, strict=False)


def channels_last(tensor: Tensor) -> Tensor:
    """The same in this order of memory; one channel is in both orders, and strides say which one is meant."""
    tensor = tensor.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = tensor.shape
    return tensor.as_strided(tensor.shape, (height * width, 1, width, 1)) if channels == 1 else tensor


def _typed(layout: BlockLayout, gamma: Tensor) -> BlockLayout:
    kind = np.float64 if gamma.dtype == torch.float64 else np.float32
    return layout._replace(before=kind(layout.before), after=kind(layout.after))


def _empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)


def _no_argmax(channels: int) -> Tensor:
    """Without pooling every output is taken from place 0 of its window of one."""
    return torch.zeros(1, channels, 1, 1, dtype=torch.uint8)


def _argmax(argmax: Tensor, here: slice) -> NDArray[Any]:
    """The places of these images; without pooling all images share one."""
    return _array(argmax[here] if len(argmax) > 1 else argmax)


def _array(tensor: Tensor) -> NDArray[Any]:
    """The same memory in the order (image, height, width, channel); bfloat16 as its bits."""
    tensor = tensor.detach().permute(0, 2, 3, 1)
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _norm(*tensors: Tensor) -> NormArrays:
    return NormArrays(*(tensor.detach().numpy() for tensor in tensors))


def _count(y: Tensor, layout: BlockLayout) -> int:
    """M: how many elements of a channel set its statistics."""
    return layout.reference * y.shape[2] * y.shape[3]
