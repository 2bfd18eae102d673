"""How a batch of tasks runs: in groups, one after the other or over threads; the mathematics does not change.

- `loop`: groups of few tasks, spread over threads on a CPU. A group is one task unless the encoder takes several as one
  batch. Sums are taken in task order: with one operator thread in each worker the result is the same on a machine, bit
  for bit, for any number of workers.
- `vmap`: all tasks, or `chunk` of them, as one program; an encoder that takes no task axis is mapped over tasks.
- `compiled-loop`, `compiled-vmap`: the same through `torch.compile`, whose first call takes a minute or so.
- `auto`: `loop` on a CPU, `vmap` on a GPU.

`precision` is the arithmetic of float32 tensors:

    float32    every product as it stands: 24 bits
    tf32       a GPU rounds the factors of products to 11 bits; sums have 24
    bfloat16   what flows between layers has 8 bits; sums and parameters have 24

PyTorch keeps this in flags that belong to the whole process, and by default lets cuDNN round. The flags are set for as
long as any thread computes, and are put back when the last one is done. Threads of one setting compute at the same
time; a thread that needs another setting waits for them. Work outside these contexts sees the flags as they are.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.fields import check_fields
from metacontrast.maml.checks import check_batch, check_tasks
from metacontrast.maml.inner import standing_steps, transform_vjp
from metacontrast.maml.outer import Metrics, outer_gradient
from metacontrast.model.head import zero_head
from metacontrast.model.model import Model
from metacontrast.types import Episode, Inner, Params, from_named, from_tensors, to_named, to_tensors

Precision = Literal["float32", "tf32", "bfloat16"]


EngineName = Literal["auto", "loop", "vmap", "compiled-loop", "compiled-vmap"]

_MOST_TOGETHER = 16
_NUMBERS_TOGETHER = 2**20
_CORES = max(2, os.cpu_count() or 1)


@dataclass(frozen=True)
class Engine:
    """How `meta_gradient` runs its tasks; the mathematics is the same.

    Args:
        name: `loop` (tasks in small groups, over threads), `vmap` (all tasks as one program), `compiled-loop` or
            `compiled-vmap` (through `torch.compile`); `auto` is `loop` on a CPU and `vmap` on a GPU.
        chunk: tasks at once under `vmap`; None is all of them.
        precision: of products and of what flows between layers, see `metacontrast.maml.engine`.
    """

    name: EngineName = "auto"
    chunk: int | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.chunk is not None and self.chunk < 1:
            raise InputError(f"chunk={self.chunk}, but it must be 1 or more tasks")

    def resolved(self, device: torch.device) -> EngineName:
        """The engine that `auto` stands for on a device."""
        if self.name != "auto":
            return self.name
        return "vmap" if device.type == "cuda" else "loop"

    def is_batched(self, device: torch.device) -> bool:
        """Whether all tasks run as one program, cut into chunks."""
        return self.resolved(device).endswith("vmap")

    def group_size(self, model: Model, inner: Inner, images: Tensor, tasks: int) -> int:
        """How many tasks run as one group, whatever the number of workers, so that the result does not depend on it.

        In a loop, groups are small enough that every core gets one and that the images of a group fit into the cache.

        Args:
            images: the query images of one task.
        """
        if self.is_batched(images.device):
            return min(tasks, self.chunk or tasks)
        moving = standing_steps(model, inner) < inner.steps
        if not model.batches_tasks(images, moving) or self.resolved(images.device) == "compiled-loop":
            return 1
        return max(1, min(_MOST_TOGETHER, -(-tasks // _CORES), _NUMBERS_TOGETHER // images.numel()))


AUTO = Engine()


def meta_gradient(
    model: Model,
    params: Params,
    episodes: Episode,
    inner: Inner,
    executor: Executor | None = None,
    engine: Engine = AUTO,
) -> tuple[Params, Metrics]:
    """Compute the outer gradient of a batch of tasks: the mean of the tasks' gradients.

    Args:
        model, params: the model and its parameters before adaptation.
        episodes: tasks of one shape, stacked along a leading axis.
        inner: settings of the inner loop.
        executor: a thread pool for the engine `loop` to spread the tasks over; None runs one group after the other.
        engine: how the tasks run.

    Returns:
        The gradient in the structure of `params`, and the metrics of every task.

    Raises:
        InputError: labels do not fit the images or the model's ways, there is nothing to learn, or the encoder has
            layers that the engine does not take.
    """
    check_batch(episodes)
    check_tasks(model, params, episodes, inner.scope, (inner.loss, inner.outer_loss))
    name = engine.resolved(episodes.query_x.device)
    if name.startswith("compiled") and not model.knows_layers:
        raise InputError(
            f"engine={name} takes only PyTorch's own layers in nn.Sequential and built-in encoders, but the encoder "
            "has others: use loop or vmap"
        )
    gradient = _compiled(model, inner) if name.startswith("compiled") else partial(_gradient, model, inner)
    groups = split(episodes, engine.group_size(model, inner, episodes.query_x[0], len(episodes.query_y)))
    return _mean(
        at_precision(engine.precision, partial(gradient, params)), params, groups, executor if name == "loop" else None
    )


TaskGradient = Callable[[Model, Params, Episode, Inner], tuple[Params, Metrics]]
"""What training follows on one task, without a task axis but in the metrics; its negative is a direction of descent."""


def mean_task_gradient(
    gradient: TaskGradient,
    model: Model,
    params: Params,
    episodes: Episode,
    inner: Inner,
    executor: Executor | None = None,
    precision: Precision = "float32",
    tasks_at_once: int = 1,
) -> tuple[Params, Metrics]:
    """The mean over a batch of tasks of any gradient in place of MAML's, and the metrics of every task.

    Args:
        gradient: of one task; tasks run one after the other or spread over threads.
        tasks_at_once: if more than one, `gradient` takes as many tasks, stacked along a leading axis, and returns the
            sum of their gradients, and metrics with a number for each of them.
        precision: of products, see the module.
        episodes, executor: as for `meta_gradient`.

    Raises:
        InputError: the tasks cannot be divided into groups, or the metrics are not of every task.
    """
    if len(episodes.query_y) % tasks_at_once:
        raise InputError(f"{len(episodes.query_y)} tasks cannot be divided into groups of {tasks_at_once}: change one")

    def of_part(episode: Episode) -> tuple[Params, Metrics]:
        found, metrics = gradient(model, params, episode, inner)
        if any(each.shape != (tasks_at_once,) for each in metrics):
            shapes = " and ".join(str(tuple(each.shape)) for each in metrics)
            raise InputError(
                f"the gradient of {tasks_at_once} tasks came with metrics of shape {shapes}: return the sum of their "
                f"gradients, and a loss and an accuracy for each, of shape ({tasks_at_once},)"
            )
        if model.head == "zeroed":  # it is not learned, and may have other rows than the task's
            found = found._replace(head=zero_head(params).head)
        named = to_named(found)
        for name, tensor in to_named(params).items():
            if name not in named or named[name].shape != tensor.shape:
                raise InputError(
                    f"the gradient has no {name} of shape {tuple(tensor.shape)}: give one like the parameters"
                )
        return from_named(params, named), metrics

    parts = unstack(episodes) if tasks_at_once == 1 else split(episodes, tasks_at_once)
    return _mean(at_precision(precision, of_part), params, parts, executor)


def unstack(episodes: Episode) -> Iterator[Episode]:
    """The tasks of a batch, one by one, without copying."""
    return (Episode(*task) for task in zip(*episodes, strict=True))


def split(episodes: Episode, size: int) -> Iterator[Episode]:
    """The tasks of a batch in groups of at most `size`, without copying."""
    return (Episode(*parts) for parts in zip(*(t.split(size) for t in episodes), strict=True))


def _gradient(model: Model, inner: Inner, params: Params, episodes: Episode) -> tuple[Params, Metrics]:
    outcome = outer_gradient(model, params, episodes, inner)
    return outcome.gradient, outcome.metrics


@functools.lru_cache(maxsize=16)
def _compiled(model: Model, inner: Inner) -> Callable[[Params, Episode], tuple[Params, Metrics]]:
    """`_gradient` through `torch.compile`; kept, because it is slow to make."""

    def gradient(params: Params, episodes: Episode) -> tuple[Params, Metrics]:
        outcome = outer_gradient(model, params, episodes, inner, transform_vjp)
        return outcome.gradient, outcome.metrics

    return torch.compile(gradient, fullgraph=True, dynamic=False)


def _mean(
    gradient_of: Callable[[Episode], tuple[Params, Metrics]],
    like: Params,
    parts: Iterable[Episode],
    executor: Executor | None,
) -> tuple[Params, Metrics]:
    """The sum of the parts' gradients, in their order, divided by the number of tasks."""
    run = map if executor is None else executor.map
    own = to_tensors(like)
    total = [torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in own]
    metrics = []
    for gradient, part_metrics in run(gradient_of, parts):
        for summed, part in zip(total, to_tensors(gradient), strict=True):
            summed.add_(part)
        metrics.append(part_metrics)
    together = Metrics(*map(torch.cat, zip(*metrics, strict=True)))
    means = [(t / len(together.loss)).to(each.dtype) for t, each in zip(total, own, strict=True)]
    return from_tensors(like, means), together


def at_precision(precision: Precision, function: Callable[[Episode], Any]) -> Callable[[Episode], Any]:
    """`function` with its arithmetic at a precision, in whichever thread it is called."""

    def run(episode: Episode) -> Any:
        with arithmetic(precision, episode.query_x.device):
            return function(episode)

    return run


@contextlib.contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute at a precision on a device.

    Raises:
        InputError: the device does not know the precision, or this thread computes at another one already.
    """
    if precision == "tf32" and device.type != "cuda":
        raise InputError("precision='tf32' is a GPU's: use 'float32' or 'bfloat16' on a CPU")
    with contextlib.ExitStack() as stack:
        if flags := _FLAGS.get(device.type):
            stack.enter_context(flags.held("tf32" if precision == "tf32" else "ieee"))
        if precision == "bfloat16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16, cache_enabled=False))
        elif device.type in _FLAGS and torch.is_autocast_enabled(device.type):  # it would hold in this thread alone
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


class _Flags:
    """Flags of the process that threads hold together.

    Args:
        operators: objects of `torch.backends` with an attribute `fp32_precision`.
    """

    def __init__(self, *operators: Any):
        self._operators = operators
        self._before = [""] * len(operators)
        self._holders: list[int] = []
        self._setting = ""
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def held(self, setting: str) -> Iterator[None]:
        """All flags at `setting`; waits for threads that hold them at another one."""
        me = threading.get_ident()
        with self._changed:
            if me in self._holders and setting != self._setting:
                raise InputError(
                    f"float32 arithmetic is at {self._setting!r} here and cannot be at {setting!r} inside: "
                    "finish the one computation before the other"
                )
            self._changed.wait_for(lambda: not self._holders or setting == self._setting)
            if not self._holders:
                self._set(setting)
            self._holders.append(me)
        try:
            yield
        finally:
            with self._changed:
                self._holders.remove(me)
                if not self._holders:
                    self._put_back()
                    self._changed.notify_all()

    def _set(self, setting: str) -> None:
        self._setting = setting
        self._before = [operator.fp32_precision for operator in self._operators]
        for operator, before in zip(self._operators, self._before, strict=True):
            if before != setting:  # a flag that follows a wider one goes on to follow it
                operator.fp32_precision = setting

    def _put_back(self) -> None:
        for operator, before in zip(self._operators, self._before, strict=True):
            if before != operator.fp32_precision:
                operator.fp32_precision = before


_backends: Any = torch.backends
_FLAGS = {
    "cuda": _Flags(_backends.cudnn.conv, _backends.cudnn.rnn, _backends.cuda.matmul),
    "cpu": _Flags(_backends.mkldnn.conv, _backends.mkldnn.rnn, _backends.mkldnn.matmul),
}
"""By type of device; oneDNN's flags decide whether a CPU may round."""
