"""Accuracy on fixed test tasks, with its 95 % interval, beside classifiers that need no adaptation.

    accuracy = mean over tasks of the share of query images that are right,    ± 1.96 · s / sqrt(tasks)

The interval covers the choice of test tasks, not that of the training seed. Runs evaluated with the same seed, ways,
shots and queries see the same tasks, so that their differences can be paired.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.data.episodes import EpisodeSampler
from metacontrast.device import FILLED, free_bytes, peak_bytes
from metacontrast.errors import InputError, check_counts
from metacontrast.fields import check_fields
from metacontrast.maml.checks import check_params
from metacontrast.maml.engine import AUTO, Engine, at_precision
from metacontrast.maml.inner import standing_steps, trajectory
from metacontrast.model.head import TestHead, zero_head
from metacontrast.model.model import Model, apply_head
from metacontrast.model.solvers import Solver, solver_scores
from metacontrast.types import Episode, Inner, Params, head_tensors


@dataclass(frozen=True)
class Row:
    """One line of a result: how it was adapted, and how well that did.

    Args:
        method: `maml` for inner steps, or the solver that took the un-adapted features, such as `nearest-mean`.
        steps: inner steps at test.
        head: what the inner loop started from, `kept` or `zeroed`; `none` for a solver.
        norm: normalization policy of the query images.
        accuracy, ci95: mean over the episodes and half its 95 % interval, on the scale 0 to 1.
        episodes: how many test tasks.
    """

    method: str
    steps: int
    head: str
    norm: str
    accuracy: float
    ci95: float
    episodes: int


@dataclass(frozen=True)
class Evaluation:
    """Settings of an evaluation, the argument of `evaluate`.

    Args:
        steps: numbers of inner steps at test, each 0 or more.
        heads: which starts of the head.
        episodes: number of test tasks, the first ones of the sampler.
        solvers: what classifies the un-adapted features, see `metacontrast.model.solvers`.
    """

    steps: tuple[int, ...] = (1,)
    heads: tuple[TestHead, ...] = ("kept", "zeroed")
    episodes: int = 600
    solvers: tuple[Solver, ...] = ("nearest-mean",)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.steps or min(self.steps) < 0:
            raise InputError(f"steps={self.steps}, but it needs at least one number, each 0 or more")
        check_counts(2, episodes=self.episodes)


def evaluate(
    model: Model,
    params: Params,
    tasks: EpisodeSampler,
    inner: Inner,
    evaluation: Evaluation,
    executor: Executor | None = None,
    on_episode: Callable[[], object] = lambda: None,
    engine: Engine = AUTO,
) -> list[Row]:
    """Adapt to each test task and score its query images; one row per head and number of steps, then the solvers.

    Args:
        model, params: the model and its parameters before adaptation.
        tasks: the test tasks; the first `evaluation.episodes` of them are used.
        inner: step size, scope and loss of the adaptation; its number of steps is replaced by `evaluation.steps`.
        evaluation: numbers of steps, heads, number of tasks, and what else classifies the features.
        executor: a thread pool to spread the tasks over; None runs them one after the other.
        on_episode: called after every task, for a progress bar.
        engine: how the tasks run.

    Returns:
        A `Row` for each head and number of steps, with the mean accuracy over the tasks, 0 to 1, and half its 95 %
        interval; then one for each of `evaluation.solvers`.

    Raises:
        InputError: the tasks have several sizes, or model, parameters and tasks do not fit one another.
    """
    scores = evaluate_tasks(model, params, tasks, inner, evaluation, executor, on_episode, engine)
    return _rows(model, evaluation, scores)


def evaluate_tasks(
    model: Model,
    params: Params,
    tasks: EpisodeSampler,
    inner: Inner,
    evaluation: Evaluation,
    executor: Executor | None = None,
    on_episode: Callable[[], object] = lambda: None,
    engine: Engine = AUTO,
) -> Float[Tensor, "episode row"]:
    """The accuracy on every single test task; the columns are the rows that `evaluate` averages, the same arguments."""
    if not isinstance(tasks, EpisodeSampler):
        raise InputError(
            f"evaluate takes an EpisodeSampler, not a {type(tasks).__name__}: call adapt on tasks of others"
        )
    if not isinstance(inner, Inner):
        raise InputError(f"inner is a {type(inner).__name__}, but at test it is one Inner for all tasks: give that")
    if tasks.least_ways is not None or tasks.least_shots is not None:
        raise InputError(
            "these tasks have several sizes, and an accuracy is of one: leave out least_ways and least_shots"
        )
    model = model.with_ways(tasks.ways)
    check_params(model, params, inner.scope)
    inner = inner.at_test(max(evaluation.steps))
    distinct = replace(evaluation, heads=_distinct_heads(params, evaluation.heads))
    starts = [
        (model, params) if head == "kept" else (model.with_head("zeroed"), zero_head(params, model.ways))
        for head in distinct.heads
    ]
    scores_of = at_precision("float32", lambda episodes: _scores(starts, episodes, inner, evaluation))

    def score(indices: Sequence[int]) -> Float[Tensor, "episode row"]:
        return scores_of(tasks.batch(indices))

    images = tasks[0].query_x
    if engine.chunk is None and engine.is_batched(images.device):
        engine = replace(engine, chunk=_tasks_that_fit(score, images.device))
    count = evaluation.episodes
    group = engine.group_size(model, inner, images, count)
    groups = [range(first, min(first + group, count)) for first in range(0, count, group)]
    run = map if executor is None else executor.map
    scores = []
    for some in run(score, groups):
        scores.append(some)
        for _ in some:
            on_episode()
    found = torch.cat(scores)
    copies = len(evaluation.heads) if distinct.heads != evaluation.heads else 1
    adapted, solved = found.split([found.shape[1] - len(evaluation.solvers), len(evaluation.solvers)], 1)
    return torch.cat([*[adapted] * copies, solved], 1)


def _tasks_that_fit(score: Callable[[Sequence[int]], object], device: torch.device) -> int:
    """How many tasks fill `FILLED` of the free memory, by what one and two of them take."""
    one, two = (peak_bytes(lambda count=count: score(range(count))) for count in (1, 2))
    free = free_bytes(str(device))
    return 1 if free is None else max(1, int(FILLED * free - max(0, 2 * one - two)) // max(1, two - one))


def _scores(
    starts: Sequence[tuple[Model, Params]], episodes: Episode, inner: Inner, evaluation: Evaluation
) -> Float[Tensor, "episode row"]:
    """Accuracies of some tasks in the order of `_rows`; a GPU is waited for once.

    Heads and steps share the features of an encoder that does not move.
    """
    model, params = starts[0]
    with torch.no_grad():
        support = model.task_features(params.encoder, episodes.support_x)
        query = model.query_task_features(params.encoder, episodes.support_x, episodes.query_x)
    task = support, episodes.support_y, query, model.ways
    solved = [_accuracy(solver_scores(solver, *task), episodes.query_y) for solver in evaluation.solvers]
    on_features = episodes._replace(support_x=support, query_x=query)
    adapted = []
    for model, params in starts:
        tasks = episodes
        if standing_steps(model, inner) == inner.steps and not params.step_norms:
            model, params, tasks = model.on_features(), params._replace(encoder={}), on_features
        outputs = logits_after(model, params, tasks, inner, evaluation.steps)
        adapted += [_accuracy(logits, episodes.query_y) for logits in outputs]
    found = torch.stack([*adapted, *solved], 1).cpu()
    if not torch.isfinite(found).all():
        raise InputError("the model's outputs are not finite: it diverged; lower --inner-lr, or --outer-lr at training")
    return found


def logits_after(
    model: Model, params: Params, episodes: Episode, inner: Inner, steps: Collection[int]
) -> Iterator[Float[Tensor, "task query way"]]:
    """Yield every task's query logits after each of `steps` inner steps."""
    for step, adapted in enumerate(trajectory(model, params, episodes.support_x, episodes.support_y, inner)):
        if step in steps:
            with torch.no_grad():
                query = model.query_task_features(adapted.encoder, episodes.support_x, episodes.query_x)
                logits = apply_head(adapted.head, query)
            yield logits


def _distinct_heads(params: Params, heads: tuple[TestHead, ...]) -> tuple[TestHead, ...]:
    """Without the work done twice: a head that is zero anyway is the same kept and zeroed."""
    is_zeroed = params.head.weight.numel() > 0 and not torch.cat([t.flatten() for t in head_tensors(params.head)]).any()
    return heads[:1] if is_zeroed else heads


def _accuracy(scores: Float[Tensor, "task query way"], labels: Int[Tensor, "task query"]) -> Float[Tensor, " task"]:
    """Share of right answers of every task, NaN where a score is not finite."""
    right = (scores.argmax(2) == labels).double().mean(1)
    return torch.where(torch.isfinite(scores).flatten(1).all(1), right, torch.nan)


def _rows(model: Model, evaluation: Evaluation, scores: Float[Tensor, "episode row"]) -> list[Row]:
    steps = sorted(set(evaluation.steps))
    labels = [("maml", step, head) for head in evaluation.heads for step in steps]
    labels += [(solver, 0, "none") for solver in evaluation.solvers]
    means, intervals = scores.mean(0).tolist(), confidence_interval(scores)
    return [
        Row(*label, model.norm, mean, interval, len(scores))
        for label, mean, interval in zip(labels, means, intervals, strict=True)
    ]


def confidence_interval(scores: Float[Tensor, "episode row"]) -> list[float]:
    """Half the width of the 95 % interval of each column's mean, normal approximation.

    >>> confidence_interval(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    [0.9799999999999999]
    """
    return (1.96 * scores.std(0) / math.sqrt(len(scores))).tolist()


def as_table(rows: Sequence[Row]) -> str:
    """The rows as aligned plain text."""
    lines = [f"{'method':<19}{'head':<8}{'steps':>5}  {'accuracy':<16}{'norm':<14}episodes"]
    for row in rows:
        accuracy = f"{100 * row.accuracy:.2f} ± {100 * row.ci95:.2f} %"
        lines.append(f"{row.method:<19}{row.head:<8}{row.steps:>5}  {accuracy:<16}{row.norm:<14}{row.episodes}")
    return "\n".join(lines)
