"""Meta-training (paper Algorithm 1, with the zeroing trick Algorithm 3): configuration in, run directory out.

    repeat:  g = mean over a batch of tasks of the outer gradient at θ;   θ ← optimizer(θ, g);   zeroed head: w⁰ ← 0

Update u uses the tasks u·B … u·B + B − 1 of the seed's list, so a run that was stopped goes on exactly where it was.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from metacontrast.data.episodes import EpisodeSampler
from metacontrast.data.images import ClassImages
from metacontrast.diagnostics.explain_tasks import explain_tasks
from metacontrast.errors import InputError
from metacontrast.maml.outer import Metrics
from metacontrast.model.model import Model
from metacontrast.training.config import TrainConfig
from metacontrast.training.evaluate import Evaluation, evaluate
from metacontrast.training.records import Record
from metacontrast.training.run import RunDirectory
from metacontrast.training.state import TrainState
from metacontrast.training.step import ONE_CPU, NotFinite, Resources, initial_state, update

Outcome = Literal["finished", "stopped"]


def train(
    config: TrainConfig,
    run: RunDirectory,
    train_images: ClassImages,
    test_images: ClassImages,
    resources: Resources = ONE_CPU,
    *,
    on_record: Callable[[Record], None] = lambda record: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Meta-train until `config.updates` or until `should_stop`, from the run directory's last checkpoint if it has one.

    Where several processes share a training, all call this; the one that leads writes and evaluates.

    Args:
        run: an opened run directory; checkpoints and records go there.
        train_images, test_images: what is trained on, and what accuracy is measured on meanwhile.
        on_record: sees every record as it is written, for progress and logs.
        should_stop: asked after every update; when true the state is saved and the call returns.

    Raises:
        InputError: a loss or gradient is not finite; the run keeps its last checkpoint.
    """
    images = train_images.to(resources.device), test_images.to(resources.device)
    training = _begin(config, run, images, resources, on_record)
    while not training.is_done():
        training.note_update(_update(training))
        stop = resources.ranks.any(should_stop())
        training.save(now=stop)
        if stop and not training.is_done():
            return "stopped"
    return "finished"


@dataclass(frozen=True)
class _Training:
    """A training under way; `state` moves in place."""

    config: TrainConfig
    run: RunDirectory
    model: Model
    tasks: EpisodeSampler
    test_tasks: EpisodeSampler
    resources: Resources
    state: TrainState
    on_record: Callable[[Record], None]

    def is_done(self) -> bool:
        return self.state.updates >= self.config.updates

    def note_update(self, metrics: Metrics) -> None:
        """Record an update, and evaluate, explain and keep the model where that is due."""
        self._note("training", loss=metrics.loss.mean().item(), accuracy=metrics.accuracy.mean().item())
        if self.resources.ranks.leads:
            self._measure()
        if self._is_due(self.config.keep_every):
            self.run.keep(self.state)

    def _measure(self) -> None:
        if self.is_done() or self._is_due(self.config.eval_every):
            self._evaluate()
        if self._is_due(self.config.explain_every):
            self._explain()

    def save(self, now: bool) -> None:
        """Write a checkpoint, `now` or where one is due."""
        if now or self.is_done() or self._is_due(self.config.checkpoint_every):
            self.run.save(self.state)

    def _evaluate(self) -> None:
        """On fixed tasks, one record per row."""
        wanted = Evaluation(self.config.eval_steps, episodes=self.config.eval_episodes)
        params, inner = self.state.params, self.config.inner()
        for row in evaluate(self.model, params, self.test_tasks, inner, wanted, self.resources.executor):
            self._note("evaluation", **asdict(row))

    def _explain(self) -> None:
        """The outer gradient on the first test tasks, as many as an update has."""
        episodes = self.test_tasks.batch(range(self.config.meta_batch))
        found = explain_tasks(self.model, self.state.params, episodes, self.config.inner(), self.resources.executor)
        self._note("explanation", **found.scalars())

    def _note(self, kind: str, **values: Any) -> None:
        record = {"kind": kind, "update": self.state.updates, **values}
        self.run.record(record)
        self.on_record(record)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.state.updates % every == 0


def _begin(
    config: TrainConfig,
    run: RunDirectory,
    images: tuple[ClassImages, ClassImages],
    resources: Resources,
    on_record: Callable[[Record], None],
) -> _Training:
    """From the run's last checkpoint, or from the start, of which a copy is kept where copies are."""
    model = config.model(images[0].shape).to(resources.device)
    state = resources.ranks.same(run.restore(initial_state(config, model, resources.device)))
    if state.updates == 0 and config.keep_every:
        run.keep(state)
    tasks, test_tasks = config.training_tasks(images[0]), config.test_tasks(images[1])
    return _Training(config, run, model, tasks, test_tasks, resources, state, on_record)


def _update(training: _Training) -> Metrics:
    """One outer update."""
    number, size, ranks = training.state.updates, training.config.meta_batch, training.resources.ranks
    indices = range(number * size, (number + 1) * size)
    episodes = training.tasks.batch(ranks.own(indices))
    try:
        return update(training.state, training.model, episodes, training.config, training.resources)
    except NotFinite as error:
        raise InputError(
            f"the loss or its gradient is not finite in update {number + 1}, tasks {indices[0]} to {indices[-1]}: "
            f"lower --inner-lr or --outer-lr; {training.run.last_checkpoint()}"
        ) from error
