"""Tasks as one batched program: the outer gradient as a transform, mapped over tasks and over replicas (`torch.func`),
and the inner loop alone, mapped over tasks.

The derivative is taken inside the map: that of a mean over it is silently wrong in second order through batch norm.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast.maml.inner import Inner, by_transform, trajectory
from metacontrast.maml.outer import Metrics, task_gradient_by_transform
from metacontrast.model.model import Model
from metacontrast.types import Episode, Head, Params, from_tensors


def batched_gradient(
    model: Model, inner: Inner, chunk: int | None, replicas: int | None = None, compiled: bool = False
) -> Callable[[Params, Episode], tuple[Params, Metrics]]:
    """A function of parameters and a batch of tasks: the sum of the tasks' gradients, and their metrics.

    Args:
        chunk: tasks at once, those of all replicas together; None is all.
        replicas: how many there are, along a leading axis of arguments and results; None is no such axis.
        compiled: by `torch.compile`.
    """
    run = _mapped(model, inner, chunk, replicas, compiled)

    def summed(params: Params, episodes: Episode) -> tuple[Params, Metrics]:
        gradients, metrics = run(params.encoder, _present(params.head), episodes)
        return from_tensors(params, [g.sum(0 if replicas is None else 1) for g in gradients]), metrics

    return summed


def compiled_gradient(model: Model, inner: Inner) -> Callable[[Params, Episode], tuple[Params, Metrics]]:
    """The same of one task, compiled."""
    run = _compiled_task(model, inner)

    def gradient(params: Params, episode: Episode) -> tuple[Params, Metrics]:
        gradients, metrics = run(params.encoder, _present(params.head), episode)
        return from_tensors(params, gradients), Metrics(*(m[None] for m in metrics))

    return gradient


def batched_logits(
    model: Model, params: Params, episodes: Episode, inner: Inner, steps: Collection[int]
) -> list[Float[Tensor, "task query way"]]:
    """Query logits of all tasks after each of `steps` inner steps.

    Args:
        episodes: tasks of one shape, stacked along a leading axis.
    """

    def of_task(episode: Episode) -> list[Tensor]:
        path = trajectory(model, params, episode.support_x, episode.support_y, inner, differentiate=by_transform)
        reached = (adapted for step, adapted in enumerate(path) if step in steps)
        return [model.query_logits(adapted, episode.support_x, episode.query_x) for adapted in reached]

    return torch.func.vmap(of_task)(episodes)


@functools.lru_cache(maxsize=16)
def _mapped(
    model: Model, inner: Inner, chunk: int | None, replicas: int | None, compiled: bool
) -> Callable[..., tuple[list[Tensor], Metrics]]:
    """Kept, because a compiled function is slow to make."""
    together = replicas or 1
    per_replica = None if chunk is None else max(1, chunk // together)
    run = torch.func.vmap(_of_task(model, inner), in_dims=(None, None, 0), chunk_size=per_replica)
    if replicas is not None:
        run = torch.func.vmap(run, chunk_size=None if chunk is None else min(chunk, together))
    return torch.compile(run, fullgraph=True, dynamic=False) if compiled else run


@functools.lru_cache(maxsize=16)
def _compiled_task(model: Model, inner: Inner) -> Callable[..., tuple[list[Tensor], Metrics]]:
    return torch.compile(_of_task(model, inner), fullgraph=True, dynamic=False)


def _of_task(model: Model, inner: Inner) -> Callable[..., tuple[list[Tensor], Metrics]]:
    def of_task(encoder: dict[str, Tensor], head: list[Any], episode: Episode) -> tuple[list[Tensor], Metrics]:
        weight, bias = head if len(head) == 2 else (*head, None)
        return task_gradient_by_transform(model, Params(encoder, Head(weight, bias)), episode, inner)

    return of_task


def _present(head: Head) -> list[Tensor]:
    """The head's tensors without a bias that is not there, over which nothing could be mapped."""
    return [t for t in head if t is not None]
