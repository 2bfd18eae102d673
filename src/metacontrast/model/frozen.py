"""An encoder that carries a support set's statistics, so that one image can be classified by itself.

    y = x · scale + shift,    scale = weight / sqrt(var + ε),    shift = bias − mean · scale

with mean and var of the support images at that layer. What it computes for an image depends on that image alone, and
equals `Model.query_features` under norm `inductive` without running the support set again. The result is a plain
module without a task's state, fit for export.
"""

import copy
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from metacontrast.errors import InputError
from metacontrast.model.image_wise import keeps_images_apart
from metacontrast.model.model import Model
from metacontrast.model.normalization import TaskBatchNorm, become


class FixedNorm(nn.Module):
    """A batch norm whose statistics and affine part are folded into two numbers a channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Float[Tensor, " channel"], shift: Float[Tensor, " channel"]):
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        """Scale and shift every channel."""
        column = (-1,) + (1,) * (x.ndim - 2)
        return x * self.scale.view(column) + self.shift.view(column)


def freeze(
    model: Model, encoder: dict[str, Tensor], support_x: Float[Tensor, "support channel height width"]
) -> nn.Module:
    """The model's encoder with these parameters, every batch norm fixed to the statistics of the support images.

    Raises:
        InputError: an encoder of unknown layers computes other features for three support images alone than together.
    """
    module = copy.deepcopy(model.encoder).requires_grad_(False).to(support_x.device)
    module._apply(lambda t: t.to(support_x.dtype) if t.is_floating_point() else t)  # complex numbers stay complex
    set_values(module, encoder)
    frozen = _replace_norms(module, _fixed_norms(module, support_x)) if _norms(module) else module
    if not keeps_images_apart(frozen, FixedNorm):
        _check_images_apart(frozen, support_x[:3])
    return frozen


def set_values(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give the parameters of a module that are named other values, also where it loads a state in a way of its own."""
    own = dict(module.named_parameters())
    for name, value in values.items():
        own[name].data.copy_(value.detach())


def frozen_features(frozen: nn.Module, images: Tensor) -> Float[Tensor, "image feature"]:
    """The features of images by a frozen encoder, from any thread.

    Layers of unknown kind may keep something in the module, or write to its buffers or images: they run in one thread
    at a time, on copies.
    """
    if torch.compiler.is_exporting() or keeps_images_apart(frozen, FixedNorm):
        found = frozen(images)
    else:
        with _ONE_AT_A_TIME:
            buffers = {name: t.clone() for name, t in frozen.named_buffers()}
            found = functional_call(frozen, buffers, (images.clone(),))
    return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found


_ONE_AT_A_TIME = threading.Lock()


def _check_images_apart(frozen: nn.Module, images: Float[Tensor, "image channel height width"]) -> None:
    """Raise `InputError` where an image's features change with the images beside it by more than rounding."""
    with torch.no_grad():
        alone = torch.cat([frozen_features(frozen, image[None]) for image in images])
        together = frozen_features(frozen, images)
    change = ((together - alone).norm() / together.norm().clamp_min(1e-30)).item()
    if not change < 1e-3:
        raise InputError(
            f"the encoder's features of an image change by {change:.0%} with the other images in the batch, so that "
            "single images cannot be classified: use an encoder that computes each image alone"
        )


def frozen_like(model: Model) -> nn.Module:
    """A frozen encoder of the same structure, for a state dict to be loaded into."""
    module = copy.deepcopy(model.encoder).requires_grad_(False)
    return _replace_norms(module, {n: FixedNorm(n.weight.detach(), n.bias.detach()) for n in _norms(module)})


def _norms(module: nn.Module) -> list[TaskBatchNorm]:
    return [child for child in module.modules() if isinstance(child, TaskBatchNorm)]


def _fixed_norms(
    module: nn.Module, support_x: Float[Tensor, "support channel height width"]
) -> dict[TaskBatchNorm, FixedNorm]:
    """What each batch norm becomes, seen while the support images run through.

    Each is fixed before its output is computed, so that the layers after it see what the frozen encoder gives them.
    """
    fixed: dict[TaskBatchNorm, FixedNorm] = {}

    def fixing(norm: TaskBatchNorm) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            if norm in fixed:
                raise InputError(
                    "a batch norm that runs twice in one pass has no statistics of its own: use two of them"
                )
            var, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
            scale = norm.weight * torch.rsqrt(var + norm.eps)
            fixed[norm] = FixedNorm(scale, norm.bias - mean * scale)
            return fixed[norm](x)

        return forward

    for norm in _norms(module):
        vars(norm)["forward"] = fixing(norm)
    with torch.no_grad():
        frozen_features(module, support_x)
    for norm in _norms(module):
        del vars(norm)["forward"]
    if len(fixed) < len(_norms(module)):
        raise InputError(
            "a batch norm of the encoder does not run on the support images, and has no statistics of them: remove "
            "what is not used, or use the encoder's own averages (norm or batch_stats 'running')"
        )
    return fixed


def _replace_norms(module: nn.Module, fixed: Mapping[Any, FixedNorm]) -> nn.Module:
    for norm, own in fixed.items():
        become(norm, own)
    return module
