"""How a batch of tasks runs: one after the other, or spread over threads; the sum is always taken in task order.

With one operator thread in each worker the result is the same, bit for bit, for any number of workers.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial

import torch

from metacontrast.maml.checks import check_tasks
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

    Raises:
        InputError: labels do not fit the images or the model's ways, or there is nothing to learn.
    """
    check_tasks(model, params, episodes, inner.scope)
    return mean_over_tasks(partial(task_gradient, model, params, inner=inner), params, episodes, executor)


def mean_over_tasks(
    gradient_of: Callable[[Episode], tuple[Params, Metrics]],
    like: Params,
    episodes: Episode,
    executor: Executor | None = None,
) -> tuple[Params, Metrics]:
    """The mean of any gradient over a batch of tasks, and the metrics of every task.

    Args:
        gradient_of: gradient and metrics of one task.
        like: parameters of the gradient's structure.
        episodes, executor: as for `meta_gradient`.
    """
    run = map if executor is None else executor.map
    total = [torch.zeros_like(t) for t in to_tensors(like)]
    metrics = []
    for gradient, task_metrics in run(gradient_of, unstack(episodes)):
        for summed, part in zip(total, to_tensors(gradient), strict=True):
            summed.add_(part)
        metrics.append(task_metrics)
    mean = [t / len(metrics) for t in total]
    return from_tensors(like, mean), Metrics(*map(torch.cat, zip(*metrics, strict=True)))


def unstack(episodes: Episode) -> Iterator[Episode]:
    """The tasks of a batch, one by one, without copying."""
    return (Episode(*task) for task in zip(*episodes, strict=True))
