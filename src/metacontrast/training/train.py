"""Meta-training (paper Algorithm 1, with the zeroing trick Algorithm 3): configuration in, run directory out.

    repeat:  g = mean over a batch of tasks of the outer gradient at θ;   θ ← optimizer(θ, g);   zeroed head: w⁰ ← 0

Update u uses the tasks u·B … u·B + B − 1 of the seed's list, so a run that was stopped goes on exactly where it was.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Literal

from metacontrast.analysis.contrastiveness import explain_tasks
from metacontrast.data.episodes import EpisodeSampler
from metacontrast.data.images import ClassImages
from metacontrast.errors import InputError
from metacontrast.maml.outer import Metrics
from metacontrast.model.model import Model
from metacontrast.training.config import TrainConfig
from metacontrast.training.evaluate import Evaluation, evaluate
from metacontrast.training.records import Record
from metacontrast.training.run import RunDirectory
from metacontrast.training.state import TrainState
from metacontrast.training.step import ONE_CPU, Resources, initial_state, update


def train(
    config: TrainConfig,
    run: RunDirectory,
    train_images: ClassImages,
    test_images: ClassImages,
    resources: Resources = ONE_CPU,
    *,
    on_record: Callable[[Record], None] = lambda record: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Literal["finished", "stopped"]:
    """Meta-train until `config.updates` or until `should_stop`, from the run directory's last checkpoint if it has one.

    Where several processes share a training, all call this; the one that leads writes and evaluates.

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
    ranks = resources.ranks
    state = ranks.same(run.restore(initial_state(config, model, resources.device)))

    def note(record: Record) -> None:
        run.record(record)
        on_record(record)

    if state.updates == 0 and config.keep_every:
        run.keep(state)
    while state.updates < config.updates:
        first = state.updates * config.meta_batch
        indices = range(first, first + config.meta_batch)
        try:
            metrics = update(state, model, tasks.batch(ranks.own(indices)), config, resources)
        except FloatingPointError as error:
            raise InputError(_not_finite(state, indices, run)) from error
        note(_training_record(state, metrics))
        done = state.updates == config.updates
        if ranks.leads and (done or _is_due(config.eval_every, state)):
            for record in measure(state):
                note(record)
        if ranks.leads and _is_due(config.explain_every, state):
            note(explain(state))
        if _is_due(config.keep_every, state):
            run.keep(state)
        stop = ranks.any(should_stop())
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
