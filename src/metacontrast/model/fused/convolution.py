"""A convolution y = x ⋆ w + b whose gradient's gradient takes the same three fast kernels as its gradient.

    ∂x = ∂y ⋆ᵀ w,    ∂w = x ⋆ ∂y (a correlation),    ∂b = Σ ∂y

Each is linear in both of its factors, so that the gradient at cotangents (u, v, s) of (∂x, ∂w, ∂b) is

    at ∂y:  u ⋆ w + x ⋆ v + s,    at x:  ∂y ⋆ᵀ v,    at w:  u ⋆ ∂y

Weight and bias may have a leading axis for tasks, whose images then stand one after the other in x, as many of each.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Geometry(NamedTuple):
    """Of a convolution, as `torch.nn.Conv2d` has it."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The convolution, twice differentiable."""
    return _Convolution.apply(x, weight, bias, geometry)


def gradients(
    cotangent: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients at x, weight and bias, those that are wanted."""
    if weight.ndim == 5:
        return _task_gradients(cotangent, x, weight, geometry, wanted)
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(
        cotangent, x, weight, [len(weight)], stride, padding, dilation, False, [0, 0], groups, list(wanted)
    )


def plain_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """`torch.conv2d`, with a weight for each task if there is a leading axis."""
    if weight.ndim == 4:
        return torch.conv2d(x, weight, bias, *geometry)
    if _is_shared(weight) and (bias is None or _is_shared(bias)):
        return torch.conv2d(x, weight[0], None if bias is None else bias[0], *geometry)
    biases = [None] * len(weight) if bias is None else bias
    return torch.cat(
        [torch.conv2d(part, w, b, *geometry) for part, w, b in zip(x.chunk(len(weight)), weight, biases, strict=True)]
    )


def _task_gradients(
    cotangent: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`gradients` for a weight of each task; what is found is put in its place while it is in the cache."""
    tasks, filters, channels, *kernel = weight.shape
    of_x, of_weight, of_bias = wanted
    at_x = at_weight = at_bias = None
    if of_x and _is_shared(weight):
        at_x, of_x = gradients(cotangent, x, weight[0], geometry, (True, False, False))[0], False
    elif of_x:
        at_x = torch.empty_like(x)
    if of_weight:
        at_weight = weight.new_empty(tasks, filters, *kernel, channels).permute(0, 1, 4, 2, 3)
    if of_bias:
        at_bias = weight.new_empty(tasks, filters)
    places = (None if at_x is None else at_x.chunk(tasks), at_weight, at_bias)
    for task, (own_cotangent, own_x) in enumerate(zip(cotangent.chunk(tasks), x.chunk(tasks), strict=True)):
        found = gradients(own_cotangent, own_x, weight[task], geometry, (of_x, of_weight, of_bias))
        for place, part in zip(places, found, strict=True):
            if place is not None and part is not None:
                place[task].copy_(part)
    return at_x, at_weight, at_bias


def _is_shared(parameter: Tensor) -> bool:
    """Whether a parameter with an axis for tasks is the same memory for all of them, as before the first step."""
    return parameter.stride(0) == 0


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def differentiable_gradients(
    cotangent: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`gradients` as a function that can be differentiated again."""
    return _Gradient.apply(cotangent, x, weight, geometry, wanted)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return plain_convolution(x, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        return *differentiable_gradients(cotangent, x, weight, ctx.geometry, ctx.needs_input_grad[:3]), None


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cotangent: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(cotangent, x, weight)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return gradients(cotangent, x, weight, geometry, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None, s: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cotangent, x, weight = ctx.saved_tensors
        needs_cotangent, needs_x, needs_weight = ctx.needs_input_grad[:3]
        at_cotangent = at_x = at_weight = None
        if v is not None:
            at_cotangent = plain_convolution(x, v, s, ctx.geometry) if needs_cotangent else None
            at_x = gradients(cotangent, x, v, ctx.geometry, (True, False, False))[0] if needs_x else None
        elif s is not None:
            per_image = s if s.ndim == 1 else s.repeat_interleave(len(cotangent) // len(s), 0)
            at_cotangent = per_image[..., None, None].expand_as(cotangent)
        if u is not None:
            through_x = plain_convolution(u, weight, None, ctx.geometry) if needs_cotangent else None
            at_cotangent = _sum(at_cotangent, through_x)
            wanted = (False, needs_weight, False)
            at_weight = gradients(cotangent, u, weight, ctx.geometry, wanted)[1]
        return at_cotangent, at_x, at_weight, None, None
