"""The outer gradient: how the starting point θ should move so that tasks are learned better from it.

    g = mean over tasks of  ∂/∂θ L(θᴺ(θ), query)

For `first` order θᴺ depends on θ as the identity plus constants, so g is the query gradient at θᴺ (FOMAML).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast.maml.inner import Inner, adapt, classification_loss
from metacontrast.model.model import Model
from metacontrast.types import Episode, Params, from_tensors, to_tensors


class Metrics(NamedTuple):
    """Query loss and accuracy (0 to 1) after adaptation, one number per task."""

    loss: Float[Tensor, " task"]
    accuracy: Float[Tensor, " task"]


def task_gradient(model: Model, params: Params, episode: Episode, inner: Inner) -> tuple[Params, Metrics]:
    """The outer gradient of one task (no leading task axis) and its metrics, detached."""
    leaves = [t.detach().requires_grad_() for t in to_tensors(params)]
    with torch.enable_grad():
        adapted = adapt(model, from_tensors(params, leaves), episode.support_x, episode.support_y, inner)
        logits = model.query_logits(adapted, episode.support_x, episode.query_x)
        loss = classification_loss(logits, episode.query_y, inner.loss)
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
    accuracy = (logits.argmax(1) == episode.query_y).to(logits.dtype).mean()
    return from_tensors(params, gradients), Metrics(loss.detach()[None], accuracy[None])
