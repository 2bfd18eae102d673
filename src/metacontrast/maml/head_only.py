"""The outer gradient where the inner loop moves the head alone (ANIL): the encoder is the same for all tasks.

The features of many tasks are taken in one pass, and the heads of all tasks step together, by the gradients

    ∂L/∂W = (1/|S|) Σ (p − y) φᵀ,    ∂L/∂b = (1/|S|) Σ (p − y)

where p is softmax(W φ + b) for cross entropy and W φ + b for the squared error (paper Eq. 4).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.maml.inner import Inner, classification_loss
from metacontrast.maml.outer import Metrics
from metacontrast.model.head import class_means, one_hot
from metacontrast.model.model import Model
from metacontrast.types import Episode, Head, Params, from_tensors, to_tensors


def head_only_gradient(model: Model, params: Params, episodes: Episode, inner: Inner) -> tuple[Params, Metrics]:
    """The sum of the tasks' outer gradients, and the metrics of every task.

    Args:
        episodes: tasks of one shape, stacked along a leading axis.
    """
    leaves = [t.detach().requires_grad_() for t in to_tensors(params)]
    with torch.enable_grad():
        at = from_tensors(params, leaves)
        support, query = _features(model, at, episodes, inner.order == "second" or model.head == "prototype")
        heads = _start(model, at.head, support, episodes.support_y)
        for _ in range(inner.steps):
            heads = _step(heads, support, episodes.support_y, inner)
        logits = _logits(heads, query)
        losses = torch.stack(
            [classification_loss(z, y, inner.loss) for z, y in zip(logits, episodes.query_y, strict=True)]
        )
        gradients = torch.autograd.grad(losses.sum(), leaves, materialize_grads=True)
    accuracy = (logits.argmax(2) == episodes.query_y).to(logits.dtype).mean(1)
    return from_tensors(params, gradients), Metrics(losses.detach(), accuracy)


def _features(
    model: Model, params: Params, episodes: Episode, through_support: bool
) -> tuple[Float[Tensor, "task support feature"], Float[Tensor, "task query feature"]]:
    """Features of both sets; those of the support set are a function of the encoder only where asked for."""
    tasks, shots = episodes.support_y.shape

    def features(images: Tensor, reference: int = 0) -> Tensor:
        flat = images.flatten(0, 1)
        return model.features(params.encoder, flat, reference, tasks).unflatten(0, (tasks, -1))

    with torch.set_grad_enabled(through_support):
        support = features(episodes.support_x)
    if model.norm != "inductive":
        return support, features(episodes.query_x)
    both = torch.cat([episodes.support_x, episodes.query_x], 1)
    return support, features(both, reference=shots)[:, shots:]


def _start(
    model: Model, head: Head, support: Float[Tensor, "task support feature"], labels: Int[Tensor, "task support"]
) -> Head:
    """The heads from which the tasks start, as `Model.start` has them, with a leading axis for tasks."""
    if model.head == "prototype":
        means = torch.stack([class_means(*each, model.ways) for each in zip(support, labels, strict=True)])
        return Head(2 * means, -means.square().sum(2))
    weight = head.weight.expand(len(support), model.ways, -1)
    return Head(weight, None if head.bias is None else head.bias.expand(len(support), model.ways))


def _step(
    heads: Head, support: Float[Tensor, "task support feature"], labels: Int[Tensor, "task support"], inner: Inner
) -> Head:
    with torch.set_grad_enabled(inner.order == "second"):
        scores = _logits(heads, support)
        outputs = scores.softmax(2) if inner.loss == "cross_entropy" else scores
        errors = (outputs - one_hot(labels, scores.shape[2], scores.dtype)) * (inner.lr / labels.shape[1])
        moved = errors.transpose(1, 2) @ support
    return Head(heads.weight - moved, None if heads.bias is None else heads.bias - errors.sum(1))


def _logits(heads: Head, features: Float[Tensor, "task image feature"]) -> Float[Tensor, "task image way"]:
    scores = features @ heads.weight.transpose(1, 2)
    return scores if heads.bias is None else scores + heads.bias[:, None]
