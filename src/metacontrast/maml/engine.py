"""How a batch of tasks runs: one after the other, or spread over threads; the sum is always taken in task order.

With one operator thread in each worker the result is the same, bit for bit, for any number of workers.
"""

from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial

import torch

from metacontrast.maml.inner import Inner
from metacontrast.maml.outer import Metrics, task_gradient
from metacontrast.model.model import Model
from metacontrast.types import Episode, Params, from_tensors, to_tensors


def meta_gradient(
    model: Model, params: Params, episodes: Episode, inner: Inner, executor: Executor | None = None
) -> tuple[Params, Metrics]:
    """The outer gradient of a batch of tasks: the mean of their own gradients (the released code's convention).

    Args:
        episodes: tasks of one shape, stacked along a leading axis.
        executor: a thread pool to spread the tasks over; None runs one after the other.

    Returns:
        The gradient in the structure of `params`, and the metrics of every task.
    """
    run = map if executor is None else executor.map
    total = [torch.zeros_like(t) for t in to_tensors(params)]
    metrics = []
    for gradient, task_metrics in run(partial(task_gradient, model, params, inner=inner), unstack(episodes)):
        for summed, part in zip(total, to_tensors(gradient), strict=True):
            summed.add_(part)
        metrics.append(task_metrics)
    mean = [t / len(metrics) for t in total]
    return from_tensors(params, mean), Metrics(*map(torch.cat, zip(*metrics, strict=True)))


def unstack(episodes: Episode) -> Iterator[Episode]:
    """The tasks of a batch, one by one, without copying."""
    return (Episode(*task) for task in zip(*episodes, strict=True))
