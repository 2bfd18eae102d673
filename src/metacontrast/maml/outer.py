"""The outer gradient: how the starting point θ should move so that tasks are learned better from it.

    g = mean over tasks of  ∂/∂θ L(θᴺ(θ), query)

For `first` order θᴺ depends on θ as the identity plus constants, so g is the query gradient at θᴺ (FOMAML).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.maml.inner import Inner, classification_loss, trajectory
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
        *_, adapted = trajectory(model, from_tensors(params, leaves), episode.support_x, episode.support_y, inner)
        query = model.query_features(adapted.encoder, episode.support_x, episode.query_x)
        logits = apply_head(adapted.head, query)
        loss = classification_loss(logits, episode.query_y, inner.loss)
        gradients = _differentiate(loss, leaves)
    accuracy = (logits.argmax(1) == episode.query_y).to(logits.dtype).mean()
    metrics = Metrics(loss.detach()[None], accuracy[None])
    return Outcome(from_tensors(params, gradients), metrics, map_params(Tensor.detach, adapted), query.detach())


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
