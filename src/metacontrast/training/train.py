"""Meta-training (paper Algorithm 1, with the zeroing trick Algorithm 3): configuration in, run directory out.

    repeat:  g = mean over a batch of tasks of the outer gradient at θ;   θ ← optimizer(θ, g);   zeroed head: w⁰ ← 0

Update u uses the tasks u·B … u·B + B − 1 of the seed's list, so a run that was stopped goes on exactly where it was.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import torch

from metacontrast.analysis.contrastiveness import explain_tasks
from metacontrast.data.episodes import EpisodeSampler
from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError
from metacontrast.maml.engine import Engine, EngineName, meta_gradient
from metacontrast.maml.outer import Metrics
from metacontrast.model.head import zero_head
from metacontrast.model.model import Model
from metacontrast.training.config import OptimizerName, TrainConfig
from metacontrast.training.evaluate import Evaluation, evaluate
from metacontrast.training.objective import contrastive_gradient
from metacontrast.training.records import Record
from metacontrast.training.run import RunDirectory
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
    """

    device: str = "cpu"
    executor: Executor | None = None
    engine: EngineName = "auto"
    chunk: int | None = None


def initial_state(config: TrainConfig, model: Model, device: str) -> TrainState:
    """Starting parameters drawn from the seed, and a fresh optimizer."""
    generator = torch.Generator().manual_seed(config.seed)
    params = map_params(lambda t: t.to(device), model.init(generator, config.head_init_scale))
    optimizer = _OPTIMIZERS[config.optimizer](to_tensors(params), lr=config.outer_lr)
    return TrainState(params, optimizer, 0)


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
    state: TrainState, model: Model, episodes: Episode, config: TrainConfig, resources: Resources = Resources()
) -> Metrics:
    """One outer update on a batch of tasks; a gradient that is not finite leaves the parameters as they were."""
    if config.objective == "maml":
        gradient_of = partial(meta_gradient, engine=Engine(resources.engine, resources.chunk, config.precision))
    else:
        gradient_of = partial(contrastive_gradient, **config.dropped())
    gradient, metrics = gradient_of(model, state.params, episodes, config.inner(), resources.executor)
    if not all(torch.isfinite(t).all() for t in (metrics.loss, *to_tensors(gradient))):
        raise FloatingPointError
    outer_step(state, gradient, zeroed=config.head == "zeroed")
    if not all(torch.isfinite(t).all() for t in to_tensors(state.params)):
        raise FloatingPointError
    return metrics


def train(
    config: TrainConfig,
    run: RunDirectory,
    train_images: ClassImages,
    test_images: ClassImages,
    resources: Resources = Resources(),
    *,
    on_record: Callable[[Record], None] = lambda record: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Literal["finished", "stopped"]:
    """Meta-train until `config.updates` or until `should_stop`, from the run directory's last checkpoint if it has one.

    Args:
        run: an opened run directory; checkpoints and records go there.
        train_images, test_images: what is trained on, and what accuracy is measured on meanwhile.
        on_record: sees every record as it is written, for progress and logs.
        should_stop: asked after every update; when true the state is saved and the call returns.
    """
    model = config.model(train_images.shape).to(resources.device)
    tasks = config.training_tasks(train_images.to(resources.device))
    test_tasks = config.test_tasks(test_images.to(resources.device))
    measure = _measurement(config, model, test_tasks, resources)
    explain = _explanation(config, model, test_tasks, resources)
    state = run.restore(initial_state(config, model, resources.device))

    def note(record: Record) -> None:
        run.record(record)
        on_record(record)

    if state.updates == 0 and config.keep_every:
        run.keep(state)
    while state.updates < config.updates:
        first = state.updates * config.meta_batch
        indices = range(first, first + config.meta_batch)
        try:
            metrics = update(state, model, tasks.batch(indices), config, resources)
        except FloatingPointError as error:
            raise InputError(_not_finite(state, indices, run)) from error
        note(_training_record(state, metrics))
        done = state.updates == config.updates
        if done or _is_due(config.eval_every, state):
            for record in measure(state):
                note(record)
        if _is_due(config.explain_every, state):
            note(explain(state))
        if _is_due(config.keep_every, state):
            run.keep(state)
        stop = should_stop()
        if done or stop or state.updates % config.checkpoint_every == 0:
            run.save(state)
        if stop and not done:
            return "stopped"
    return "finished"


def _is_due(every: int, state: TrainState) -> bool:
    return every > 0 and state.updates % every == 0


def _measurement(
    config: TrainConfig, model: Model, tasks: EpisodeSampler, resources: Resources
) -> Callable[[TrainState], list[Record]]:
    """A function that evaluates a state on fixed tasks, one record per row."""
    evaluation = Evaluation(config.eval_steps, episodes=config.eval_episodes)

    def measure(state: TrainState) -> list[Record]:
        rows = evaluate(model, state.params, tasks, config.inner(), evaluation, resources.executor)
        return [{"kind": "evaluation", "update": state.updates, **asdict(row)} for row in rows]

    return measure


def _explanation(
    config: TrainConfig, model: Model, tasks: EpisodeSampler, resources: Resources
) -> Callable[[TrainState], Record]:
    """A function that explains a state's outer gradient on the first test tasks, as many as an update has."""

    def explain(state: TrainState) -> Record:
        episodes = tasks.batch(range(config.meta_batch))
        found = explain_tasks(model, state.params, episodes, config.inner(), resources.executor)
        return {"kind": "explanation", "update": state.updates, **found.scalars()}

    return explain


def _training_record(state: TrainState, metrics: Metrics) -> Record:
    loss, accuracy = metrics.loss.mean().item(), metrics.accuracy.mean().item()
    return {"kind": "training", "update": state.updates, "loss": loss, "accuracy": accuracy}


def _not_finite(state: TrainState, indices: range, run: RunDirectory) -> str:
    return (
        f"the loss or its gradient is not finite in update {state.updates + 1}, tasks {indices[0]} to {indices[-1]}: "
        f"lower --inner-lr or --outer-lr; {run.last_checkpoint()}"
    )
