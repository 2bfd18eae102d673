"""Does it matter which class is called 0? Accuracy on the same tasks under several assignments of the labels.

A learned head starts every task from rows of its own, one per label; a permutation of the labels then changes
the inner loop and the outcome. Rows that are equal, zero in particular, or built from the support images leave nothing
to prefer: such a head answers the permuted task with the permuted answers. The accuracy is then the same save for ties
(of equal logits the first class wins) and, where the rows are not zero, rounding.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from metacontrast.errors import InputError
from metacontrast.maml.engine import unstack
from metacontrast.maml.inner import adapt
from metacontrast.model.model import Model
from metacontrast.types import Episode, Inner, Params

LabelOrder = Sequence[int]


def cyclic_orders(ways: int, count: int | None = None) -> list[LabelOrder]:
    """The labels as they are, then shifted by 1, 2, …; with all of them every class meets every row of the head.

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
    """Query accuracy after adaptation, label t being called orders[i][t].

    Args:
        episodes: tasks of one shape, stacked.
        orders: permutations of 0 … ways − 1.
    """
    for order in orders:
        if sorted(order) != list(range(model.ways)):
            raise InputError(
                f"label order {tuple(order)} is not a permutation of 0 to {model.ways - 1}: name each once"
            )
    names = torch.tensor([list(order) for order in orders], device=episodes.support_y.device)
    first_order = replace(inner, order="first")

    def accuracies(episode: Episode) -> Float[Tensor, " order"]:
        return torch.stack([_accuracy(model, params, _relabel(episode, each), first_order) for each in names])

    run = map if executor is None else executor.map
    return torch.stack(list(run(accuracies, unstack(episodes))), dim=1)


def spread(accuracies: Float[Tensor, "order task"]) -> float:
    """Best minus worst accuracy over the label orders of a task, mean over tasks."""
    return (accuracies.amax(0) - accuracies.amin(0)).mean().item()


def _relabel(episode: Episode, names: Tensor) -> Episode:
    return episode._replace(support_y=names[episode.support_y], query_y=names[episode.query_y])


def _accuracy(model: Model, params: Params, episode: Episode, inner: Inner) -> Float[Tensor, ""]:
    adapted = adapt(model, params, episode.support_x, episode.support_y, inner)
    with torch.no_grad():
        logits = model.query_logits(adapted, episode.support_x, episode.query_x)
    return (logits.argmax(1) == episode.query_y).to(logits.dtype).mean()
