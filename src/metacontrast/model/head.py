"""The linear head w⁰ on the features, and the ways in which it can start a task.

- `learned`: one row per class, meta-learned like everything else (MAML).
- `zeroed`: the same, set to zero at the start and after every outer update (the zeroing trick, Algorithm 3).
- `shared`: one meta-learned row that every class starts from (UNICORN-MAML, Ye & Chao 2022).
- `prototype`: w_k = 2 c_k, b_k = −|c_k|² with c_k the mean support feature of class k (ProtoMAML, Triantafillou et
  al. 2020); nothing of the head is meta-learned.
- `cosine`: w_k = τ c_k / |c_k|, b_k = 0, on features of length 1; τ is meta-learned.
- `ridge`: W = α Yᵀ(XXᵀ + λI)⁻¹X, b_k = β: ridge regression on the support features X and their one-hot labels Y (R2D2,
  Bertinetto et al. 2019); λ, α and β are meta-learned. A softmax does not see β, squared errors do.

All but `learned` work for any number of classes. The last three are built from the support set, and answer without
inner steps.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.types import Head, Params

HeadKind = Literal["learned", "zeroed", "shared", "prototype", "cosine", "ridge"]
BUILT_HEADS: tuple[HeadKind, ...] = ("prototype", "cosine", "ridge")
"""Heads that are computed from a task's support set."""
_SCALE, _PENALTY = 10.0, 1.0

TestHead = Literal["kept", "zeroed"]
"""What an inner loop starts from at test: the head as it was trained, or one of zeros."""


def draw_head(ways: int, feature_size: int, bias: bool, scale: float, generator: torch.Generator) -> Head:
    """Weights from a normal distribution of standard deviation scale · sqrt(2 / feature_size); bias 0."""
    weight = torch.randn(ways, feature_size, generator=generator) * (scale * math.sqrt(2 / feature_size))
    return Head(weight, torch.zeros(ways) if bias else None)


def zero_head(params: Params, ways: int | None = None) -> Params:
    """Return the parameters with the head set to zero, weight and bias.

    Args:
        params: they are not changed.
        ways: number of rows of the new head; None keeps the number of rows.
    """
    weight, bias = params.head
    rows = weight.shape[0] if ways is None else ways
    zeros = Head(weight.new_zeros(rows, weight.shape[1]), None if bias is None else bias.new_zeros(rows))
    return params._replace(head=zeros)


def prototype_head(means: Float[Tensor, "*task way feature"]) -> Head:
    """The linear head that classifies by squared distance to the class means c_k.

    The squared distance |x − c_k|² differs from −(2 c_kᵀx − |c_k|²) only by |x|², which is the same for every class.

    >>> prototype_head(torch.eye(2))
    Head(weight=tensor([[2., 0.],
            [0., 2.]]), bias=tensor([-1., -1.]))
    """
    return Head(2 * means, -means.square().sum(-1))


def built_extra(kind: HeadKind) -> dict[str, Tensor]:
    """What a built head learns, at its start: τ or α as `log_scale` (10), λ as `log_penalty` (1), β as `shift` (0)."""
    scale = {"log_scale": torch.tensor(math.log(_SCALE))}
    if kind == "ridge":
        return scale | {"log_penalty": torch.tensor(math.log(_PENALTY)), "shift": torch.tensor(0.0)}
    return scale if kind == "cosine" else {}


def build_head(
    kind: HeadKind,
    features: Float[Tensor, "task support feature"],
    labels: Int[Tensor, "task support"],
    ways: int,
    extra: Mapping[str, Tensor],
) -> Head:
    """The head of every task from its support features, differentiable.

    Args:
        extra: as `built_extra` names it.
    """
    if kind == "ridge":
        return _ridge_head(features, one_hot(labels, ways, features.dtype), extra)
    means = torch.stack([class_means(*task, ways) for task in zip(features, labels, strict=True)])
    if kind == "prototype":
        return prototype_head(means)
    weight = extra["log_scale"].exp() * torch.nn.functional.normalize(means, dim=-1)
    return Head(weight, torch.zeros_like(weight[..., 0]))


def _ridge_head(
    x: Float[Tensor, "task support feature"], y: Float[Tensor, "task support way"], extra: Mapping[str, Tensor]
) -> Head:
    """The smaller of XXᵀ + λI and XᵀX + λI is solved: Xᵀ(XXᵀ + λI)⁻¹ = (XᵀX + λI)⁻¹Xᵀ (Woodbury)."""
    few = x.shape[-2] <= x.shape[-1]
    gram = x @ x.mT if few else x.mT @ x
    penalty = extra["log_penalty"].exp() * torch.eye(len(gram[0]), dtype=x.dtype, device=x.device)
    solved = solve(gram + penalty, y if few else x.mT @ y)
    weight = extra["log_scale"].exp() * (x.mT @ solved if few else solved).mT
    return Head(weight, extra["shift"].expand(weight.shape[:-1]))


def solve(matrix: Float[Tensor, "*task n n"], right: Float[Tensor, "*task n m"]) -> Float[Tensor, "*task n m"]:
    """Solve M Z = R for Z, where PyTorch has half precisions only in part: those in float32."""
    kind = torch.promote_types(matrix.dtype, torch.float32)
    return torch.linalg.solve(matrix.to(kind), right.to(kind)).to(matrix.dtype)


def class_means(
    features: Float[Tensor, "support feature"], labels: Int[Tensor, " support"], ways: int
) -> Float[Tensor, "way feature"]:
    """The mean feature of every class; each class needs at least one example."""
    members = one_hot(labels, ways, features.dtype)
    return members.T @ features / members.sum(0)[:, None]


def one_hot(labels: Int[Tensor, "*image"], ways: int, dtype: torch.dtype) -> Float[Tensor, "*image way"]:
    """1 at the label's place, else 0; without a look at the values, so that transforms can map it over tasks."""
    return (labels[..., None] == torch.arange(ways, device=labels.device)).to(dtype)


def check_start(kind: HeadKind, head: Head, ways: int) -> None:
    """Raise `InputError` where tasks of this many ways cannot start from this head.

    On a CPU a `zeroed` head is also checked to be zero.
    """
    rows = len(head.weight)
    if kind == "learned" and rows != ways:
        raise InputError(
            f"the head was trained for {rows} classes and cannot be kept for {ways}: "
            "use a zeroed head (--head zeroed) or tasks of the trained number of ways"
        )
    if kind == "zeroed" and head.weight.is_cpu and any(t.any() for t in head if t is not None):
        raise InputError("head='zeroed', but the parameters' head is not zero: use zero_head(params) or head='learned'")
