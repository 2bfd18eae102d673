"""How contrastive a model's outer gradient is on a batch of tasks, and how near the theory comes to it.

The gradient itself is the algorithm's (`metacontrast.maml`), with whatever the model adapts; its parts are the
theory's (`metacontrast.theory`), for a head-only inner loop of the same steps. The two meet here.

Beside it stands the accuracy on the same tasks under several assignments of the labels. A learned head starts every
task from rows of its own, one per label; a permutation of the labels then changes the inner loop and the outcome. Rows
that are equal, zero in particular, or built from the support images leave nothing to prefer: such a head answers the
permuted task with the permuted answers. The accuracy is then the same save for ties (of equal logits the first class
wins) and, where the rows are not zero, rounding.
"""

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metacontrast.diagnostics.task_view import (
    REMAINDER,
    Part,
    TaskView,
    answers_at_once,
    contrasts,
    describe_parts,
    spectrum,
    view_task,
)
from metacontrast.errors import InputError, check_counts
from metacontrast.maml.checks import check_batch, check_params, check_real
from metacontrast.maml.engine import arithmetic, unstack
from metacontrast.maml.inner import adapt
from metacontrast.model.head import BUILT_HEADS
from metacontrast.model.model import Model
from metacontrast.theory.similarity import check_present
from metacontrast.theory.task import check_inner
from metacontrast.types import Episode, Inner, Params

LabelOrder = Sequence[int]
MEANS = ("loss", "accuracy", "wrong_sign_share", "head_norm", "head_spread")


@dataclass(frozen=True, eq=False)
class GradientExplanation:
    """Parts of the outer gradient of a batch of tasks, and what surrounds it; means over tasks, on the CPU.

    Args:
        tasks: how many.
        loss, accuracy: of the query images after adaptation.
        gradient_norm: of the encoder's outer gradient.
        parts: what it is made of, by name; see `task_view`.
        wrong_sign_share: share of all contrastive coefficients that have the wrong sign.
        head_norm: norm of the head that starts a task.
        head_spread: the same of its rows minus their mean row; only that can interfere.
        coefficients: c(q, s) of the first task.
        query_y, support_y: its labels.
        eigenvalues: of I − ηH_k for every task and class.
        condition_number: max|λ| / min|λ| of I − ηH_k, median over tasks and classes.
        before, after: similarity maps in the order of `similarity.MAPS`, before and after adaptation, mean over tasks.
        orders: the label orders that were tried.
        order_accuracy: accuracy under each of them for the first tasks.
    """

    tasks: int
    loss: float
    accuracy: float
    gradient_norm: float
    parts: dict[str, Part]
    wrong_sign_share: float
    head_norm: float
    head_spread: float
    coefficients: Float[Tensor, "query support"]
    query_y: Int[Tensor, " query"]
    support_y: Int[Tensor, " support"]
    eigenvalues: Float[Tensor, "task way extended"]
    condition_number: float
    before: Float[Tensor, "map way way"]
    after: Float[Tensor, "map way way"]
    orders: Sequence[LabelOrder]
    order_accuracy: Float[Tensor, "order ordered"]

    @property
    def distance(self) -> float | None:
        """|g − theory| / |g|: how far the frozen-encoder theory is from the real gradient.

        None where g is zero and the theory's gradient is not; 0 where both vanish.
        """
        miss = self.parts[REMAINDER].norm
        if self.gradient_norm:
            return miss / self.gradient_norm
        return None if miss else 0.0

    @property
    def order_spread(self) -> float:
        """Best minus worst accuracy over label orders, mean over tasks."""
        return spread(self.order_accuracy)

    def scalars(self) -> dict[str, float | int | None]:
        """Collect all single numbers under flat names; None where one is not defined."""
        names = ("tasks", "gradient_norm", "distance", *MEANS)
        found: dict[str, float | int | None] = {name: getattr(self, name) for name in names}
        for name, part in self.parts.items():
            found |= {f"{name}_{key}": value for key, value in part._asdict().items()}
        for when, maps in (("before", self.before), ("after", self.after)):
            found |= {f"contrast_{name}_{when}".replace("-", "_"): c for name, c in contrasts(maps).items()}
        found["smallest_eigenvalue"] = self.eigenvalues.min().item()
        found["condition_number"] = self.condition_number if math.isfinite(self.condition_number) else None
        found["label_order_spread"] = self.order_spread
        return found


def explain(
    model: Model,
    params: Params,
    episodes: Episode,
    inner: Inner,
    executor: Executor | None = None,
    *,
    label_orders: int = 3,
    ordered_tasks: int = 4,
) -> GradientExplanation:
    """Split the outer gradient of a batch of tasks into its parts, and measure what surrounds it.

    Args:
        model, params: the model and its parameters before adaptation.
        episodes: tasks of one shape, stacked; two classes or more, all in support and query set.
        inner: how the model adapts; the theory takes its steps, step size and order, and moves the head alone.
        executor: a thread pool to spread the tasks over.
        label_orders: how many orders of the labels to try: as they are, shifted by 1, by 2, …; 1 or more.
        ordered_tasks: on how many of the tasks; 1 or more.

    Returns:
        The norm of the gradient, its parts with their shares, and what was measured around it, means over the tasks.

    Raises:
        InputError: the theory does not describe the model or the inner loop, or the gradient is not finite.
    """
    check_counts(label_orders=label_orders, ordered_tasks=ordered_tasks)
    check_batch(episodes)
    check_params(model, params, inner.scope)
    check_real("explain", params)
    _check(params, model, inner)
    support_y, query_y = episodes.support_y.cpu(), episodes.query_y.cpu()
    if not episodes.support_y.is_cpu:  # on a CPU the theory checks every task
        for name, labels in (("support", support_y), ("query", query_y)):
            for each in labels:
                check_present(name, each, model.ways)
    orders = cyclic_orders(model.ways, label_orders)
    few = Episode(*(part[:ordered_tasks] for part in episodes))
    with arithmetic("float32", episodes.query_x.device):
        _check_repeats(model, params, episodes.support_x[0])
        (gradient, *parts), views = _view_tasks(model, params, episodes, inner, executor)
        if not torch.isfinite(gradient).all():
            raise InputError("the outer gradient is not finite: lower the inner learning rate (--inner-lr at training)")
        if inner.scope == "encoder" and not _spreads(views.head).any():
            gradient = torch.zeros_like(gradient)  # with equal rows no image moves the encoder, see docs/theory.md
        reordered = label_order_accuracy(model, params, few, inner, orders[1:], executor)
    return GradientExplanation(
        gradient_norm=gradient.double().norm().item(),
        parts=describe_parts(gradient, torch.stack(parts)),
        **_summary(views, inner.lr if inner.steps else 0.0),
        query_y=query_y[0],
        support_y=support_y[0],
        orders=orders,
        order_accuracy=torch.cat([views.accuracy[None, :ordered_tasks], reordered]).cpu(),
    )


def _check_repeats(model: Model, params: Params, images: Tensor) -> None:
    """Raise `InputError` for an encoder of unknown layers that gives the same images other features the next time."""
    if model.knows_layers:
        return
    with torch.no_grad():
        one, two = model.features(params.encoder, images), model.features(params.encoder, images)
    if (one - two).norm() > 1e-3 * one.norm():
        raise InputError(
            "the encoder draws at random when it is called, so that its gradient cannot be split: use nn.Dropout, "
            "which is off here, in place of F.dropout"
        )


def _view_tasks(
    model: Model, params: Params, episodes: Episode, inner: Inner, executor: Executor | None
) -> tuple[Float[Tensor, "gradient parameter"], TaskView]:
    """Sum the gradients in the order of the tasks, take their mean, and stack everything else over tasks."""
    run = map if executor is None else executor.map
    total, views = torch.zeros(()), []
    for view in run(partial(view_task, model, params, inner), unstack(episodes)):
        if not views:
            total = view.gradients[0].new_zeros(len(view.gradients), len(view.gradients[0]))
        for summed, gradient in zip(total, view.gradients, strict=True):
            summed += gradient
        views.append(view._replace(gradients=[]))
    _, *others = zip(*views, strict=True)
    return total / len(views), TaskView([], *map(torch.stack, others))


def _summary(views: TaskView, inner_lr: float) -> dict[str, Any]:
    """Compute means over the stacked views, the spectrum, and the coefficients of the first task."""
    eigenvalues = spectrum(views.curvature, views.head.shape[-1], inner_lr).cpu()
    size = eigenvalues.abs()
    each = views.loss, views.accuracy, views.wrong_sign_share, views.head.norm(dim=(1, 2)), _spreads(views.head)
    return {
        "tasks": len(views.loss),
        **dict(zip(MEANS, torch.stack(each).mean(1).tolist(), strict=True)),
        "coefficients": views.coefficients[0].cpu(),
        "eigenvalues": eigenvalues,
        "condition_number": (size.amax(-1) / size.amin(-1)).quantile(0.5).item(),
        "before": views.before.mean(0).cpu(),
        "after": views.after.mean(0).cpu(),
    }


def _spreads(heads: Float[Tensor, "task way extended"]) -> Float[Tensor, " task"]:
    """Compute the norm of w̃_k − mean_j w̃_j over all rows k; exactly 0 for equal rows."""
    offsets = heads - heads[:, :1]
    return (offsets - offsets.mean(1, keepdim=True)).norm(dim=(1, 2))


def _check(params: Params, model: Model, inner: Inner) -> None:
    """Raise `InputError` for models that the theory does not describe."""
    if model.is_frozen:
        raise InputError(
            "the encoder is frozen, and what is explained is its gradient: give a model whose encoder learns"
        )
    if model.head not in BUILT_HEADS and not params.head.weight.numel():
        raise InputError("these parameters have no head to decompose: give a model with a head")
    if params.rates:
        raise InputError("the theory is that of one inner learning rate, but this model has learned rates")
    if params.step_norms:
        raise InputError("the theory is that of one encoder, but this model has batch norms of every inner step")
    check_inner(inner, least=0 if answers_at_once(model, inner) else 1)


def cyclic_orders(ways: int, count: int | None = None) -> list[LabelOrder]:
    """List the labels as they are, then shifted by 1, 2, …; with all of them every class meets every row of the head.

    >>> cyclic_orders(3)
    [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    """
    shifts = range(ways if count is None else min(ways, count))
    return [tuple((label + shift) % ways for label in range(ways)) for shift in shifts]


def label_order_accuracy(
    model: Model,
    params: Params,
    episodes: Episode,
    inner: Inner,
    orders: Sequence[LabelOrder],
    executor: Executor | None = None,
) -> Float[Tensor, "order task"]:
    """Compute query accuracy after adaptation, label t being called orders[i][t].

    Args:
        episodes: tasks of one shape, stacked.
        orders: permutations of 0 … ways − 1.
    """
    for order in orders:
        if sorted(order) != list(range(model.ways)):
            raise InputError(
                f"label order {tuple(order)} is not a permutation of 0 to {model.ways - 1}: name each once"
            )
    if not orders:
        return torch.empty(0, len(episodes.support_y))
    names = torch.tensor([list(order) for order in orders], device=episodes.support_y.device)
    first_order = replace(inner, order="first")

    def accuracies(episode: Episode) -> Float[Tensor, " order"]:
        return torch.stack([_accuracy(model, params, _relabel(episode, each), first_order) for each in names])

    run = map if executor is None else executor.map
    return torch.stack(list(run(accuracies, unstack(episodes))), dim=1)


def spread(accuracies: Float[Tensor, "order task"]) -> float:
    """Compute best minus worst accuracy over the label orders of a task, mean over tasks."""
    return (accuracies.amax(0) - accuracies.amin(0)).mean().item()


def _relabel(episode: Episode, names: Tensor) -> Episode:
    return episode._replace(support_y=names[episode.support_y], query_y=names[episode.query_y])


def _accuracy(model: Model, params: Params, episode: Episode, inner: Inner) -> Float[Tensor, ""]:
    adapted = adapt(model, params, episode.support_x, episode.support_y, inner)
    with torch.no_grad():
        logits = model.query_logits(adapted, episode.support_x, episode.query_x)
    return (logits.argmax(1) == episode.query_y).to(logits.dtype).mean()
