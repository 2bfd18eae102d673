"""The outer gradient: how the starting point θ should move so that tasks are learned better from it.

    g = mean over tasks of  ∂/∂θ L(θᴺ(θ), query)

For `first` order θᴺ depends on θ as the identity plus constants, so g is the query gradient at θᴺ (FOMAML).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.maml.inner import (
    Differentiate,
    Inner,
    by_autograd,
    by_transform,
    classification_loss,
    last,
    trajectory,
)
from metacontrast.model.model import Model, apply_head
from metacontrast.types import Episode, Params, from_tensors, map_params, to_tensors


class Metrics(NamedTuple):
    """Query loss and accuracy (0 to 1) after adaptation, one number per task."""

    loss: Float[Tensor, " task"]
    accuracy: Float[Tensor, " task"]


class Outcome(NamedTuple):
    """What one task's outer gradient and adaptation came to, detached.

    Args:
        gradient, metrics: as `task_gradient` returns them.
        adapted: the parameters after the inner loop.
        query: the query features under them.
    """

    gradient: Params
    metrics: Metrics
    adapted: Params
    query: Float[Tensor, "query feature"]


def task_gradient(model: Model, params: Params, episode: Episode, inner: Inner) -> tuple[Params, Metrics]:
    """The outer gradient of one task (no leading task axis) and its metrics, detached."""
    outcome = task_outcome(model, params, episode, inner)
    return outcome.gradient, outcome.metrics


def task_outcome(model: Model, params: Params, episode: Episode, inner: Inner) -> Outcome:
    """The same with what the inner loop led to."""
    leaves = [t.detach().requires_grad_() for t in to_tensors(params)]
    with torch.enable_grad():
        loss, seen = _outer_loss(model, from_tensors(params, leaves), episode, inner, by_autograd)
        gradients = _differentiate(loss, leaves)
    metrics = Metrics(seen.loss.detach()[None], seen.accuracy[None])
    adapted = map_params(Tensor.detach, seen.adapted)
    return Outcome(from_tensors(params, gradients), metrics, adapted, seen.query.detach())


def task_gradient_by_transform(
    model: Model, params: Params, episode: Episode, inner: Inner
) -> tuple[list[Tensor], Metrics]:
    """`task_gradient` as a `torch.func` transform: the gradient's tensors in order, and metrics without an axis."""

    def loss(tensors: list[Tensor]) -> tuple[Tensor, Metrics]:
        loss, seen = _outer_loss(model, from_tensors(params, tensors), episode, inner, by_transform)
        return loss, Metrics(seen.loss, seen.accuracy)

    return torch.func.grad(loss, has_aux=True)([t.detach() for t in to_tensors(params)])


class _Seen(NamedTuple):
    """What the outer loss passes on its way."""

    adapted: Params
    query: Tensor
    loss: Tensor
    accuracy: Tensor


def _outer_loss(
    model: Model, params: Params, episode: Episode, inner: Inner, differentiate: Differentiate
) -> tuple[Tensor, _Seen]:
    path = trajectory(model, params, episode.support_x, episode.support_y, inner, differentiate=differentiate)
    adapted = last(path)
    query = model.query_features(adapted.encoder, episode.support_x, episode.query_x)
    logits = apply_head(adapted.head, query)
    loss = classification_loss(logits, episode.query_y, inner.loss)
    accuracy = (logits.argmax(1) == episode.query_y).to(logits.dtype).mean()
    return loss, _Seen(adapted, query, loss, accuracy)


def _differentiate(loss: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    try:
        return torch.autograd.grad(loss, leaves, materialize_grads=True)
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        raise InputError(
            f"order='second' needs a second derivative that PyTorch lacks ({error}): use order='first', or for "
            "attention torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around the call"
        ) from error
