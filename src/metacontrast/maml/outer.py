"""The outer gradient: how the starting point θ should move so that tasks are learned better from it.

    g = mean over tasks of  ∂/∂θ L(θᴺ(θ), query)

For `first` order θᴺ depends on θ as the identity plus constants, so g is the query gradient at θᴺ (FOMAML).

A `zeroed` head is not learned: its gradient is returned as 0.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast.maml.inner import VJP, Inner, autograd_vjp, last, task_losses, trajectory
from metacontrast.model.model import Model, apply_head
from metacontrast.types import Episode, Params, from_tensors, map_params, to_tensors


class Metrics(NamedTuple):
    """Query loss and accuracy (0 to 1) after adaptation, one number per task."""

    loss: Float[Tensor, " task"]
    accuracy: Float[Tensor, " task"]


class Outcome(NamedTuple):
    """The outer gradient of some tasks and what the adaptation led to, detached.

    Args:
        gradient: the sum of the tasks' gradients, in the structure of the parameters.
        metrics: of every task.
        adapted: the parameters after the inner loop.
        query: the query features under them.
    """

    gradient: Params
    metrics: Metrics
    adapted: Params
    query: Float[Tensor, "*task query feature"]


def outer_gradient(model: Model, params: Params, episodes: Episode, inner: Inner, vjp: VJP = autograd_vjp) -> Outcome:
    """The outer gradient of some tasks, stacked along a leading axis."""
    tensors = to_tensors(params)
    learned = len(params.encoder) if model.head == "zeroed" else len(tensors)

    def loss(*leaves: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Params]]:
        start = from_tensors(params, [*leaves, *tensors[learned:]])
        adapted = last(trajectory(model, start, episodes.support_x, episodes.support_y, inner, vjp=vjp))
        query = model.query_task_features(adapted.encoder, episodes.support_x, episodes.query_x)
        logits = apply_head(adapted.head, query)
        accuracy = (logits.argmax(-1) == episodes.query_y).to(logits.dtype).mean(-1)
        return task_losses(logits, episodes.query_y, inner.loss), (accuracy, query, adapted)

    losses, (accuracy, query, adapted), pull = vjp(loss, tensors[:learned], False)
    gradients = [*pull(torch.ones_like(losses)), *map(torch.zeros_like, tensors[learned:])]
    metrics = Metrics(losses, accuracy)
    return Outcome(from_tensors(params, gradients), metrics, map_params(Tensor.detach, adapted), query.detach())


def task_outcome(model: Model, params: Params, episode: Episode, inner: Inner) -> Outcome:
    """The outcome of one task (no leading task axis)."""
    gradient, metrics, adapted, query = outer_gradient(model, params, Episode(*(t[None] for t in episode)), inner)
    return Outcome(gradient, metrics, model.only_task(adapted), query[0])
