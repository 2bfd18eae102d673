"""Batch normalization whose statistics come from the task at hand, never from running averages.

    y = (x − mean) / sqrt(var + ε) · weight + bias

Two policies say which examples mean and var are taken from:

- `transductive`: the batch that is being normalized. At test the query examples then see one another: what the
  paper and its released code do (PyTorch's batch norm in training mode).
- `inductive`: the support examples. A query example's features depend on the support set and on itself alone, so one
  image can be classified by itself.
"""

from functools import partial
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

    The buffer `tasks` holds no numbers: its shape `(groups, reference, 0)` says how many tasks of equal size the batch
    holds one after the other, and how many leading examples of each set the statistics, 0 meaning all. It is a
    buffer so that `torch.func.functional_call` can carry it into any encoder.
    """

    tasks: Tensor

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("tasks", torch.empty(1, 0, 0), persistent=False)

    def forward(self, x: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Normalize every channel."""
        groups, reference, _ = self.tasks.shape
        check_examples(x, groups, reference)
        if groups > 1:
            one = partial(task_batch_norm, reference=reference, weight=self.weight, bias=self.bias, eps=self.eps)
            return torch.cat([one(part) for part in x.chunk(groups)])
        return task_batch_norm(x, reference, self.weight, self.bias, self.eps)


def check_examples(x: Float[Tensor, "batch channel *space"], groups: int, reference: int) -> None:
    """Raise `InputError` where a channel would be normalized by a single number."""
    if reference == 0 and x.numel() == groups * x.shape[1]:
        raise InputError("one image has no batch statistics: give several at once or use norm='inductive'")


def task_batch_norm(
    x: Float[Tensor, "batch channel *space"],
    reference: int,
    weight: Float[Tensor, " channel"],
    bias: Float[Tensor, " channel"],
    eps: float,
) -> Float[Tensor, "batch channel *space"]:
    """One task's examples normalized by the first `reference` of them, or by all if 0."""
    if reference == 0:
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    axes = [0, *range(2, x.ndim)]
    var, mean = torch.var_mean(x[:reference], axes, correction=0)
    scale = weight * torch.rsqrt(var + eps)
    column = (-1,) + (1,) * (x.ndim - 2)
    return x * scale.view(column) + (bias - mean * scale).view(column)


def use_task_statistics(module: nn.Module) -> nn.Module:
    """Replace every batch norm inside `module`, in place, by one that keeps no running averages; return it."""
    for name, child in module.named_children():
        if isinstance(child, _BATCH_NORMS):
            setattr(module, name, _converted(child))
        else:
            use_task_statistics(child)
    return module


def task_buffers(module: nn.Module, groups: int, reference: int) -> dict[str, Tensor]:
    """Buffers that tell every normalization in `module` how the batch is made of tasks, see `TaskBatchNorm`."""
    shape = torch.empty(groups, reference, 0)
    return {name: shape for name, _ in module.named_buffers() if name.split(".")[-1] == "tasks"}


def _converted(norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> TaskBatchNorm:
    converted = TaskBatchNorm(norm.num_features, norm.eps)
    if norm.affine:
        converted.weight.data.copy_(norm.weight.data)
        converted.bias.data.copy_(norm.bias.data)
        converted.requires_grad_(norm.weight.requires_grad)
    return converted.to(norm.weight.dtype if norm.affine else torch.get_default_dtype())
