"""How a batch of tasks runs: the one place that decides it, and the algorithm does not know.

- `loop`: one task after the other, or spread over threads; tasks of small images a few at a time (`abreast`). The sum
  is always taken in task order: with one operator thread in each worker the result is the same, bit for bit, for any
  number of workers.
- `vmap`: many tasks at once, as one batched program (`torch.func.vmap`).
- `compiled-loop`, `compiled-vmap`: the same through `torch.compile`, whose first call takes a minute or so.
- `auto`: `loop` on a CPU, `vmap` on a GPU, but where the inner loop moves the head alone `loop` there too.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.maml.abreast import abreast_gradient
from metacontrast.maml.batched import batched_gradient, compiled_gradient
from metacontrast.maml.checks import check_tasks
from metacontrast.maml.inner import Inner
from metacontrast.maml.outer import Metrics, task_gradient
from metacontrast.maml.precision import Precision, at_precision
from metacontrast.model.model import Model
from metacontrast.types import Episode, Params, from_tensors, map_params, to_tensors

EngineName = Literal["auto", "loop", "vmap", "compiled-loop", "compiled-vmap"]

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

    def is_batched(self, device: torch.device, inner: Inner) -> bool:
        """Whether tasks run as one batched program, cut into chunks."""
        return self.resolved(device, inner).endswith("vmap")


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
    match engine.resolved(episodes.query_x.device, inner):
        case "loop":
            together = tasks_abreast(model, episodes.query_x[0], inner, len(episodes.query_x))
            gradient_of = partial(abreast_gradient if together else task_gradient, model, params, inner=inner)
            parts = _split(episodes, together) if together else unstack(episodes)
        case "compiled-loop":
            gradient_of, parts = partial(compiled_gradient(model, inner), params), unstack(episodes)
            executor = None
        case name:
            gradient_of = partial(batched_gradient(model, inner, engine.chunk, compiled="compiled" in name), params)
            parts = [episodes]
    return _mean(at_precision(engine.precision, gradient_of), params, parts, executor)


def replica_gradients(
    model: Model,
    params: Sequence[Params],
    episodes: Sequence[Episode],
    inner: Inner,
    executor: Executor | None = None,
    engine: Engine = Engine(),
) -> list[tuple[Params, Metrics]]:
    """`meta_gradient` of several replicas: in one batched program where tasks run so, else one after the other.

    Args:
        params, episodes: of each replica; they differ in nothing but numbers.
        engine: its chunk counts the tasks of all replicas.
    """
    each, device = list(zip(params, episodes, strict=True)), episodes[0].query_x.device
    if len(each) == 1 or not engine.is_batched(device, inner):
        return [meta_gradient(model, *one, inner, executor, engine) for one in each]
    for one in each:
        check_tasks(model, *one, inner.scope)
    compiled = engine.resolved(device, inner) == "compiled-vmap"
    run = partial(
        batched_gradient(model, inner, engine.chunk, len(each), compiled),
        map_params(lambda *replicas: torch.stack(replicas), *params),
    )
    sums, metrics = at_precision(engine.precision, run)(Episode(*map(torch.stack, zip(*episodes, strict=True))))
    means, replicas = map_params(lambda t: t / metrics.loss.shape[1], sums), range(len(each))
    return [(map_params(lambda t, n=n: t[n], means), Metrics(*(m[n] for m in metrics))) for n in replicas]


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


def tasks_abreast(model: Model, query_x: Tensor, inner: Inner, tasks: int) -> int:
    """How many tasks step side by side, whatever the number of workers, so that the result does not depend on it.

    Half of them at most, which leaves work for two; 0 where they cannot, or where one task's images fill the cache.

    Args:
        query_x: the query images of one task, `(query, channel, height, width)`.
    """
    if inner.scope != "head" and not model.runs_abreast(query_x):
        return 0
    return min(_MOST_ABREAST, (tasks + 1) // 2, _NUMBERS_ABREAST // query_x.numel())


def _split(episodes: Episode, size: int) -> Iterator[Episode]:
    """The tasks of a batch, so many at a time."""
    return (Episode(*parts) for parts in zip(*(t.split(size) for t in episodes), strict=True))
