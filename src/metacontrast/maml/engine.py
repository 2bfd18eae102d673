"""How a batch of tasks runs: the one place that decides it, and the algorithm does not know.

- `loop`: one task after the other, or spread over threads; tasks of small images a few at a time (`abreast`). The sum
  is always taken in task order: with one operator thread in each worker the result is the same, bit for bit, for any
  number of workers.
- `vmap`: many tasks at once, as one batched program (`torch.func.vmap`).
- `compiled-loop`, `compiled-vmap`: the same through `torch.compile`, whose first call takes a minute or so.
- `auto`: `loop` on a CPU, `vmap` on a GPU, but where the inner loop moves the head alone `loop` there too.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.maml.abreast import abreast_gradient
from metacontrast.maml.checks import check_tasks
from metacontrast.maml.inner import Inner
from metacontrast.maml.outer import Metrics, task_gradient, task_gradient_by_transform
from metacontrast.model.model import Model
from metacontrast.types import Episode, Params, from_tensors, to_tensors

EngineName = Literal["auto", "loop", "vmap", "compiled-loop", "compiled-vmap"]
Precision = Literal["float32", "tf32", "bfloat16"]

_MOST_ABREAST = 8
_NUMBERS_ABREAST = 2**20


@dataclass(frozen=True)
class Engine:
    """How `meta_gradient` runs its tasks; the mathematics is the same.

    Args:
        name: see the module.
        chunk: tasks at once under `vmap`; None is all of them.
        precision: `float32` leaves the tensors' own precision; `tf32` lets a GPU round the factors of products to 10
            bits; `bfloat16` keeps what flows between layers at 8 bits of precision, sums and parameters at 24.
    """

    name: EngineName = "auto"
    chunk: int | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise InputError(f"chunk={self.chunk}, but it must be 1 or more tasks")

    def resolved(self, device: torch.device, inner: Inner) -> EngineName:
        """The engine that `auto` stands for on a device."""
        if self.name != "auto":
            return self.name
        return "vmap" if device.type == "cuda" and inner.scope != "head" else "loop"

    def tasks_at_once(self, model: Model, episodes: Episode, inner: Inner) -> int:
        """How many of these tasks one worker holds at the same time."""
        match self.resolved(episodes.query_x.device, inner):
            case "loop":
                return max(1, min(len(episodes.query_y), _tasks_abreast(model, episodes, inner)))
            case "compiled-loop":
                return 1
            case _:
                return min(len(episodes.query_y), self.chunk or len(episodes.query_y))


def meta_gradient(
    model: Model,
    params: Params,
    episodes: Episode,
    inner: Inner,
    executor: Executor | None = None,
    engine: Engine = Engine(),
) -> tuple[Params, Metrics]:
    """The outer gradient of a batch of tasks: the mean of their own gradients (the released code's convention).

    Args:
        episodes: tasks of one shape, stacked along a leading axis.
        executor: a thread pool for the engine `loop` to spread the tasks over; None runs one after the other.
        engine: how the tasks run.

    Returns:
        The gradient in the structure of `params`, and the metrics of every task.

    Raises:
        InputError: labels do not fit the images or the model's ways, or there is nothing to learn.
    """
    check_tasks(model, params, episodes, inner.scope)
    name = engine.resolved(episodes.query_x.device, inner)
    if name != "loop":
        gradient_of, parts = partial(_transformed(model, inner, name, engine.chunk), params), [episodes]
    elif together := _tasks_abreast(model, episodes, inner):
        gradient_of, parts = partial(abreast_gradient, model, params, inner=inner), _split(episodes, together)
    else:
        gradient_of, parts = partial(task_gradient, model, params, inner=inner), unstack(episodes)
    return _mean(_at(engine.precision, gradient_of), params, parts, executor)


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
    return _mean(gradient_of, like, unstack(episodes), executor)


def unstack(episodes: Episode) -> Iterator[Episode]:
    """The tasks of a batch, one by one, without copying."""
    return (Episode(*task) for task in zip(*episodes, strict=True))


def _mean(
    gradient_of: Callable[[Episode], tuple[Params, Metrics]],
    like: Params,
    parts: Iterable[Episode],
    executor: Executor | None,
) -> tuple[Params, Metrics]:
    """The sum of the parts' gradients, in their order, divided by the number of tasks."""
    run = map if executor is None else executor.map
    total = [torch.zeros_like(t) for t in to_tensors(like)]
    metrics = []
    for gradient, part_metrics in run(gradient_of, parts):
        for summed, part in zip(total, to_tensors(gradient), strict=True):
            summed.add_(part)
        metrics.append(part_metrics)
    together = Metrics(*map(torch.cat, zip(*metrics, strict=True)))
    return from_tensors(like, [t / len(together.loss) for t in total]), together


def _tasks_abreast(model: Model, episodes: Episode, inner: Inner) -> int:
    """How many tasks step side by side, whatever the number of workers, so that the result does not depend on it.

    Half of them at most, which leaves work for two; 0 where they cannot, or where one task's images fill the cache.
    """
    if inner.scope != "head" and not model.runs_abreast(episodes.query_x):
        return 0
    half = (len(episodes.query_x) + 1) // 2
    return min(_MOST_ABREAST, half, _NUMBERS_ABREAST // episodes.query_x[0].numel())


def _split(episodes: Episode, size: int) -> Iterator[Episode]:
    """The tasks of a batch, so many at a time."""
    return (Episode(*parts) for parts in zip(*(t.split(size) for t in episodes), strict=True))


@functools.lru_cache(maxsize=16)
def _transformed(
    model: Model, inner: Inner, name: EngineName, chunk: int | None
) -> Callable[[Params, Episode], tuple[Params, Metrics]]:
    """The sum of the tasks' gradients by transforms; kept, because a compiled function is slow to make."""

    def of_task(params: Params, episode: Episode) -> tuple[list[Tensor], Metrics]:
        return task_gradient_by_transform(model, params, episode, inner)

    of_tasks = of_task if name == "compiled-loop" else torch.func.vmap(of_task, in_dims=(None, 0), chunk_size=chunk)
    run = torch.compile(of_tasks, fullgraph=True, dynamic=False) if name.startswith("compiled") else of_tasks

    def summed(params: Params, episodes: Episode) -> tuple[Params, Metrics]:
        if name == "compiled-loop":
            found = [run(params, episode) for episode in unstack(episodes)]
            gradients = [torch.stack(parts).sum(0) for parts in zip(*(g for g, _ in found), strict=True)]
            return from_tensors(params, gradients), Metrics(*map(torch.stack, zip(*(m for _, m in found), strict=True)))
        gradients, metrics = run(params, episodes)
        return from_tensors(params, [g.sum(0) for g in gradients]), metrics

    return summed


def _at(precision: Precision, function: Callable[[Episode], Any]) -> Callable[[Episode], Any]:
    """`function` with its arithmetic at a precision, in whichever thread it is called."""

    def run(episode: Episode) -> Any:
        with _arithmetic(precision, episode.query_x.device):
            return function(episode)

    return function if precision == "float32" else run


def _arithmetic(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    if device.type != "cuda":
        raise InputError("precision='tf32' is a GPU's: use 'float32' or 'bfloat16' on a CPU")
    return _tf32()


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
