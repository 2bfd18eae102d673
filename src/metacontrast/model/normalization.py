"""Batch normalization whose statistics come from the task at hand, never from running averages.

    y = (x − mean) / sqrt(var + ε) · weight + bias

Two policies say which examples mean and var are taken from:

- `transductive`: the batch that is being normalized. At test the query examples then see one another: what the
  paper and its released code do (PyTorch's batch norm in training mode).
- `inductive`: the support examples. A query example's features depend on the support set and on itself alone, so one
  image can be classified by itself.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metacontrast.errors import InputError

Norm = Literal["transductive", "inductive"]
NORMS: tuple[Norm, ...] = get_args(Norm)

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class TaskBatchNorm(nn.Module):
    """Batch normalization over a task's own examples, affine, without running averages.

    The buffer `reference` holds no numbers: its length is how many leading examples set the statistics, 0 meaning
    all. It is a buffer so that `torch.func.functional_call` can carry it into any encoder.
    """

    reference: Tensor

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("reference", torch.empty(0, 0), persistent=False)

    def forward(self, x: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Normalize every channel."""
        reference = len(self.reference)
        if reference == 0:
            if x.numel() == x.shape[1]:
                raise InputError("one image has no batch statistics: give several at once or use norm='inductive'")
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        axes = [0, *range(2, x.ndim)]
        var, mean = torch.var_mean(x[:reference], axes, correction=0)
        scale = self.weight * torch.rsqrt(var + self.eps)
        column = (-1,) + (1,) * (x.ndim - 2)
        return x * scale.view(column) + (self.bias - mean * scale).view(column)


def use_task_statistics(module: nn.Module) -> nn.Module:
    """Replace every batch norm inside `module`, in place, by one that keeps no running averages; return it."""
    for name, child in module.named_children():
        if isinstance(child, _BATCH_NORMS):
            setattr(module, name, _converted(child))
        else:
            use_task_statistics(child)
    return module


def reference_buffers(module: nn.Module, examples: int) -> dict[str, Tensor]:
    """Buffers that make every `TaskBatchNorm` in `module` use the statistics of the first `examples` examples."""
    length = torch.empty(examples, 0)
    norms = (name for name, child in module.named_modules() if isinstance(child, TaskBatchNorm))
    return {f"{name}.reference".lstrip("."): length for name in norms}


def _converted(norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> TaskBatchNorm:
    converted = TaskBatchNorm(norm.num_features, norm.eps)
    if norm.affine:
        converted.weight.data.copy_(norm.weight.data)
        converted.bias.data.copy_(norm.bias.data)
        converted.requires_grad_(norm.weight.requires_grad)
    return converted.to(norm.weight.dtype if norm.affine else torch.get_default_dtype())
