"""One outer update: the gradient of a batch of tasks, the optimizer's step, and the zeroing trick.

g = mean over a batch of tasks of the outer gradient at θ;   θ ← optimizer(θ, g);   zeroed head: w⁰ ← 0
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from metacontrast.maml.engine import Engine, EngineName, meta_gradient
from metacontrast.maml.outer import Metrics
from metacontrast.model.head import zero_head
from metacontrast.model.model import Model
from metacontrast.training.config import OptimizerName, TrainConfig
from metacontrast.training.objective import contrastive_gradient
from metacontrast.training.ranks import ALONE, Ranks
from metacontrast.training.state import TrainState
from metacontrast.types import Episode, Params, map_params, to_tensors

_OPTIMIZERS: dict[OptimizerName, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


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
        ranks: the processes that share every update's tasks.
    """

    device: str = "cpu"
    executor: Executor | None = None
    engine: EngineName = "auto"
    chunk: int | None = None
    workers: int = 1
    memory: int | None = None
    ranks: Ranks = ALONE

    def engine_of(self, config: TrainConfig) -> Engine:
        """How the tasks of an update run; the contrastive objective knows only a loop."""
        return Engine(self.engine if config.objective == "maml" else "loop", self.chunk, config.precision)

    def are_batched(self, config: TrainConfig) -> bool:
        """Whether the tasks of an update run as one batched program, cut into chunks."""
        return self.engine_of(config).resolved(torch.device(self.device), config.inner()).endswith("vmap")


ONE_CPU = Resources()


def initial_state(config: TrainConfig, model: Model, device: str) -> TrainState:
    """Starting parameters drawn from the seed, and a fresh optimizer."""
    generator = torch.Generator().manual_seed(config.seed)
    params = map_params(lambda t: t.to(device), model.init(generator, config.head_init_scale))
    optimizer = _OPTIMIZERS[config.optimizer](to_tensors(params), lr=config.outer_lr)
    return TrainState(params, optimizer, 0)


def outer_gradient(
    model: Model, params: Params, episodes: Episode, config: TrainConfig, resources: Resources
) -> tuple[Params, Metrics]:
    """The gradient of a batch of tasks that training follows, and the metrics of every task."""
    if config.objective == "maml":
        gradient_of = partial(meta_gradient, engine=resources.engine_of(config))
    else:
        gradient_of = partial(contrastive_gradient, **config.dropped())
    return gradient_of(model, params, episodes, config.inner(), resources.executor)


def outer_step(state: TrainState, gradient: Params, zeroed: bool) -> None:
    """Move the parameters along the outer gradient, then zero the head if the trick is on; the moments stay."""
    tensors = to_tensors(state.params)
    for tensor, part in zip(tensors, to_tensors(gradient), strict=True):
        tensor.grad = part
    state.optimizer.step()
    if zeroed:
        for tensor, zero in zip(tensors, to_tensors(zero_head(state.params)), strict=True):
            tensor.copy_(zero)
    state.updates += 1


def update(
    state: TrainState, model: Model, episodes: Episode, config: TrainConfig, resources: Resources = ONE_CPU
) -> Metrics:
    """One outer update on a batch of tasks; a gradient that is not finite leaves the parameters as they were.

    Args:
        episodes: all tasks of the update, or this process's own where `resources.ranks` share it.
    """
    gradient, metrics = outer_gradient(model, state.params, episodes, config, resources)
    gradient, metrics = resources.ranks.mean(gradient, metrics, config.meta_batch)
    _check_finite([metrics.loss, *to_tensors(gradient)])
    outer_step(state, gradient, zeroed=config.head == "zeroed")
    _check_finite(to_tensors(state.params))
    return metrics


def _check_finite(tensors: Sequence[Tensor]) -> None:
    """Raise where a number is not finite; a GPU is waited for once."""
    if not torch.stack([torch.isfinite(t).all() for t in tensors]).all():
        raise FloatingPointError
