"""Estimate the memory of an outer update before a training starts, and choose the chunk of tasks that fits.

    bytes = fixed + parts · part

fixed: parameters, their gradient, the optimizer's moments, the images of a batch. part: what the tasks take that one
worker holds at the same time, one part for every worker; it is counted while the gradient of a few tasks is taken.
Under `vmap` a part is one task of the chunk, and every task has a gradient of its own.

Operators need memory of their own and malloc cannot reuse every gap, for which a part is more than its tensors, see
`_BESIDE_TENSORS`. On a CPU the estimate was then 0.8 to 1.2 times what the process really grew by: 28×28 images with
64 filters, 84×84 with 32 (5 steps) and 64, head-only inner loops (the lowest), both orders, one and two workers,
float32 and bfloat16; under `vmap` 0.9 to 1.7 times. On a GPU nothing was measured.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch

from metacontrast.data.images import ClassImages
from metacontrast.device import FILLED, MoreThanAllowed, free_bytes, peak_bytes
from metacontrast.errors import InputError
from metacontrast.maml.inner import standing_steps
from metacontrast.methods import METHODS
from metacontrast.model.model import Model
from metacontrast.training.checkpoint import store_state
from metacontrast.training.config import TrainConfig
from metacontrast.training.step import Resources, move
from metacontrast.training.train_run import gradient_of, initial_state
from metacontrast.types import Episode, Params, map_params, to_tensors


@dataclass(frozen=True)
class MemoryEstimate:
    """The memory of an update in bytes; see the module."""

    fixed: int
    part: int
    parts: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.fixed + self.parts * self.part

    def fitting(self, size: int) -> int:
        """How many parts fit into `size` bytes."""
        return max(0, int(size - self.fixed) // self.part)


def fit_to_memory(
    config: TrainConfig, images: tuple[ClassImages, ClassImages], resources: Resources
) -> tuple[Resources, str]:
    """`resources` with a chunk that fits where the engine makes chunks and none was asked for; the need in words.

    Args:
        images: what is trained and tested on; on a GPU they will lie there too.

    Raises:
        InputError: it does not fit into what is free, or into `resources.memory`; says what to change.
    """
    free = free_bytes(resources.device)
    if free is not None and resources.device == "cpu":
        free //= resources.distributed.here  # which share a machine's memory; a GPU is one process's
    room = free if resources.memory is None else resources.memory
    try:
        need = estimate_memory(config, images, resources, room)
    except MoreThanAllowed:
        raise InputError(
            _refusal(f"the tasks of one worker take more than the {_readable(room or 0)} free", _smaller(config))
        ) from None
    if room is None:
        return resources, _in_words(need)
    if resources.are_batched(config) and resources.chunk is None:
        need = replace(need, parts=max(1, min(need.parts, need.fitting(int(FILLED * room)))))
        resources = replace(resources, chunk=need.parts)
    text = f"{_in_words(need)}, and {_readable(room)} are free"
    if need.total > room:
        raise InputError(_refusal(text, _advice(config, need, resources, room)))
    return resources, text


def _in_words(need: MemoryEstimate) -> str:
    return f"an update takes about {_readable(need.total)} of memory"


def _refusal(text: str, advice: str) -> str:
    return f"{text}: {advice}; or say with --memory how many GB may be taken"


def _advice(config: TrainConfig, need: MemoryEstimate, resources: Resources, room: int) -> str:
    """Which flag to change, and to what where that is known."""
    if fitting := need.fitting(room):
        return f"use {'--chunk' if resources.are_batched(config) else '--workers'} {fitting}"
    if need.fixed > need.part:
        return "lower --meta-batch or --filters"
    return _smaller(config)


def _smaller(config: TrainConfig) -> str:
    """What makes a task smaller."""
    first, steps = ("", "") if config.order == "first" else ("use --order first, or ", "--inner-steps, ")
    return f"{first}lower {steps}--queries, --shots, --ways or --filters"


def _readable(size: int) -> str:
    unit, name = next((each for each in ((1e9, "GB"), (1e6, "MB")) if size >= each[0]), (1e3, "KB"))
    return f"{size / unit:.1f} {name}"


_BESIDE_TENSORS = {"loop": 1.25, "vmap": 2.0}
"""Memory of tasks on a CPU in units of their tensors; under `vmap` weights of each task make grouped convolutions."""


def estimate_memory(
    config: TrainConfig, images: tuple[ClassImages, ClassImages], resources: Resources, most: int | None = None
) -> MemoryEstimate:
    """The need of an update on `resources`; the images are as of `fit_to_memory`.

    Raises:
        MoreThanAllowed: a part alone takes more than `most` bytes.
    """
    device = torch.device(resources.device)
    model = config.model(images[0].shape).to(device)
    state = initial_state(config, model, resources.device, len(images[0]))
    largest = replace(config, least_ways=None, least_shots=None).training_tasks(images[0])
    tasks = Episode(*(t.to(device) for t in largest.batch(range(config.meta_batch))))
    measured = partial(_gradient_bytes, model, state.params, tasks, config, resources, most)
    images_there = 0 if device.type == "cpu" else _size(*(each.images for each in images))
    move(state, map_params(torch.zeros_like, state.params))  # the optimizer's moments are there from the first step on
    state_and_gradient = _size(*store_state(state).tensors.values(), *to_tensors(state.params))
    fixed = images_there + state_and_gradient + _size(*tasks)
    if not resources.are_batched(config):
        at_once = _tasks_of_a_worker(config, model, tasks, resources)
        is_mamls = config.task_gradient() is None
        part = measured(1 if is_mamls and at_once == 1 else 2 * at_once)  # of two groups, one after the other
        part = int(part * _BESIDE_TENSORS["loop"])
        return MemoryEstimate(fixed, part, min(resources.workers, -(-config.meta_batch // at_once)))
    count, (one, two) = config.meta_batch, map(measured, (1, 2))
    every_task = max(0, 2 * one - two) + count * _size(*to_tensors(state.params))
    moving = standing_steps(model, config.inner()) < config.inner_steps
    is_mapped = device.type == "cpu" and not model.batches_tasks(tasks.query_x, moving)
    part = max(1, two - one) * _BESIDE_TENSORS["vmap" if is_mapped else "loop"]
    return MemoryEstimate(fixed + every_task, int(part), min(count, resources.chunk or count))


def _tasks_of_a_worker(config: TrainConfig, model: Model, tasks: Episode, resources: Resources) -> int:
    """How many tasks one worker of a loop holds at the same time."""
    if config.task_gradient() is not None:
        return config.tasks_at_once
    return resources.engine_of(config).group_size(model, config.inner(), tasks.query_x[0], config.meta_batch)


def _gradient_bytes(
    model: Model,
    params: Params,
    tasks: Episode,
    config: TrainConfig,
    resources: Resources,
    allowed: int | None,
    count: int,
) -> int:
    """What the outer gradient of this many tasks takes in one worker; a compiled engine is counted as a plain one.

    At most two inner steps are run, because every other one adds as much as the second: its parameters, and in second
    order its graph. A direction that remembers has all its memory after the second, a third then tells.
    """
    alone = replace(resources, executor=None, chunk=None, engine=resources.engine.removeprefix("compiled-"))
    phases = (0.0, 1.0) if METHODS[config.method].anneals else (1.0,)
    few = Episode(*(torch.stack([t[number % len(t)] for number in range(count)]) for t in tasks))

    def at(steps: int) -> int:
        short = replace(config, inner_steps=steps)
        works = [partial(gradient_of(short, alone), model, params, few, short.inner(share)) for share in phases]
        return max(peak_bytes(work, allowed, [*few, *to_tensors(params)]) for work in works)

    most = 2 if config.inner().direction is None else 3
    if config.inner_steps <= most:
        return at(config.inner_steps)
    run = at(most)
    return run + (config.inner_steps - most) * max(0, run - at(most - 1))


def _size(*tensors: torch.Tensor) -> int:
    return sum(t.nbytes for t in tensors)
