"""One outer update: the gradient of a batch of tasks, the optimizer's step, and the zeroing trick.

g = mean over a batch of tasks of the outer gradient at θ;   θ ← optimizer(θ, g);   zeroed head: w⁰ ← 0
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.fields import check_fields
from metacontrast.maml.engine import Engine, EngineName
from metacontrast.maml.outer import Metrics
from metacontrast.methods import METHODS
from metacontrast.model.head import zero_head
from metacontrast.model.model import Model
from metacontrast.training.checkpoint import TrainState
from metacontrast.training.config import TrainConfig
from metacontrast.training.distributed import ALONE, Distributed
from metacontrast.types import Episode, Inner, Params, to_tensors

GradientOf = Callable[[Model, Params, Episode, Inner], tuple[Params, Metrics]]
"""The gradient of a batch of tasks that training follows, and the metrics of every task."""


@dataclass(frozen=True)
class Resources:
    """What a training runs on, none of which changes the mathematics.

    Args:
        device: `cpu` or `cuda`.
        executor: a thread pool to spread tasks over.
        engine: how the tasks of an update run.
        chunk: tasks at once where the engine batches them; None is all.
        workers: threads of the executor.
        memory: bytes that may be taken; None is what is free.
        distributed: the processes that share every update's tasks.
    """

    device: str = "cpu"
    executor: Executor | None = None
    engine: EngineName = "auto"
    chunk: int | None = None
    workers: int = 1
    memory: int | None = None
    distributed: Distributed = ALONE

    __post_init__ = check_fields

    def engine_of(self, config: TrainConfig) -> Engine:
        """How the tasks of an update run; a method with a gradient of its own knows only a loop."""
        is_mamls = config.task_gradient() is None
        if METHODS[config.method].anneals and self.engine.startswith("compiled"):
            raise InputError(
                f"method={config.method} changes its inner loop with every update, which {self.engine} would compile "
                "each time: use --engine loop or vmap"
            )
        return Engine(self.engine if is_mamls else "loop", self.chunk, config.precision)

    def are_batched(self, config: TrainConfig) -> bool:
        """Whether the tasks of an update run as one batched program, cut into chunks."""
        return self.engine_of(config).is_batched(torch.device(self.device))


ONE_CPU = Resources()


@dataclass(frozen=True)
class OuterStep:
    """What an outer update is made of, whatever its tasks.

    Args:
        model: whose head is zeroed after every update if it is a `zeroed` one.
        inner: the inner loop of an update, by the number of updates done before.
        gradient: of a batch of tasks.
        meta_batch: tasks of an update, in all processes.
        clip_norm: the largest norm of the outer gradient, longer ones are shortened to it; None leaves all as they are.
        distributed: the processes that share the tasks.
        tasks_at_once: how many tasks stay together in one process.
    """

    model: Model
    inner: Callable[[int], Inner]
    gradient: GradientOf
    meta_batch: int
    clip_norm: float | None = None
    distributed: Distributed = ALONE
    tasks_at_once: int = 1

    def __call__(self, state: TrainState, episodes: Episode, ways: int | None = None) -> Metrics:
        """Move `state` in place by one update; the metrics are on the CPU.

        A GPU is waited for once, at the end, for everything that is read.

        Args:
            episodes: all tasks of the update, or this process's own where several share it.
            ways: classes of the tasks, if not the model's.

        Raises:
            NotFinite: the state is then invalid: continue from an earlier one.
        """
        model = self.model if ways in (None, self.model.ways) else self.model.with_ways(ways)
        own = self.gradient(model, state.params, episodes, self.inner(state.updates))
        gradient, metrics = self.distributed.all_reduce_mean(*own, self.meta_batch, self.tasks_at_once)
        move(state, gradient, self.clip_norm)
        if model.head == "zeroed":
            for tensor, zero in zip(to_tensors(state.params), to_tensors(zero_head(state.params)), strict=True):
                tensor.copy_(zero)
        return _read(metrics, [*to_tensors(gradient), *to_tensors(state.params)])


def move(state: TrainState, gradient: Params, clip_norm: float | None = None) -> None:
    """Move the parameters along the outer gradient by one step of optimizer and schedule."""
    tensors = to_tensors(state.params)
    for tensor, part in zip(tensors, to_tensors(gradient), strict=True):
        tensor.grad = part
    if clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(tensors, clip_norm)
    state.optimizer.step()
    for tensor in tensors:
        tensor.grad = None
    if state.schedule is not None:
        state.schedule.step()
    state.updates += 1


class NotFinite(Exception):
    """A loss, a gradient or what it led to is not finite."""


def _read(metrics: Metrics, tensors: Sequence[Tensor]) -> Metrics:
    """The metrics on the CPU, in the one copy that also says whether the loss and all `tensors` are finite."""
    finite = torch.stack([t.isfinite().all() for t in (metrics.loss, *tensors)]).all()
    is_finite, *values = torch.cat([finite[None].to(metrics.loss.dtype), *metrics]).cpu().split([1, *map(len, metrics)])
    if not is_finite:
        raise NotFinite
    return Metrics(*values)
