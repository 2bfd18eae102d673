"""One outer update: the gradient of a batch of tasks, the optimizer's step, and the zeroing trick.

g = mean over a batch of tasks of the outer gradient at θ;   θ ← optimizer(θ, g);   zeroed head: w⁰ ← 0
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import Tensor

from metacontrast.fields import check_fields
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

    __post_init__ = check_fields

    def engine_of(self, config: TrainConfig) -> Engine:
        """How the tasks of an update run; the contrastive objective knows only a loop."""
        return Engine(self.engine if config.objective == "maml" else "loop", self.chunk, config.precision)

    def are_batched(self, config: TrainConfig) -> bool:
        """Whether the tasks of an update run as one batched program, cut into chunks."""
        return self.engine_of(config).is_batched(torch.device(self.device))


ONE_CPU = Resources()


def initial_state(config: TrainConfig, model: Model, device: str) -> TrainState:
    """Starting parameters drawn from the seed, and a fresh optimizer."""
    generator = torch.Generator().manual_seed(config.seed)
    params = map_params(lambda t: t.to(device), model.init(generator, config.head_init_scale))
    optimizer = _OPTIMIZERS[config.optimizer](to_tensors(params), lr=config.outer_lr)
    return TrainState(params, optimizer, 0)


def batch_gradient(
    model: Model, params: Params, episodes: Episode, config: TrainConfig, resources: Resources
) -> tuple[Params, Metrics]:
    """The gradient of a batch of tasks that training follows, and the metrics of every task."""
    if config.objective == "maml":
        return meta_gradient(model, params, episodes, config.inner(), resources.executor, resources.engine_of(config))
    dropped = config.dropped()
    return contrastive_gradient(model, params, episodes, config.inner(), resources.executor, **dropped)


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
    """One outer update on a batch of tasks; the metrics are on the CPU.

    A GPU is waited for once, at the end, for everything that is read.

    Args:
        episodes: all tasks of the update, or this process's own where `resources.ranks` share it.

    Raises:
        NotFinite: the state is then of no use: go on from an earlier one.
    """
    own = batch_gradient(model, state.params, episodes, config, resources)
    gradient, metrics = resources.ranks.mean(*own, config.meta_batch)
    outer_step(state, gradient, zeroed=config.head == "zeroed")
    return _read(metrics, [*to_tensors(gradient), *to_tensors(state.params)])


class NotFinite(Exception):
    """A loss, a gradient or what it led to is not finite."""


def _read(metrics: Metrics, tensors: Sequence[Tensor]) -> Metrics:
    """The metrics on the CPU, in the one copy that also says whether they and all `tensors` are finite."""
    finite = torch.stack([t.isfinite().all() for t in (*metrics, *tensors)]).all()
    is_finite, *values = torch.cat([finite[None].to(metrics.loss.dtype), *metrics]).cpu().split([1, *map(len, metrics)])
    if not is_finite:
        raise NotFinite
    return Metrics(*values)
