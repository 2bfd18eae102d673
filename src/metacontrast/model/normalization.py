"""Batch normalization whose statistics come from the task at hand, not from running averages.

    y = (x − mean) / sqrt(var + ε) · weight + bias

Three policies say which examples mean and var are taken from:

- `transductive`: the batch that is being normalized. At test the query examples then see one another: what the
  paper and its released code do (PyTorch's batch norm in training mode).
- `inductive`: the support examples. A query example's features depend on the support set and on itself alone, so one
  image can be classified by itself.
- `running`: those that the encoder was trained on elsewhere, by the averages that its own batch norms keep. They stay
  as they are. Built-in encoders keep none.
"""

from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from metacontrast.errors import InputError

Norm = Literal["transductive", "inductive"]
NORMS: tuple[Norm, ...] = get_args(Norm)

AnyNorm = Literal[Norm, "running"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class TaskBatchNorm(nn.Module):
    """Batch normalization over a task's own examples, affine, without running averages.

    The buffer `tasks` holds no numbers: its shape `(groups, reference, images, 0)` says how many tasks of equal size
    the batch holds one after the other, how many leading examples of each set the statistics, 0 meaning all, and how
    many images the encoder was called with. It is a buffer so that `torch.func.functional_call` can carry it into any
    encoder.
    """

    tasks: Tensor

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("tasks", torch.empty(1, 0, 0, 0), persistent=False)

    def forward(self, x: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Normalize every channel."""
        groups, reference, images, _ = self.tasks.shape
        if reference == 0:
            check_examples(x.numel() // (groups * x.shape[1]))
        check_rows(len(x), reference, images)
        if groups > 1:
            one = partial(task_batch_norm, reference=reference, weight=self.weight, bias=self.bias, eps=self.eps)
            return torch.cat([one(part) for part in x.chunk(groups)])
        return task_batch_norm(x, reference, self.weight, self.bias, self.eps)


def check_rows(rows: int, reference: int, images: int) -> None:
    """Raise `InputError` where the support images among the rows that a batch norm sees cannot be told."""
    if reference and rows != images:
        raise InputError(
            f"a batch norm in the encoder sees {rows} rows for {images} images, so that those of the support set "
            "cannot be told: keep the images as its first axis, or use norm='transductive'"
        )


def check_examples(count: int) -> None:
    """Raise `InputError` where a channel would be normalized by the one number that it has."""
    if count == 1:
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
        if x.device.type == "cpu":
            x = x.to(weight.dtype)  # batch norm of bfloat16 with float32 parameters has no derivative under vmap there
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    axes = [0, *range(2, x.ndim)]
    var, mean = torch.var_mean(x[:reference], axes, correction=0)
    scale = weight * torch.rsqrt(var + eps)
    column = (-1,) + (1,) * (x.ndim - 2)
    return x * scale.view(column) + (bias - mean * scale).view(column)


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "forward")


def has_own_call(module: nn.Module) -> bool:
    """Whether a module, but for its children, does more when it is called than its class says: by hooks or a forward of
    its own.
    """
    return any(vars(module).get(name) for name in HOOKS)


def prepare(module: nn.Module, norm: AnyNorm) -> nn.Module:
    """Make the batch norms in `module` follow the policy, in place; return it."""
    if norm == "running":
        for name, child in module.named_modules():
            if isinstance(child, TaskBatchNorm) or (isinstance(child, _BatchNorm) and child.running_mean is None):
                raise InputError(f"norm='running', but {name!r} of the encoder keeps no averages: use norm='inductive'")
        return module
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    for child in list(module.modules()):
        if isinstance(child, _BatchNorm):
            become(child, _converted(child, like))
    return module


def task_buffer_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the buffers that tell every `TaskBatchNorm` in `module` how the batch is made of tasks."""
    norms = (name for name, child in module.named_modules() if isinstance(child, TaskBatchNorm))
    return tuple(f"{name}.tasks".lstrip(".") for name in norms)


def _converted(norm: _BatchNorm, like: Tensor) -> TaskBatchNorm:
    """The task's batch norm with the parameters of `norm`; of the kind of `like` where that has none."""
    if not any(type(norm).forward is known.forward for known in _BATCH_NORMS):
        raise InputError(
            f"the encoder has batch norms of another class ({type(norm).__name__}), which cannot take a task's "
            "statistics: use norm='running' to keep their averages"
        )
    if has_own_call(norm) or is_parametrized(norm):
        raise InputError(
            "the encoder has a batch norm with hooks, a parametrization or a forward of its own, which one with a "
            "task's statistics would not have: remove them, or use norm='running' to keep its averages"
        )
    like = next((t for t in (norm.weight, norm.running_mean) if t is not None), like)
    converted = TaskBatchNorm(norm.num_features, norm.eps).requires_grad_(False).to(like)
    converted.weight = converted.weight if norm.weight is None else norm.weight
    converted.bias = converted.bias if norm.bias is None else norm.bias
    return converted


def become(module: nn.Module, other: nn.Module) -> None:
    """Make `module` the same as `other` in every place where an encoder holds it: as a child, in a list, as a twin."""
    module.__class__, module.__dict__ = type(other), vars(other)
