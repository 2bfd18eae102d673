"""A function that is differentiable once, for tests of what needs a second derivative."""

import torch
from torch.autograd.function import once_differentiable


class OnceSquared(torch.autograd.Function):
    """x², whose second derivative PyTorch does not take."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient
