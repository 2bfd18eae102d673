"""The outer gradient: how the starting point θ should move so that tasks are learned better from it.

    g = mean over tasks of  ∂/∂θ L(θᴺ(θ), query)

For `first` order θᴺ depends on θ as the identity plus constants, so g is the query gradient at θᴺ (FOMAML).

With `Inner.loss_weights` the loss is Σᵢ wᵢ L(θⁱ(θ), query). A `zeroed` head is not learned: its gradient is 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast.maml.inner import VJP, autograd_vjp, task_losses, trajectory
from metacontrast.model.model import Model, apply_head
from metacontrast.types import Episode, Inner, Params, from_tensors, map_params, to_tensors


class Metrics(NamedTuple):
    """Query loss and accuracy (0 to 1, NaN for regression) after the last inner step, one number per task."""

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
    weights = inner.loss_weights or (*[0.0] * (inner.steps - 1), 1.0)
    weights = (0.0, *weights) if inner.steps else weights  # of the start and of every step

    def answer(adapted: Params) -> tuple[Metrics, Tensor]:
        query = model.query_task_features(adapted.encoder, episodes.support_x, episodes.query_x)
        outputs = apply_head(adapted.head, query)
        losses = task_losses(outputs, episodes.query_y, inner.outer_loss)
        return Metrics(losses, accuracies(outputs, episodes.query_y)), query

    def loss(*leaves: Tensor) -> tuple[Tensor, tuple[Metrics, Tensor, Params]]:
        start = from_tensors(params, leaves)
        path = trajectory(model, start, episodes.support_x, episodes.support_y, inner, vjp=vjp)
        seen = [(weight, *answer(adapted), adapted) for weight, adapted in zip(weights, path, strict=True) if weight]
        return torch.stack([weight * metrics.loss for weight, metrics, *_ in seen]).sum(), seen[-1][1:]

    _, (metrics, query, adapted), pull = vjp(loss, to_tensors(params), False)
    gradient = from_tensors(params, pull())
    return Outcome(gradient, Metrics(*map(Tensor.detach, metrics)), map_params(Tensor.detach, adapted), query.detach())


def loss_gradient(params: Params, loss: Callable[[Params], tuple[Tensor, Tensor]]) -> tuple[Params, Metrics]:
    """The gradient of a loss in all parameters, and its metrics as of one task.

    Args:
        loss: from parameters to a scalar and an accuracy.
    """
    value, accuracy, pull = autograd_vjp(lambda *leaves: loss(from_tensors(params, leaves)), to_tensors(params), False)
    return from_tensors(params, pull()), Metrics(value[None], accuracy.detach()[None])


def accuracies(outputs: Float[Tensor, "*task image way"], labels: Tensor) -> Float[Tensor, "*task"]:
    """Share of a task's images whose largest output is their label's; NaN where labels are no classes."""
    if labels.is_floating_point() or outputs.shape[-1] == 1:
        return torch.full_like(outputs[..., 0, 0], torch.nan)
    return (outputs.argmax(-1) == labels).to(outputs.dtype).mean(-1)


def task_outcome(model: Model, params: Params, episode: Episode, inner: Inner) -> Outcome:
    """The outcome of one task (no leading task axis)."""
    gradient, metrics, adapted, query = outer_gradient(model, params, Episode(*(t[None] for t in episode)), inner)
    return Outcome(gradient, metrics, model.only_task(adapted), query[0])
