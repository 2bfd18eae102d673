"""Meta-training (paper Algorithm 1, with the zeroing trick Algorithm 3), open to models, tasks and rules of your own.

    repeat:  g = mean over a batch of tasks of the outer gradient at θ;   θ ← optimizer(θ, g);   zeroed head: w⁰ ← 0

Update u uses the tasks u·B … u·B + B − 1 of the task source, so a training that was stopped goes on exactly where it
was.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from metacontrast.errors import InputError, check_counts
from metacontrast.fields import as_declared
from metacontrast.files import as_path
from metacontrast.maml.engine import AUTO, Engine, TaskGradient, mean_task_gradient, meta_gradient
from metacontrast.maml.outer import Metrics
from metacontrast.model.model import Model
from metacontrast.training.checkpoint import TrainState
from metacontrast.training.run import NullRunDirectory, RunDirectory, open_own_run
from metacontrast.training.step import GradientOf, NotFinite, OuterStep
from metacontrast.types import Episode, Inner, Params, map_params, to_tensors

ADAM = partial(torch.optim.Adam, lr=1e-3)
"""The outer optimizer unless another one is asked for."""


@runtime_checkable
class TaskSource(Protocol):
    """Anything that makes batches of tasks, such as an `EpisodeSampler`.

    A source whose tasks differ in their number of classes from batch to batch also has `ways_at(index)`.
    """

    def batch(self, indices: Sequence[int]) -> Episode:
        """The tasks of these numbers, stacked along a leading axis; equal numbers give equal tasks."""
        ...


Transform = Callable[[Episode, Sequence[int]], Episode]
"""From a batch of tasks and their numbers to another one of the same sizes, such as an augmented one."""


def outer_updates(
    step: OuterStep,
    tasks: TaskSource,
    state: TrainState,
    updates: int,
    run: RunDirectory,
    transform: Transform | None = None,
) -> Iterator[Metrics]:
    """Move `state` by the outer updates that it lacks: the metrics of the tasks of each.

    Raises:
        InputError: a loss or gradient is not finite; names the tasks, and the last checkpoint of `run`.
    """
    ways_at = getattr(tasks, "ways_at", lambda index: None)
    while state.updates < updates:
        numbers = update_tasks(state.updates, step.meta_batch)
        indices = step.distributed.shard(numbers, step.tasks_at_once)
        episodes = tasks.batch(indices)
        if transform is not None:
            episodes = transform(episodes, indices)
        check_episodes(episodes, len(indices))
        try:
            metrics = step(state, episodes, ways_at(indices[0]))
        except NotFinite as error:
            raise InputError(
                f"the loss or its gradient is not finite in update {state.updates}, tasks {numbers[0]} to "
                f"{numbers[-1]}: lower --inner-lr or --outer-lr; {run.last_checkpoint()}"
            ) from error
        yield metrics


def check_source(tasks: object) -> None:
    """Raise `InputError` for what makes no tasks."""
    if not callable(getattr(tasks, "batch", None)):
        raise InputError(
            f"tasks are a {type(tasks).__name__} without batch(indices): give an EpisodeSampler, or an object with it"
        )


def check_episodes(episodes: object, count: int) -> None:
    """Raise `InputError` for anything but `count` tasks in tensors."""
    if not isinstance(episodes, Episode) or not all(isinstance(part, Tensor) for part in episodes):
        raise InputError(
            f"batch(indices) or transform returned a {type(episodes).__name__}: give an Episode of tensors"
        )
    if len(episodes.query_y) != count:
        raise InputError(f"batch(indices) or transform returned {len(episodes.query_y)} tasks, not {count}: give all")


def update_tasks(updates: int, meta_batch: int) -> range:
    """The numbers of the tasks of an update, by the updates done before."""
    return range(updates * meta_batch, (updates + 1) * meta_batch)


def train(
    model: Model,
    tasks: TaskSource,
    inner: Inner | Callable[[int], Inner],
    *,
    updates: int,
    meta_batch: int = 4,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] = ADAM,
    schedule: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    clip_norm: float | None = None,
    transform: Transform | None = None,
    params: Params | None = None,
    seed: int = 0,
    gradient: TaskGradient | None = None,
    tasks_at_once: int = 1,
    engine: Engine = AUTO,
    workers: int = 1,
    on_update: Callable[[int, Params, Metrics], object] = lambda update, params, metrics: None,
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 50,
) -> Params:
    """Meta-train any model on any tasks; with a `zeroed` head by the zeroing trick.

    Args:
        model: the model; its parameters stay where they are, on whichever device.
        tasks: an `EpisodeSampler`, or any object with `batch(indices)`.
        inner: how a task is adapted to; or a function of the number of updates done, for what changes meanwhile.
        updates: number of outer updates, those of a resumed training included.
        meta_batch: tasks per update.
        optimizer: makes the outer optimizer from a list of tensors; weight decay is an argument of the optimizers.
        schedule: makes a learning-rate schedule from the optimizer; it takes one step for every update.
        clip_norm: the largest norm of the outer gradient.
        transform: changes every batch of tasks, such as an augmentation.
        params: where to start, moved on a copy; None draws a start from `seed`.
        seed: of the start.
        gradient: of one task, followed in place of MAML's, such as `metacontrast.methods.reptile`.
        tasks_at_once: how many tasks `gradient` takes together, for one that compares tasks, such as
            `metacontrast.methods.conml`; it returns the sum of their gradients.
        engine: how the tasks of an update run; tasks of a `gradient` run one by one.
        workers: threads that tasks are spread over on a CPU.
        on_update: sees the updates done, the parameters and the metrics after every update; True stops the training.
            The parameters are those that training moves: copy what is to be kept.
        out: a folder for checkpoints and records, see `load_params`; None writes nothing.
        resume: continue the training in `out`, with the same arguments, if there is one.
        checkpoint_every: updates between checkpoints.

    Returns:
        The trained parameters.

    Raises:
        InputError: a loss or gradient is not finite; tasks do not fit the model; `out` holds another run.
    """
    counts = {
        "updates": updates,
        "meta_batch": meta_batch,
        "workers": workers,
        "tasks_at_once": tasks_at_once,
        "checkpoint_every": checkpoint_every,
    }
    check_counts(**{name: as_declared(name, value, int) for name, value in counts.items()})
    check_source(tasks)
    for name, maker in {"optimizer": optimizer, "schedule": schedule}.items():
        if maker is not None and not callable(maker):
            raise InputError(f"{name} is a {type(maker).__name__}, but must be a function that makes one: see the docs")
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm={clip_norm}, but it must be above 0; leave it out to clip nothing")
    if gradient is None and tasks_at_once > 1:
        raise InputError(f"tasks_at_once={tasks_at_once} is for a gradient of your own: leave it out")
    if meta_batch % tasks_at_once:
        raise InputError(f"meta_batch={meta_batch} is not a multiple of tasks_at_once={tasks_at_once}: change one")
    inner_at = inner if callable(inner) else lambda _: inner
    start = params if params is not None else model.init(torch.Generator().manual_seed(seed))
    start = map_params(lambda tensor: tensor.detach().clone(), start)
    made = optimizer(to_tensors(start))
    state = TrainState(start, made, schedule=None if schedule is None else schedule(made))
    _check_steps(state)
    nowhere = contextlib.nullcontext(NullRunDirectory(Path(), {}))
    with nowhere if out is None else open_own_run(as_path(out), resume=resume) as run, threads(workers) as executor:
        state = run.restore(state)
        if state.updates > updates:
            raise InputError(
                f"{out} holds a training of {state.updates} updates, more than updates={updates}: raise it"
            )
        of_batch = gradient_of_batch(gradient, executor, engine, tasks_at_once)
        step = OuterStep(model, inner_at, of_batch, meta_batch, clip_norm, tasks_at_once=tasks_at_once)
        for metrics in outer_updates(step, tasks, state, updates, run, transform):
            run.record({"kind": "training", "update": state.updates, **means(metrics)})
            stop = on_update(state.updates, state.params, metrics) is True
            if stop or state.updates == updates or state.updates % checkpoint_every == 0:
                run.save(state)
            if stop:
                break
    return state.params


def _check_steps(state: TrainState) -> None:
    """Raise `InputError` for an optimizer or a schedule whose step needs more than a gradient."""
    for part in (state.optimizer, state.schedule):
        if isinstance(part, torch.optim.LBFGS | ReduceLROnPlateau):
            needed = "a loss to compute again" if part is state.optimizer else "an accuracy"
            raise InputError(
                f"{type(part).__name__} needs {needed} at every step, which an outer update has not: take another"
            )


def gradient_of_batch(
    gradient: TaskGradient | None, executor: Executor | None, engine: Engine, tasks_at_once: int
) -> GradientOf:
    """The gradient of a batch of tasks from that of one, or of `tasks_at_once`; None is MAML's."""
    if gradient is None:
        return partial(meta_gradient, executor=executor, engine=engine)
    return partial(
        mean_task_gradient, gradient, executor=executor, precision=engine.precision, tasks_at_once=tasks_at_once
    )


def means(metrics: Metrics) -> dict[str, float]:
    """Mean loss and accuracy over the tasks, the latter where labels are classes."""
    found = {name: value.mean().item() for name, value in metrics._asdict().items()}
    return {name: value for name, value in found.items() if value == value}


def threads(workers: int) -> contextlib.AbstractContextManager[Executor | None]:
    """A thread pool to spread tasks over; None for one worker."""
    return contextlib.nullcontext() if workers == 1 else ThreadPoolExecutor(workers)
