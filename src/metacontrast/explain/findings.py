"""A run explained: its model on a batch of tasks, and the copies of the model that training kept on the same tasks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from metacontrast.analysis.contrastiveness import Explanation, explain_tasks
from metacontrast.analysis.similarity import MAPS
from metacontrast.data.episodes import EpisodeRows, EpisodeSampler
from metacontrast.training.run import TrainedRun
from metacontrast.training.step import ONE_CPU, Resources
from metacontrast.types import Episode


@dataclass(frozen=True, eq=False)
class Findings:
    """What is known of a run.

    Args:
        run: the model that is explained.
        tasks: where the tasks come from.
        first_task: the task whose coefficients are shown.
        explanation: of the model.
        history: explanations of every kept copy and of the model itself, by number of updates; a single entry
            when nothing was kept.
    """

    run: TrainedRun
    tasks: EpisodeSampler
    first_task: EpisodeRows
    explanation: Explanation
    history: dict[int, Explanation]


def explain_run(
    run: TrainedRun,
    kept: Iterable[TrainedRun],
    tasks: EpisodeSampler,
    count: int,
    resources: Resources = ONE_CPU,
    on_model: Callable[[], object] = lambda: None,
) -> Findings:
    """Explain the model of `run`, and each of its kept copies, on the first `count` tasks.

    Args:
        on_model: called after every model, for a progress bar.
    """
    episodes = tasks.batch(range(count))

    def explained(model: TrainedRun) -> Explanation:
        found = _explain(model, episodes, resources)
        on_model()
        return found

    history = {each.updates: explained(each) for each in kept if each.updates != run.updates}
    explanation = explained(run)
    history[run.updates] = explanation
    return Findings(run, tasks, tasks.rows(0), explanation, dict(sorted(history.items())))


def _explain(run: TrainedRun, episodes: Episode, resources: Resources) -> Explanation:
    model, params = run.model.to(resources.device), run.params_on(resources.device)
    return explain_tasks(model, params, episodes, run.config.inner(), resources.executor)


def as_json(found: Findings) -> dict[str, Any]:
    """All numbers under plain names; null where one is not defined."""
    explanation, tasks = found.explanation, found.tasks
    return {
        "updates": found.run.updates,
        "data": tasks.images.name,
        "data_digest": tasks.images.digest,
        "ways": tasks.ways,
        "shots": tasks.shots,
        "queries": tasks.queries,
        "seed": tasks.seed,
        "scalars": explanation.scalars(),
        "coefficients": _plain(explanation.coefficients),
        "query_y": explanation.query_y.tolist(),
        "support_y": explanation.support_y.tolist(),
        "similarity": _similarity(explanation),
        "eigenvalues": _plain(explanation.eigenvalues),
        "label_orders": [list(order) for order in explanation.orders],
        "label_order_accuracy": _plain(explanation.order_accuracy),
        "checkpoints": [
            {"updates": updates, **each.scalars(), "similarity": _similarity(each)}
            for updates, each in found.history.items()
        ],
    }


def _similarity(explanation: Explanation) -> dict[str, dict[str, list]]:
    maps = {"before": explanation.before, "after": explanation.after}
    return {when: dict(zip(MAPS, _plain(each), strict=True)) for when, each in maps.items()}


def _plain(values: torch.Tensor) -> list:
    """Nested lists with None for what is not a number."""
    if values.ndim > 1:
        return [_plain(each) for each in values]
    return [None if value != value else round(value, 7) for value in values.tolist()]
