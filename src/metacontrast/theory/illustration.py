"""The paper's first picture as arithmetic: with squared errors, MAML compares the query with the support
features.

One inner step, head at zero, one-hot targets. The loss of a sample with outputs z and label y is half the
sum over classes, ½ Σ_k (z_k - 1{k=y})², and a set's loss is the mean over its samples. Then

    w_k^1 = η/|S| Σ_{s: t=k} φ(s)                          row k collects the support features of class k
    z_k(q) = φ(q)ᵀw_k^1 = η/|S| Σ_{s: t=k} φ(q)ᵀφ(s)       the output is a vector of inner products
    ∂L/∂φ(q) = Σ_k (z_k - 1{k=u}) w_k^1                    pulled to 1 for the own class, else to 0

Reference: Kao, Chiu and Chen, ICLR 2022, Fig. 1.
"""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.theory.task import check_inner, feature_task, targets
from metacontrast.types import Head


class Illustration(NamedTuple):
    """What Fig. 1 shows: w^1, and per query its outputs, its loss and that loss's error signal at φ(q)."""

    adapted_head: Float[Tensor, "way feature"]
    outputs: Float[Tensor, "query way"]
    loss: Float[Tensor, " query"]
    query_signal: Float[Tensor, "query feature"]


def mean_square_error_illustration(
    support_features: Float[Tensor, "support feature"],
    support_y: Int[Tensor, " support"],
    query_features: Float[Tensor, "query feature"],
    query_y: Int[Tensor, " query"],
    *,
    ways: int,
    inner_lr: float | None = None,
) -> Illustration:
    """Fig. 1 on given features; `inner_lr=None` takes η = |S|, which leaves the learning rate out as the
    paper does.

    With one support image per class the adapted head is the support features themselves:

    >>> import torch
    >>> s, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    >>> fig1 = mean_square_error_illustration(s, y, torch.tensor([[0.5, 0.1]]), y[:1], ways=2)
    >>> fig1.adapted_head
    tensor([[1., 0.],
            [0., 2.]])
    >>> fig1.outputs
    tensor([[0.5000, 0.2000]])
    >>> fig1.query_signal
    tensor([[-0.5000,  0.4000]])
    """
    rate = float(len(support_y)) if inner_lr is None else inner_lr
    check_inner(rate, 1)
    zero = Head(support_features.new_zeros(ways, support_features.shape[-1]), None)
    task = feature_task(support_features, support_y, query_features, query_y, zero)
    adapted = rate / len(support_y) * targets(support_y, zero.weight.T).T @ task.support
    outputs = task.query @ adapted.T
    errors = outputs - targets(query_y, outputs)
    return Illustration(adapted, outputs, 0.5 * errors.square().sum(-1), errors @ adapted)
