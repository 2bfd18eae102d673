"""A training from a configuration into a run directory: records, evaluations, checkpoints, the best model."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from metacontrast.data.augment import Augmentation
from metacontrast.data.catalog import load_dataset, load_evaluation_split
from metacontrast.data.images import ClassImages
from metacontrast.diagnostics.gradient import GradientExplanation, explain
from metacontrast.errors import InputError
from metacontrast.files import as_path
from metacontrast.model.model import Model
from metacontrast.training.checkpoint import TrainState
from metacontrast.training.config import OptimizerName, TrainConfig
from metacontrast.training.evaluate import Evaluation, Row, evaluate
from metacontrast.training.records import Record
from metacontrast.training.run import RunDirectory, TrainedRun, load_run, open_run
from metacontrast.training.start import as_start_sees, starting_params
from metacontrast.training.step import ONE_CPU, GradientOf, OuterStep, Resources
from metacontrast.training.train import gradient_of_batch, means, outer_updates, threads
from metacontrast.types import map_params, to_tensors

logger = logging.getLogger("metacontrast")

Status = Literal["finished", "stopped"]
Measured = TypeVar("Measured")

_OPTIMIZERS: dict[OptimizerName, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


def train_run(
    config: TrainConfig,
    run: RunDirectory,
    train_images: ClassImages,
    test_images: ClassImages,
    resources: Resources = ONE_CPU,
    *,
    on_record: Callable[[Record], None] = lambda record: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Status:
    """Meta-train until `config.updates` or until `should_stop`, from the run directory's last checkpoint if it has one.

    Where several processes share a training, all call this; the main one writes and evaluates.

    Args:
        run: an opened run directory; checkpoints and records go there.
        train_images, test_images: what is trained on, and what accuracy is measured on meanwhile.
        on_record: sees every record as it is written, for progress and logs.
        should_stop: asked after every update; when true the state is saved and the call returns.

    Raises:
        InputError: a loss or gradient is not finite, and the run keeps its last checkpoint; or an evaluation failed,
            which is raised at the end, after the model is saved.
    """
    images = train_images.to(resources.device), test_images.to(resources.device)
    model = config.model(images[0].shape).to(resources.device)
    state = initial_state(config, model, resources.device, len(images[0]))
    state = resources.distributed.broadcast(run.restore(state))
    if state.updates == 0 and config.keep_every:
        run.keep(state)
    transform = Augmentation(config.augment, config.seed) if config.augment else None
    step, tasks = outer_step(config, model, resources), config.training_tasks(images[0])
    test_tasks = config.test_tasks(images[1])
    evaluation = Evaluation(config.eval_steps, config.test_heads(), config.eval_episodes)

    def record(kind: str, **values: Any) -> None:
        made = {"kind": kind, "update": state.updates, **values}
        run.record(made)
        on_record(made)

    def is_due(every: int) -> bool:
        return every > 0 and state.updates % every == 0

    failures: list[str] = []

    def measured(what: str, measure: Callable[[], Measured]) -> Measured | None:
        """What `measure` finds; nothing where it fails, as for a model that diverges at test: training goes on."""
        try:
            return measure()
        except InputError as error:
            failures.append(f"the {what} after update {state.updates} failed ({error})")
            logger.warning("%s", failures[-1])
            return None

    def accuracies() -> list[Row]:
        return evaluate(model, state.params, test_tasks, config.inner(), evaluation, resources.executor)

    def explanation() -> GradientExplanation:
        """Of as many test tasks as an update has."""
        episodes = test_tasks.batch(range(config.meta_batch))
        return explain(model, state.params, episodes, config.inner(), resources.executor)

    for metrics in outer_updates(step, tasks, state, config.updates, run, transform):
        record("training", **means(metrics))
        is_done, is_main = state.updates >= config.updates, resources.distributed.is_main
        if is_main and (is_done or is_due(config.eval_every)) and (rows := measured("evaluation", accuracies)):
            for row in rows:
                record("evaluation", **asdict(row))
            if config.select:  # from the head as it was trained, with the most inner steps that are evaluated
                best = max((row for row in rows if row.head == "kept"), key=lambda row: row.steps)
                how = {"split": config.eval_split, "episodes": config.eval_episodes, "steps": best.steps}
                run.keep_best(state, best.accuracy, how)
        if is_main and is_due(config.explain_every) and (found := measured("explanation", explanation)):
            record("explanation", **found.scalars())
        if is_due(config.keep_every):
            run.keep(state)
        stop = resources.distributed.any(should_stop())
        if stop or is_done or is_due(config.checkpoint_every):
            run.save(state)
        if stop and not is_done:
            return "stopped"
    if failures:
        raise InputError(f"{failures[-1]}: the model is saved; evaluate it with fewer --steps, or lower --inner-lr")
    return "finished"


def train_config(
    config: TrainConfig,
    out: str | Path,
    *,
    data_root: str | Path | None = None,
    resume: bool = False,
    workers: int = 1,
    on_record: Callable[[Record], None] = lambda record: None,
) -> TrainedRun:
    """Train what `metacontrast train` trains, into the run directory `out`, on the CPU.

    Args:
        config: everything that decides the result.
        out: the run directory to write.
        data_root: the folder that holds the data sets; None is `$METACONTRAST_DATA`, else the user's cache folder.
        resume: continue the run in `out` if there is one.
        workers: threads that tasks are spread over on a CPU.
        on_record: sees every record as it is written.

    Returns:
        The trained model, as `load_run` reads it.

    Raises:
        InputError: the data are not there or do not fit, `out` holds another run, or a loss is not finite.
    """
    images = load_images(config, data_root)
    with threads(workers) as executor, open_run(as_path(out), config, images, "cpu", resume=resume) as run:
        resources = Resources(executor=executor, workers=workers)
        train_run(config, run, *images, resources, on_record=on_record)
    return load_run(out)


def load_images(config: TrainConfig, data_root: str | Path | None = None) -> tuple[ClassImages, ClassImages]:
    """Load what is trained on, and what accuracy is measured on meanwhile, as the start sees them."""
    options = config.read_options()
    train_images = load_dataset(config.dataset, "train", data_root, options)
    test_images = load_evaluation_split(config.dataset, config.eval_split, data_root, options)
    return as_start_sees(config, train_images), as_start_sees(config, test_images)


def initial_state(config: TrainConfig, model: Model, device: str, classes: int = 0) -> TrainState:
    """Starting parameters, drawn from the seed or those of the start; a fresh optimizer and its schedule.

    Args:
        classes: how many there are to train on, for methods that tell them all apart.
    """
    params = map_params(lambda t: t.to(device), starting_params(config, model, classes))
    decay = {} if config.weight_decay is None else {"weight_decay": config.weight_decay}
    optimizer = _OPTIMIZERS[config.optimizer](to_tensors(params), lr=config.outer_lr, **decay)
    cosine = config.lr_schedule == "cosine"
    return TrainState(params, optimizer, 0, CosineAnnealingLR(optimizer, config.updates) if cosine else None)


def outer_step(config: TrainConfig, model: Model, resources: Resources = ONE_CPU) -> OuterStep:
    """The outer update that the configuration describes."""
    inner, gradient = lambda done: config.inner(done / config.updates), gradient_of(config, resources)
    shared = resources.distributed, config.tasks_at_once
    return OuterStep(model, inner, gradient, config.meta_batch, config.clip_norm, *shared)


def gradient_of(config: TrainConfig, resources: Resources) -> GradientOf:
    """The gradient of a batch of tasks that the method follows."""
    engine = resources.engine_of(config)
    return gradient_of_batch(config.task_gradient(), resources.executor, engine, config.tasks_at_once)
