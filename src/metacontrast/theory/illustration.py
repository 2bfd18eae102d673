"""The paper's first picture as arithmetic: with squared errors, MAML compares the query with the support
features.

One inner step and one-hot targets. The loss of a sample with outputs z and label y is half the sum over classes,
½ Σ_k (z_k - 1{k=y})², and a set's loss is the mean over its samples. Then, from a head of zeros as in the paper,

    w_k^1 = η/|S| Σ_{s: t=k} φ(s)                          row k collects the support features of class k
    z_k(q) = φ(q)ᵀw_k^1 = η/|S| Σ_{s: t=k} φ(q)ᵀφ(s)       the output is a vector of inner products
    ∂L/∂φ(q) = Σ_k (z_k - 1{k=u}) w_k^1                    pulled to 1 for the own class, else to 0

Reference: Kao, Chiu and Chen, ICLR 2022, Fig. 1.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.theory.task import (
    FeatureTask,
    append_constant,
    check_task,
    merge_bias,
    split_bias,
    strip_constant,
    targets,
)
from metacontrast.types import Head, Inner


class Illustration(NamedTuple):
    """What Fig. 1 shows: w^1, and per query its outputs, its loss and that loss's error signal at φ(q)."""

    adapted_head: Head
    outputs: Float[Tensor, "query way"]
    loss: Float[Tensor, " query"]
    query_signal: Float[Tensor, "query feature"]


@torch.no_grad()
def mean_square_error_illustration(task: FeatureTask, inner: Inner | None = None) -> Illustration:
    """Adapt the head by one step on squared errors and compare the query with it, as Fig. 1 does from a head of zeros.

    Args:
        task: features, labels and the head w^0.
        inner: one step with `loss="mean_square_error"`; None takes η = |S|, which leaves the learning rate out as the
            paper does.

    From zero, with one support image per class, the adapted head is the support features themselves:

    >>> s, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    >>> zero = Head(torch.zeros(2, 2), None)
    >>> fig1 = mean_square_error_illustration(FeatureTask(s, y, torch.tensor([[0.5, 0.1]]), y[:1], zero))
    >>> fig1.adapted_head.weight
    tensor([[1., 0.],
            [0., 2.]])
    >>> fig1.outputs
    tensor([[0.5000, 0.2000]])
    >>> fig1.query_signal
    tensor([[-0.5000,  0.4000]])
    """
    loss = "mean_square_error"
    inner = Inner(lr=float(len(task.support_y)), loss=loss) if inner is None else inner
    check_task(task, inner, loss)
    if inner.steps != 1:
        raise InputError(f"inner steps={inner.steps}, but the illustration is that of 1 step")
    support, query = append_constant(task.support, task.head), append_constant(task.query, task.head)
    start = merge_bias(task.head)
    errors = targets(task.support_y, start.T) - support @ start.T
    adapted = start + inner.lr / len(support) * errors.T @ support
    outputs = query @ adapted.T
    errors = outputs - targets(task.query_y, outputs)
    signal = strip_constant(errors @ adapted, task.head)
    return Illustration(split_bias(adapted, task.head), outputs, 0.5 * errors.square().sum(-1), signal)
